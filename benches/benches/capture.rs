//! What capturing costs a worker per packet of a burst: closed, in peace, with an alarmed target and the budget used up, and
//! when every packet is copied. Divide by 64.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use levee_api::role::Role;
use levee_api::time::Timestamp;
use levee_engine::capture::{Offer, Settings, Tap};
use levee_engine::packet::{Direction, Packet};
use levee_engine::pipeline::BURST;
use levee_engine::verdict::Verdict;

/// A burst each 3 µs: 21 million packets a second.
const GAP_NS: u64 = 3_000;

fn burst(tap: &mut Tap, frame: &[u8], now: Timestamp, alarmed: Option<u64>) {
    let packet = Packet { head: frame, wire_len: 60 };
    let is_alarmed = alarmed.map(|mask| move |at: usize| mask >> at & 1 == 1);
    tap.burst(BURST, now, is_alarmed, |_| {
        Some(Offer {
            packet,
            at: now,
            wire: 0,
            direction: Direction::Inbound,
            verdict: Verdict::Forward,
            reason: None,
            filter: None,
            role: Some(Role::Syn),
        })
    });
}

fn tap(criterion: &mut Criterion) {
    let shipped = Settings { ring_bytes: 16 << 20, peace_one_in: 16, bytes_per_second: 8 << 20 };
    let unlimited = Settings { bytes_per_second: u64::MAX, ..shipped };
    let none = Settings { peace_one_in: u32::MAX, ..shipped };
    let cases = [
        ("closed", None, None),
        ("peace, nothing's turn", Some(none), None),
        ("peace, as shipped", Some(shipped), None),
        ("alarmed, as shipped", Some(shipped), Some(u64::MAX)),
        ("alarmed, nothing of the target", Some(Settings { peace_one_in: u32::MAX, ..unlimited }), Some(0)),
        ("every packet copied", Some(unlimited), Some(u64::MAX)),
    ];
    let frame = [7; 60];
    let mut group = criterion.benchmark_group("capture, burst of 64");
    for (name, settings, alarmed) in cases {
        let opened = settings.map(|settings| Tap::new(&settings));
        let (mut tap, _ring) = opened.map_or((Tap::closed(), None), |(tap, ring)| (tap, Some(ring)));
        let mut now = Timestamp(1_000_000_000);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                now = Timestamp(now.0 + GAP_NS);
                burst(&mut tap, black_box(&frame), now, black_box(alarmed));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, tap);
criterion_main!(benches);
