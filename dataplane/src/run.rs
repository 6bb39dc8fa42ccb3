//! `levee-dataplane run`: the order in which things start, and the reverse in which they end.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use levee_api::config::{Config, ConfigError, Dataplane, Idle};
use levee_engine::pipeline::Pipeline;
use levee_engine::target;
use levee_engine::verdict::Reason;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;
use thiserror::Error;

use crate::analysis::Analysis;
use crate::capture_writer::{self, CaptureWriter};
use crate::dpdk;
use crate::dpdk::clock::Clock;
use crate::dpdk::eal::{self, Eal};
use crate::dpdk::thread::{self, SpawnError};
use crate::kill_switch::{Found, KillSwitch};
use crate::privileges::{self, PrivilegeError};
use crate::service::{BindError, Listener, Service};
use crate::source_files::{self, SourceFiles};
use crate::start::{AtStart, build_engine};
use crate::tick::{Tick, Ticking};
use crate::times::WorkerTimes;
use crate::wires::{Attached, BringUpError, Plan, PlanError, Wires};
use crate::worker::Worker;
use crate::writer::Writer;

/// How often `--exit-when-idle` looks at the counters.
const IDLE_CHECK: Duration = Duration::from_millis(50);
/// How long ports may take to send what they have taken over.
const DRAIN: Duration = Duration::from_millis(100);
/// How long each stage of the shutdown may take before the process ends without it.
const STAGE_DEADLINE: Duration = Duration::from_secs(5);

/// How to run.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file, usually levee.toml.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// End when no packet has come on any port for this long: for captures through net_pcap, which has no end of file.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    exit_when_idle: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "give a number of seconds".to_owned())?;
    let duration = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    if duration < IDLE_CHECK { Err(format!("at least {} seconds", IDLE_CHECK.as_secs_f64())) } else { Ok(duration) }
}

/// Why the dataplane did not run.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each wraps the error of one step")]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Eal(#[from] eal::StartError),
    #[error(transparent)]
    BringUp(#[from] BringUpError),
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    #[error(transparent)]
    Zones(#[from] target::plan::PlanError),
    #[error(transparent)]
    Socket(#[from] BindError),
    #[error("worker {index}: {reason}")]
    Spawn { index: usize, reason: SpawnError },
    #[error("the system does not say which CPUs there are: name them in workers under [dataplane]")]
    NoCpu,
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("worker {index} ended by itself: this is a defect, please report it with the log above")]
    WorkerDied { index: usize },
}

impl RunError {
    /// Whether the configuration is to blame (exit status 78, `EX_CONFIG` of sysexits.h).
    pub const fn is_configuration(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Plan(_) | Self::Zones(_))
    }
}

/// What ends a run.
enum Event {
    Signal(i32),
    WorkerEnded(usize),
}

/// Runs until a signal comes.
pub fn run(arguments: &Arguments) -> Result<(), RunError> {
    let config = Config::load(&arguments.config)?;
    for warning in &config.warnings {
        tracing::warn!(
            "{}:{}:{}: {}; {}",
            arguments.config.display(),
            warning.line,
            warning.column,
            warning.message,
            warning.help
        );
    }
    // From here on a signal ends the process in order, not at once, and a terminal that hangs up ends nothing.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]).map_err(RunError::Signals)?;
    let plan = Plan::of(&config.dataplane)?;
    // First, so that a second instance takes nothing from the first.
    let listener = Listener::bind(&config.dataplane.socket)?;
    let eal = Eal::start(&plan.eal)?;
    let clock = Clock::start(&eal);

    let state = config.appliance.state_dir.join("dataplane");
    privileges::make_own(&state);
    let mut cpus = worker_cpus(&config.dataplane)?;
    let attached = Attached::new(&eal, &plan, cpus.len())?;
    for cpu in cpus.drain(attached.workers().min(cpus.len())..) {
        tracing::warn!("no worker on CPU {cpu}: there is no queue left for it");
    }
    let before = AtStart::read(&config, &state);
    let kill_switch = KillSwitch::new(&config.guardrails.kill_switch, &state);
    let stopped = is_engaged(&kill_switch);
    let (mut engine, mut pipelines) = build_engine(&config, &before, &state, cpus.len(), stopped, clock.now())?;

    // With the rights of the start. Traffic does not wait for a list that is damaged.
    let seen = source_files::look(&config.address_sets);
    match source_files::load(&config.address_sets, &before.policy.protected) {
        Ok(loaded) => {
            source_files::tell(&config.address_sets, &loaded);
            engine.replace_sources(loaded.sets, config.address_sets.clone());
        }
        Err(error) => tracing::error!("{error}; no address set is in force until its files are right"),
    }

    let rings = capture_writer::attach(&config.dataplane.capture, &mut pipelines);
    let zones = before.policy.summary();
    let (wires, paths) = attached.start()?;
    let wires = Arc::new(wires);

    let stop = Arc::new(AtomicBool::new(false));
    let idle = config.dataplane.idle;
    let worker = |(paths, pipeline)| Worker::new(paths, pipeline, clock, idle, Arc::clone(&stop));
    let workers: Vec<Worker<Pipeline>> = paths.into_iter().zip(pipelines).map(worker).collect();
    let times: Vec<Arc<WorkerTimes>> = workers.iter().map(Worker::times).collect();

    privileges::drop_privileges(&eal)?;

    let (service, inlet, outlet) =
        Service::start_with(listener, &config, before.policy.clone()).map_err(RunError::Thread)?;
    let analysis = Analysis::start(inlet.bell()).map_err(RunError::Thread)?;
    let writer = Writer::start().map_err(RunError::Thread)?;
    let captures = capture_writer::Setup {
        capture: config.dataplane.capture.clone(),
        folder: state.join("captures"),
        wires: config.dataplane.wires.iter().map(|wire| wire.name.clone()).collect(),
    };
    let captures = CaptureWriter::start(captures, rings, move || clock.now()).map_err(RunError::Thread)?;
    let sources = SourceFiles::watch(config.address_sets.clone(), before.policy.protected.clone(), seen);
    let sources = sources.map_err(RunError::Thread)?;
    let look_again = sources.look_again();
    let engage = kill_switch.clone();
    let tick = Tick {
        engine,
        clock,
        inlet,
        outlet,
        wires: Arc::clone(&wires),
        times: times.clone(),
        analysis,
        writer,
        captures,
        sources,
        address_sets: config.address_sets.clone(),
        state,
        config: config.hash,
        ceiling: config.appliance.mode,
        policy: before.policy,
        kill_switch: kill_switch.watch(stopped).map_err(RunError::Thread)?,
        stopped,
        change: None,
        request: None,
    };
    let deciding = Deciding { service, tick: tick.start().map_err(RunError::Thread)? };
    let (events, ended) = mpsc::channel();
    let signal_events = events.clone();
    spawn("levee-signals", move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                tracing::info!(
                    "SIGHUP: reading the lists of address sets again; the configuration itself is read at the start, and \
                     the control plane hands over changed zones"
                );
                look_again.now();
                continue;
            }
            if signal == SIGUSR1 {
                if let Err(error) = engage.engage() {
                    tracing::error!("SIGUSR1: the kill switch is engaged, and not yet for the next start: {error}");
                }
                continue;
            }
            // The receiver is gone only when the process is about to end.
            let _ = signal_events.send(Event::Signal(signal));
        }
    })
    .map_err(RunError::Thread)?;
    let names: Vec<&str> = wires.iter().map(|wire| wire.name.as_str()).collect();
    let forwarding = format!("{}; wires {names:?}; workers on CPUs {cpus:?}; {zones}", dpdk::version());
    let workers = Workers::start(&eal, idle, cpus, workers, stop, &events)?;
    tracing::info!("forwarding: {forwarding}");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!("cannot tell systemd that forwarding has begun: {error}");
    }

    let outcome = wait(&ended, &wires, arguments.exit_when_idle);
    shut_down(eal, wires, workers, &times, deciding, &ended);
    outcome
}

/// Whether the dataplane is to start without doing anything to packets.
fn is_engaged(kill_switch: &KillSwitch) -> bool {
    let Found { engaged, why } = kill_switch.at_start();
    if let Some(why) = why {
        tracing::error!("the kill switch is engaged by {why}: nothing is dropped until it is released");
    }
    engaged
}

/// The threads that decide. Ended in this order when dropped: nobody asks any more, then what was learned is written.
struct Deciding {
    service: Service,
    tick: Ticking,
}

/// The running workers. Told to stop and waited for when dropped.
struct Workers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Option<()>>>,
}

impl Workers {
    fn start(
        eal: &Eal,
        idle: Idle,
        cpus: Vec<usize>,
        polling: Vec<Worker<Pipeline>>,
        stop: Arc<AtomicBool>,
        events: &Sender<Event>,
    ) -> Result<Self, RunError> {
        let mut workers = Self { stop, threads: Vec::new() };
        for (index, (cpu, worker)) in cpus.into_iter().zip(polling).enumerate() {
            let events = events.clone();
            let thread = thread::spawn(eal, &format!("levee-worker-{index}"), cpu, move || {
                // Told also when the worker panics.
                let _told = Told { events, index };
                prepare_worker(idle);
                worker.run();
            });
            workers.threads.push(thread.map_err(|reason| RunError::Spawn { index, reason })?);
        }
        Ok(workers)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker had panicked");
            }
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

/// Sends word that a worker has ended, when dropped.
struct Told {
    events: Sender<Event>,
    index: usize,
}

impl Drop for Told {
    fn drop(&mut self) {
        // The receiver is gone only when the process is about to end.
        let _ = self.events.send(Event::WorkerEnded(self.index));
    }
}

fn prepare_worker(idle: Idle) {
    if idle == Idle::Adaptive {
        // Sleeps of 20 µs would otherwise take 70: the kernel rounds them up by 50.
        if let Err(error) = nix::sys::prctl::set_timerslack(1) {
            tracing::warn!("an idle worker sleeps longer than it should: {error}");
        }
    }
}

/// The CPUs that get a worker: the configured ones, or the last one that is ours, for the first is where the system's own work
/// tends to be.
fn worker_cpus(config: &Dataplane) -> Result<Vec<usize>, RunError> {
    if config.workers.is_empty() {
        return Ok(vec![thread::allowed_cpus().last().copied().ok_or(RunError::NoCpu)?]);
    }
    Ok(config.workers.iter().map(|&cpu| usize::try_from(cpu).unwrap_or(usize::MAX)).collect())
}

fn wait(ended: &Receiver<Event>, wires: &Wires, exit_when_idle: Option<Duration>) -> Result<(), RunError> {
    let mut last_packet = (0, Instant::now());
    loop {
        let event = match exit_when_idle {
            None => ended.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(_) => ended.recv_timeout(IDLE_CHECK),
        };
        match event {
            Ok(Event::Signal(signal)) => {
                tracing::info!("ending on {}", signal_name(signal).unwrap_or("a signal"));
                return Ok(());
            }
            Ok(Event::WorkerEnded(index)) => return Err(RunError::WorkerDied { index }),
            Err(_) => {}
        }
        let received =
            wires.iter().map(|wire| wire.inbound.read().received + wire.outbound.read().received).sum::<u64>();
        if received != last_packet.0 {
            last_packet = (received, Instant::now());
        } else if exit_when_idle.is_some_and(|limit| last_packet.1.elapsed() >= limit) {
            tracing::info!("ending: no packet for {:?}", last_packet.1.elapsed());
            return Ok(());
        }
    }
}

fn shut_down(
    eal: Eal,
    wires: Arc<Wires>,
    workers: Workers,
    times: &[Arc<WorkerTimes>],
    deciding: Deciding,
    events: &Receiver<Event>,
) {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    stage("stopping the workers", || drop(workers));
    stage("ending the service", || drop(deciding.service));
    stage("writing what was learned", || drop(deciding.tick));
    drain(&wires, events);
    report(&wires);
    report_times(times);
    stage("stopping the ports", || match Arc::into_inner(wires) {
        Some(wires) => wires.stop(),
        None => tracing::warn!("the ports are left as they are: another thread still reads their counters"),
    });
    stage("cleaning up DPDK", || {
        if let Err(error) = eal.close() {
            tracing::warn!("{error}");
        }
    });
}

/// Lets ports send what they have taken over, as far as they do so within [`DRAIN`].
fn drain(wires: &Wires, events: &Receiver<Event>) {
    let deadline = Instant::now() + DRAIN;
    while wires.iter().any(|wire| wire.unsent() > 0) && Instant::now() < deadline {
        // Waits a moment; what comes meanwhile is a second signal, and the end is near already.
        let _ = events.recv_timeout(Duration::from_millis(1));
    }
}

/// Where all packets went.
fn report(wires: &Wires) {
    for wire in wires.iter() {
        for (direction, path, port) in
            [("inbound", &wire.inbound, &wire.outside), ("outbound", &wire.outbound, &wire.inside)]
        {
            let count = path.read();
            let dropped: Vec<String> = Reason::ALL
                .iter()
                .zip(count.dropped)
                .filter(|(_, packets)| *packets > 0)
                .map(|(reason, packets)| format!("{reason} {packets}"))
                .collect();
            tracing::info!(
                "wire {:?} {direction}: received {}, forwarded {}, replied {}, dropped [{}], lost before {}",
                wire.name,
                count.received,
                count.forwarded,
                count.replied,
                dropped.join(", "),
                port.counters().map_or("unknown".to_owned(), |counters| counters.lost_before().to_string()),
            );
        }
    }
}

/// How long packets took.
fn report_times(times: &[Arc<WorkerTimes>]) {
    for (worker, times) in times.iter().enumerate() {
        if let (Some(burst), Some(transit)) = (times.burst.quantiles(), times.transit.quantiles()) {
            tracing::info!("worker {worker}: bursts took {burst}; packets from port to port {transit}");
        }
    }
}

/// Does a part of the shutdown, and ends the process if it hangs.
fn stage<T>(name: &'static str, work: impl FnOnce() -> T) -> T {
    let (finished, wait) = mpsc::channel::<()>();
    let watched = spawn("levee-deadline", move || {
        if wait.recv_timeout(STAGE_DEADLINE) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("{name} took longer than {STAGE_DEADLINE:?}: ending without it");
            std::process::exit(1);
        }
    });
    if let Err(error) = watched {
        tracing::warn!("{name} has no deadline: {error}");
    }
    let result = work();
    drop(finished);
    result
}
