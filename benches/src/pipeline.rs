//! The data path alone, over packet buffers that were filled before: no port, no copy, no other thread.
//!
//! Frames lie in one allocation, as far apart as in a pool of DPDK, and are judged in bursts as a worker does it, the next
//! burst being fetched from memory meanwhile. A *working set* is as many packets as there are before they come again.

use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use levee_api::address_set::{AddressSet, ListFormat, SetAction};
use levee_api::config::Config;
use levee_api::filter::{Filter, Origin};
use levee_api::time::Timestamp;
use levee_api::zone::Mode;
use levee_engine::detect::detector::TICK;
use levee_engine::engine::{Engine, Settings};
use levee_engine::filter::SourceSets;
use levee_engine::filter::sources::{Ranges, Set};
use levee_engine::isa::{Isa, prefetch};
use levee_engine::packet::{Direction, Packet};
use levee_engine::pipeline::{BURST, Pipeline};
use levee_engine::tables::OnFailure;
use levee_engine::verdict::Verdict;
use nix::time::ClockId;
use serde::Serialize;

use crate::measure::{self, Plan, median};
use crate::program::{BUFFER_BYTES, Interrupt, MeasureError};
use crate::row;
use crate::site::{self, Family, Mitigations};
use crate::sources::{self, PREFIXES};
use crate::traffic::{Kind, Traffic};

/// Of each worker: what `levee-dataplane run` takes.
const CONVERSATIONS: usize = 1 << 20;
const HOSTS: usize = 1 << 16;
const FILTERS: u32 = 1 << 17;
/// More than any table of state holds but that of conversations, and as many as that.
const ENTRIES: u32 = 1 << 20;
/// Where a frame begins in its buffer: `rte_mempool_objhdr`, `rte_mbuf` and headroom.
const FRAME_AT: usize = 64 + 128 + 128;
const CACHE_LINE: usize = 64;
const STRIDE: usize = BUFFER_BYTES as usize;
/// Longest frame that is kept.
const ROOM: usize = 128;
const START: Timestamp = Timestamp(1_000_000_000_000);
/// What the clock is taken to advance by with each burst: 64 packets at 30 million a second.
const PER_BURST: Duration = Duration::from_nanos(2_133);

/// Packets in buffers.
pub struct Buffers {
    bytes: Vec<u8>,
    lengths: Vec<u16>,
}

/// A data path with its policy.
pub struct Site {
    engine: Engine,
    pipeline: Pipeline,
    now: Timestamp,
    next_tick: Timestamp,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Packets before they come again.
    pub working_set: u32,
    /// Instructions used.
    pub isa: &'static str,
    /// Nanoseconds per packet, one for each repetition.
    pub ns: Vec<f64>,
    /// Share of packets dropped.
    pub dropped: f64,
}

impl Figures {
    /// Nanoseconds per packet: the value in the middle.
    pub fn median(&self) -> f64 {
        median(&self.ns)
    }

    /// Nanoseconds per packet: the smallest value.
    pub fn best(&self) -> f64 {
        self.ns.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

impl Buffers {
    /// Fills them.
    pub fn of(traffic: Traffic) -> Self {
        let mut buffers = Self { bytes: Vec::new(), lengths: Vec::new() };
        let packets = usize::try_from(traffic.packets).unwrap_or(0);
        buffers.bytes.resize(packets * STRIDE, 0);
        let mut places = buffers.bytes.chunks_exact_mut(STRIDE);
        let filled: io::Result<()> = traffic.compose(|frame| {
            let place = places.next().and_then(|buffer| buffer.get_mut(FRAME_AT..FRAME_AT + frame.len().min(ROOM)));
            if let Some(place) = place {
                place.copy_from_slice(frame.get(..place.len()).unwrap_or_default());
                buffers.lengths.push(u16::try_from(place.len()).unwrap_or(u16::MAX));
            }
            Ok(())
        });
        debug_assert!(filled.is_ok(), "nothing is written");
        buffers
    }

    /// All packets, in bursts.
    pub fn bursts(&self) -> impl Iterator<Item = Vec<Packet<'_>>> {
        let mut first = 0;
        std::iter::from_fn(move || {
            let mut burst = Burst::empty();
            self.fetch(first, &mut burst);
            first += burst.count;
            (burst.count > 0).then(|| burst.packets().to_vec())
        })
    }

    /// The packets of a burst, asked for from memory.
    fn fetch<'b>(&'b self, first: usize, burst: &mut Burst<'b>) {
        let lengths = self.lengths.get(first..).unwrap_or_default();
        let buffers = self.bytes.get(first * STRIDE..).unwrap_or_default().chunks_exact(STRIDE);
        burst.count = 0;
        for ((packet, buffer), length) in burst.packets.iter_mut().zip(buffers).zip(lengths) {
            let head = buffer.get(FRAME_AT..FRAME_AT + usize::from(*length)).unwrap_or_default();
            head.first().into_iter().for_each(prefetch);
            head.get(CACHE_LINE..).and_then(<[u8]>::first).into_iter().for_each(prefetch);
            *packet = Packet { head, wire_len: u32::from(*length) };
            burst.count += 1;
        }
    }
}

struct Burst<'b> {
    packets: [Packet<'b>; BURST],
    count: usize,
}

impl<'b> Burst<'b> {
    fn empty() -> Self {
        Self { packets: [Packet { head: &[], wire_len: 0 }; BURST], count: 0 }
    }

    fn packets(&self) -> &[Packet<'b>] {
        self.packets.get(..self.count).unwrap_or_default()
    }
}

impl Site {
    /// A data path with the filters that the traffic is made for, and so many source prefixes in a set that drops.
    pub fn new(traffic: Traffic, isa: Isa, prefixes: u32) -> Self {
        let settings = Settings {
            workers: NonZeroU32::MIN,
            conversations: CONVERSATIONS,
            hosts: HOSTS,
            filters: FILTERS,
            secret: (3, 4),
            ceiling: Mode::Enforce,
            evicted: OnFailure::Pass,
            too_deep: OnFailure::Pass,
            spare_slots: 0,
            learn_only: false,
            isa,
        };
        let text = format!("schema = 1\n{}", site::zone_text());
        let config = Config::parse("levee.toml", &text).unwrap_or_else(|error| unreachable!("{error:?}"));
        let (mut engine, pipelines) =
            Engine::build(&config.zones, &[], settings, START).unwrap_or_else(|error| unreachable!("{error}"));
        let pipeline = pipelines.into_iter().next().unwrap_or_else(|| unreachable!("one worker"));
        for request in traffic.mitigations.requests(traffic.family) {
            let filter = Filter {
                id: 0,
                target: request.target,
                roles: request.roles,
                rule: request.rule,
                action: request.action,
                deadline: Timestamp::NEVER,
                origin: Origin::ControlPlane { owner: request.owner },
                witness: request.witness,
            };
            engine.detector.measures.install_external(filter).unwrap_or_else(|error| unreachable!("{error}"));
        }
        let mut known = Set::default();
        sources::prefixes(traffic.family, prefixes).for_each(|prefix| known.ranges.add(prefix));
        let sets = SourceSets::build(&[known], &Ranges::default()).unwrap_or_else(|error| unreachable!("{error}"));
        let described = AddressSet {
            name: "known".to_owned(),
            files: Vec::new(),
            format: ListFormat::Auto,
            prefixes: Vec::new(),
            action: SetAction::Drop,
            zones: Vec::new(),
        };
        engine.replace_sources(Arc::new(sets), vec![described]);
        engine.settle(START);
        Self { engine, pipeline, now: START, next_tick: START + TICK }
    }

    /// Fills the tables: with conversations from inside, with fragments, and with hosts of IPv6.
    fn fill(&mut self, traffic: Traffic) {
        let (many, v6) = (Traffic { packets: ENTRIES, ..traffic }, Family::V6);
        let fillings = [
            (Direction::Outbound, Traffic { packets: 2 * ENTRIES, kind: Kind::FromInside, ..traffic }),
            (Direction::Inbound, Traffic { kind: Kind::Fragments, ..many }),
            (Direction::Inbound, Traffic { family: v6, mitigations: Mitigations::NONE, kind: Kind::Plain, ..many }),
        ];
        for (direction, traffic) in fillings {
            // Judged as they are made: they are too many to keep.
            let filled: io::Result<()> = traffic.compose(|frame| {
                let wire_len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
                let packet = Packet { head: frame, wire_len };
                self.pipeline.burst(0, direction, &[packet], self.now, &mut [Verdict::Forward]);
                Ok(())
            });
            debug_assert!(filled.is_ok(), "nothing is written");
        }
    }

    /// Judges all packets once; returns the time that took, ticks left out, and how many were dropped.
    pub fn pass(&mut self, buffers: &Buffers) -> (Duration, u64) {
        let (mut burst, mut next) = (Burst::empty(), Burst::empty());
        let mut verdicts = [Verdict::Forward; BURST];
        let (mut first, mut spent, mut dropped) = (0, Duration::ZERO, 0);
        let mut begin = on_cpu();
        buffers.fetch(first, &mut burst);
        while burst.count > 0 {
            first += burst.count;
            buffers.fetch(first, &mut next);
            let verdicts = verdicts.get_mut(..burst.count).unwrap_or_default();
            self.pipeline.burst(0, Direction::Inbound, burst.packets(), self.now, verdicts);
            dropped += verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Drop(_))).count() as u64;
            self.now = self.now + PER_BURST;
            if self.now >= self.next_tick {
                spent += on_cpu().saturating_sub(begin);
                self.engine.tick(self.now);
                self.engine.detector.take_events();
                self.next_tick = self.now + TICK;
                begin = on_cpu();
            }
            std::mem::swap(&mut burst, &mut next);
        }
        (spent + on_cpu().saturating_sub(begin), dropped)
    }

    /// Judges the packets so often that each repetition lasts at least `length`.
    pub fn measure(&mut self, buffers: &Buffers, isa: Isa, times: usize, length: Duration) -> Figures {
        let packets = buffers.lengths.len().max(1);
        self.pass(buffers);
        let mut figures = Figures {
            working_set: u32::try_from(packets).unwrap_or(u32::MAX),
            isa: isa.name(),
            ns: Vec::new(),
            dropped: 0.0,
        };
        for _ in 0..times {
            let (mut spent, mut judged, mut dropped) = (Duration::ZERO, 0_u64, 0_u64);
            while spent < length {
                let (took, drops) = self.pass(buffers);
                spent += took;
                judged += packets as u64;
                dropped += drops;
            }
            figures.ns.push(spent.as_secs_f64() * 1e9 / judged as f64);
            figures.dropped = dropped as f64 / judged as f64;
        }
        figures
    }
}

/// Time that this thread has been on a CPU: what else runs there does not count.
fn on_cpu() -> Duration {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().map(Duration::from).unwrap_or_default()
}

/// What the pipeline layer of the table measures.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What it shows.
    pub what: &'static str,
    /// The packets, and with them the filters; as many as the working set says.
    pub traffic: Traffic,
    /// Instructions that may be used.
    pub isa: Isa,
    /// Packets before they come again.
    pub working_sets: &'static [u32],
}

/// What became of a case.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What it shows.
    pub what: &'static str,
    /// What was measured, one for each working set.
    pub figures: Vec<Figures>,
}

/// All cases.
pub fn cases() -> Vec<Case> {
    const ALL: &[u32] = &[256, 1_024, 4_096, 16_384, 65_536, 262_144];
    const ONE: &[u32] = &[65_536];
    let best = Isa::detect();
    let case = |name: &str, what, isa, working_sets| {
        row::find(name).map(|row| Case { what, traffic: row.subject.traffic, isa, working_sets })
    };
    let slower = Isa::available().filter(|isa| isa.name() != best.name());
    [
        case("no-attack", "no filter", best, ALL),
        case("full", "10 000 targets x 10 filters, 500 lists", best, ALL),
        case("full-distinct", "10 000 targets x 10 filters, 10 000 lists", best, ALL),
        case("ipv6", "IPv6, 500 lists", best, ONE),
        case("vlan", "VLAN-tagged, 500 lists", best, ONE),
        case("fragments", "fragments, 500 lists", best, ONE),
        case("malformed", "malformed", best, ONE),
    ]
    .into_iter()
    .chain(slower.map(|isa| case("full", "10 000 targets x 10 filters, 500 lists", isa, ONE)))
    .flatten()
    .collect()
}

/// Rates with full tables and with empty ones, by turns.
///
/// # Errors
/// Only when interrupted.
pub fn full_against_empty(
    traffic: Traffic,
    plan: &Plan,
    interrupt: Interrupt,
) -> Result<measure::Figures, MeasureError> {
    let isa = Isa::detect();
    let buffers = Buffers::of(traffic);
    let mut empty = Site::new(traffic, isa, PREFIXES);
    let mut full = Site::new(traffic, isa, PREFIXES);
    full.fill(traffic);
    let mut figures = measure::Figures::default();
    for _ in 0..plan.times.max(3) {
        interrupt.pause(Duration::ZERO)?;
        let mpps = |site: &mut Site| 1e3 / site.measure(&buffers, isa, 1, plan.interval.length).median();
        figures.reference.push(mpps(&mut empty));
        figures.subject.push(mpps(&mut full));
    }
    Ok(figures)
}

/// Measures a case.
pub fn measure(case: &Case, times: usize, length: Duration) -> Outcome {
    let mut site = Site::new(case.traffic, case.isa, PREFIXES);
    let figures = case.working_sets.iter().map(|packets| {
        let buffers = Buffers::of(Traffic { packets: *packets, ..case.traffic });
        site.measure(&buffers, case.isa, times, length)
    });
    Outcome { what: case.what, figures: figures.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matches_is_dropped_or_limited_at_every_level_of_instructions() {
        let traffic = Traffic { packets: 4_096, ..row::find("full").map(|row| row.subject.traffic).expect("a row") };
        let mitigations = Mitigations { targets: 100, ..traffic.mitigations };
        let traffic = Traffic { mitigations, ..traffic };
        let buffers = Buffers::of(traffic);
        let dropped = Isa::available().map(|isa| Site::new(traffic, isa, 1_000).pass(&buffers).1).collect::<Vec<_>>();
        assert!(dropped.iter().all(|dropped| (1_050..1_800).contains(dropped)), "28 to 40 % of 4 096: {dropped:?}");
        assert!(dropped.windows(2).all(|pair| pair[0] == pair[1]), "{dropped:?}");
    }
}
