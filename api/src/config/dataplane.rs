//! `[dataplane]` and its wires.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;

use super::capture::{self, Capture};
use super::general::{absolute_path, name};
use super::problem::Fault;
use super::quantity;
use super::section::{Located, Section};

/// How the dataplane runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataplane {
    /// The unix socket of the contract between the planes.
    pub socket: PathBuf,
    /// CPU ids, each with one worker and one queue pair per port; empty: the dataplane takes one CPU by itself.
    pub workers: Vec<u32>,
    /// Where packet buffers and tables live.
    pub memory: Memory,
    /// What a worker does while there is no packet.
    pub idle: Idle,
    /// What is kept of the packets around an attack.
    pub capture: Capture,
    /// Which instructions the data path uses at most.
    pub simd: Simd,
    /// The wires, in the order of the file, no port in two places.
    pub wires: Vec<Wire>,
}

impl Default for Dataplane {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/levee/dataplane.sock"),
            workers: Vec::new(),
            memory: Memory::Hugepages { bytes: 2 << 30 },
            idle: Idle::Adaptive,
            capture: Capture::default(),
            simd: Simd::Auto,
            wires: Vec::new(),
        }
    }
}

/// Memory of the dataplane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Memory {
    /// Hugepages.
    Hugepages {
        /// How much, in bytes.
        bytes: u64,
    },
    /// Ordinary pages: for labs and tests.
    NoHuge,
}

/// What a worker does while there is no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Idle {
    /// It asks again at once: lowest delay, a CPU always busy.
    Spin,
    /// It sleeps for some microseconds.
    Adaptive,
}

/// Which instructions the data path uses at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Simd {
    /// The best that the CPU has.
    Auto,
    /// AVX-512.
    Avx512,
    /// AVX2.
    Avx2,
    /// No vectors of its own.
    Scalar,
}

impl Simd {
    const WORDS: &[(&str, Self)] =
        &[("auto", Self::Auto), ("avx512", Self::Avx512), ("avx2", Self::Avx2), ("scalar", Self::Scalar)];

    /// The word in the file.
    pub fn name(self) -> &'static str {
        Self::WORDS.iter().find(|(_, simd)| *simd == self).map_or("auto", |(word, _)| word)
    }
}

/// A pair of ports, bridged transparently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    /// Its name in events and counters.
    pub name: String,
    /// The port towards the internet: PCI address, or DPDK vdev with arguments.
    pub outside: String,
    /// The port towards the protected network.
    pub inside: String,
    /// What the wire carries in bits per second; none: what the ports negotiated.
    pub capacity_bps: Option<u64>,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Packet buffers that it has at least; none: what its queues need.
    pub buffers: Option<u32>,
}

/// Smallest MTU over which IPv4 must work (RFC 791), and the largest that mbufs of the dataplane hold.
const MTU: std::ops::RangeInclusive<u64> = 576..=9_600;

/// From what one queue takes to what no memory holds.
const BUFFERS: std::ops::RangeInclusive<u64> = 1_024..=16_777_215;

/// No machine has more CPUs than Linux can be built for.
const MAX_CPU: u64 = 8_191;

pub(super) fn read(file: &Section<'_>) -> Dataplane {
    let default = Dataplane::default();
    let Some(section) = file.table("dataplane", "[dataplane]".to_owned()) else { return default };
    let dataplane = Dataplane {
        socket: section.parsed("socket", socket).map_or(default.socket, |path| path.value),
        workers: workers(&section),
        memory: section.parsed("memory", memory).map_or(default.memory, |memory| memory.value),
        idle: section.choice("idle", &[("spin", Idle::Spin), ("adaptive", Idle::Adaptive)]).unwrap_or(default.idle),
        capture: capture::read(&section),
        simd: section.choice("simd", Simd::WORDS).unwrap_or(default.simd),
        wires: wires(&section),
    };
    section.refuse_unknown();
    dataplane
}

fn workers(section: &Section<'_>) -> Vec<u32> {
    let Some(values) = section.list("workers") else { return Vec::new() };
    let mut cpus: Vec<Located<u32>> = Vec::with_capacity(values.len());
    for value in values {
        let Some(Located { value: cpu, span }) = section.as_integer("workers", value, 0..=MAX_CPU) else { continue };
        let Ok(cpu) = u32::try_from(cpu) else { continue };
        match cpus.iter().find(|earlier| earlier.value == cpu) {
            Some(earlier) => section.problems().conflict(
                span,
                Fault::new(format!("CPU {cpu} is given twice"), "each worker needs a CPU of its own"),
                earlier.span.clone(),
                "first here",
            ),
            None => cpus.push(Located { value: cpu, span }),
        }
    }
    super::general::values(cpus)
}

fn wires(section: &Section<'_>) -> Vec<Wire> {
    let mut names: HashMap<String, Range<usize>> = HashMap::new();
    let mut ports: HashMap<String, Range<usize>> = HashMap::new();
    section.tables("wire").into_iter().filter_map(|table| wire(table, &mut names, &mut ports)).collect()
}

fn wire(
    mut table: Section<'_>,
    names: &mut HashMap<String, Range<usize>>,
    ports: &mut HashMap<String, Range<usize>>,
) -> Option<Wire> {
    let name = table.required("name", "\"uplink-a\"", |table, key| table.parsed(key, name));
    if let Some(name) = &name {
        table.rename(format!("wire {:?}", name.value));
        if let Some(first) = names.insert(name.value.clone(), name.span.clone()) {
            let fault = Fault::new(format!("two wires are named {:?}", name.value), "give each wire a name of its own");
            table.problems().conflict(name.span.clone(), fault, first, "first here");
        }
    }
    let outside = table.required("outside", "\"0000:81:00.0\"", |table, key| table.parsed(key, port));
    let inside = table.required("inside", "\"0000:81:00.1\"", |table, key| table.parsed(key, port));
    for port in outside.iter().chain(&inside) {
        if let Some(first) = ports.insert(identity(&port.value), port.span.clone()) {
            let fault = Fault::new(
                format!("the port {:?} is used twice", port.value),
                "a wire needs two ports of its own, one outside and one inside",
            );
            table.problems().conflict(port.span.clone(), fault, first, "first used here");
        }
    }
    let capacity_bps = table.parsed("capacity", quantity::bit_rate).map(|rate| rate.value);
    let mtu = if table.has("mtu") { table.integer("mtu", MTU) } else { Some(1_500) };
    let buffers = if table.has("buffers") { table.integer("buffers", BUFFERS) } else { None };
    table.refuse_unknown();
    Some(Wire {
        name: name?.value,
        outside: outside?.value,
        inside: inside?.value,
        capacity_bps,
        mtu: u16::try_from(mtu?).ok()?,
        buffers: buffers.and_then(|buffers| u32::try_from(buffers).ok()),
    })
}

/// A port as DPDK names it: only what cannot be one is refused, the rest is known when DPDK looks for it.
fn port(text: &str) -> Result<String, Fault> {
    if !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("{text:?} cannot be a port"),
        "give a PCI address such as \"0000:81:00.0\", or a vdev such as \"net_af_packet0,iface=veth-out\"",
    ))
}

/// What two names of the same port have in common: the PCI domain may be left out, and what a vdev opens counts more
/// than its own name.
fn identity(port: &str) -> String {
    let (device, arguments) = port.split_once(',').unwrap_or((port, ""));
    if let Some(iface) = arguments.split(',').find(|argument| argument.starts_with("iface=")) {
        return format!("{},{iface}", device.trim_end_matches(|c: char| c.is_ascii_digit()));
    }
    let lower = device.to_ascii_lowercase();
    match lower.matches(':').count() {
        1 => format!("0000:{lower}"),
        _ => lower,
    }
}

fn memory(text: &str) -> Result<Memory, Fault> {
    const LEAST: u64 = 64 << 20;
    if text == "no-huge" {
        return Ok(Memory::NoHuge);
    }
    match quantity::size(text) {
        Ok(bytes) if bytes >= LEAST => Ok(Memory::Hugepages { bytes }),
        Ok(_) => Err(Fault::new(format!("{text} is too little memory"), "give at least \"64MiB\"; usual is \"2GiB\"")),
        Err(fault) => Err(Fault::new(fault.message, format!("{}; or \"no-huge\" in a lab", fault.help))),
    }
}

pub(super) fn socket(text: &str) -> Result<PathBuf, Fault> {
    // sun_path of sockaddr_un(7) has 108 bytes, the last of them zero.
    const MAX_BYTES: usize = 107;
    if text.len() > MAX_BYTES {
        return Err(Fault::new(
            "the path of a unix socket cannot be that long",
            format!("use at most {MAX_BYTES} bytes"),
        ));
    }
    absolute_path(text)
}
