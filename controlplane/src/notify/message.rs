//! One notification on its way to one channel.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Now;
use crate::ledger::IncidentId;

/// Made of durable ids, so that the same notification is recognised after a restart, here and at the receiver.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(pub String);

/// A notification to one channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Unique; the receiver may forget what it has seen.
    pub id: MessageId,
    /// Name of the notifier in the configuration.
    pub channel: String,
    /// The incident within which order is kept.
    pub incident: Option<IncidentId>,
    /// Its place in that order.
    pub number: u64,
    /// What it is about, for programs.
    pub topic: Topic,
    /// When it was written down.
    pub created: Now,
    /// One line.
    pub subject: String,
    /// What is happening, what Levee does about it, what it needs.
    pub text: String,
    /// The same for programs.
    pub data: Value,
    /// Attempts that failed.
    pub failures: u32,
    /// Not to be attempted again before this.
    pub retry_at: Option<Now>,
    /// Why the last attempt failed, in words.
    pub error: Option<String>,
    /// What became of it; none while it waits.
    pub ended: Option<Ended>,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub at: Now,
    /// How.
    pub how: How,
}

/// How a message ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The receiver has taken it.
    Delivered,
    /// It will not be tried again.
    GivenUp {
        /// Why, in words.
        reason: String,
    },
}

/// What messages are about: the `type` of webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Topic {
    /// A target is under attack.
    #[serde(rename = "incident.opened")]
    IncidentOpened,
    /// It is worse than it was, or of another kind.
    #[serde(rename = "incident.changed")]
    IncidentChanged,
    /// Everything has ended.
    #[serde(rename = "incident.closed")]
    IncidentClosed,
    /// A stage of the runbook was entered.
    #[serde(rename = "stage.entered")]
    StageEntered,
    /// A stage was left.
    #[serde(rename = "stage.left")]
    StageLeft,
    /// A stage could not be entered, or does not do what it should.
    #[serde(rename = "stage.failed")]
    StageFailed,
    /// Somebody has to decide.
    #[serde(rename = "approval.asked")]
    ApprovalAsked,
    /// Levee itself needs attention: it did harm and reverted, the kill switch, what could not be withdrawn.
    #[serde(rename = "attention")]
    Attention,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::IncidentOpened,
        Self::IncidentChanged,
        Self::IncidentClosed,
        Self::StageEntered,
        Self::StageLeft,
        Self::StageFailed,
        Self::ApprovalAsked,
        Self::Attention,
    ];

    /// True when somebody has to do something.
    pub const fn is_urgent(self) -> bool {
        matches!(self, Self::ApprovalAsked | Self::Attention)
    }

    /// As it is stored and sent.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IncidentOpened => "incident.opened",
            Self::IncidentChanged => "incident.changed",
            Self::IncidentClosed => "incident.closed",
            Self::StageEntered => "stage.entered",
            Self::StageLeft => "stage.left",
            Self::StageFailed => "stage.failed",
            Self::ApprovalAsked => "approval.asked",
            Self::Attention => "attention",
        }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
