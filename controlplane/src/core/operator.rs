//! What operators want, and what drivers answer.

use std::time::Duration;

use levee_api::config::ApprovalRole;
use levee_api::prefix::Prefix;
use levee_api::zone::Zone;

use super::guard::Others;
use super::{Asked, Command, Core, Health, Reply, Step};
use crate::actor::{Actor, Role};
use crate::clock::Now;
use crate::driver::{DriverError, DriverName, OperationKey};
use crate::incident::{Note, TimelineKind};
use crate::ledger::{
    Direction, Effect, Evidence, IncidentId, Intent, Kind, Mitigation, MitigationId, Outcome as End, Spec,
};
use crate::runbook::{Input, StageState};
use crate::server::link::{Operation, Outcome, Refused};
use crate::store::{KillSwitch, Request, Write};

/// The part of Levee that stops everything because a file says so.
const BY_FILE: &str = "kill switch file";

/// The zone and the driver of a measure, where whoever asks for it names them.
type Named<'n> = (Option<&'n str>, Option<&'n DriverName>);

impl Core {
    pub(super) fn asked(&mut self, asked: Asked, now: &Now, step: &mut Step) {
        let ticket = asked.ticket;
        let result = self.answer(&asked, now, step);
        step.replies.push(Reply { ticket, result });
    }

    fn answer(&mut self, asked: &Asked, now: &Now, step: &mut Step) -> Result<Outcome, Refused> {
        if let Some(known) = self.before(asked)? {
            return Ok(known);
        }
        let outcome = self.perform(asked, now, step)?;
        self.keep_answer(asked, &outcome, now, step);
        Ok(outcome)
    }

    /// What is to be said before anything is done: the answer that was given to the same request, if it was.
    ///
    /// # Errors
    /// When the id was used for something else, or nothing can be written down now.
    pub fn before(&self, asked: &Asked) -> Result<Option<Outcome>, Refused> {
        if let Some(known) = self.requests.get(&asked.request_id) {
            if known.digest != asked.digest {
                return Err(Refused::IdTaken(asked.request_id.clone()));
            }
            let unreadable = |_| Refused::Unavailable("the answer to this request can no longer be read".to_owned());
            return serde_json::from_str(&known.answer).map(Some).map_err(unreadable);
        }
        let only_ends = matches!(asked.operation, Operation::Withdraw { .. } | Operation::KillSwitch { on: true, .. });
        if let Health::Failing(why) = &self.health
            && !only_ends
            && !asked.validate_only
        {
            let text = format!("the store takes nothing ({why}): only withdrawals and the kill switch are possible");
            return Err(Refused::Unavailable(text));
        }
        Ok(None)
    }

    /// What was done elsewhere is answered, once that is durable.
    pub(super) fn done(&mut self, asked: &Asked, outcome: Outcome, now: &Now, step: &mut Step) {
        self.keep_answer(asked, &outcome, now, step);
        step.replies.push(Reply { ticket: asked.ticket, result: Ok(outcome) });
    }

    fn keep_answer(&mut self, asked: &Asked, outcome: &Outcome, now: &Now, step: &mut Step) {
        if asked.validate_only {
            return;
        }
        if let Ok(answer) = serde_json::to_string(outcome) {
            let request = Request {
                id: asked.request_id.clone(),
                actor: asked.actor.clone(),
                at: *now,
                digest: asked.digest.clone(),
                answer,
            };
            self.requests.insert(request.id.clone(), request.clone());
            step.writes.push(Write::PutRequest(request));
        }
    }

    fn perform(&mut self, asked: &Asked, now: &Now, step: &mut Step) -> Result<Outcome, Refused> {
        let Asked { actor, validate_only, operation, .. } = asked;
        match operation {
            Operation::Add { incident, zone, driver, spec, ttl, reason } => {
                let named = (zone.as_deref(), driver.as_ref());
                self.add(asked, (*incident, named, spec.as_ref(), *ttl, reason), now, step)
            }
            Operation::Renew { id, ttl } => {
                let entry = self.wanted(*id)?;
                let spec = entry.spec.clone();
                self.guard_renewal(&spec, *ttl)?;
                if !validate_only {
                    if !self.ledger.renew(*id, *ttl, now) {
                        return Err(Refused::Precondition(format!("mitigation {id} has come to its end")));
                    }
                    self.note_of(*id, actor, format!("renewed for {}", crate::figures::duration(*ttl)), now, step);
                }
                Ok(self.shown(*id))
            }
            Operation::Withdraw { id, reason } => {
                let entry = self.wanted(*id)?;
                let (incident, stage) = (entry.incident, entry.stage.clone());
                if !validate_only {
                    self.ledger.end(*id, End::Withdrawn, now);
                    self.note_of(*id, actor, format!("withdrawn: {reason}"), now, step);
                    // What an operator has ended, the runbook does not begin again at once.
                    if let (Some(incident), Some(stage)) = (incident, stage)
                        && self.of_stage(incident, &stage).all(|entry| !entry.is_wanted())
                        && let Some(at) = self.position_of(incident, &stage)
                    {
                        self.drive(incident, Input::Bar { stage: at }, now, step);
                        self.stirred.insert(incident);
                    }
                }
                Ok(self.shown(*id))
            }
            Operation::Decide { incident, stage, approve, reason } => {
                self.decide(asked, (*incident, stage, *approve, reason), now, step)
            }
            Operation::KillSwitch { on, reason } => {
                if let Some(file) = self.kill_switch_file.as_ref().filter(|_| !on) {
                    // Half of a release would be none: the dataplane stays stopped as long as the file is there.
                    return Err(Refused::Precondition(format!("{file} keeps everything stopped: remove it first")));
                }
                if *validate_only {
                    let state = KillSwitch { engaged: *on, by: actor.clone(), at: *now, reason: reason.clone() };
                    let withdrawing =
                        if *on { self.ledger.live().filter(|entry| entry.is_wanted()).count() } else { 0 };
                    return Ok(Outcome::KillSwitch {
                        state,
                        withdrawing: u64::try_from(withdrawing).unwrap_or(u64::MAX),
                    });
                }
                let withdrawing = self.turn_kill_switch(*on, actor.clone(), reason, now, step);
                let said = || KillSwitch { engaged: *on, by: actor.clone(), at: *now, reason: reason.clone() };
                // Who says it again is told who said it first.
                let state = self.kill_switch.clone().unwrap_or_else(said);
                Ok(Outcome::KillSwitch { state, withdrawing })
            }
            Operation::Reload { .. } | Operation::Confirm => {
                Err(Refused::Precondition("the configuration is not read by this part".to_owned()))
            }
        }
    }

    fn add(
        &mut self,
        asked: &Asked,
        (incident, named, spec, ttl, reason): (Option<IncidentId>, Named<'_>, &Spec, Duration, &str),
        now: &Now,
        step: &mut Step,
    ) -> Result<Outcome, Refused> {
        if self.is_stopped() {
            return Err(Refused::Precondition("the kill switch is engaged: nothing is begun".to_owned()));
        }
        if let Some(id) = incident
            && self.incidents.get(id).is_none_or(|incident| !incident.is_open())
        {
            return Err(Refused::NotFound { what: "open incident", name: id.to_string() });
        }
        if let Spec::FlowSpec { rule, action } = spec
            && !rule.destination.is_host()
            && !action.lets_all_pass()
            && rule.is_bare()
        {
            // As with runbooks.
            let why = format!("everybody in {} would share what it lets pass: say what it matches", rule.destination);
            return Err(Refused::Precondition(why));
        }
        let zone = self.zone_for(named.0, spec)?;
        let driver = self.driver_for(named.1, spec)?;
        let Actor::Operator { name, .. } = &asked.actor else {
            return Err(Refused::NotAllowed("only people ask for measures here".to_owned()));
        };
        self.guard(&driver, spec, ttl, &[name], &Others::default(), now)?;
        let id = if asked.validate_only { MitigationId(0) } else { MitigationId(self.next_id()) };
        let told_of = incident.and_then(|id| self.incidents.get(id));
        let effect = told_of.and_then(|incident| Effect::expected(spec, &incident.rates));
        let intent = Intent {
            driver,
            spec: spec.clone(),
            effect,
            zone,
            incident,
            stage: None,
            asked_by: asked.actor.clone(),
            reason: reason.to_owned(),
            ttl,
        };
        if asked.validate_only {
            return Ok(Outcome::Mitigation { mitigation: Box::new(crate::ledger::draft(id, intent, now)) });
        }
        self.ledger.plan(id, intent, now);
        let text = self.ledger.get(id).map(|entry| format!("{}, by {}: {reason}", entry.spec, entry.driver));
        self.note_of(id, &asked.actor, text.unwrap_or_default(), now, step);
        Ok(self.shown(id))
    }

    /// The zone of a measure: the one that was named, or the one that its prefix is in.
    fn zone_for(&self, named: Option<&str>, spec: &Spec) -> Result<String, Refused> {
        let zones = &self.policy.config.zones;
        // What is diverted may be wider than the zone that needs it; the sources of an attack are in none.
        let is_about = |of: &Prefix, prefix: &Prefix| match spec {
            Spec::Divert { .. } => of.overlaps(prefix),
            _ => of.covers(prefix),
        };
        let has = |zone: &Zone| spec.prefix().is_none_or(|prefix| zone.prefixes.iter().any(|of| is_about(of, &prefix)));
        if let (Spec::Blackhole { direction: Direction::Source, .. }, None, [only]) = (spec, named, zones.as_slice()) {
            return Ok(only.name.clone());
        }
        let about = spec.prefix().map(|prefix| prefix.to_string()).unwrap_or_default();
        let Some(name) = named else {
            let zone = zones.iter().find(|zone| has(zone)).map(|zone| zone.name.clone());
            return zone.ok_or_else(|| {
                let whose = "; name the zone that it attacks, if these are sources";
                let whose = if matches!(spec, Spec::Blackhole { .. }) { whose } else { "" };
                Refused::Precondition(format!("{about} is in no zone of the configuration{whose}"))
            });
        };
        match zones.iter().find(|zone| zone.name == name) {
            None => Err(Refused::NotFound { what: "zone", name: name.to_owned() }),
            Some(zone) if spec.kind() == Kind::Filter && !has(zone) => {
                Err(Refused::Precondition(format!("{about} is not in zone {name}: name the zone that it is in")))
            }
            Some(_) => Ok(name.to_owned()),
        }
    }

    /// The driver that was named, or the first that can do it.
    fn driver_for(&self, named: Option<&DriverName>, spec: &Spec) -> Result<DriverName, Refused> {
        if let Some(driver) = named {
            if !self.policy.drivers.contains_key(driver) {
                return Err(Refused::NotFound { what: "announcer", name: driver.to_string() });
            }
            return self.cannot(driver, spec).map_or_else(|| Ok(driver.clone()), |why| Err(Refused::Precondition(why)));
        }
        let (filter, dataplane) = (spec.kind() == Kind::Filter, DriverName::dataplane());
        let mut reasons = vec![format!("nothing that is configured can do this: {}", spec.kind())];
        for driver in self.policy.drivers.keys().filter(|driver| (**driver == dataplane) == filter) {
            match self.cannot(driver, spec) {
                None => return Ok(driver.clone()),
                Some(why) => reasons.push(why),
            }
        }
        Err(Refused::Precondition(reasons.join("; ")))
    }

    fn decide(
        &mut self,
        asked: &Asked,
        (incident, stage, approve, reason): (IncidentId, &str, bool, &str),
        now: &Now,
        step: &mut Step,
    ) -> Result<Outcome, Refused> {
        let at = self
            .position_of(incident, stage)
            .ok_or_else(|| Refused::NotFound { what: "stage", name: format!("{stage} of incident {incident}") })?;
        let waits = self.progress.get(&incident).and_then(|progress| progress.stages.get(at));
        if !waits.is_some_and(|stage| matches!(stage.state, StageState::Waiting { .. })) {
            return Err(Refused::Precondition(format!(
                "stage {stage} of incident {incident} does not wait for an answer"
            )));
        }
        let asks =
            self.runbook(incident).and_then(|runbook| runbook.stages.get(at)).and_then(|stage| stage.approve.as_ref());
        let roles = asks.map(|ask| ask.roles.clone()).unwrap_or_default();
        let Actor::Operator { name, role } = &asked.actor else {
            return Err(Refused::NotAllowed("only people approve".to_owned()));
        };
        if !roles.iter().any(|wanted| *role >= as_role(*wanted)) {
            let wanted: Vec<&str> = roles.iter().map(|role| as_role(*role).name()).collect();
            let text = format!("{name} has the role {role}; this needs one of: {}", wanted.join(", "));
            return Err(Refused::NotAllowed(text));
        }
        if !asked.validate_only {
            let word = if approve { "approves" } else { "denies" };
            let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            let note = Note::new(TimelineKind::Approval, format!("{name} {word} stage {stage}{why}"))
                .stage(stage)
                .by(asked.actor.clone());
            self.incidents.note(incident, now, note, &mut step.writes);
            self.drive(incident, Input::Answer { stage: at, by: name, yes: approve }, now, step);
            self.stirred.insert(incident);
        }
        Ok(Outcome::Decided)
    }

    /// A file that stops the dataplane stops us, too. When it is gone we let go again only if it was the file that had stopped
    /// us, and nobody has said so beside it: what a person has stopped a person starts again.
    pub(super) fn take_kill_switch_file(&mut self, file: Option<String>, now: &Now, step: &mut Step) {
        let by = Actor::levee(BY_FILE);
        self.kill_switch_file = file;
        match self.kill_switch_file.clone() {
            Some(file) if !self.is_stopped() => {
                self.turn_kill_switch(true, by, &format!("{file} is there"), now, step);
            }
            None if self.kill_switch.as_ref().is_some_and(|switch| switch.engaged && switch.by == by) => {
                self.turn_kill_switch(false, by, "the file is gone", now, step);
            }
            _ => {}
        }
    }

    /// Stops everything, or lets go again. How many mitigations end.
    pub(super) fn turn_kill_switch(&mut self, on: bool, by: Actor, why: &str, now: &Now, step: &mut Step) -> u64 {
        if self.is_stopped() == on {
            if !on {
                return 0;
            }
            if self.kill_switch.as_ref().is_some_and(|switch| switch.by == Actor::levee(BY_FILE)) {
                // From now on it is not for the file to let go of it.
                let state = KillSwitch { engaged: true, by: by.clone(), at: *now, reason: why.to_owned() };
                step.writes.push(Write::PutKillSwitch(state.clone()));
                self.kill_switch = Some(state);
            }
            // Whoever says it again has a reason to: what may have got lost on its way is sent once more.
            step.commands.push(Command::Upload);
            step.commands.push(Command::Log(format!("the kill switch is engaged already, and said again ({by})")));
            return self.end_all(now);
        }
        let state = KillSwitch { engaged: on, by: by.clone(), at: *now, reason: why.to_owned() };
        step.writes.push(Write::PutKillSwitch(state.clone()));
        self.kill_switch = Some(state);
        step.commands.push(Command::Upload);
        let text = if on { "the kill switch is engaged: everything ends" } else { "the kill switch is released" };
        let because = if why.is_empty() { String::new() } else { format!(": {why}") };
        step.commands.push(Command::Log(format!("{text} ({by}){because}")));
        let open: Vec<IncidentId> = self.incidents.open().collect();
        for id in &open {
            let note = Note::new(TimelineKind::Interruption, format!("{text}{because}")).by(by.clone());
            self.incidents.note(*id, now, note, &mut step.writes);
        }
        if !on {
            for id in open {
                // What the switch has ended may be begun again from the foot of the ladder.
                self.progress.remove(&id);
                self.follow_runbook(id, now, step);
                self.stirred.insert(id);
            }
            return 0;
        }
        let ended = self.end_all(now);
        for id in open {
            self.end_runbook(id, true, now, step);
        }
        ended
    }

    pub(super) fn end_all(&mut self, now: &Now) -> u64 {
        let wanted: Vec<MitigationId> =
            self.ledger.live().filter(|entry| entry.is_wanted()).map(|entry| entry.id).collect();
        for id in &wanted {
            self.ledger.end(*id, End::Killed, now);
        }
        u64::try_from(wanted.len()).unwrap_or(u64::MAX)
    }

    fn wanted(&self, id: MitigationId) -> Result<&Mitigation, Refused> {
        let entry =
            self.ledger.get(id).ok_or_else(|| Refused::NotFound { what: "mitigation", name: id.to_string() })?;
        if entry.is_wanted() {
            return Ok(entry);
        }
        Err(Refused::Precondition(format!("mitigation {id} is {}: it ends or has ended", entry.state)))
    }

    fn shown(&self, id: MitigationId) -> Outcome {
        match self.ledger.get(id) {
            Some(entry) => Outcome::Mitigation { mitigation: Box::new(entry.clone()) },
            None => Outcome::Decided,
        }
    }

    fn note_of(&mut self, id: MitigationId, actor: &Actor, text: String, now: &Now, step: &mut Step) {
        let incident = self.ledger.get(id).and_then(|entry| entry.incident);
        let Some(incident) = incident else { return };
        let note = Note::new(TimelineKind::Mitigation, text).mitigation(id).by(actor.clone());
        self.incidents.note(incident, now, note, &mut step.writes);
    }

    fn position_of(&self, id: IncidentId, stage: &str) -> Option<usize> {
        self.runbook(id)?.stages.iter().position(|known| known.name == stage)
    }

    pub(super) fn applied(
        &mut self,
        id: MitigationId,
        key: &OperationKey,
        result: Result<Evidence, DriverError>,
        now: &Now,
        step: &mut Step,
    ) {
        self.count(id, result.is_ok());
        let mut notices = Vec::new();
        self.ledger.applied(id, key, result, now, &mut notices);
        self.noticed(notices, now, step);
    }

    pub(super) fn withdrawn(
        &mut self,
        id: MitigationId,
        key: &OperationKey,
        result: Result<(), DriverError>,
        now: &Now,
        step: &mut Step,
    ) {
        self.count(id, result.is_ok());
        let mut notices = Vec::new();
        self.ledger.withdrawn(id, key, result, now, &mut notices);
        self.noticed(notices, now, step);
    }

    fn count(&mut self, id: MitigationId, succeeded: bool) {
        let Some(entry) = self.ledger.get(id) else { return };
        let results = self.results.entry(entry.driver.clone()).or_default();
        let counter = if succeeded { &mut results.succeeded } else { &mut results.failed };
        *counter = counter.saturating_add(1);
    }
}

const fn as_role(role: ApprovalRole) -> Role {
    match role {
        ApprovalRole::Operator => Role::Operator,
        ApprovalRole::Approver => Role::Approver,
        ApprovalRole::Admin => Role::Admin,
    }
}
