//! Runbooks at work: what the engine commands becomes intents in the ledger, and what becomes of these goes back to it.

use std::sync::Arc;
use std::time::Duration;

use levee_api::config::Action;
use levee_api::zone::Mode;

use super::guard::Others;
use super::{Core, Step};
use crate::actor::Actor;
use crate::clock::Now;
use crate::driver::DriverName;
use crate::incident::{Note, TimelineKind};
use crate::ledger::{Effect, IncidentId, Intent, Mitigation, MitigationId, Outcome as End, Spec};
use crate::notify::Topic;
use crate::runbook::{Command, Failure, Input, News, Outcome, Progress, Runbook, Runbooks};
use crate::store::{RunbookState, Write};

/// Answers of the engine to what came of its own commands, at most so many in one step.
const ROUNDS: usize = 32;
/// How a stage is entered.
struct How<'a> {
    ttl: Duration,
    /// With a rate limit in its place.
    down: bool,
    /// What goes when it is in force.
    instead_of: &'a [MitigationId],
}

impl Core {
    /// The runbook that an incident follows.
    pub(super) fn runbook(&self, id: IncidentId) -> Option<&Runbook> {
        self.runbook_of(&self.policy.runbooks, id)
    }

    fn runbook_of<'r>(&self, runbooks: &'r Runbooks, id: IncidentId) -> Option<&'r Runbook> {
        runbooks.get(self.incidents.get(id)?.runbook.as_deref()?)
    }

    /// Begins a runbook, or goes on with one that was changed.
    pub(super) fn follow_runbook(&mut self, id: IncidentId, now: &Now, step: &mut Step) {
        let runbooks = Arc::clone(&self.policy.runbooks);
        let Some(runbook) = self.runbook_of(&runbooks, id) else {
            // The configuration no longer has it: what it did ends.
            if self.progress.remove(&id).is_some() {
                self.end_stages(id, None, End::Retired, now);
                step.writes.push(Write::DeleteRunbook(id));
            }
            return;
        };
        let gone = match self.progress.get_mut(&id) {
            Some(progress) => progress.adopt(runbook),
            None => {
                self.progress.insert(id, Progress::new(runbook));
                Vec::new()
            }
        };
        for stage in gone {
            self.end_stages(id, Some(&stage), End::Retired, now);
        }
        self.write_progress(id, step);
    }

    fn write_progress(&self, id: IncidentId, step: &mut Step) {
        let Some(progress) = self.progress.get(&id) else { return };
        match serde_json::to_value(progress) {
            Ok(state) => {
                let runbook = progress.runbook.clone();
                step.writes.push(Write::PutRunbook(RunbookState { incident: id, runbook, state }));
            }
            Err(error) => step.commands.push(super::Command::Log(format!("runbook of incident {id}: {error}"))),
        }
    }

    /// What is known now goes to the engine.
    pub(super) fn run_stages(&mut self, id: IncidentId, now: &Now, step: &mut Step) {
        self.report_stages(id, now, step);
        let Some(incident) = self.incidents.get(id) else { return };
        let values = self.meters.values(incident, &self.policy.config, self.connected.is_some(), now);
        let sights = self.sights(id, now);
        self.drive(id, Input::Measured { values: &values, sights: &sights }, now, step);
        self.revert_harm(id, now, step);
    }

    /// Stages are left and none is entered any more.
    pub(super) fn end_runbook(&mut self, id: IncidentId, at_once: bool, now: &Now, step: &mut Step) {
        self.drive(id, Input::End { at_once }, now, step);
    }

    /// One input for the engine, and what follows from its commands at once.
    pub(super) fn drive(&mut self, id: IncidentId, input: Input<'_>, now: &Now, step: &mut Step) {
        let runbooks = Arc::clone(&self.policy.runbooks);
        let Some(runbook) = self.runbook_of(&runbooks, id) else { return };
        let Some(progress) = self.progress.get_mut(&id) else { return };
        let before = progress.stages.iter().map(|stage| stage.state.clone()).collect::<Vec<_>>();
        let mut commands = runbook.step(progress, now, input);
        let mut wrote = !commands.is_empty() || progress.stages.iter().map(|stage| &stage.state).ne(before.iter());
        for _ in 0..ROUNDS {
            let mut results = Vec::new();
            for command in std::mem::take(&mut commands) {
                results.extend(self.carry_out(id, runbook, &command, now, step));
            }
            let Some(progress) = self.progress.get_mut(&id) else { return };
            for (stage, change, outcome) in results {
                commands.extend(runbook.step(progress, now, Input::Result { stage, change, outcome }));
            }
            wrote |= !commands.is_empty();
            if commands.is_empty() {
                break;
            }
        }
        if wrote {
            self.write_progress(id, step);
        }
    }

    /// One command of the engine. What is known of its result at once is returned.
    fn carry_out(
        &mut self,
        id: IncidentId,
        runbook: &Runbook,
        command: &Command,
        now: &Now,
        step: &mut Step,
    ) -> Option<(usize, u32, Outcome)> {
        let at = command.stage();
        let stage = runbook.stages.get(at)?;
        match command {
            Command::Enter { change, ttl, .. } => {
                self.remember_before(id, &stage.name, now);
                let how = How { ttl: *ttl, down: false, instead_of: &[] };
                let outcome = self.enter(id, runbook, at, &how, now, step)?;
                Some((at, *change, outcome))
            }
            Command::StepDown { change, ttl, .. } | Command::StepUp { change, ttl, .. } => {
                let old: Vec<MitigationId> = self.of_stage(id, &stage.name).map(|entry| entry.id).collect();
                let down = matches!(command, Command::StepDown { .. });
                let outcome = self.enter(id, runbook, at, &How { ttl: *ttl, down, instead_of: &old }, now, step);
                if matches!(outcome, Some(Outcome::Failed(_))) {
                    return outcome.map(|outcome| (at, *change, outcome));
                }
                for id in old {
                    self.ledger.end(id, End::Replaced, now);
                }
                outcome.map(|outcome| (at, *change, outcome))
            }
            Command::Renew { ttl, .. } => {
                let wanted: Vec<MitigationId> =
                    self.of_stage(id, &stage.name).filter(|entry| entry.is_wanted()).map(|entry| entry.id).collect();
                let ttl = (*ttl).min(self.policy.config.guardrails.max_ttl);
                for mitigation in wanted {
                    let forbidden = self.ledger.get(mitigation).and_then(|entry| self.forbids(entry));
                    if let Some((outcome, why)) = forbidden {
                        self.tell_of(mitigation, format!("not renewed, and it ends: {why}"), now, step);
                        self.ledger.end(mitigation, outcome, now);
                    } else {
                        self.ledger.renew(mitigation, ttl, now);
                    }
                }
                None
            }
            Command::Leave { change, .. } => {
                self.before.remove(&(id, stage.name.clone()));
                self.end_stages(id, Some(&stage.name), End::Retired, now);
                let nothing_left = self.of_stage(id, &stage.name).next().is_none();
                nothing_left.then_some((at, *change, Outcome::Ended))
            }
            Command::Ask { .. } | Command::Unask { .. } => None,
            Command::Tell { news, .. } => {
                self.tell_stage(id, stage, *news, now, step);
                None
            }
        }
    }

    /// Brings the action of a stage into force. None when that is not known yet.
    fn enter(
        &mut self,
        id: IncidentId,
        runbook: &Runbook,
        at: usize,
        how: &How<'_>,
        now: &Now,
        step: &mut Step,
    ) -> Option<Outcome> {
        let stage = runbook.stages.get(at)?;
        let target = self.incidents.get(id)?.target.clone();
        match &stage.action {
            // The dataplane's reflex has installed its filters long ago, and ends them itself.
            Action::Filter | Action::WaitForApproval(_) => return Some(Outcome::InForce),
            Action::Capture { duration } => {
                let change = self.progress.get(&id)?.stages.get(at)?.change();
                let (stage, duration) = (stage.name.clone(), *duration);
                step.commands.push(super::Command::Capture { incident: id, stage, change, target, duration });
                return None;
            }
            Action::Notify { channels } => {
                let text = "this is what the runbook says to tell you";
                self.tell(id, channels, Topic::StageEntered, text, now, step);
                return Some(Outcome::InForce);
            }
            Action::Webhook { notifier } => {
                let text = "the runbook asks you to act";
                self.tell(id, std::slice::from_ref(notifier), Topic::StageEntered, text, now, step);
                return Some(Outcome::InForce);
            }
            Action::FlowSpec(_) | Action::Divert(_) | Action::Blackhole(_) => {}
        }
        if self.zone_mode(&target.zone) == Mode::Monitor {
            let text = format!("{}: not done, the zone is in mode monitor", stage.action.name());
            let note = Note::new(TimelineKind::Stage, text).stage(&stage.name);
            self.incidents.note(id, now, note, &mut step.writes);
            return Some(Outcome::InForce);
        }
        let (mut plans, mut failure) = self.plans(id, &stage.action, how.down);
        if how.down && !plans.is_empty() {
            plans.retain(|(driver, spec)| !self.is_limited_below(id, &stage.name, driver, spec));
            if plans.is_empty() {
                return Some(Outcome::InForce);
            }
        }
        if let Some((_, why)) = &failure {
            let note = Note::new(TimelineKind::Stage, why.clone()).stage(&stage.name);
            self.incidents.note(id, now, note, &mut step.writes);
        }
        let people = self.progress.get(&id).and_then(|progress| progress.stages.get(at));
        let people = people.map(|stage| stage.approvers.clone()).unwrap_or_default();
        let people: Vec<&str> = people.iter().map(String::as_str).collect();
        let mut planned: Vec<(DriverName, Spec)> = Vec::new();
        let mut refused = false;
        for (driver, spec) in plans {
            let with = Others { instead_of: how.instead_of, besides: &planned };
            if let Err(refusal) = self.guard(&driver, &spec, how.ttl, &people, &with, now) {
                self.refused(id, &stage.name, &driver, &refusal, now, step);
                failure = Some((Failure::Refused, refusal.to_string()));
                refused = true;
            } else {
                planned.push((driver, spec));
            }
        }
        // What is in force goes only for all that takes its place.
        if planned.is_empty() || refused && !how.instead_of.is_empty() {
            return Some(Outcome::Failed(failure.map_or(Failure::Incapable, |(failure, _)| failure)));
        }
        for (driver, spec) in planned {
            let actor = Actor::Runbook { runbook: runbook.name.clone(), stage: stage.name.clone() };
            let reason = stage.written.clone().unwrap_or_else(|| "as long as the attack lasts".to_owned());
            let mitigation = MitigationId(self.next_id());
            let note = Note::new(TimelineKind::Mitigation, format!("{spec}, by {driver}"))
                .stage(&stage.name)
                .mitigation(mitigation)
                .by(actor.clone());
            self.incidents.note(id, now, note, &mut step.writes);
            let effect = self.incidents.get(id).and_then(|incident| Effect::expected(&spec, &incident.rates));
            let intent = Intent {
                driver,
                spec,
                effect,
                zone: target.zone.clone(),
                incident: Some(id),
                stage: Some(stage.name.clone()),
                asked_by: actor,
                reason,
                ttl: how.ttl,
            };
            self.ledger.plan(mitigation, intent, now);
        }
        None
    }

    /// The dataplane has answered a stage that captures.
    pub(super) fn captured(
        &mut self,
        id: IncidentId,
        stage: &str,
        change: u32,
        result: Result<String, String>,
        now: &Now,
        step: &mut Step,
    ) {
        let stages = self.runbook(id).map(|runbook| &runbook.stages);
        let Some(at) = stages.and_then(|stages| stages.iter().position(|known| known.name == stage)) else { return };
        let (text, outcome) = match result {
            Ok(file) => (format!("packets are written into the capture {file}"), Outcome::InForce),
            Err(why) => (format!("no capture: {why}"), Outcome::Failed(Failure::Error)),
        };
        self.incidents.note(id, now, Note::new(TimelineKind::Stage, text).stage(stage), &mut step.writes);
        self.drive(id, Input::Result { stage: at, change, outcome }, now, step);
    }

    pub(super) fn zone_mode(&self, zone: &str) -> Mode {
        let known = self.policy.config.zones.iter().find(|known| known.name == zone);
        // A zone that the configuration no longer has is not to be defended by anything new.
        known.map_or(Mode::Monitor, |zone| zone.mode)
    }

    /// Mitigations of a stage that have not ended.
    pub(super) fn of_stage<'c>(&'c self, id: IncidentId, stage: &'c str) -> impl Iterator<Item = &'c Mitigation> {
        let all = self.ledger.of_incident(id);
        all.filter(move |entry| !entry.has_ended() && entry.stage.as_deref() == Some(stage))
    }

    pub(super) fn end_stages(&mut self, id: IncidentId, stage: Option<&str>, outcome: End, now: &Now) {
        let of = self.ledger.of_incident(id).filter(|entry| entry.is_wanted());
        let ids: Vec<MitigationId> = of
            .filter(|entry| entry.stage.is_some() && stage.is_none_or(|stage| entry.stage.as_deref() == Some(stage)))
            .map(|entry| entry.id)
            .collect();
        for mitigation in ids {
            self.ledger.end(mitigation, outcome, now);
        }
    }

    fn tell_stage(&mut self, id: IncidentId, stage: &crate::runbook::Stage, news: News, now: &Now, step: &mut Step) {
        let note = Note::new(TimelineKind::Stage, format!("stage {} {}", stage.name, news.words())).stage(&stage.name);
        self.incidents.note(id, now, note, &mut step.writes);
        let topic = match news {
            News::Entering | News::Approved | News::Unanswered | News::Kept(_) => return,
            News::InForce | News::SteppedUp => Topic::StageEntered,
            News::Asked => Topic::ApprovalAsked,
            News::Failed(_) | News::Lost => Topic::StageFailed,
            News::Reverted => Topic::Attention,
            News::SteppedDown | News::Leaving | News::Left => Topic::StageLeft,
        };
        let text = format!("stage {} ({}) {}", stage.name, stage.action.name(), news.words());
        self.tell(id, &stage.notify, topic, &text, now, step);
    }
}
