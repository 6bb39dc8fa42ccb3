//! Keys of fragmented datagrams: only the fragments of a burst are hashed, side by side as conversations are.

use levee_api::lane::{Bits, Lane};

use super::{Keyed, sip, sip::Column};
use crate::isa::Isa;
use crate::packet::{Lanes, Layers};
use crate::pipeline::{BURST, set_bits};

/// Tells the key of a datagram from that of a conversation.
const DATAGRAM: u64 = 1 << 63;

impl Keyed {
    /// Keys of the datagrams that packets of a burst are fragments of. `which`: a bit for each fragment; the keys of other
    /// packets stay as they are.
    pub fn fragments(&self, isa: Isa, which: u64, lanes: &[Lanes], layers: &[Layers], keys: &mut Column) {
        let mut columns = [[0; BURST]; 5];
        let mut slots = [0; BURST];
        let (mut count, mut any_v6) = (0, false);
        let [name, a, b, c, d] = &mut columns;
        let columns_of = name.iter_mut().zip(a).zip(b).zip(c).zip(d).zip(&mut slots);
        for (at, (((((name, a), b), c), d), slot)) in set_bits(which).zip(columns_of) {
            let (Some(lanes), Some(layers)) = (lanes.get(at), layers.get(at)) else { break };
            let is_v6 = lanes.bits().contains(Bits::IPV6);
            any_v6 |= is_v6;
            // In IPv6 the protocol after the headers of a first fragment need not be what its later fragments say (RFC 8200).
            let protocol = if is_v6 { 0 } else { lanes.get(Lane::Protocol) };
            *name = DATAGRAM | u64::from(layers.fragment) << 16 | u64::from(protocol);
            let words = addresses(lanes);
            [*a, *b, *c, *d] = if is_v6 { words } else { [words[3], 0, 0, 0] };
            (*slot, count) = (at, count + 1);
        }
        let [name, a, b, c, d] = &columns;
        let mut hashes = [0; BURST];
        sip::hash(isa, self.secret, &[name, a], count, &mut hashes);
        let mut long = hashes;
        if any_v6 {
            sip::hash(isa, self.secret, &[name, a, b, c, d], count, &mut long);
        }
        for ((slot, short), long) in slots.iter().zip(hashes).zip(long).take(count) {
            if let (Some(key), Some(lanes)) = (keys.get_mut(*slot), lanes.get(*slot)) {
                *key = if lanes.bits().contains(Bits::IPV6) { long } else { short };
            }
        }
    }
}

/// Both addresses of a packet, a part of each in a word: those of IPv4 in the last.
fn addresses(lanes: &Lanes) -> [u64; 4] {
    let (pairs, _) = lanes.0.as_chunks::<2>();
    let pair = |at: usize| pairs.get(at).map_or(0, |[even, odd]| u64::from(*even) | u64::from(*odd) << 16);
    std::array::from_fn(|part| pair(part) | pair(4 + part) << 32)
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;

    use super::*;

    const SECRET: (u64, u64) = (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);

    /// One by one, with the crate.
    fn plain(lanes: &Lanes, identification: u32) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(SECRET.0, SECRET.1);
        let is_v6 = lanes.bits().contains(Bits::IPV6);
        let protocol = if is_v6 { 0 } else { lanes.get(Lane::Protocol) };
        hasher.write_u64(1 << 63 | u64::from(identification) << 16 | u64::from(protocol));
        let parts = if is_v6 { 0..4 } else { 3..4 };
        parts.for_each(|part| hasher.write_u64(addresses(lanes)[part]));
        hasher.finish()
    }

    proptest! {
        #[test]
        fn the_fragments_of_a_burst_have_the_keys_of_their_datagrams(
            packets in prop::collection::vec((any::<[u16; 32]>(), any::<u32>()), 0..=BURST),
            which in any::<u64>(),
        ) {
            let lanes: Vec<_> = packets.iter().map(|(lanes, _)| Lanes(*lanes)).collect();
            let layers: Vec<_> = packets.iter().map(|(_, fragment)| Layers { fragment: *fragment, ..Layers::NONE }).collect();
            for isa in Isa::available() {
                let mut keys = [7; BURST];
                Keyed::new(SECRET).fragments(isa, which, &lanes, &layers, &mut keys);
                for (at, (lanes, layers)) in lanes.iter().zip(&layers).enumerate() {
                    let expected = if which >> at & 1 != 0 { plain(lanes, layers.fragment) } else { 7 };
                    prop_assert_eq!(keys[at], expected, "{} {}", isa, at);
                }
            }
        }
    }
}
