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
use crate::packet::{Columns, Direction, Lanes, Parsed, icmp};
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

    /// Keys of the conversations that the first `count` packets of a burst belong to; the same for both directions.
    pub fn conversations(&self, isa: Isa, direction: Direction, parsed: &Parsed, count: usize, keys: &mut Column) {
        let Parsed { columns, marks, .. } = parsed;
        let ports = ports(columns, direction);
        if marks.addressed & !marks.ipv6 != 0 {
            let addresses = addresses(columns, direction, Lane::Src6, Lane::Dst6);
            sip::hash(isa, self.secret, &[&ports, &addresses], count, keys);
        }
        if marks.ipv6 != 0 {
            self.conversations_v6(isa, direction, parsed, count, &ports, keys);
        }
    }

    /// The keys of those that are IPv6, over twice the words.
    #[inline(never)]
    fn conversations_v6(
        &self,
        isa: Isa,
        direction: Direction,
        Parsed { columns, marks, .. }: &Parsed,
        count: usize,
        ports: &Column,
        keys: &mut Column,
    ) {
        let pairs =
            [(Lane::Src0, Lane::Dst0), (Lane::Src2, Lane::Dst2), (Lane::Src4, Lane::Dst4), (Lane::Src6, Lane::Dst6)];
        let [a, b, c, d] = pairs.map(|(source, destination)| addresses(columns, direction, source, destination));
        let mut long = [0; BURST];
        sip::hash(isa, self.secret, &[ports, &a, &b, &c, &d], count, &mut long);
        for (at, (key, long)) in keys.iter_mut().zip(long).enumerate() {
            *key = if marks.ipv6 >> at & 1 != 0 { long } else { *key };
        }
    }

    /// Key of the conversation that a packet with these lanes belongs to.
    pub fn conversation(&self, lanes: &Lanes, direction: Direction) -> u64 {
        let pair = |lane: Lane| {
            lanes
                .0
                .get(lane.index()..)
                .and_then(|lanes| lanes.first_chunk::<2>())
                .map_or(0, |[low, high]| u32::from(*low) | u32::from(*high) << 16)
        };
        let (turn, outside, inside) = match direction {
            Direction::Inbound => (0, SOURCE, DESTINATION),
            Direction::Outbound => (16, DESTINATION, SOURCE),
        };
        let mut hasher = SipHasher13::new_with_keys(self.secret.0, self.secret.1);
        let protocol = u32::from(lanes.get(Lane::Protocol));
        let ports = if icmp::PROTOCOLS.contains(&protocol) { 0 } else { pair(Lane::SrcPort).rotate_left(turn) };
        hasher.write_u32(ports);
        hasher.write_u32(protocol);
        let parts = outside.into_iter().zip(inside);
        for (outside, inside) in parts.skip(if lanes.bits().contains(Bits::IPV6) { 0 } else { 3 }) {
            hasher.write_u32(pair(outside));
            hasher.write_u32(pair(inside));
        }
        hasher.finish()
    }

    /// Keys of the numbers of a burst, given as their lower and upper halves.
    pub fn numbers(&self, isa: Isa, low: &[u64; BURST], high: &[u64; BURST]) -> [u64; BURST] {
        let mut keys = [0; BURST];
        sip::hash(isa, self.secret, &[low, high], BURST, &mut keys);
        keys
    }

    /// Key of a number.
    #[inline]
    pub fn number(&self, number: u128) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.secret.0, self.secret.1);
        hasher.write_u128(number);
        hasher.finish()
    }
}

/// The first lanes of the four parts of an address.
const SOURCE: [Lane; 4] = [Lane::Src0, Lane::Src2, Lane::Src4, Lane::Src6];
const DESTINATION: [Lane; 4] = [Lane::Dst0, Lane::Dst2, Lane::Dst4, Lane::Dst6];

/// Protocol, port inside, port outside. Of ICMP the protocol alone: type and code of a reply are others than those of its request.
#[inline(always)]
fn ports(columns: &Columns, direction: Direction) -> Column {
    let (ports, protocols) = (columns.of(Lane::SrcPort), columns.of(Lane::Protocol));
    let turn = if direction == Direction::Inbound { 0 } else { 16 };
    let mut both = [0; BURST];
    for ((both, ports), protocol) in both.iter_mut().zip(ports).zip(protocols) {
        let protocol = protocol & 0xffff;
        let ports = if icmp::PROTOCOLS.contains(&protocol) { 0 } else { ports.rotate_left(turn) };
        *both = u64::from(ports) | u64::from(protocol) << 32;
    }
    both
}

/// A part of both addresses, of the one outside in the low half.
#[inline(always)]
fn addresses(columns: &Columns, direction: Direction, source: Lane, destination: Lane) -> Column {
    let (outside, inside) = match direction {
        Direction::Inbound => (columns.of(source), columns.of(destination)),
        Direction::Outbound => (columns.of(destination), columns.of(source)),
    };
    let mut both = [0; BURST];
    for ((both, outside), inside) in both.iter_mut().zip(outside).zip(inside) {
        *both = u64::from(*outside) | u64::from(*inside) << 32;
    }
    both
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Kind;

    use proptest::prelude::*;

    const KEYED: Keyed = Keyed::new((0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908));

    /// One by one, with the crate.
    fn plain(lanes: &Lanes, direction: Direction) -> u64 {
        KEYED.conversation(lanes, direction)
    }

    fn keys(isa: Isa, direction: Direction, packets: &[[u16; 32]]) -> Column {
        let parsed = Parsed::of_rows(packets.iter().map(|lanes| (Lanes(*lanes), Kind::Tcp)));
        let mut keys = [0; BURST];
        KEYED.conversations(isa, direction, &parsed, packets.len(), &mut keys);
        keys
    }

    proptest! {
        #[test]
        fn a_burst_has_the_keys_of_its_packets(packets in prop::collection::vec(any::<[u16; 32]>(), 0..=BURST)) {
            for direction in [Direction::Inbound, Direction::Outbound] {
                let expected: Vec<_> = packets.iter().map(|lanes| plain(&Lanes(*lanes), direction)).collect();
                for isa in Isa::available() {
                    prop_assert_eq!(&keys(isa, direction, &packets)[..packets.len()], &expected, "{}", isa);
                }
            }
        }

        #[test]
        fn a_burst_of_numbers_has_the_keys_of_its_numbers(low: [u64; BURST], high: [u64; BURST]) {
            for isa in Isa::available() {
                for (at, key) in KEYED.numbers(isa, &low, &high).into_iter().enumerate() {
                    prop_assert_eq!(key, KEYED.number(u128::from(high[at]) << 64 | u128::from(low[at])), "{}", isa);
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
            let key = |lanes, direction| keys(Isa::detect(), direction, &[lanes])[0];
            prop_assert_eq!(key(inbound, Direction::Inbound), key(outbound, Direction::Outbound));
        }
    }

    #[test]
    fn the_ports_tell_conversations_apart_but_not_types_of_icmp() {
        let key = |protocol| {
            let mut lanes = [0; 32];
            (lanes[Lane::SrcPort.index()], lanes[Lane::Protocol.index()]) = (8, protocol);
            [Direction::Inbound, Direction::Outbound].map(|direction| keys(Isa::detect(), direction, &[lanes])[0])
        };
        let ([there, back], [request, reply]) = (key(17), key(1));
        assert!(there != back && request == reply);
    }
}
