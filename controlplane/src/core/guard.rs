//! Guardrails, asked when a measure is planned. The same checks run again in every driver.

use std::time::Duration;

use super::{Core, Step};
use crate::clock::Now;
use crate::driver::DriverName;
use crate::guardrail::{Asked, InForce, Refusal};
use crate::incident::{Note, TimelineKind};
use crate::ledger::{IncidentId, Kind, Spec};

impl Core {
    /// Whether a measure may be begun. `people`: who has approved it.
    pub(super) fn guard(
        &mut self,
        driver: &DriverName,
        spec: &Spec,
        ttl: Duration,
        people: &[&str],
        now: &Now,
    ) -> Result<(), Refusal> {
        let count = |kind: Kind, everywhere: bool| {
            let live = self.ledger.live().filter(|entry| everywhere || entry.driver == *driver);
            u32::try_from(live.filter(|entry| entry.spec.kind() == kind).count()).unwrap_or(u32::MAX)
        };
        let in_force = InForce {
            flowspec_rules: count(Kind::FlowSpec, false),
            blackholes: count(Kind::Blackhole, false),
            diversions: count(Kind::Divert, true),
        };
        let changes_last_minute = u32::try_from(self.ledger.recent_changes(driver, now)).unwrap_or(u32::MAX);
        let asked = Asked { ttl, in_force, changes_last_minute, legitimate_share: None, people };
        self.policy.guards.check(spec, &asked)
    }

    /// Whether the end of a measure may be moved.
    pub(super) fn guard_renewal(&self, spec: &Spec, ttl: Duration) -> Result<(), Refusal> {
        self.policy.guards.check_spec(spec)?;
        self.policy.guards.check_ttl(ttl)
    }

    pub(super) fn refused(
        &mut self,
        id: IncidentId,
        stage: &str,
        driver: &DriverName,
        refusal: &Refusal,
        now: &Now,
        step: &mut Step,
    ) {
        self.results.entry(driver.clone()).or_default().refused += 1;
        let note = Note::new(TimelineKind::Refusal, format!("{driver}: {refusal}")).stage(stage);
        self.incidents.note(id, now, note, &mut step.writes);
    }
}
