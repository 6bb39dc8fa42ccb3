//! Addresses of clients and attackers.
//!
//! Both are drawn from public unicast space. An address belongs to the *attack set* if its low 12 bits are a fixed
//! hash of the bits above; attackers are drawn from this set only, clients never. So a receiver recognises every
//! attack packet by its source, whatever was sent with whatever seed, and no legitimate packet is ever mistaken for
//! one. One address in 4096 is in the set, spread evenly over all prefixes: no prefix, range or mask describes it, so
//! nothing that filters by header fields gains from the rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::{Rng, RngExt};

/// First octets left out: each holds special-purpose or multicast space (RFC 6890 and the IANA registry it set up).
const SPECIAL: [u8; 10] = [0, 10, 100, 127, 169, 172, 192, 198, 203, 255];

/// The first 12 bits of IPv6 space that regional registries assign from (IANA registry of global unicast addresses).
const REGISTRIES: [u16; 5] = [0x240, 0x260, 0x280, 0x2a0, 0x2c0];

/// The low bits that tell the attack set.
const TAG_BITS: u128 = 0xfff;

/// Version of the internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// Whether attack traffic uses this source address.
pub fn is_attacker(address: IpAddr) -> bool {
    let bits = bits(address);
    bits & TAG_BITS == tag(bits)
}

/// An address of the attack set: about 900 000 are possible for IPv4, any number for IPv6.
pub fn attacker(family: Family, rng: &mut impl Rng) -> IpAddr {
    loop {
        let drawn = any(family, rng);
        let bits = bits(drawn) & !TAG_BITS;
        let address = from_bits(family, bits | tag(bits));
        if is_public_host(address) {
            return address;
        }
    }
}

/// A client's or a foreign server's address: public and outside the attack set.
pub fn client(family: Family, rng: &mut impl Rng) -> IpAddr {
    loop {
        let address = any(family, rng);
        if is_public_host(address) && !is_attacker(address) {
            return address;
        }
    }
}

/// How far a source seems to be: the same number of hops, 5 to 24, for every packet of one source.
pub fn hops(address: IpAddr) -> u8 {
    5 + (mix(folded(bits(address))) % 20) as u8
}

/// A port that clients draw from.
pub fn ephemeral_port(rng: &mut impl Rng) -> u16 {
    rng.random_range(32_768..=60_999)
}

fn any(family: Family, rng: &mut impl Rng) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(rng.next_u32()).into(),
        Family::V6 => {
            let registry = REGISTRIES[rng.random_range(0..REGISTRIES.len())];
            Ipv6Addr::from_bits(u128::from(registry) << 116 | rng.random::<u128>() >> 12).into()
        }
    }
}

fn is_public_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, _, _, last] = address.octets();
            first < 224 && !SPECIAL.contains(&first) && last != 0 && last != 255
        }
        IpAddr::V6(address) => REGISTRIES.contains(&(address.segments()[0] >> 4)),
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn from_bits(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(word(bits, 0)).into(),
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

/// What the low bits of an attacker's address are.
fn tag(bits: u128) -> u128 {
    u128::from(mix(folded(bits >> 12))) & TAG_BITS
}

fn folded(bits: u128) -> u32 {
    word(bits, 0) ^ word(bits, 32).rotate_left(7) ^ word(bits, 64).rotate_left(14) ^ word(bits, 96).rotate_left(21)
}

/// 32 bits, from a position on.
fn word(bits: u128, from: u32) -> u32 {
    u32::try_from(bits >> from & u128::from(u32::MAX)).unwrap_or(u32::MAX)
}

/// The 32-bit finaliser of MurmurHash3: every input bit changes about half of the output bits.
fn mix(mut x: u32) -> u32 {
    x = (x ^ x >> 16).wrapping_mul(0x85eb_ca6b);
    x = (x ^ x >> 13).wrapping_mul(0xc2b2_ae35);
    x ^ x >> 16
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

    #[test]
    fn attackers_and_clients_are_told_apart_by_their_address_alone() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for family in FAMILIES {
            for _ in 0..10_000 {
                assert!(is_attacker(attacker(family, &mut rng)));
                assert!(!is_attacker(client(family, &mut rng)));
            }
        }
    }

    #[test]
    fn every_address_is_public_unicast() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for _ in 0..10_000 {
            for address in [attacker(Family::V4, &mut rng), client(Family::V4, &mut rng)] {
                let IpAddr::V4(address) = address else { panic!("{address} is not IPv4") };
                assert!(
                    !(address.is_private()
                        || address.is_loopback()
                        || address.is_link_local()
                        || address.is_documentation()
                        || address.is_multicast()
                        || address.is_broadcast()
                        || address.is_unspecified()),
                    "{address}"
                );
            }
            for address in [attacker(Family::V6, &mut rng), client(Family::V6, &mut rng)] {
                let IpAddr::V6(address) = address else { panic!("{address} is not IPv6") };
                assert!(matches!(address.segments()[0], 0x2400..0x2d00), "{address}");
            }
        }
    }

    #[test]
    fn attackers_are_many_and_everywhere() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for family in FAMILIES {
            let sources: std::collections::HashSet<_> = (0..100_000).map(|_| attacker(family, &mut rng)).collect();
            assert!(sources.len() > 90_000, "{} distinct sources", sources.len());
            let prefixes: std::collections::HashSet<_> =
                sources.iter().map(|a| bits(*a) >> if a.is_ipv4() { 24 } else { 104 }).collect();
            assert!(prefixes.len() > 200, "{} prefixes", prefixes.len());
        }
    }
}
