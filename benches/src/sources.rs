//! A million source prefixes, as lists of known attackers have them: 600 000 hosts, 250 000 /24, 150 000 /20; and addresses
//! that are among them or surely not.
//!
//! Which prefixes are members follows from their number by a multiplication that can be undone, so that membership is
//! known without the list.

use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use levee_api::prefix::Prefix;
use rand::{Rng, RngExt};

use crate::site::Family;

/// Prefixes of one length, scattered over a part of the address space.
#[derive(Clone, Copy, Debug)]
struct Band {
    /// First address.
    first: u32,
    /// Length of the prefixes.
    length: u8,
    /// As many prefixes would fill the part: two to this power.
    bits: u8,
    /// As many are members.
    members: u32,
}

const BANDS: [Band; 3] = [
    // From 16.0.0.0 on.
    Band { first: 0x1000_0000, length: 32, bits: 30, members: 600_000 },
    // From 96.0.0.0 on.
    Band { first: 0x6000_0000, length: 24, bits: 18, members: 250_000 },
    // From 128.0.0.0 on.
    Band { first: 0x8000_0000, length: 20, bits: 18, members: 150_000 },
];
/// Odd, and its inverse modulo 2^32.
const SCATTER: u32 = 0x9e37_79b1;
const GATHER: u32 = inverse(SCATTER);
/// Members in all.
pub const PREFIXES: u32 = 1_000_000;
/// IPv6: the IPv4 address in the first bits behind 2600::/8.
const V6_FIRST: u128 = 0x26 << 120;
const V6_LONGER: u8 = 8;

/// Newton's iteration: each step doubles the number of right bits, of which an odd number has three.
const fn inverse(odd: u32) -> u32 {
    let mut inverse = odd;
    let mut step = 0;
    while step < 4 {
        inverse = inverse.wrapping_mul(2_u32.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

impl Band {
    const fn mask(self) -> u32 {
        u32::MAX >> (32 - self.bits)
    }

    const fn shift(self) -> u8 {
        32 - self.length
    }

    /// The first address of a member.
    fn member(self, number: u32) -> u32 {
        self.first + ((number.wrapping_mul(SCATTER) & self.mask()) << self.shift())
    }

    fn contains(self, address: u32) -> bool {
        let Some(place) = address.checked_sub(self.first).map(|offset| offset >> self.shift()) else { return false };
        place <= self.mask() && place.wrapping_mul(GATHER) & self.mask() < self.members
    }
}

/// Writes so many of the prefixes, one a line.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, family: Family, count: u32) -> io::Result<()> {
    let mut out = BufWriter::new(std::fs::File::create(path)?);
    for prefix in prefixes(family, count) {
        writeln!(out, "{prefix}")?;
    }
    out.flush()
}

/// So many of the prefixes, each length in its proportion.
pub fn prefixes(family: Family, count: u32) -> impl Iterator<Item = Prefix> {
    BANDS.into_iter().flat_map(move |band| {
        let share = u64::from(band.members) * u64::from(count.min(PREFIXES)) / u64::from(PREFIXES);
        (0..u32::try_from(share).unwrap_or(band.members)).map(move |number| {
            let length = match family {
                Family::V4 => band.length,
                Family::V6 => band.length + V6_LONGER,
            };
            Prefix::containing(address(family, band.member(number)), length)
        })
    })
}

/// An address of a member, each member as often.
pub fn member(family: Family, random: &mut impl Rng) -> IpAddr {
    let mut number = random.random_range(0..PREFIXES);
    for band in BANDS {
        if number < band.members {
            let below = u32::MAX.checked_shr(band.length.into()).unwrap_or(0);
            return address(family, band.member(number) | random.random::<u32>() & below);
        }
        number -= band.members;
    }
    unreachable!("the bands have {PREFIXES} members together")
}

/// An address that may be a source and is of no member.
pub fn stranger(family: Family, random: &mut impl Rng) -> IpAddr {
    loop {
        let candidate: u32 = random.random();
        let [first, second, ..] = candidate.to_be_bytes();
        // Neither "this network", loopback, multicast nor the zone itself.
        let is_source = (1..224).contains(&first) && first != 127 && (first != 198 || second & 0xfe != 18);
        if is_source && !BANDS.iter().any(|band| band.contains(candidate)) {
            return address(family, candidate);
        }
    }
}

fn address(family: Family, address: u32) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(address.into()),
        Family::V6 => IpAddr::V6(widened(address)),
    }
}

fn widened(address: u32) -> Ipv6Addr {
    (V6_FIRST | u128::from(address) << 88).into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn there_are_a_million_different_prefixes() {
        let all: HashSet<u32> =
            BANDS.iter().flat_map(|band| (0..band.members).map(|number| band.member(number))).collect();
        assert_eq!(all.len(), PREFIXES as usize);
        assert_eq!(BANDS.iter().map(|band| band.members).sum::<u32>(), PREFIXES);
        assert_eq!(prefixes(Family::V6, PREFIXES).count(), PREFIXES as usize);
        assert_eq!(prefixes(Family::V4, 1_000).count(), 1_000);
    }

    #[test]
    fn members_are_known_and_strangers_are_none() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let contains = |address| match address {
            IpAddr::V4(v4) => BANDS.iter().any(|band| band.contains(v4.into())),
            IpAddr::V6(_) => unreachable!("asked for IPv4"),
        };
        for _ in 0..10_000 {
            assert!(contains(member(Family::V4, &mut random)));
            assert!(!contains(stranger(Family::V4, &mut random)));
        }
    }
}
