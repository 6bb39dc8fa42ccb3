//! The verdicts of a burst, taken together: which packets pass, which are answered, and how many were dropped for each reason. Everything is
//! done for all packets at once; nothing branches on a packet.

use levee_engine::verdict::{Reason, Verdict};

use crate::dpdk::mbuf::BURST;

/// Stands for [`Verdict::Forward`].
const FORWARD: u8 = 0;
/// Stands for [`Verdict::Reply`].
const REPLY: u8 = 1;
/// Stands for [`Verdict::Translate`].
const TRANSLATE: u8 = 2;
/// Stands for the first reason; the others follow by their index.
const FIRST_REASON: u8 = 3;

/// A byte for each packet of a burst.
#[derive(Clone, Copy, Debug)]
pub struct Fates {
    codes: [u8; BURST],
    /// A bit for each packet that is there.
    present: u64,
}

impl Fates {
    /// Of up to [`BURST`] packets.
    #[inline]
    pub fn of(verdicts: &[Verdict]) -> Self {
        let mut codes = [FORWARD; BURST];
        for (code, verdict) in codes.iter_mut().zip(verdicts) {
            *code = code_of(*verdict);
        }
        let absent = BURST.saturating_sub(verdicts.len());
        let present = u32::try_from(absent).ok().and_then(|absent| u64::MAX.checked_shr(absent)).unwrap_or(0);
        Self { codes, present }
    }

    /// A bit for each packet that passes as it is.
    #[inline]
    pub fn passing(&self) -> u64 {
        self.equal_to(FORWARD)
    }

    /// A bit for each packet that is answered.
    #[inline]
    pub fn answered(&self) -> u64 {
        self.equal_to(REPLY)
    }

    /// A bit for each packet that passes rewritten.
    #[inline]
    pub fn translated(&self) -> u64 {
        self.equal_to(TRANSLATE)
    }

    /// Calls `count` once for each reason that packets were dropped for, with their number.
    #[inline]
    pub fn dropped(&self, mut count: impl FnMut(Reason, usize)) {
        let mut left = self.present & !self.passing() & !self.answered() & !self.translated();
        while left != 0 {
            let Some(&code) = self.codes.get(left.trailing_zeros() as usize) else { return };
            let same = self.equal_to(code);
            if let Some(&reason) = Reason::ALL.get(usize::from(code).wrapping_sub(FIRST_REASON.into())) {
                count(reason, same.count_ones() as usize);
            }
            left &= !same;
        }
    }

    #[inline(always)]
    fn equal_to(&self, code: u8) -> u64 {
        equal_bytes(&self.codes, code) & self.present
    }
}

/// Those of `bits` that are at positions set in `among`, moved together.
pub fn gather(bits: u64, among: u64) -> u64 {
    let (mut left, mut gathered, mut to) = (among, 0, 0);
    while left != 0 {
        gathered |= (bits >> left.trailing_zeros() & 1) << to;
        left &= left - 1;
        to += 1;
    }
    gathered
}

#[expect(clippy::cast_possible_truncation, reason = "there are far fewer than 253 reasons, as is checked here")]
#[inline(always)]
const fn code_of(verdict: Verdict) -> u8 {
    const { assert!(Reason::COUNT < 253, "a byte tells them apart") };
    match verdict {
        Verdict::Forward => FORWARD,
        Verdict::Reply => REPLY,
        Verdict::Translate => TRANSLATE,
        Verdict::Drop(reason) => reason.index() as u8 + FIRST_REASON,
    }
}

/// A bit for each byte that is `wanted`, eight bytes at a time.
#[inline(always)]
fn equal_bytes(bytes: &[u8; BURST], wanted: u8) -> u64 {
    /// Each byte's upper bit, and the others.
    const UPPER: u64 = 0x8080_8080_8080_8080;
    const LOWER: u64 = !UPPER;
    /// Moves the lowest bits of eight bytes side by side into the highest byte.
    const GATHER: u64 = 0x0102_0408_1020_4080;

    let wanted = u64::from_ne_bytes([wanted; 8]);
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().rev().fold(0, |sum, word| {
        let difference = u64::from_le_bytes(*word) ^ wanted;
        // The upper bit of each byte that is zero, and of no other: no sum of seven bits carries into the next byte.
        let equal = !(((difference & LOWER) + LOWER) | difference) & UPPER;
        sum << 8 | (equal >> 7).wrapping_mul(GATHER) >> 56
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gathered_bits_keep_their_order() {
        assert_eq!(gather(0b1010_0110, 0b1110_0011), 0b1_0110);
        assert_eq!(gather(u64::MAX, u64::MAX), u64::MAX);
        assert_eq!(gather(u64::MAX, 0), 0);
    }

    proptest! {
        #[test]
        fn every_packet_has_its_fate(drawn in prop::collection::vec(0..=2 * Reason::COUNT, 0..=BURST)) {
            let verdict = |&drawn: &usize| match Reason::ALL.get(drawn) {
                Some(&reason) => Verdict::Drop(reason),
                None if drawn % 3 == 0 => Verdict::Forward,
                None if drawn % 3 == 1 => Verdict::Translate,
                None => Verdict::Reply,
            };
            let verdicts: Vec<Verdict> = drawn.iter().map(verdict).collect();
            let fates = Fates::of(&verdicts);
            let mut dropped = HashMap::new();
            fates.dropped(|reason, packets| assert!(dropped.insert(reason, packets).is_none(), "{reason} told twice"));
            for &reason in Reason::ALL {
                let expected = verdicts.iter().filter(|verdict| **verdict == Verdict::Drop(reason)).count();
                prop_assert_eq!(dropped.get(&reason).copied().unwrap_or(0), expected);
            }
            for position in 0..BURST {
                let passes = verdicts.get(position) == Some(&Verdict::Forward);
                prop_assert_eq!(fates.passing() >> position & 1 == 1, passes);
                let is_answered = verdicts.get(position) == Some(&Verdict::Reply);
                prop_assert_eq!(fates.answered() >> position & 1 == 1, is_answered);
                let is_translated = verdicts.get(position) == Some(&Verdict::Translate);
                prop_assert_eq!(fates.translated() >> position & 1 == 1, is_translated);
            }
        }
    }
}
