//! Where the runbook of one incident stands: what is stored, and what a condition can ask about a stage.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::condition::{StageView, Verdict};
use super::{Runbook, Stage};
use crate::clock::{Now, nanoseconds};

/// Where a runbook stands. Stored with its incident after each step that gave a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Name of the runbook.
    pub runbook: String,
    /// By position in the runbook.
    pub stages: Vec<StageProgress>,
    /// Number of the last change: with the incident's id the durable name of a command.
    pub changes: u32,
    /// No stage is entered any more.
    pub ending: bool,
    /// When conditions were last evaluated.
    pub measured: Option<Now>,
}

/// Where one stage stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageProgress {
    /// Name of the stage.
    pub name: String,
    /// What it does, and who has to agree to that; none: stored by a version that did not keep it.
    #[serde(default)]
    subject: Option<String>,
    /// Where it stands.
    pub state: StageState,
    /// What its condition said last.
    pub verdict: Verdict,
    /// For how long the condition was known to hold, without having been false in between.
    pub(super) truth_ns: u64,
    /// For how long it was known not to hold and no receiver reported the attack, without a break.
    pub(super) falsehood_ns: u64,
    /// The same while the receiver reported calm.
    pub(super) reported_ns: u64,
    /// For how long it has not been known at all.
    #[serde(default)]
    pub(super) unknown_ns: u64,
    /// When it was last entered, left or stepped.
    pub(super) changed: Option<Now>,
    /// The number of that change.
    pub(super) change: u32,
    /// When what it gave its mitigation was last given.
    pub(super) given: Option<Now>,
    /// How often that was.
    pub(super) renewals: u32,
    /// Somebody has said yes, or nobody has said no in time, and that was to proceed.
    pub(super) approved: bool,
    /// Who has said yes: guardrails ask for it whenever something is begun for the stage.
    #[serde(default)]
    pub approvers: Vec<String>,
    /// It is not entered before its condition has been false for a while: an operator has ended it.
    pub(super) barred: bool,
    /// Attempts to enter it that failed in a row.
    pub(super) failures: u32,
    /// How often it came into force during this incident.
    pub(super) entries: u32,
    /// Tries in a row that found the attack going on.
    pub(super) tries: u32,
    /// As last measured.
    pub(super) effective: Option<bool>,
}

/// Where a stage stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum StageState {
    /// Not entered.
    #[default]
    Idle,
    /// It waits for people.
    Waiting {
        /// Since when.
        since: Now,
        /// Who has said yes.
        yes: Vec<String>,
    },
    /// It was told to begin; whether it has is not known.
    Entering {
        /// Since when.
        since: Now,
    },
    /// It is in force.
    Active {
        /// Since when.
        since: Now,
    },
    /// It was stepped down to see whether the attack goes on.
    Probing {
        /// Since when it is in force.
        since: Now,
    },
    /// It was told to end; whether it has is not known.
    Leaving {
        /// Since when.
        since: Now,
        /// It did harm.
        harmful: bool,
    },
    /// It could not be entered.
    Failed {
        /// Since when.
        since: Now,
        /// Why.
        failure: Failure,
    },
}

/// Why a stage could not be entered, or was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// A guardrail says no.
    Refused,
    /// Nothing of ours can do this.
    Incapable,
    /// People say no, or nobody has said yes.
    Denied,
    /// It was tried and did not work.
    Error,
    /// It worked and did harm.
    Harmful,
}

impl Failure {
    /// As it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Incapable => "incapable",
            Self::Denied => "denied",
            Self::Error => "error",
            Self::Harmful => "harmful",
        }
    }

    /// True when it may work later: limits clear, peers come back.
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::Refused | Self::Error)
    }
}

/// Without an answer for so long, a stage counts as failed, so that the next one can take over.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

impl Progress {
    /// At the foot of the ladder.
    pub fn new(runbook: &Runbook) -> Self {
        let stages = runbook.stages.iter().map(StageProgress::new).collect();
        Self { runbook: runbook.name.clone(), stages, changes: 0, ending: false, measured: None }
    }

    /// Goes on with a runbook that may have been changed meanwhile. Stages are known by their names and by what they do: an
    /// approval is for that, and nothing else. Those that are gone and may be in force are returned, for their mitigations have to
    /// be withdrawn.
    pub fn adopt(&mut self, runbook: &Runbook) -> Vec<String> {
        let mut before = std::mem::take(&mut self.stages);
        for stage in &runbook.stages {
            let is_it = |progress: &StageProgress| {
                progress.name == stage.name
                    && progress.subject.as_ref().is_none_or(|subject| *subject == stage.subject())
            };
            let known = before.iter().position(is_it);
            let known = known.map_or_else(|| StageProgress::new(stage), |at| before.remove(at));
            self.stages.push(StageProgress { subject: Some(stage.subject()), ..known });
        }
        self.runbook.clone_from(&runbook.name);
        before.into_iter().filter(|stage| stage.state.may_be_in_force()).map(|stage| stage.name).collect()
    }

    /// Counts every moment in the boot of `now`, see [`Now::anchored`].
    pub fn anchor(&mut self, now: &Now) {
        let moved = |at: &mut Option<Now>| *at = at.map(|at| at.anchored(now));
        moved(&mut self.measured);
        for stage in &mut self.stages {
            moved(&mut stage.changed);
            moved(&mut stage.given);
            match &mut stage.state {
                StageState::Idle => {}
                StageState::Waiting { since, .. }
                | StageState::Entering { since }
                | StageState::Active { since }
                | StageState::Probing { since }
                | StageState::Leaving { since, .. }
                | StageState::Failed { since, .. } => *since = since.anchored(now),
            }
        }
    }

    /// True when nothing is in force and nobody is asked.
    pub fn is_at_rest(&self) -> bool {
        self.stages.iter().all(|stage| matches!(stage.state, StageState::Idle | StageState::Failed { .. }))
    }

    /// The highest stage that may be in force.
    pub fn highest(&self) -> Option<&StageProgress> {
        self.stages.iter().rev().find(|stage| stage.state.may_be_in_force())
    }

    /// The stages as conditions see them.
    pub fn views(&self, now: &Now) -> Vec<StageView> {
        self.stages.iter().map(|stage| stage.view(now)).collect()
    }
}

impl StageProgress {
    fn new(stage: &Stage) -> Self {
        Self {
            name: stage.name.clone(),
            subject: Some(stage.subject()),
            state: StageState::Idle,
            verdict: Verdict::Unknown,
            truth_ns: 0,
            falsehood_ns: 0,
            reported_ns: 0,
            unknown_ns: 0,
            changed: None,
            change: 0,
            given: None,
            renewals: 0,
            approved: false,
            approvers: Vec::new(),
            barred: false,
            failures: 0,
            entries: 0,
            tries: 0,
            effective: None,
        }
    }

    /// As conditions see it.
    pub fn view(&self, now: &Now) -> StageView {
        let age = match &self.state {
            StageState::Active { since } | StageState::Probing { since } => Some(now.since(since)),
            _ => None,
        };
        StageView {
            state: self.state.name(),
            active: age.is_some(),
            age: age.unwrap_or_default(),
            failed: self.has_failed(now),
            effective: self.effective,
        }
    }

    /// Failed, or tried again after that, or without an answer for too long, or ended by somebody who does not want it.
    fn has_failed(&self, now: &Now) -> bool {
        match &self.state {
            StageState::Failed { .. } => true,
            StageState::Entering { since } => self.failures > 0 || now.since(since) >= PATIENCE,
            // Only what was to be tried is in force: stepping up again was refused or did not work.
            StageState::Probing { .. } => self.failures > 0,
            StageState::Idle | StageState::Leaving { .. } => self.barred,
            StageState::Waiting { .. } | StageState::Active { .. } => false,
        }
    }

    /// Number of the last change: what an answer is to.
    pub const fn change(&self) -> u32 {
        self.change
    }

    /// For how long the condition was known to hold.
    pub fn truth(&self) -> Duration {
        Duration::from_nanos(self.truth_ns)
    }

    /// For how long the condition was known not to hold.
    pub fn falsehood(&self) -> Duration {
        Duration::from_nanos(self.falsehood_ns)
    }

    pub(super) fn reported(&self) -> Duration {
        Duration::from_nanos(self.reported_ns)
    }

    /// Counts the time since the last evaluation to what was known at its beginning and its end.
    pub(super) fn count(&mut self, verdict: Verdict, report: super::Report, passed: Duration) {
        use super::Report;
        let passed = nanoseconds(passed);
        let held = self.verdict == verdict;
        match verdict {
            Verdict::True => {
                self.falsehood_ns = 0;
                self.reported_ns = 0;
                self.truth_ns = if held { self.truth_ns.saturating_add(passed) } else { self.truth_ns };
            }
            Verdict::False => {
                self.truth_ns = 0;
                let more = if held { passed } else { 0 };
                self.falsehood_ns = if report == Report::Attack { 0 } else { self.falsehood_ns.saturating_add(more) };
                self.reported_ns = if report == Report::Calm { self.reported_ns.saturating_add(more) } else { 0 };
            }
            // Not known is neither: what was counted stays, and nothing is added.
            Verdict::Unknown => {}
        }
        let unknown = if verdict == Verdict::Unknown { passed } else { 0 };
        self.unknown_ns = if held { self.unknown_ns.saturating_add(unknown) } else { 0 };
        self.verdict = verdict;
    }

    /// What is counted begins anew: it belonged to another state of the stage.
    pub(super) fn count_anew(&mut self) {
        (self.truth_ns, self.falsehood_ns, self.reported_ns) = (0, 0, 0);
    }
}

/// The names of all states.
pub(super) const STATES: &[&str] = &["idle", "waiting", "entering", "active", "probing", "leaving", "failed"];

impl StageState {
    /// As conditions and people see it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Waiting { .. } => "waiting",
            Self::Entering { .. } => "entering",
            Self::Active { .. } => "active",
            Self::Probing { .. } => "probing",
            Self::Leaving { .. } => "leaving",
            Self::Failed { .. } => "failed",
        }
    }

    /// True when something outside may be in force for it.
    pub const fn may_be_in_force(&self) -> bool {
        matches!(self, Self::Entering { .. } | Self::Active { .. } | Self::Probing { .. } | Self::Leaving { .. })
    }
}
