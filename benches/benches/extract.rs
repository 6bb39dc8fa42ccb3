//! What a signature extraction costs: 2 048 samples of an attack against 4 096 legitimate ones. The budget is 10 ms in
//! 99 of 100 runs on one core; criterion tells the mean, and the last lines the percentiles over differing samples, in time
//! on the CPU, so that what else runs on the machine does not count.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use levee_api::lane::{Bits, Lane, TcpFlags};
use levee_api::role::Role;
use levee_api::time::Timestamp;
use levee_engine::detect::extract::{Job, MAX_RESERVOIR, MAX_WINDOW, extract};
use levee_engine::packet::Lanes;
use levee_engine::sample::{SAMPLE_PAYLOAD, Sample};
use nix::time::ClockId;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u16) -> u16 {
        u16::try_from(self.next() % u64::from(limit)).unwrap_or(0)
    }
}

/// A packet whose fields take a few values each, `offset` apart from those of another population.
fn packet(role: Role, offset: u16, values: u16, random: &mut Random) -> Sample {
    let tcp = role == Role::Syn;
    let mut lanes = Lanes::default();
    let mut draw = |lane, base: u16, step: u16| lanes.set(lane, base + (offset + random.below(values)) * step);
    draw(Lane::IpLength, 40, 4);
    draw(Lane::Ttl, 40, 1);
    draw(Lane::TcpWindow, if tcp { 1000 } else { 0 }, u16::from(tcp) * 100);
    draw(Lane::Digest, 7, u16::from(tcp) * 1001);
    draw(Lane::TcpMss, 1400, u16::from(tcp) * 4);
    draw(Lane::Ident, 1, 3);
    draw(Lane::Src6, 0x2000, 77);
    draw(Lane::DstPort, 443, 0);
    lanes.set(Lane::Protocol, if tcp { 6 } else { 17 });
    lanes.set(Lane::TcpFlags, if tcp { TcpFlags::SYN.bits() } else { 0 });
    lanes.set(Lane::SrcPort, 1024 + random.below(60_000));
    lanes.set(Lane::Src7, random.below(u16::MAX));
    lanes.set(Lane::Bits, (Bits::PORTS | Bits::DONT_FRAGMENT).bits());
    let mut payload = [0; SAMPLE_PAYLOAD];
    if !tcp {
        for byte in &mut payload {
            *byte = u8::try_from((offset + random.below(values.min(4))) & 0xff).unwrap_or(0);
        }
        lanes.set(Lane::PayloadLength, lanes.get(Lane::IpLength).saturating_sub(28).max(32));
        lanes.set(Lane::Payload0, u16::from_be_bytes([payload[0], payload[1]]));
        lanes.set(Lane::Payload2, u16::from_be_bytes([payload[2], payload[3]]));
    }
    Sample {
        lanes,
        payload,
        at: Timestamp(0),
        conversation: random.next(),
        slot: 0,
        role,
        passed: true,
        present: if tcp { 0 } else { 32 },
    }
}

/// A job whose attack differs from legitimate traffic by `offset` of `values` values of each field.
fn job(role: Role, offset: u16, values: u16, seed: u64) -> Job {
    let mut random = Random(seed);
    let mut many = |count: usize, offset| (0..count).map(|_| packet(role, offset, values, &mut random)).collect();
    Job {
        role,
        attack: many(MAX_WINDOW, offset),
        legitimate: many(MAX_RESERVOIR, 0),
        rho: 0.05,
        excess: 0.9,
        installed: Vec::new(),
        first_pass: false,
        allow_limit: false,
        only_unnatural: false,
        is_common: false,
        served: Vec::new(),
    }
}

/// Time that this thread has been on a CPU.
fn on_cpu() -> Duration {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().map(Duration::from).unwrap_or_default()
}

/// Name, role, offset and number of values.
const CASES: [(&str, Role, u16, u16); 5] = [
    ("syn, one shape beside one other", Role::Syn, 1, 1),
    ("syn, half of 20 values differ", Role::Syn, 10, 20),
    ("syn, nothing separates", Role::Syn, 0, 20),
    ("udp, half of 20 values differ", Role::UdpOpen, 10, 20),
    ("udp, nothing separates", Role::UdpOpen, 0, 12),
];

fn extraction(criterion: &mut Criterion) {
    for (name, role, offset, values) in CASES {
        let job = job(role, offset, values, 1);
        criterion.bench_function(&format!("extract: {name}"), |bencher| bencher.iter(|| extract(black_box(&job))));
    }
    for (name, role, offset, values) in CASES {
        let mut times: Vec<Duration> = (0..200)
            .map(|seed| {
                let job = job(role, offset, values, seed);
                let start = on_cpu();
                black_box(extract(black_box(&job)));
                on_cpu().saturating_sub(start)
            })
            .collect();
        times.sort_unstable();
        let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
        println!("extract: {name}: p50 {:?}, p99 {:?}", at(50), at(99));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(2));
    targets = extraction
}
criterion_main!(benches);
