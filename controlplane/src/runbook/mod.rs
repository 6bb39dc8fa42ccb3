//! Runbooks: what the control plane does about an incident, stage by stage, decided by effect.
//!
//! [`Runbooks`] are made from a configuration; [`Runbook::step`] moves the [`Progress`] of one incident: what happened goes
//! in as an [`Input`], what is to be done comes out as [`Command`]s. It is pure, so that the same engine runs live, under a
//! simulator, and on the report of a replay.

mod command;
mod compile;
pub mod condition;
mod describe;
mod progress;
mod reach;
mod step;
pub mod variable;
mod worlds;

use std::time::Duration;

use levee_api::config::{Action, ApprovalRole, Otherwise, Probe};

pub use command::{Command, Input, News, Outcome, Report, Sight};
pub use compile::Runbooks;
pub use describe::describe;
pub use progress::{Failure, Progress, StageProgress, StageState};
pub use reach::{Reach, Waits, reach};

use condition::Condition;

/// A runbook that was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Runbook {
    /// Its name.
    pub name: String,
    /// From the foot of the ladder to its top.
    pub stages: Vec<Stage>,
    /// How measures that hide the attack are tried.
    pub probe: Probe,
}

/// A stage that was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Unique in the runbook.
    pub name: String,
    /// When it is entered and kept; none: as long as the attack lasts.
    pub when: Option<Condition>,
    /// The condition as it is written.
    pub written: Option<String>,
    /// How long the condition has to hold first.
    pub hold: Duration,
    /// How long it has to be false before the stage is left.
    pub calm: Duration,
    /// How long the stage is kept at least.
    pub min_hold: Duration,
    /// What its mitigations are given at a time.
    pub ttl: Duration,
    /// While nobody knows whether its condition holds, they are given more time for so long: `max_ttl`.
    pub unjudged: Duration,
    /// What it does.
    pub action: Action,
    /// Who has to say yes first.
    pub approve: Option<Ask>,
    /// Names of notifiers.
    pub notify: Vec<String>,
    /// What it does to our sight of the attack.
    pub blindness: Blindness,
}

/// Who has to say yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Roles whose word counts.
    pub roles: Vec<ApprovalRole>,
    /// How long is waited.
    pub within: Duration,
    /// What silence means.
    pub otherwise: Otherwise,
    /// How many different people.
    pub people: u8,
}

/// What a stage in force does to our sight of the attack, and so how calm is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blindness {
    /// Nothing: the condition is believed.
    Sees,
    /// A part of it still comes through. Each time that the stage has to be entered again it is kept for longer.
    Limits,
    /// It hides it: unless its receiver reports, it is stepped down at growing intervals.
    Steps,
    /// It hides it and cannot be stepped down: it is kept as long as `min_hold`, and for longer each time.
    Holds,
}

impl Stage {
    /// Between two changes of the stage lies at least this.
    pub fn pace(&self) -> Duration {
        self.hold.max(self.calm).max(self.min_hold)
    }

    /// What people say yes to. Where a version writes that in another way, it is another: then they are asked again.
    pub fn subject(&self) -> String {
        format!("{:?} {:?}", self.action, self.approve)
    }

    /// True when there is something to withdraw.
    pub const fn has_mitigation(&self) -> bool {
        matches!(self.action, Action::Filter | Action::FlowSpec(_) | Action::Divert(_) | Action::Blackhole(_))
    }
}

#[cfg(test)]
mod reach_test;
#[cfg(test)]
mod tests;
