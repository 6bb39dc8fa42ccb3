//! The contract's server: gRPC on a unix socket, on a thread of its own.
//!
//! ```text
//!   control plane ──► socket ──► server (this thread) ──► Inlet   the owner of detector and tables,
//!                                      ▲    event log  ◄── Outlet  once per tick
//! ```
//!
//! The server decides nothing about packets. It checks what it is told against the limits of the file, hands it over
//! whole, and tells what became of it. Whatever happens to it, the dataplane keeps filtering.

mod anomaly;
mod link;
mod log;
mod policy;
mod server;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use levee_api::config::Config;
pub use levee_api::grpc::socket::{BindError, Listener};
use tokio::sync::oneshot;

pub use link::{Inlet, NotInstalled, Outlet, Policy, Refusal, Reply, Request, Snapshot};
pub use policy::{MAX_FILTERS, MAX_PREFIXES};

use server::Server;

/// The running service.
#[derive(Debug)]
pub struct Service {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Serves on a bound socket, with the policy of the file in force.
    ///
    /// # Errors
    /// When the system has no thread or no descriptor left.
    pub fn start(listener: Listener, config: &Config) -> io::Result<(Self, Inlet, Outlet)> {
        let protected = config.guardrails.protected_prefixes.clone();
        let policy = Policy { zones: config.zones.clone(), protected, ..Policy::default() };
        Self::start_with(listener, config, policy)
    }

    /// The same with another policy in force, such as that of before a restart. Requests are checked against its zones and
    /// protected prefixes, and against the limits of the file.
    ///
    /// # Errors
    /// As above.
    pub fn start_with(listener: Listener, config: &Config, in_force: Policy) -> io::Result<(Self, Inlet, Outlet)> {
        let boot_id = new_boot_id();
        let (end, inlet, outlet) = link::connect(boot_id.clone());
        let server = Arc::new(Server::new(boot_id, config, in_force, (end.requests, end.bell), end.told));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("levee-service".to_owned()).spawn(move || {
            let served = runtime.block_on(server::serve(server, &listener, end.events, stopped));
            if let Err(error) = served {
                tracing::error!(%error, "the service has ended; the dataplane goes on without it");
            }
            // Streams without end are cut here.
            runtime.shutdown_background();
        })?;
        Ok((Self { stop: Some(stop), thread: Some(thread) }, inlet, outlet))
    }
}

impl Drop for Service {
    /// Ends all connections, removes the socket and waits for the thread.
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Different for every start, and not to be guessed.
fn new_boot_id() -> String {
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())
}
