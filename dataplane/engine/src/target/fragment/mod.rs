//! Memory of fragmented datagrams: what became of the first fragment, so that the others follow it, and which parts have
//! arrived, so that none is sent twice with other contents.
//!
//! One entry per datagram (source, destination, protocol, identification), for two seconds from its first fragment. The
//! table has a fixed size; a line is one cache line of two entries. A burst's fragments are hashed side by side and their lines
//! asked for by [`Fragments::locate`]; each then costs one look-up.
//!
//! A new datagram takes an expired entry, else one of which no first fragment has come, else the older of the two. What
//! begins with a later fragment takes none that has a first. So a flood of later fragments makes nothing forgotten, and a first is
//! remembered at least until two other firsts have met its line: in a flood of firsts for about as many of them as the table
//! has entries, while its own later fragments follow within a few. A datagram that was forgotten is judged by its
//! later fragments' own role, and passes the check for overlaps.
//!
//! After a datagram is complete, as it then is at its host, the next first fragment or other piece begins another one:
//! identifications of IPv4 come again within two seconds where much is fragmented (RFC 6864).
//!
//! An overlap is dropped, and so is what still comes of that datagram, as hosts do (RFC 8200 section 4.5; Linux does the
//! same in IPv4). The same piece again is a duplicate, and passes. Four pieces of a datagram are told apart; beyond
//! them adjacent ones become one, within which a piece may be a duplicate; pieces that fit nowhere are not remembered.
//! Both pass as far as this is concerned, but are not exempt from filters as what follows a first is, and neither are duplicates:
//! so a first that passes lets no more than one datagram follow it.

mod pieces;

use levee_api::role::Role;
use levee_api::time::Timestamp;

use self::pieces::{Met, Pieces};
use crate::isa::{Isa, prefetch_at};
use crate::packet::{Lanes, Layers, Piece};
use crate::pipeline::{BURST, set_bits};
use crate::target::keyed::Keyed;

const WAYS: usize = 2;
/// Time unit of expiry: 2^27 ns, about 134 ms.
const UNIT_SHIFT: u32 = 27;
/// At least two seconds, wherever in a unit they begin.
const LIFETIME: u32 = 16;
const _: () = assert!((LIFETIME as u64 - 1) << UNIT_SHIFT >= 2_000_000_000);

/// The memory of one worker.
pub struct Fragments {
    lines: Box<[Line]>,
    keyed: Keyed,
    /// Of the burst that is being worked on: keys of its fragments, its number, and which of its firsts were dropped.
    keys: [u64; BURST],
    burst: u32,
    dropped: u64,
}

/// What a fragment is in its datagram.
pub enum Arrival<'a> {
    /// Part of a datagram that overlaps itself.
    Overlap,
    /// The first.
    First(First<'a>),
    /// Any other.
    Later {
        /// Established when it follows a first and has not come before; that of the first, when that was dropped.
        role: Role,
        /// What else decides about it.
        lead: Lead,
    },
}

/// A first fragment.
pub struct First<'a>(&'a mut Entry);

/// The first fragment that a later one follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lead {
    /// None is known, or it passed.
    None,
    /// It was dropped.
    Dropped,
    /// It is at this position of the same burst, and may not have been judged yet.
    At(u8),
}

bitflags::bitflags! {
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct State: u8 {
        /// The first fragment has come, and the others follow it.
        const FIRST = 1 << 0;
        /// The last first fragment was dropped.
        const DROPPED = 1 << 1;
        /// Pieces overlap.
        const OVERLAP = 1 << 2;
    }
}

#[derive(Clone, Copy)]
struct Entry {
    tag: u32,
    /// In units; zero: never used.
    expires: u32,
    /// Burst and position of the last first fragment.
    first: u32,
    role: Role,
    state: State,
    pieces: Pieces,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([Entry; WAYS]);

const _: () = assert!(size_of::<Line>() == 64, "a line is one cache line");

impl Fragments {
    /// A memory for about `entries` datagrams (rounded up to a power of two), 32 bytes each.
    pub fn new(entries: usize, keyed: Keyed) -> Self {
        let lines = (entries / WAYS).max(1).next_power_of_two();
        Self {
            lines: vec![Line([Entry::NONE; WAYS]); lines].into_boxed_slice(),
            keyed,
            keys: [0; BURST],
            burst: 0,
            dropped: 0,
        }
    }

    /// Begins a burst, and asks for the lines of its fragments. `which`: a bit for each packet that is one.
    pub fn locate(&mut self, isa: Isa, which: u64, lanes: &[Lanes], layers: &[Layers]) {
        self.burst = self.burst.wrapping_add(1);
        self.dropped = 0;
        if which == 0 {
            return;
        }
        self.keyed.fragments(isa, which, lanes, layers, &mut self.keys);
        for key in set_bits(which).filter_map(|at| self.keys.get(at)) {
            prefetch_at(&self.lines, self.line_of(*key));
        }
    }

    /// A fragment arrives: the packet at position `at` of the burst.
    #[inline]
    pub fn arrive(&mut self, at: usize, piece: Piece, now: Timestamp) -> Arrival<'_> {
        let (first, is_first, now) = (place(self.burst, at), piece.start == 0, unit(now));
        let Some(entry) = self.entry(at, is_first, now) else {
            return Arrival::Later { role: Role::LaterFragment, lead: Lead::None };
        };
        let met = entry.pieces.meet(piece);
        let overlaps = entry.state.contains(State::OVERLAP);
        let is_next = !overlaps && entry.pieces.are_complete() && (is_first || met != Met::Known);
        if is_next {
            *entry = Entry::of(entry.tag, now);
        } else if overlaps || met == Met::Overlap {
            entry.state |= State::OVERLAP;
            return Arrival::Overlap;
        }
        let is_counted = (is_next || met == Met::New) && entry.pieces.add(piece);
        if is_first {
            entry.first = first;
            entry.expires = now + LIFETIME;
            entry.state -= State::FIRST | State::DROPPED;
            return Arrival::First(First(entry));
        }
        let is_led = entry.state.contains(State::FIRST);
        let (role, lead) = if is_led && entry.state.contains(State::DROPPED) {
            (entry.role, Lead::Dropped)
        } else {
            // What came before brings nothing new, and what is not remembered could come any number of times: neither is
            // taken for established for its first's sake.
            let role = if is_led && is_counted { Role::Established } else { Role::LaterFragment };
            let is_same_burst = is_led && entry.first >> POSITION == first >> POSITION;
            let position = u8::try_from(entry.first % (1 << POSITION)).unwrap_or(0);
            (role, if is_same_burst { Lead::At(position) } else { Lead::None })
        };
        Arrival::Later { role, lead }
    }

    /// The first fragment at this position of the burst was dropped: the others follow it.
    pub fn first_dropped(&mut self, at: usize) {
        self.dropped |= 1 << (at % BURST);
        let Some(key) = self.keys.get(at).copied() else { return };
        let (line, first) = (self.line_of(key), place(self.burst, at));
        let Some(Line(entries)) = self.lines.get_mut(line) else { return };
        // Another first of the same datagram may have come since, and decides then.
        if let Some(entry) = entries.iter_mut().find(|entry| entry.tag == tag(key) && entry.first == first) {
            entry.state |= State::DROPPED;
        }
    }

    /// True when a later fragment follows a first that was dropped; those of the same burst have been judged.
    pub fn follows_dropped(&self, lead: Lead) -> bool {
        match lead {
            Lead::None => false,
            Lead::Dropped => true,
            Lead::At(at) => self.dropped >> (usize::from(at) % BURST) & 1 != 0,
        }
    }

    /// The entry of a packet's datagram, made if there is none and one can be had.
    #[inline]
    fn entry(&mut self, at: usize, is_first: bool, now: u32) -> Option<&mut Entry> {
        let key = *self.keys.get(at)?;
        let line = self.line_of(key);
        let Line(entries) = self.lines.get_mut(line)?;
        let own = |entry: &Entry| entry.tag == tag(key) && entry.expires > now;
        if let Some(known) = entries.iter().position(own) {
            return entries.get_mut(known);
        }
        let alive = |entry: &Entry| entry.expires > now;
        let leads = |entry: &Entry| alive(entry) && entry.state.contains(State::FIRST);
        // Their age tells firsts apart by the burst that they came in, which is finer than the unit of expiry.
        let victim = entries.iter_mut().min_by_key(|entry| (alive(entry), leads(entry), entry.expires, entry.first))?;
        if leads(victim) && !is_first {
            return None;
        }
        *victim = Entry::of(tag(key), now);
        Some(victim)
    }

    #[inline(always)]
    fn line_of(&self, key: u64) -> usize {
        usize::try_from(key & u64::from(u32::MAX)).unwrap_or(0) & (self.lines.len() - 1)
    }
}

impl First<'_> {
    /// The others follow it, which has this role. Unless this is called they are judged for themselves.
    #[inline]
    pub fn leads(self, role: Role) {
        let Self(entry) = self;
        entry.role = role;
        entry.state |= State::FIRST;
    }
}

impl Entry {
    const NONE: Self =
        Self { tag: 0, expires: 0, first: 0, role: Role::LaterFragment, state: State::empty(), pieces: Pieces::NONE };

    /// The entry of a new datagram.
    fn of(tag: u32, now: u32) -> Self {
        Self { tag, expires: now + LIFETIME, ..Self::NONE }
    }
}

/// Bits of a position in a burst.
const POSITION: u32 = BURST.trailing_zeros();

/// Number of a burst and position in it.
fn place(burst: u32, at: usize) -> u32 {
    burst << POSITION | u32::try_from(at % BURST).unwrap_or(0)
}

fn unit(at: Timestamp) -> u32 {
    u32::try_from(at.0 >> UNIT_SHIFT & u64::from(u32::MAX >> 1)).unwrap_or(u32::MAX >> 1)
}

fn tag(key: u64) -> u32 {
    u32::try_from(key >> 32).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
