//! What the data path costs per packet (in peace, with filters, with many lists, and when it is answered), and what a tick of detection costs with
//! many hosts active or attacked. Per packet, a sample counts as its fastest runs, so that figures from a shared machine
//! mean something; a tick is measured whole.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use levee_api::filter::{Action, Filter, HeaderBox, Origin, Rule, Target};
use levee_api::lane::Lane;
use levee_api::prefix::Prefix;
use levee_api::role::{Role, RoleSet};
use levee_api::time::Timestamp;
use levee_api::zone::{Challenge, Mode, Service, Visibility, Zone};
use levee_engine::detect::detector::TICK;
use levee_engine::engine::{Engine, Settings};
use levee_engine::isa::Isa;
use levee_engine::packet::{Direction, Packet};
use levee_engine::pipeline::{BURST, Pipeline};
use levee_engine::tables::OnFailure;
use levee_engine::verdict::Verdict;

const START: Timestamp = Timestamp(1_000_000_000_000);
/// The zone is 198.18.0.0/15 (RFC 2544).
const FIRST: u32 = 0xc612_0000;

struct Site {
    engine: Engine,
    path: Pipeline,
    now: Timestamp,
}

impl Site {
    fn new() -> Self {
        Self::with(Challenge::default())
    }

    fn with(challenge: Challenge) -> Self {
        let zone = Zone {
            name: "bench".to_owned(),
            prefixes: vec![Prefix::containing(std::net::Ipv4Addr::from(FIRST).into(), 15)],
            mode: Mode::Enforce,
            services: vec![Service { protocol: 17, ports: vec![(443, 443)] }],
            services_complete: false,
            visibility: Visibility::Both,
            challenge,
            challenge_dns: false,
            link_capacity_bps: None,
            floors: Vec::new(),
            runbook: None,
        };
        let settings = Settings {
            workers: NonZeroU32::MIN,
            conversations: 1 << 16,
            hosts: 1 << 10,
            filters: 1 << 17,
            secret: (0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9),
            ceiling: Mode::Enforce,
            too_deep: OnFailure::Pass,
            evicted: OnFailure::Pass,
            spare_slots: 0,
            learn_only: false,
            isa: Isa::detect(),
        };
        let (engine, paths) =
            Engine::build(&[zone], &[], settings, START).unwrap_or_else(|error| unreachable!("{error}"));
        let path = paths.into_iter().next().unwrap_or_else(|| unreachable!("one worker"));
        Self { engine, path, now: START }
    }

    /// A drop filter on each of some hosts, `rules` of them, that no packet here matches.
    fn filter(&mut self, hosts: u32, rules: u16) {
        for (host, rule) in (0..hosts).flat_map(|host| (0..rules).map(move |rule| (host, rule))) {
            let shape = HeaderBox::any().exact(Lane::Protocol, 17).exact(Lane::IpLength, 1_000 + rule);
            let on = Prefix::host(std::net::Ipv4Addr::from(FIRST + host).into());
            self.install(Some(on), RoleSet::FILTERABLE, shape, Action::Drop);
        }
        self.engine.settle(self.now);
    }

    /// Every SYN is challenged.
    fn challenge(&mut self) {
        self.install(None, Role::Syn.set(), HeaderBox::any(), Action::Challenge { above_pps: 0 });
        self.engine.settle(self.now);
    }

    fn install(&mut self, prefix: Option<Prefix>, roles: RoleSet, shape: HeaderBox, action: Action) {
        let filter = Filter {
            id: 0,
            target: Target { zone: "bench".to_owned(), prefix },
            roles,
            rule: Rule::of(shape),
            action,
            deadline: Timestamp::NEVER,
            origin: Origin::ControlPlane { owner: String::new() },
            witness: String::new(),
        };
        self.engine.detector.measures.install_external(filter).unwrap_or_else(|error| unreachable!("{error}"));
    }

    fn send(&mut self, frames: &[Vec<u8>]) {
        for frames in frames.chunks(BURST) {
            let mut packets = [Packet { head: &[], wire_len: 0 }; BURST];
            for (packet, frame) in packets.iter_mut().zip(frames) {
                *packet = Packet { head: frame, wire_len: 60 };
            }
            let mut verdicts = [Verdict::Forward; BURST];
            let packets = packets.get(..frames.len()).unwrap_or_default();
            self.path.burst(0, Direction::Inbound, packets, self.now, &mut verdicts);
            black_box(verdicts);
        }
    }

    /// The same for frames of 60 bytes that are answered in place; returns how many were.
    fn answer(&mut self, frames: &mut [[u8; 64]]) -> usize {
        let mut answered = 0;
        for frames in frames.chunks_mut(BURST) {
            let mut packets = [Packet { head: &[], wire_len: 60 }; BURST];
            for (packet, frame) in packets.iter_mut().zip(&*frames) {
                packet.head = frame.get(..60).unwrap_or_default();
            }
            let mut verdicts = [Verdict::Forward; BURST];
            let packets = packets.get(..frames.len()).unwrap_or_default();
            self.path.burst(0, Direction::Inbound, packets, self.now, &mut verdicts);
            for (at, (frame, verdict)) in frames.iter_mut().zip(verdicts).enumerate() {
                let is_answered = verdict == Verdict::Reply
                    && frame.get_mut(..60).is_some_and(|frame| self.path.reply(at, frame).is_some());
                answered += usize::from(is_answered);
            }
        }
        answered
    }

    fn tick(&mut self) -> Duration {
        self.now = self.now + TICK;
        let begin = Instant::now();
        self.engine.tick(self.now);
        let task = self.engine.next_task(self.now);
        let took = begin.elapsed();
        if let Some(task) = task {
            self.engine.complete(task.run(), self.now);
        }
        black_box(self.engine.detector.take_events());
        took
    }
}

/// A datagram to a served port of the `n`th host.
fn datagram(n: u32) -> Vec<u8> {
    let mut frame =
        vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 46, 0, 1, 0x40, 0, 57, 17, 0, 0, 192, 0, 2, 1];
    frame.extend((FIRST + n).to_be_bytes());
    frame.extend([0x9c, 0x40, 0x01, 0xbb, 0, 26, 0, 0]);
    frame.resize(60, 0xab);
    frame
}

/// The SYN of a forged client, without options.
fn syn(n: u32) -> [u8; 64] {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 57, 6, 0, 0];
    frame.extend(n.wrapping_mul(0x9e37_79b9).to_be_bytes());
    frame.extend(FIRST.to_be_bytes());
    frame.extend([0x9c, 0x40, 0x01, 0xbb]);
    frame.extend(n.to_be_bytes());
    frame.extend([0, 0, 0, 0, 0x50, 0x02, 0xfa, 0xf0, 0, 0, 0, 0]);
    frame.resize(64, 0);
    frame.try_into().unwrap_or([0; 64])
}

/// A SYN, from the burst that it came in to the SYN-ACK in its place: of sources that come again, few enough for the second-level cache
/// with what is remembered of them; of ever new ones, which fill every table; and where the SYN-ACK opens a connection.
fn answered(c: &mut Criterion) {
    let mut group = c.benchmark_group("burst/per packet");
    for (name, how, is_new) in [
        ("SYNs that are answered", Challenge::Reset, false),
        ("SYNs that are answered, of ever new sources", Challenge::Reset, true),
        ("SYNs that open connections", Challenge::Proxy, false),
    ] {
        let mut site = Site::with(how);
        site.challenge();
        let per_run = 2_048_u32;
        let mut first = 0;
        let mut next = |many: u32| {
            first += if is_new { many } else { 0 };
            (first..first + many).map(syn).collect::<Vec<[u8; 64]>>()
        };
        if is_new {
            for _ in 0..1_024 {
                site.answer(&mut next(per_run));
            }
        }
        group.bench_function(name, |b| {
            b.iter_custom(|packets| {
                let run = |_| {
                    // Longer than the limit of answers to a prefix asks for.
                    site.now = site.now + Duration::from_millis(10);
                    let mut frames = next(per_run);
                    let begin = Instant::now();
                    let answered = site.answer(&mut frames);
                    let took = begin.elapsed();
                    assert!(answered * 100 >= frames.len() * 99, "{answered}");
                    took
                };
                let per_run = u64::from(per_run);
                let fastest = (0..packets.div_ceil(per_run).max(3)).map(run).min().unwrap_or_default();
                fastest.mul_f64(packets as f64 / per_run as f64)
            });
        });
    }
    group.finish();
}

fn per_packet(c: &mut Criterion) {
    let mut group = c.benchmark_group("burst/per packet");
    for (name, hosts, rules) in [("peace", 0, 0), ("10 filters", 1, 10), ("500 lists of 10", 500, 10)] {
        let mut site = Site::new();
        site.filter(hosts, rules);
        // An order that the CPU cannot guess.
        let frames: Vec<_> = (0..8_192_u32).map(|n| datagram(n * 7_919 % hosts.max(1))).collect();
        group.bench_function(name, |b| {
            b.iter_custom(|packets| {
                let per_run = 8_192_u64;
                let run = |_| {
                    let begin = Instant::now();
                    site.send(&frames);
                    begin.elapsed()
                };
                let fastest = (0..packets.div_ceil(per_run).max(3)).map(run).min().unwrap_or_default();
                fastest.mul_f64(packets as f64 / per_run as f64)
            });
        });
    }
    group.finish();
}

fn tick(c: &mut Criterion) {
    let mut group = c.benchmark_group("tick");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    for (name, hosts, each) in [
        ("1 000 hosts in peace", 1_000, 1),
        ("100 000 hosts in peace", 100_000, 1),
        ("65 000 hosts above their thresholds", 65_000, 12),
    ] {
        let mut site = Site::new();
        let frames: Vec<_> = (0..hosts).flat_map(|n| std::iter::repeat_n(datagram(n), each)).collect();
        // The slowest of all, too: a tick is to take 2 ms at most.
        let mut slowest = Duration::ZERO;
        group.bench_function(name, |b| {
            b.iter_custom(|ticks| {
                (0..ticks)
                    .map(|_| {
                        site.send(&frames);
                        let took = site.tick();
                        slowest = slowest.max(took);
                        took
                    })
                    .sum()
            });
        });
        println!("tick/{name}: slowest {slowest:?}");
    }
    group.finish();
}

criterion_group!(benches, per_packet, answered, tick);
criterion_main!(benches);
