//! Which packets a worker copies into its ring: one in N in peace, all to targets that are alarmed, as far as the budget goes.
//!
//! The budget is a token bucket, so that what is captured is spread over time instead of being the first packets of every
//! second, and peace never takes the lower half of it, so that alarmed targets come first.

use levee_api::role::Role;
use levee_api::time::Timestamp;

use super::record::{Record, WORDS};
use super::ring::{self, Producer};
use super::{Consumer, RECORD_BYTES, Settings};
use crate::packet::{Direction, Packet};
use crate::verdict::{Reason, Verdict};

/// The bucket holds so much of a budget: a tick's.
const BUCKET_NS: u64 = 10_000_000;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// A worker's side of capturing.
#[derive(Default)]
pub struct Tap(Option<Open>);

struct Open {
    ring: Producer<WORDS>,
    peace_one_in: usize,
    /// Packets in peace that pass before the next one is taken.
    skip: usize,
    /// What a record takes out of the bucket, which fills by a nanosecond per nanosecond.
    cost_ns: u64,
    /// When the bucket was empty, as far as what has been taken out since tells: it holds what lies between this and now.
    empty_at: Timestamp,
}

/// What there is to say about a packet.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'p> {
    /// The packet.
    pub packet: Packet<'p>,
    /// When it arrived.
    pub at: Timestamp,
    /// Position of its wire in the configuration.
    pub wire: u16,
    /// Which way it goes.
    pub direction: Direction,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why it is dropped; of a packet that is forwarded: why it would have been, were its zone enforced.
    pub reason: Option<Reason>,
    /// Index of the hit counter of the filter that matched it.
    pub filter: Option<u32>,
    /// What it is in its conversation.
    pub role: Option<Role>,
}

impl Tap {
    /// Captures nothing.
    pub const fn closed() -> Self {
        Self(None)
    }

    /// A tap into a ring of its own, and the other end of that.
    pub fn new(settings: &Settings) -> (Self, Consumer) {
        let (ring, consumer) = ring::ring(settings.ring_bytes);
        let record = u64::try_from(RECORD_BYTES).unwrap_or(u64::MAX);
        let open = Open {
            ring,
            peace_one_in: usize::try_from(settings.peace_one_in.max(1)).unwrap_or(usize::MAX),
            skip: 0,
            cost_ns: (record * NS_PER_SECOND).div_ceil(settings.bytes_per_second.max(1)).min(BUCKET_NS / 2),
            empty_at: Timestamp::ZERO,
        };
        (Self(Some(open)), consumer)
    }

    /// Takes what it wants of a burst of `count` packets. `alarmed` tells which of them are to or from an alarmed target;
    /// none when there is no such target: then the cost is that of one comparison for most bursts.
    #[inline]
    pub fn burst<'p>(
        &mut self,
        count: usize,
        now: Timestamp,
        alarmed: Option<impl Fn(usize) -> bool>,
        offer: impl Fn(usize) -> Option<Offer<'p>>,
    ) {
        let Some(open) = &mut self.0 else { return };
        match alarmed {
            Some(alarmed) if open.has_room(now, 0) => open.watch(count, now, alarmed, offer),
            None if open.skip < count && open.has_room(now, BUCKET_NS / 2) => open.glance(count, now, offer),
            _ => open.skip = open.skip.saturating_sub(count),
        }
    }
}

impl Open {
    /// Whether there is room for a record above what is held back.
    fn has_room(&mut self, now: Timestamp, held_back_ns: u64) -> bool {
        self.empty_at = Timestamp(self.empty_at.0.max(now.0.saturating_sub(BUCKET_NS)));
        now.0.saturating_sub(self.empty_at.0) >= self.cost_ns + held_back_ns
    }

    /// Peace: the packets whose turn it is, without a look at the others.
    #[inline(never)]
    fn glance<'p>(&mut self, count: usize, now: Timestamp, offer: impl Fn(usize) -> Option<Offer<'p>>) {
        let mut at = self.skip;
        while at < count {
            if self.has_room(now, BUCKET_NS / 2) {
                self.take(offer(at));
            }
            at = at.saturating_add(self.peace_one_in);
        }
        self.skip = at - count;
    }

    /// Some target is alarmed: its packets, and of the others those whose turn it is.
    #[inline(never)]
    fn watch<'p>(
        &mut self,
        count: usize,
        now: Timestamp,
        alarmed: impl Fn(usize) -> bool,
        offer: impl Fn(usize) -> Option<Offer<'p>>,
    ) {
        for at in 0..count {
            let turn = self.skip == 0;
            self.skip = if turn { self.peace_one_in } else { self.skip } - 1;
            if (alarmed(at) && self.has_room(now, 0)) || (turn && self.has_room(now, BUCKET_NS / 2)) {
                self.take(offer(at));
            }
        }
    }

    fn take(&mut self, offer: Option<Offer<'_>>) {
        let Some(offer) = offer else { return };
        self.empty_at = Timestamp(self.empty_at.0 + self.cost_ns);
        let (head, bytes) = Record::encode(&offer);
        self.ring.push(&head, bytes);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::capture::{Fate, SNAP};

    const PACKET: [u8; 60] = [7; 60];

    fn offer(at: Timestamp) -> Offer<'static> {
        Offer {
            packet: Packet { head: &PACKET, wire_len: 60 },
            at,
            wire: 0,
            direction: Direction::Inbound,
            verdict: Verdict::Forward,
            reason: None,
            filter: None,
            role: Some(Role::Syn),
        }
    }

    fn settings(peace_one_in: u32, records_per_second: u64) -> Settings {
        let record = RECORD_BYTES as u64;
        Settings { ring_bytes: record << 16, peace_one_in, bytes_per_second: record * records_per_second }
    }

    fn records(consumer: &Consumer) -> Vec<Record> {
        let mut words = [0; WORDS];
        let head = consumer.head();
        (consumer.oldest(head)..head)
            .map(|number| {
                assert!(consumer.read(number, &mut words));
                Record::decode(&words).unwrap()
            })
            .collect()
    }

    /// A second of bursts of 64 packets every 10 µs; every packet whose position in the burst is below `alarmed` is to an
    /// alarmed target. What was captured: of the alarmed, of the others.
    fn second(settings: &Settings, alarmed: usize) -> (usize, usize) {
        let (mut tap, consumer) = Tap::new(settings);
        let begin = 5 * NS_PER_SECOND;
        for now in (begin..begin + NS_PER_SECOND).step_by(10_000).map(Timestamp) {
            let wire = |at| u16::from(at < alarmed);
            let some = (alarmed > 0).then_some(|at| at < alarmed);
            tap.burst(64, now, some, |at| Some(Offer { wire: wire(at), ..offer(now) }));
        }
        assert!(consumer.head() < 1 << 16, "the ring holds it all");
        let records = records(&consumer);
        let of_alarmed = records.iter().filter(|record| record.wire == 1).count();
        (of_alarmed, records.len() - of_alarmed)
    }

    #[test]
    fn in_peace_one_packet_in_n_is_taken() {
        assert_eq!(second(&settings(1_000, 60_000), 0), (0, 6_400));
        assert_eq!(second(&settings(100, 1_000_000), 0), (0, 64_000));
    }

    #[test]
    fn the_budget_holds_whatever_comes() {
        for alarmed in [0, 3, 64] {
            let (of_alarmed, others) = second(&settings(1, 30_000), alarmed);
            let all = of_alarmed + others;
            // A full bucket more, at the beginning.
            assert!((29_900..=30_301).contains(&all), "{all} with {alarmed} alarmed");
        }
    }

    #[test]
    fn peace_takes_nothing_from_an_alarmed_target() {
        // 6.4 million packets a second, each to be taken; 100 000 of them are to the alarmed target.
        let (mut tap, consumer) = Tap::new(&settings(1, 20_000));
        for round in 0..10_000_u64 {
            let now = Timestamp(NS_PER_SECOND + round * 100_000);
            tap.burst(64, now, Some(|at| at == 63), |at| Some(Offer { wire: u16::from(at == 63), ..offer(now) }));
        }
        let alarmed = records(&consumer).iter().filter(|record| record.wire == 1).count();
        assert!(alarmed >= 9_990, "{alarmed} of 10 000");
    }

    #[test]
    fn what_is_captured_is_spread_over_time() {
        let (mut tap, consumer) = Tap::new(&settings(1, 10_000));
        for round in 0..100_000_u64 {
            let now = Timestamp(NS_PER_SECOND + round * 10_000);
            tap.burst(64, now, Some(|_| true), |_| Some(offer(now)));
        }
        let times: Vec<u64> = records(&consumer).iter().map(|record| record.at.0).collect();
        let widest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(widest <= 1_000_000, "{widest} ns without a packet");
    }

    #[test]
    fn a_closed_tap_asks_nothing() {
        Tap::closed().burst(64, Timestamp(1), Some(|_| panic!()), |_| panic!());
    }

    proptest! {
        #[test]
        fn a_record_says_what_was_offered(
            head in prop::collection::vec(any::<u8>(), 0..600),
            (at, wire_len, wire) in any::<(u64, u32, u16)>(),
            (outbound, dropped) in any::<(bool, bool)>(),
            reason in prop::option::of(prop::sample::select(Reason::ALL)),
            role in prop::option::of(prop::sample::select(Role::ALL.as_slice())),
            filter in prop::option::of(0_u32..u32::MAX),
        ) {
            let at = Timestamp(at.max(BUCKET_NS));
            let (mut tap, consumer) = Tap::new(&settings(1, 1_000));
            let direction = if outbound { Direction::Outbound } else { Direction::Inbound };
            let verdict = match reason {
                Some(reason) if dropped => Verdict::Drop(reason),
                _ => Verdict::Forward,
            };
            let packet = Packet { head: &head, wire_len };
            tap.burst(1, at, None::<fn(usize) -> bool>, |_| {
                Some(Offer { packet, at, wire, direction, verdict, reason, filter, role })
            });
            let [record] = &records(&consumer)[..] else { panic!("one record") };
            prop_assert_eq!(record.bytes(), &head[..head.len().min(SNAP)]);
            prop_assert_eq!((record.at, record.wire_len, record.wire), (at, wire_len, wire));
            prop_assert_eq!((record.direction, record.filter, record.role), (direction, filter, role));
            let fate = match reason {
                None => Fate::Passed,
                Some(reason) if dropped => Fate::Dropped(reason),
                Some(reason) => Fate::WouldDrop(reason),
            };
            prop_assert_eq!(record.fate, fate);
        }
    }
}
