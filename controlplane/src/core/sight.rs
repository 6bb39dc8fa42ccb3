//! Whether what a stage does helps, does nothing or harms: what was measured before it, what comes now, and what receivers say.

use std::time::Duration;

use super::{Core, Step};
use crate::clock::Now;
use crate::ledger::{IncidentId, Mitigation, Outcome as End};
use crate::runbook::{Input, Report, Sight, Stage};

/// A measure is judged by what was seen so long after it came into force.
const JUDGED_AFTER: Duration = Duration::from_secs(10);
/// And no later: anything may have happened since.
const JUDGED_UNTIL: Duration = Duration::from_secs(60);
/// A receiver that takes less than this share of what there was reports calm.
const CALM_BELOW: f64 = 0.05;

/// What was measured before a stage came into force.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before {
    at: Now,
    attack_bps: f64,
    goodput_ratio: Option<f64>,
}

impl Core {
    pub(super) fn remember_before(&mut self, id: IncidentId, stage: &str, now: &Now) {
        let Some(incident) = self.incidents.get(id) else { return };
        let goodput_ratio = self.meters.effect(incident).goodput_ratio;
        let before = Before { at: *now, attack_bps: incident.rates.bps, goodput_ratio };
        self.before.insert((id, stage.to_owned()), before);
    }

    /// What is known of the effect of each stage.
    pub(super) fn sights(&self, id: IncidentId, now: &Now) -> Vec<Sight> {
        let (Some(runbook), Some(incident)) = (self.runbook(id), self.incidents.get(id)) else { return Vec::new() };
        let sight = |stage: &Stage| {
            if !stage.action.is_upstream() {
                return Sight::default();
            }
            let helps = |entry: &Mitigation| entry.effect?.helps(&entry.spec, &incident.rates, now);
            // One that helps is enough; where none does, that has to be known of one.
            let effective = self.of_stage(id, &stage.name).filter(|_| self.connected.is_some()).filter_map(helps).max();
            let taken: Option<u64> = {
                let taken = self.of_stage(id, &stage.name).map(|entry| self.ledger.taken_bps(entry.id));
                taken.flatten().reduce(u64::saturating_add)
            };
            #[expect(clippy::cast_precision_loss, reason = "no link carries 2^53 bits per second")]
            let report = match (taken, self.before.get(&(id, stage.name.clone()))) {
                (Some(0), _) => Report::Calm,
                (Some(taken), Some(before)) if (taken as f64) < CALM_BELOW * before.attack_bps => Report::Calm,
                (Some(_), Some(_)) => Report::Attack,
                // What came before it was told is not known after a restart: then it is tried.
                (Some(_), None) | (None, _) => Report::None,
            };
            Sight { effective, report }
        };
        runbook.stages.iter().map(sight).collect()
    }

    /// If clean traffic fell after a measure upstream came into force, and the attack goes on as it did, the measure goes. Only the
    /// newest, and only soon after it: what falls later, or while the attack grows, is the attack's doing, and who attacks must not
    /// be able to end what holds him off.
    pub(super) fn revert_harm(&mut self, id: IncidentId, now: &Now, step: &mut Step) {
        let (Some(incident), Some(runbook)) = (self.incidents.get(id), self.runbook(id)) else { return };
        let Some(goodput) = self.meters.effect(incident).goodput_ratio else { return };
        let attack = incident.rates.bps;
        let upstream = runbook.stages.iter().enumerate().filter(|(_, stage)| stage.action.is_upstream());
        let begun = upstream.filter_map(|(at, stage)| Some((at, self.before.get(&(id, stage.name.clone()))?, stage)));
        let Some((at, before, stage)) = begun.max_by_key(|(_, before, _)| before.at.monotonic) else { return };
        let judged = (JUDGED_AFTER..=JUDGED_UNTIL).contains(&now.since(&before.at));
        let fell = before.goodput_ratio.is_some_and(|before| goodput < 0.5 * before);
        let goes_on = (0.9..=1.1).contains(&(attack / before.attack_bps));
        if judged && fell && goes_on {
            let name = stage.name.clone();
            self.before.remove(&(id, name.clone()));
            self.end_stages(id, Some(&name), End::Reverted, now);
            self.drive(id, Input::Revert { stage: at }, now, step);
        }
    }
}
