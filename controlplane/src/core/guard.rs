//! Guardrails, asked when a measure is planned. The same checks run again in every driver.

use std::time::Duration;

use super::{Core, Step};
use crate::clock::Now;
use crate::driver::DriverName;
use crate::guardrail::{Asked, InForce, Refusal};
use crate::incident::{Note, TimelineKind};
use crate::ledger::{FlowAction, FlowRule, IncidentId, Kind, MitigationId, Spec};

/// What else counts when a measure is begun.
#[derive(Default)]
pub(super) struct Others<'a> {
    /// In force, and gone as soon as this is: it needs no room of its own.
    pub(super) instead_of: &'a [MitigationId],
    /// About to be begun together with it.
    pub(super) besides: &'a [(DriverName, Spec)],
}

impl Core {
    /// Whether a measure may be begun. `people`: who has approved it.
    pub(super) fn guard(
        &mut self,
        driver: &DriverName,
        spec: &Spec,
        ttl: Duration,
        people: &[&str],
        others: &Others<'_>,
        now: &Now,
    ) -> Result<(), Refusal> {
        let besides = others.besides.iter().filter(|(at, _)| at == driver).count();
        let changes = self.ledger.recent_changes(driver, now).saturating_add(besides);
        let changes_last_minute = u32::try_from(changes).unwrap_or(u32::MAX);
        let all = || {
            let live = self.ledger.live().filter(|entry| !others.instead_of.contains(&entry.id));
            let live = live.map(|entry| (&entry.driver, &entry.spec));
            live.chain(others.besides.iter().map(|(driver, spec)| (driver, spec)))
        };
        let count = |kind: Kind, everywhere: bool| {
            let of_kind = all().filter(|(at, spec)| (everywhere || *at == driver) && spec.kind() == kind);
            u32::try_from(of_kind.count()).unwrap_or(u32::MAX)
        };
        let in_force = InForce {
            flowspec_rules: count(Kind::FlowSpec, false),
            blackholes: count(Kind::Blackhole, false),
            diversions: count(Kind::Divert, true),
        };
        let rules: Vec<(&FlowRule, &FlowAction)> = all()
            .filter_map(|(at, spec)| match spec {
                Spec::FlowSpec { rule, action } if at == driver => Some((rule, action)),
                _ => None,
            })
            .collect();
        let asked = Asked { ttl, in_force, rules: &rules, changes_last_minute, legitimate_share: None, people };
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
