//! Worker threads: pinned to one CPU and known to DPDK, so that pools give them a cache of their own.

use std::sync::mpsc;
use std::thread::JoinHandle;

use core_affinity::CoreId;
use thiserror::Error;

use super::Errno;
use super::eal::Eal;

/// Why a worker did not start.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// The CPU does not exist or is not ours.
    #[error("cannot pin a worker to CPU {cpu}: the process may run on CPUs {allowed:?}")]
    Pin {
        /// What was asked for.
        cpu: usize,
        /// What there is.
        allowed: Vec<usize>,
    },
    /// DPDK refused it.
    #[error("DPDK does not accept another thread: {0}")]
    Register(Errno),
    /// The system refused it.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// CPUs that this process may run on.
pub fn allowed_cpus() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Runs `body` on a thread of its own, pinned to `cpu` and registered with DPDK. Returns when the thread has begun with
/// its body, or could not.
pub fn spawn<T: Send + 'static>(
    eal: &Eal,
    name: &str,
    cpu: usize,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<Option<T>>, SpawnError> {
    let allowed = allowed_cpus();
    if !allowed.contains(&cpu) {
        return Err(SpawnError::Pin { cpu, allowed });
    }
    let (ready, begun) = mpsc::sync_channel(1);
    let eal = eal.clone();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let registered = if core_affinity::set_for_current(CoreId { id: cpu }) {
            Registration::of_this_thread(eal).map_err(SpawnError::Register)
        } else {
            Err(SpawnError::Pin { cpu, allowed })
        };
        let (outcome, registration) = match registered {
            Ok(registration) => (Ok(()), Some(registration)),
            Err(error) => (Err(error), None),
        };
        // The receiver waits below for exactly this message.
        drop(ready.send(outcome));
        registration.map(|_registration| body())
    })?;
    match begun.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(SpawnError::Thread(std::io::Error::other("the thread ended before it began"))),
    }
}

/// This thread's membership in DPDK, given up when dropped.
struct Registration {
    _eal: Eal,
}

impl Registration {
    fn of_this_thread(eal: Eal) -> Result<Self, Errno> {
        // SAFETY: DPDK is initialised, as the Eal shows; the thread is not registered yet, because only spawn() does so.
        if unsafe { dpdk_sys::rte_thread_register() } < 0 { Err(Errno::last()) } else { Ok(Self { _eal: eal }) }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: of_this_thread registered this thread, and the value never leaves it (it is local to spawn's closure).
        unsafe { dpdk_sys::rte_thread_unregister() }
    }
}
