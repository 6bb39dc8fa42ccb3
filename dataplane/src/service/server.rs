//! What each call of the contract does.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use levee_api::config::Config;
use levee_api::filter::Target;
use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::dataplane::v1::dataplane_server::{Dataplane, DataplaneServer};
use levee_api::grpc::socket::{Connection, Doorkeeper, Listener};
use levee_api::grpc::{FieldError, FilterRequest, VERSION, filter_in_force, pieces, v1, zone_in_pieces};
use levee_api::prefix::Prefix;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::link::{self, Policy, Reply};
use super::log::EventLog;
use super::policy::{self, Limits, MAX_FILTERS, Upload};
use crate::bell::Bell;

/// Chunks of at most 1 MiB, and the frame around them.
const MAX_MESSAGE_BYTES: usize = (1 << 20) + (64 << 10);
/// Connections served at once; more are hung up on, and ordinary users have a part of them each.
const CONNECTIONS: usize = 32;
/// Events handed to a client at once.
const BATCH: usize = 256;
/// What this dataplane can do beyond the first minor version.
const CAPABILITIES: [&str; 3] = ["legitimate-share", "capture", "wire-counters"];
/// Filters of which it is asked at once what they would have done.
const MOST_ASKED: usize = 16;
/// Requests whose answer is remembered, for clients that ask again.
const REMEMBERED: usize = 64;

pub(super) struct Server {
    identity: contract::HandshakeResponse,
    limits: Limits,
    requests: mpsc::Sender<link::Request>,
    /// Rung for each request.
    bell: Bell,
    log: EventLog,
    state: Mutex<State>,
}

/// What mutating calls change, one at a time.
struct State {
    policy: Policy,
    upload: Option<Upload>,
    last_generation: u64,
    begun: VecDeque<(String, u64)>,
    installed: VecDeque<(String, Vec<u64>)>,
}

/// Serves until told to stop.
pub(super) async fn serve(
    server: Arc<Server>,
    listener: &Listener,
    mut events: mpsc::Receiver<contract::Event>,
    stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let doorkeeper = Doorkeeper::at(listener.for_tokio()?, CONNECTIONS);
    let connections = admitted(doorkeeper);
    let logging = Arc::clone(&server);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            logging.log.push(event);
        }
    });
    let service = DataplaneServer::from_arc(Arc::new(Calls(server))).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let served = tonic::transport::Server::builder()
        .concurrency_limit_per_connection(32)
        .max_concurrent_streams(64)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .add_service(service)
        .serve_with_incoming(connections);
    tokio::select! {
        served = served => served.map_err(io::Error::other),
        _ = stopped => Ok(()),
    }
}

/// The connections as a stream.
fn admitted(doorkeeper: Doorkeeper) -> impl Stream<Item = io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            match doorkeeper.admit().await {
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

impl Server {
    pub(super) fn new(
        boot_id: String,
        config: &Config,
        policy: Policy,
        (requests, bell): (mpsc::Sender<link::Request>, Bell),
        told: Arc<AtomicU64>,
    ) -> Self {
        let limits = Limits::of(config);
        let last_generation = policy.generation;
        Self {
            identity: contract::HandshakeResponse {
                version: Some(VERSION),
                boot_id: boot_id.clone(),
                capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
                config_hash: config.hash.to_string(),
                appliance: config.appliance.name.clone(),
                generation: 0,
            },
            limits,
            requests,
            bell,
            log: EventLog::new(boot_id, told),
            state: Mutex::new(State {
                policy,
                upload: None,
                last_generation,
                begun: VecDeque::new(),
                installed: VecDeque::new(),
            }),
        }
    }

    /// Asks the owner of the tables, and waits as long as it takes: who gave up waiting would not know what is in force.
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> link::Request) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let gone = || Status::unavailable("the dataplane is shutting down");
        self.requests.send(request(reply)).await.map_err(|_| gone())?;
        self.bell.ring();
        answer.await.map_err(|_| gone())
    }

    async fn begin(&self, request: contract::BeginGenerationRequest) -> Result<u64, Status> {
        let mut state = self.state.lock().await;
        if request.boot_id != self.identity.boot_id {
            return Err(Status::aborted("the dataplane has restarted since: handshake again"));
        }
        let in_force = state.policy.generation;
        let is_alive = |generation| {
            generation == in_force || state.upload.as_ref().is_some_and(|upload| upload.generation == generation)
        };
        if let Some((_, generation)) = state.begun.iter().find(|(id, of)| *id == request.request_id && is_alive(*of)) {
            return Ok(*generation);
        }
        if let Some(base) = request.base.filter(|base| *base != in_force) {
            return Err(Status::aborted(format!("generation {in_force} is in force, not {base}: read it again")));
        }
        state.last_generation += 1;
        let generation = state.last_generation;
        state.upload = Some(Upload::of(generation));
        remember(&mut state.begun, (request.request_id, generation));
        Ok(generation)
    }

    async fn add(&self, chunk: &contract::Chunk) -> Result<contract::Counts, Status> {
        let mut state = self.state.lock().await;
        let upload = open_upload(&mut state, chunk.generation)?;
        match upload.add(chunk) {
            Ok(()) => Ok(upload.counts()),
            Err(error) => {
                state.upload = None;
                Err(Status::invalid_argument(format!("{error}; the generation is forgotten")))
            }
        }
    }

    async fn commit(
        &self,
        request: contract::CommitGenerationRequest,
    ) -> Result<contract::CommitGenerationResponse, Status> {
        use contract::commit_generation_response::{Committed, Outcome, Refused};
        let mut state = self.state.lock().await;
        let policy = &state.policy;
        let outcome = if request.generation == policy.generation && policy.generation > 0 {
            // The answer to the first time was lost.
            Outcome::Committed(Committed { counts: request.expected })
        } else {
            let upload = open_upload(&mut state, request.generation)?;
            let counts = upload.counts();
            let complete = if request.expected == Some(counts) {
                Ok(())
            } else {
                Err(vec![format!("{} were expected, {} have arrived", told(request.expected), told(Some(counts)))])
            };
            let upload = state.upload.take().unwrap_or_default();
            match complete.and_then(|()| upload.conclude(&self.limits)) {
                Ok(policy) => {
                    let asked = policy.clone();
                    match self.ask(|reply| link::Request::Replace { policy: asked, reply }).await? {
                        Ok(()) => {
                            tracing::info!(
                                generation = policy.generation,
                                "policy of the control plane: {}",
                                policy.summary()
                            );
                            state.policy = policy;
                            Outcome::Committed(Committed { counts: Some(counts) })
                        }
                        Err(reasons) => Outcome::Refused(Refused { reasons }),
                    }
                }
                Err(reasons) => Outcome::Refused(Refused { reasons }),
            }
        };
        Ok(contract::CommitGenerationResponse { outcome: Some(outcome) })
    }

    async fn install(&self, request: contract::InstallFiltersRequest) -> Result<Vec<u64>, Status> {
        let mut state = self.state.lock().await;
        if let Some((_, ids)) = state.installed.iter().find(|(id, _)| *id == request.request_id) {
            return Ok(ids.clone());
        }
        if !(1..=MAX_FILTERS).contains(&request.filters.len()) {
            let given = request.filters.len();
            return Err(Status::invalid_argument(format!(
                "filters: {given} given, from 1 to {MAX_FILTERS} are possible"
            )));
        }
        let filters = filters(&request.filters)?;
        policy::admit(&filters, &state.policy, &self.limits).map_err(refused)?;
        let ids = self.ask(|reply| link::Request::Install { filters, reply }).await?.map_err(not_installed)?;
        remember(&mut state.installed, (request.request_id, ids.clone()));
        Ok(ids)
    }

    async fn renew(&self, request: contract::RenewFiltersRequest) -> Result<(), Status> {
        let contract::RenewFiltersRequest { owner, ids, remaining_ns } = request;
        let ttl = Duration::from_nanos(remaining_ns);
        if ttl.is_zero() || ttl > self.limits.max_ttl {
            let most = self.limits.max_ttl;
            return Err(Status::invalid_argument(format!(
                "remaining_ns: {ttl:?} is not within [guardrails] max_ttl, {most:?}"
            )));
        }
        // Not beside a commit that ends the same filters.
        let _state = self.state.lock().await;
        self.ask(|reply| link::Request::Renew { owner, ids, ttl, reply }).await?.map_err(refused)
    }

    async fn remove(&self, request: contract::RemoveFiltersRequest) -> Result<u64, Status> {
        let contract::RemoveFiltersRequest { owner, ids } = request;
        let _state = self.state.lock().await;
        self.ask(|reply| link::Request::Remove { owner, ids, reply }).await
    }

    async fn legitimate_share(
        &self,
        request: contract::LegitimateShareRequest,
    ) -> Result<contract::LegitimateShareResponse, Status> {
        let target = prefix_of(request.target.as_ref())?;
        if request.filters.len() > MOST_ASKED {
            let given = request.filters.len();
            return Err(Status::invalid_argument(format!("filters: {given} given, at most {MOST_ASKED} are possible")));
        }
        let filters = filters(&request.filters)?;
        let found = self.ask(|reply| link::Request::LegitimateShare { target, filters, reply }).await?;
        Ok(contract::LegitimateShareResponse { share: found.share, samples: found.samples.into() })
    }

    async fn capture(&self, request: contract::CaptureRequest) -> Result<contract::CaptureResponse, Status> {
        prefix_of(request.target.as_ref())?;
        let target = target_of(request.target.as_ref())?;
        let zone = target.zone.clone();
        if !self.state.lock().await.policy.zones.iter().any(|known| known.name == zone) {
            return Err(Status::invalid_argument(format!("target: there is no zone {zone:?}")));
        }
        let duration = Some(Duration::from_nanos(request.duration_ns)).filter(|duration| !duration.is_zero());
        match self.ask(|reply| link::Request::Capture { target, duration, reply }).await? {
            Ok(file) => Ok(contract::CaptureResponse { file }),
            Err(why) => Err(Status::failed_precondition(why)),
        }
    }

    async fn snapshot(&self) -> Result<Vec<contract::SnapshotPart>, Status> {
        use contract::snapshot_part::Part;
        // Under the lock, so that zones and the rest belong to the same policy.
        let state = self.state.lock().await;
        let snapshot = self.ask(|reply| link::Request::Snapshot { reply }).await?;
        let mut parts = vec![Part::Header(contract::SnapshotHeader {
            boot_id: self.identity.boot_id.clone(),
            sequence: snapshot.sequence,
            generation: state.policy.generation,
            config_hash: self.identity.config_hash.clone(),
        })];
        let (zones, more): (Vec<_>, Vec<_>) = state.policy.zones.iter().map(zone_in_pieces).unzip();
        drop(state);
        let zones = pieces(zones).into_iter().map(|zones| contract::Zones { zones, more_prefixes: Vec::new() });
        let more = pieces(more.into_iter().flatten());
        let more = more.into_iter().map(|more_prefixes| contract::Zones { zones: Vec::new(), more_prefixes });
        parts.extend(zones.chain(more).map(Part::Zones));
        let anomalies = pieces(snapshot.anomalies).into_iter();
        parts.extend(anomalies.map(|anomalies| Part::Anomalies(contract::Anomalies { anomalies })));
        let filters = snapshot.filters.iter();
        let filters = filters.map(|(filter, hits, simulated)| filter_in_force(filter, *hits, *simulated, snapshot.at));
        parts.extend(pieces(filters).into_iter().map(|filters| Part::Filters(contract::Filters { filters })));
        parts.push(Part::Counters(snapshot.counters));
        parts.push(Part::End(contract::SnapshotEnd {}));
        Ok(parts.into_iter().map(|part| contract::SnapshotPart { part: Some(part) }).collect())
    }

    /// Sends events to one client until it goes away.
    async fn watch(&self, request: contract::WatchRequest, client: mpsc::Sender<Result<contract::Event, Status>>) {
        let mut newest = self.log.subscribe();
        let mut reason = None;
        let mut position = if request.boot_id == self.identity.boot_id {
            request.after_sequence
        } else {
            reason = Some(if request.boot_id.is_empty() { "the beginning" } else { "the dataplane has restarted" });
            self.log.newest()
        };
        loop {
            newest.mark_unchanged();
            let events = match (reason.take(), self.log.after(position, BATCH)) {
                (None, Some(events)) => events,
                (reason, _) => {
                    position = self.log.newest();
                    vec![self.log.gap(position, reason.unwrap_or("events were lost"))]
                }
            };
            if events.is_empty() {
                tokio::select! {
                    _ = newest.changed() => continue,
                    () = client.closed() => return,
                }
            }
            for event in events {
                position = event.sequence;
                if client.send(Ok(event)).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn open_upload(state: &mut State, generation: u64) -> Result<&mut Upload, Status> {
    let gone = || {
        Status::aborted(format!(
            "generation {generation} is not open: another took its place, or it was refused; begin again"
        ))
    };
    state.upload.as_mut().filter(|upload| upload.generation == generation).ok_or_else(gone)
}

/// Keeps an answer; an empty id asks not to.
fn remember<T>(answers: &mut VecDeque<(String, T)>, answer: (String, T)) {
    if answer.0.is_empty() {
        return;
    }
    if answers.len() == REMEMBERED {
        answers.pop_front();
    }
    answers.push_back(answer);
}

fn filters(messages: &[v1::FilterRequest]) -> Result<Vec<FilterRequest>, Status> {
    let filters = messages.iter().enumerate().map(|(index, message)| {
        FilterRequest::try_from(message).map_err(|error| error.within(format_args!("filters[{index}]")))
    });
    filters.collect::<Result<Vec<_>, FieldError>>().map_err(|error| Status::invalid_argument(error.to_string()))
}

fn target_of(message: Option<&v1::Target>) -> Result<Target, Status> {
    let message = message.ok_or_else(|| Status::invalid_argument("target: say which"))?;
    Target::try_from(message).map_err(|error| Status::invalid_argument(error.within("target").to_string()))
}

fn prefix_of(message: Option<&v1::Target>) -> Result<Prefix, Status> {
    let prefix = target_of(message)?.prefix;
    prefix.ok_or_else(|| Status::invalid_argument("target.prefix: a whole zone is too much, say which part of it"))
}

fn told(counts: Option<contract::Counts>) -> String {
    let contract::Counts { zones, protected_prefixes, filters } = counts.unwrap_or_default();
    format!("{zones} zones, {protected_prefixes} protected prefixes and {filters} filters")
}

/// A client knows by the code whether the same may work later.
fn not_installed(reason: link::NotInstalled) -> Status {
    match reason {
        link::NotInstalled::NoRoom(reasons) => Status::resource_exhausted(reasons.join("; ")),
        link::NotInstalled::Refused(reasons) => refused(reasons),
    }
}

fn refused(reasons: Vec<String>) -> Status {
    Status::failed_precondition(reasons.join("; "))
}

/// The calls: each does its work in a task of its own, because a client that hangs up ends the call, and what has begun
/// must not be left half done.
struct Calls(Arc<Server>);

impl Calls {
    async fn detached<T, F>(&self, work: impl FnOnce(Arc<Server>) -> F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let work = tokio::spawn(work(Arc::clone(&self.0)));
        work.await.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Dataplane for Calls {
    type WatchStream = Answers<contract::Event>;
    type SnapshotStream = Answers<contract::SnapshotPart>;

    async fn handshake(
        &self,
        request: Request<contract::HandshakeRequest>,
    ) -> Result<Response<contract::HandshakeResponse>, Status> {
        let contract::HandshakeRequest { version, client } = request.into_inner();
        let version = version.unwrap_or_default();
        if version.major != VERSION.major {
            let (ours, theirs) = (VERSION, version);
            tracing::warn!(client, "refused: it speaks version {}.{} of the contract", theirs.major, theirs.minor);
            return Err(Status::failed_precondition(format!(
                "this dataplane speaks version {}.{} of the contract, the client {}.{}: install matching versions",
                ours.major, ours.minor, theirs.major, theirs.minor
            )));
        }
        tracing::info!(client, "control plane connected");
        let generation = self.0.state.lock().await.policy.generation;
        Ok(Response::new(contract::HandshakeResponse { generation, ..self.0.identity.clone() }))
    }

    async fn watch(&self, request: Request<contract::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (sender, receiver) = mpsc::channel(BATCH);
        let server = Arc::clone(&self.0);
        tokio::spawn(async move { server.watch(request.into_inner(), sender).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn snapshot(&self, _: Request<contract::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let parts = self.0.snapshot().await?;
        Ok(Response::new(Box::pin(tokio_stream::iter(parts).map(Ok))))
    }

    async fn counters(
        &self,
        request: Request<contract::CountersRequest>,
    ) -> Result<Response<contract::CountersResponse>, Status> {
        let only_wires = request.into_inner().only_wires;
        self.0.ask(|reply| link::Request::Counters { only_wires, reply }).await.map(Response::new)
    }

    async fn begin_generation(
        &self,
        request: Request<contract::BeginGenerationRequest>,
    ) -> Result<Response<contract::BeginGenerationResponse>, Status> {
        let generation = self.0.begin(request.into_inner()).await?;
        Ok(Response::new(contract::BeginGenerationResponse { generation }))
    }

    async fn upload_chunk(
        &self,
        request: Request<Streaming<contract::Chunk>>,
    ) -> Result<Response<contract::UploadChunkResponse>, Status> {
        let mut chunks = request.into_inner();
        let mut counts = None;
        while let Some(chunk) = chunks.message().await? {
            counts = Some(self.0.add(&chunk).await?);
        }
        Ok(Response::new(contract::UploadChunkResponse { counts }))
    }

    async fn commit_generation(
        &self,
        request: Request<contract::CommitGenerationRequest>,
    ) -> Result<Response<contract::CommitGenerationResponse>, Status> {
        let request = request.into_inner();
        self.detached(|server| async move { server.commit(request).await }).await.map(Response::new)
    }

    async fn abort_generation(
        &self,
        request: Request<contract::AbortGenerationRequest>,
    ) -> Result<Response<contract::AbortGenerationResponse>, Status> {
        let mut state = self.0.state.lock().await;
        if open_upload(&mut state, request.into_inner().generation).is_ok() {
            state.upload = None;
        }
        Ok(Response::new(contract::AbortGenerationResponse {}))
    }

    async fn install_filters(
        &self,
        request: Request<contract::InstallFiltersRequest>,
    ) -> Result<Response<contract::InstallFiltersResponse>, Status> {
        let request = request.into_inner();
        let ids = self.detached(|server| async move { server.install(request).await }).await?;
        Ok(Response::new(contract::InstallFiltersResponse { ids }))
    }

    async fn renew_filters(
        &self,
        request: Request<contract::RenewFiltersRequest>,
    ) -> Result<Response<contract::RenewFiltersResponse>, Status> {
        let request = request.into_inner();
        self.detached(|server| async move { server.renew(request).await }).await?;
        Ok(Response::new(contract::RenewFiltersResponse {}))
    }

    async fn remove_filters(
        &self,
        request: Request<contract::RemoveFiltersRequest>,
    ) -> Result<Response<contract::RemoveFiltersResponse>, Status> {
        let request = request.into_inner();
        let removed = self.detached(|server| async move { server.remove(request).await }).await?;
        Ok(Response::new(contract::RemoveFiltersResponse { removed }))
    }

    async fn legitimate_share(
        &self,
        request: Request<contract::LegitimateShareRequest>,
    ) -> Result<Response<contract::LegitimateShareResponse>, Status> {
        self.0.legitimate_share(request.into_inner()).await.map(Response::new)
    }

    async fn capture(
        &self,
        request: Request<contract::CaptureRequest>,
    ) -> Result<Response<contract::CaptureResponse>, Status> {
        let request = request.into_inner();
        self.detached(|server| async move { server.capture(request).await }).await.map(Response::new)
    }
}
