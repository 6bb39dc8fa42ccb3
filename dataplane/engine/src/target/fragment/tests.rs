use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const KEYED: Keyed = Keyed::new((1, 2));
const START: Timestamp = Timestamp(1 << 40);
const UNIT: u64 = 1 << UNIT_SHIFT;

/// A memory, used one fragment at a time: what became of each, with what it is judged by.
struct Bench {
    fragments: Fragments,
    at: usize,
    waiting: Vec<(usize, usize, Lead)>,
    fates: Vec<Fate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Overlap,
    First,
    FollowsDropped,
    Established,
    Later,
}

impl Bench {
    fn new(entries: usize) -> Self {
        Self { fragments: Fragments::new(entries, KEYED), at: 0, waiting: Vec::new(), fates: Vec::new() }
    }

    /// Judges what has come, as the data path does when all of a burst has arrived, and begins another burst.
    fn next_burst(&mut self) {
        for (fate, _, lead) in self.waiting.drain(..) {
            if self.fragments.follows_dropped(lead) {
                self.fates[fate] = Fate::FollowsDropped;
            }
        }
        self.fragments.locate(Isa::SCALAR, 0, &[], &[]);
        self.at = 0;
    }

    /// A fragment of the datagram with this key; a first may be dropped.
    fn arrive(&mut self, key: u64, piece: Piece, dropped: bool, now: Timestamp) {
        if self.at == BURST {
            self.next_burst();
        }
        let at = self.at;
        self.at += 1;
        self.fragments.keys[at] = key;
        let fate = match self.fragments.arrive(at, piece, now) {
            Arrival::Overlap => Fate::Overlap,
            Arrival::First(first) => {
                first.leads(Role::UdpOpen);
                Fate::First
            }
            Arrival::Later { role, lead } => {
                self.waiting.push((self.fates.len(), at, lead));
                if role == Role::Established { Fate::Established } else { Fate::Later }
            }
        };
        self.fates.push(fate);
        if dropped && fate == Fate::First {
            self.fragments.first_dropped(at);
        }
    }

    fn finish(mut self) -> Vec<Fate> {
        self.next_burst();
        self.fates
    }

    fn last(&mut self) -> Fate {
        self.next_burst();
        *self.fates.last().unwrap()
    }
}

/// The rules, without a table.
#[derive(Default)]
struct Oracle {
    datagrams: HashMap<u64, Known>,
}

#[derive(Default)]
struct Known {
    until: u64,
    pieces: Vec<Piece>,
    dropped: Option<bool>,
    overlaps: bool,
}

impl Oracle {
    fn arrive(&mut self, key: u64, piece: Piece, dropped: bool, now: u64) -> Fate {
        let is_first = piece.start == 0;
        let known = self.datagrams.entry(key).or_default();
        if known.until <= now {
            *known = Known { until: now + u64::from(LIFETIME), ..Known::default() };
        }
        let known_before = known.pieces.contains(&piece);
        let last = known.pieces.iter().find(|piece| piece.last).map(|piece| piece.end);
        let is_complete = last == Some(known.pieces.iter().map(|piece| piece.end - piece.start).sum());
        let is_next = !known.overlaps && is_complete && (is_first || !known_before);
        if is_next {
            *known = Known { until: now + u64::from(LIFETIME), ..Known::default() };
        }
        let overlaps = |other: &Piece| other.start < piece.end && piece.start < other.end;
        let contradicts = |other: &Piece| other.last && piece.end > other.end || piece.last && other.end > piece.end;
        known.overlaps |= known.pieces.iter().any(|other| (overlaps(other) || contradicts(other)) && *other != piece);
        if known.overlaps {
            return Fate::Overlap;
        }
        if is_next || !known_before {
            known.pieces.push(piece);
        }
        if is_first {
            known.until = now + u64::from(LIFETIME);
            known.dropped = Some(dropped);
            return Fate::First;
        }
        match known.dropped {
            Some(true) => Fate::FollowsDropped,
            Some(false) if is_next || !known_before => Fate::Established,
            _ => Fate::Later,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Step {
    datagram: u64,
    piece: Piece,
    dropped: bool,
    units: u64,
    next_burst: bool,
}

/// A fragment of at least two units that begins among the first eight: no more than four of them do not overlap. Most are those
/// of one way to cut a datagram.
fn piece() -> impl Strategy<Value = Piece> {
    let regular = (0..4_u16).prop_map(|at| Piece { start: at * 2, end: at * 2 + 2, last: at == 3 });
    let any = (0..8_u16, 2..5_u16, prop::bool::weighted(0.2));
    let any = any.prop_map(|(start, length, last)| Piece { start, end: start + length, last });
    prop_oneof![12 => regular, 1 => any]
}

fn step() -> impl Strategy<Value = Step> {
    let units = prop_oneof![8 => Just(0), 2 => 1..20_u64];
    (0..5_u64, piece(), any::<bool>(), units, any::<bool>())
        .prop_map(|(datagram, piece, dropped, units, next_burst)| Step { datagram, piece, dropped, units, next_burst })
}

proptest! {
    #[test]
    fn agrees_with_the_rules_wherever_bursts_begin(steps in vec(step(), 1..300)) {
        let (mut bench, mut oracle) = (Bench::new(1 << 8), Oracle::default());
        let (mut now, mut expected) = (START.0 >> UNIT_SHIFT, Vec::new());
        for Step { datagram, piece, dropped, units, next_burst } in steps {
            if next_burst || units > 0 {
                bench.next_burst();
            }
            now += units;
            bench.arrive(datagram << 32 | datagram, piece, dropped, Timestamp(now << UNIT_SHIFT));
            expected.push(oracle.arrive(datagram, piece, dropped, now));
        }
        prop_assert_eq!(bench.finish(), expected);
    }

    #[test]
    fn a_datagram_in_any_number_of_pieces_in_any_order_does_not_overlap(
        lengths in vec(1..200_u16, 2..40),
        order in vec(any::<prop::sample::Index>(), 0..120),
    ) {
        let mut end = 0;
        let mut pieces: Vec<_> = lengths.iter().map(|length| {
            let start = end;
            end += length;
            Piece { start, end, last: false }
        }).collect();
        pieces.last_mut().unwrap().last = true;
        let mut bench = Bench::new(64);
        for piece in order.iter().map(|at| at.get(&pieces)).chain(&pieces) {
            bench.arrive(7, *piece, false, START);
        }
        prop_assert!(!bench.finish().contains(&Fate::Overlap));
    }

    #[test]
    fn what_is_called_an_overlap_is_one_however_many_pieces_there_are(
        pieces in vec((0..100_u16, 1..30_u16), 1..60),
    ) {
        let mut bench = Bench::new(64);
        let mut come: Vec<Piece> = Vec::new();
        for (start, length) in pieces {
            let piece = Piece { start, end: start + length, last: false };
            bench.arrive(7, piece, false, START);
            if bench.last() == Fate::Overlap {
                let overlaps = |other: &Piece| other.start < piece.end && piece.start < other.end && *other != piece;
                prop_assert!(come.iter().any(overlaps), "{piece:?} does not overlap any of {come:?}");
                break;
            }
            come.push(piece);
        }
    }
}

const FIRST: Piece = Piece { start: 0, end: 3, last: false };
const SECOND: Piece = Piece { start: 3, end: 6, last: false };

#[test]
fn a_datagram_in_order_is_followed_to_its_end_and_the_next_may_be_cut_otherwise() {
    let mut bench = Bench::new(64);
    for length in [185, 90] {
        for at in 0..40 {
            let piece = Piece { start: at * length, end: (at + 1) * length, last: at == 39 };
            bench.arrive(7, piece, false, START);
            let expected = if at == 0 { Fate::First } else { Fate::Established };
            assert_eq!(bench.last(), expected, "piece {at} of {length} units");
        }
    }
}

#[test]
fn a_duplicate_passes_but_is_not_exempt_for_its_firsts_sake() {
    let mut bench = Bench::new(64);
    for piece in [FIRST, SECOND, SECOND, FIRST] {
        bench.arrive(7, piece, false, START);
    }
    assert_eq!(bench.finish(), [Fate::First, Fate::Established, Fate::Later, Fate::First]);
}

#[test]
fn what_follows_an_overlap_is_dropped_until_the_datagram_is_forgotten() {
    let mut bench = Bench::new(64);
    let third = Piece { start: 6, end: 7, last: true };
    for piece in [FIRST, Piece { start: 2, ..SECOND }, third, FIRST] {
        bench.arrive(7, piece, false, START);
    }
    bench.arrive(7, third, false, Timestamp(START.0 + UNIT * u64::from(LIFETIME)));
    assert_eq!(bench.finish(), [Fate::First, Fate::Overlap, Fate::Overlap, Fate::Overlap, Fate::Later]);
}

#[test]
fn a_flood_of_later_fragments_makes_no_first_forgotten() {
    let mut bench = Bench::new(64);
    let ours = |n: u64| 0xffff << 32 | n;
    for n in 0..32 {
        bench.arrive(ours(n), FIRST, n % 2 == 0, START);
    }
    for n in 0..50_000 {
        bench.arrive(KEYED.number(n), SECOND, false, START);
    }
    for n in 0..32 {
        bench.arrive(ours(n), SECOND, false, START);
        assert_eq!(bench.last(), if n % 2 == 0 { Fate::FollowsDropped } else { Fate::Established });
    }
}

#[test]
fn a_first_is_remembered_until_two_others_meet_its_line() {
    let follows = |others: u64| {
        let mut bench = Bench::new(64);
        for other in 0..=others {
            bench.arrive(other << 32 | 5, FIRST, true, START);
            bench.next_burst();
        }
        bench.arrive(5, SECOND, false, START);
        bench.last()
    };
    assert_eq!([follows(0), follows(1), follows(2)], [Fate::FollowsDropped, Fate::FollowsDropped, Fate::Later]);
}

#[test]
fn in_a_flood_of_firsts_most_are_followed_over_a_tenth_of_the_table() {
    let mut bench = Bench::new(1 << 10);
    let lag = 100;
    for n in 0..20_000_u64 {
        bench.arrive(KEYED.number(n.into()), FIRST, true, START);
        if let Some(before) = n.checked_sub(lag) {
            bench.arrive(KEYED.number(before.into()), SECOND, false, START);
        }
    }
    let fates = bench.finish();
    let [followed, lost] = [Fate::FollowsDropped, Fate::Later].map(|fate| fates.iter().filter(|f| **f == fate).count());
    assert!(lost * 20 < followed, "{lost} were forgotten, {followed} followed");
}
