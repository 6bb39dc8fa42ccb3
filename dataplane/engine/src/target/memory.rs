//! Memory of conversations: fixed-size, keyed, ageing, evicting; created by outbound packets only, or a flood would
//! enter itself.
//!
//! TCP connections on which inside has sent (a RST does not count) and UDP tuples that inside answered or opened. One worker owns one memory; a symmetric hash over the addresses
//! steers both directions to the same worker. A bucket is one cache line of four entries. When it is full the victim is
//! an expired entry, else one that never got past its first exchange (what a flood leaves behind), else the oldest.

use std::time::Duration;

use levee_api::time::Timestamp;

use crate::isa::prefetch_at;
use crate::pipeline::{BURST, set_bits};

bitflags::bitflags! {
    /// What has happened in a conversation.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct State: u16 {
        /// Inside sent a SYN: inside opened the connection.
        const INSIDE_SYN = 1 << 0;
        /// Inside answered a SYN with a SYN-ACK.
        const INSIDE_SYN_ACK = 1 << 1;
        /// The client acknowledged the SYN-ACK: its address is proven. Or inside opened the conversation.
        const PROVEN = 1 << 2;
        /// The client has sent data on a proven connection.
        const REQUEST = 1 << 3;
        /// Either side has sent FIN or RST.
        const CLOSING = 1 << 4;
        /// UDP: the first packet from inside answered a datagram to a served port.
        const ANSWERED = 1 << 5;
        /// The client went on after the first answer: with another datagram, or with more data after the reply to its request.
        const CONTINUED = 1 << 6;
        /// TCP: inside has sent data since the request.
        const REPLIED = 1 << 7;
    }
}

impl State {
    /// TCP: true when nobody has to prove anything any more.
    pub const fn is_opened(self) -> bool {
        !self.contains(Self::INSIDE_SYN_ACK) || self.contains(Self::PROVEN)
    }

    /// True when the conversation has got past its first exchange.
    const fn is_settled(self) -> bool {
        self.intersects(Self::PROVEN.union(Self::CONTINUED).union(Self::INSIDE_SYN))
    }
}

/// How long entries live after the last packet.
pub mod lifetime {
    use std::time::Duration;

    /// A SYN-ACK that the client has not acknowledged: Linux retransmits for about a minute, clients give up sooner.
    pub const HALF_OPEN: Duration = Duration::from_secs(30);
    /// A proven connection.
    pub const CONNECTION: Duration = Duration::from_secs(300);
    /// After FIN or RST: late segments and retransmissions.
    pub const CLOSING: Duration = Duration::from_secs(30);
    /// A UDP tuple: what home routers keep at least (RFC 4787 asks for two minutes).
    pub const DATAGRAMS: Duration = Duration::from_secs(120);
}

/// In units of time: what comes within some 400 ms comes because of what was sent before.
const PROMPT: u32 = 3;

const WAYS: usize = 4;
/// Time unit of expiry: 2^27 ns, about 134 ms; 32 bits of them last 18 years.
const UNIT_SHIFT: u32 = 27;

/// Entries side by side, so that a look-up compares all of them at once. One that was never used has expired.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u32; WAYS],
    expires: [u32; WAYS],
    notes: [u32; WAYS],
    states: [State; WAYS],
}

const _: () = assert!(size_of::<Bucket>() == 64, "a bucket is one cache line");

impl Bucket {
    /// A bit for each entry of a tag that lives.
    #[inline(always)]
    fn living(&self, tag: u32, now: u32) -> u32 {
        let entries = self.tags.iter().zip(&self.expires).enumerate();
        entries.fold(0, |bits, (at, (own, expires))| bits | u32::from((*own == tag) & (*expires > now)) << at)
    }

    /// The entry of a tag, if it lives.
    #[inline(always)]
    fn find(&self, tag: u32, now: u32) -> Option<usize> {
        let living = self.living(tag, now);
        (living != 0).then_some(living.trailing_zeros() as usize)
    }
}

/// A fixed-size table from conversation keys to their state.
pub struct Memory {
    buckets: Box<[Bucket]>,
    /// Per bucket a bit for each eighth of the tags of which it may have an entry: a byte instead of a cache line for
    /// what is not remembered, which is nearly everything in a flood.
    hints: Box<[u8]>,
    evicted: u64,
    /// Per bucket: until here a conversation that had got past its first exchange is missing in it. Per bucket, because some
    /// overflow long before the table is full, and what is missing in one says nothing about the others.
    incomplete_until: Box<[u32]>,
    /// The latest of these: nearly always past, and then none of them has to be looked at.
    incomplete_last: u32,
}

/// A found conversation. Changes are written in place.
pub struct Conversation<'a> {
    expires: &'a mut u32,
    note: &'a mut u32,
    state: &'a mut State,
}

impl Memory {
    /// A memory for about `entries` conversations (rounded up to a power of two), 17 bytes each.
    pub fn new(entries: usize) -> Self {
        let buckets = (entries / WAYS).max(1).next_power_of_two();
        Self {
            buckets: vec![Bucket::default(); buckets].into_boxed_slice(),
            hints: vec![0; buckets].into_boxed_slice(),
            evicted: 0,
            incomplete_until: vec![0; buckets].into_boxed_slice(),
            incomplete_last: 0,
        }
    }

    fn at(&self, key: u64) -> usize {
        usize::try_from(key).unwrap_or(0) & (self.buckets.len() - 1)
    }

    fn bucket(&mut self, key: u64) -> Option<&mut Bucket> {
        let at = self.at(key);
        self.buckets.get_mut(at)
    }

    /// Asks for the cache line of a key.
    #[inline]
    pub fn prefetch(&self, key: u64) {
        prefetch_at(&self.buckets, self.at(key));
    }

    /// False when the conversation of a key is certainly not remembered.
    #[inline]
    pub fn may_know(&self, key: u64) -> bool {
        self.hints.get(self.at(key)).is_some_and(|hints| hints & hint(tag(key)) != 0)
    }

    /// Of the packets whose bit is set in `which` those whose conversation is remembered.
    #[inline]
    pub fn known(&self, which: u64, keys: &[u64; BURST], now: Timestamp) -> u64 {
        let (now, mut known) = (unit(now), 0);
        for at in set_bits(which) {
            let bucket = keys.get(at).and_then(|key| Some((self.buckets.get(self.at(*key))?, tag(*key))));
            known |= u64::from(bucket.is_some_and(|(bucket, tag)| bucket.living(tag, now) != 0)) << at;
        }
        known
    }

    /// The conversation of a key, if it is remembered.
    pub fn find(&mut self, key: u64, now: Timestamp) -> Option<Conversation<'_>> {
        if !self.may_know(key) {
            return None;
        }
        let bucket = self.bucket(key)?;
        let at = bucket.find(tag(key), unit(now))?;
        Conversation::at(bucket, at)
    }

    /// The conversation of a key, made if it is not remembered; `true` when it is new.
    pub fn find_or_create(&mut self, key: u64, now: Timestamp) -> Option<(Conversation<'_>, bool)> {
        let (tag, now, at) = (tag(key), unit(now), self.at(key));
        let bucket = self.buckets.get_mut(at)?;
        if let Some(way) = bucket.find(tag, now) {
            return Some((Conversation::at(bucket, way)?, false));
        }
        let entries = bucket.expires.iter().zip(&bucket.states).enumerate();
        let (way, (expires, state)) =
            entries.min_by_key(|(_, (expires, state))| (**expires > now, state.is_settled(), **expires))?;
        let (expires, is_settled) = (*expires, state.is_settled());
        if expires > now {
            self.evicted += 1;
            if is_settled && let Some(until) = self.incomplete_until.get_mut(at) {
                *until = expires.max(*until);
                self.incomplete_last = expires.max(self.incomplete_last);
            }
        }
        *bucket.tags.get_mut(way)? = tag;
        let living = bucket.tags.iter().zip(&bucket.expires).filter(|(_, expires)| **expires > now);
        if let Some(hints) = self.hints.get_mut(at) {
            *hints = living.fold(hint(tag), |hints, (tag, _)| hints | hint(*tag));
        }
        let entry = Conversation::at(bucket, way)?;
        (*entry.expires, *entry.note, *entry.state) = (now + 1, 0, State::empty());
        Some((entry, true))
    }

    /// Living entries that had to make room so far.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// True while the conversation of a key may be missing: one that had got past its first exchange had to make room where it
    /// would be.
    pub fn is_incomplete(&self, key: u64, now: Timestamp) -> bool {
        let now = unit(now);
        now < self.incomplete_last && self.incomplete_until.get(self.at(key)).is_some_and(|until| now < *until)
    }
}

impl<'a> Conversation<'a> {
    fn at(bucket: &'a mut Bucket, way: usize) -> Option<Self> {
        let Bucket { expires, notes, states, .. } = bucket;
        Some(Self { expires: expires.get_mut(way)?, note: notes.get_mut(way)?, state: states.get_mut(way)? })
    }

    /// What has happened.
    pub fn state(&self) -> State {
        *self.state
    }

    /// Adds to what has happened.
    pub fn mark(&mut self, state: State) {
        *self.state |= state;
    }

    /// True when the last packet of either side is not older than [`PROMPT`]. `lifetime`: what it was kept for.
    pub fn is_prompt(&self, now: Timestamp, lifetime: Duration) -> bool {
        unit(now + lifetime).saturating_sub(*self.expires) <= PROMPT
    }

    /// A number that belongs to the state (TCP: until the client is proven the sequence number of the SYN-ACK, then how many
    /// packets without data it may send).
    pub fn note(&self) -> u32 {
        *self.note
    }

    /// Sets the number.
    pub fn set_note(&mut self, note: u32) {
        *self.note = note;
    }

    /// Lives for `lifetime` from now.
    pub fn keep(&mut self, now: Timestamp, lifetime: Duration) {
        *self.expires = unit(now + lifetime).max(unit(now) + 1);
    }
}

fn unit(at: Timestamp) -> u32 {
    u32::try_from(at.0 >> UNIT_SHIFT & 0xffff_ffff).unwrap_or(u32::MAX)
}

/// The bit of a tag among the hints of its bucket.
#[inline(always)]
fn hint(tag: u32) -> u8 {
    1 << (tag & 7)
}

fn tag(key: u64) -> u32 {
    u32::try_from(key >> 32).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::keyed::Keyed;

    const KEYED: Keyed = Keyed::new((1, 2));
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn entries_end_after_their_lifetime() {
        let mut memory = Memory::new(64);
        let start = Timestamp(5_000_000_000);
        memory.find_or_create(7, start).unwrap().0.keep(start, SECOND * 10);
        assert!(memory.find(7, start + SECOND * 9).is_some());
        assert!(memory.may_know(7) && !memory.may_know(1 << 32 | 7));
        assert!(memory.find(7, start + SECOND * 11).is_none());
    }

    #[test]
    fn a_flood_of_half_open_conversations_evicts_no_proven_one() {
        let mut memory = Memory::new(256);
        let now = Timestamp(5_000_000_000);
        let proven: Vec<u64> = (0..40).map(|n| KEYED.number(n)).collect();
        for key in &proven {
            let (mut entry, new) = memory.find_or_create(*key, now).unwrap();
            assert!(new);
            entry.mark(State::PROVEN);
            entry.keep(now, lifetime::CONNECTION);
        }
        for n in 1_000..50_000 {
            let (mut entry, _) = memory.find_or_create(KEYED.number(n), now).unwrap();
            entry.mark(State::INSIDE_SYN_ACK);
            entry.keep(now, lifetime::HALF_OPEN);
        }
        let kept = proven.iter().filter(|key| memory.find(**key, now).is_some()).count();
        assert!(kept >= 38, "{kept} of 40 left: only buckets full of proven ones may lose any");
        assert!(memory.evicted() > 40_000);
    }

    #[test]
    fn it_knows_that_it_has_lost_a_settled_conversation() {
        let mut memory = Memory::new(64);
        let now = Timestamp(5_000_000_000);
        for n in 0..1_000 {
            let (mut entry, _) = memory.find_or_create(KEYED.number(n), now).unwrap();
            entry.keep(now, lifetime::HALF_OPEN);
        }
        let all = |memory: &Memory, at| (0..1_000).filter(|n| memory.is_incomplete(KEYED.number(*n), at)).count();
        assert_eq!(all(&memory, now), 0, "what never got past its first exchange is no loss");
        for n in 0..1_000 {
            let (mut entry, _) = memory.find_or_create(KEYED.number(n), now).unwrap();
            entry.mark(State::PROVEN);
            entry.keep(now, lifetime::CONNECTION);
        }
        assert_eq!(all(&memory, now + lifetime::CLOSING), 1_000);
        assert_eq!(all(&memory, now + lifetime::CONNECTION + SECOND), 0);
    }

    #[test]
    fn a_loss_in_one_bucket_says_nothing_about_the_others() {
        let mut memory = Memory::new(1_024);
        let now = Timestamp(5_000_000_000);
        for tag in 0..5 {
            let (mut entry, _) = memory.find_or_create(tag << 32 | 7, now).unwrap();
            entry.mark(State::PROVEN);
            entry.keep(now, lifetime::CONNECTION);
        }
        assert!(memory.is_incomplete(9 << 32 | 7, now));
        assert!((0..256).filter(|key| *key != 7).all(|key| !memory.is_incomplete(key, now)));
    }
}
