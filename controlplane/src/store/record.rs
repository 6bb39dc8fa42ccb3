//! What is stored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::actor::Actor;
use crate::clock::Now;
use crate::incident::{Incident, TimelineEntry};
use crate::ledger::{Id, IncidentId, Mitigation, MitigationId};
use crate::notify::{Message, MessageId};

/// One change of what is stored. Putting what is there replaces it, deleting what is not there is nothing.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all writes are of the large ones")]
pub enum Write {
    /// By its id.
    PutIncident(Incident),
    /// With its timeline and the state of its runbook.
    DeleteIncident(IncidentId),
    /// By incident and number.
    AppendTimeline(TimelineEntry),
    /// By its incident.
    PutRunbook(RunbookState),
    /// By its incident.
    DeleteRunbook(IncidentId),
    /// By its id.
    PutMitigation(Mitigation),
    /// By its id.
    DeleteMitigation(MitigationId),
    /// By its id.
    PutMessage(Message),
    /// By its id.
    DeleteMessage(MessageId),
    /// By its id.
    PutRequest(Request),
    /// By its id.
    DeleteRequest(String),
    /// There is one.
    PutPosition(Position),
    /// There is one.
    PutKillSwitch(KillSwitch),
    /// There is one: the next id that was not given yet.
    PutNextId(Id),
    /// There is one: what is stored is that of a backup, and was not compared with what is in force.
    PutRestored(bool),
}

/// Which record a write is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Record<'w> {
    /// An incident.
    Incident(IncidentId),
    /// A line of its timeline.
    Timeline(IncidentId, u32),
    /// Its runbook.
    Runbook(IncidentId),
    /// A mitigation.
    Mitigation(MitigationId),
    /// A message.
    Message(&'w str),
    /// A request.
    Request(&'w str),
    /// How far events have been taken in.
    Position,
    /// The kill switch.
    KillSwitch,
    /// The next id.
    NextId,
    /// Whether the store is a copy.
    Restored,
}

impl Write {
    /// Which record it is of: of two writes of one the later counts.
    pub fn record(&self) -> Record<'_> {
        match self {
            Self::PutIncident(incident) => Record::Incident(incident.id),
            Self::DeleteIncident(id) => Record::Incident(*id),
            Self::AppendTimeline(entry) => Record::Timeline(entry.incident, entry.number),
            Self::PutRunbook(state) => Record::Runbook(state.incident),
            Self::DeleteRunbook(id) => Record::Runbook(*id),
            Self::PutMitigation(mitigation) => Record::Mitigation(mitigation.id),
            Self::DeleteMitigation(id) => Record::Mitigation(*id),
            Self::PutMessage(message) => Record::Message(&message.id.0),
            Self::DeleteMessage(id) => Record::Message(&id.0),
            Self::PutRequest(request) => Record::Request(&request.id),
            Self::DeleteRequest(id) => Record::Request(id),
            Self::PutPosition(_) => Record::Position,
            Self::PutKillSwitch(_) => Record::KillSwitch,
            Self::PutNextId(_) => Record::NextId,
            Self::PutRestored(_) => Record::Restored,
        }
    }
}

/// Everything that is stored. Timelines are kept apart: they are read when somebody looks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// By id.
    pub incidents: BTreeMap<IncidentId, Incident>,
    /// By incident and number.
    pub timeline: BTreeMap<(IncidentId, u32), TimelineEntry>,
    /// By incident.
    pub runbooks: BTreeMap<IncidentId, RunbookState>,
    /// By id.
    pub mitigations: BTreeMap<MitigationId, Mitigation>,
    /// By id.
    pub messages: BTreeMap<MessageId, Message>,
    /// By id.
    pub requests: BTreeMap<String, Request>,
    /// How far the dataplane's events have been taken in.
    pub position: Option<Position>,
    /// Whether everything is stopped.
    pub kill_switch: Option<KillSwitch>,
    /// The next id; none in a new store.
    pub next_id: Option<Id>,
    /// It was put back from a backup: what has happened since is not known, and measures may have ended.
    pub restored: bool,
}

/// Where the runbook of an incident stands, as the engine writes it down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunbookState {
    /// Of which incident.
    pub incident: IncidentId,
    /// Name of the runbook.
    pub runbook: String,
    /// The engine's own.
    pub state: Value,
}

/// An answered request of the API: the same id again gets the same answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the client, with the name of the method before it.
    pub id: String,
    /// Who asked.
    pub actor: Actor,
    /// When.
    pub at: Now,
    /// What was asked for, to tell a repeated request from another one with the same id.
    pub digest: String,
    /// The answer.
    pub answer: String,
}

/// How far the dataplane's events have been taken in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The run of the dataplane.
    pub boot_id: String,
    /// The last event that is contained.
    pub sequence: u64,
}

/// Everything withdrawn, nothing started, until somebody says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillSwitch {
    /// True: everything is stopped.
    pub engaged: bool,
    /// Who said so.
    pub by: Actor,
    /// When.
    pub at: Now,
    /// Why, in words; empty when nobody said.
    #[serde(default)]
    pub reason: String,
}

impl Contents {
    /// What is stored after a write.
    pub fn apply(&mut self, write: &Write) {
        match write {
            Write::PutIncident(incident) => {
                self.incidents.insert(incident.id, incident.clone());
            }
            Write::DeleteIncident(id) => {
                self.incidents.remove(id);
                self.runbooks.remove(id);
                self.timeline.retain(|(incident, _), _| incident != id);
            }
            Write::AppendTimeline(entry) => {
                self.timeline.insert((entry.incident, entry.number), entry.clone());
            }
            Write::PutRunbook(state) => {
                self.runbooks.insert(state.incident, state.clone());
            }
            Write::DeleteRunbook(id) => {
                self.runbooks.remove(id);
            }
            Write::PutMitigation(mitigation) => {
                self.mitigations.insert(mitigation.id, mitigation.clone());
            }
            Write::DeleteMitigation(id) => {
                self.mitigations.remove(id);
            }
            Write::PutMessage(message) => {
                self.messages.insert(message.id.clone(), message.clone());
            }
            Write::DeleteMessage(id) => {
                self.messages.remove(id);
            }
            Write::PutRequest(request) => {
                self.requests.insert(request.id.clone(), request.clone());
            }
            Write::DeleteRequest(id) => {
                self.requests.remove(id);
            }
            Write::PutPosition(position) => self.position = Some(position.clone()),
            Write::PutKillSwitch(kill_switch) => self.kill_switch = Some(kill_switch.clone()),
            Write::PutNextId(id) => self.next_id = Some(*id),
            Write::PutRestored(restored) => self.restored = *restored,
        }
    }
}
