//! Memory of conversations: fixed-size, keyed, ageing, evicting; created by outbound packets only, or a flood would
//! enter itself.
//!
//! TCP connections on which inside has sent (a RST does not count) and UDP tuples that inside answered or opened. One worker owns one memory; a symmetric hash over the addresses
//! steers both directions to the same worker. A bucket is one cache line of four entries. When it is full the victim is
//! an expired entry, else one that never got past its first exchange (what a flood leaves behind), else the oldest.

use std::time::Duration;

use levee_api::time::Timestamp;

use crate::isa::prefetch;

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
        /// UDP: the client went on after the answer.
        const CONTINUED = 1 << 6;
    }
}

impl State {
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

const WAYS: usize = 4;
/// Time unit of expiry: 2^27 ns, about 134 ms; 32 bits of them last 18 years.
const UNIT_SHIFT: u32 = 27;

#[derive(Clone, Copy, Default)]
struct Entry {
    tag: u32,
    expires: u32,
    note: u32,
    state: State,
    used: bool,
}

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Bucket([Entry; WAYS]);

/// A fixed-size table from conversation keys to their state.
pub struct Memory {
    buckets: Box<[Bucket]>,
    evicted: u64,
    /// Per bucket: until here a conversation that had got past its first exchange is missing in it. Per bucket, because some
    /// overflow long before the table is full, and what is missing in one says nothing about the others.
    incomplete_until: Box<[u32]>,
    /// The latest of these: nearly always past, and then none of them has to be looked at.
    incomplete_last: u32,
}

/// A found conversation. Changes are written in place.
pub struct Conversation<'a> {
    entry: &'a mut Entry,
}

impl Memory {
    /// A memory for about `entries` conversations (rounded up to a power of two), 16 bytes each.
    pub fn new(entries: usize) -> Self {
        let buckets = (entries / WAYS).max(1).next_power_of_two();
        Self {
            buckets: vec![Bucket::default(); buckets].into_boxed_slice(),
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
        if let Some(bucket) = self.buckets.get(self.at(key)) {
            prefetch(bucket);
        }
    }

    /// The conversation of a key, if it is remembered.
    pub fn find(&mut self, key: u64, now: Timestamp) -> Option<Conversation<'_>> {
        let (tag, now) = (tag(key), unit(now));
        self.bucket(key)?
            .0
            .iter_mut()
            .find(|entry| entry.used && entry.tag == tag && entry.expires > now)
            .map(|entry| Conversation { entry })
    }

    /// The conversation of a key, made if it is not remembered; `true` when it is new.
    pub fn find_or_create(&mut self, key: u64, now: Timestamp) -> Option<(Conversation<'_>, bool)> {
        let (tag, now) = (tag(key), unit(now));
        let bucket = self.bucket(key)?;
        let known = bucket.0.iter().position(|entry| entry.used && entry.tag == tag && entry.expires > now);
        let (at, new, evicted) = match known {
            Some(at) => (at, false, None),
            None => {
                let (at, victim) = bucket.0.iter().enumerate().min_by_key(|(_, entry)| {
                    let alive = entry.used && entry.expires > now;
                    (alive, entry.state.is_settled(), entry.expires)
                })?;
                (at, true, (victim.used && victim.expires > now).then_some(*victim))
            }
        };
        if let Some(victim) = evicted {
            self.evicted += 1;
            let at = self.at(key);
            if victim.state.is_settled()
                && let Some(until) = self.incomplete_until.get_mut(at)
            {
                *until = victim.expires.max(*until);
                self.incomplete_last = victim.expires.max(self.incomplete_last);
            }
        }
        let entry = self.bucket(key)?.0.get_mut(at)?;
        if new {
            *entry = Entry { tag, expires: now + 1, note: 0, state: State::empty(), used: true };
        }
        Some((Conversation { entry }, new))
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

impl Conversation<'_> {
    /// What has happened.
    pub fn state(&self) -> State {
        self.entry.state
    }

    /// Adds to what has happened.
    pub fn mark(&mut self, state: State) {
        self.entry.state |= state;
    }

    /// A number that belongs to the state (TCP: sequence number of the SYN-ACK).
    pub fn note(&self) -> u32 {
        self.entry.note
    }

    /// Sets the number.
    pub fn set_note(&mut self, note: u32) {
        self.entry.note = note;
    }

    /// Lives for `lifetime` from now.
    pub fn keep(&mut self, now: Timestamp, lifetime: Duration) {
        self.entry.expires = unit(now + lifetime).max(unit(now) + 1);
    }
}

fn unit(at: Timestamp) -> u32 {
    u32::try_from(at.0 >> UNIT_SHIFT & 0xffff_ffff).unwrap_or(u32::MAX)
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
        assert!(memory.find(7, start + SECOND * 11).is_none());
    }

    #[test]
    fn a_flood_of_half_open_conversations_evicts_no_proven_one() {
        let mut memory = Memory::new(256);
        let now = Timestamp(5_000_000_000);
        let proven: Vec<u64> = (0..40).map(|n| KEYED.address(n)).collect();
        for key in &proven {
            let (mut entry, new) = memory.find_or_create(*key, now).unwrap();
            assert!(new);
            entry.mark(State::PROVEN);
            entry.keep(now, lifetime::CONNECTION);
        }
        for n in 1_000..50_000 {
            let (mut entry, _) = memory.find_or_create(KEYED.address(n), now).unwrap();
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
            let (mut entry, _) = memory.find_or_create(KEYED.address(n), now).unwrap();
            entry.keep(now, lifetime::HALF_OPEN);
        }
        let all = |memory: &Memory, at| (0..1_000).filter(|n| memory.is_incomplete(KEYED.address(*n), at)).count();
        assert_eq!(all(&memory, now), 0, "what never got past its first exchange is no loss");
        for n in 0..1_000 {
            let (mut entry, _) = memory.find_or_create(KEYED.address(n), now).unwrap();
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
