//! One line of the ledger: a mitigation, from the intent to its verified end.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::effect::Effect;
use super::spec::Spec;
use crate::actor::Actor;
use crate::clock::{Deadline, Now};
use crate::driver::{DriverName, OwnerTag};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )*};
}

ids! {
    /// Any id that the control plane gives: they come from one counter and are never given again.
    Id;
    /// An incident.
    IncidentId;
    /// A mitigation.
    MitigationId;
}

/// Where a mitigation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Written down, not attempted.
    Planned,
    /// The driver was told; its answer is not known.
    Applying,
    /// The driver says that it is in force.
    Active,
    /// It shall end; whether it has is not verified.
    Withdrawing,
    /// It has ended, and that was verified.
    Ended,
    /// It never came into force, and that was verified.
    Failed,
}

/// How far the effect of a mitigation is known, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The driver took it.
    Accepted,
    /// It was sent to the receiver.
    Advertised,
    /// The receiver reports it.
    Seen,
    /// Our own measurement shows its effect.
    Effective,
}

/// Why a mitigation is to end, or has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its deadline passed.
    Expired,
    /// Its stage was left, or its incident is over.
    Retired,
    /// Another took its place.
    Replaced,
    /// An operator ended it.
    Withdrawn,
    /// The kill switch.
    Killed,
    /// It did harm.
    Reverted,
    /// It could not be brought into force.
    Failed,
    /// A guardrail refused it.
    Refused,
    /// Nothing of ours can do this.
    Incapable,
    /// It was found with our tag and without a line in the ledger.
    Orphaned,
    /// Its line came back from a backup, and it was no longer in force.
    Outdated,
}

/// A measure outside of this process, with everything that is needed to end it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mitigation {
    /// Unique for ever; part of the owner tag.
    pub id: MitigationId,
    /// Who carries it out.
    pub driver: DriverName,
    /// What it is.
    pub spec: Spec,
    /// Name of the zone that it protects; empty for what was adopted.
    pub zone: String,
    /// What it is part of.
    pub incident: Option<IncidentId>,
    /// The stage of the incident's runbook that it belongs to.
    pub stage: Option<String>,
    /// Who asked.
    pub asked_by: Actor,
    /// Why, in words.
    pub reason: String,
    /// When it was written down.
    pub created: Now,
    /// When it was attempted first, or last if that led to nothing: what the pace of changes is counted from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Now>,
    /// When it ends, whoever is alive.
    pub deadline: Deadline,
    /// How often its deadline was moved.
    pub renewals: u32,
    /// Where it stands.
    pub state: State,
    /// When it came to this state.
    pub since: Now,
    /// Why it is to end; none while it shall be in force.
    pub outcome: Option<Outcome>,
    /// How far its effect is known; none until the driver has taken it.
    pub evidence: Option<Evidence>,
    /// True once the driver may have carried it out, answer or not: from then on only a verified end is an end.
    pub touched: bool,
    /// Attempts of the current operation that failed in a row.
    pub failures: u32,
    /// Not to be attempted again before this.
    pub retry_at: Option<Now>,
    /// The last error, in words.
    pub error: Option<String>,
    /// Name of the appliance in its owner tag, which it keeps when the appliance is given another name; none: written down
    /// by a version that did not keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appliance: Option<String>,
    /// What our own measurement says of it; none: it takes nothing away that could be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
    /// The line is that of a backup: whether it is in force still is not known, and it is not brought into force again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unproven: bool,
}

impl Mitigation {
    /// So many failures in a row are told: its stage counts as failed, or somebody has to look.
    pub(super) const FAILURES_TOLD: u32 = 3;

    /// When its receiver may have seen a change.
    pub fn begun(&self) -> Now {
        self.begun.unwrap_or(self.created)
    }

    /// True while it may be in force outside.
    pub fn may_be_in_force(&self) -> bool {
        self.touched && !self.has_ended()
    }

    /// True when nothing more is to be done.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended | State::Failed)
    }

    /// True when it has been asked for in vain to end, so often that somebody should look.
    pub fn is_stuck(&self) -> bool {
        self.state == State::Withdrawing && self.failures >= Self::FAILURES_TOLD
    }

    /// True while it shall be in force.
    pub fn is_wanted(&self) -> bool {
        matches!(self.state, State::Planned | State::Applying | State::Active)
    }

    /// True while it is in force, its receiver was told, and what it should take away still comes.
    pub fn is_without_effect(&self) -> bool {
        let verdict = self.effect.and_then(|effect| effect.verdict);
        self.state == State::Active && verdict.is_some_and(|verdict| !verdict.effective)
    }

    /// What it carries outside; `appliance` is the name of today.
    pub fn tag(&self, appliance: &str) -> OwnerTag {
        OwnerTag { appliance: self.appliance.as_deref().unwrap_or(appliance).to_owned(), id: self.id }
    }

    /// Time until its end.
    pub fn remaining(&self, now: &Now) -> Duration {
        self.deadline.remaining(now)
    }
}

impl State {
    /// As it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Applying => "applying",
            Self::Active => "active",
            Self::Withdrawing => "withdrawing",
            Self::Ended => "ended",
            Self::Failed => "failed",
        }
    }
}

impl Evidence {
    /// As it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Advertised => "advertised",
            Self::Seen => "seen",
            Self::Effective => "effective",
        }
    }
}

impl Outcome {
    /// As it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Retired => "retired",
            Self::Replaced => "replaced",
            Self::Withdrawn => "withdrawn",
            Self::Killed => "killed",
            Self::Reverted => "reverted",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Incapable => "incapable",
            Self::Orphaned => "orphaned",
            Self::Outdated => "outdated",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
