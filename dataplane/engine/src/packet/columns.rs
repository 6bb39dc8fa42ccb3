//! A burst after parsing: each packet as a row of lanes, and the same lanes turned into columns, for stages that ask all
//! packets the same question at once.

use levee_api::lane::{Bits, LANES, Lane};

use super::{Direction, Kind, Lanes, Layers, frame, ipv4, ipv6};
use crate::pipeline::BURST;

/// Two lanes of all packets of a burst, the even one in the low half.
pub type Pair = [u32; BURST];

/// The lanes of a burst, turned: a pair of lanes is a column.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Columns([Pair; LANES / 2]);

/// What is known of a burst's packets.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// As rows. A cache line each.
    pub lanes: [Lanes; BURST],
    /// The same as columns.
    pub columns: Columns,
    /// A bit for each packet of which something holds.
    pub marks: Marks,
    /// A bit for each packet that was read together with others: [`Self::layers`] makes its layers of `offsets`.
    plain: u64,
    pub(super) offsets: Offsets,
    /// Layers of the packets that are not plain.
    rows: [Layers; BURST],
}

/// Offsets in the frames of plain packets.
#[derive(Clone, Debug)]
pub(super) struct Offsets {
    l3: Pair,
    /// Of what follows the transport header, with that of its end in the upper half.
    ends: Pair,
}

/// A bit for each packet of a burst of which something holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// TCP with its header.
    pub tcp: u64,
    /// UDP with its header.
    pub udp: u64,
    /// The lanes hold addresses.
    pub addressed: u64,
    /// These are of IPv6.
    pub ipv6: u64,
    /// Fragments.
    pub fragments: u64,
    /// More than filters and address sets decides about it.
    pub special: u64,
}

impl Default for Parsed {
    fn default() -> Self {
        Self {
            lanes: [Lanes::default(); BURST],
            columns: Columns([[0; BURST]; LANES / 2]),
            marks: Marks::default(),
            plain: 0,
            offsets: Offsets { l3: [0; BURST], ends: [0; BURST] },
            rows: [Layers::NONE; BURST],
        }
    }
}

impl Parsed {
    /// Up to a burst of packets of which only lanes and kind are known.
    pub fn of_rows(rows: impl IntoIterator<Item = (Lanes, Kind)>) -> Self {
        let mut parsed = Self::default();
        for (at, (row, kind)) in rows.into_iter().enumerate().take(BURST) {
            if let Some(lanes) = parsed.lanes.get_mut(at) {
                *lanes = row;
                parsed.put(at, Layers { kind, ..Layers::NONE });
            }
        }
        parsed
    }

    /// What was found besides the lanes.
    #[inline(always)]
    pub fn layers(&self, at: usize) -> Layers {
        if self.plain >> (at % BURST) & 1 == 0 {
            return self.rows.get(at).copied().unwrap_or(Layers::NONE);
        }
        let halves = |column: &Pair| column.get(at).map_or((0, 0), |pair| (low16(*pair), low16(pair >> 16)));
        let ((l3, _), (payload, end)) = (halves(&self.offsets.l3), halves(&self.offsets.ends));
        let kind = if self.marks.tcp >> (at % BURST) & 1 == 0 { Kind::Udp } else { Kind::Tcp };
        let header = if self.marks.ipv6 >> (at % BURST) & 1 == 0 { ipv4::HEADER } else { ipv6::HEADER };
        Layers { kind, l3, l4: l3 + frame::offset(header), payload, end, ..Layers::NONE }
    }

    /// Layers of the packets that were read one by one; those of others mean nothing.
    pub fn rows(&self) -> &[Layers; BURST] {
        &self.rows
    }

    /// Notes what a packet is, whose row is filled, and turns that into columns.
    pub(super) fn put(&mut self, at: usize, layers: Layers) {
        self.set_row(at, layers);
        if let Some(lanes) = self.lanes.get(at) {
            self.columns.turn(at, lanes);
            self.marks.add(at, &layers, lanes.bits());
        }
    }

    /// Notes that a fragment turned out to be malformed.
    pub fn set_kind(&mut self, at: usize, kind: Kind) {
        if let Some(layers) = self.rows.get_mut(at) {
            layers.kind = kind;
        }
    }

    /// Notes what a packet is that is marked with others.
    pub(super) fn set_row(&mut self, at: usize, layers: Layers) {
        if let Some(row) = self.rows.get_mut(at) {
            *row = layers;
        }
    }

    /// Begins a burst of which these packets were read together. Fragments have rows already.
    #[inline(always)]
    pub(super) fn mark(&mut self, tcp: u64, udp: u64, ipv6: u64, fragments: u64) {
        self.plain = (tcp | udp) & !fragments;
        self.marks = Marks { tcp, udp, addressed: tcp | udp | fragments, ipv6, fragments, special: fragments };
    }
}

impl Offsets {
    /// Writes sixteen packets.
    #[inline(always)]
    pub(super) fn put(&mut self, block: usize, l3: &[u32; 16], ends: &[u32; 16]) {
        for (column, sixteen) in [(&mut self.l3, l3), (&mut self.ends, ends)] {
            if let Some(place) = column.as_chunks_mut().0.get_mut(block) {
                *place = *sixteen;
            }
        }
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "half a word")]
const fn low16(word: u32) -> u16 {
    word as u16
}

impl Columns {
    /// The column that a lane is in.
    #[inline(always)]
    pub const fn of(&self, lane: Lane) -> &Pair {
        #[expect(clippy::indexing_slicing, reason = "there is a column for every two lanes")]
        &self.0[lane.index() / 2]
    }

    /// Half of the IPv6 address of a packet: the four lanes from an even one on.
    #[inline(always)]
    pub fn half(&self, from: Lane, at: usize) -> u64 {
        let [high, low] = [from.index(), from.index() + 2]
            .map(|lane| self.0.get(lane / 2).and_then(|column| column.get(at)).map_or(0, |pair| address_of(*pair)));
        u64::from(high) << 32 | u64::from(low)
    }

    /// The address inside of a packet, as a number: IPv4 in the low 32 bits.
    #[inline(always)]
    pub fn inside(&self, direction: Direction, at: usize) -> u128 {
        let (first, last) = match direction {
            Direction::Inbound => (Lane::Dst0, Lane::Dst4),
            Direction::Outbound => (Lane::Src0, Lane::Src4),
        };
        u128::from(self.half(first, at)) << 64 | u128::from(self.half(last, at))
    }

    /// Writes sixteen packets, the first of them at `16 * block`.
    #[inline(always)]
    pub(super) fn put(&mut self, block: usize, columns: &[[u32; 16]; LANES / 2]) {
        for (column, sixteen) in self.0.iter_mut().zip(columns) {
            if let Some(place) = column.as_chunks_mut().0.get_mut(block) {
                *place = *sixteen;
            }
        }
    }

    /// Writes one packet.
    pub(super) fn turn(&mut self, at: usize, lanes: &Lanes) {
        for (column, [even, odd]) in self.0.iter_mut().zip(lanes.0.as_chunks().0) {
            if let Some(pair) = column.get_mut(at) {
                *pair = u32::from(*even) | u32::from(*odd) << 16;
            }
        }
    }
}

/// An IPv4 address, from the last pair of an address's lanes.
#[inline(always)]
pub const fn address_of(pair: u32) -> u32 {
    pair.rotate_left(16)
}

impl Marks {
    /// Marks what the packet at a position is; nothing is marked there before.
    #[inline]
    fn add(&mut self, at: usize, layers: &Layers, bits: Bits) {
        let set = |mark: &mut u64, holds: bool| *mark |= u64::from(holds) << (at % BURST);
        let has_addresses = match layers.kind {
            Kind::Other | Kind::Heartbeat | Kind::TooDeep => false,
            Kind::Malformed { addressed, .. } => addressed,
            _ => true,
        };
        let is_plain = matches!(layers.kind, Kind::Tcp | Kind::Udp | Kind::IcmpOther | Kind::OtherProtocol);
        let is_fragment = layers.piece.end > 0;
        set(&mut self.tcp, layers.kind == Kind::Tcp);
        set(&mut self.udp, layers.kind == Kind::Udp);
        set(&mut self.addressed, has_addresses);
        set(&mut self.ipv6, has_addresses && bits.contains(Bits::IPV6));
        set(&mut self.fragments, is_fragment);
        set(&mut self.special, !is_plain || is_fragment);
    }
}
