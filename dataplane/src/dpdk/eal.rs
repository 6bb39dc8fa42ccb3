//! The environment: memory, buses and drivers. One per process, started once.

use std::ffi::{CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use thiserror::Error;

use super::{Errno, check, text};

/// Where packet memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Hugepages, reserved at start; nothing is left in any file system.
    Hugepages {
        /// MiB to reserve.
        mib: u64,
    },
    /// Ordinary pages: for laboratories. Slower by a factor of two to three, no physical network cards.
    NoHuge {
        /// MiB to map, all there will be.
        mib: u64,
    },
}

/// Which PCI devices the environment takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pci {
    /// Only these addresses; with none, the bus is not scanned.
    Only(Vec<String>),
    /// Every device bound to a driver that DPDK can use.
    All,
}

/// How to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Packet memory.
    pub memory: Memory,
    /// PCI devices.
    pub pci: Pci,
    /// All CPUs the process may use. The initialising thread stays free to run on any: workers are pinned one by one.
    pub cpus: Vec<usize>,
}

/// Why the environment did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// `rte_eal_init` can run once in a process.
    #[error("DPDK was already started in this process")]
    AlreadyStarted,
    /// Checked before DPDK is asked, whose own message names no remedy.
    #[error(
        "{wanted_mib} MiB of hugepages are needed and {free_mib} MiB are free: echo {pages} > /proc/sys/vm/nr_hugepages \
         (pages of 2 MiB), or set memory = \"no-huge\" under [dataplane] in a laboratory"
    )]
    NoHugepages {
        /// What the configuration asks for.
        wanted_mib: u64,
        /// What the kernel has.
        free_mib: u64,
        /// What to write into nr_hugepages.
        pages: u64,
    },
    /// `rte_eal_init` failed.
    #[error("DPDK did not start: {errno}; it was given: {arguments}")]
    Init {
        /// DPDK's reason.
        errno: Errno,
        /// Its command line.
        arguments: String,
    },
    /// An argument holds a NUL byte.
    #[error("{0:?} cannot be passed to DPDK: it holds a NUL character")]
    Nul(String),
}

/// Why the environment did not close.
#[derive(Debug, Error)]
pub enum CloseError {
    /// A port or a pool still holds it.
    #[error("DPDK cannot be cleaned up while {holders} of its ports or pools are in use")]
    InUse {
        /// How many hold it.
        holders: usize,
    },
    /// `rte_eal_cleanup` failed.
    #[error("DPDK's clean-up failed: {0}")]
    Cleanup(Errno),
}

/// The interrupt thread did not run what it was asked to.
#[derive(Debug, Error)]
pub enum InterruptThreadError {
    /// The alarm could not be set.
    #[error("DPDK's interrupt thread takes no work: {0}")]
    Alarm(Errno),
    /// It did not fire.
    #[error("DPDK's interrupt thread did not answer within {0:?}")]
    Silent(Duration),
}

/// The running environment. Clones share it; it is cleaned up by [`Eal::close`] or when the last one goes.
#[derive(Clone, Debug)]
pub struct Eal(Arc<Running>);

#[derive(Debug)]
struct Running {
    /// DPDK keeps pointers into its command line.
    _arguments: Vec<CString>,
}

static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Initialises DPDK.
    pub fn start(options: &Options) -> Result<Self, StartError> {
        if let Memory::Hugepages { mib } = options.memory {
            require_hugepages(mib)?;
        }
        let words = command_line(options);
        let arguments = words
            .iter()
            .map(|word| CString::new(word.as_str()).map_err(|_| StartError::Nul(word.clone())))
            .collect::<Result<Vec<_>, _>>()?;
        if STARTED.swap(true, Ordering::AcqRel) {
            return Err(StartError::AlreadyStarted);
        }
        let mut argv: Vec<*mut c_char> = arguments.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
        let argc = c_int::try_from(argv.len()).unwrap_or(c_int::MAX);
        argv.push(std::ptr::null_mut());
        // SAFETY: argv holds argc terminated strings and a null; the strings live in Running as long as DPDK does. DPDK
        // permutes the array of pointers, which it does not keep, and does not write to the strings.
        if unsafe { dpdk_sys::rte_eal_init(argc, argv.as_mut_ptr()) } < 0 {
            return Err(StartError::Init { errno: Errno::last(), arguments: words.join(" ") });
        }
        remove_runtime_folder();
        Ok(Self(Arc::new(Running { _arguments: arguments })))
    }

    /// Cleans up, if nothing holds the environment any more.
    pub fn close(self) -> Result<(), CloseError> {
        let holders = Arc::strong_count(&self.0) - 1;
        let running = Arc::into_inner(self.0).ok_or(CloseError::InUse { holders })?;
        // Cleaned up here, where the result can be told; dropping would do it a second time.
        ManuallyDrop::new(running).clean_up().map_err(CloseError::Cleanup)
    }

    /// Runs `work` on DPDK's interrupt thread, which no Rust code started, and waits for it.
    pub fn on_interrupt_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        deadline: Duration,
    ) -> Result<T, InterruptThreadError> {
        let (done, wait) = mpsc::sync_channel(1);
        // The receiver is gone when the deadline has passed; nobody is left to tell.
        let work: Work = Box::new(move || drop(done.send(work())));
        let argument = Box::into_raw(Box::new(work)).cast::<c_void>();
        // SAFETY: the callback takes the box back exactly once; on failure it is never called and the box is taken here.
        if let Err(errno) = check(unsafe { dpdk_sys::rte_eal_alarm_set(1, Some(run_work), argument) }) {
            // SAFETY: made by Box::into_raw above, and not handed over.
            drop(unsafe { Box::from_raw(argument.cast::<Work>()) });
            return Err(InterruptThreadError::Alarm(errno));
        }
        wait.recv_timeout(deadline).map_err(|_| InterruptThreadError::Silent(deadline))
    }
}

type Work = Box<dyn FnOnce() + Send>;

extern "C" fn run_work(argument: *mut c_void) {
    // SAFETY: on_interrupt_thread passed a Box<Work> and gave it up; the alarm fires once.
    let work = unsafe { Box::from_raw(argument.cast::<Work>()) };
    // A panic must not unwind into C; the waiting side sees the closed channel.
    drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)));
}

impl Running {
    fn clean_up(&self) -> Result<(), Errno> {
        // SAFETY: this is the only holder, so no port, pool or registered thread is left.
        check(unsafe { dpdk_sys::rte_eal_cleanup() })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(errno) = self.clean_up() {
            tracing::warn!("DPDK's clean-up failed: {errno}");
        }
    }
}

/// DPDK's command line. What is fixed here: one lcore that floats over all CPUs (pinning it would pin every thread
/// started later), no files shared with other processes, 512-bit vectors where the CPU has them.
fn command_line(options: &Options) -> Vec<String> {
    let mut words = vec!["levee".to_owned()];
    words.push(format!("--lcores=0@({})", join(&options.cpus)));
    match options.memory {
        Memory::Hugepages { mib } => words.extend(["--in-memory".into(), "-m".into(), mib.to_string()]),
        // DPDK 22.11 refuses --in-memory together with --no-huge.
        Memory::NoHuge { mib } => {
            words.extend(["--no-huge".into(), "--no-shconf".into(), "-m".into(), mib.to_string()])
        }
    }
    // virtio_user hands its memory to the other side by file descriptor, of which there may be eight.
    words.push("--single-file-segments".into());
    // A generation of its own: a start right after a SIGKILL must not meet the locks of the process before.
    words.push(format!("--file-prefix=levee-{}", std::process::id()));
    words.push("--no-telemetry".into());
    words.push("--force-max-simd-bitwidth=512".into());
    words.push("--log-level=warning".into());
    match &options.pci {
        Pci::Only(addresses) if addresses.is_empty() => words.extend(["--no-pci".into(), "--iova-mode=va".into()]),
        Pci::Only(addresses) => words.extend(addresses.iter().flat_map(|address| ["-a".to_owned(), address.clone()])),
        Pci::All => {}
    }
    words
}

/// Nothing is shared with other processes, so DPDK's folder for that is empty. Removed now, it is gone even after a
/// SIGKILL.
fn remove_runtime_folder() {
    // SAFETY: returns a string that stays as it is once DPDK is initialised.
    if let Some(folder) = unsafe { text(dpdk_sys::rte_eal_get_runtime_dir()) } {
        // With hugepages DPDK makes none.
        let _ = std::fs::remove_dir(folder);
    }
}

fn join(cpus: &[usize]) -> String {
    cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

fn require_hugepages(wanted_mib: u64) -> Result<(), StartError> {
    const PAGE_MIB: u64 = 2;
    let sizes = Path::new("/sys/kernel/mm/hugepages");
    let free_kib: u64 =
        std::fs::read_dir(sizes).into_iter().flatten().flatten().filter_map(|size| free_kib(&size.path())).sum();
    let free_mib = free_kib / 1024;
    if free_mib >= wanted_mib {
        return Ok(());
    }
    let reserved: u64 = read_number(Path::new("/proc/sys/vm/nr_hugepages")).unwrap_or(0);
    Err(StartError::NoHugepages { wanted_mib, free_mib, pages: reserved + (wanted_mib - free_mib).div_ceil(PAGE_MIB) })
}

/// Free memory in one of the kernel's folders `hugepages-<size>kB`.
fn free_kib(folder: &Path) -> Option<u64> {
    let size: u64 = folder.file_name()?.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(size * read_number(&folder.join("free_hugepages"))?)
}

fn read_number(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}
