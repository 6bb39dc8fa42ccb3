//! Keys of conversations, fragments and addresses: SipHash-1-3 with a secret per boot, so that nobody outside can aim at a
//! bucket of a table.
//!
//! A burst is hashed side by side ([`sip`]): a nanosecond a packet instead of ten.

mod fragment;
mod sip;
mod source;

use std::hash::Hasher;

use levee_api::lane::{Bits, Lane};
use siphasher::sip::SipHasher13;

use self::sip::Column;
use crate::isa::Isa;
use crate::packet::{Direction, Lanes};
use crate::pipeline::BURST;

/// Hashes with a secret.
#[derive(Clone, Copy, Debug)]
pub struct Keyed {
    secret: (u64, u64),
}

impl Keyed {
    /// A hasher with this secret.
    pub const fn new(secret: (u64, u64)) -> Self {
        Self { secret }
    }

    /// Keys of the conversations that the packets of a burst belong to; the same for both directions. `tuples` is what
    /// [`Tuples::read`] made of these lanes in this direction.
    pub fn conversations(&self, isa: Isa, direction: Direction, tuples: &Tuples, lanes: &[Lanes], keys: &mut Column) {
        sip::hash(isa, self.secret, &[&tuples.ports, &tuples.addresses], lanes.len(), keys);
        if tuples.any_v6 {
            self.conversations_v6(isa, direction, lanes, &tuples.ports, keys);
        }
    }

    /// The keys of those that are IPv6, over twice the words.
    #[inline(never)]
    fn conversations_v6(&self, isa: Isa, direction: Direction, lanes: &[Lanes], rest: &Column, keys: &mut Column) {
        let mut columns = [[0; BURST]; 4];
        let [a, b, c, d] = &mut columns;
        for ((((lanes, a), b), c), d) in lanes.iter().zip(a).zip(b).zip(c).zip(d) {
            [*a, *b, *c, *d] = addresses6(lanes, direction);
        }
        let [a, b, c, d] = &columns;
        let mut long = [0; BURST];
        sip::hash(isa, self.secret, &[rest, a, b, c, d], lanes.len(), &mut long);
        for ((key, long), lanes) in keys.iter_mut().zip(long).zip(lanes) {
            *key = if lanes.bits().contains(Bits::IPV6) { long } else { *key };
        }
    }

    /// Key of an address.
    pub fn address(&self, address: u128) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.secret.0, self.secret.1);
        hasher.write_u128(address);
        hasher.finish()
    }
}

/// What conversations are told apart by, column by column.
#[derive(Clone, Debug)]
pub struct Tuples {
    ports: Column,
    addresses: Column,
    any_v6: bool,
}

impl Default for Tuples {
    fn default() -> Self {
        Self { ports: [0; BURST], addresses: [0; BURST], any_v6: false }
    }
}

impl Tuples {
    /// Reads the packets of a burst.
    #[inline]
    pub fn read(&mut self, direction: Direction, lanes: &[Lanes]) {
        let mut bits = Bits::empty();
        for (lanes, (port, address)) in lanes.iter().zip(self.ports.iter_mut().zip(&mut self.addresses)) {
            *port = ports(lanes, direction);
            *address = addresses4(lanes, direction);
            bits |= lanes.bits();
        }
        self.any_v6 = bits.contains(Bits::IPV6);
    }

    /// The addresses inside, for packets that are IPv4.
    #[inline]
    pub fn inside(&self) -> impl Iterator<Item = u32> {
        self.addresses.iter().map(|both| u32::try_from(*both >> 32).unwrap_or(0).rotate_left(16))
    }
}

/// Protocol, port inside, port outside.
#[inline(always)]
fn ports(lanes: &Lanes, direction: Direction) -> u64 {
    let inbound = packed(four(lanes, Lane::SrcPort)) & 0xffff_ffff_ffff;
    match direction {
        Direction::Inbound => inbound,
        Direction::Outbound => (inbound & !0xffff_ffff) | u64::from(((inbound & 0xffff_ffff) as u32).rotate_left(16)),
    }
}

/// Both addresses, the one outside in the low half.
#[inline(always)]
fn addresses4(lanes: &Lanes, direction: Direction) -> u64 {
    let [source, destination] = [Lane::Src4, Lane::Dst4].map(|first| packed(four(lanes, first)) >> 32);
    match direction {
        Direction::Inbound => destination << 32 | source,
        Direction::Outbound => source << 32 | destination,
    }
}

#[inline(always)]
fn addresses6(lanes: &Lanes, direction: Direction) -> [u64; 4] {
    let [s0, s1] = [Lane::Src0, Lane::Src4].map(|first| packed(four(lanes, first)));
    let [d0, d1] = [Lane::Dst0, Lane::Dst4].map(|first| packed(four(lanes, first)));
    match direction {
        Direction::Inbound => [s0, s1, d0, d1],
        Direction::Outbound => [d0, d1, s0, s1],
    }
}

#[inline(always)]
fn four(lanes: &Lanes, first: Lane) -> [u16; 4] {
    lanes.0.get(first.index()..).and_then(|lanes| lanes.first_chunk()).copied().unwrap_or_default()
}

#[inline(always)]
fn packed([a, b, c, d]: [u16; 4]) -> u64 {
    u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    const KEYED: Keyed = Keyed::new((0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908));

    /// One by one, with the crate.
    fn plain(lanes: &Lanes, direction: Direction) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(KEYED.secret.0, KEYED.secret.1);
        hasher.write_u64(ports(lanes, direction));
        if lanes.bits().contains(Bits::IPV6) {
            addresses6(lanes, direction).into_iter().for_each(|word| hasher.write_u64(word));
        } else {
            hasher.write_u64(addresses4(lanes, direction));
        }
        hasher.finish()
    }

    proptest! {
        #[test]
        fn a_burst_has_the_keys_of_its_packets(packets in prop::collection::vec(any::<[u16; 32]>(), 0..=BURST)) {
            let lanes: Vec<_> = packets.into_iter().map(Lanes).collect();
            for direction in [Direction::Inbound, Direction::Outbound] {
                let expected: Vec<_> = lanes.iter().map(|lanes| plain(lanes, direction)).collect();
                for isa in Isa::available() {
                    let (mut tuples, mut keys) = (Tuples::default(), [0; BURST]);
                    tuples.read(direction, &lanes);
                    KEYED.conversations(isa, direction, &tuples, &lanes, &mut keys);
                    prop_assert_eq!(&keys[..lanes.len()], &expected, "{}", isa);
                }
            }
        }

        #[test]
        fn both_directions_have_the_same_key(inbound in any::<[u16; 32]>()) {
            let mut outbound = inbound;
            for at in 0..8 {
                outbound.swap(at, at + 8);
            }
            outbound.swap(16, 17);
            let key = |lanes, direction| {
                let (mut tuples, mut keys) = (Tuples::default(), [0; BURST]);
                tuples.read(direction, &[Lanes(lanes)]);
                KEYED.conversations(Isa::detect(), direction, &tuples, &[Lanes(lanes)], &mut keys);
                keys[0]
            };
            prop_assert_eq!(key(inbound, Direction::Inbound), key(outbound, Direction::Outbound));
        }
    }

    #[test]
    fn the_ports_tell_conversations_apart() {
        let mut lanes = Lanes::default();
        lanes.0[16] = 40_000;
        assert_ne!(plain(&lanes, Direction::Inbound), plain(&lanes, Direction::Outbound));
    }
}
