//! What is kept of a packet: its first bytes, and what became of it.

use levee_api::role::Role;
use levee_api::time::Timestamp;

use super::tap::Offer;
use crate::packet::Direction;
use crate::verdict::{Reason, Verdict};

/// Most bytes that are kept of a packet: all headers of all but the oddest packets, and the beginning of what they carry.
pub const SNAP: usize = 192;

/// Words before the packet's bytes.
const HEAD: usize = 3;
/// Words of a record in the ring.
pub(super) const WORDS: usize = HEAD + SNAP / 8;

/// "None" where an optional index is stored in a byte or in 32 bits.
const NO_BYTE: u8 = u8::MAX;
const NO_FILTER: u32 = u32::MAX;
const _: () = assert!(Reason::COUNT < NO_BYTE as usize);
const _: () = assert!(Role::COUNT < NO_BYTE as usize);

/// A packet out of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it arrived.
    pub at: Timestamp,
    /// Position of its wire in the configuration.
    pub wire: u16,
    /// Which way it went.
    pub direction: Direction,
    /// Length on the wire in bytes.
    pub wire_len: u32,
    /// What became of it.
    pub fate: Fate,
    /// Index of the hit counter of the filter that matched it, whatever that did.
    pub filter: Option<u32>,
    /// What it was in its conversation; none for packets from inside and to nobody that is protected.
    pub role: Option<Role>,
    bytes: [u8; SNAP],
    len: u8,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was forwarded.
    Passed,
    /// It was forwarded, because its zone is only monitored; enforced, it would have been dropped.
    WouldDrop(Reason),
    /// It was dropped.
    Dropped(Reason),
    /// It was answered, and went no further.
    Answered,
}

impl Record {
    /// The first bytes of the packet, from the Ethernet header on; at most [`SNAP`].
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// The words before the packet's bytes, and those bytes.
    #[inline]
    pub(super) fn encode<'p>(offer: &Offer<'p>) -> ([u64; HEAD], &'p [u8]) {
        let bytes = offer.packet.head.get(..SNAP).unwrap_or(offer.packet.head);
        let (fate, reason) = match (offer.verdict, offer.reason) {
            (Verdict::Reply, _) => (3_u64, NO_BYTE),
            (Verdict::Drop(reason), _) => (2, reason as u8),
            (Verdict::Forward | Verdict::Translate, Some(reason)) => (1, reason as u8),
            (Verdict::Forward | Verdict::Translate, None) => (0, NO_BYTE),
        };
        let role = offer.role.map_or(NO_BYTE, |role| role as u8);
        let direction = u64::from(offer.direction == Direction::Outbound);
        let len = u64::try_from(bytes.len()).unwrap_or(0);
        let head = [
            offer.at.0,
            u64::from(offer.packet.wire_len) << 32 | len << 24 | fate << 16 | u64::from(reason) << 8 | u64::from(role),
            u64::from(offer.filter.unwrap_or(NO_FILTER)) << 32 | u64::from(offer.wire) << 16 | direction,
        ];
        (head, bytes)
    }

    /// A record out of its words; none if they are of none.
    pub fn decode(words: &[u64; WORDS]) -> Option<Self> {
        let ([at, what, how], data) = words.split_first_chunk::<HEAD>()?;
        let [wire_len @ .., len, fate, reason, role] = what.to_be_bytes();
        let [filter @ .., wire_high, wire_low, _, direction] = how.to_be_bytes();
        let reason = || Reason::ALL.get(usize::from(reason)).copied();
        let mut bytes = [0; SNAP];
        for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(data) {
            *to = word.to_le_bytes();
        }
        let filter = u32::from_be_bytes(filter);
        Some(Self {
            at: Timestamp(*at),
            wire: u16::from_be_bytes([wire_high, wire_low]),
            direction: if direction == 0 { Direction::Inbound } else { Direction::Outbound },
            wire_len: u32::from_be_bytes(wire_len),
            fate: match fate {
                0 => Fate::Passed,
                1 => Fate::WouldDrop(reason()?),
                2 => Fate::Dropped(reason()?),
                _ => Fate::Answered,
            },
            filter: (filter != NO_FILTER).then_some(filter),
            role: Role::ALL.get(usize::from(role)).copied(),
            bytes,
            len,
        })
    }
}
