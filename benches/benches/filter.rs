//! What judging a packet against filters costs: nanoseconds per packet (criterion's `time`, since each iteration is one
//! packet), per kernel, for lists of 1, 10 and 64 rules that match at the first, at the last or nowhere, hot and spread
//! over 10 000 different lists; and what a limiter costs. Per packet, each sample counts as its fastest thousand packets,
//! so that figures from a shared machine mean something.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use levee_api::filter::{Action, HeaderBox, Rule, Side};
use levee_api::lane::{Bits, LANES, Lane};
use levee_api::role::{Role, RoleSet};
use levee_api::time::Timestamp;
use levee_engine::filter::{Entry, Limiters, List};
use levee_engine::isa::Isa;
use levee_engine::packet::Lanes;

/// Packets of a burst, as the pipeline judges them.
const BURST: usize = 64;

/// A typical signature: DNS answers of a length, four conditions. Rule `n` of list `list` wants the length `n`.
fn entry(list: u16, n: u16) -> Entry {
    let shape = HeaderBox::any()
        .exact(Lane::Protocol, 17)
        .port(Side::Source, 53, 53)
        .range(Lane::Ttl, 0, 255 + list)
        .exact(Lane::IpLength, 1000 + n);
    Entry {
        deadline: Timestamp::NEVER,
        action: Action::Drop,
        counter: u32::from(n),
        roles: RoleSet::FILTERABLE,
        rule: Arc::new(Rule::of(shape)),
    }
}

fn list(number: u16, rules: u16) -> List {
    List::compile((0..rules).map(|n| entry(number, n)).collect()).unwrap_or_else(|error| unreachable!("{error}"))
}

fn packet(length: u16) -> Lanes {
    let values = [
        (Lane::Protocol, 17),
        (Lane::SrcPort, 53),
        (Lane::DstPort, 4000),
        (Lane::Ttl, 57),
        (Lane::IpLength, 1000 + length),
        (Lane::Bits, Bits::PORTS.bits()),
    ];
    let mut lanes = [0; LANES];
    for (lane, value) in values {
        if let Some(at) = lanes.get_mut(lane.index()) {
            *at = value;
        }
    }
    Lanes(lanes)
}

fn judge(list: &List, isa: Isa, lanes: &Lanes) -> u32 {
    list.find(isa, black_box(lanes), 0, Role::UnsolicitedResponse, &[], Timestamp(1)).map_or(0, |entry| entry.counter)
}

/// What `packets` packets take when all go as fast as the fastest run of bursts.
fn fastest(packets: u64, mut burst: impl FnMut()) -> Duration {
    const BURSTS: u64 = 16;
    let per_run = BURSTS * BURST as u64;
    let run = |_| {
        let begin = Instant::now();
        (0..BURSTS).for_each(|_| burst());
        begin.elapsed()
    };
    let fastest = (0..packets.div_ceil(per_run)).map(run).min().unwrap_or_default();
    fastest.mul_f64(packets as f64 / per_run as f64)
}

fn find(c: &mut Criterion) {
    for (rules, kernel) in [1, 10, 64].into_iter().flat_map(|rules| Isa::available().map(move |kernel| (rules, kernel)))
    {
        let hot = list(0, rules);
        let lists: Vec<_> = (0..10_048).map(|number| list(number, rules)).collect();
        // An order that the CPU cannot guess.
        let order: Vec<_> = (0..lists.len()).filter_map(|at| lists.get(at * 7_919 % lists.len())).collect();
        for (place, length) in [("first", 0), ("last", rules - 1), ("none", rules)] {
            if rules == 1 && place == "last" {
                continue;
            }
            let lanes = packet(length);
            let mut group = c.benchmark_group(format!("find/{rules} rules/{place}"));
            group.bench_function(BenchmarkId::new("1 list", kernel), |b| {
                b.iter_custom(|packets| {
                    fastest(packets, || {
                        for _ in 0..BURST {
                            black_box(judge(&hot, kernel, &lanes));
                        }
                    })
                });
            });
            group.bench_function(BenchmarkId::new("10000 lists", kernel), |b| {
                let mut bursts = order.chunks_exact(BURST).cycle();
                b.iter_custom(|packets| {
                    fastest(packets, || {
                        for list in bursts.next().unwrap_or_default() {
                            black_box(judge(list, kernel, &lanes));
                        }
                    })
                });
            });
        }
    }
}

fn limiter(c: &mut Criterion) {
    let mut limiters = Limiters::new(100_000, NonZeroU32::MIN);
    let mut now = 0;
    let mut index = 0;
    let mut group = c.benchmark_group("limiter");
    for (name, step) in [("1 limiter", 0), ("100000 limiters", 7_919)] {
        group.bench_function(name, |b| {
            b.iter_custom(|packets| {
                fastest(packets, || {
                    for _ in 0..BURST {
                        now += 50;
                        index = (index + step) % 100_000;
                        black_box(limiters.allow(index, black_box(10_000), 100, Timestamp(now)));
                    }
                })
            });
        });
    }
}

fn quick() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .sample_size(20)
}

criterion_group! { name = benches; config = quick(); targets = find, limiter }
criterion_main!(benches);
