//! Keys of conversations, fragments and addresses: SipHash-1-3 with a secret per boot, so that nobody outside can aim at a
//! bucket of a table.
//!
//! A burst is hashed eight packets side by side, one per 64-bit lane of a vector: a nanosecond a packet instead of ten. The
//! result is the same as one by one, and the same as that of the `siphasher` crate over the same words.
#![expect(unsafe_code, reason = "calls that need a CPU feature")]

use std::hash::Hasher;

use levee_api::lane::{Bits, Lane};
use siphasher::sip::SipHasher13;

use crate::isa::{Isa, Level};
use crate::packet::{Direction, Lanes};

/// Packets hashed side by side.
const WIDE: usize = 8;
/// Words of the key of a conversation: ports and protocol, addresses.
const V4: usize = 2;
const V6: usize = 5;

/// Hashes with a secret.
#[derive(Clone, Copy)]
pub struct Keyed {
    secret: (u64, u64),
}

impl Keyed {
    /// A hasher with this secret.
    pub const fn new(secret: (u64, u64)) -> Self {
        Self { secret }
    }

    /// Keys of the conversations that packets belong to; the same for both directions. `keys` has a place for each.
    pub fn conversations(&self, isa: Isa, direction: Direction, lanes: &[Lanes], keys: &mut [u64]) {
        match isa.level() {
            Level::Scalar => self.each(direction, lanes, keys),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token is only made after the CPU said that it has these features.
            Level::Avx2(_) => unsafe { self.each_avx2(direction, lanes, keys) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx512(_) => unsafe { self.each_avx512(direction, lanes, keys) },
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn each_avx512(&self, direction: Direction, lanes: &[Lanes], keys: &mut [u64]) {
        self.each(direction, lanes, keys);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn each_avx2(&self, direction: Direction, lanes: &[Lanes], keys: &mut [u64]) {
        self.each(direction, lanes, keys);
    }

    /// Inlined into each of the above, to be compiled for its CPU.
    #[inline(always)]
    fn each(&self, direction: Direction, lanes: &[Lanes], keys: &mut [u64]) {
        let (eights, rest) = lanes.as_chunks::<WIDE>();
        let (many, few) = keys.split_at_mut(eights.len() * WIDE);
        for (lanes, keys) in eights.iter().zip(many.as_chunks_mut::<WIDE>().0) {
            *keys = self.eight(direction, lanes);
        }
        if !rest.is_empty() {
            let mut padded = [Lanes::default(); WIDE];
            for (to, from) in padded.iter_mut().zip(rest) {
                *to = *from;
            }
            for (key, hashed) in few.iter_mut().zip(self.eight(direction, &padded)) {
                *key = hashed;
            }
        }
    }

    #[inline(always)]
    fn eight(&self, direction: Direction, lanes: &[Lanes; WIDE]) -> [u64; WIDE] {
        let is_v6 = lanes.each_ref().map(|lanes| lanes.bits().contains(Bits::IPV6));
        let rest = lanes.each_ref().map(|lanes| ports(lanes, direction));
        let [short] = [self.hash::<V4>(&[rest, lanes.each_ref().map(|lanes| addresses4(lanes, direction))])];
        if is_v6 == [false; WIDE] {
            return short;
        }
        let halves: [[u64; 4]; WIDE] = lanes.each_ref().map(|lanes| addresses6(lanes, direction));
        let [a, b, c, d] = [0, 1, 2, 3].map(|word| halves.map(|halves| halves.get(word).copied().unwrap_or(0)));
        let long = self.hash::<V6>(&[rest, a, b, c, d]);
        let mut keys = short;
        for ((key, long), is_v6) in keys.iter_mut().zip(long).zip(is_v6) {
            *key = if is_v6 { long } else { *key };
        }
        keys
    }

    /// SipHash-1-3 of a few words for eight packets side by side.
    #[inline(always)]
    fn hash<const WORDS: usize>(&self, words: &[[u64; WIDE]; WORDS]) -> [u64; WIDE] {
        let (k0, k1) = self.secret;
        let mut state = [
            [k0 ^ 0x736f_6d65_7073_6575; WIDE],
            [k1 ^ 0x646f_7261_6e64_6f6d; WIDE],
            [k0 ^ 0x6c79_6765_6e65_7261; WIDE],
            [k1 ^ 0x7465_6462_7974_6573; WIDE],
        ];
        let length = [(WORDS as u64 * 8) << 56; WIDE];
        for word in words.iter().chain([&length]) {
            let [_, _, _, v3] = &mut state;
            xor(v3, word);
            round(&mut state);
            let [v0, ..] = &mut state;
            xor(v0, word);
        }
        let [_, _, v2, _] = &mut state;
        xor(v2, &[0xff; WIDE]);
        for _ in 0..3 {
            round(&mut state);
        }
        let [mut hash, v1, v2, v3] = state;
        xor(&mut hash, &v1);
        xor(&mut hash, &v2);
        xor(&mut hash, &v3);
        hash
    }

    /// Key of the fragments of one datagram.
    pub fn fragments(&self, lanes: &Lanes, identification: u32) -> u64 {
        // In IPv6 the protocol after the headers of a first fragment need not be what its later fragments say (RFC 8200).
        let is_v6 = lanes.bits().contains(Bits::IPV6);
        let protocol = if is_v6 { 0 } else { lanes.get(Lane::Protocol) };
        let mut hasher = SipHasher13::new_with_keys(self.secret.0, self.secret.1);
        hasher.write_u64(1 << 63 | u64::from(identification) << 16 | u64::from(protocol));
        if is_v6 {
            addresses6(lanes, Direction::Inbound).into_iter().for_each(|word| hasher.write_u64(word));
        } else {
            hasher.write_u64(addresses4(lanes, Direction::Inbound));
        }
        hasher.finish()
    }

    /// Key of an address.
    pub fn address(&self, address: u128) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.secret.0, self.secret.1);
        hasher.write_u128(address);
        hasher.finish()
    }
}

/// Protocol, port inside, port outside.
#[inline(always)]
fn ports(lanes: &Lanes, direction: Direction) -> u64 {
    let [source, destination, protocol, _] = four(lanes, Lane::SrcPort);
    let (outside, inside) = match direction {
        Direction::Inbound => (source, destination),
        Direction::Outbound => (destination, source),
    };
    u64::from(protocol) << 32 | u64::from(inside) << 16 | u64::from(outside)
}

/// Both addresses, the one outside first in memory.
#[inline(always)]
fn addresses4(lanes: &Lanes, direction: Direction) -> u64 {
    let [_, _, s6, s7] = four(lanes, Lane::Src4);
    let [_, _, d6, d7] = four(lanes, Lane::Dst4);
    let (source, destination) = (u64::from(s7) << 16 | u64::from(s6), u64::from(d7) << 16 | u64::from(d6));
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

type Eight = [u64; WIDE];

#[inline(always)]
fn xor(to: &mut Eight, from: &Eight) {
    for (to, from) in to.iter_mut().zip(from) {
        *to ^= from;
    }
}

#[inline(always)]
fn round(state: &mut [Eight; 4]) {
    let [v0, v1, v2, v3] = state;
    for (((v0, v1), v2), v3) in v0.iter_mut().zip(v1).zip(v2).zip(v3) {
        *v0 = v0.wrapping_add(*v1);
        *v2 = v2.wrapping_add(*v3);
        *v1 = v1.rotate_left(13) ^ *v0;
        *v3 = v3.rotate_left(16) ^ *v2;
        *v0 = v0.rotate_left(32).wrapping_add(*v3);
        *v2 = v2.wrapping_add(*v1);
        *v1 = v1.rotate_left(17) ^ *v2;
        *v3 = v3.rotate_left(21) ^ *v0;
        *v2 = v2.rotate_left(32);
    }
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
        fn a_burst_has_the_keys_of_its_packets(packets in prop::collection::vec(any::<[u16; 32]>(), 0..70)) {
            let lanes: Vec<_> = packets.into_iter().map(Lanes).collect();
            for direction in [Direction::Inbound, Direction::Outbound] {
                let expected: Vec<_> = lanes.iter().map(|lanes| plain(lanes, direction)).collect();
                for isa in Isa::available() {
                    let mut keys = vec![0; lanes.len()];
                    KEYED.conversations(isa, direction, &lanes, &mut keys);
                    prop_assert_eq!(&keys, &expected, "{}", isa);
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
                let mut keys = [0];
                KEYED.conversations(Isa::detect(), direction, &[Lanes(lanes)], &mut keys);
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
