//! The session with the dataplane: keeps it at the policy, and tells the loop what it tells.
//!
//! One session per connection: handshake, policy if the dataplane has another, events from where the file of events
//! ends. Whatever goes wrong ends the session, and the next one begins with the same steps: there is no other recovery.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use levee_api::config::{Config, ContentHash};
use levee_api::grpc::FilterRequest;
use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::dataplane::v1::event::What;
use levee_api::prefix::Prefix;
use levee_api::zone::{Mode, Zone};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::core::Input;
use crate::dataplane::{Dataplane, DataplaneError, Generation, Snapshot};
use crate::driver::OwnerTag;
use crate::event_file::EventFile;
use crate::event_line;

/// First pause before trying again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause: an appliance that comes back is found soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often counters are read: rates are means of this.
const COUNTERS_EVERY: Duration = Duration::from_secs(1);
/// How often those of the wires are: how full the uplink is decides what is asked for upstream, and is to be known at once.
const WIRES_EVERY: Duration = Duration::from_millis(25);
/// Before a policy that the dataplane refuses is handed over again, doubled each time, and the longest: what it has no room
/// for may have gone. With the kill switch on it is always the first.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_REFUSED_PAUSE: Duration = Duration::from_secs(300);
/// Events that are taken at once.
const BATCH: usize = 256;

/// What the loop wants of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// All that goes on.
    Snapshot,
}

/// What the dataplane is to be given.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub(super) config: Arc<Config>,
    /// What nothing may touch: what the file lists, and what we depend on without listing it.
    pub(super) protected: Vec<Prefix>,
    /// The kill switch: every zone only watches.
    pub(super) monitor: bool,
}

/// What the session needs.
pub(super) struct Session {
    pub(super) policy: watch::Receiver<Policy>,
    pub(super) wishes: mpsc::Receiver<Wish>,
    pub(super) inputs: mpsc::Sender<Input>,
    /// For those who call the dataplane themselves.
    pub(super) dataplane: watch::Sender<Option<Dataplane>>,
    pub(super) events: EventFile,
    /// How far the core has come, for when no file of events says so.
    pub(super) position: (String, u64),
    /// What we have put in force: of which run, which generation, from which text, watching only.
    pub(super) committed: Option<(String, u64, ContentHash, bool)>,
    /// The dataplane has refused what it was given.
    pub(super) refused: Option<Refused>,
    /// The run of the dataplane that has no zones because it refuses them while the kill switch is on.
    pub(super) emptied: Option<String>,
}

/// A policy that waits to be handed over again.
pub(super) struct Refused {
    again: Instant,
    pause: Duration,
    told: String,
}

impl Session {
    /// Talks to the dataplane for ever.
    pub(super) async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut last_told = String::new();
        loop {
            let mut greeted = false;
            let error = match self.talk(&mut greeted).await {
                Ok(()) => DataplaneError::Nonsense("it has ended the stream of events".to_owned()),
                Err(error) => error,
            };
            self.dataplane.send_replace(None);
            if self.inputs.send(Input::Disconnected).await.is_err() {
                return;
            }
            if greeted {
                (pause, last_told) = (FIRST_PAUSE, String::new());
            }
            // The same trouble every five seconds is told once.
            let error = error.to_string();
            if error != last_told {
                tracing::warn!("{error}; trying again until it works");
                last_told = error;
            }
            // Another policy may name another socket.
            if tokio::time::timeout(jittered(pause), self.policy.changed()).await.is_ok_and(|changed| changed.is_ok()) {
                (pause, last_told) = (FIRST_PAUSE, String::new());
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn talk(&mut self, greeted: &mut bool) -> Result<(), DataplaneError> {
        let policy = self.policy.borrow_and_update().clone();
        let mut dataplane = Dataplane::connect(&policy.config.dataplane.socket).await?;
        *greeted = true;
        let contract::HandshakeResponse { boot_id, appliance, generation, .. } = &dataplane.identity;
        tracing::info!(appliance, boot_id, generation, "connected to the dataplane");
        let wanted = (boot_id.clone(), *generation, policy.config.hash, policy.monitor);
        if self.committed.as_ref() != Some(&wanted) {
            self.upload(&mut dataplane, &policy).await?;
        }
        let (boot_id, after_sequence) = self.events.position().cloned().unwrap_or_else(|| self.position.clone());
        let watch = contract::WatchRequest { boot_id, after_sequence };
        let failed = |call| move |status| DataplaneError::Call { call, status: Box::new(status) };
        let mut events = dataplane.client.watch(watch).await.map_err(failed("Watch"))?.into_inner();
        self.dataplane.send_replace(Some(dataplane.clone()));
        self.tell(Input::Connected { boot_id: dataplane.identity.boot_id.clone() }).await?;
        // Ends with this session.
        let mut beside = JoinSet::new();
        if dataplane.can("wire-counters") {
            beside.spawn(watch_wires(dataplane.clone(), self.inputs.clone()));
        }
        let mut counters = tokio::time::interval(COUNTERS_EVERY);
        counters.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut contained = 0;
        loop {
            tokio::select! {
                event = events.message() => {
                    let Some(event) = event.map_err(failed("Watch"))? else { return Ok(()) };
                    self.take(event, &mut contained, &mut dataplane).await?;
                }
                wish = self.wishes.recv() => match wish {
                    Some(Wish::Snapshot) => {
                        let snapshot = dataplane.snapshot().await?;
                        self.tell(Input::Snapshot(Box::new(snapshot))).await?;
                    }
                    None => return Ok(()),
                },
                _ = counters.tick() => {
                    let answer = dataplane.client.counters(contract::CountersRequest::default()).await;
                    let answer = answer.map_err(failed("Counters"))?.into_inner();
                    self.tell(Input::Counters(Box::new(answer))).await?;
                }
                changed = self.policy.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.refused = None;
                    self.hand_over(&mut dataplane).await?;
                }
                () = until(self.refused.as_ref()) => self.hand_over(&mut dataplane).await?,
            }
        }
    }

    /// Hands the policy over on a connection that lives.
    async fn hand_over(&mut self, dataplane: &mut Dataplane) -> Result<(), DataplaneError> {
        let policy = self.policy.borrow_and_update().clone();
        self.upload(dataplane, &policy).await?;
        // Filters may have come or gone beside the upload: the ledger looks what is missing.
        self.tell(Input::Connected { boot_id: dataplane.identity.boot_id.clone() }).await
    }

    /// Writes an event down, and hands it on.
    async fn take(
        &mut self,
        event: contract::Event,
        contained: &mut u64,
        dataplane: &mut Dataplane,
    ) -> Result<(), DataplaneError> {
        if matches!(event.what, Some(What::Gap(_))) {
            tracing::info!(sequence = event.sequence, "what was before this event is not known: taking a snapshot");
            self.events.write(&[event_line::of_event(&event)]);
            let snapshot = dataplane.snapshot().await?;
            *contained = snapshot.header.sequence;
            self.events.write(&event_line::of_snapshot(&snapshot));
            self.position = (snapshot.header.boot_id.clone(), snapshot.header.sequence);
            self.tell(Input::Events(vec![event])).await?;
            return self.tell(Input::Snapshot(Box::new(snapshot))).await;
        }
        if event.sequence > *contained {
            self.events.write(&[event_line::of_event(&event)]);
        }
        self.position = (event.boot_id.clone(), event.sequence);
        self.tell(Input::Events(vec![event])).await
    }

    /// To the loop. The future holds the way there and nothing else of the session.
    fn tell(&self, input: Input) -> impl Future<Output = Result<(), DataplaneError>> + Send + use<> {
        let inputs = self.inputs.clone();
        async move {
            let gone = |_| DataplaneError::Nonsense("the control plane is stopping".to_owned());
            inputs.send(input).await.map_err(gone)
        }
    }

    async fn upload(&mut self, dataplane: &mut Dataplane, policy: &Policy) -> Result<(), DataplaneError> {
        let watching = |zone: &Zone| Zone { mode: Mode::Monitor, ..zone.clone() };
        let lowered: Vec<Zone>;
        let zones = if policy.monitor {
            lowered = policy.config.zones.iter().map(watching).collect();
            &lowered
        } else {
            &policy.config.zones
        };
        let protected = &policy.protected;
        let kept = if policy.monitor { Vec::new() } else { kept(&dataplane.snapshot().await?, zones) };
        let mut outcome = dataplane.upload(Generation { zones, protected, filters: &kept }).await;
        if matches!(outcome, Err(DataplaneError::Refused(_))) && !kept.is_empty() {
            // Perhaps for a filter that the new policy forbids: the ledger brings back what it does not.
            outcome = dataplane.upload(Generation { zones, protected, filters: &[] }).await;
        }
        match outcome {
            Ok(generation) => {
                let filters = kept.len();
                tracing::info!(generation, zones = zones.len(), filters, "the policy of the file is in force");
                let boot_id = dataplane.identity.boot_id.clone();
                self.committed = Some((boot_id, generation, policy.config.hash, policy.monitor));
                (self.refused, self.emptied) = (None, None);
                self.tell(Input::Policy { refused: None }).await
            }
            // What the dataplane tells is wanted all the same.
            Err(error @ DataplaneError::Refused(_)) => {
                let mut text = error.to_string();
                if policy.monitor {
                    text += self.empty(dataplane, protected).await?;
                }
                self.try_again_later(text.clone(), policy.monitor);
                self.tell(Input::Policy { refused: Some(text) }).await
            }
            Err(error) => Err(error),
        }
    }

    /// The kill switch is on, and zones that only watch are refused: without zones nothing is dropped either. What came of
    /// it, in words.
    async fn empty(&mut self, dataplane: &mut Dataplane, protected: &[Prefix]) -> Result<&'static str, DataplaneError> {
        let boot_id = dataplane.identity.boot_id.clone();
        if self.emptied.as_ref() != Some(&boot_id) {
            match dataplane.upload(Generation { zones: &[], protected, filters: &[] }).await {
                Ok(_) => self.emptied = Some(boot_id),
                Err(DataplaneError::Refused(_)) => {
                    return Ok(
                        "; nor does it take a policy without zones: use its own kill switch (SIGUSR1, or its file)",
                    );
                }
                Err(error) => return Err(error),
            }
        }
        Ok("; it has been given no zones at all, so that nothing is dropped, and tells of no attacks")
    }

    fn try_again_later(&mut self, text: String, monitor: bool) {
        let before = self.refused.take();
        let pause = match &before {
            Some(before) if !monitor => (before.pause * 2).min(LONGEST_REFUSED_PAUSE),
            _ => REFUSED_PAUSE,
        };
        // The same trouble again and again is told once.
        if before.is_none_or(|before| before.told != text) {
            tracing::error!("{text}; it is handed over again until it is taken");
        }
        self.refused = Some(Refused { again: Instant::now() + pause, pause, told: text });
    }
}

/// Tells what the wires have counted, until the dataplane answers no more: the session beside it says why.
async fn watch_wires(mut dataplane: Dataplane, inputs: mpsc::Sender<Input>) {
    let mut due = tokio::time::interval(WIRES_EVERY);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let request = contract::CountersRequest { only_wires: true };
        let Ok(answer) = dataplane.client.counters(request).await else { return };
        // A loop that is busy has no use for what will be old.
        if let Err(TrySendError::Closed(_)) = inputs.try_send(Input::Counters(Box::new(answer.into_inner()))) {
            return;
        }
    }
}

/// Until it is time to hand the policy over again; for ever when nothing was refused.
async fn until(refused: Option<&Refused>) {
    match refused {
        Some(refused) => tokio::time::sleep_until(refused.again).await,
        None => std::future::pending().await,
    }
}

/// The filters in force that a mitigation of ours has asked for, which would go with the generation before. Not those of a
/// zone that is gone.
fn kept(snapshot: &Snapshot, zones: &[Zone]) -> Vec<FilterRequest> {
    let messages = snapshot.filters.iter().filter_map(|filter| filter.request.as_ref());
    let ours = messages.filter(|request| request.owner.parse::<OwnerTag>().is_ok());
    // One that cannot be read or is about to end is the ledger's to look after.
    let requests = ours.filter_map(|request| FilterRequest::try_from(request).ok());
    requests.filter(|request| zones.iter().any(|zone| zone.name == request.target.zone)).collect()
}

/// Takes an input, and all events that wait behind it with it: one step and one commit for a flood.
pub(super) fn together(first: Input, inputs: &mut mpsc::Receiver<Input>) -> Vec<Input> {
    let mut taken = vec![first];
    for _ in 0..BATCH {
        let Ok(next) = inputs.try_recv() else { break };
        match (taken.last_mut(), next) {
            (Some(Input::Events(events)), Input::Events(more)) => events.extend(more),
            (_, next) => taken.push(next),
        }
    }
    taken
}

/// Between half and all of the pause, so that many control planes do not come at once.
fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    let nanoseconds = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_nanos(RandomState::new().hash_one(nanoseconds) % nanoseconds)
}
