//! Between the services and the loop that owns the core.
//!
//! ```text
//!   services ── Handle ──► Ask ──► End: the loop of the core
//!            ◄─ answers, news, the configuration and the dataplane's client ─┘
//! ```
//!
//! Questions are closures over [`Knowledge`], run by the loop between two steps: they copy what they need and return, so
//! that the core needs no code for each view of it. Changes become inputs of the core, which alone decides; they are
//! answered when what they did is durable.

use std::sync::Arc;
use std::time::Duration;

use levee_api::config::Config;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::actor::Actor;
use crate::bgp::bmp::Totals;
use crate::bgp::speaker::{PeerView, Standing};
use crate::clock::Now;
use crate::dataplane::Dataplane;
use crate::driver::DriverName;
use crate::guardrail;
use crate::incident::{Incident, TimelineEntry};
use crate::ledger::{IncidentId, Mitigation, MitigationId, Spec};
use crate::notify::ChannelView;
use crate::store::{KillSwitch, StoreError, Write};

/// Calls that may wait for the loop; more wait at the sender.
const WAITING: usize = 256;
/// News that a watcher may be behind before it reads everything again.
const NEWS: usize = 4096;

/// What the services may know.
pub trait Knowledge {
    /// The clocks of the last step.
    fn now(&self) -> Now;
    /// All incidents that are kept, the oldest first.
    fn incidents(&self) -> Box<dyn DoubleEndedIterator<Item = &Incident> + '_>;
    /// One of them.
    fn incident(&self, id: IncidentId) -> Option<&Incident>;
    /// What happened in it, in order.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn timeline(&self, id: IncidentId) -> Result<Vec<TimelineEntry>, StoreError>;
    /// The report of an incident that is closed, as text.
    fn report(&self, id: IncidentId) -> Option<String>;
    /// Where the stages of its runbook stand, in the order of the runbook.
    fn stages(&self, id: IncidentId) -> Vec<StageView>;
    /// All mitigations that are kept, the oldest first.
    fn mitigations(&self) -> Box<dyn DoubleEndedIterator<Item = &Mitigation> + '_>;
    /// Those of one incident.
    fn measures(&self, of: IncidentId) -> Box<dyn Iterator<Item = &Mitigation> + '_>;
    /// What waits for somebody to decide.
    fn approvals(&self) -> Vec<ApprovalView>;
    /// Whether anything of one incident does.
    fn waits(&self, incident: IncidentId) -> bool;
    /// Whether everything is stopped.
    fn kill_switch(&self) -> Option<&KillSwitch>;
    /// What needs somebody's attention, in words.
    fn troubles(&self) -> Vec<String>;
    /// When a configuration on trial goes away again.
    fn confirm_by(&self) -> Option<Now>;
    /// Commands, results and failures of each driver since the start.
    fn drivers(&self) -> Vec<DriverView>;
    /// How messages come through, by channel.
    fn channels(&self) -> Vec<ChannelView>;
    /// The BGP peers, and how their sessions are.
    fn bgp_peers(&self) -> Vec<PeerView> {
        Vec::new()
    }
    /// What routers have told by BMP; none: nobody listens.
    fn bmp(&self) -> Option<Totals> {
        None
    }
    /// What the embedded speaker announces, with the announcer.
    fn bgp_routes(&self) -> Vec<(String, Standing)> {
        Vec::new()
    }
}

/// Where one stage of an incident's runbook stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageView {
    /// Its name.
    pub name: String,
    /// Where it stands, in a word.
    pub state: String,
    /// Since when; none: it was never entered.
    pub since: Option<Now>,
    /// Why, in words.
    pub reason: String,
}

/// A stage that waits for somebody to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalView {
    /// Of which incident.
    pub incident: IncidentId,
    /// Its name.
    pub stage: String,
    /// Since when.
    pub asked: Now,
    /// Until when.
    pub until: Now,
}

/// What was asked of one driver since the start, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DriverView {
    /// Its name.
    pub name: String,
    /// Operations that it did.
    pub succeeded: u64,
    /// Operations that it did not.
    pub failed: u64,
    /// What guardrails refused.
    pub refused: u64,
}

/// Takes what it needs from the core's knowledge, and answers.
pub type Question = Box<dyn FnOnce(&dyn Knowledge) + Send>;

/// One call of a service.
pub enum Ask {
    /// To be run on the core's knowledge.
    Query(Question),
    /// To be done.
    Change(Box<Change>),
}

/// Something that somebody wants done.
#[derive(Debug)]
pub struct Change {
    /// Who.
    pub actor: Actor,
    /// Method and the client's id: the same again gets the same answer.
    pub request_id: String,
    /// What was asked for, to tell a repeated request from another one with the same id.
    pub digest: String,
    /// True: only say whether it would be done.
    pub validate_only: bool,
    /// What.
    pub operation: Operation,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Outcome, Refused>>,
}

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "operation")]
pub enum Operation {
    /// A measure of an operator.
    Add {
        /// What it belongs to.
        incident: Option<IncidentId>,
        /// Name of the zone that it protects; none: the one that its prefix is in.
        zone: Option<String>,
        /// Who carries it out; none: the first that can.
        driver: Option<DriverName>,
        /// What it is.
        spec: Box<Spec>,
        /// Until its end.
        ttl: Duration,
        /// Why.
        reason: String,
    },
    /// Move a deadline.
    Renew {
        /// Of which measure.
        id: MitigationId,
        /// From now until its end.
        ttl: Duration,
    },
    /// End a measure.
    Withdraw {
        /// Which.
        id: MitigationId,
        /// Why.
        reason: String,
    },
    /// Decide on a stage that waits.
    Decide {
        /// Of which incident.
        incident: IncidentId,
        /// Its name.
        stage: String,
        /// Yes or no.
        approve: bool,
        /// Why.
        reason: String,
    },
    /// Stop everything, or let go again.
    KillSwitch {
        /// True: stop.
        on: bool,
        /// Why.
        reason: String,
    },
    /// Read the configuration again.
    Reload {
        /// Go back unless confirmed within this.
        confirm_within: Option<Duration>,
    },
    /// Keep the configuration that is on trial.
    Confirm,
}

/// What was done, or would be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// A measure as it is now.
    Mitigation {
        /// With the id 0 if it was only validated.
        mitigation: Box<Mitigation>,
    },
    /// The stage knows.
    Decided,
    /// The switch as it is now.
    KillSwitch {
        /// As it is now.
        state: KillSwitch,
        /// How many measures are being taken back.
        withdrawing: u64,
    },
    /// The configuration was read.
    Reloaded {
        /// What has changed, a line each.
        changes: Vec<String>,
        /// Of the text in force.
        hash: String,
        /// When it goes away again unless confirmed.
        confirm_by: Option<Now>,
    },
    /// The configuration is kept.
    Confirmed {
        /// Of the text in force.
        hash: String,
    },
}

/// Why something was not done. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Something of the request cannot be.
    #[error("{field}: {why}")]
    Invalid {
        /// Path of the field.
        field: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// What it is about does not exist.
    #[error("there is no {what} {name}")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// Which.
        name: String,
    },
    /// It cannot be done as things are.
    #[error("{0}")]
    Precondition(String),
    /// The caller may not.
    #[error("{0}")]
    NotAllowed(String),
    /// A guardrail says no.
    #[error(transparent)]
    Guardrail(#[from] guardrail::Refusal),
    /// The id was used for another request.
    #[error("request_id {0:?} was used for another request: choose a new one")]
    IdTaken(String),
    /// It could not be written down, so it was not done.
    #[error("{0}")]
    Unavailable(String),
}

/// Entries of timelines, and which incidents changed: what the store took in at once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct News {
    /// Incidents that are not as they were.
    pub incidents: Vec<IncidentId>,
    /// What happened in them.
    pub entries: Vec<TimelineEntry>,
}

/// The services' end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    asks: mpsc::Sender<Ask>,
    news: broadcast::Sender<Arc<News>>,
    dataplane: watch::Receiver<Option<Dataplane>>,
    config: watch::Receiver<Arc<Config>>,
}

/// The loop's end.
#[derive(Debug)]
pub struct End {
    /// What the services ask.
    pub asks: mpsc::Receiver<Ask>,
    /// To be set when a dataplane has introduced itself, and emptied when it is gone.
    pub dataplane: watch::Sender<Option<Dataplane>>,
    /// To be set when another configuration is in force.
    pub config: watch::Sender<Arc<Config>>,
    news: broadcast::Sender<Arc<News>>,
}

/// Both ends.
pub fn connect(config: Arc<Config>) -> (Handle, End) {
    let (ask, asks) = mpsc::channel(WAITING);
    let (news, _) = broadcast::channel(NEWS);
    let (dataplane_sender, dataplane) = watch::channel(None);
    let (config_sender, config) = watch::channel(config);
    let end = End { asks, dataplane: dataplane_sender, config: config_sender, news: news.clone() };
    (Handle { asks: ask, news, dataplane, config }, end)
}

impl End {
    /// Tells watchers what has become durable. To be called after each commit, in order.
    pub fn tell(&self, writes: &[Write]) {
        if self.news.receiver_count() == 0 {
            return;
        }
        let news = News::of(writes);
        if !news.incidents.is_empty() {
            // Whoever has gone away needs no news.
            let _ = self.news.send(Arc::new(news));
        }
    }
}

impl News {
    /// What is new in a batch.
    pub fn of(writes: &[Write]) -> Self {
        let mut news = Self::default();
        for write in writes {
            let incident = match write {
                Write::PutIncident(incident) => Some(incident.id),
                Write::AppendTimeline(entry) => {
                    news.entries.push(entry.clone());
                    Some(entry.incident)
                }
                Write::PutRunbook(state) => Some(state.incident),
                Write::PutMitigation(mitigation) => mitigation.incident,
                _ => None,
            };
            if let Some(id) = incident.filter(|id| !news.incidents.contains(id)) {
                news.incidents.push(id);
            }
        }
        news
    }
}

impl Handle {
    /// Asks the core, and waits for the answer.
    ///
    /// # Errors
    /// When the loop has ended.
    pub async fn query<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Knowledge) -> T + Send + 'static,
    ) -> Result<T, Refused> {
        let (reply, answer) = oneshot::channel();
        let question = Ask::Query(Box::new(move |knowledge: &dyn Knowledge| {
            // Who has hung up needs no answer.
            let _ = reply.send(question(knowledge));
        }));
        self.asks.send(question).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// Has something done, and waits until that is durable.
    ///
    /// # Errors
    /// Why it was not done.
    pub async fn change(
        &self,
        actor: Actor,
        request_id: String,
        digest: String,
        validate_only: bool,
        operation: Operation,
    ) -> Result<Outcome, Refused> {
        let (reply, answer) = oneshot::channel();
        let change = Change { actor, request_id, digest, validate_only, operation, reply };
        self.asks.send(Ask::Change(Box::new(change))).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    /// News from now on.
    pub fn news(&self) -> broadcast::Receiver<Arc<News>> {
        self.news.subscribe()
    }

    /// The dataplane's client, if it answers.
    pub fn dataplane(&self) -> Option<Dataplane> {
        self.dataplane.borrow().clone()
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }
}

fn stopping() -> Refused {
    Refused::Unavailable("the control plane is stopping: ask again when it runs".to_owned())
}
