//! What has become of measures goes back to the stages that asked for them.

use levee_api::zone::Mode;

use super::{Core, Step};
use crate::clock::Now;
use crate::driver::DriverName;
use crate::incident::{Note, TimelineKind};
use crate::ledger::{IncidentId, Mitigation, Notice, Outcome as End, Spec};
use crate::runbook::{Failure, Input, Outcome, Stage, StageState};

impl Core {
    /// Tells the engine what its mitigations have come to.
    pub(super) fn report_stages(&mut self, id: IncidentId, now: &Now, step: &mut Step) {
        let Some(runbook) = self.runbook(id) else { return };
        let Some(progress) = self.progress.get(&id) else { return };
        let mut results = Vec::new();
        let monitor =
            self.incidents.get(id).is_none_or(|incident| self.zone_mode(&incident.target.zone) == Mode::Monitor);
        for (at, (stage, state)) in runbook.stages.iter().zip(&progress.stages).enumerate() {
            let upstream = stage.action.is_upstream();
            if !upstream || !state.state.may_be_in_force() {
                continue;
            }
            let mut live = self.of_stage(id, &stage.name).peekable();
            let outcome = if live.peek().is_none() {
                let leaving = matches!(state.state, StageState::Leaving { .. });
                let entering = matches!(state.state, StageState::Entering { .. });
                let probing = matches!(state.state, StageState::Probing { .. });
                match () {
                    () if leaving => Outcome::Ended,
                    () if probing && self.needs_no_limit(id, stage) => Outcome::InForce,
                    // In mode monitor nothing is done, and that counts as if it had been.
                    () if monitor => Outcome::InForce,
                    () if entering => Outcome::Failed(self.why_failed(id, &stage.name).unwrap_or(Failure::Error)),
                    () => self.why_failed(id, &stage.name).map_or(Outcome::Ended, Outcome::Gone),
                }
            } else if live.any(|entry| entry.is_wanted() && entry.evidence.is_some()) {
                Outcome::InForce
            } else {
                continue;
            };
            results.push((at, state.change(), outcome));
        }
        for (stage, change, outcome) in results {
            self.drive(id, Input::Result { stage, change, outcome }, now, step);
        }
    }

    /// True when a stage that is stepped down has nothing in force because another one does what it would.
    fn needs_no_limit(&self, id: IncidentId, stage: &Stage) -> bool {
        let (plans, _) = self.plans(id, &stage.action, true);
        !plans.is_empty() && plans.iter().all(|(driver, spec)| self.is_limited_below(id, &stage.name, driver, spec))
    }

    /// True when another stage has a rule for the same packets in force, which lets no more of them pass: of two such rules a
    /// router keeps one, and a budget need not pay for both.
    pub(super) fn is_limited_below(&self, id: IncidentId, stage: &str, driver: &DriverName, spec: &Spec) -> bool {
        let Spec::FlowSpec { rule, action } = spec else { return false };
        let mut others = self.ledger.of_incident(id).filter(|entry| {
            // Somebody has it: what was only asked for limits nothing.
            let is_there = entry.is_wanted() && entry.evidence.is_some();
            is_there && entry.driver == *driver && entry.stage.as_deref().is_some_and(|other| other != stage)
        });
        others.any(|entry| match &entry.spec {
            Spec::FlowSpec { rule: its, action: lets } => its == rule && lets.lets_pass_no_more_than(action),
            _ => false,
        })
    }

    /// Why the last measure of a stage ended, if it was not to.
    fn why_failed(&self, id: IncidentId, stage: &str) -> Option<Failure> {
        let of = self.ledger.of_incident(id).filter(|entry| entry.stage.as_deref() == Some(stage));
        match of.last().and_then(|entry| entry.outcome)? {
            End::Refused => Some(Failure::Refused),
            End::Incapable => Some(Failure::Incapable),
            End::Failed => Some(Failure::Error),
            _ => None,
        }
    }

    /// What the ledger has noticed: for timelines, and for the stages that it is about.
    pub(super) fn noticed(&mut self, notices: Vec<Notice>, now: &Now, step: &mut Step) {
        for notice in notices {
            let (id, text) = match &notice {
                Notice::InForce { id, evidence } => (*id, format!("in force ({evidence})")),
                Notice::Failed { id, reason, refusal } => {
                    if refusal.is_some()
                        && let Some(entry) = self.ledger.get(*id)
                    {
                        self.results.entry(entry.driver.clone()).or_default().refused += 1;
                    }
                    (*id, format!("not in force: {reason}"))
                }
                Notice::Missing { id } => (*id, "was gone, is brought back".to_owned()),
                Notice::Adopted { id } => {
                    let text =
                        format!("mitigation {id} was found in force without being in the ledger: it is withdrawn");
                    step.commands.push(super::Command::Log(text.clone()));
                    (*id, text)
                }
                Notice::Stuck { id } => {
                    let Some(entry) = self.ledger.get(*id) else { continue };
                    let text = stuck(entry);
                    self.stuck.insert(*id, text.clone());
                    step.commands.push(super::Command::Log(text.clone()));
                    (*id, text)
                }
                Notice::Ended { id } => {
                    self.stuck.remove(id);
                    let outcome = self.ledger.get(*id).and_then(|entry| entry.outcome);
                    (*id, outcome.map_or_else(|| "ended".to_owned(), |outcome| format!("ended: {outcome}")))
                }
            };
            let Some(entry) = self.ledger.get(id) else { continue };
            let (Some(incident), stage) = (entry.incident, entry.stage.clone()) else { continue };
            // Renewals every few minutes are no news.
            let news = !matches!(notice, Notice::InForce { .. }) || entry.renewals == 0;
            let mut note = Note::new(TimelineKind::Mitigation, text).mitigation(id);
            note.stage = stage;
            if news {
                self.incidents.note(incident, now, note, &mut step.writes);
            }
            self.stirred.insert(incident);
        }
    }
}

/// What somebody has to look at.
pub(super) fn stuck(entry: &Mitigation) -> String {
    format!("mitigation {} cannot be ended so far: {}", entry.id, entry.error.as_deref().unwrap_or_default())
}
