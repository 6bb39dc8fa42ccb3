//! Table generations: immutable tables, published to the workers with one store.
//!
//! A reader never waits, never frees and shares no line that anybody writes while nothing is published: a burst costs it
//! one load. It tells which generation it has come to, or that it is offline; the publisher frees a generation when
//! every reader is past it (quiescent-state-based reclamation, as in liburcu and `rte_rcu_qsbr`). The borrow checker does
//! the rest: what [`Reader::current`] hands out ends before the reader can tell that it has moved on.
//!
//! The protocol is model-checked: `RUSTFLAGS="--cfg loom" cargo test -p levee-engine --release generation`.
#![expect(unsafe_code, reason = "one dereference: only the protocol knows how long a generation lives")]

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[cfg(loom)]
use loom::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};

/// The publisher's end: owned by whoever builds tables.
///
/// When it is dropped, readers keep what is current then; the last of them frees it.
pub struct Published<T> {
    shared: Arc<Shared<T>>,
    latest: Arc<Generation<T>>,
    seen: Vec<Arc<Seen>>,
}

/// A worker's end.
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    seen: Arc<Seen>,
    /// What `seen` holds while online: no older generation is in use here.
    number: u64,
    online: bool,
}

struct Generation<T> {
    number: u64,
    tables: T,
}

struct Shared<T> {
    /// The latest of `kept`.
    current: AtomicPtr<Generation<T>>,
    /// All generations that a reader may use, oldest first; only the publisher locks it.
    kept: Mutex<VecDeque<Arc<Generation<T>>>>,
}

/// Number of the oldest generation that a reader may use, on a cache line of its own.
#[repr(align(64))]
struct Seen(AtomicU64);

const OFFLINE: u64 = u64::MAX;

impl<T> Published<T> {
    /// The first tables.
    pub fn new(tables: T) -> Self {
        let latest = Arc::new(Generation { number: 0, tables });
        let current = AtomicPtr::new(Arc::as_ptr(&latest).cast_mut());
        let kept = Mutex::new(VecDeque::from([Arc::clone(&latest)]));
        Self { shared: Arc::new(Shared { current, kept }), latest, seen: Vec::new() }
    }

    /// A reader for one worker; offline until it first asks for the current tables.
    pub fn reader(&mut self) -> Reader<T> {
        let seen = Arc::new(Seen(AtomicU64::new(OFFLINE)));
        self.seen.push(Arc::clone(&seen));
        Reader { shared: Arc::clone(&self.shared), seen, number: self.latest.number, online: false }
    }

    /// The tables published last.
    pub fn latest(&self) -> &T {
        &self.latest.tables
    }

    /// Makes `tables` current for every burst that begins from now on, and frees what it can.
    pub fn publish(&mut self, tables: T) {
        let next = Arc::new(Generation { number: self.latest.number + 1, tables });
        self.shared.kept().push_back(Arc::clone(&next));
        self.shared.current.store(Arc::as_ptr(&next).cast_mut(), Ordering::Release);
        self.latest = next;
        self.reclaim();
    }

    /// Frees the generations that every reader has passed, and returns how many are left besides the current one.
    pub fn reclaim(&mut self) -> usize {
        // Pairs with the fence in `Reader::current`: a reader that still looks offline here will find the latest.
        fence(Ordering::SeqCst);
        let oldest = self.seen.iter().map(|seen| seen.0.load(Ordering::Acquire)).min().unwrap_or(OFFLINE);
        let mut kept = self.shared.kept();
        let passed = kept.partition_point(|generation| generation.number < oldest.min(self.latest.number));
        drop(kept.drain(..passed));
        kept.len() - 1
    }
}

impl<T> Reader<T> {
    /// The current tables: to be called at each burst boundary. Goes online if necessary.
    pub fn current(&mut self) -> &T {
        if !self.online {
            self.online = true;
            self.seen.0.store(self.number, Ordering::Release);
            // Whoever frees either sees that store, or has published what the load below finds.
            fence(Ordering::SeqCst);
        }
        let current = self.shared.current.load(Ordering::Acquire);
        // SAFETY: the pointer came from an `Arc` that `kept` holds, and `kept` lives as long as `shared`. A generation is
        // taken out of `kept` only when it is older than what every reader has stored in `seen`. Ours holds the number of
        // a generation that was current before this load, so what we loaded is not older; it moves past this
        // generation only in the next call (or in `offline`), for which the borrow that we return must have ended.
        let generation = unsafe { &*current };
        if self.number != generation.number {
            self.number = generation.number;
            self.seen.0.store(self.number, Ordering::Release);
        }
        &generation.tables
    }

    /// Tells that nothing is in use until the next call of [`Self::current`]: before the worker sleeps.
    pub fn offline(&mut self) {
        self.online = false;
        self.seen.0.store(OFFLINE, Ordering::Release);
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        self.offline();
    }
}

impl<T> Shared<T> {
    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Generation<T>>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Published<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published").field("number", &self.latest.number).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("number", &self.number).field("online", &self.online).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    /// Says who freed it.
    struct Tables {
        number: u64,
        freed: Arc<Mutex<Vec<(u64, thread::ThreadId)>>>,
    }

    impl Drop for Tables {
        fn drop(&mut self) {
            self.freed.lock().unwrap().push((self.number, thread::current().id()));
        }
    }

    #[test]
    fn a_generation_lives_until_the_last_reader_has_passed_it() {
        let freed = Arc::default();
        let tables = |number| Tables { number, freed: Arc::clone(&freed) };
        let freed = || freed.lock().unwrap().iter().map(|(number, _)| *number).collect::<Vec<_>>();
        let mut published = Published::new(tables(0));
        let (mut quick, mut slow) = (published.reader(), published.reader());
        assert_eq!((quick.current().number, slow.current().number), (0, 0));
        published.publish(tables(1));
        assert_eq!(quick.current().number, 1);
        assert_eq!(published.reclaim(), 1);
        assert_eq!(freed(), []);
        slow.offline();
        assert_eq!(published.reclaim(), 0);
        assert_eq!(freed(), [0]);
        published.publish(tables(2));
        assert_eq!(slow.current().number, 2, "what was published while it slept");
        drop(quick);
        assert_eq!(published.reclaim(), 0, "a reader that is gone holds nothing");
        assert_eq!(published.latest().number, 2);
        drop(published);
        assert_eq!(slow.current().number, 2, "the last tables stay");
        assert_eq!(freed(), [0, 1]);
        drop(slow);
        assert_eq!(freed(), [0, 1, 2]);
    }

    #[test]
    fn readers_see_whole_generations_in_order_and_free_none() {
        const LAST: u64 = 2_000;
        let freed = Arc::default();
        let tables = |number| Tables { number, freed: Arc::clone(&freed) };
        let mut published = Published::new(tables(0));
        let readers: Vec<_> = (0..2).map(|_| published.reader()).collect();
        let started = AtomicBool::new(false);
        thread::scope(|scope| {
            for mut reader in readers {
                scope.spawn({
                    let started = &started;
                    move || {
                        let mut before = 0;
                        while before < LAST {
                            let number = reader.current().number;
                            started.store(true, Ordering::Relaxed);
                            assert!(before <= number, "{number} after {before}");
                            before = number;
                            if number % 7 == 0 {
                                reader.offline();
                            }
                        }
                    }
                });
            }
            while !started.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            (1..=LAST).for_each(|number| published.publish(tables(number)));
        });
        assert_eq!(published.reclaim(), 0);
        let freed = freed.lock().unwrap();
        assert!(freed.iter().map(|(number, _)| *number).eq(0..LAST), "each once, oldest first");
        assert!(freed.iter().all(|(_, by)| *by == thread::current().id()), "by the publisher");
    }
}

/// Every interleaving, and every value that the memory model lets a load see.
///
/// The model finds a broken protocol: weakening any one of these fails a test below with "Causality violation:
/// Concurrent read and write accesses", as was tried for each: `Release` of `offline`, of either store in `current`,
/// or of the store in `publish`; `Acquire` in `reclaim`, or of the load in `current`; either fence.
#[cfg(test)]
#[cfg(loom)]
mod model {
    use loom::cell::UnsafeCell;
    use loom::thread;

    use super::*;

    /// Reading them looks at the cell, and freeing them writes it: a race between the two fails the model.
    struct Tables {
        number: u64,
        cell: UnsafeCell<()>,
    }

    impl Tables {
        fn new(number: u64) -> Self {
            let tables = Self { number, cell: UnsafeCell::new(()) };
            tables.cell.with_mut(|_| ());
            tables
        }

        fn read(&self) -> u64 {
            self.cell.with(|_| ());
            self.number
        }
    }

    impl Drop for Tables {
        fn drop(&mut self) {
            self.cell.with_mut(|_| ());
        }
    }

    #[test]
    fn a_generation_in_use_is_not_freed() {
        loom::model(|| {
            let mut published = Published::new(Tables::new(0));
            let mut reader = published.reader();
            let worker = thread::spawn(move || {
                let first = reader.current().read();
                assert!(first <= reader.current().read());
            });
            published.publish(Tables::new(1));
            published.publish(Tables::new(2));
            worker.join().unwrap();
            assert_eq!(published.reclaim(), 0);
        });
    }

    #[test]
    fn a_reader_that_comes_back_online_finds_living_tables() {
        loom::model(|| {
            let mut published = Published::new(Tables::new(0));
            let mut reader = published.reader();
            let worker = thread::spawn(move || {
                let first = reader.current().read().max(reader.current().read());
                reader.offline();
                assert!(first <= reader.current().read());
            });
            published.publish(Tables::new(1));
            published.reclaim();
            worker.join().unwrap();
            assert_eq!(published.reclaim(), 0);
        });
    }

    #[test]
    fn two_readers_do_not_disturb_each_other() {
        loom::model(|| {
            let mut published = Published::new(Tables::new(0));
            let workers = [published.reader(), published.reader()].map(|mut reader| {
                thread::spawn(move || {
                    reader.current().read();
                })
            });
            published.publish(Tables::new(1));
            for worker in workers {
                worker.join().unwrap();
            }
            assert_eq!(published.reclaim(), 0);
        });
    }
}
