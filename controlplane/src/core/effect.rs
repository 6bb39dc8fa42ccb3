//! Our own measurement is the last level of evidence: what came for a measure upstream fell after it was told, or did not.

use super::{Core, Step};
use crate::clock::Now;
use crate::figures;
use crate::incident::{Note, TimelineKind};
use crate::ledger::{IncidentId, Mitigation, State};
use crate::notify::Topic;

impl Core {
    /// Looks at what an incident's measures upstream take away.
    pub(super) fn note_effect(&mut self, id: IncidentId, now: &Now, step: &mut Step) {
        let Some(incident) = self.incidents.get(id) else { return };
        // What the dataplane does not tell is not known, and what comes for a prefix is not measured by its hosts.
        if self.connected.is_none() || incident.merged_into.is_some() {
            return;
        }
        let rates = incident.rates;
        let in_force = || self.ledger.of_incident(id).filter(|entry| entry.state == State::Active);
        let told = |entry: &Mitigation| entry.effect.and_then(|effect| effect.told);
        // Of two stages the one that was told last is judged: what the other does cannot be told apart any more.
        let last = in_force().filter_map(|entry| Some((told(entry)?, entry.stage.clone())));
        let last = last.max_by_key(|(at, _)| (at.wall, at.monotonic)).map(|(_, stage)| stage);
        let (judged, overtaken): (Vec<&Mitigation>, Vec<&Mitigation>) =
            in_force().filter(|entry| told(entry).is_some()).partition(|entry| last.as_ref() == Some(&entry.stage));
        let ids = |entries: Vec<&Mitigation>| entries.into_iter().map(|entry| entry.id).collect::<Vec<_>>();
        let (judged, overtaken) = (ids(judged), ids(overtaken));
        for mitigation in overtaken {
            self.ledger.overtake(mitigation, now);
        }
        let mut without = Vec::new();
        for mitigation in judged {
            let Some(effect) = self.ledger.look(mitigation, &rates, now) else { continue };
            let Some(verdict) = effect.verdict else { continue };
            let (before, after) = (figures::bps(effect.before_bps), figures::bps(verdict.after_bps));
            let came = format!("{before} came for it before, {after} now");
            let Some(entry) = self.ledger.get(mitigation) else { continue };
            if verdict.effective {
                let note = Note::new(TimelineKind::Mitigation, format!("effective: {came}")).mitigation(mitigation);
                let note = Note { stage: entry.stage.clone(), ..note };
                self.incidents.note(id, now, note, &mut step.writes);
            } else {
                without.push(format!("{} by {}", entry.spec, entry.driver));
                let text = format!("without effect: {came}; whoever was told may not act on it");
                self.tell_of(mitigation, text, now, step);
            }
        }
        let stage = last.flatten().and_then(|name| self.runbook(id)?.stages.iter().find(|stage| stage.name == name));
        if let Some(channels) = stage.map(|stage| stage.notify.clone()).filter(|_| !without.is_empty()) {
            let text = format!("without effect: {}", without.join("; "));
            self.tell(id, &channels, Topic::StageFailed, &text, now, step);
        }
    }
}
