//! Counters per worker and host slot: one cache line, one writer, monotonic, never reset.
//!
//! Readers widen: they keep what they have seen and subtract (bytes wrap in a third of a second at 100 Gbit/s, a tick is
//! 10 ms).

use std::sync::atomic::{AtomicU32, Ordering};

use levee_api::role::Role;

use crate::isa::{prefetch, prefetch_to_write};
use crate::target::conversation::Step;

/// Roles that signatures and witnesses of packets know: all but [`Role::Established`], which is the rest.
pub const COUNTED_ROLES: usize = Role::COUNT - 1;

/// Inbound packets by role, all of them, so that their sum is the number of packets: a packet costs three words of its line.
const ROLES: usize = 0;
const BYTES: usize = ROLES + Role::COUNT;
const HANDSHAKES: usize = BYTES + 1;
const ANSWERS: usize = HANDSHAKES + 1;
const EPOCH: usize = ANSWERS + 1;
/// In the word of the epoch: a packet was dropped in it.
const ANY_DROPPED: u32 = 1 << 31;
/// Among the fates: outbound packets, behind the packets dropped by role, and conversations that went on.
const OUTBOUND: usize = COUNTED_ROLES + 1;
const CONTINUED: usize = OUTBOUND + 1;
const SECONDS: usize = CONTINUED + 1;
const REPEATS: usize = SECONDS + 1;
/// The drops of the rest: blocked sources, and what is above the limits of sources inside conversations.
const BLOCKED: usize = Role::Established.index();
pub(crate) const FIELDS: usize = 16;
const _: () = assert!(EPOCH < FIELDS && REPEATS < FIELDS && BLOCKED < OUTBOUND);

/// What is counted for a host, as a reader sees it: totals since the start, wrapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Inbound packets.
    pub packets: u32,
    /// Inbound bytes on the wire.
    pub bytes: u32,
    /// Inbound packets per role.
    pub roles: [u32; COUNTED_ROLES],
    /// The rest of them: what conversations explain, and what blocked sources send.
    pub established: u32,
    /// Handshakes that clients completed.
    pub handshakes: u32,
    /// First answers of inside to a datagram.
    pub answers: u32,
    /// Inbound packets per role that a filter dropped.
    pub dropped: [u32; COUNTED_ROLES],
    /// Outbound packets.
    pub outbound: u32,
    /// Clients that promptly went on after the first answer to their datagram.
    pub continued: u32,
    /// Clients that promptly sent more data after the reply to their request.
    pub seconds: u32,
    /// Requests of sources that had sent others just before.
    pub repeats: u32,
    /// Inbound packets of sources that are blocked, and those inside conversations that a limit has dropped.
    pub blocked: u32,
}

impl Totals {
    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut delta = Self {
            packets: self.packets.wrapping_sub(earlier.packets),
            bytes: self.bytes.wrapping_sub(earlier.bytes),
            established: self.established.wrapping_sub(earlier.established),
            handshakes: self.handshakes.wrapping_sub(earlier.handshakes),
            answers: self.answers.wrapping_sub(earlier.answers),
            outbound: self.outbound.wrapping_sub(earlier.outbound),
            continued: self.continued.wrapping_sub(earlier.continued),
            seconds: self.seconds.wrapping_sub(earlier.seconds),
            repeats: self.repeats.wrapping_sub(earlier.repeats),
            blocked: self.blocked.wrapping_sub(earlier.blocked),
            ..Self::default()
        };
        for (out, (now, then)) in delta.roles.iter_mut().zip(self.roles.iter().zip(&earlier.roles)) {
            *out = now.wrapping_sub(*then);
        }
        for (out, (now, then)) in delta.dropped.iter_mut().zip(self.dropped.iter().zip(&earlier.dropped)) {
            *out = now.wrapping_sub(*then);
        }
        delta
    }

    /// Inbound packets of a role.
    pub fn of(&self, role: Role) -> u32 {
        self.roles.get(role.index()).copied().unwrap_or(self.established)
    }

    /// Those of them that were dropped.
    pub fn dropped_of(&self, role: Role) -> u32 {
        self.dropped.get(role.index()).copied().unwrap_or(self.blocked)
    }

    /// Leaves out the packets of a role.
    pub fn leave_out(&mut self, role: Role) {
        let at = role.index();
        *self.roles.get_mut(at).unwrap_or(&mut self.established) = 0;
        *self.dropped.get_mut(at).unwrap_or(&mut self.blocked) = 0;
    }

    /// Adds the counts of another worker.
    pub fn add(&mut self, other: &Self) {
        self.packets = self.packets.wrapping_add(other.packets);
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.established = self.established.wrapping_add(other.established);
        self.handshakes = self.handshakes.wrapping_add(other.handshakes);
        self.answers = self.answers.wrapping_add(other.answers);
        self.outbound = self.outbound.wrapping_add(other.outbound);
        self.continued = self.continued.wrapping_add(other.continued);
        self.seconds = self.seconds.wrapping_add(other.seconds);
        self.repeats = self.repeats.wrapping_add(other.repeats);
        self.blocked = self.blocked.wrapping_add(other.blocked);
        for (sum, more) in self.roles.iter_mut().zip(&other.roles) {
            *sum = sum.wrapping_add(*more);
        }
        for (sum, more) in self.dropped.iter_mut().zip(&other.dropped) {
            *sum = sum.wrapping_add(*more);
        }
    }
}

/// A line of counters as it stands, or what was added to it: in the order in which the worker keeps them, so that a reader
/// with many slots subtracts and adds whole lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(align(64))]
pub struct Counts(pub(crate) [u32; FIELDS]);

impl Counts {
    /// What was counted since `earlier`.
    #[inline]
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut left = *self;
        left.0.iter_mut().zip(&earlier.0).for_each(|(left, then)| *left = left.wrapping_sub(*then));
        left
    }

    /// Adds other counts.
    #[inline]
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, more)| *sum = sum.wrapping_add(*more));
    }

    /// Of fates: those that can be these arrivals'.
    #[must_use]
    pub fn of_arrivals(&self, arrivals: &Self) -> Self {
        let mut theirs = Self::default();
        let dropped = self.0.iter().zip(&arrivals.0).take(Role::COUNT);
        theirs.0.iter_mut().zip(dropped).for_each(|(out, (dropped, packets))| *out = *dropped.min(packets));
        theirs
    }

    /// Of arrivals: true when there are any, or answers.
    #[inline]
    pub fn any_arrived(&self) -> bool {
        let Self(counts) = self;
        counts.iter().skip(BYTES).fold(0, |any, count| any | count) != 0
    }

    /// Of arrivals as they stand: whether a packet was dropped in the epoch of the newest of them. Forgets that.
    #[inline]
    pub(crate) fn take_any_dropped(&mut self) -> bool {
        self.0.get_mut(EPOCH).is_some_and(|epoch| std::mem::take(epoch) & ANY_DROPPED != 0)
    }

    /// Of arrivals: true when no role has more packets than `most` allows it.
    #[inline]
    pub fn is_within(&self, most: &[u32; Role::COUNT]) -> bool {
        self.0.iter().zip(most).fold(true, |within, (packets, most)| within & (packets <= most))
    }

    /// Of arrivals: the largest of the products of each role's packets, or `most` where that is less, with their weights.
    #[inline]
    pub fn largest_part(&self, most: &[u32; Role::COUNT], weights: &[u32; Role::COUNT]) -> u32 {
        let weighed = self.0.iter().zip(most).zip(weights);
        weighed.fold(0, |largest, ((packets, most), weight)| largest.max((*packets.min(most)).wrapping_mul(*weight)))
    }
}

/// All counters of a slot as they stand, or what was added to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(128))]
pub struct Reading {
    /// Inbound packets, and what completes a conversation.
    pub arrivals: Counts,
    /// What became of them, and outbound packets.
    pub fates: Counts,
}

impl Reading {
    /// What was counted since `earlier`.
    #[inline]
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self { arrivals: self.arrivals.since(&earlier.arrivals), fates: self.fates.since(&earlier.fates) }
    }

    /// Adds other counts.
    #[inline]
    pub fn add(&mut self, other: &Self) {
        self.arrivals.add(&other.arrivals);
        self.fates.add(&other.fates);
    }

    /// True when nothing was counted.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// By name.
    pub fn totals(&self) -> Totals {
        let arrival = |at: usize| self.arrivals.0.get(at).copied().unwrap_or(0);
        let fate = |at: usize| self.fates.0.get(at).copied().unwrap_or(0);
        Totals {
            packets: (ROLES..ROLES + Role::COUNT).fold(0, |sum, role| sum.wrapping_add(arrival(role))),
            bytes: arrival(BYTES),
            roles: std::array::from_fn(|role| arrival(ROLES + role)),
            established: arrival(ROLES + Role::Established.index()),
            handshakes: arrival(HANDSHAKES),
            answers: arrival(ANSWERS),
            dropped: std::array::from_fn(fate),
            outbound: fate(OUTBOUND),
            continued: fate(CONTINUED),
            seconds: fate(SECONDS),
            repeats: fate(REPEATS),
            blocked: fate(BLOCKED),
        }
    }
}

#[derive(Default)]
#[repr(align(64))]
pub(crate) struct Line(pub(crate) [AtomicU32; FIELDS]);

impl Line {
    /// All counters, one after the other.
    #[inline]
    pub(crate) fn counts(&self) -> Counts {
        Counts(self.0.each_ref().map(|counter| counter.load(Ordering::Relaxed)))
    }
}

/// The counters of one worker. The worker writes, anybody reads.
pub struct Counters(Box<[Slot]>);

/// Two lines side by side, which memory hands over together.
#[derive(Default)]
#[repr(C, align(128))]
struct Slot {
    arrivals: Line,
    /// What filters did and what went out: touched only when a filter dropped a packet, and by outbound traffic.
    fates: Line,
}

impl Counters {
    /// Counters for `slots` hosts: 128 bytes each.
    pub fn new(slots: usize) -> Self {
        Self((0..slots).map(|_| Slot::default()).collect())
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.0.len()
    }

    /// The counters, to count many packets.
    #[inline]
    pub fn view(&self) -> View<'_> {
        View(&self.0)
    }

    /// Counts a first answer; true when the slot was untouched in this epoch.
    pub fn answer(&self, slot: u32, epoch: u32) -> bool {
        let Some(Slot { arrivals: line, .. }) = self.view().slot(slot) else { return false };
        add(line, ANSWERS, 1);
        first_of_epoch(line, epoch)
    }

    /// Counts an outbound packet.
    #[inline]
    pub fn outbound(&self, slot: u32) {
        if let Some(Slot { fates: line, .. }) = self.view().slot(slot) {
            add(line, OUTBOUND, 1);
        }
    }

    /// Counts a client that went on.
    pub fn went_on(&self, slot: u32, step: Step) {
        let Some(Slot { arrivals, fates }) = self.view().slot(slot) else { return };
        match step {
            Step::Handshake => add(arrivals, HANDSHAKES, 1),
            Step::Continued => add(fates, CONTINUED, 1),
            Step::Second => add(fates, SECONDS, 1),
        }
    }

    /// Counts a request of a source that had sent others just before.
    pub fn repeated(&self, slot: u32) {
        if let Some(Slot { fates, .. }) = self.view().slot(slot) {
            add(fates, REPEATS, 1);
        }
    }

    /// Reads the totals of a slot.
    pub fn read(&self, slot: u32) -> Totals {
        self.reading(slot).totals()
    }

    /// Reads a slot whole.
    #[inline]
    pub fn reading(&self, slot: u32) -> Reading {
        let view = self.view();
        Reading { arrivals: view.arrivals(slot), fates: view.fates(slot) }
    }
}

/// Counters whose place in memory is known, so that it is not looked up for every packet. Only the owning worker may count.
#[derive(Clone, Copy)]
pub struct View<'a>(&'a [Slot]);

impl<'a> View<'a> {
    /// Asks for the cache line in which arrivals of a slot are counted.
    #[inline]
    pub fn prefetch(self, slot: u32) {
        if let Some(slot) = self.slot(slot) {
            prefetch_to_write(&slot.arrivals);
        }
    }

    /// Asks for the cache line in which the fates of a slot's packets are counted.
    #[inline]
    pub fn prefetch_fates(self, slot: u32) {
        if let Some(slot) = self.slot(slot) {
            prefetch_to_write(&slot.fates);
        }
    }

    /// Asks for the cache line of [`Self::arrivals`], for a reader that is not the worker.
    #[inline]
    pub fn prefetch_to_read(self, slot: u32) {
        if let Some(Slot { arrivals, .. }) = self.slot(slot) {
            prefetch(arrivals);
        }
    }

    /// Asks for the cache line of [`Self::fates`], for a reader that is not the worker.
    #[inline]
    pub fn prefetch_fates_to_read(self, slot: u32) {
        if let Some(Slot { fates, .. }) = self.slot(slot) {
            prefetch(fates);
        }
    }

    /// Reads what arrived; the epoch is left out.
    #[inline]
    pub fn arrivals(self, slot: u32) -> Counts {
        let Some(Slot { arrivals, .. }) = self.slot(slot) else { return Counts::default() };
        let mut counts = arrivals.counts();
        counts.take_any_dropped();
        counts
    }

    /// The line that [`Self::arrivals`] reads.
    #[inline]
    pub(crate) fn arrivals_line(self, slot: u32) -> Option<&'a Line> {
        Some(&self.slot(slot)?.arrivals)
    }

    /// Reads what became of it, and what was sent.
    #[inline]
    pub fn fates(self, slot: u32) -> Counts {
        self.slot(slot).map(|slot| slot.fates.counts()).unwrap_or_default()
    }

    /// Counts an inbound packet; true when it is the first of its slot in this epoch.
    #[inline]
    pub fn arrival(self, slot: u32, role: Role, bytes: u32, epoch: u32) -> bool {
        let Some(Slot { arrivals, .. }) = self.slot(slot) else { return false };
        add(arrivals, ROLES + role.index(), 1);
        add(arrivals, BYTES, bytes);
        first_of_epoch(arrivals, epoch)
    }

    /// Counts a packet that was dropped by a decision about its destination.
    #[inline]
    pub fn dropped(self, slot: u32, role: Role) {
        if let Some(Slot { fates, arrivals }) = self.slot(slot) {
            add(fates, role.index(), 1);
            if let Some(epoch) = arrivals.0.get(EPOCH) {
                epoch.store(epoch.load(Ordering::Relaxed) | ANY_DROPPED, Ordering::Relaxed);
            }
        }
    }

    #[inline]
    fn slot(self, slot: u32) -> Option<&'a Slot> {
        self.0.get(usize::try_from(slot).ok()?)
    }
}

/// One writer: a load and a store, no locked instruction.
fn add(line: &Line, field: usize, by: u32) {
    if let Some(counter) = line.0.get(field) {
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }
}

fn first_of_epoch(line: &Line, epoch: u32) -> bool {
    let Some(stamp) = line.0.get(EPOCH) else { return false };
    let epoch = epoch & !ANY_DROPPED;
    if stamp.load(Ordering::Relaxed) & !ANY_DROPPED == epoch {
        return false;
    }
    stamp.store(epoch, Ordering::Relaxed);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_survive_wrapping() {
        let counters = Counters::new(1);
        counters.view().arrival(0, Role::Syn, u32::MAX, 1);
        let before = counters.read(0);
        counters.view().arrival(0, Role::Syn, 100, 1);
        let delta = counters.read(0).since(&before);
        assert_eq!((delta.packets, delta.bytes, delta.roles[Role::Syn.index()]), (1, 100, 1));
    }

    #[test]
    fn a_slot_is_reported_dirty_once_per_epoch() {
        let counters = Counters::new(2);
        assert!(counters.view().arrival(1, Role::Established, 60, 7));
        assert!(!counters.view().arrival(1, Role::Syn, 60, 7));
        assert!(counters.view().arrival(1, Role::Syn, 60, 8));
    }

    #[test]
    fn a_slot_that_does_not_exist_is_ignored() {
        assert!(!Counters::new(1).view().arrival(9, Role::Syn, 60, 1));
    }
}
