//! Captures on disk: one pcapng file per incident, which begins before the attack was noticed.
//!
//! The thread `levee-capture` listens to the detector's events. When a target is alarmed, it copies what the workers' rings
//! ([`levee_engine::capture`]) hold of that target into a file, goes on with what follows until the incident is over or
//! its budget is used up, and then seals the file. Nobody waits for it: events that it has no time for are lost and
//! counted, packets that it has no time for are overwritten in the ring and counted.
//!
//! * [`captures`]: which packets go into which file. * `recording`: one file while it is being written.
//! * [`store`]: the folder of files, its quota and its retention. * `description`: the JSON beside a file.

pub mod captures;
pub mod description;
mod filter_ids;
mod outside_address;
mod recording;
pub mod store;
mod utc;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use levee_api::config::Capture;
use levee_api::filter::Target;
use levee_engine::capture::{Consumer, Settings, Tap};
use levee_engine::detect::event::{Event, What};
use levee_engine::pipeline::Pipeline;
use levee_engine::time::Timestamp;

use tokio::sync::oneshot;

use captures::Captures;

/// Events waiting for the thread: the changes of several ticks of a carpet of targets.
const WAITING: usize = 1 << 12;
/// How often the rings are read while something is being captured: a small part of the second that they hold at least.
const READ_EVERY: Duration = Duration::from_millis(20);
/// How often captures are looked at whose time is over.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// One moment, by the clock of the workers and by that of the world.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// On the clock that packets and events are stamped with.
    pub now: Timestamp,
    /// The same for people.
    pub wall: SystemTime,
}

/// Everything that holds from start to end.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What the configuration says.
    pub capture: Capture,
    /// Where the files are.
    pub folder: PathBuf,
    /// Names of the wires, in the order of the configuration.
    pub wires: Vec<String>,
}

/// Has each of these data paths copy packets into a ring of its own, if captures are wanted; what is needed to read them.
pub fn attach(capture: &Capture, pipelines: &mut [Pipeline]) -> Vec<Consumer> {
    if !capture.is_on() {
        return Vec::new();
    }
    let settings = Settings {
        ring_bytes: capture.ring_bytes,
        peace_one_in: capture.peace_one_in,
        bytes_per_second: capture.bytes_per_second,
    };
    let attached = pipelines.iter_mut().map(|pipeline| {
        let (tap, ring) = Tap::new(&settings);
        pipeline.attach(tap);
        ring
    });
    attached.collect()
}

/// What became of captures, since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Files that were sealed.
    pub sealed: AtomicU64,
    /// Incidents without a capture, because the quota had no room beside captures still being written.
    pub refused: AtomicU64,
    /// Captures that could not be written, or not to their end.
    pub failed: AtomicU64,
    /// Packets that were overwritten before they were read.
    pub missed_packets: AtomicU64,
    /// Events that came faster than they were taken.
    pub missed_events: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

/// What the thread is told.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are events")]
enum Told {
    /// What the detector has found.
    Event(Event),
    /// What somebody wants.
    Asked { target: Target, duration: Option<Duration>, reply: oneshot::Sender<Result<String, String>> },
}

/// The running thread. When it is dropped, what is being captured is sealed.
#[derive(Debug)]
pub struct CaptureWriter {
    events: Option<SyncSender<Told>>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<Counts>,
    missed: bool,
}

impl CaptureWriter {
    /// Starts the thread; `rings` has one ring per worker, none if nothing is captured. `clock` is what stamps packets.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(
        setup: Setup,
        rings: Vec<Consumer>,
        clock: impl Fn() -> Timestamp + Send + 'static,
    ) -> io::Result<Self> {
        let counts = Arc::new(Counts::default());
        let (events, waiting) = sync_channel(WAITING);
        let counted = Arc::clone(&counts);
        let thread = std::thread::Builder::new().name("levee-capture".to_owned()).spawn(move || {
            let moment = || Moment { now: clock(), wall: SystemTime::now() };
            run(Captures::new(setup, rings, counted, moment()), &waiting, moment);
        })?;
        Ok(Self { events: Some(events), thread: Some(thread), counts, missed: false })
    }

    /// Tells what the detector has found; never waits.
    pub fn tell(&mut self, event: &Event) {
        let told = matches!(
            event.what,
            What::Phase { .. } | What::Merged { .. } | What::Classified { .. } | What::FilterInstalled { .. }
        );
        if !told {
            return;
        }
        let Some(events) = &self.events else { return };
        let missed = events.try_send(Told::Event(event.clone())).is_err();
        if missed {
            Counts::add(&self.counts.missed_events, 1);
        }
        if missed && !self.missed {
            tracing::warn!("captures are incomplete: the disk does not keep up with the detector");
        }
        self.missed = missed;
    }

    /// Has packets of a target captured for so long, or for as long as those of an incident; the answer is the name of the
    /// file, which has it once it is complete, or why there is none. Never waits.
    pub fn ask(&self, target: Target, duration: Option<Duration>, reply: oneshot::Sender<Result<String, String>>) {
        let Some(events) = &self.events else { return };
        let told = match events.try_send(Told::Asked { target, duration, reply }) {
            Ok(()) => return,
            Err(TrySendError::Full(told) | TrySendError::Disconnected(told)) => told,
        };
        if let Told::Asked { reply, .. } = told {
            // Who has hung up needs no answer.
            let _ = reply.send(Err("the disk does not keep up with the detector: ask again".to_owned()));
        }
    }

    /// What became of captures so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

impl Drop for CaptureWriter {
    fn drop(&mut self) {
        drop(self.events.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the capture thread had panicked");
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counts { sealed, refused, failed, missed_packets, missed_events } = &*self.counts;
        if [sealed, refused, failed].map(count) != [0; 3] {
            tracing::info!(
                "captures: {} written, {} without room, {} failed, missed {} packets and {} events",
                count(sealed),
                count(refused),
                count(failed),
                count(missed_packets),
                count(missed_events)
            );
        }
    }
}

fn run(mut captures: Captures, events: &Receiver<Told>, moment: impl Fn() -> Moment) {
    let mut swept = Instant::now();
    loop {
        let wait = if captures.is_recording() { READ_EVERY } else { SWEEP_EVERY };
        match events.recv_timeout(wait) {
            Ok(Told::Event(event)) => captures.observe(&event, moment()),
            Ok(Told::Asked { target, duration, reply }) => {
                let _ = reply.send(captures.ask(&target, duration, moment()));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        captures.read_rings(moment());
        if swept.elapsed() >= SWEEP_EVERY {
            captures.sweep(moment());
            swept = Instant::now();
        }
    }
    captures.end(moment());
}
