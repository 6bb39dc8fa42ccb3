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
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
