//! The connection to the control plane.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt as _;

/// How long the control plane may take to take the call.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// Nobody answers.
    #[error("no control plane answers on {}: {reason}\n  help: is levee-controlplane running, and is its socket elsewhere (--socket)?", socket.display())]
    Unreachable {
        /// Where.
        socket: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The caller may not open the socket.
    #[error("may not connect to {}\n  help: be root, or of the group levee", .0.display())]
    NotAllowed(PathBuf),
    /// The control plane says no.
    #[error("{0}")]
    Refused(String),
    /// Something on this side.
    #[error("{0}")]
    Here(String),
}

impl From<Status> for CallError {
    /// What is wrong, one line each, with the field if there is one.
    fn from(status: Status) -> Self {
        if let Some(request) = status.get_details_bad_request() {
            let lines = request.field_violations.iter().map(|one| format!("{}: {}", one.field, one.description));
            return Self::Refused(lines.collect::<Vec<_>>().join("\n"));
        }
        Self::Refused(status.message().to_owned())
    }
}

/// A connection.
#[derive(Debug, Clone)]
pub(super) struct Client(Channel);

impl Client {
    pub(super) async fn connect(socket: &Path) -> Result<Self, CallError> {
        // Looked at first: an error of the transport does not say what the matter is.
        match tokio::time::timeout(CONNECT_WITHIN, UnixStream::connect(socket)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(CallError::NotAllowed(socket.to_owned()));
            }
            Ok(Err(error)) => return Err(unreachable(socket, &error.to_string())),
            Err(_) => return Err(unreachable(socket, "it does not take the call")),
        }
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is required and never looked at: the connector knows the way.
        let endpoint = Endpoint::from_static("http://controlplane.invalid");
        let channel = tokio::time::timeout(CONNECT_WITHIN, endpoint.connect_with_connector(connector)).await;
        match channel {
            Ok(Ok(channel)) => Ok(Self(channel)),
            Ok(Err(error)) => Err(unreachable(socket, &error.to_string())),
            Err(_) => Err(unreachable(socket, "it does not speak gRPC")),
        }
    }

    /// For one of the generated clients.
    pub(super) fn channel(&self) -> Channel {
        self.0.clone()
    }
}

fn unreachable(socket: &Path, reason: &str) -> CallError {
    CallError::Unreachable { socket: socket.to_owned(), reason: reason.to_owned() }
}
