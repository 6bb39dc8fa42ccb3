//! What it costs to know a packet's source: the class of an address in sets of a million prefixes, for random sources
//! and for sources out of the sets, and how long such sets take to build. Nanoseconds per packet (criterion's `time`,
//! since each iteration is one packet); a sample counts as its fastest thousand packets, so that figures from a shared
//! machine mean something. The bytes of the tables are printed once.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use levee_api::lane::{Bits, LANES, Lane};
use levee_api::prefix::Prefix;
use levee_engine::filter::SourceSets;
use levee_engine::filter::sources::{Ranges, Set};
use levee_engine::isa::Isa;
use levee_engine::packet::{Kind, Lanes, Parsed};
use levee_engine::pipeline::BURST;

/// Packets that are measured at once.
const RUN: usize = 16 * BURST;
/// Packets of the traffic: more than caches hold of the tables they lead to.
const PACKETS: usize = 1 << 18;
const MILLION: u32 = 1_000_000;

/// A repeatable stream of numbers (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn ipv4(&mut self) -> IpAddr {
        IpAddr::V4(u32::try_from(self.next() >> 32).unwrap_or(0).into())
    }

    /// In 2000::/3, of which 2 048 /16s; the rest random.
    fn ipv6(&mut self) -> IpAddr {
        let high = 0x2000_u64 << 48 | self.next() >> 5;
        IpAddr::V6((u128::from(high) << 64 | u128::from(self.next())).into())
    }
}

/// 600 000 /32, 250 000 /24, 149 000 /16 to /23, 1 000 /25 to /31.
fn mix_ipv4(numbers: &mut Numbers) -> Vec<Prefix> {
    let length = |n: u32, numbers: &mut Numbers| match n {
        0..600_000 => 32,
        600_000..850_000 => 24,
        850_000..999_000 => 16 + numbers.below(8),
        _ => 25 + numbers.below(7),
    };
    let drawn = |n| {
        let length = length(n, numbers);
        Prefix::containing(numbers.ipv4(), u8::try_from(length).unwrap_or(32))
    };
    (0..MILLION).map(drawn).collect()
}

/// 400 000 /64, 300 000 /48, 200 000 /128, 100 000 /29 to /44.
fn mix_ipv6(numbers: &mut Numbers) -> Vec<Prefix> {
    let length = |n: u32, numbers: &mut Numbers| match n {
        0..400_000 => 64,
        400_000..700_000 => 48,
        700_000..900_000 => 128,
        _ => 29 + numbers.below(16),
    };
    let drawn = |n| {
        let length = length(n, numbers);
        Prefix::containing(numbers.ipv6(), u8::try_from(length).unwrap_or(64))
    };
    (0..MILLION).map(drawn).collect()
}

/// The traffic, over and over.
type Runs<'a> = std::iter::Cycle<std::slice::ChunksExact<'a, Lanes>>;

fn lanes(address: IpAddr) -> Lanes {
    let mut lanes = Lanes([0; LANES]);
    let (value, bits) = match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), Bits::empty()),
        IpAddr::V6(address) => (u128::from(address), Bits::IPV6),
    };
    for (piece, lane) in lanes.0.iter_mut().take(8).enumerate() {
        *lane = u16::try_from(value >> (112 - 16 * piece) & 0xffff).unwrap_or(0);
    }
    lanes.set(Lane::Bits, bits.bits());
    lanes
}

/// Sources out of the prefixes, in an order that the CPU cannot guess.
fn members(prefixes: &[Prefix], numbers: &mut Numbers) -> Vec<Lanes> {
    let count = u64::try_from(prefixes.len()).unwrap_or(1);
    let member = |_| {
        let at = usize::try_from(numbers.below(count)).unwrap_or(0);
        prefixes.get(at).map(|prefix| lanes(prefix.address()))
    };
    (0..PACKETS).filter_map(member).collect()
}

fn set(prefixes: &[Prefix]) -> Set {
    Set { ranges: prefixes.iter().copied().collect(), keeps_protected: false }
}

/// What classifying `packets` packets takes when all go as fast as the fastest run of bursts. The lanes of a run are in
/// the cache before, as they are when parsing has just written them.
fn fastest(packets: u64, table: &SourceSets, runs: &mut Runs<'_>) -> Duration {
    let (isa, mut classes) = (Isa::detect(), [0; BURST]);
    let mut run = |_| {
        let rows = runs.next().unwrap_or_default().chunks_exact(BURST);
        let hot: Vec<Parsed> = rows.map(|rows| Parsed::of_rows(rows.iter().map(|row| (*row, Kind::Tcp)))).collect();
        let begin = Instant::now();
        for burst in black_box(&hot) {
            table.prefetch(burst.columns.of(Lane::Src6));
            table.classify(isa, burst, BURST, &mut classes);
            black_box(&mut classes);
        }
        begin.elapsed()
    };
    let fastest = (0..packets.div_ceil(RUN as u64)).map(&mut run).min().unwrap_or_default();
    fastest.mul_f64(packets as f64 / RUN as f64)
}

fn classify(c: &mut Criterion) {
    let mut numbers = Numbers(1);
    let hosts: Vec<Prefix> = (0..MILLION).map(|_| Prefix::host(numbers.ipv4())).collect();
    let mixes = [("1M /32", hosts), ("1M mixed", mix_ipv4(&mut numbers)), ("1M IPv6", mix_ipv6(&mut numbers))];
    for (name, prefixes) in mixes {
        let Ok(table) = SourceSets::build(&[set(&prefixes)], &Ranges::default()) else { continue };
        println!("{name}: {} MiB", table.bytes() >> 20);
        let is_ipv4 = prefixes.first().is_some_and(Prefix::is_ipv4);
        let random: Vec<Lanes> =
            (0..PACKETS).map(|_| lanes(if is_ipv4 { numbers.ipv4() } else { numbers.ipv6() })).collect();
        let mut group = c.benchmark_group(format!("classify/{name}"));
        for (sources, traffic) in [("random sources", random), ("members", members(&prefixes, &mut numbers))] {
            let mut runs = traffic.chunks_exact(RUN).cycle();
            group.bench_function(sources, |b| b.iter_custom(|packets| fastest(packets, &table, &mut runs)));
        }
    }
    let (empty, traffic) = (SourceSets::default(), [lanes(numbers.ipv4()); RUN]);
    let mut runs = traffic.chunks_exact(RUN).cycle();
    c.bench_function("classify/no sets", |b| b.iter_custom(|packets| fastest(packets, &empty, &mut runs)));
}

fn build(c: &mut Criterion) {
    let mut numbers = Numbers(2);
    let mixes = [("IPv4", mix_ipv4(&mut numbers)), ("IPv6", mix_ipv6(&mut numbers))];
    let mut group = c.benchmark_group("build 1M prefixes");
    group.sample_size(10);
    for (name, prefixes) in mixes {
        let sets = [set(&prefixes)];
        group.bench_function(name, |b| b.iter(|| SourceSets::build(&sets, &Ranges::default())));
    }
}

fn quick() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .sample_size(20)
}

criterion_group! { name = benches; config = quick(); targets = classify, build }
criterion_main!(benches);
