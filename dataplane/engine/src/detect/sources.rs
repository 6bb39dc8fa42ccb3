//! Who sends how much inside conversations: the most that one source sends to a target in peace, and whether few send nearly
//! all of it when it is more than ever. From samples; packets without data are left out, since each of them acknowledges
//! something that inside has sent.

use std::collections::HashMap;
use std::net::IpAddr;

use levee_api::lane::{Bits, Lane};

use crate::packet::{Lanes, tcp};
use crate::sample::Sample;
use crate::target::plan::destination_address;

/// What a source may send to a target whatever was learned, in packets a second: calls and games.
pub const LEAST_PPS: f32 = 128.0;
/// More than this many times what a source may send is too much: one that has just begun sends in bursts.
const FACTOR: f32 = 3.0;
/// And may send more than any has in peace: of a crowd some are nearer, and faster.
const GROWTH: f32 = 1.5;
/// Fewer sources than this are no attack, whatever they send: a backup, a migration.
const SOURCES: u32 = 4;
/// Fewer samples than this say nothing about the rate of a source.
const ENOUGH: u32 = 8;
/// This much of what arrives comes from sources that send too much.
const MOST: f32 = 0.5;
/// Pairs that are told apart in a second.
const MOST_PAIRS: usize = 1 << 14;

/// Samples of about a second, by target and source.
#[derive(Debug, Default)]
pub struct Sources {
    targets: HashMap<IpAddr, u32>,
    pairs: HashMap<(IpAddr, u64), u32>,
}

/// What one target received, as far as samples tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heaviest {
    /// The target.
    pub target: IpAddr,
    /// Share of its packets that were data of one source, at most.
    pub share: f32,
}

/// Sources that send more than any does in peace.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Overrun {
    /// How many.
    pub sources: u32,
    /// Their part of what arrives inside conversations.
    pub share: f32,
    /// What each of them exceeds, packets a second.
    pub above_pps: f32,
}

impl Sources {
    /// Takes in a sample.
    pub fn note(&mut self, sample: &Sample) {
        let target = destination_address(&sample.lanes);
        if self.pairs.len() >= MOST_PAIRS {
            return;
        }
        *self.targets.entry(target).or_default() += 1;
        if has_data(&sample.lanes) {
            *self.pairs.entry((target, source(&sample.lanes))).or_default() += 1;
        }
    }

    /// The heaviest source of each target since the last call.
    pub fn take(&mut self) -> Vec<Heaviest> {
        let targets = std::mem::take(&mut self.targets);
        let mut most: HashMap<IpAddr, u32> = HashMap::new();
        for ((target, _), count) in self.pairs.drain() {
            let known = most.entry(target).or_default();
            *known = count.max(*known);
        }
        let share = |target: IpAddr, of: u32| ratio(most.get(&target).copied().unwrap_or(0), of);
        targets.into_iter().map(|(target, of)| Heaviest { target, share: share(target, of) }).collect()
    }
}

/// What a source may send to a target, packets a second, where one has sent `most` in peace.
pub fn limit_pps(most: f32) -> f32 {
    (GROWTH * most).max(LEAST_PPS)
}

/// Which sources are far above the limit, by samples of what arrives inside conversations at a rate of `rate` packets a second.
pub fn overrun<'a>(samples: impl Iterator<Item = &'a Sample>, rate: f32, limit_pps: f32) -> Overrun {
    let (mut all, mut counts) = (0, HashMap::<u64, u32>::new());
    for sample in samples {
        all += 1;
        if has_data(&sample.lanes) {
            *counts.entry(source(&sample.lanes)).or_default() += 1;
        }
    }
    let above_pps = FACTOR * limit_pps;
    let is_over = |count: &u32| *count >= ENOUGH && ratio(*count, all) * rate > above_pps;
    let over = counts.values().filter(|count| is_over(count));
    let (sources, packets) = over.fold((0, 0), |(sources, packets), count| (sources + 1, packets + count));
    Overrun { sources, share: ratio(packets, all), above_pps }
}

impl Overrun {
    /// True when it is evidence: several sources do nearly all of it, and each more than any in peace.
    pub fn is_evidence(&self) -> bool {
        self.sources >= SOURCES && self.share >= MOST
    }
}

/// A segment with data, or a datagram.
fn has_data(lanes: &Lanes) -> bool {
    lanes.get(Lane::Protocol) != u16::from(tcp::PROTOCOL) || lanes.get(Lane::PayloadLength) > 0
}

/// The source: of IPv6 its network of 64 bits.
fn source(lanes: &Lanes) -> u64 {
    let [a, b, c, d, e, f, g, h] = lanes.source().map(u64::from);
    if lanes.bits().contains(Bits::IPV6) { a << 48 | b << 32 | c << 16 | d } else { e << 48 | f << 32 | g << 16 | h }
}

fn ratio(part: u32, of: u32) -> f32 {
    crate::detect::window::as_f32(part) / crate::detect::window::as_f32(of.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use levee_api::role::Role;
    use levee_api::time::Timestamp;

    use crate::sample::SAMPLE_PAYLOAD;

    /// Packets of `sources` sources, each as many, that send data or acknowledge it.
    fn of(sources: u16, data: bool) -> Vec<Sample> {
        (0..1_000_u16)
            .map(|number| {
                let mut packet = blank();
                packet.lanes.set(Lane::Protocol, 6);
                packet.lanes.set(Lane::Src7, number % sources);
                packet.lanes.set(Lane::PayloadLength, if data { 1_400 } else { 0 });
                packet
            })
            .collect()
    }

    fn blank() -> Sample {
        Sample {
            lanes: Lanes::default(),
            payload: [0; SAMPLE_PAYLOAD],
            at: Timestamp::ZERO,
            conversation: 0,
            slot: 0,
            role: Role::Established,
            passed: true,
            present: 0,
        }
    }

    fn is_evidence(samples: &[Sample], rate: f32, most: f32) -> bool {
        overrun(samples.iter(), rate, limit_pps(most)).is_evidence()
    }

    #[test]
    fn sources_that_send_more_than_any_in_peace_are_evidence() {
        assert!(is_evidence(&of(40, true), 20_000.0, 100.0), "500 a second each where 100 were the most");
        assert!(!is_evidence(&of(40, true), 20_000.0, 120.0), "of a crowd some are faster");
    }

    #[test]
    fn a_crowd_an_upload_and_a_download_are_none() {
        assert!(!is_evidence(&of(900, true), 20_000.0, 0.0), "22 a second each");
        assert!(!is_evidence(&of(2, true), 20_000.0, 200.0), "two backups");
        assert!(!is_evidence(&of(40, false), 20_000.0, 200.0), "who only acknowledges is downloading");
    }

    #[test]
    fn the_heaviest_source_of_a_target_is_known_by_its_share() {
        let mut sources = Sources::default();
        of(4, true).iter().chain(&of(1, false)).for_each(|sample| sources.note(sample));
        let [heaviest] = sources.take()[..] else { panic!("one target") };
        assert!((heaviest.share - 0.125).abs() < 1e-3, "{heaviest:?}");
        assert!(sources.take().is_empty());
    }
}
