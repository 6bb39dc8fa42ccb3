//! The burst path inside the process: that it allocates nothing, and that what is seen and sent of a packet does not
//! depend on how a driver splits it over segments.
//!
//! One environment serves all tests of this process, on ports of their own.
#![expect(clippy::expect_used, reason = "a test that cannot go on says why and fails")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use levee_api::config::{Config, Idle};
use levee_dataplane::dpdk::clock::Clock;
use levee_dataplane::dpdk::eal::{Eal, Memory, Options, Pci};
use levee_dataplane::dpdk::mbuf::{BURST, Burst, HeadScratch, Packets};
use levee_dataplane::dpdk::mempool::{Mempool, Shape};
use levee_dataplane::dpdk::port::{Port, Running, RxQueue, Setup, StartedPort, StopError, TxQueue};
use levee_dataplane::dpdk::thread::allowed_cpus;
use levee_dataplane::start::{AtStart, build_engine};
use levee_dataplane::worker::{Judge, Path as WorkerPath, PathCounters, Worker};
use levee_dataplane::{capture_file, capture_writer};
use levee_engine::challenge::translation::GROWTH;
use levee_engine::detect::detector::TICK;
use levee_engine::packet::{Direction, HEAD_BYTES, Packet};
use levee_engine::time::Timestamp;
use levee_engine::verdict::{Reason, Verdict};
use levee_tests::allocations::{self, Counting};
use tempfile::TempDir;

/// How long anything may take on a machine that does other things too.
const DEADLINE: Duration = Duration::from_secs(60);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn eal() -> Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    let options = Options { memory: Memory::NoHuge { mib: 128 }, pci: Pci::Only(Vec::new()), cpus: allowed_cpus() };
    EAL.get_or_init(|| Eal::start(&options).expect("DPDK")).clone()
}

fn pool(name: &str, frame_room: u16) -> Mempool {
    Mempool::create(&eal(), name, Shape { count: 8191, frame_room }, -1).expect("buffers")
}

fn start(name: &str, pool: &Mempool) -> (StartedPort, RxQueue, TxQueue) {
    let port = Port::attach(&eal(), &name.parse().expect("a name")).expect("a port");
    let Running { port, mut queues, .. } =
        port.start(&Setup { mtu: 1500, pool: pool.clone(), queues: 1 }).expect("a running port");
    let (rx, tx) = queues.remove(0);
    (port, rx, tx)
}

/// Drops a packet, answers the next with its first twenty bytes backwards, forwards the next, and the next with two bytes more.
struct InTurn(u64);

impl Judge for InTurn {
    fn burst(&mut self, _: usize, _: Direction, _: &[Packet<'_>], _: Timestamp, verdicts: &mut [Verdict]) {
        for verdict in verdicts {
            *verdict = match self.0 % 4 {
                0 => Verdict::Drop(Reason::Filter),
                1 => Verdict::Reply,
                2 => Verdict::Forward,
                _ => Verdict::Translate,
            };
            self.0 += 1;
        }
    }
    fn reply(&self, _: usize, frame: &mut [u8]) -> Option<usize> {
        let answer = frame.get_mut(..20)?;
        answer.reverse();
        Some(answer.len())
    }
    fn translate(&self, _: usize, frame: &mut [u8], length: usize) -> Option<usize> {
        assert_eq!(frame.len(), length + GROWTH);
        frame.get_mut(length..length + 2)?.fill(0xab);
        Some(length + 2)
    }
    fn offline(&mut self) {}
}

#[test]
fn a_burst_allocates_nothing_and_every_packet_has_one_fate() {
    let pool = pool("allocations", 2048);
    let (outside, outside_rx, outside_tx) = start("net_null20", &pool);
    let (inside, inside_rx, inside_tx) = start("net_null21", &pool);
    let counters = [Arc::new(PathCounters::default()), Arc::new(PathCounters::default())];
    let path = |direction, rx, tx, counters: &Arc<PathCounters>| WorkerPath {
        wire: 0,
        direction,
        rx,
        tx,
        counters: Arc::clone(counters),
        exchange: None,
    };
    let paths = vec![
        path(Direction::Inbound, outside_rx, inside_tx, &counters[0]),
        path(Direction::Outbound, inside_rx, outside_tx, &counters[1]),
    ];
    let stop = Arc::new(AtomicBool::new(true));
    let mut worker = Worker::new(paths, InTurn(0), Clock::start(&eal()), Idle::Spin, stop);
    let before = allocations::so_far();
    for _ in 0..10_000 {
        assert!(worker.round());
    }
    assert_eq!(allocations::so_far() - before, 0);
    // Told to stop already, it only finishes what it has received.
    worker.run();
    for counters in counters {
        let count = counters.read();
        assert!(count.received >= 10_000 * BURST as u64, "{count:?}");
        assert!(count.dropped[Reason::Filter.index()].abs_diff(count.received / 4) < BURST as u64, "{count:?}");
        assert!(count.replied.abs_diff(count.received / 4) < BURST as u64, "{count:?}");
        assert!(count.is_conserved(), "{count:?}");
    }
    outside.stop().expect("all queues are back");
    inside.stop().expect("all queues are back");
    assert_eq!(pool.in_use(), 0, "every buffer is back");
}

#[test]
fn answers_leave_where_the_packets_came_from_and_others_on_the_other_side() {
    let folder = TempDir::new().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    let frames: Vec<Vec<u8>> = (0..150).map(|number| frame(60 + number)).collect();
    write(&file("in.pcap"), &frames);
    let pool = pool("answers", 2048);
    let port = |name: &str, out: &str| format!("{name},tx_pcap={}", file(out).display());
    let from = format!("net_pcap27,rx_pcap={}", file("in.pcap").display());
    let (outside, outside_rx, outside_tx) = start(&port(&from, "back.pcap"), &pool);
    write(&file("none.pcap"), &[]);
    let none = format!("net_pcap28,rx_pcap={}", file("none.pcap").display());
    let (inside, inside_rx, inside_tx) = start(&port(&none, "on.pcap"), &pool);
    let counters = [Arc::new(PathCounters::default()), Arc::new(PathCounters::default())];
    let path = |direction, rx, tx, counters: &Arc<PathCounters>| WorkerPath {
        wire: 0,
        direction,
        rx,
        tx,
        counters: Arc::clone(counters),
        exchange: None,
    };
    let paths = vec![
        path(Direction::Inbound, outside_rx, inside_tx, &counters[0]),
        path(Direction::Outbound, inside_rx, outside_tx, &counters[1]),
    ];
    let mut worker = Worker::new(paths, InTurn(0), Clock::start(&eal()), Idle::Spin, Arc::new(AtomicBool::new(true)));
    while worker.round() {}
    worker.run();
    outside.stop().expect("all queues are back");
    inside.stop().expect("all queues are back");
    let in_turn = |turn: usize| frames.iter().skip(turn).step_by(4).cloned();
    let longer = |frame: Vec<u8>| [frame, vec![0xab; 2]].concat();
    let backwards = |frame: Vec<u8>| frame[..20].iter().rev().copied().collect::<Vec<u8>>();
    assert!(read(&file("back.pcap")) == in_turn(1).map(backwards).collect::<Vec<_>>());
    let on = in_turn(2).zip(in_turn(3)).flat_map(|(same, next)| [same, longer(next)]);
    assert!(read(&file("on.pcap")) == on.collect::<Vec<_>>());
    let [inbound, outbound] = counters.map(|counters| counters.read());
    assert_eq!((inbound.received, inbound.forwarded, inbound.replied), (150, 74, 38));
    assert!(inbound.is_conserved() && outbound.received == 0);
    assert_eq!(pool.in_use(), 0, "every buffer is back");
}

/// SYNs from ever new sources to every host of a network, of IPv4 and IPv6, later fragments, and what nobody protects.
fn flood() -> Vec<Vec<u8>> {
    let ipv4 = |number: u16, host: u8, fragment: u8, rest: &[u8]| {
        let [n0, n1] = number.to_be_bytes();
        let length = u8::try_from(20 + rest.len()).expect("short");
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
        frame.extend([0x45, 0, 0, length, n0, n1, 0, fragment, 64, 6, 0, 0, 198, 51, n0, n1, 192, 0, 2, host]);
        frame.extend(rest);
        frame.resize(60.max(frame.len()), 0);
        frame
    };
    let ipv6 = |number: u16, rest: &[u8]| {
        let length = u8::try_from(rest.len()).expect("short");
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
        frame.extend([0x60, 0, 0, 0, 0, length, 6, 64]);
        for network in [[0x20, 0x01, 0x0d, 0xb8, 0, 1], [0x20, 0x01, 0x0d, 0xb8, 0, 2]] {
            frame.extend(network);
            frame.extend([0; 8]);
            frame.extend(number.to_be_bytes());
        }
        frame.extend(rest);
        frame
    };
    (0..1024_u16)
        .map(|number| {
            let [n0, n1] = number.to_be_bytes();
            let syn = [n0, n1, 0, 80, n1, 1, 2, 3, 0, 0, 0, 0, 0x50, 2, 4, 0, 0, 0, 0, 0];
            match number % 8 {
                0 => ipv6(number, &syn),
                1 => ipv4(number, n1, 100, &syn),
                _ => ipv4(number, n1, 0, &syn),
            }
        })
        .collect()
}

#[test]
fn the_data_path_allocates_nothing_under_a_flood_while_tables_are_replaced() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("in.pcap");
    write(&file, &flood());
    let zone = "schema = 1\n[[zone]]\nname = \"servers\"\nprefixes = [\"192.0.2.0/25\", \"2001:db8:2::/48\"]\n\
                mode = \"enforce\"\nvisibility = \"both\"\n";
    let config = Config::parse("levee.toml", zone).expect("a configuration");
    let clock = Clock::start(&eal());
    let before = AtStart::read(&config, folder.path());
    let (mut engine, mut pipelines) =
        build_engine(&config, &before, folder.path(), 1, false, clock.now()).expect("an engine");
    let rings = capture_writer::attach(&config.dataplane.capture, &mut pipelines);

    let pool = pool("flood", 2048);
    let (outside, outside_rx, outside_tx) =
        start(&format!("net_pcap25,rx_pcap={},infinite_rx=1", file.display()), &pool);
    let (inside, inside_rx, inside_tx) = start("net_null26,no-rx=1", &pool);
    let counters = [Arc::new(PathCounters::default()), Arc::new(PathCounters::default())];
    let path = |direction, rx, tx, counters: &Arc<PathCounters>| WorkerPath {
        wire: 0,
        direction,
        rx,
        tx,
        counters: Arc::clone(counters),
        exchange: None,
    };
    let paths = vec![
        path(Direction::Inbound, outside_rx, inside_tx, &counters[0]),
        path(Direction::Outbound, inside_rx, outside_tx, &counters[1]),
    ];
    let stop = Arc::new(AtomicBool::new(true));
    let mut worker = Worker::new(paths, pipelines.remove(0), clock, Idle::Spin, stop);

    // Detection beside it, as in a run: it samples, finds, and publishes tables.
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                engine.tick(clock.now());
                if let Some(task) = engine.next_task(clock.now()) {
                    engine.complete(task.run(), clock.now());
                }
                std::thread::sleep(TICK);
            }
        });
        let (allocated, begun) = (allocations::so_far(), Instant::now());
        let dropped = || counters[0].read().dropped[Reason::Filter.index()];
        // Until filters have been found, and a while with them.
        let mut rounds_with_filters = 0;
        while rounds_with_filters < 10_000 && begun.elapsed() < DEADLINE {
            assert!(worker.round());
            rounds_with_filters += u32::from(dropped() > 0);
        }
        over.store(true, Ordering::Relaxed);
        assert_eq!(allocations::so_far() - allocated, 0);
        assert_eq!(rounds_with_filters, 10_000, "filters were found: {:?}", counters[0].read());
        assert!(rings[0].head() > 0, "packets were captured");
    });
    worker.run();
    assert!(counters[0].read().is_conserved(), "{:?}", counters[0].read());
    outside.stop().expect("all queues are back");
    inside.stop().expect("all queues are back");
}

#[test]
fn the_head_of_a_packet_does_not_depend_on_its_segments() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("in.pcap");
    let frames: Vec<Vec<u8>> = (0..BURST).map(|number| frame(60 + number * 23)).collect();
    write(&file, &frames);
    // net_pcap chains buffers for longer frames, so up to twelve of them here.
    const ROOM: usize = 128;
    let pool = pool("segments", u16::try_from(ROOM).expect("small"));
    let out = folder.path().join("out.pcap");
    let port = format!("net_pcap22,rx_pcap={},tx_pcap={}", file.display(), out.display());
    let (port, mut rx, mut tx) = start(&port, &pool);

    let (mut burst, mut rest, mut scratch) = (Burst::default(), Burst::default(), HeadScratch::default());
    while rx.receive(&mut burst) > 0 {}
    let mut packets = Packets::default();
    let packets = burst.packets(&mut scratch, &mut packets);
    assert_eq!(packets.len(), frames.len());
    for (packet, frame) in packets.iter().zip(&frames) {
        assert_eq!(usize::try_from(packet.wire_len).expect("small"), frame.len());
        assert!(packet.head.len() >= frame.len().min(HEAD_BYTES), "{} of {}", packet.head.len(), frame.len());
        assert!(frame.starts_with(packet.head));
    }

    // This driver does not offer to send segments: what fits one buffer is sent, the rest handed back.
    let fitting: Vec<Vec<u8>> = frames.iter().filter(|frame| frame.len() <= ROOM).cloned().collect();
    assert_eq!(tx.send(&mut burst, &mut rest), fitting.len());
    assert_eq!((burst.len(), rest.len()), (0, frames.len() - fitting.len()));
    rest.free();
    drop((rx, tx));
    port.stop().expect("all queues are back");
    assert!(read(&out) == fitting);
    assert_eq!(pool.in_use(), 0, "every buffer is back");
}

#[test]
fn packets_that_are_not_kept_are_freed_once() {
    let pool = pool("split", 2048);
    let (port, mut rx, tx) = start("net_null23", &pool);
    let (mut burst, mut rest) = (Burst::default(), Burst::default());
    assert_eq!(rx.receive(&mut burst), BURST);
    assert_eq!(rx.receive(&mut burst), 0, "a full burst takes no more");
    burst.split(0x5555_5555_5555_5555, &mut rest);
    assert_eq!((burst.len(), rest.len()), (BURST / 2, BURST / 2));
    rest.free();
    assert!(rest.is_empty());
    assert_eq!(pool.in_use(), u32::try_from(BURST / 2).expect("small"));
    drop(burst);
    assert_eq!(pool.in_use(), 0);
    drop((rx, tx));
    port.stop().expect("all queues are back");
}

#[test]
fn a_port_whose_queues_are_in_use_is_not_stopped() {
    let pool = pool("in_use", 2048);
    let (port, rx, tx) = start("net_null24", &pool);
    assert!(matches!(port.stop(), Err(StopError::InUse { queues: 2, .. })));
    drop((rx, tx));
}

#[test]
fn buffers_do_not_follow_each_other_at_a_power_of_two() {
    let pool = pool("stride", 2048);
    assert_eq!(pool.stride() / 64 % 2, 1, "{} bytes", pool.stride());
}

fn frame(length: usize) -> Vec<u8> {
    (0..length).map(|position| (position * 7 + length).to_le_bytes()[0]).collect()
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
