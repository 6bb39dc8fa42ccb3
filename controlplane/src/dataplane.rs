//! The control plane's end of the contract with the dataplane.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use levee_api::filter::Target;
use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::dataplane::v1::dataplane_client::DataplaneClient;
use levee_api::grpc::{FilterRequest, VERSION, pieces, v1, zone_in_pieces};
use levee_api::prefix::Prefix;
use levee_api::zone::Zone;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// How long connecting and handshaking may take: a peer that is no dataplane may never answer.
const GREETING_WITHIN: Duration = Duration::from_secs(5);
/// How long an upload may take, the building of tables included.
const UPLOAD_WITHIN: Duration = Duration::from_secs(60);

/// Why the dataplane could not be talked to.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// Nobody answers on the socket, or nobody who speaks gRPC.
    #[error("no dataplane answers on {}: {reason}", socket.display())]
    Unreachable {
        /// The socket of the configuration.
        socket: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// It does not answer in time.
    #[error("the dataplane did not answer within {0:?}")]
    Late(Duration),
    /// A call failed.
    #[error("{call} failed: {}", .status.message())]
    Call {
        /// Which.
        call: &'static str,
        /// What the dataplane said.
        status: Box<tonic::Status>,
    },
    /// It answers what the contract does not allow.
    #[error("the dataplane breaks the contract: {0}")]
    Nonsense(String),
    /// It refuses the policy.
    #[error("the dataplane refuses the policy and keeps the one before: {}", .0.join("; "))]
    Refused(Vec<String>),
}

/// A dataplane that has introduced itself.
#[derive(Debug, Clone)]
pub struct Dataplane {
    /// For calls beyond those below.
    pub client: DataplaneClient<Channel>,
    /// How it introduced itself.
    pub identity: contract::HandshakeResponse,
}

/// What one generation puts in force.
#[derive(Debug, Clone, Copy, Default)]
pub struct Generation<'p> {
    /// All zones.
    pub zones: &'p [Zone],
    /// Prefixes to protect beyond those of the dataplane's own file.
    pub protected: &'p [Prefix],
    /// All filters of the control plane.
    pub filters: &'p [FilterRequest],
}

impl Dataplane {
    /// Connects to the socket and introduces us.
    ///
    /// # Errors
    /// When nobody answers, or another version of the contract.
    pub async fn connect(socket: &Path) -> Result<Self, DataplaneError> {
        Self::connect_as(socket, VERSION).await
    }

    /// The same with another version, to learn what the dataplane makes of it.
    ///
    /// # Errors
    /// As above.
    pub async fn connect_as(socket: &Path, version: contract::Version) -> Result<Self, DataplaneError> {
        let greeting = tokio::time::timeout(GREETING_WITHIN, greet(socket, version));
        greeting.await.unwrap_or(Err(DataplaneError::Late(GREETING_WITHIN)))
    }

    /// Puts a generation in force, whole or not at all.
    ///
    /// # Errors
    /// [`DataplaneError::Refused`] with the reasons; others when the connection or a call fails.
    pub async fn upload(&mut self, generation: Generation<'_>) -> Result<u64, DataplaneError> {
        let upload = tokio::time::timeout(UPLOAD_WITHIN, self.upload_in_chunks(generation));
        let number = upload.await.unwrap_or(Err(DataplaneError::Late(UPLOAD_WITHIN)))?;
        self.identity.generation = number;
        Ok(number)
    }

    async fn upload_in_chunks(&mut self, policy: Generation<'_>) -> Result<u64, DataplaneError> {
        use contract::commit_generation_response::Outcome;
        let begin = contract::BeginGenerationRequest { boot_id: self.identity.boot_id.clone(), ..Default::default() };
        let begun = self.client.begin_generation(begin).await.map_err(failed("BeginGeneration"))?;
        let generation = begun.into_inner().generation;
        let chunks = tokio_stream::iter(chunks(generation, policy));
        self.client.upload_chunk(chunks).await.map_err(failed("UploadChunk"))?;
        let expected = Some(contract::Counts {
            zones: policy.zones.len() as u64,
            protected_prefixes: policy.protected.len() as u64,
            filters: policy.filters.len() as u64,
        });
        let commit = contract::CommitGenerationRequest { generation, expected };
        let committed = self.client.commit_generation(commit).await.map_err(failed("CommitGeneration"))?;
        match committed.into_inner().outcome {
            Some(Outcome::Committed(_)) => Ok(generation),
            Some(Outcome::Refused(refused)) => Err(DataplaneError::Refused(refused.reasons)),
            None => Err(DataplaneError::Nonsense("a commit without an outcome".to_owned())),
        }
    }

    /// Whether it can do something beyond the first minor version of the contract.
    pub fn can(&self, capability: &str) -> bool {
        self.identity.capabilities.iter().any(|known| known == capability)
    }

    /// Which part of a target's legitimate traffic filters like these would have hit; none: it does not know.
    ///
    /// # Errors
    /// When the connection or the call fails.
    pub async fn legitimate_share(
        &mut self,
        target: &Target,
        filters: &[FilterRequest],
    ) -> Result<Option<f64>, DataplaneError> {
        let filters = filters.iter().map(Into::into).collect();
        let request = contract::LegitimateShareRequest { target: Some(target.into()), filters };
        let answer = self.client.legitimate_share(request).await.map_err(failed("LegitimateShare"))?;
        Ok(answer.into_inner().share)
    }

    /// Has packets of a target captured, for so long at least; the name of the file once it is complete.
    ///
    /// # Errors
    /// When the connection or the call fails, or there is no room.
    pub async fn capture(&mut self, target: &Target, duration: Duration) -> Result<String, DataplaneError> {
        let duration_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let request = contract::CaptureRequest { target: Some(target.into()), duration_ns };
        Ok(self.client.capture(request).await.map_err(failed("Capture"))?.into_inner().file)
    }

    /// Everything in force.
    ///
    /// # Errors
    /// When the connection or the call fails, or the snapshot is not complete.
    pub async fn snapshot(&mut self) -> Result<Snapshot, DataplaneError> {
        use contract::snapshot_part::Part;
        let answer = self.client.snapshot(contract::SnapshotRequest {}).await.map_err(failed("Snapshot"))?;
        let mut parts = answer.into_inner();
        let mut snapshot = Snapshot::default();
        loop {
            let part = parts.message().await.map_err(failed("Snapshot"))?;
            match part.and_then(|part| part.part) {
                Some(Part::Header(header)) => snapshot.header = header,
                Some(Part::Zones(zones)) => snapshot.zones += zones.zones.len(),
                Some(Part::Anomalies(anomalies)) => snapshot.anomalies.extend(anomalies.anomalies),
                Some(Part::Filters(filters)) => snapshot.filters.extend(filters.filters),
                Some(Part::Counters(counters)) => snapshot.counters = counters,
                Some(Part::End(_)) => return Ok(snapshot),
                None => return Err(DataplaneError::Nonsense("a snapshot without an end".to_owned())),
            }
        }
    }
}

/// Everything in force at one sequence number.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Which number, of which run and policy.
    pub header: contract::SnapshotHeader,
    /// How many zones.
    pub zones: usize,
    /// The anomalies that are open.
    pub anomalies: Vec<contract::Anomaly>,
    /// The filters in force.
    pub filters: Vec<v1::Filter>,
    /// Counters.
    pub counters: contract::CountersResponse,
}

async fn greet(socket: &Path, version: contract::Version) -> Result<Dataplane, DataplaneError> {
    let unreachable = |reason: &dyn std::error::Error| DataplaneError::Unreachable {
        socket: socket.to_owned(),
        reason: innermost(reason).to_string(),
    };
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The address is required and never looked at: the connector knows the way.
    let endpoint = Endpoint::from_static("http://dataplane.invalid")
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| unreachable(&error))?;
    let mut client = DataplaneClient::new(channel);
    let request = contract::HandshakeRequest {
        version: Some(version),
        client: concat!("levee-controlplane ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let identity = match client.handshake(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) if status.code() == tonic::Code::FailedPrecondition => return Err(failed("Handshake")(status)),
        Err(status) => return Err(unreachable(&status)),
    };
    let theirs = identity.version.unwrap_or_default();
    if theirs.major != version.major {
        return Err(DataplaneError::Nonsense(format!(
            "it answers version {} with version {}.{}",
            version.major, theirs.major, theirs.minor
        )));
    }
    Ok(Dataplane { client, identity })
}

/// The generation in messages that the dataplane takes: zones, then the rest of their prefixes, then what refers to them.
fn chunks(generation: u64, policy: Generation<'_>) -> Vec<contract::Chunk> {
    let (zones, more): (Vec<_>, Vec<_>) = policy.zones.iter().map(zone_in_pieces).unzip();
    let chunk = || contract::Chunk { generation, ..Default::default() };
    let zones = pieces(zones).into_iter().map(|zones| contract::Chunk { zones, ..chunk() });
    let more = pieces(more.into_iter().flatten());
    let more = more.into_iter().map(|more_prefixes| contract::Chunk { more_prefixes, ..chunk() });
    let protected = pieces(policy.protected.iter().copied().map(v1::Prefix::from));
    let protected = protected.into_iter().map(|protected_prefixes| contract::Chunk { protected_prefixes, ..chunk() });
    let filters = pieces(policy.filters.iter().map(v1::FilterRequest::from));
    let filters = filters.into_iter().map(|filters| contract::Chunk { filters, ..chunk() });
    zones.chain(more).chain(protected).chain(filters).collect()
}

fn failed(call: &'static str) -> impl Fn(tonic::Status) -> DataplaneError {
    move |status| DataplaneError::Call { call, status: Box::new(status) }
}

/// Transport errors say "transport error"; what happened is at the end of their chain.
fn innermost<'e>(error: &'e (dyn std::error::Error + 'e)) -> &'e (dyn std::error::Error + 'e) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}
