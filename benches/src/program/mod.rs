//! The programs that are measured. Each is started, asked for its counters twice, and ended; none outlives the measurement.

pub mod levee;
pub mod testpmd;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use levee_controlplane::dataplane::DataplaneError;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a program may take to start.
pub(crate) const START_WITHIN: Duration = Duration::from_secs(30);
/// How long a program may take to end before it is killed.
const END_WITHIN: Duration = Duration::from_secs(10);
/// How often a wait looks whether it is over.
const LOOK: Duration = Duration::from_millis(5);

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// A file or a process.
    #[error("{what}: {reason}")]
    Io {
        /// What was done.
        what: String,
        /// What went wrong.
        reason: io::Error,
    },
    /// A program ended or said nothing.
    #[error("{program} {what}; it said:\n{log}")]
    Program {
        /// Which.
        program: &'static str,
        /// What it did.
        what: String,
        /// The end of its output.
        log: String,
    },
    /// The contract.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// It cannot be measured here.
    #[error("{0}")]
    Skipped(String),
    /// A signal came.
    #[error("interrupted")]
    Interrupted,
}

/// Adds what was done to an error.
pub fn while_doing(what: impl Into<String>) -> impl FnOnce(io::Error) -> MeasureError {
    move |reason| MeasureError::Io { what: what.into(), reason }
}

/// Where programs run.
#[derive(Clone, Debug)]
pub struct Place {
    /// CPU of the thread that forwards, and of a second one.
    pub workers: Vec<usize>,
    /// CPU of everything else.
    pub other: usize,
    /// Folder of `levee-dataplane`.
    pub programs: PathBuf,
}

impl Place {
    /// Runs something in this process where programs forward: on a thread of its own, for programs inherit the CPUs of
    /// the thread that starts them.
    pub fn on_worker<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let worker = self.workers.first().map(|id| core_affinity::CoreId { id: *id });
        let pinned = move || {
            if !worker.is_some_and(core_affinity::set_for_current) {
                eprintln!("levee-bench: cannot stay on one CPU: figures of the data path alone may vary");
            }
            work()
        };
        std::thread::scope(|scope| match scope.spawn(pinned).join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

/// How long to look.
#[derive(Clone, Copy, Debug)]
pub struct Interval {
    /// Before the first look.
    pub warm_up: Duration,
    /// Between both looks.
    pub length: Duration,
}

/// Set by a signal.
#[derive(Clone, Copy, Debug)]
pub struct Interrupt(&'static AtomicBool);

impl Interrupt {
    /// Set by SIGINT and SIGTERM from now on.
    ///
    /// # Errors
    /// When the handlers cannot be set.
    pub fn listen() -> io::Result<Self> {
        static CAME: std::sync::LazyLock<std::sync::Arc<AtomicBool>> = std::sync::LazyLock::new(Default::default);
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, std::sync::Arc::clone(&CAME))?;
        }
        Ok(Self(&CAME))
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// When a signal comes.
    pub fn pause(self, length: Duration) -> Result<(), MeasureError> {
        let end = Instant::now() + length;
        loop {
            if self.0.load(Ordering::Relaxed) {
                return Err(MeasureError::Interrupted);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    /// Comes to an end only when a signal comes.
    async fn wait(self) {
        while !self.0.load(Ordering::Relaxed) {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// An appliance has its processors for itself; here a program at least comes before what else the machine does. Sessions
/// that the kernel weighs against each other (`CONFIG_SCHED_AUTOGROUP`) have a weight of their own.
const FIRST: &str = "echo -20 2>/dev/null >/proc/self/autogroup; exec nice -n -20 \"$@\"";

/// A running program. It is ended when dropped, and by the kernel if this process is killed.
#[derive(Debug)]
pub(crate) struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Running {
    pub(crate) fn start(
        name: &'static str,
        program: &Path,
        words: &[String],
        log: &Path,
    ) -> Result<Self, MeasureError> {
        let out = File::create(log).map_err(while_doing(log.display().to_string()))?;
        let errors = out.try_clone().map_err(while_doing(log.display().to_string()))?;
        let child = Command::new("setsid")
            .args(["setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", FIRST, "sh", "stdbuf", "-oL"])
            .arg(program)
            .args(words)
            // Ours is about this process; the programs are measured as they are.
            .env_remove("GLIBC_TUNABLES")
            .stdin(Stdio::piped())
            .stdout(if name == testpmd::NAME { Stdio::piped() } else { out.into() })
            .stderr(errors)
            .spawn()
            .map_err(while_doing(format!("cannot start {}", program.display())))?;
        Ok(Self { name, child, log: log.to_owned() })
    }

    /// Its number. What starts it becomes it, by `exec`.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn failed(&self, what: impl Into<String>) -> MeasureError {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        let last = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default();
        MeasureError::Program { program: self.name, what: what.into(), log: last.join("\n") }
    }

    /// An error if it has ended.
    fn check(&mut self) -> Result<(), MeasureError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failed(format!("ended with {status}"))),
            Err(reason) => Err(MeasureError::Io { what: self.name.to_owned(), reason }),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its standard input closes first, at which testpmd ends by itself.
        drop(self.child.stdin.take());
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = Instant::now() + END_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// The pair of ports that every program gets: what comes in is copied from a capture, by each queue for itself and without
/// end, as a card would write it into buffers; what is sent is taken and freed. From inside comes nothing.
fn vdevs<P: AsRef<Path>>(queues: &[P]) -> [String; 2] {
    let files: String = queues.iter().map(|file| format!(",rx_pcap={}", file.as_ref().display())).collect();
    [format!("net_pcap0{files},infinite_rx=1"), "net_null1,no-rx=1".to_owned()]
}

/// Buffers of the pool: captures stay in some of them, the others are what Levee has for each worker. One less than a power
/// of two, as Levee takes them.
fn buffers(packets: u32, workers: u8) -> u32 {
    let workers = u32::from(workers);
    (packets * workers + DEFAULT_BUFFERS * workers).next_power_of_two() - 1
}

/// What Levee takes for each worker of a wire: `BUFFERS` of the dataplane's wires.
const DEFAULT_BUFFERS: u32 = 16_383;
/// Bytes from one buffer to the next: what DPDK's pool makes of frames of an MTU of 1500, in both programs.
pub const BUFFER_BYTES: u32 = 2_368;
/// What DPDK needs besides buffers.
const OTHER_MIB: u64 = 96;

/// Hugepages that a program needs for a capture for each worker, in MiB.
pub fn hugepages_mib(packets: u32, workers: u8) -> u64 {
    ((u64::from(buffers(packets, workers)) * u64::from(BUFFER_BYTES)) >> 20) + 1 + OTHER_MIB
}
