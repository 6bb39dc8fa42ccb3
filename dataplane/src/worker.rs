//! The poll loop: receive a burst, let the pipeline judge it, send what may pass, free the rest. No lock, no allocation
//! and no system call of ours, except to sleep when there is nothing to do.
//!
//! Each wire is two paths, one per direction; on a wire with several queues each worker has two of its own. The loop holds two bursts: the one it just received, whose headers are
//! being fetched from memory, and the one before, whose headers have arrived.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use levee_api::config::Idle;
use levee_engine::challenge::translation::GROWTH;
use levee_engine::packet::{Direction, Packet};
use levee_engine::pipeline::Pipeline;
use levee_engine::time::Timestamp;
use levee_engine::verdict::{Reason, Verdict};

use crate::dpdk::clock::Clock;
use crate::dpdk::mbuf::{BURST, Burst, HeadScratch, Packets};
use crate::dpdk::port::{DESCRIPTORS, RxQueue, TxQueue};
use crate::exchange::{Exchange, HANDED_OVER};
use crate::fates::{Fates, gather};
use crate::times::WorkerTimes;

/// Rounds without a packet that a worker in `adaptive` mode spends spinning before it sleeps: some 10 µs, longer than
/// the gaps inside a stream of packets.
const SPINS_BEFORE_SLEEP: u32 = 256;
/// The longest an idle worker is away. A receive ring fills in three times that (`port::DESCRIPTORS`).
const SLEEP: Duration = Duration::from_micros(20);
/// As many as empty a full receive ring, with what other workers hand over in between.
const LAST_ROUNDS: usize = DESCRIPTORS as usize / (BURST - HANDED_OVER);

/// What a worker asks about packets.
pub trait Judge: Send {
    /// Decides about a burst of one direction of one wire. `verdicts` is as long as `packets`.
    fn burst(
        &mut self,
        wire: usize,
        direction: Direction,
        packets: &[Packet<'_>],
        now: Timestamp,
        verdicts: &mut [Verdict],
    );
    /// Rewrites the packet at a position of the last burst, which is to be answered, into the answer; returns how long that is, at
    /// most as long as `frame`. None when it cannot be.
    fn reply(&self, at: usize, frame: &mut [u8]) -> Option<usize>;
    /// Rewrites the packet at a position of the last burst, which is to pass translated: `length` bytes of `frame`, behind which are [`GROWTH`]
    /// more. Returns how long it is then. None when it cannot be: then it is dropped.
    fn translate(&self, at: usize, frame: &mut [u8], length: usize) -> Option<usize>;
    /// There has been nothing to decide for a while: until the next burst, nothing of the tables is in use.
    fn offline(&mut self);
}

impl Judge for Pipeline {
    fn burst(
        &mut self,
        wire: usize,
        direction: Direction,
        packets: &[Packet<'_>],
        now: Timestamp,
        verdicts: &mut [Verdict],
    ) {
        Pipeline::burst(self, wire, direction, packets, now, verdicts);
    }
    fn reply(&self, at: usize, frame: &mut [u8]) -> Option<usize> {
        Pipeline::reply(self, at, frame)
    }
    fn translate(&self, at: usize, frame: &mut [u8], length: usize) -> Option<usize> {
        Pipeline::translate(self, at, frame, length)
    }
    fn offline(&mut self) {
        Pipeline::offline(self);
    }
}

/// One direction of one wire.
#[derive(Debug)]
pub struct Path {
    /// Position of the wire in the configuration.
    pub wire: usize,
    /// Which way.
    pub direction: Direction,
    /// Where packets come from.
    pub rx: RxQueue,
    /// Where they go.
    pub tx: TxQueue,
    /// What happened to them.
    pub counters: Arc<PathCounters>,
    /// Brings packets to the worker that they belong to, where the port does not; none where it does, or where there is only
    /// one queue.
    pub exchange: Option<Exchange>,
}

/// Packets of one direction of one wire by their fate, in one worker. Written by that worker, read by anybody.
#[derive(Debug)]
pub struct PathCounters {
    received: AtomicU64,
    forwarded: AtomicU64,
    replied: AtomicU64,
    dropped: [AtomicU64; Reason::COUNT],
}

/// The counters of all workers that share a direction of a wire: `received = forwarded + replied + sum of dropped`, when no worker is
/// in the middle of a burst and none has packets of another one waiting. A worker's own need not add up: it may receive
/// what another one forwards.
#[derive(Clone, Debug)]
pub struct SharedCounters(Vec<Arc<PathCounters>>);

impl SharedCounters {
    /// Counters at zero for `workers` workers.
    pub fn of(workers: usize) -> Self {
        Self((0..workers).map(|_| Arc::default()).collect())
    }

    /// Each worker's.
    pub fn each(&self) -> impl Iterator<Item = &Arc<PathCounters>> {
        self.0.iter()
    }

    /// All together. While workers run, values may be apart by the bursts that they are working on.
    pub fn read(&self) -> PathCount {
        self.0.iter().map(|counters| counters.read()).fold(PathCount::default(), |mut sum, count| {
            sum.received += count.received;
            sum.forwarded += count.forwarded;
            sum.replied += count.replied;
            for (sum, packets) in sum.dropped.iter_mut().zip(count.dropped) {
                *sum += packets;
            }
            sum
        })
    }
}

/// The values of [`PathCounters`] at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathCount {
    /// Packets that the port gave us.
    pub received: u64,
    /// Packets that the port on the other side took.
    pub forwarded: u64,
    /// Packets whose answer the port that they came by took.
    pub replied: u64,
    /// Packets dropped, by the index of their reason.
    pub dropped: [u64; Reason::COUNT],
}

impl Default for PathCount {
    fn default() -> Self {
        Self { received: 0, forwarded: 0, replied: 0, dropped: [0; Reason::COUNT] }
    }
}

impl Default for PathCounters {
    fn default() -> Self {
        Self {
            received: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
            replied: AtomicU64::new(0),
            dropped: [const { AtomicU64::new(0) }; Reason::COUNT],
        }
    }
}

impl PathCounters {
    /// Reads them. While the worker runs, values may be apart by the burst it is working on.
    pub fn read(&self) -> PathCount {
        let mut dropped = [0; Reason::COUNT];
        for (value, counter) in dropped.iter_mut().zip(&self.dropped) {
            *value = counter.load(Ordering::Relaxed);
        }
        PathCount {
            received: self.received.load(Ordering::Relaxed),
            forwarded: self.forwarded.load(Ordering::Relaxed),
            replied: self.replied.load(Ordering::Relaxed),
            dropped,
        }
    }

    fn drop_for(&self, reason: Reason, packets: usize) {
        if let Some(counter) = self.dropped.get(reason.index()) {
            add(counter, packets);
        }
    }
}

impl PathCount {
    /// Whether every packet has exactly one fate.
    pub fn is_conserved(&self) -> bool {
        self.received == self.forwarded + self.replied + self.dropped.iter().sum::<u64>()
    }
}

/// Adds to a counter that only the calling thread writes: no locked instruction is needed.
#[inline]
fn add(counter: &AtomicU64, packets: usize) {
    counter.store(counter.load(Ordering::Relaxed) + packets as u64, Ordering::Relaxed);
}

/// Polls its paths until told to stop.
#[derive(Debug)]
pub struct Worker<J> {
    paths: Vec<Path>,
    judge: J,
    clock: Clock,
    idle: Idle,
    stop: Arc<AtomicBool>,
    times: Arc<WorkerTimes>,
    /// When the last burst was done, and whether a poll has found nothing since.
    ended: Timestamp,
    rested: bool,
    scratch: HeadScratch,
    verdicts: [Verdict; BURST],
    pending: Option<Pending>,
    arrived: Burst,
    incoming: Burst,
    rest: Burst,
    replies: Burst,
}

/// Where the burst that has arrived came from.
#[derive(Clone, Copy, Debug)]
struct Pending {
    path: usize,
    at: Timestamp,
    /// So many of its packets, the first ones, were handed over by other workers.
    handed_over: usize,
}

impl<J: Judge> Worker<J> {
    /// A worker that ends when `stop` is set.
    pub fn new(paths: Vec<Path>, judge: J, clock: Clock, idle: Idle, stop: Arc<AtomicBool>) -> Self {
        Self {
            paths,
            judge,
            clock,
            idle,
            stop,
            times: Arc::default(),
            ended: Timestamp::ZERO,
            rested: true,
            scratch: HeadScratch::default(),
            verdicts: [Verdict::Forward; BURST],
            pending: None,
            arrived: Burst::default(),
            incoming: Burst::default(),
            rest: Burst::default(),
            replies: Burst::default(),
        }
    }

    /// How long its bursts take, also while it runs.
    pub fn times(&self) -> Arc<WorkerTimes> {
        Arc::clone(&self.times)
    }

    /// What it polls.
    pub fn paths(&self) -> &[Path] {
        &self.paths
    }

    /// Runs until told to stop, then delivers what has come until then. The queues go with the worker.
    pub fn run(mut self) {
        let mut empty_rounds = 0_u32;
        while !self.stop.load(Ordering::Relaxed) {
            if self.round() {
                empty_rounds = 0;
            } else {
                empty_rounds = empty_rounds.saturating_add(1);
                self.rest_a_little(empty_rounds);
            }
        }
        // What waits in the receive rings is still ours to deliver; a flood must not keep us.
        for _ in 0..LAST_ROUNDS {
            if !self.round() {
                break;
            }
        }
        self.finish_pending();
        self.take_last();
        self.judge.offline();
    }

    /// Judges what other workers still hand over, until all have said that there is no more.
    fn take_last(&mut self) {
        for exchange in self.paths.iter_mut().filter_map(|path| path.exchange.as_mut()) {
            exchange.close();
        }
        while self.paths.iter().any(|path| path.exchange.as_ref().is_some_and(|exchange| !exchange.is_finished())) {
            for index in 0..self.paths.len() {
                self.receive(index, false);
            }
            self.finish_pending();
            std::thread::yield_now();
        }
    }

    /// Polls every path once; says whether there was anything.
    pub fn round(&mut self) -> bool {
        let mut busy = false;
        for index in 0..self.paths.len() {
            busy |= self.receive(index, true);
        }
        // The last burst of a round waits for the next one only if that is sure to come at once.
        if !busy {
            self.finish_pending();
            self.rested = true;
        }
        busy
    }

    /// Takes what other workers have handed over and, with `from_port`, what the port has received.
    fn receive(&mut self, index: usize, from_port: bool) -> bool {
        let Some(path) = self.paths.get_mut(index) else { return false };
        let handed_over = path.exchange.as_mut().map_or(0, |exchange| exchange.receive(&mut self.incoming));
        let received = if from_port { path.rx.receive(&mut self.incoming) } else { 0 };
        if self.incoming.is_empty() {
            return false;
        }
        add(&path.counters.received, received);
        self.incoming.prefetch();
        let at = self.clock.now();
        self.finish_pending();
        std::mem::swap(&mut self.arrived, &mut self.incoming);
        self.pending = Some(Pending { path: index, at, handed_over });
        true
    }

    /// Judges and sends the burst that has arrived, if there is one.
    fn finish_pending(&mut self) {
        let Some(Pending { path: index, at, handed_over }) = self.pending.take() else { return };
        let Some(path) = self.paths.get_mut(index) else { return };
        let begun = self.clock.now();
        if let Some(exchange) = &mut path.exchange {
            let mut packets = Packets::default();
            let owners = exchange.owners(self.arrived.packets(&mut self.scratch, &mut packets));
            exchange.hand_over(&mut self.arrived, handed_over, &owners, &mut self.rest);
            path.counters.drop_for(Reason::SteerFull, self.rest.len());
        }
        let mut packets = Packets::default();
        let packets = self.arrived.packets(&mut self.scratch, &mut packets);
        let judged = packets.len();
        let Some(verdicts) = self.verdicts.get_mut(..judged) else { return };
        self.judge.burst(path.wire, path.direction, packets, at, verdicts);
        let fates = Fates::of(verdicts);
        let judge = &self.judge;
        let answered = self.arrived.rewrite(fates.answered(), |position, frame| judge.reply(position, frame));
        let mut passing = fates.passing();
        if fates.translated() != 0 {
            let write = |position, frame: &mut [u8], length| judge.translate(position, frame, length);
            let translated = self.arrived.translate(fates.translated(), GROWTH, write);
            path.counters.drop_for(Reason::Challenge, (fates.translated() & !translated).count_ones() as usize);
            passing |= translated;
        }
        let stopped = !passing;
        self.arrived.split(passing, &mut self.rest);
        fates.dropped(|reason, packets| path.counters.drop_for(reason, packets));
        let passing = self.arrived.len();
        let sent = path.tx.send(&mut self.arrived, &mut self.rest);
        add(&path.counters.forwarded, sent);
        if sent < passing {
            path.counters.drop_for(Reason::TxFull, passing - sent);
        }
        if fates.answered() != 0 {
            path.counters.drop_for(Reason::Challenge, (fates.answered() & !answered).count_ones() as usize);
            self.rest.split(!gather(answered, stopped), &mut self.replies);
            self.send_replies(index);
        }
        self.rest.free();
        let ended = self.clock.now();
        // What came after nothing had come, from when it came; else there was no time between.
        let since = if self.rested { at } else { self.ended };
        (self.ended, self.rested) = (ended, false);
        self.times.at_work(ended.0.saturating_sub(since.0), judged as u64, BURST as u64);
        self.times.burst.count(ended.0.saturating_sub(begun.0), 1);
        self.times.transit.count(ended.0.saturating_sub(at.0), judged);
    }

    /// Sends answers by the port that the packets of a path came by.
    fn send_replies(&mut self, index: usize) {
        let Self { paths, replies, rest, .. } = self;
        let Some((wire, direction)) = paths.get(index).map(|path| (path.wire, path.direction)) else { return };
        let answered = replies.len();
        let back = paths.iter_mut().find(|path| path.wire == wire && path.direction != direction);
        let sent = back.map_or(0, |back| back.tx.send(replies, rest));
        replies.free();
        let Some(path) = paths.get(index) else { return };
        add(&path.counters.replied, sent);
        path.counters.drop_for(Reason::TxFull, answered - sent);
    }

    fn rest_a_little(&mut self, empty_rounds: u32) {
        if empty_rounds == SPINS_BEFORE_SLEEP {
            self.judge.offline();
        }
        if empty_rounds < SPINS_BEFORE_SLEEP || self.idle == Idle::Spin {
            std::hint::spin_loop();
        } else {
            std::thread::sleep(SLEEP);
        }
    }
}
