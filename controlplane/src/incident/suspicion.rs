//! Findings without evidence: more than usual, and nothing that says why.
//!
//! A crowd looks like this, and so do the first tenths of a second of an attack. Nobody wants to be called for the first, and
//! the story of the second begins with the evidence. So a finding waits here until there is evidence, until it has ended, or
//! until it has lasted so long that somebody should know of it all the same.

use std::collections::BTreeMap;
use std::time::Duration;

use levee_api::grpc::dataplane::v1 as contract;

use super::record::AnomalyRef;
use crate::clock::Now;

/// What lasts so long is an incident also without evidence.
pub(super) const WATCHED_FOR: Duration = Duration::from_secs(30);
/// Most findings that wait; beyond it they are no incidents until there is evidence.
const MOST: usize = 20_000;

/// Findings that wait.
#[derive(Debug, Default)]
pub(super) struct Suspicions(BTreeMap<AnomalyRef, Suspicion>);

#[derive(Debug)]
struct Suspicion {
    since: Now,
    anomaly: contract::Anomaly,
}

/// True when the finding is only watched, by the states of its roles. One that tells no roles is believed.
pub(super) fn is_suspicion(anomaly: &contract::Anomaly) -> bool {
    let is_watched =
        |role: &contract::RoleStatus| role.state() == contract::TargetState::Watch && role.witness.is_empty();
    !anomaly.roles.is_empty() && anomaly.roles.iter().all(is_watched)
}

impl Suspicions {
    /// Has a finding wait, or go on waiting. False: it has waited long enough.
    pub(super) fn keep(&mut self, reference: &AnomalyRef, anomaly: &contract::Anomaly, now: &Now) -> bool {
        if let Some(known) = self.0.get_mut(reference) {
            known.anomaly.clone_from(anomaly);
            return now.since(&known.since) < WATCHED_FOR;
        }
        if self.0.len() < MOST {
            self.0.insert(reference.clone(), Suspicion { since: *now, anomaly: anomaly.clone() });
        }
        true
    }

    /// It has ended, or is an incident now.
    pub(super) fn forget(&mut self, reference: &AnomalyRef) {
        self.0.remove(reference);
    }

    /// Forgets what is not to be kept.
    pub(super) fn retain(&mut self, keep: impl Fn(&AnomalyRef) -> bool) {
        self.0.retain(|reference, _| keep(reference));
    }

    /// Takes what has waited long enough.
    pub(super) fn take_ripe(&mut self, now: &Now) -> Vec<(AnomalyRef, contract::Anomaly)> {
        let ripe = |suspicion: &Suspicion| now.since(&suspicion.since) >= WATCHED_FOR;
        if !self.0.values().any(ripe) {
            return Vec::new();
        }
        let (taken, left) = std::mem::take(&mut self.0).into_iter().partition(|(_, suspicion)| ripe(suspicion));
        self.0 = left;
        let taken: BTreeMap<AnomalyRef, Suspicion> = taken;
        taken.into_iter().map(|(reference, suspicion)| (reference, suspicion.anomaly)).collect()
    }
}
