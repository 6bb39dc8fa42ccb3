//! How much at a time, how fast, how much of it legitimate, and who has to agree.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Guards, Refusal, refusal};
use crate::ledger::{FlowAction, FlowRule, Kind, Spec};

/// A mitigation that is asked for, and what there is already.
#[derive(Clone, Debug, Default)]
pub struct Asked<'a> {
    /// How long it shall last from now.
    pub ttl: Duration,
    /// What may be in force at the same driver, this one not included.
    pub in_force: InForce,
    /// FlowSpec rules in force at the same driver, and what routers do with what matches.
    pub rules: &'a [(&'a FlowRule, &'a FlowAction)],
    /// Measures at the same driver that began within the last minute, this one not included. Filters do not count: they
    /// change no routing.
    pub changes_last_minute: u32,
    /// Share of the last minute's legitimate traffic towards the target that it would have hit; none: not known.
    pub legitimate_share: Option<f64>,
    /// Who has approved it.
    pub people: &'a [&'a str],
}

/// How many measures of each kind may be in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    /// FlowSpec rules at this announcer.
    pub flowspec_rules: u32,
    /// Blackholes at this announcer.
    pub blackholes: u32,
    /// Diversions everywhere.
    pub diversions: u32,
}

/// What a limit is counted of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Of each peer or provider.
    Driver,
    /// Of all together.
    Everything,
}

impl Guards {
    /// How many of a kind may be in force; none: the dataplane says itself what fits.
    pub const fn most(&self, kind: Kind) -> Option<(Of, u32)> {
        match kind {
            Kind::Filter => None,
            Kind::FlowSpec => Some((Of::Driver, self.rules.max_flowspec_rules)),
            Kind::Blackhole => Some((Of::Driver, self.rules.max_blackholes)),
            Kind::Divert => Some((Of::Everything, self.rules.max_diversions)),
        }
    }

    pub(super) fn check_budget(&self, spec: &Spec, asked: &Asked<'_>) -> Result<(), Refusal> {
        let rules = &self.rules;
        let (guardrail, used, limit) = match spec {
            // The dataplane has tables of its own, and refuses by itself what does not fit.
            Spec::Filter(_) => return Ok(()),
            Spec::FlowSpec { .. } => ("max_flowspec_rules", asked.in_force.flowspec_rules, rules.max_flowspec_rules),
            Spec::Blackhole { .. } => ("max_blackholes", asked.in_force.blackholes, rules.max_blackholes),
            Spec::Divert { .. } => ("max_diversions", asked.in_force.diversions, rules.max_diversions),
        };
        if used >= limit {
            let text = "so many are in force: something has to end first, or the limit is too low";
            return Err(refusal(guardrail, u64::from(used) + 1, limit, text));
        }
        if asked.changes_last_minute >= rules.max_changes_per_minute {
            let value = u64::from(asked.changes_last_minute) + 1;
            let text = "peers dampen what changes all the time: it is tried again when the minute is over";
            return Err(refusal("max_changes_per_minute", value, rules.max_changes_per_minute, text));
        }
        Ok(())
    }

    /// What is not known is not refused: upstream of us nobody measures, and the reversal of what does harm is the
    /// second line.
    pub(super) fn check_share(&self, share: Option<f64>) -> Result<(), Refusal> {
        let limit = self.rules.max_legitimate_share;
        match share {
            // A share that is no number is refused.
            Some(share) if share.is_nan() || share > limit => {
                let text = "it would have hit so much of the last minute's legitimate traffic: make it narrower";
                Err(refusal("max_legitimate_share", format!("{share:.4}"), limit, text))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_people(&self, spec: &Spec, people: &[&str]) -> Result<(), Refusal> {
        let whole_prefix = match spec {
            Spec::Divert { .. } => true,
            Spec::Blackhole { prefix, .. } => !prefix.is_host(),
            Spec::Filter(_) | Spec::FlowSpec { .. } => false,
        };
        let different: BTreeSet<&&str> = people.iter().collect();
        if !self.rules.two_person || !whole_prefix || different.len() >= 2 {
            return Ok(());
        }
        let text = "it takes a whole prefix away: two different people have to approve it";
        Err(refusal("two_person", format!("{} approved", different.len()), 2, text))
    }
}
