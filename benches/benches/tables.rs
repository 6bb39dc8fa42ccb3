//! What happens beside the data path: the filter table kept (100 000 filters built at once, one more added to them, a
//! filter on a zone with as many hosts under it), and ticks with 1 000 to 1 000 000 active hosts. Plain times of whole
//! operations: the fastest, the median, p99 and the slowest of some runs, since a machine that others use adds but never
//! takes.
//!
//! `cargo bench -p levee-benches --bench tables [-- filters|ticks]`

use std::hint::black_box;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use levee_api::filter::{Action, Filter, HeaderBox, Origin, Rule, Side, Target};
use levee_api::lane::Lane;
use levee_api::prefix::Prefix;
use levee_api::role::RoleSet;
use levee_api::time::Timestamp;
use levee_api::zone::{Challenge, Mode, Service, Visibility, Zone};
use levee_engine::detect::detector::TICK;
use levee_engine::engine::{Engine, Settings};
use levee_engine::filter::{Rank, TableBuilder};
use levee_engine::isa::Isa;
use levee_engine::packet::{Direction, Packet};
use levee_engine::pipeline::BURST;
use levee_engine::tables::OnFailure;
use levee_engine::target::plan::Plan;
use levee_engine::verdict::Verdict;

/// Lists that the tick thread compiles at once.
const AT_ONCE: usize = 256;
/// First address of the zone, 198.16.0.0/12.
const FIRST: u32 = 0xc610_0000;

/// The times of some runs of an operation.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn measure<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let done = work();
        self.0.push(begin.elapsed());
        done
    }

    fn print(mut self, what: &str) {
        self.0.sort_unstable();
        let at =
            |part: usize| self.0.get((self.0.len() * part / 100).min(self.0.len() - 1)).copied().unwrap_or_default();
        println!("{what}: fastest {:.2?}, median {:.2?}, p99 {:.2?}, slowest {:.2?}", at(0), at(50), at(99), at(100));
    }
}

fn zone() -> Zone {
    Zone {
        name: "lab".to_owned(),
        prefixes: vec![Prefix::containing(IpAddr::V4(FIRST.into()), 12)],
        mode: Mode::Enforce,
        services: vec![Service { protocol: 17, ports: vec![(443, 443)] }],
        services_complete: false,
        visibility: Visibility::Auto,
        challenge: Challenge::default(),
        challenge_dns: false,
        link_capacity_bps: None,
        floors: Vec::new(),
        runbook: None,
    }
}

fn plan() -> Arc<Plan> {
    Arc::new(Plan::new(&[zone()], &[]).unwrap_or_else(|error| unreachable!("{error}")))
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

/// Active hosts, packets of each per tick, ticks in which they are met, and ticks after those: of some more than ten seconds,
/// for what comes with the end of a slow window.
const TICKS: [(&str, u32, u32, u32, u32); 4] = [
    ("1 000 hosts in peace", 1_000, 1, 300, 1_000),
    ("100 000 hosts in peace", 100_000, 1, 230, 1_100),
    ("1 000 000 hosts in peace", 1_000_000, 1, 30, 40),
    ("65 000 hosts above their thresholds", 65_000, 12, 20, 100),
];

/// Ticks in which each of some hosts has some packets.
fn ticks() {
    for (name, hosts, each, warm, ticks) in TICKS {
        let settings = Settings {
            workers: NonZeroU32::MIN,
            conversations: 1 << 16,
            hosts: 1 << 10,
            filters: 1 << 17,
            secret: (3, 4),
            ceiling: Mode::Enforce,
            too_deep: OnFailure::Pass,
            evicted: OnFailure::Pass,
            spare_slots: 0,
            learn_only: false,
            isa: Isa::detect(),
        };
        let mut now = Timestamp(1_000_000_000_000);
        let (mut engine, paths) =
            Engine::build(&[zone()], &[], settings, now).unwrap_or_else(|error| unreachable!("{error}"));
        let mut path = paths.into_iter().next().unwrap_or_else(|| unreachable!("one worker"));
        // Neighbours are not met one after the other.
        let step = 7_919 % hosts;
        let frames: Vec<Vec<u8>> = (0..hosts)
            .map(|n| datagram(u32::try_from(u64::from(n) * u64::from(step) % u64::from(hosts)).unwrap_or(0)))
            .collect();
        let (mut met, mut known) = (Times::default(), Times::default());
        for tick in 0..warm + ticks {
            for frames in frames.chunks(BURST) {
                let mut packets = [Packet { head: &[], wire_len: 0 }; BURST];
                for (packet, frame) in packets.iter_mut().zip(frames) {
                    *packet = Packet { head: frame, wire_len: 60 };
                }
                for _ in 0..each {
                    let mut verdicts = [Verdict::Forward; BURST];
                    let packets = packets.get(..frames.len()).unwrap_or_default();
                    path.burst(0, Direction::Inbound, packets, now, &mut verdicts);
                    black_box(verdicts);
                }
            }
            now = now + TICK;
            let task = if tick < warm { &mut met } else { &mut known }.measure(|| {
                engine.tick(now);
                engine.next_task(now)
            });
            if let Some(task) = task {
                engine.complete(task.run(), now);
            }
            black_box(engine.detector.take_events());
        }
        met.print(&format!("tick, {name}, the first {warm}, in which they are met"));
        known.print(&format!("tick, {name}"));
    }
}

/// DNS answers of a length; four conditions.
fn rule(length: u16) -> Rule {
    let shape = HeaderBox::any().exact(Lane::Protocol, 17).port(Side::Source, 53, 53).exact(Lane::IpLength, length);
    Rule::of(shape.range(Lane::Ttl, 0, 200))
}

/// A filter on the `host`th of the hosts, which are `apart` addresses apart; none: on the zone.
fn filter(id: u64, host: Option<u32>, rule: Rule) -> Filter {
    let prefix = host.map(|host| Prefix::host(IpAddr::V4((FIRST + host).into())));
    Filter {
        id,
        target: Target { zone: "lab".to_owned(), prefix },
        roles: RoleSet::FILTERABLE,
        rule,
        action: Action::Drop,
        deadline: Timestamp::NEVER,
        origin: Origin::Reflex,
        witness: String::new(),
    }
}

fn put(builder: &mut TableBuilder, filter: &Filter) {
    builder.put(filter, u32::try_from(filter.id).unwrap_or(0), Rank { class: 0, number: filter.id });
}

/// Hosts with filters: how many of them, how far apart, filters on each, different lists.
const CASES: [(&str, u32, u32, u32, u32); 3] = [
    ("10 000 hosts x 10 filters, 500 different lists", 10_000, 97, 10, 500),
    ("10 000 hosts x 10 filters, all lists different", 10_000, 97, 10, 10_000),
    ("100 000 hosts x 1 filter, 500 different lists", 100_000, 9, 1, 500),
];

fn main() {
    let only = |part: &str| std::env::args().skip(1).all(|argument| argument.starts_with("--") || argument == part);
    if only("filters") {
        filters();
    }
    if only("ticks") {
        ticks();
    }
}

fn filters() {
    let plan = plan();
    for (name, hosts, apart, each, lists) in CASES {
        let length = |host: u32, n: u32| u16::try_from(n * lists % 40_000 + host % lists).unwrap_or(0);
        let filters: Vec<Filter> = (0..hosts * each)
            .map(|id| filter(u64::from(id), Some(id / each * apart), rule(length(id / each, id % each))))
            .collect();
        let mut build = Times::default();
        let mut builder = TableBuilder::default();
        let mut table = None;
        for _ in 0..7 {
            (builder, table) = (TableBuilder::default(), None);
            black_box(&table);
            table = build.measure(|| {
                filters.iter().for_each(|filter| put(&mut builder, filter));
                builder.advance(&plan, usize::MAX)
            });
        }
        build.print(&format!("{name}: all built"));
        let mut one = Times::default();
        for n in 0..200 {
            let new = filter(u64::from(hosts * each + n), Some(n * 977), rule(50_000));
            // The generation before is still in use.
            let before = table.take();
            table = one.measure(|| {
                put(&mut builder, &new);
                builder.advance(&plan, AT_ONCE)
            });
            black_box(&before);
            one.measure(|| drop(before));
        }
        one.print(&format!("{name}: one added, or an old generation freed"));
        let on_zone = filter(u64::MAX >> 32, None, rule(60_000));
        let (mut step, mut all) = (Times::default(), Times::default());
        for _ in 0..3 {
            for put_in in [true, false] {
                all.measure(|| {
                    if put_in {
                        put(&mut builder, &on_zone);
                    } else {
                        builder.remove(&on_zone.target, Rank { class: 0, number: on_zone.id });
                    }
                    while builder.is_behind() {
                        step.measure(|| table = builder.advance(&plan, AT_ONCE));
                    }
                });
            }
        }
        all.print(&format!("{name}: one on the zone comes or goes"));
        step.print(&format!("{name}: a step of that"));
    }
}
