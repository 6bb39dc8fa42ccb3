//! The poll loop: receive a burst, let the pipeline judge it, send what may pass, free the rest. No lock, no allocation
//! and no system call of ours, except to sleep when there is nothing to do.
//!
//! Each wire is two paths, one per direction. The loop holds two bursts: the one it just received, whose headers are
//! being fetched from memory, and the one before, whose headers have arrived.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use levee_api::config::Idle;
use levee_engine::packet::{Direction, Packet};
use levee_engine::pipeline::Pipeline;
use levee_engine::time::Timestamp;
use levee_engine::verdict::{Reason, Verdict};

use crate::dpdk::clock::Clock;
use crate::dpdk::mbuf::{BURST, Burst, HeadScratch};
use crate::dpdk::port::{DESCRIPTORS, RxQueue, TxQueue};

/// Rounds without a packet that a worker in `adaptive` mode spends spinning before it sleeps: some 10 µs, longer than
/// the gaps inside a stream of packets.
const SPINS_BEFORE_SLEEP: u32 = 256;
/// The longest an idle worker is away. A receive ring fills in three times that (`port::DESCRIPTORS`).
const SLEEP: Duration = Duration::from_micros(20);
/// As many as empty a full receive ring.
const LAST_ROUNDS: usize = DESCRIPTORS as usize / BURST;

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
}

/// Packets of one direction of one wire by their fate: `received = forwarded + sum of dropped`, at any time at which
/// the worker is between two bursts. Written by one worker, read by anybody.
#[derive(Debug)]
pub struct PathCounters {
    received: AtomicU64,
    forwarded: AtomicU64,
    dropped: [AtomicU64; Reason::COUNT],
}

/// The values of [`PathCounters`] at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathCount {
    /// Packets that the port gave us.
    pub received: u64,
    /// Packets that the port on the other side took.
    pub forwarded: u64,
    /// Packets dropped, by the index of their reason.
    pub dropped: [u64; Reason::COUNT],
}

impl Default for PathCounters {
    fn default() -> Self {
        Self {
            received: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
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
        self.received == self.forwarded + self.dropped.iter().sum::<u64>()
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
    scratch: HeadScratch,
    verdicts: [Verdict; BURST],
    /// The path that `arrived` came from, and when.
    pending: Option<(usize, Timestamp)>,
    arrived: Burst,
    incoming: Burst,
    rest: Burst,
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
            scratch: HeadScratch::default(),
            verdicts: [Verdict::Forward; BURST],
            pending: None,
            arrived: Burst::default(),
            incoming: Burst::default(),
            rest: Burst::default(),
        }
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
        self.judge.offline();
    }

    /// Polls every path once; says whether there was anything.
    pub fn round(&mut self) -> bool {
        let mut busy = false;
        for index in 0..self.paths.len() {
            busy |= self.receive(index);
        }
        // The last burst of a round waits for the next one only if that is sure to come at once.
        if !busy {
            self.finish_pending();
        }
        busy
    }

    fn receive(&mut self, index: usize) -> bool {
        let Some(path) = self.paths.get_mut(index) else { return false };
        let received = path.rx.receive(&mut self.incoming);
        if received == 0 {
            return false;
        }
        add(&path.counters.received, received);
        self.incoming.prefetch();
        let now = self.clock.now();
        self.finish_pending();
        std::mem::swap(&mut self.arrived, &mut self.incoming);
        self.pending = Some((index, now));
        true
    }

    /// Judges and sends the burst that has arrived, if there is one.
    fn finish_pending(&mut self) {
        let Some((index, now)) = self.pending.take() else { return };
        let Some(path) = self.paths.get_mut(index) else { return };
        let count = self.arrived.len();
        let mut packets = [Packet { head: &[], wire_len: 0 }; BURST];
        let packets = self.arrived.packets(&mut self.scratch, &mut packets);
        let Some(verdicts) = self.verdicts.get_mut(..count) else { return };
        self.judge.burst(path.wire, path.direction, packets, now, verdicts);
        self.arrived.split(
            |position| match verdicts.get(position) {
                Some(Verdict::Drop(reason)) => {
                    path.counters.drop_for(*reason, 1);
                    false
                }
                _ => true,
            },
            &mut self.rest,
        );
        let passing = self.arrived.len();
        let sent = path.tx.send(&mut self.arrived, &mut self.rest);
        add(&path.counters.forwarded, sent);
        path.counters.drop_for(Reason::TxFull, passing - sent);
        self.rest.free();
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
