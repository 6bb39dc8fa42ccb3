//! What the dataplane tells, and time: which incidents there are, when each is looked at, when it closes.

use std::time::Duration;

use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::dataplane::v1::event::What;

use super::{Command, Core, Step};
use crate::clock::Now;
use crate::dataplane::Snapshot;
use crate::incident::{Change, Context, Note, Phase, TimelineKind, severity};
use crate::ledger::{IncidentId, MitigationId};
use crate::store::{Position, Write};

/// An incident is looked at this often when nothing happens to it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many are looked at in one tick at least.
const LOOKS: usize = 64;
/// Calm for so long before it closes: what comes back within it is the same attack.
const CLOSES_AFTER: Duration = Duration::from_secs(60);
/// Things that are too old are looked for this often.
const TIDY_EVERY: Duration = Duration::from_secs(600);
/// Answers to requests are kept for so long.
const REQUESTS_KEPT: Duration = Duration::from_secs(24 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Core {
    pub(super) fn connect(&mut self, boot_id: String, now: &Now, step: &mut Step) {
        if self.position.boot_id != boot_id {
            self.restarted(&boot_id, now, step);
        }
        self.connected = Some(boot_id);
        // Filters in force are not stored, and events may be missing: the dataplane is asked.
        self.awaits_snapshot = true;
        step.commands.push(Command::TakeSnapshot);
        self.ledger.retry_soon(&crate::driver::DriverName::dataplane(), now);
    }

    fn restarted(&mut self, boot_id: &str, now: &Now, step: &mut Step) {
        let changes = self.with_context(now, step, |incidents, context| incidents.restarted(boot_id, context));
        self.position = Position { boot_id: boot_id.to_owned(), sequence: 0 };
        self.changed(changes, now, step);
    }

    pub(super) fn take_events(&mut self, events: &[contract::Event], now: &Now, step: &mut Step) {
        for event in events {
            let Some(what) = &event.what else { continue };
            if event.boot_id != self.position.boot_id {
                self.restarted(&event.boot_id, now, step);
                self.ask_for_snapshot(step);
            } else if event.sequence <= self.position.sequence {
                // Repeated, or contained in a snapshot.
                continue;
            } else if event.sequence > self.position.sequence.saturating_add(1) && self.position.sequence > 0 {
                self.ask_for_snapshot(step);
            }
            if matches!(what, What::Gap(_)) {
                self.ask_for_snapshot(step);
            }
            let changes =
                self.with_context(now, step, |incidents, context| incidents.take(&event.boot_id, what, context));
            self.position.sequence = event.sequence;
            self.changed(changes, now, step);
        }
    }

    fn ask_for_snapshot(&mut self, step: &mut Step) {
        if !self.awaits_snapshot {
            self.awaits_snapshot = true;
            step.commands.push(Command::TakeSnapshot);
        }
    }

    pub(super) fn resume(&mut self, snapshot: &Snapshot, now: &Now, step: &mut Step) {
        self.awaits_snapshot = false;
        let header = &snapshot.header;
        // An older one than what is known already would bring back what has ended.
        if header.boot_id == self.position.boot_id && header.sequence < self.position.sequence {
            self.ask_for_snapshot(step);
            return;
        }
        let changes = self.with_context(now, step, |incidents, context| {
            incidents.resume(&header.boot_id, &snapshot.anomalies, &snapshot.filters, context)
        });
        self.position = Position { boot_id: header.boot_id.clone(), sequence: header.sequence };
        self.take_counters(&snapshot.counters, now);
        self.changed(changes, now, step);
    }

    /// Takes in what was counted, many times a second; true when that is a reason to look at incidents before they are due.
    pub(super) fn take_counters(&mut self, counters: &contract::CountersResponse, now: &Now) -> bool {
        if !self.meters.take(counters, &self.policy.config, now) {
            return false;
        }
        let attacked = self
            .incidents
            .open()
            .filter(|id| self.incidents.get(*id).is_some_and(|incident| matches!(incident.phase, Phase::Attack)));
        // The rest is looked at as ever, within a second.
        self.stirred.extend(attacked.take(LOOKS));
        true
    }

    fn with_context<T>(
        &mut self,
        now: &Now,
        step: &mut Step,
        work: impl FnOnce(&mut crate::incident::Incidents, &mut Context<'_>) -> T,
    ) -> T {
        let (next, config, runbooks) = (&mut self.next_id, &self.policy.config, &self.policy.runbooks);
        let mut next_id = || {
            let id = *next;
            *next = next.saturating_add(1);
            IncidentId(id)
        };
        let runbook = |zone: &str| {
            let zone = config.zones.iter().find(|known| known.name == zone)?;
            Some(runbooks.of_zone(zone.runbook.as_deref()).name.clone())
        };
        let mut context = Context { now, next_id: &mut next_id, runbook: &runbook, writes: &mut step.writes };
        work(&mut self.incidents, &mut context)
    }

    fn changed(&mut self, changes: Vec<Change>, now: &Now, step: &mut Step) {
        for change in changes {
            match change {
                Change::Opened(id) => {
                    self.follow_runbook(id, now, step);
                    self.stirred.insert(id);
                }
                Change::Updated(id) | Change::Calmed(id) => {
                    self.stirred.insert(id);
                }
                Change::Merged { host, into } => {
                    self.end_runbook(host, false, now, step);
                    self.stirred.insert(host);
                    self.stirred.insert(into);
                }
            }
        }
    }

    pub(super) fn tick(&mut self, now: &Now, step: &mut Step) {
        let ripe = self.with_context(now, step, |incidents, context| incidents.ripen(context));
        self.changed(ripe, now, step);
        let open = self.incidents.open_count();
        let looks = LOOKS.max(open / 8).min(open);
        for _ in 0..looks {
            let next = self.incidents.open_after(self.cursor);
            let Some(id) = next.or_else(|| self.incidents.open().next()) else { break };
            self.cursor = id;
            if self.evaluated.get(&id).is_none_or(|at| now.since(at) >= LOOK_EVERY) {
                self.stirred.insert(id);
            }
        }
        if self.position != self.position_stored {
            self.position_stored = self.position.clone();
            step.writes.push(Write::PutPosition(self.position.clone()));
        }
        self.keep_within_caps(step);
        if self.tidied.is_none_or(|at| now.since(&at) >= TIDY_EVERY) {
            self.tidied = Some(*now);
            self.tidy(now, step);
        }
    }

    /// Looks at one incident: how bad it is, what its runbook says, whether it is over.
    pub(super) fn evaluate(&mut self, id: IncidentId, now: &Now, step: &mut Step) {
        let Some(incident) = self.incidents.get(id).filter(|incident| incident.is_open()) else { return };
        self.evaluated.insert(id, *now);
        let effect = self.meters.effect(incident);
        let (worse, was) = (severity(&effect), incident.severity);
        if matches!(incident.phase, Phase::Attack) && worse > was {
            if let Some(incident) = self.incidents.change(id) {
                incident.severity = worse;
            }
            let note = Note::new(TimelineKind::Attack, format!("severity {worse}, was {was}"));
            self.incidents.note(id, now, note, &mut step.writes);
        }
        if self.is_stopped() {
            // Nothing is begun; what was ended has ended, and the incident closes.
            self.report_stages(id, now, step);
        } else {
            self.run_stages(id, now, step);
        }
        self.note_effect(id, now, step);
        self.close_if_over(id, now, step);
    }

    fn close_if_over(&mut self, id: IncidentId, now: &Now, step: &mut Step) {
        let Some(incident) = self.incidents.get(id) else { return };
        let Phase::Calm(calm) = incident.phase else { return };
        let merged = incident.merged_into.is_some();
        // Without the dataplane nobody knows that it is calm.
        let is_calm = merged || (self.connected.is_some() && now.since(&calm.since) >= CLOSES_AFTER);
        let at_rest = self.progress.get(&id).is_none_or(|progress| progress.is_at_rest());
        let ended = self.ledger.of_incident(id).all(|entry| entry.has_ended());
        if !(is_calm && at_rest && ended) {
            return;
        }
        let channels = self.told_of(id);
        self.incidents.close(id, now, &mut step.writes);
        self.tell_closed(id, &channels, now, step);
        if self.progress.remove(&id).is_some() {
            step.writes.push(Write::DeleteRunbook(id));
        }
        self.before.retain(|(incident, _), _| *incident != id);
        self.evaluated.remove(&id);
        self.incidents.forget_timeline(id);
    }

    /// Forgets what is too old.
    fn tidy(&mut self, now: &Now, step: &mut Step) {
        let retention = self.policy.config.controlplane.retention;
        let days = |days: u16| DAY * u32::from(days);
        let too_old = |at: &Now, kept: Duration| now.since(at) >= kept;
        let incidents: Vec<IncidentId> = self
            .incidents
            .iter()
            .filter(|incident| matches!(&incident.phase, Phase::Closed { at } if too_old(at, days(retention.incident_days))))
            .map(|incident| incident.id)
            .collect();
        for id in incidents {
            self.incidents.forget(id, &mut step.writes);
        }
        let mitigations: Vec<MitigationId> = self
            .ledger
            .iter()
            .filter(|entry| entry.has_ended() && too_old(&entry.since, days(retention.mitigation_days)))
            .map(|entry| entry.id)
            .collect();
        for id in mitigations {
            self.ledger.forget(id, &mut step.writes);
        }
        let old = self.sent.iter().filter(|(_, ended)| too_old(ended, days(retention.message_days)));
        let messages: Vec<_> = old.map(|(id, _)| id.clone()).collect();
        for id in messages {
            self.sent.remove(&id);
            step.writes.push(Write::DeleteMessage(id));
        }
        let old = self.requests.values().filter(|request| too_old(&request.at, REQUESTS_KEPT));
        let requests: Vec<String> = old.map(|request| request.id.clone()).collect();
        for id in requests {
            self.requests.remove(&id);
            step.writes.push(Write::DeleteRequest(id));
        }
    }
}
