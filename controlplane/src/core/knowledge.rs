//! What the API may know of the core.

use levee_api::config::Action;

use super::{Core, Health};
use crate::clock::Now;
use crate::driver::DriverName;
use crate::incident::{Incident, Report, TimelineEntry};
use crate::ledger::{IncidentId, Mitigation};
use crate::notify::ChannelView;
use crate::runbook::StageState;
use crate::server::link::{ApprovalView, DriverView, StageView};
use crate::store::KillSwitch;

impl Core {
    /// The clocks of the last step.
    pub const fn now(&self) -> Now {
        self.now
    }

    /// The report of an incident, as far as its timeline is known.
    pub fn report(&self, id: IncidentId, timeline: &[TimelineEntry]) -> Option<String> {
        let incident = self.incidents.get(id)?;
        let mitigations: Vec<&Mitigation> = self.ledger.of_incident(id).collect();
        Some(Report { incident, timeline, mitigations: &mitigations }.text(&self.now))
    }

    /// Where the stages of an incident's runbook stand, in the order of the runbook.
    pub fn stages(&self, id: IncidentId) -> Vec<StageView> {
        let Some(progress) = self.progress.get(&id) else { return Vec::new() };
        let runbook = self.runbook(id);
        let written = |at: usize| {
            let stage = runbook.and_then(|runbook| runbook.stages.get(at))?;
            Some(stage.written.clone().unwrap_or_else(|| "as long as the attack lasts".to_owned()))
        };
        let stages = progress.stages.iter().enumerate();
        stages
            .map(|(at, stage)| StageView {
                name: stage.name.clone(),
                state: stage.state.name().to_owned(),
                since: since(&stage.state),
                reason: match &stage.state {
                    StageState::Failed { failure, .. } => failure.name().to_owned(),
                    _ => written(at).unwrap_or_default(),
                },
            })
            .collect()
    }

    /// What waits for somebody to decide.
    pub fn approvals(&self) -> Vec<ApprovalView> {
        let mut approvals = Vec::new();
        for (id, progress) in &self.progress {
            let Some(runbook) = self.runbook(*id) else { continue };
            for (stage, state) in runbook.stages.iter().zip(&progress.stages) {
                if let (StageState::Waiting { since, .. }, Some(ask)) = (&state.state, &stage.approve) {
                    let (stage, until) = (stage.name.clone(), since.after(ask.within));
                    approvals.push(ApprovalView { incident: *id, stage, asked: *since, until });
                }
            }
        }
        approvals
    }

    /// Whether anything of one incident waits for somebody to decide.
    pub fn waits(&self, incident: IncidentId) -> bool {
        let stages = self.progress.get(&incident).map(|progress| &progress.stages);
        stages.into_iter().flatten().any(|stage| matches!(stage.state, StageState::Waiting { .. }))
    }

    /// Whether everything is stopped.
    pub const fn kill_switch(&self) -> Option<&KillSwitch> {
        self.kill_switch.as_ref()
    }

    /// What needs somebody's attention, in words.
    pub fn troubles(&self) -> Vec<String> {
        let mut troubles: Vec<String> = self.stuck.values().cloned().collect();
        if let Health::Failing(why) = &self.health {
            troubles.push(format!("the store takes nothing: {why}"));
        }
        if let Some(why) = &self.policy_refused {
            let stopped =
                if self.is_stopped() { " THE KILL SWITCH IS ON AND NOT IN FORCE THERE AS ASKED:" } else { "" };
            troubles.push(format!("{stopped} {why}; it is tried again").trim_start().to_owned());
        }
        if self.connected.is_none() {
            troubles.push("the dataplane does not answer: it goes on by itself, and nothing is known of it".to_owned());
        }
        troubles.extend(self.forgotten_in_words());
        for ChannelView { name, waiting, trouble, .. } in self.outbox.channels() {
            troubles
                .extend(trouble.map(|why| format!("notifier {name} takes nothing, {waiting} messages wait: {why}")));
        }
        if self.incidents.left_out > 0 {
            troubles.push(format!("{} findings belong to no incident: too many are open", self.incidents.left_out));
        }
        if self.incidents.malformed > 0 {
            troubles.push(format!("{} events of the dataplane could not be understood", self.incidents.malformed));
        }
        for runbook in self.policy.runbooks.list() {
            for stage in &runbook.stages {
                let drivers = stage.action.announcers().iter().map(|name| DriverName(name.clone()));
                let scrubber = match &stage.action {
                    Action::Divert(divert) => match &divert.via {
                        levee_api::config::Via::Scrubber(name) => Some(DriverName(name.clone())),
                        levee_api::config::Via::Announcers(_) => None,
                    },
                    _ => None,
                };
                let missing: Vec<String> = drivers
                    .chain(scrubber)
                    .filter(|driver| self.ledger.capabilities(driver).is_none())
                    .map(|driver| driver.to_string())
                    .collect();
                if !missing.is_empty() {
                    let (runbook, stage) = (&runbook.name, &stage.name);
                    let missing = missing.join(", ");
                    troubles.push(format!("runbook {runbook}, stage {stage}: no driver in this version for {missing}"));
                }
            }
        }
        troubles
    }

    /// Commands, results and failures of each driver since the start.
    pub fn drivers(&self) -> Vec<DriverView> {
        let names = self.policy.drivers.keys();
        let view = |name: &DriverName| {
            let results = self.results.get(name).copied().unwrap_or_default();
            DriverView {
                name: name.to_string(),
                succeeded: results.succeeded,
                failed: results.failed,
                refused: results.refused,
            }
        };
        names.map(view).collect()
    }

    /// How messages come through, by channel.
    pub fn channels(&self) -> Vec<ChannelView> {
        self.outbox.channels().collect()
    }

    /// All incidents that are kept, the oldest first.
    pub fn all_incidents(&self) -> impl DoubleEndedIterator<Item = &Incident> {
        self.incidents.iter()
    }
}

const fn since(state: &StageState) -> Option<Now> {
    match state {
        StageState::Idle => None,
        StageState::Waiting { since, .. }
        | StageState::Entering { since }
        | StageState::Active { since }
        | StageState::Probing { since }
        | StageState::Leaving { since, .. }
        | StageState::Failed { since, .. } => Some(*since),
    }
}
