//! Cookies: sequence numbers that only who received them can know (RFC 4987 section 3.6), and that need no memory.
//!
//! One bit says in which epoch a cookie was made, 31 bits are a SipHash-1-3, with a secret of its own, of that epoch, of the
//! connection, and of the client's first sequence number where that is known when the cookie comes back. Who guesses is
//! right once in 2^31 times, and has then verified one address.

use std::time::Duration;

use levee_api::time::Timestamp;

use crate::isa::Isa;
use crate::pipeline::BURST;
use crate::target::keyed::Keyed;

/// An epoch lasts 2^35 ns, about 34 s. Cookies of the current epoch and of the one before are good.
const EPOCH_SHIFT: u32 = 35;
/// How long a cookie may be good: two epochs. It is for half of that at least: longer than a client retransmits what
/// it answers with, and too short to collect cookies for later.
pub const LIFETIME: Duration = Duration::from_nanos(2 << EPOCH_SHIFT);
/// The bit that tells an epoch from the one before.
const EPOCH_BIT: u32 = 1 << 31;

/// Makes cookies and knows them again.
#[derive(Clone, Copy, Debug)]
pub struct Cookies(Keyed);

impl Cookies {
    /// Cookies whose secret is made of that of `keyed`.
    pub fn new(keyed: &Keyed) -> Self {
        const PURPOSE: u128 = 0x636f_6f6b_6965 << 64;
        Self(Keyed::new((keyed.number(PURPOSE), keyed.number(PURPOSE | 1))))
    }

    /// The cookies of the connections of a burst at this time. `firsts`: the clients' first sequence numbers.
    #[inline]
    pub fn make(
        &self,
        isa: Isa,
        conversations: &[u64; BURST],
        firsts: &[Option<u32>; BURST],
        now: Timestamp,
    ) -> [u32; BURST] {
        let epoch = now.0 >> EPOCH_SHIFT;
        let of = firsts.map(|first| what(first, epoch));
        self.0.numbers(isa, &of, conversations).map(|hash| cookie(hash, epoch))
    }

    /// True when a number is the cookie that was made for this connection, not longer ago than [`LIFETIME`].
    #[inline]
    pub fn is_ours(&self, cookie: u32, conversation: u64, first: Option<u32>, now: Timestamp) -> bool {
        let epoch = now.0 >> EPOCH_SHIFT;
        let is_earlier = (cookie & EPOCH_BIT != 0) != (epoch & 1 != 0);
        epoch
            .checked_sub(u64::from(is_earlier))
            .is_some_and(|epoch| cookie == self.of_epoch(conversation, first, epoch))
    }

    #[inline]
    fn of_epoch(&self, conversation: u64, first: Option<u32>, epoch: u64) -> u32 {
        cookie(self.0.number(u128::from(conversation) << 64 | u128::from(what(first, epoch))), epoch)
    }
}

/// What a cookie is of besides its connection. An epoch has 29 bits at most; the bit above says that there is a first number.
#[inline]
fn what(first: Option<u32>, epoch: u64) -> u64 {
    u64::from(first.unwrap_or(0)) << 32 | u64::from(first.is_some()) << 31 | epoch
}

#[inline]
fn cookie(hash: u64, epoch: u64) -> u32 {
    let parity = if epoch & 1 != 0 { EPOCH_BIT } else { 0 };
    parity | u32::try_from(hash >> 33).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(7 << EPOCH_SHIFT);

    fn cookies(secret: u64) -> Cookies {
        Cookies::new(&Keyed::new((secret, 2)))
    }

    fn make(cookies: &Cookies, conversation: u64, first: Option<u32>, now: Timestamp) -> u32 {
        cookies.make(Isa::detect(), &[conversation; BURST], &[first; BURST], now)[BURST - 1]
    }

    #[test]
    fn a_cookie_is_good_across_a_rotation_and_then_no_more() {
        let cookies = cookies(1);
        for first in [None, Some(0), Some(u32::MAX)] {
            for age in 0..6_u64 {
                let made = Timestamp(START.0 + (age << (EPOCH_SHIFT - 2)));
                let cookie = make(&cookies, 5, first, made);
                let good = |later: u64| cookies.is_ours(cookie, 5, first, Timestamp(made.0 + later));
                assert!(good(0) && good(1 << EPOCH_SHIFT), "for an epoch at least");
                assert!(!good(2 << EPOCH_SHIFT) && !good(3 << EPOCH_SHIFT) && !good(4 << EPOCH_SHIFT));
            }
        }
    }

    #[test]
    fn a_cookie_is_of_its_connection_its_first_number_and_its_boot() {
        let (ours, others) = (cookies(1), cookies(3));
        let cookie = make(&ours, 5, Some(9), START);
        assert!(ours.is_ours(cookie, 5, Some(9), START));
        assert!(!ours.is_ours(cookie, 6, Some(9), START) && !ours.is_ours(cookie, 5, Some(10), START));
        assert!(!ours.is_ours(cookie, 5, None, START));
        assert!(!others.is_ours(cookie, 5, Some(9), START), "another start has another secret");
    }

    #[test]
    fn guessing_is_right_as_often_as_theory_says() {
        let cookies = cookies(1);
        // With 20 of the 31 bits given, one guess in 2^11 is right: 512 of 2^20.
        let right = (0..1_u64 << 20).filter(|n| {
            let cookie = cookies.of_epoch(*n, Some(77), START.0 >> EPOCH_SHIFT);
            let guess = u32::try_from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53).unwrap();
            cookie & 0x7ff == guess
        });
        let right = right.count();
        assert!((400..630).contains(&right), "{right} of 512");
        let lucky = (0..1_u64 << 20).filter(|n| {
            let guess = u32::try_from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).unwrap();
            cookies.is_ours(guess, 5, Some(77), START)
        });
        assert!(lucky.count() <= 1, "once in 2 000 runs of 2^20");
    }
}
