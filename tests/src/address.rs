//! Addresses of clients and attackers.
//!
//! Both are drawn from public unicast space. An address belongs to the *attack set* if its low 12 bits are a fixed
//! hash of its high 20 bits; attackers are drawn from this set only, clients never. So a receiver recognises every
//! attack packet by its source, whatever was sent with whatever seed, and no legitimate packet is ever mistaken for
//! one. One address in 4096 is in the set, spread evenly over all prefixes: no prefix, range or mask describes it, so
//! nothing that filters by header fields gains from the rule.

use std::net::Ipv4Addr;

use rand::{Rng, RngExt};

/// First octets left out: each holds special-purpose or multicast space (RFC 6890 and the IANA registry it set up).
const SPECIAL: [u8; 10] = [0, 10, 100, 127, 169, 172, 192, 198, 203, 255];

/// Whether attack traffic uses this source address.
pub fn is_attacker(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    bits & 0xfff == tag(bits >> 12)
}

/// An address of the attack set: about 900 000 are possible.
pub fn attacker(rng: &mut impl Rng) -> Ipv4Addr {
    loop {
        let high = rng.next_u32() >> 12;
        let address = Ipv4Addr::from_bits(high << 12 | tag(high));
        if is_public_host(address) {
            return address;
        }
    }
}

/// A client's or a foreign server's address: public and outside the attack set.
pub fn client(rng: &mut impl Rng) -> Ipv4Addr {
    loop {
        let address = Ipv4Addr::from_bits(rng.next_u32());
        if is_public_host(address) && !is_attacker(address) {
            return address;
        }
    }
}

/// How far a source seems to be: the same number of hops, 5 to 24, for every packet of one source.
pub fn hops(address: Ipv4Addr) -> u8 {
    5 + (mix(address.to_bits()) % 20) as u8
}

/// A port that clients draw from.
pub fn ephemeral_port(rng: &mut impl Rng) -> u16 {
    rng.random_range(32_768..=60_999)
}

fn is_public_host(address: Ipv4Addr) -> bool {
    let [first, _, _, last] = address.octets();
    first < 224 && !SPECIAL.contains(&first) && last != 0 && last != 255
}

fn tag(high: u32) -> u32 {
    mix(high) & 0xfff
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

    #[test]
    fn attackers_and_clients_are_told_apart_by_their_address_alone() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..10_000 {
            assert!(is_attacker(attacker(&mut rng)));
            assert!(!is_attacker(client(&mut rng)));
        }
    }

    #[test]
    fn every_address_is_public_unicast() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for _ in 0..10_000 {
            for address in [attacker(&mut rng), client(&mut rng)] {
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
        }
    }

    #[test]
    fn attackers_are_many_and_everywhere() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let sources: std::collections::HashSet<_> = (0..100_000).map(|_| attacker(&mut rng)).collect();
        let first_octets: std::collections::HashSet<_> = sources.iter().map(|a| a.octets()[0]).collect();
        assert!(sources.len() > 90_000, "{} distinct sources", sources.len());
        assert!(first_octets.len() > 200, "{} first octets", first_octets.len());
    }
}
