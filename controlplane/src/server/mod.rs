//! The API for operators: gRPC on a unix socket, described in `docs/reference/api.md`.
//!
//! ```text
//!   leveectl ──► socket ──► admission (who, may he) ──► services ── Handle ──► the loop that owns the core
//! ```
//!
//! The services decide nothing: they read requests, ask the core, and write down what it says. Whatever happens to
//! them, mitigations go on.

mod admission;
mod calls;
mod captures;
mod explain;
mod fields;
mod incidents;
pub mod link;
pub mod metrics;
mod mitigations;
mod plan;
mod refusal;
mod roles;
mod routes;
mod runbooks;
mod start;
mod system;
mod upstream;
mod view;
mod zones;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use levee_api::grpc::DESCRIPTORS;
use levee_api::grpc::socket::{Connection, Doorkeeper, Listener};
use levee_api::grpc::v1;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::NamedService;

pub use calls::CallCounters;
pub use captures::CaptureFolder;
pub use link::{Handle, connect};
pub use roles::{Caller, METHODS, Needs, needed};
pub use start::{Running, StartError, start};

use crate::clock::UnixTime;

/// Connections served at once; more are hung up on, and ordinary users have a part of them each.
const CONNECTIONS: usize = 64;
/// Calls of one connection at once; more wait.
const CALLS_PER_CONNECTION: usize = 16;
/// Streams of one connection; more are refused.
const STREAMS_PER_CONNECTION: u32 = 32;
/// Larger requests are refused.
const MOST_BYTES: usize = 1 << 20;
/// How long headers of a request may be in all.
const MOST_HEADER_BYTES: u32 = 16 << 10;
/// A peer that does not answer to pings within this is gone.
const PING_EVERY: Duration = Duration::from_secs(20);

/// What the server says of itself.
#[derive(Debug, Clone)]
pub struct About {
    /// The configuration file.
    pub config: PathBuf,
    /// When the control plane started.
    pub started: UnixTime,
    /// Where the dataplane keeps its captures.
    pub captures: CaptureFolder,
}

/// Serves until the future is dropped, or the socket fails.
///
/// # Errors
/// When the system has no descriptor left, or the descriptors of this program are damaged.
pub async fn serve(listener: &Listener, handle: Handle, about: About, counters: Arc<CallCounters>) -> io::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    // Healthy while it answers: what is wrong with the rest is in the status.
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    for name in [
        <v1::zones_server::ZonesServer<zones::ZoneService> as NamedService>::NAME,
        <v1::incidents_server::IncidentsServer<incidents::IncidentService> as NamedService>::NAME,
        <v1::mitigations_server::MitigationsServer<mitigations::MitigationService> as NamedService>::NAME,
        <v1::runbooks_server::RunbooksServer<runbooks::RunbookService> as NamedService>::NAME,
        <v1::captures_server::CapturesServer<captures::CaptureService> as NamedService>::NAME,
        <v1::system_server::SystemServer<system::SystemService> as NamedService>::NAME,
    ] {
        health.set_service_status(name, tonic_health::ServingStatus::Serving).await;
    }
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let incidents = incidents::IncidentService { handle: handle.clone(), captures: about.captures.clone() };
    let captures = captures::CaptureService(about.captures.clone());
    let system = system::SystemService { handle: handle.clone(), about };
    let (zones, mitigations) = (zones::ZoneService(handle.clone()), mitigations::MitigationService(handle.clone()));
    let runbooks = runbooks::RunbookService(handle.clone());
    let connections = admitted(Doorkeeper::at(listener.for_tokio()?, CONNECTIONS));
    tonic::transport::Server::builder()
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(MOST_HEADER_BYTES)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_EVERY))
        .layer(admission::AdmissionLayer { handle: handle.clone(), counters })
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(io::Error::other)?)
        .add_service(reflection().build_v1alpha().map_err(io::Error::other)?)
        .add_service(v1::zones_server::ZonesServer::new(zones).max_decoding_message_size(MOST_BYTES))
        .add_service(v1::incidents_server::IncidentsServer::new(incidents).max_decoding_message_size(MOST_BYTES))
        .add_service(v1::mitigations_server::MitigationsServer::new(mitigations).max_decoding_message_size(MOST_BYTES))
        .add_service(v1::runbooks_server::RunbooksServer::new(runbooks).max_decoding_message_size(MOST_BYTES))
        .add_service(v1::captures_server::CapturesServer::new(captures).max_decoding_message_size(MOST_BYTES))
        .add_service(v1::system_server::SystemServer::new(system).max_decoding_message_size(MOST_BYTES))
        .serve_with_incoming(connections)
        .await
        .map_err(io::Error::other)
}

/// The connections as a stream.
fn admitted(doorkeeper: Doorkeeper) -> impl Stream<Item = io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let admitted = tokio::select! {
                admitted = doorkeeper.admit() => admitted,
                () = sender.closed() => return,
            };
            match admitted {
                Ok(connection) => {
                    if sender.send(Ok(connection)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // Out of descriptors: accepting again at once would fail again at once.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    ReceiverStream::new(receiver)
}
