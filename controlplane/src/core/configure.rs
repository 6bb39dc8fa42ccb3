//! Another configuration is in force: what it forbids ends, and that is told.

use std::collections::BTreeMap;

use levee_api::zone::Mode;

use super::{Core, Policy, Step, told};
use crate::clock::Now;
use crate::driver::DriverName;
use crate::incident::{Note, TimelineKind};
use crate::ledger::{IncidentId, Kind, Mitigation, MitigationId, Outcome as End};

impl Core {
    pub(super) fn configure(&mut self, policy: Policy, now: &Now, step: &mut Step) {
        if policy.drivers != self.policy.drivers {
            self.ledger.configure(policy.drivers.clone(), now);
        }
        self.outbox.reconfigure(told::channels(&policy.config));
        self.ledger.rename(&policy.config.appliance.name);
        self.policy = policy;
        let open: Vec<IncidentId> = self.incidents.open().collect();
        for id in &open {
            self.follow_runbook(*id, now, step);
        }
        if self.is_stopped() {
            // The store may not have taken more of it than that everything was stopped.
            self.end_all(now);
            for id in open {
                self.end_runbook(id, true, now, step);
            }
        }
        self.end_what_is_forbidden(now, step);
        self.shorten(now, step);
    }

    /// Measures that would be refused if they were asked for now. Who has approved them is not asked again: that was decided
    /// when they were begun.
    fn end_what_is_forbidden(&mut self, now: &Now, step: &mut Step) {
        let mut used: BTreeMap<(Option<DriverName>, Kind), u32> = BTreeMap::new();
        let mut forbidden: Vec<(MitigationId, End, String)> = Vec::new();
        // By age: what was there first keeps its place within a limit.
        for entry in self.ledger.live().filter(|entry| entry.is_wanted()) {
            let verdict = self.forbids(entry).or_else(|| {
                let (of, limit) = self.policy.guards.most(entry.spec.kind())?;
                let driver = (of == crate::guardrail::Of::Driver).then(|| entry.driver.clone());
                let used = used.entry((driver, entry.spec.kind())).or_default();
                *used = used.saturating_add(1);
                (*used > limit).then(|| (End::Refused, format!("no more than {limit} of its kind may be in force now")))
            });
            if let Some((outcome, why)) = verdict {
                forbidden.push((entry.id, outcome, why));
            }
        }
        for (id, outcome, why) in forbidden {
            self.tell_of(id, format!("the configuration has changed and it ends: {why}"), now, step);
            self.ledger.end(id, outcome, now);
        }
    }

    /// Why one measure may not go on, whatever else there is.
    pub(super) fn forbids(&self, entry: &Mitigation) -> Option<(End, String)> {
        if let Err(refusal) = self.policy.guards.check_spec(&entry.spec) {
            return Some((End::Refused, refusal.to_string()));
        }
        // Nobody could renew it, or bring it back.
        if let Some(why) = self.cannot(&entry.driver, &entry.spec) {
            return Some((End::Retired, why));
        }
        // What a person has asked for stays: modes are about what Levee does by itself.
        let watches = entry.stage.is_some() && self.zone_mode(&entry.zone) == Mode::Monitor;
        watches.then(|| (End::Retired, format!("zone {} only watches now", entry.zone)))
    }

    /// Deadlines beyond what may be given now come nearer.
    fn shorten(&mut self, now: &Now, step: &mut Step) {
        let most = self.policy.config.guardrails.max_ttl;
        let wanted = self.ledger.live().filter(|entry| entry.is_wanted());
        let long: Vec<MitigationId> =
            wanted.filter(|entry| entry.remaining(now) > most).map(|entry| entry.id).collect();
        for id in long {
            if self.ledger.renew(id, most, now) {
                let most = crate::figures::duration(most);
                self.tell_of(
                    id,
                    format!("the configuration has changed: it ends within {most} unless renewed"),
                    now,
                    step,
                );
            }
        }
    }

    /// Into the timeline of its incident, and for what has none into the log.
    pub(super) fn tell_of(&mut self, id: MitigationId, text: String, now: &Now, step: &mut Step) {
        let Some(entry) = self.ledger.get(id) else { return };
        let what = format!("mitigation {id} ({} by {})", entry.spec, entry.driver);
        step.commands.push(super::Command::Log(format!("{what}: {text}")));
        let mut note = Note::new(TimelineKind::Mitigation, text).mitigation(id);
        note.stage.clone_from(&entry.stage);
        if let Some(incident) = entry.incident {
            self.incidents.note(incident, now, note, &mut step.writes);
            self.stirred.insert(incident);
        }
    }
}
