//! Cookies: sequence numbers that only who received them can know (RFC 4987 section 3.6), and that need no memory.
//!
//! One bit says in which epoch a cookie was made, 31 bits are a SipHash-1-3, with a secret of its own, of that epoch, of the
//! connection, and of the client's first sequence number where that is known when the cookie comes back. Who guesses is
//! right once in 2^31 times, and has then verified one address.
//!
//! Where the connection goes on behind the cookie it also says what the client offers ([`Offer`]), in the seven bits that FreeBSD
//! uses for that too, masked by the hash that they are part of; 24 bits are left of that, and who guesses is right once in
//! 2^24 times.

use std::time::Duration;

use levee_api::time::Timestamp;

use super::options::Options;
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
/// Segment sizes that a cookie can say; what a client offers counts as the next one below.
const SIZES: [u16; 8] = [216, 536, 1200, 1360, 1400, 1440, 1452, 1460];
/// Window scales that it can say, from 1 on; 0 says none. Those that systems come with are among them. A client that is thought to have a
/// smaller scale than it has is taken to have a smaller window.
const SCALES: [u8; 8] = [0, 0, 2, 4, 6, 7, 8, 10];
/// Above what the client offers, the bit that tells an epoch from the one before.
const TELLING_EPOCH_BIT: u8 = 1 << 7;

/// What a client offers, as far as a cookie can say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer(u8);

impl Offer {
    /// Nothing.
    pub const NOTHING: Self = Self(0);

    /// As much as there is room for. `mss`: what stands for a client that says none.
    pub fn of(options: &Options, mss: u16) -> Self {
        let last = |values: &[u16; 8], most: u16| values.iter().rposition(|value| *value <= most).unwrap_or(0);
        let size = last(&SIZES, options.mss.unwrap_or(mss));
        let scale = options.scale.map_or(0, |scale| SCALES.iter().rposition(|value| *value <= scale).unwrap_or(0));
        let bits = size | scale << 3 | usize::from(options.sack) << 6;
        Self(u8::try_from(bits).unwrap_or(0))
    }

    /// The window scale as three bits; zero: none.
    pub fn scale_code(self) -> u8 {
        self.0 >> 3 & 7
    }

    /// The window scale that three bits say.
    pub fn scale_of(code: u8) -> Option<u8> {
        SCALES.get(usize::from(code)).copied().filter(|_| code > 0)
    }

    /// The options that say it.
    pub fn options(self) -> Options {
        Options {
            mss: SIZES.get(usize::from(self.0 & 7)).copied(),
            scale: Self::scale_of(self.scale_code()),
            sack: self.0 >> 6 & 1 != 0,
            stamps: None,
        }
    }
}

/// A cookie behind which the connection goes on, and a number that nobody else knows for the clock of its timestamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Telling {
    /// The sequence number.
    pub cookie: u32,
    /// The other number.
    pub salt: u32,
}

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

    /// The same for cookies that say what their client offers.
    #[inline]
    pub fn tell(
        &self,
        isa: Isa,
        conversations: &[u64; BURST],
        firsts: &[u32; BURST],
        offers: &[Offer; BURST],
        now: Timestamp,
    ) -> [Telling; BURST] {
        let epoch = now.0 >> EPOCH_SHIFT;
        let mut of = [0; BURST];
        for ((of, first), offer) in of.iter_mut().zip(firsts).zip(offers) {
            *of = what_tells(*first, *offer, epoch);
        }
        let mut tellings = [Telling::default(); BURST];
        let hashes = self.0.numbers(isa, &of, conversations);
        for ((telling, hash), offer) in tellings.iter_mut().zip(hashes).zip(offers) {
            *telling = telling_of(hash, *offer, epoch);
        }
        tellings
    }

    /// What the client offers, when a number is the cookie that was made for this connection, not longer ago than [`LIFETIME`].
    #[inline]
    pub fn told(&self, cookie: u32, conversation: u64, first: u32, now: Timestamp) -> Option<Offer> {
        let epoch = now.0 >> EPOCH_SHIFT;
        let says = unmasked(cookie);
        let is_earlier = (says & TELLING_EPOCH_BIT != 0) != (epoch & 1 != 0);
        let epoch = epoch.checked_sub(u64::from(is_earlier))?;
        let offer = Offer(says & !TELLING_EPOCH_BIT);
        let hash = self.0.number(u128::from(conversation) << 64 | u128::from(what_tells(first, offer, epoch)));
        (telling_of(hash, offer, epoch).cookie == cookie).then_some(offer)
    }

    #[inline]
    fn of_epoch(&self, conversation: u64, first: Option<u32>, epoch: u64) -> u32 {
        cookie(self.0.number(u128::from(conversation) << 64 | u128::from(what(first, epoch))), epoch)
    }
}

/// Epochs are counted in so many bits, nine years of them.
const EPOCH_MASK: u64 = (1 << 23) - 1;

/// What a cookie is of besides its connection. Above the epoch are seven bits of an offer; the highest bits say what there is.
#[inline]
fn what(first: Option<u32>, epoch: u64) -> u64 {
    u64::from(first.unwrap_or(0)) << 32 | u64::from(first.is_some()) << 31 | epoch & EPOCH_MASK
}

#[inline]
fn what_tells(first: u32, offer: Offer, epoch: u64) -> u64 {
    u64::from(first) << 32 | 0b11 << 30 | u64::from(offer.0) << 23 | epoch & EPOCH_MASK
}

#[inline]
fn cookie(hash: u64, epoch: u64) -> u32 {
    let parity = if epoch & 1 != 0 { EPOCH_BIT } else { 0 };
    parity | u32::try_from(hash >> 33).unwrap_or(0)
}

/// The 24 upper bits of a hash, and the offer and the epoch masked by the upper byte.
#[inline]
fn telling_of(hash: u64, offer: Offer, epoch: u64) -> Telling {
    let [high, low] = [hash >> 32, hash & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or(0));
    let parity = if epoch & 1 != 0 { TELLING_EPOCH_BIT } else { 0 };
    let says = u32::from(offer.0 | parity) ^ high >> 24;
    Telling { cookie: high & !0xff | says, salt: low }
}

/// The inverse of the mask.
#[inline]
fn unmasked(cookie: u32) -> u8 {
    let [high, .., low] = cookie.to_be_bytes();
    high ^ low
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
        let lucky = (0..1_u64 << 20).filter(|n| {
            let guess = u32::try_from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).unwrap();
            cookies.told(guess, 5, 77, START).is_some()
        });
        assert!(lucky.count() <= 2, "one of 16 runs of 2^20 has one");
    }

    #[test]
    fn a_cookie_tells_what_its_client_offers() {
        let cookies = cookies(1);
        for bits in 0..128 {
            let offer = Offer(bits);
            let made = cookies.tell(Isa::detect(), &[5; BURST], &[9; BURST], &[offer; BURST], START)[BURST - 1].cookie;
            for later in [0, 1 << EPOCH_SHIFT] {
                assert_eq!(cookies.told(made, 5, 9, Timestamp(START.0 + later)), Some(offer));
            }
            assert_eq!(cookies.told(made, 5, 9, Timestamp(START.0 + (2 << EPOCH_SHIFT))), None);
            assert_eq!(cookies.told(made, 5, 10, START), None);
            assert!(
                (0..8).all(|bit| cookies.told(made ^ 1 << bit, 5, 9, START).is_none()),
                "nor what it did not offer"
            );
            assert!(!cookies.is_ours(made, 5, Some(9), START), "the other kind");
        }
    }

    #[test]
    fn what_a_cookie_cannot_say_is_rounded_down() {
        let said = |mss, scale| {
            let said = Offer::of(&Options { mss, scale, sack: true, stamps: None }, 536).options();
            (said.mss.unwrap(), said.scale)
        };
        assert_eq!(said(Some(1460), Some(7)), (1460, Some(7)));
        assert_eq!(said(Some(8960), Some(14)), (1460, Some(10)));
        assert_eq!(said(Some(1380), Some(3)), (1360, Some(2)));
        assert_eq!(said(Some(1), Some(0)), (216, Some(0)));
        assert_eq!(said(None, None), (536, None));
    }
}
