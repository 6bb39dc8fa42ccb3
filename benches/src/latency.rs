//! What the box adds to a packet's way, and what it costs while nothing comes.
//!
//! One datagram at a time goes from one network namespace to another: over a pair of virtual interfaces, and through
//! `levee-dataplane` between two such pairs (`net_af_packet`). The difference is what the box adds, with two more crossings of
//! the kernel that a card of its own has not.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

use crate::machine::require_hugepages;
use crate::measure::Plan;
use crate::program::levee::{NAME, Quantiles};
use crate::program::{Interrupt, MeasureError, Running, START_WITHIN, while_doing};
use crate::site;

/// Between two datagrams: an idle worker has gone to sleep by then.
const GAP: Duration = Duration::from_micros(500);
/// A datagram that takes longer is lost.
const LOST_AFTER: Duration = Duration::from_millis(50);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const PORT: u16 = 443;
const MEMORY_MIB: u64 = 128;
/// Interfaces of the client and the server.
const ENDS: [&str; 2] = ["client0", "server0"];
/// Interfaces of the box.
const BOX: [&str; 2] = ["outside0", "inside0"];

/// What is between both namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Between {
    /// Nothing.
    Wire,
    /// The box, whose worker polls without pause.
    Spin,
    /// The box, whose worker sleeps while nothing comes.
    Adaptive,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// With what in between.
    pub between: Between,
    /// From one socket to the other in nanoseconds, or why there are no figures.
    pub result: Result<Figures, String>,
}

/// Times, and what they cost.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// From one socket to the other, in nanoseconds.
    pub one_way: Quantiles,
    /// Datagrams that never came.
    pub lost: usize,
    /// Share of a CPU that the box takes while nothing comes.
    pub idle_cpu: Option<f64>,
}

/// Measures all of them.
///
/// # Errors
/// Only [`MeasureError::Interrupted`].
pub fn measure(plan: &Plan, interrupt: Interrupt) -> Result<Vec<Outcome>, MeasureError> {
    let measured =
        [Between::Wire, Between::Spin, Between::Adaptive].map(|between| match figures(between, plan, interrupt) {
            Err(MeasureError::Interrupted) => Err(MeasureError::Interrupted),
            other => Ok(Outcome { between, result: other.map_err(|error| error.to_string()) }),
        });
    measured.into_iter().collect()
}

fn figures(between: Between, plan: &Plan, interrupt: Interrupt) -> Result<Figures, MeasureError> {
    let network = Network::new(between != Between::Wire)?;
    let program = (between != Between::Wire).then(|| start(between, &network, plan)).transpose()?;
    let other = core_affinity::CoreId { id: plan.place.other };
    let socket = |namespace: &str, address| network.socket(namespace, SocketAddr::from((address, PORT)));
    let sockets = (socket("client", CLIENT)?, socket("server", SERVER)?);
    // On a thread of its own: programs inherit the CPUs of the thread that starts them.
    let (one_way, lost) = std::thread::scope(|scope| {
        let paced = || {
            core_affinity::set_for_current(other);
            datagrams(&sockets.0, &sockets.1, plan.interval.length * 4, interrupt)
        };
        scope.spawn(paced).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let idle_cpu = match &program {
        Some(program) => {
            let before = busy(program)?;
            interrupt.pause(plan.interval.length)?;
            Some((busy(program)? - before).div_duration_f64(plan.interval.length))
        }
        None => None,
    };
    Ok(Figures { one_way, lost, idle_cpu })
}

/// Sends datagrams for so long and sees each arrive before the next goes out.
fn datagrams(
    client: &UdpSocket,
    server: &UdpSocket,
    length: Duration,
    interrupt: Interrupt,
) -> Result<(Quantiles, usize), MeasureError> {
    let deadline = Instant::now() + START_WITHIN;
    while one_way(client, server, 0).map_err(while_doing("sending a datagram"))?.is_none() {
        interrupt.pause(Duration::ZERO)?;
        if Instant::now() > deadline {
            return Err(MeasureError::Skipped("no datagram comes through".to_owned()));
        }
    }
    let (begin, mut times, mut lost) = (Instant::now(), Vec::new(), 0);
    for number in 1.. {
        let due = begin + GAP * number;
        if due > begin + length {
            break;
        }
        interrupt.pause(Duration::ZERO)?;
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        match one_way(client, server, number).map_err(while_doing("sending a datagram"))? {
            Some(time) => times.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
            None => lost += 1,
        }
    }
    times.sort_unstable();
    let at_most = |per_mille: usize| {
        let place = (times.len() * per_mille).div_ceil(1000).saturating_sub(1);
        times.get(place).copied().unwrap_or(0)
    };
    Ok((Quantiles { p50: at_most(500), p99: at_most(990), p999: at_most(999), max: at_most(1000) }, lost))
}

/// How long one datagram takes; `None` when it does not come.
fn one_way(client: &UdpSocket, server: &UdpSocket, number: u32) -> io::Result<Option<Duration>> {
    let mut bytes = [0; 4];
    let begin = Instant::now();
    client.send_to(&number.to_be_bytes(), (SERVER, PORT))?;
    while begin.elapsed() < LOST_AFTER {
        match server.recv(&mut bytes) {
            Ok(_) if bytes == number.to_be_bytes() => return Ok(Some(begin.elapsed())),
            // One that had been given up.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn start(between: Between, network: &Network, plan: &Plan) -> Result<Running, MeasureError> {
    require_hugepages(MEMORY_MIB).map_err(MeasureError::Skipped)?;
    let folder = plan.folder.join("latency");
    // What a run before learned and kept has no place in this one.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).map_err(while_doing(folder.display().to_string()))?;
    let file = folder.join("levee.toml");
    let [outside, inside] = BOX;
    let text = format!(
        "schema = 1\n\n[appliance]\nname = \"bench\"\nstate_dir = \"{folder}\"\nmode = \"enforce\"\n\n\
         [dataplane]\nsocket = \"{folder}/dataplane.sock\"\nworkers = [{worker}]\nmemory = \"{MEMORY_MIB}MiB\"\n\
         idle = \"{idle}\"\n\n[[dataplane.wire]]\nname = \"bench\"\noutside = \"net_af_packet0,iface={outside}\"\n\
         inside = \"net_af_packet1,iface={inside}\"\n\n{zone}",
        folder = folder.display(),
        worker = plan.place.workers.first().copied().unwrap_or(0),
        idle = if between == Between::Adaptive { "adaptive" } else { "spin" },
        zone = site::zone_text(),
    );
    std::fs::write(&file, text).map_err(while_doing(file.display().to_string()))?;
    let program = plan.place.programs.join(NAME).display().to_string();
    let words = ["netns", "exec", &network.name("box"), &program, "run", "--config", &file.display().to_string()];
    Running::start(NAME, Path::new("ip"), &words.map(str::to_owned), &folder.join("levee.log"))
}

/// Time that a program has spent on CPUs (proc_pid_stat(5), fields 14 and 15).
fn busy(program: &Running) -> Result<Duration, MeasureError> {
    let file = format!("/proc/{}/stat", program.id());
    let stat = std::fs::read_to_string(&file).map_err(while_doing(file))?;
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    Ok(Duration::from_secs_f64(ticks / per_second as f64))
}

/// Namespaces for a client, a server, and the box if there is one. They end with this value, and their interfaces with them.
#[derive(Debug)]
struct Network {
    has_box: bool,
}

impl Network {
    fn new(has_box: bool) -> Result<Self, MeasureError> {
        let network = Self { has_box };
        for part in network.parts() {
            ip(&["netns", "add", &network.name(part)])?;
        }
        if has_box {
            for ((part, end), port) in ["client", "server"].into_iter().zip(ENDS).zip(BOX) {
                network.pair((part, end), ("box", port))?;
            }
        } else {
            let [client, server] = ENDS;
            network.pair(("client", client), ("server", server))?;
        }
        for (part, interface, address, other) in [
            ("client", "client0", format!("{CLIENT}/24"), site::PREFIX4),
            ("server", "server0", format!("{SERVER}/15"), "192.0.2.0/24"),
        ] {
            let namespace = network.name(part);
            ip(&["-n", &namespace, "address", "add", &address, "dev", interface])?;
            ip(&["-n", &namespace, "route", "add", other, "dev", interface])?;
        }
        Ok(network)
    }

    fn parts(&self) -> impl Iterator<Item = &'static str> {
        ["client", "server"].into_iter().chain(self.has_box.then_some("box"))
    }

    fn name(&self, part: &str) -> String {
        format!("levee-bench-{}-{part}", std::process::id())
    }

    /// Two interfaces that are one wire, up, and without what only a kernel at the other end understands.
    fn pair(&self, (part, end): (&str, &str), (peer, port): (&str, &str)) -> Result<(), MeasureError> {
        let (part, peer) = (self.name(part), self.name(peer));
        ip(&["link", "add", end, "netns", &part, "type", "veth", "peer", "name", port, "netns", &peer])?;
        for (namespace, interface) in [(&part, end), (&peer, port)] {
            ip(&["netns", "exec", namespace, "ethtool", "-K", interface, "tx", "off", "gso", "off", "gro", "off"])?;
            ip(&["-n", namespace, "link", "set", interface, "up"])?;
        }
        Ok(())
    }

    /// A socket in one of the namespaces, which does not wait.
    fn socket(&self, part: &str, address: SocketAddr) -> Result<UdpSocket, MeasureError> {
        let path = format!("/run/netns/{}", self.name(part));
        // On a thread of its own, which alone moves there.
        let opened = std::thread::scope(|scope| {
            let open = || -> io::Result<UdpSocket> {
                setns(File::open(&path)?, CloneFlags::CLONE_NEWNET)?;
                let socket = UdpSocket::bind(address)?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            };
            scope.spawn(open).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        opened.map_err(while_doing(format!("opening a socket in {path}")))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for part in self.parts() {
            // One that could not be made is not there.
            let _ = Command::new("ip").args(["netns", "delete", &self.name(part)]).output();
        }
    }
}

fn ip(words: &[&str]) -> Result<(), MeasureError> {
    let output = Command::new("ip").args(words).output().map_err(while_doing("ip"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(MeasureError::Skipped(format!("ip {}: {}", words.join(" "), said.trim())))
}
