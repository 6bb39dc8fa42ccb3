//! Several workers on one wire: the same packets have the same fate whatever number of queues they come on, nothing is
//! lost on the way between workers, and what does not fit is counted.
//!
//! One environment serves all tests of this process, on ports of their own.
#![expect(clippy::expect_used, reason = "a test that cannot go on says why and fails")]

use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use levee_api::config::{Config, Idle};
use levee_api::filter::{Action, HeaderBox, Rule, Side, Target};
use levee_api::grpc::FilterRequest;
use levee_api::role::{Role, RoleSet};
use levee_dataplane::capture_file;
use levee_dataplane::dpdk::clock::Clock;
use levee_dataplane::dpdk::eal::{Eal, Memory, Options, Pci};
use levee_dataplane::dpdk::thread::allowed_cpus;
use levee_dataplane::exchange::ON_THE_WAY;
use levee_dataplane::in_force;
use levee_dataplane::start::{AtStart, build_engine};
use levee_dataplane::wires::{Attached, Plan, Wires};
use levee_dataplane::worker::{Judge, PathCount, Worker};
use levee_engine::packet::{Direction, Packet, steer};
use levee_engine::time::Timestamp;
use levee_engine::verdict::{Reason, Verdict};
use tempfile::TempDir;

fn eal() -> Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    let options = Options { memory: Memory::NoHuge { mib: 1024 }, pci: Pci::Only(Vec::new()), cpus: allowed_cpus() };
    EAL.get_or_init(|| Eal::start(&options).expect("DPDK")).clone()
}

const ZONE: &str = "[[zone]]\nname = \"servers\"\nprefixes = [\"192.0.2.0/24\", \"2001:db8:2::/48\"]\nmode = \"enforce\"\n\
                    visibility = \"both\"\nservices = [{ proto = \"tcp\", ports = [80] }]\n";

/// A configuration with a wire between two ports, for so many workers.
fn config(workers: usize, outside: &str, inside: &str) -> Config {
    let cpus: Vec<usize> = (0..workers).collect();
    let text = format!(
        "schema = 1\n[dataplane]\nworkers = {cpus:?}\nmemory = \"no-huge\"\n[[dataplane.wire]]\nname = \"uplink\"\n\
         outside = \"{outside}\"\ninside = \"{inside}\"\n{ZONE}"
    );
    Config::parse("levee.toml", &text).expect("a configuration")
}

/// A wire with its workers, on this thread.
struct Running<J> {
    wires: Wires,
    workers: Vec<Worker<J>>,
}

impl<J: Judge + 'static> Running<J> {
    fn start(config: &Config, judges: impl IntoIterator<Item = J>) -> Self {
        let plan = Plan::of(&config.dataplane).expect("a plan");
        let attached = Attached::new(&eal(), &plan, config.dataplane.workers.len()).expect("ports");
        let (wires, paths) = attached.start().expect("running ports");
        let clock = Clock::start(&eal());
        let stop = Arc::new(AtomicBool::new(true));
        let worker = |(paths, judge)| Worker::new(paths, judge, clock, Idle::Spin, Arc::clone(&stop));
        Self { wires, workers: paths.into_iter().zip(judges).map(worker).collect() }
    }

    /// Lets the workers go on in turn until there is nothing left.
    fn exhaust(&mut self) {
        while self.workers.iter_mut().fold(false, |busy, worker| worker.round() | busy) {}
    }

    /// Ends the workers, beside each other as they wait for each other, and returns what was counted inbound and outbound.
    fn finish(self) -> [PathCount; 2] {
        let threads: Vec<_> = self.workers.into_iter().map(|worker| std::thread::spawn(|| worker.run())).collect();
        for thread in threads {
            thread.join().expect("a worker that ends");
        }
        let wire = self.wires.iter().next().expect("the wire");
        let counts = [wire.inbound.read(), wire.outbound.read()];
        for count in &counts {
            assert!(count.is_conserved(), "{count:?}");
        }
        self.wires.stop();
        counts
    }
}

/// Some filters as the control plane installs them.
fn filters() -> Vec<FilterRequest> {
    let filter = |roles: RoleSet, region: HeaderBox| FilterRequest {
        owner: "incident 7".to_owned(),
        target: Target { zone: "servers".to_owned(), prefix: None },
        roles,
        rule: Rule::of(region),
        action: Action::Drop,
        ttl: Duration::from_secs(3600),
        witness: "half-open".to_owned(),
    };
    vec![
        filter(Role::Syn.set(), HeaderBox::any().port(Side::Destination, 81, 90)),
        filter(Role::OutOfState.set(), HeaderBox::any()),
        filter(Role::UnsolicitedSynAck.set(), HeaderBox::any()),
        filter(Role::UdpUnserved.set(), HeaderBox::any().port(Side::Destination, 9, 9)),
    ]
}

/// Outside addresses.
const PEERS: u8 = 40;

/// An Ethernet frame with an IPv4 packet from outside to inside, or the reverse.
fn ipv4(peer: u8, outward: bool, protocol: u8, fragment: u16, rest: &[u8]) -> Vec<u8> {
    let (outside, inside) = ([198, 51, 100, peer], [192, 0, 2, peer % 7]);
    let (source, destination) = if outward { (inside, outside) } else { (outside, inside) };
    let length = u8::try_from(20 + rest.len()).expect("short");
    let [f0, f1] = fragment.to_be_bytes();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
    frame.extend([0x45, 0, 0, length, peer, 7, f0, f1, 64, protocol, 0, 0]);
    frame.extend(source);
    frame.extend(destination);
    frame.extend(rest);
    frame.resize(60.max(frame.len()), 0);
    frame
}

fn ipv6(peer: u8, outward: bool, rest: &[u8]) -> Vec<u8> {
    let address = |network: u8, host: u8| [0x20, 1, 0xd, 0xb8, 0, network, 0, 0, 0, 0, 0, 0, 0, 0, 0, host];
    let (outside, inside) = (address(1, peer), address(2, peer % 7));
    let (source, destination) = if outward { (inside, outside) } else { (outside, inside) };
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
    frame.extend([0x60, 0, 0, 0, 0, u8::try_from(rest.len()).expect("short"), 6, 64]);
    frame.extend(source);
    frame.extend(destination);
    frame.extend(rest);
    frame
}

fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut header = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    header.extend([1, 2, 3, 4, 5, 6, 7, 8, 0x50, flags, 4, 0, 0, 0, 0, 0]);
    header
}

fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("short");
    let mut datagram = [source.to_be_bytes(), destination.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    datagram.extend(payload);
    datagram
}

fn tagged(mut frame: Vec<u8>) -> Vec<u8> {
    frame.splice(12..12, [0x81, 0x00, 0x00, 0x64]);
    frame
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// What inside sends: it opens connections.
fn outward() -> Vec<Vec<u8>> {
    (0..PEERS)
        .flat_map(|peer| [ipv4(peer, true, 6, 0, &tcp(5000, 443, SYN)), ipv6(peer, true, &tcp(5000, 443, SYN))])
        .collect()
}

/// What comes first from outside, first fragments among it, and what comes later.
fn inward() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for peer in 0..PEERS {
        // The first half of a datagram of 32 bytes, for a port that is filtered and for one that is not.
        let half = |port: u16| udp(40_000, port, &[7; 24])[..16].to_vec();
        let port = if peer % 2 == 0 { 9 } else { 10 };
        first.push(ipv4(peer, false, 17, 0x2000, &half(port)));
        later.push(ipv4(peer, false, 17, 2, &[7; 16]));
        first.extend([
            ipv4(peer, false, 6, 0, &tcp(6000, 80, SYN)),
            ipv4(peer, false, 6, 0, &tcp(6000, 85, SYN)),
            tagged(ipv4(peer, false, 6, 0, &tcp(6001, 85, SYN))),
            ipv4(peer, false, 6, 0, &tcp(6002, 80, ACK)),
            ipv6(peer, false, &tcp(6002, 80, ACK)),
        ]);
        later.extend([
            // Answers that somebody inside asked for, and some that nobody did.
            ipv4(peer, false, 6, 0, &tcp(443, 5000, SYN | ACK)),
            tagged(ipv4(peer, false, 6, 0, &tcp(443, 5000, ACK))),
            ipv6(peer, false, &tcp(443, 5000, SYN | ACK)),
            ipv4(peer, false, 6, 0, &tcp(443, 5001, SYN | ACK)),
            ipv6(peer, false, &tcp(443, 5001, SYN | ACK)),
            // The type says IPv4, the version does not.
            [&ipv4(peer, false, 6, 0, &tcp(1, 2, SYN))[..14], &[0x65; 46]].concat(),
        ]);
    }
    (first, later)
}

/// Traffic that nobody protects, to have other packets judged before those behind it.
fn padding(count: usize) -> Vec<Vec<u8>> {
    let frame = |number: usize| {
        let [n0, n1, ..] = number.to_le_bytes();
        let mut frame = ipv4(0, false, 17, 0, &udp(1, 2, &[]));
        frame[26..34].copy_from_slice(&[203, 0, 113, n0, 203, 0, 113, n1]);
        frame
    };
    (0..count).map(frame).collect()
}

/// Frames that crossed, without the padding.
fn crossed(files: &[std::path::PathBuf]) -> Vec<Vec<u8>> {
    let mut frames: Vec<_> = files.iter().flat_map(|file| read(file)).filter(|frame| frame[26] != 203).collect();
    frames.sort();
    frames
}

/// Frames dealt out to `queues` files, and the arguments for a port that reads them and writes as many others.
fn captures(folder: &Path, side: &str, queues: usize, frames: &[Vec<u8>]) -> (String, Vec<std::path::PathBuf>) {
    let mut arguments = String::new();
    let mut written = Vec::new();
    for queue in 0..queues {
        let (from, to) = (folder.join(format!("{side}{queue}.pcap")), folder.join(format!("{side}{queue}-out.pcap")));
        let own: Vec<Vec<u8>> = frames.iter().skip(queue).step_by(queues).cloned().collect();
        write(&from, &own);
        arguments += &format!(",rx_pcap={},tx_pcap={}", from.display(), to.display());
        written.push(to);
    }
    (arguments, written)
}

/// What crosses inwards and what is counted, with so many workers and queues.
fn judged_by(workers: usize) -> (Vec<Vec<u8>>, [PathCount; 2]) {
    let folder = TempDir::new().expect("a folder");
    // Longer than a round of all workers and their rings.
    let gap = || padding(64 * 8 * workers);
    let (first, later) = inward();
    let (outside, _) = captures(folder.path(), "o", workers, &[gap(), first, gap(), later].concat());
    let (inside, written) = captures(folder.path(), "i", workers, &outward());
    let number = 10 * workers;
    let config = config(workers, &format!("net_pcap{number}{outside}"), &format!("net_pcap{}{inside}", number + 1));
    let before = AtStart::read(&config, folder.path());
    let now = Clock::start(&eal()).now();
    let (mut engine, pipelines) =
        build_engine(&config, &before, folder.path(), workers, false, now).expect("an engine");
    for filter in filters() {
        engine.detector.measures.install_external(in_force::filter_of(&filter, now)).expect("a filter");
    }
    engine.settle(now);
    let mut running = Running::start(&config, pipelines);
    running.exhaust();
    let [mut inbound, outbound] = running.finish();
    let gaps = u64::try_from(2 * gap().len()).expect("few");
    inbound.received -= gaps;
    inbound.forwarded -= gaps;
    (crossed(&written), [inbound, outbound])
}

#[test]
fn the_number_of_workers_changes_no_verdict() {
    let (passed, counts) = judged_by(1);
    let [inbound, outbound] = &counts;
    let peers = u64::from(PEERS);
    assert_eq!(inbound.received, 13 * peers);
    // Two SYNs, two packets out of state, two answers that nobody asked for, and of every second peer both fragments.
    assert_eq!(inbound.dropped[Reason::Filter.index()], 7 * peers, "{inbound:?}");
    assert_eq!(inbound.dropped[Reason::IpVersion.index()], peers, "{inbound:?}");
    assert_eq!((outbound.received, outbound.forwarded), (2 * peers, 2 * peers));
    for workers in [2, 3] {
        let (passed_too, counts_too) = judged_by(workers);
        assert_eq!(counts_too, counts, "{workers} workers");
        assert!(passed_too == passed, "{workers} workers");
    }
}

/// Checks that its packets are its own.
struct Owner {
    worker: usize,
    workers: usize,
    judged: usize,
}

impl Judge for Owner {
    fn burst(&mut self, _: usize, _: Direction, packets: &[Packet<'_>], _: Timestamp, verdicts: &mut [Verdict]) {
        for packet in packets {
            assert_eq!(steer::worker(packet.head, self.workers), self.worker);
        }
        self.judged += packets.len();
        verdicts.fill(Verdict::Forward);
    }
    fn reply(&self, _: usize, _: &mut [u8]) -> Option<usize> {
        None
    }
    fn translate(&self, _: usize, _: &mut [u8], _: usize) -> Option<usize> {
        None
    }
    fn offline(&mut self) {}
}

#[test]
fn every_packet_is_judged_by_the_worker_that_its_addresses_belong_to() {
    let folder = TempDir::new().expect("a folder");
    let frames = padding(20_000);
    let (outside, _) = captures(folder.path(), "o", 2, &frames);
    let config = config(2, &format!("net_pcap50{outside}"), "net_null51,no-rx=1");
    let mut running = Running::start(&config, (0..2).map(|worker| Owner { worker, workers: 2, judged: 0 }));
    running.exhaust();
    let [inbound, _] = running.finish();
    assert_eq!((inbound.received, inbound.forwarded), (20_000, 20_000));
}

#[test]
fn a_worker_that_does_not_keep_up_costs_its_own_packets_only_and_they_are_counted() {
    let folder = TempDir::new().expect("a folder");
    let frames = padding(20_000);
    let (outside, _) = captures(folder.path(), "o", 2, &frames);
    let config = config(2, &format!("net_pcap60{outside}"), "net_null61,no-rx=1");
    let mut running = Running::start(&config, (0..2).map(|worker| Owner { worker, workers: 2, judged: 0 }));
    // The second worker is away while the first reads all of its queue.
    while running.workers[0].round() {}
    let counted = running.wires.iter().next().expect("the wire").inbound.read();
    let full = counted.dropped[Reason::SteerFull.index()];
    let handed_over = frames.iter().step_by(2).filter(|frame| steer::worker(frame, 2) == 1).count();
    assert_eq!(counted.received, 10_000);
    assert_eq!(full, u64::try_from(handed_over - ON_THE_WAY).expect("more than the ring holds"));
    running.exhaust();
    let [inbound, _] = running.finish();
    assert_eq!(inbound.received, 20_000);
    assert!(inbound.forwarded <= 20_000 - full, "{inbound:?}");
}

#[test]
fn a_wire_whose_ports_have_one_queue_runs_on_one_worker() {
    let folder = TempDir::new().expect("a folder");
    let (outside, _) = captures(folder.path(), "o", 1, &padding(100));
    let config = config(2, &format!("net_pcap70{outside}"), "net_null71,no-rx=1");
    let plan = Plan::of(&config.dataplane).expect("a plan");
    let attached = Attached::new(&eal(), &plan, 2).expect("ports");
    assert_eq!(attached.workers(), 1);
    let (wires, paths) = attached.start().expect("running ports");
    assert_eq!(paths.iter().map(Vec::len).collect::<Vec<_>>(), [2]);
    drop(paths);
    wires.stop();
}

fn write(path: &Path, frames: &[Vec<u8>]) {
    let mut writer = capture_file::Writer::create(path).expect("a new file");
    for frame in frames {
        writer.write(Timestamp::ZERO, frame, u32::try_from(frame.len()).expect("short")).expect("writing");
    }
    writer.finish().expect("writing");
}

fn read(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = capture_file::open(path).expect("a capture");
    let mut frames = Vec::new();
    while let Some(record) = reader.next().expect("a record") {
        frames.push(record.data.to_vec());
    }
    frames
}
