//! Starts what others talk to: the API on its socket, and the metrics.

use std::path::PathBuf;
use std::sync::Arc;

use levee_api::config::Config;
use levee_api::grpc::socket::{self, Listener};
use tokio::task::JoinSet;

use super::metrics::{self, Sources};
use super::{About, CallCounters, CaptureFolder, Handle, serve};
use crate::clock::UnixTime;

/// Why it does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no socket.
    #[error(transparent)]
    Socket(#[from] socket::BindError),
    /// There are no metrics.
    #[error(transparent)]
    Metrics(#[from] metrics::BindError),
}

/// The services, until this is dropped.
#[derive(Debug)]
pub struct Running {
    _tasks: JoinSet<()>,
}

/// Binds what the configuration says, and serves. To be called inside a runtime.
///
/// # Errors
/// When another instance is alive, or the system refuses.
pub async fn start(config: &Config, file: PathBuf, handle: Handle, started: UnixTime) -> Result<Running, StartError> {
    let listener = Listener::bind(&config.controlplane.socket)?;
    let metrics = match config.controlplane.metrics {
        Some(address) => Some(metrics::bind(address).await?),
        None => None,
    };
    let calls = Arc::new(CallCounters::default());
    let sources = Sources {
        handle: handle.clone(),
        calls: Arc::clone(&calls),
        started: std::time::Duration::from_nanos(started.0).as_secs_f64(),
    };
    let captures = CaptureFolder::below(&config.appliance.state_dir);
    let about = About { config: file, started, captures };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        // The listener goes with the task, and its socket with the listener.
        if let Err(error) = serve(&listener, handle, about, calls).await {
            tracing::error!(%error, "the API has ended; mitigations go on without it");
        }
    });
    if let Some(listener) = metrics {
        tasks.spawn(metrics::serve(listener, sources));
    }
    Ok(Running { _tasks: tasks })
}
