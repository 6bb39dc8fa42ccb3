//! What connects the service to the thread that owns detector and tables, without either ever waiting for the other.
//!
//! Requests go one way through a bounded queue, with a bell, and are answered through a one-shot; the owner looks into its
//! queue when it rings. Events go the other way through a bounded queue: what does not fit is lost, and the hole in the sequence
//! numbers tells so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use levee_api::filter::{Filter, Target};
use levee_api::grpc::FilterRequest;
use levee_api::grpc::dataplane::v1 as contract;
use levee_api::prefix::Prefix;
use levee_api::time::Timestamp;
use levee_api::zone::{Mode, Zone};
use levee_engine::detect::detector::LegitimateShare;
use levee_engine::detect::event::Event;
use tokio::sync::{mpsc, oneshot};

use super::anomaly::Anomalies;
use crate::bell::Bell;

/// What the control plane may set, checked: the zones in force, and what is to be in force of its filters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// 0 is the dataplane's own file.
    pub generation: u64,
    /// All zones.
    pub zones: Vec<Zone>,
    /// All protected prefixes: those of the file and those added since.
    pub protected: Vec<Prefix>,
    /// All filters of the control plane; those of the generation before end.
    pub filters: Vec<FilterRequest>,
}

impl Policy {
    /// What an operator asks first: is anything dropped here?
    pub fn summary(&self) -> String {
        let enforced = self.zones.iter().filter(|zone| zone.mode == Mode::Enforce).count();
        match self.zones.len() {
            0 => "no zone, everything passes".to_owned(),
            count => format!("zones: {enforced} in mode enforce, {} in mode monitor", count - enforced),
        }
    }
}

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<T>;

/// Why something was refused, a sentence per reason.
pub type Refusal = Vec<String>;

/// Why filters were not installed, none of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotInstalled {
    /// There may be room later: the same again may work.
    NoRoom(Refusal),
    /// As things are it is refused.
    Refused(Refusal),
}

/// What the service asks of the owner of detector and tables.
#[derive(Debug)]
pub enum Request {
    /// Take this policy, whole or not at all.
    Replace {
        /// The policy.
        policy: Policy,
        /// Taken, or why not.
        reply: Reply<Result<(), Refusal>>,
    },
    /// Install filters, all or none.
    Install {
        /// The filters.
        filters: Vec<FilterRequest>,
        /// Their ids in the same order, or why not.
        reply: Reply<Result<Vec<u64>, NotInstalled>>,
    },
    /// Move the deadline of filters, of all or of none.
    Renew {
        /// Who asked for them.
        owner: String,
        /// Which.
        ids: Vec<u64>,
        /// From now.
        ttl: Duration,
        /// Done, or why not.
        reply: Reply<Result<(), Refusal>>,
    },
    /// End filters.
    Remove {
        /// Who asked for them.
        owner: String,
        /// Which.
        ids: Vec<u64>,
        /// How many of them were in force.
        reply: Reply<u64>,
    },
    /// Tell what is in force.
    Snapshot {
        /// Everything at one moment.
        reply: Reply<Snapshot>,
    },
    /// Tell what was counted.
    Counters {
        /// Of the wires alone.
        only_wires: bool,
        /// Since the start.
        reply: Reply<contract::CountersResponse>,
    },
    /// Tell what filters would have done to legitimate traffic.
    LegitimateShare {
        /// Whose traffic.
        target: Prefix,
        /// The filters.
        filters: Vec<FilterRequest>,
        /// As far as it is known.
        reply: Reply<LegitimateShare>,
    },
    /// Write a capture.
    Capture {
        /// Of whom.
        target: Target,
        /// At least so long; none: as long as that of an incident.
        duration: Option<Duration>,
        /// Its file, or why there is none.
        reply: Reply<Result<String, String>>,
    },
}

/// Everything in force at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The moment.
    pub at: Timestamp,
    /// The last event that is contained: [`Outlet::sequence`].
    pub sequence: u64,
    /// What is open: [`Outlet::anomalies`].
    pub anomalies: Vec<contract::Anomaly>,
    /// Filters with their hits; true: simulated.
    pub filters: Vec<(Filter, u64, bool)>,
    /// Counters.
    pub counters: contract::CountersResponse,
}

/// The queue of requests, as its owner sees it.
#[derive(Debug)]
pub struct Inlet {
    requests: mpsc::Receiver<Request>,
    bell: Bell,
}

impl Inlet {
    /// The next request, if there is one; never waits.
    pub fn take(&mut self) -> Option<Request> {
        self.requests.try_recv().ok()
    }

    /// Rung for each request.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// The next request, waited for; `None` when the service has ended.
    pub fn wait(&mut self) -> Option<Request> {
        self.requests.blocking_recv()
    }
}

/// Where the owner of the detector tells its events.
#[derive(Debug)]
pub struct Outlet {
    boot_id: String,
    /// The last event told; the log may not have it yet.
    told: Arc<AtomicU64>,
    anomalies: Anomalies,
    events: mpsc::Sender<contract::Event>,
}

impl Outlet {
    /// Tells what the detector found, and what that means for the anomalies.
    pub fn tell(&mut self, event: &Event, now: Timestamp) {
        let of_anomaly = self.anomalies.observe(event);
        let of_detector = self.anomalies.translate(event);
        for what in of_detector.into_iter().chain(of_anomaly) {
            self.send(what, event.at, now);
        }
    }

    /// Tells anything else.
    pub fn tell_of(&mut self, what: contract::event::What, now: Timestamp) {
        self.send(what, now, now);
    }

    /// The last event told.
    pub fn sequence(&self) -> u64 {
        self.told.load(Ordering::Acquire)
    }

    /// The anomalies that are open.
    pub fn anomalies(&self) -> Vec<contract::Anomaly> {
        self.anomalies.open()
    }

    fn send(&mut self, what: contract::event::What, at: Timestamp, now: Timestamp) {
        let sequence = self.told.fetch_add(1, Ordering::AcqRel) + 1;
        let event = contract::Event {
            boot_id: self.boot_id.clone(),
            sequence,
            time_unix_ns: unix_ns(SystemTime::now()).saturating_sub(as_ns(now.since(at))),
            monotonic_ns: at.0,
            what: Some(what),
        };
        // A full queue loses the event; its sequence number is missing, and the service tells a gap.
        let _ = self.events.try_send(event);
    }
}

fn unix_ns(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, as_ns)
}

fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The service's ends of the same queues.
pub(super) struct ServiceEnd {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) bell: Bell,
    pub(super) events: mpsc::Receiver<contract::Event>,
    pub(super) told: Arc<AtomicU64>,
}

/// Connects both.
pub(super) fn connect(boot_id: String) -> (ServiceEnd, Inlet, Outlet) {
    /// A client is served one request at a time; this is room for several.
    const REQUESTS: usize = 64;
    /// The events of a tick in which a whole zone changes its state.
    const EVENTS: usize = 8_192;
    let (requests, inlet) = mpsc::channel(REQUESTS);
    let (outlet, events) = mpsc::channel(EVENTS);
    let told = Arc::new(AtomicU64::new(0));
    let outlet = Outlet { boot_id, told: Arc::clone(&told), anomalies: Anomalies::default(), events: outlet };
    let bell = Bell::default();
    (ServiceEnd { requests, bell: bell.clone(), events, told }, Inlet { requests: inlet, bell }, outlet)
}
