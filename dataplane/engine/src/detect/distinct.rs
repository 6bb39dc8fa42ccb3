//! How many different sources an attack has, in a kilobyte: HyperLogLog (Flajolet et al. 2007), good to about 3 %.
//!
//! It counts those that were sampled, so what it says is "at least": of forged sources, each of which sends once, it is the
//! number of samples.

/// Registers: a power of two, of which the standard error is 1.04 divided by the root.
const REGISTERS: usize = 1024;
/// Bits of a key that choose the register.
const INDEX_BITS: u32 = REGISTERS.ilog2();
/// The constant of the estimate for so many registers (section 4 of the paper).
const ALPHA: f64 = 0.7213 / (1.0 + 1.079 / 1024.0);

/// Different keys that were seen.
#[derive(Clone, Debug)]
pub struct Distinct([u8; REGISTERS]);

impl Default for Distinct {
    fn default() -> Self {
        Self([0; REGISTERS])
    }
}

impl Distinct {
    /// Notes a key, which has to be a hash.
    pub fn note(&mut self, key: u64) {
        let at = usize::try_from(key >> (u64::BITS - INDEX_BITS)).unwrap_or(0);
        // The bit below ends the run of zeros of a key that has nothing else.
        let zeros = (key << INDEX_BITS | 1 << (INDEX_BITS - 1)).leading_zeros();
        let rank = u8::try_from(zeros + 1).unwrap_or(u8::MAX);
        if let Some(register) = self.0.get_mut(at) {
            *register = (*register).max(rank);
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        #[expect(clippy::cast_precision_loss, reason = "1024")]
        let registers = REGISTERS as f64;
        let sum: f64 = self.0.iter().map(|rank| (-f64::from(*rank)).exp2()).sum();
        let estimate = ALPHA * registers * registers / sum;
        let empty = f64::from(u32::try_from(self.0.iter().filter(|rank| **rank == 0).count()).unwrap_or(0));
        // Few keys leave registers empty, and how many tells more.
        let estimate =
            if estimate <= 2.5 * registers && empty > 0.0 { registers * (registers / empty).ln() } else { estimate };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "finite and not negative")]
        let count = estimate.round() as u64;
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::keyed::Keyed;

    #[test]
    fn different_keys_are_counted_however_often_they_come() {
        let keyed = Keyed::new((7, 11));
        for expected in [0_u64, 1, 10, 500, 3_000, 20_000, 400_000] {
            let mut distinct = Distinct::default();
            for number in (0..expected).chain(0..expected) {
                distinct.note(keyed.number(u128::from(number)));
            }
            let (count, tolerance) = (distinct.count(), expected / 8 + u64::from(expected >= 10));
            assert!(count.abs_diff(expected) <= tolerance, "{count} of {expected}");
        }
    }
}
