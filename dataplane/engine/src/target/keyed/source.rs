//! Keys of sources, hosts and prefixes, for what is asked for packet by packet: two multiplications with the secret instead of a
//! SipHash. Nobody outside sees the result.

use levee_api::filter::Per;
use levee_api::lane::Bits;

use super::Keyed;
use crate::packet::Lanes;

impl Keyed {
    /// Key of a packet's source, or of the prefix that it is in, for one of several purposes.
    #[inline]
    pub fn source(&self, purpose: u32, per: Per, lanes: &Lanes) -> u64 {
        let (high, low) = halves(lanes.source());
        let (high, low) = match per {
            Per::Target => (0, 0),
            Per::Source => (high, low),
            Per::SourcePrefix if lanes.bits().contains(Bits::IPV6) => (cut(high, 64 - Per::IPV6_LENGTH), 0),
            Per::SourcePrefix => (0, cut(low, 32 - Per::IPV4_LENGTH)),
        };
        let (k0, k1) = self.secret;
        fold(fold(high ^ k1, u64::from(purpose) ^ k0) ^ low, k1 | 1)
    }

    /// Key of a host.
    #[inline]
    pub fn host(&self, address: u128) -> u64 {
        self.prefix(address, 0)
    }

    /// Key of a prefix: its address, and what else tells it from others.
    #[inline]
    pub fn prefix(&self, address: u128, rest: u64) -> u64 {
        let [high, low] = [address >> 64, address & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or(0));
        let (k0, k1) = self.secret;
        fold(fold(high ^ k1, rest ^ k0) ^ low, k1 | 1)
    }

    /// Key of the pair of a packet's target and source: of IPv6 the network of 64 bits, in which a host has any address.
    #[inline]
    pub fn pair(&self, lanes: &Lanes) -> u64 {
        let ((target_high, target_low), (high, low)) = (halves(lanes.destination()), halves(lanes.source()));
        let low = if lanes.bits().contains(Bits::IPV6) { 0 } else { low };
        let (k0, k1) = self.secret;
        fold(fold(high ^ k1, target_high ^ k0) ^ low, target_low ^ k1.rotate_left(32))
    }
}

impl Keyed {
    /// The same for one of several purposes.
    #[inline]
    pub fn pair_for(&self, purpose: u32, lanes: &Lanes) -> u64 {
        let (k0, k1) = self.secret;
        fold(self.pair(lanes) ^ k1, u64::from(purpose) ^ k0)
    }
}

/// The two halves of an address.
#[inline(always)]
fn halves(pieces: [u16; 8]) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h] = pieces.map(u64::from);
    (a << 48 | b << 32 | c << 16 | d, e << 48 | f << 32 | g << 16 | h)
}

/// Clears so many low bits.
#[inline(always)]
const fn cut(word: u64, bits: u8) -> u64 {
    word >> bits << bits
}

/// Both halves of a product, mixed.
#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let half = |shift| u64::try_from(product >> shift & u128::from(u64::MAX)).unwrap_or(0);
    half(0) ^ half(64)
}
