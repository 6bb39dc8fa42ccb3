//! A ring of records that one worker overwrites for ever and anybody copies, without either waiting for the other.
//!
//! Every slot is a sequence lock: its stamp says which record it holds, and is odd while that is being written. A reader
//! copies the slot and looks at the stamp again; what was overwritten meanwhile it does not get. So nothing has to be
//! frozen for a consistent copy: the history before a moment is the records before the ring's head at that moment,
//! and a reader that begins with the oldest stays ahead of a worker that is held to a budget. (Two halves swapped at
//! a trigger would hold half the history, and the worker would have to ask for the trigger with every packet.)
//!
//! Slots are made of atomic words, as the words of a slot that is being overwritten are read and thrown away. Stores are relaxed
//! but for the stamps, which on x86 costs no more than plain ones.
//!
//! The protocol is model-checked: `RUSTFLAGS="--cfg loom" cargo test -p levee-engine --release capture`.

use std::sync::Arc;

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// The worker's end.
pub struct Producer<const WORDS: usize> {
    ring: Arc<Ring<WORDS>>,
    next: u64,
}

/// A reader's end. Readers do not know of each other.
#[derive(Clone)]
pub struct Consumer<const WORDS: usize> {
    ring: Arc<Ring<WORDS>>,
}

struct Ring<const WORDS: usize> {
    head: Head,
    /// A power of two of them.
    slots: Box<[Slot<WORDS>]>,
}

/// Number of the next record, on a cache line of its own.
#[repr(align(64))]
struct Head(AtomicU64);

/// A record `n` is being written while the stamp is 2n + 1, and there when it is 2n + 2.
#[repr(align(64))]
struct Slot<const WORDS: usize> {
    stamp: AtomicU64,
    words: [AtomicU64; WORDS],
}

/// Memory of one slot.
pub(super) const fn slot_bytes<const WORDS: usize>() -> usize {
    (size_of::<u64>() * (1 + WORDS)).next_multiple_of(64)
}

/// A ring of `bytes`, rounded down to a power of two records, at least two.
pub fn ring<const WORDS: usize>(bytes: u64) -> (Producer<WORDS>, Consumer<WORDS>) {
    let fitting = usize::try_from(bytes).unwrap_or(usize::MAX) / slot_bytes::<WORDS>();
    let count = 1_usize << fitting.max(2).ilog2();
    let slot = |_| Slot { stamp: AtomicU64::new(0), words: std::array::from_fn(|_| AtomicU64::new(0)) };
    let ring = Arc::new(Ring { head: Head(AtomicU64::new(0)), slots: (0..count).map(slot).collect() });
    (Producer { ring: Arc::clone(&ring), next: 0 }, Consumer { ring })
}

impl<const WORDS: usize> Ring<WORDS> {
    fn slot(&self, number: u64) -> Option<&Slot<WORDS>> {
        let mask = u64::try_from(self.slots.len()).unwrap_or(1) - 1;
        self.slots.get(usize::try_from(number & mask).unwrap_or(0))
    }
}

impl<const WORDS: usize> Producer<WORDS> {
    /// Writes a record over the oldest: `head` words and then `bytes`, padded to a word. What fits no more is left out, what
    /// is shorter leaves the rest of the slot undefined: the record has to say how long it is.
    #[inline]
    pub fn push(&mut self, head: &[u64], bytes: &[u8]) {
        let Some(slot) = self.ring.slot(self.next) else { return };
        slot.stamp.store(2 * self.next + 1, Ordering::Relaxed);
        // Whoever reads a word stored below finds the stamp above, or a later one, when it looks again.
        fence(Ordering::Release);
        let mut places = slot.words.iter();
        // `by_ref` comes second, or `zip` would take a place for which there is no word.
        for (word, place) in head.iter().zip(places.by_ref()) {
            place.store(*word, Ordering::Relaxed);
        }
        let (whole, rest) = bytes.as_chunks::<8>();
        for (word, place) in whole.iter().zip(places.by_ref()) {
            place.store(u64::from_le_bytes(*word), Ordering::Relaxed);
        }
        if !rest.is_empty()
            && let Some(place) = places.next()
        {
            let word = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
            place.store(word, Ordering::Relaxed);
        }
        slot.stamp.store(2 * self.next + 2, Ordering::Release);
        self.next += 1;
        self.ring.head.0.store(self.next, Ordering::Release);
    }
}

impl<const WORDS: usize> Consumer<WORDS> {
    /// Number of the record that will be written next: those before it have been written.
    pub fn head(&self) -> u64 {
        self.ring.head.0.load(Ordering::Acquire)
    }

    /// How many records the ring holds.
    pub fn capacity(&self) -> u64 {
        u64::try_from(self.ring.slots.len()).unwrap_or(u64::MAX)
    }

    /// Number of the oldest record that is still there when `head` is the next: the one after may go at any moment.
    pub fn oldest(&self, head: u64) -> u64 {
        head.saturating_sub(self.capacity())
    }

    /// Copies a record; false when it is not there any more, or not yet. Then `words` are of no record.
    pub fn read(&self, number: u64, words: &mut [u64; WORDS]) -> bool {
        let Some(slot) = self.ring.slot(number) else { return false };
        let whole = 2 * number + 2;
        if slot.stamp.load(Ordering::Acquire) != whole {
            return false;
        }
        for (word, place) in words.iter_mut().zip(&slot.words) {
            *word = place.load(Ordering::Relaxed);
        }
        fence(Ordering::Acquire);
        slot.stamp.load(Ordering::Relaxed) == whole
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;

    use super::*;

    fn read<const WORDS: usize>(consumer: &Consumer<WORDS>, number: u64) -> Option<[u64; WORDS]> {
        let mut words = [0; WORDS];
        consumer.read(number, &mut words).then_some(words)
    }

    #[test]
    fn memory_is_what_was_asked_for_and_never_less_than_two_records() {
        assert_eq!(slot_bytes::<27>(), size_of::<Slot<27>>());
        for (bytes, records) in [(0, 2), (64 * 4, 4), (64 * 7, 4), (1 << 20, 1 << 14)] {
            assert_eq!(ring::<7>(bytes).1.capacity(), records, "{bytes}");
        }
    }

    #[test]
    fn readers_never_get_a_torn_record_while_the_ring_is_overwritten() {
        const RECORDS: u64 = 400_000;
        // Small, so that the writer comes round while a slot is being read.
        let (mut producer, consumer) = ring::<27>(256 * 4);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    let (consumer, over) = (consumer.clone(), &over);
                    scope.spawn(move || {
                        let (mut whole, mut last) = (0, 0);
                        loop {
                            let ended = over.load(Ordering::Acquire);
                            let head = consumer.head();
                            assert!(head >= last);
                            last = head;
                            for number in consumer.oldest(head)..head {
                                let Some(words) = read(&consumer, number) else { continue };
                                whole += 1;
                                assert!(words.iter().all(|word| *word == number), "record {number} is {words:?}");
                            }
                            if ended {
                                return whole;
                            }
                        }
                    })
                })
                .collect();
            for number in 0..RECORDS {
                producer.push(&[number; 3], [number.to_le_bytes(); 24].as_flattened());
            }
            over.store(true, Ordering::Release);
            for reader in readers {
                // Each reads the ring once more when nobody writes any longer.
                assert!(reader.join().unwrap() >= 4);
            }
        });
        assert_eq!(consumer.head(), RECORDS);
    }

    proptest! {
        #[test]
        fn the_ring_holds_exactly_the_last_records(
            records in prop::collection::vec((any::<[u64; 2]>(), prop::collection::vec(any::<u8>(), 0..60)), 0..40)
        ) {
            let (mut producer, consumer) = ring::<7>(64 * 8);
            for (head, bytes) in &records {
                producer.push(head, bytes);
            }
            let head = consumer.head();
            prop_assert_eq!(head, records.len() as u64);
            prop_assert_eq!(read(&consumer, head), None, "not written yet");
            for (number, (meta, bytes)) in (0..).zip(&records) {
                let words = read(&consumer, number);
                prop_assert_eq!(words.is_some(), number >= consumer.oldest(head));
                let Some(words) = words else { continue };
                prop_assert_eq!(&words[..2], meta);
                let stored = words[2..].iter().flat_map(|word| word.to_le_bytes());
                prop_assert!(stored.zip(bytes).all(|(stored, byte)| stored == *byte));
            }
        }
    }
}

/// Every interleaving, and every value that the memory model lets a load see. Tried: the first test fails without either fence, with
/// a relaxed last store or first load of the stamp, and without the second look at it.
#[cfg(test)]
#[cfg(loom)]
mod model {
    use loom::thread;

    use super::*;

    #[test]
    fn a_record_that_was_read_is_whole() {
        loom::model(|| {
            let (mut producer, consumer) = ring::<2>(0);
            producer.push(&[1, 1], &[]);
            producer.push(&[2, 2], &[]);
            let writer = thread::spawn(move || producer.push(&[3, 3], &[]));
            for number in [0, 2] {
                let mut words = [0; 2];
                if consumer.read(number, &mut words) {
                    assert_eq!(words, [number + 1; 2]);
                }
            }
            writer.join().unwrap();
        });
    }

    #[test]
    fn what_the_head_says_is_written_can_be_read() {
        loom::model(|| {
            let (mut producer, consumer) = ring::<2>(0);
            let writer = thread::spawn(move || producer.push(&[1, 1], &[]));
            let mut words = [0; 2];
            if consumer.head() == 1 {
                assert!(consumer.read(0, &mut words));
                assert_eq!(words, [1; 2]);
            }
            writer.join().unwrap();
        });
    }
}
