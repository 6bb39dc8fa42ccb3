//! What legitimate traffic looks like: samples per zone and role that signatures are checked against.
//!
//! A sample enters a second after it was taken, and only if no attack has shown itself meanwhile: while the role's rate
//! in the zone stays below the largest learned, or, while the role is alarmed, if its conversation proved itself. Else a
//! slow ramp would fill the reservoir with the attack.

use std::collections::VecDeque;
use std::time::Duration;

use levee_api::time::Timestamp;

use crate::sample::Sample;

/// Samples kept per role of a zone.
pub const CAPACITY: usize = 4096;
/// How long a sample waits.
const DELAY: Duration = Duration::from_secs(1);
/// Waiting samples; beyond that the newest are not taken.
const WAITING: usize = 8192;

/// Samples of one role in one zone.
#[derive(Debug, Default)]
pub struct Reservoir {
    kept: Vec<Sample>,
    waiting: VecDeque<Sample>,
    offered: u64,
    seed: u64,
}

/// Whether samples that have waited may enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Peace: all.
    All,
    /// The role is alarmed, or busier than ever in peace: those whose conversation proved itself.
    Proven,
}

impl Reservoir {
    /// Takes a sample to wait.
    pub fn offer(&mut self, sample: Sample) {
        if self.waiting.len() < WAITING {
            self.waiting.push_back(sample);
        }
    }

    /// Admits what has waited long enough.
    pub fn admit(&mut self, admission: Admission, proven: impl Fn(&Sample) -> bool, now: Timestamp) {
        while let Some(sample) = self.waiting.front().copied() {
            if now.since(sample.at) < DELAY {
                break;
            }
            self.waiting.pop_front();
            if admission == Admission::All || proven(&sample) {
                self.keep(sample);
            }
        }
    }

    /// Reservoir sampling with a bias to the recent: once full, a newcomer replaces a random one.
    fn keep(&mut self, sample: Sample) {
        self.offered += 1;
        if self.kept.len() < CAPACITY {
            self.kept.push(sample);
            return;
        }
        // SplitMix64: which one leaves need not be secret, but must be the same in every replay.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let at = usize::try_from(mixed >> 40).unwrap_or(0) % CAPACITY;
        if let Some(old) = self.kept.get_mut(at) {
            *old = sample;
        }
    }

    /// The samples.
    pub fn samples(&self) -> &[Sample] {
        &self.kept
    }

    /// Puts back the samples of a snapshot.
    pub fn restore(&mut self, samples: Vec<Sample>) {
        self.kept = samples;
        self.kept.truncate(CAPACITY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Lanes;
    use crate::sample::SAMPLE_PAYLOAD;
    use levee_api::role::Role;

    fn sample(conversation: u64, at: u64) -> Sample {
        Sample {
            lanes: Lanes::default(),
            payload: [0; SAMPLE_PAYLOAD],
            at: Timestamp(at),
            conversation,
            slot: 0,
            role: Role::Syn,
            passed: true,
            present: 0,
        }
    }

    #[test]
    fn samples_wait_a_second() {
        let mut reservoir = Reservoir::default();
        reservoir.offer(sample(1, 1_000_000_000));
        reservoir.admit(Admission::All, |_| false, Timestamp(1_900_000_000));
        assert!(reservoir.samples().is_empty());
        reservoir.admit(Admission::All, |_| false, Timestamp(2_000_000_000));
        assert_eq!(reservoir.samples().len(), 1);
    }

    #[test]
    fn during_an_alarm_only_proven_conversations_enter() {
        let mut reservoir = Reservoir::default();
        for conversation in 0..1000 {
            reservoir.offer(sample(conversation, 0));
        }
        reservoir.admit(Admission::Proven, |sample| [3, 5].contains(&sample.conversation), Timestamp(1_500_000_000));
        let kept: Vec<u64> = reservoir.samples().iter().map(|sample| sample.conversation).collect();
        assert_eq!(kept, [3, 5]);
    }

    #[test]
    fn it_never_grows_beyond_its_capacity() {
        let mut reservoir = Reservoir::default();
        for round in 0..3 {
            for conversation in 0..5_000 {
                reservoir.offer(sample(conversation, round));
            }
            reservoir.admit(Admission::All, |_| false, Timestamp(10_000_000_000));
        }
        assert_eq!(reservoir.samples().len(), CAPACITY);
    }
}
