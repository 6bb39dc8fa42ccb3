//! What carries mitigations out: the dataplane's filters, announcers, scrubbers. One trait for all of them.
//!
//! A driver is idempotent by reading before it writes: the same operation again changes nothing and says the same. It
//! checks the guardrails once more, carries our [`OwnerTag`] on everything it creates, and neither touches nor reports
//! what has none. It does not retry: the ledger does, after what [`DriverError`] says.

mod configured;
mod double;
mod embedded;
mod filters;

pub use configured::configured;
pub use double::{Asked, Double, Misbehaviour, Receiver};
pub use embedded::Embedded;
pub use filters::{Filters, Guard};

use std::fmt;
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::guardrail::Refusal;
use crate::ledger::{Evidence, Kind, MitigationId, Spec};

/// What a driver is called in the configuration; `dataplane` is the one for filters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DriverName(pub String);

/// The answer to come.
pub type Answer<'d, T> = Pin<Box<dyn Future<Output = Result<T, DriverError>> + Send + 'd>>;

/// What a driver can do: known when the configuration is read, so that an impossible runbook is refused then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Which kinds of measures.
    pub kinds: Vec<Kind>,
    /// For IPv4.
    pub ipv4: bool,
    /// For IPv6.
    pub ipv6: bool,
    /// FlowSpec rules that limit instead of dropping.
    pub rate_limit: bool,
    /// FlowSpec rules that send packets elsewhere.
    pub redirect: bool,
    /// FlowSpec rules that mark packets.
    pub mark: bool,
    /// FlowSpec rules that have packets sampled.
    pub sample: bool,
    /// Blackholes for sources.
    pub sources: bool,
    /// It can say what of ours is in force.
    pub observe: bool,
    /// The receiver reports how much the measure takes: calm can be judged by that while we see nothing ourselves.
    pub feedback: bool,
    /// The receiver ends a measure by itself at its deadline.
    pub expires: bool,
}

/// The same for every attempt of the same operation, and different for every other one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperationKey(pub String);

/// What everything of ours carries outside: `levee-<appliance>-<id>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerTag {
    /// Name of the appliance.
    pub appliance: String,
    /// Which mitigation.
    pub id: MitigationId,
}

/// A measure with our tag that a driver found in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Which.
    pub id: MitigationId,
    /// What it is, as far as the driver can tell; enough to withdraw it.
    pub spec: Spec,
    /// How far its effect is known.
    pub evidence: Evidence,
    /// Time until the receiver ends it by itself; none when it does not.
    pub remaining: Option<Duration>,
    /// What the receiver reports that it takes, bits per second; none when it does not report.
    pub taken_bps: Option<u64>,
}

/// Why a driver did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// It may work later. Whether it was carried out is not known.
    #[error("{reason}")]
    Retryable {
        /// What happened.
        reason: String,
        /// Not before so long, if the receiver said so.
        retry_after: Option<Duration>,
    },
    /// It will not work like this, and was not carried out.
    #[error("{reason}")]
    Permanent {
        /// What happened.
        reason: String,
    },
    /// A guardrail says no; nothing was sent.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// This driver cannot do that; nothing was sent.
    #[error("{what}")]
    Incapable {
        /// What it cannot do.
        what: String,
    },
}

/// Carries mitigations out.
pub trait Driver: Send + Sync {
    /// As in the configuration.
    fn name(&self) -> &DriverName;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Brings it into force, or moves its end: `remaining` from now, also for what is in force already.
    fn apply<'d>(
        &'d self,
        key: &'d OperationKey,
        spec: &'d Spec,
        tag: &'d OwnerTag,
        remaining: Duration,
    ) -> Answer<'d, Evidence>;

    /// Ends it. What is not in force is no error.
    fn withdraw<'d>(&'d self, key: &'d OperationKey, spec: &'d Spec, tag: &'d OwnerTag) -> Answer<'d, ()>;

    /// Everything with the tag of our appliance, and nothing else.
    fn observe(&self) -> Answer<'_, Vec<Observed>>;

    /// After a start, before anything is asked for: this was in force, and nobody waits for an answer. It is for those whose
    /// measures end with the process.
    fn restore(&self, _: &Spec, _: &OwnerTag, _remaining: Duration) {}

    /// Waits until what has failed may work: who could not be reached has come back. Never, where nobody would notice.
    fn recovered(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::pending())
    }

    /// Applying one measure need not wait until another has been applied.
    fn takes_many(&self) -> bool {
        false
    }

    /// While no control plane runs: withdrawing one measure ends all that are in force by this driver.
    fn ends_only_all(&self) -> bool {
        false
    }

    /// Ends what may be in force although nobody can name it, as what a peer retains of a process that is dead.
    fn end_unnamed(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl DriverName {
    /// The driver for the dataplane's filters.
    pub fn dataplane() -> Self {
        Self("dataplane".to_owned())
    }
}

impl fmt::Display for DriverName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for OperationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for OwnerTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "levee-{}-{}", self.appliance, self.id)
    }
}

/// A text that is no tag of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no owner tag: levee-APPLIANCE-ID is")]
pub struct NoTag(pub String);

impl FromStr for OwnerTag {
    type Err = NoTag;
    fn from_str(text: &str) -> Result<Self, NoTag> {
        let parts = text.strip_prefix("levee-").and_then(|rest| rest.rsplit_once('-'));
        let tag = parts.and_then(|(appliance, id)| {
            let id: MitigationId = id.parse().ok()?;
            // One id, one text: "+7" and "007" are not what we write.
            let tag = Self { appliance: appliance.to_owned(), id };
            (!appliance.is_empty() && tag.to_string() == text).then_some(tag)
        });
        tag.ok_or_else(|| NoTag(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_tag_is_read_as_it_is_written_and_nothing_else_is_one() {
        let tag = OwnerTag { appliance: "edge-1".to_owned(), id: MitigationId(28_857_600) };
        assert_eq!(tag.to_string(), "levee-edge-1-28857600");
        assert_eq!(tag.to_string().parse::<OwnerTag>().unwrap(), tag);
        for text in
            ["", "levee-", "levee-7", "levee--7", "levee-edge-1-", "levee-edge-1-07", "levee-edge-1-+7", "edge-1-7"]
        {
            assert!(text.parse::<OwnerTag>().is_err(), "{text}");
        }
    }
}
