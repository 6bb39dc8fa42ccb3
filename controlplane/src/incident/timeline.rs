//! What happened in an incident, in order, as it is told.

use serde::{Deserialize, Serialize};

use crate::actor::Actor;
use crate::clock::Now;
use crate::ledger::{IncidentId, MitigationId};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// To which incident.
    pub incident: IncidentId,
    /// From 0, in order, without holes.
    pub number: u32,
    /// When.
    pub at: Now,
    /// What kind of thing, for programs.
    pub kind: TimelineKind,
    /// What, for people.
    pub text: String,
    /// Who did it.
    pub actor: Option<Actor>,
    /// The stage that it is about.
    pub stage: Option<String>,
    /// The mitigation that it is about.
    pub mitigation: Option<MitigationId>,
}

/// The kinds of things that happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimelineKind {
    /// The first anomaly.
    Opened,
    /// A new anomaly, vector or severity.
    Attack,
    /// The last anomaly has ended.
    Calm,
    /// A host or an incident was taken in.
    Merged,
    /// A filter of the dataplane's reflex came or went.
    Reflex,
    /// A stage was entered, left, denied or failed.
    Stage,
    /// Somebody was asked, answered, or did not.
    Approval,
    /// A mitigation changed its state.
    Mitigation,
    /// A guardrail said no.
    Refusal,
    /// A notification was sent or given up.
    Notification,
    /// What is known has a hole: events were lost, or a plane restarted.
    Interruption,
    /// An operator said something.
    Note,
    /// Everything has ended.
    Closed,
}

impl TimelineKind {
    /// As it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Attack => "attack",
            Self::Calm => "calm",
            Self::Merged => "merged",
            Self::Reflex => "reflex",
            Self::Stage => "stage",
            Self::Approval => "approval",
            Self::Mitigation => "mitigation",
            Self::Refusal => "refusal",
            Self::Notification => "notification",
            Self::Interruption => "interruption",
            Self::Note => "note",
            Self::Closed => "closed",
        }
    }
}
