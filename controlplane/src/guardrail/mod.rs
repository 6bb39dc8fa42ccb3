//! Rules that no mitigation may break, whoever asked for it.
//!
//! Pure functions. They are called when a mitigation is planned ([`Guards::check`]) and again by every driver before it
//! says anything to anybody ([`Guards::check_spec`], which needs nothing but the measure itself).

mod budget;
mod cover;
mod protected;
mod refusal;
mod selection;
mod shape;
mod usual;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use levee_api::config::{Config, Guardrails};
use levee_api::filter::{Action, HeaderBox, Side};
use levee_api::grpc::FilterRequest;
use levee_api::prefix::Prefix;

pub use budget::{Asked, InForce, Of};
pub use protected::{Protected, resolvers};
pub use refusal::Refusal;
pub use selection::{can_be_judged, dropped};

use crate::ledger::{FilterSpec, Spec};

/// The guardrails of one configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Guards {
    rules: Guardrails,
    protected: Vec<Protected>,
    /// The prefixes of zones: a filter without a target is for all of them.
    zones: BTreeMap<String, Vec<Prefix>>,
}

impl Guards {
    /// Those of a configuration. What the machine itself depends on comes besides: the resolvers that it asks, its own
    /// addresses; each with a word on what it is.
    pub fn new(config: &Config, ours: impl IntoIterator<Item = (IpAddr, String)>) -> Self {
        let zones = config.zones.iter().map(|zone| (zone.name.clone(), zone.prefixes.clone()));
        Self { rules: config.guardrails.clone(), protected: protected::collect(config, ours), zones: zones.collect() }
    }

    /// The prefixes that nothing may touch, and what they are.
    pub fn protected(&self) -> &[Protected] {
        &self.protected
    }

    /// What holds whatever else is in force: targets, shapes and lengths.
    ///
    /// # Errors
    /// The guardrail that says no.
    pub fn check_spec(&self, spec: &Spec) -> Result<(), Refusal> {
        self.check_target(spec)?;
        self.check_shape(spec)
    }

    /// Everything: what [`check_spec`](Self::check_spec) checks, the time that is asked for, what is in force already and what it
    /// would be together with it, what the rule would do to legitimate traffic, and who has agreed.
    ///
    /// # Errors
    /// The guardrail that says no.
    pub fn check(&self, spec: &Spec, asked: &Asked<'_>) -> Result<(), Refusal> {
        self.check_spec(spec)?;
        self.check_ttl(asked.ttl)?;
        self.check_budget(spec, asked)?;
        Self::check_together(spec, asked.rules)?;
        self.check_share(asked.legitimate_share)?;
        self.check_people(spec, asked.people)
    }

    /// What a rule would have done to legitimate traffic: the dataplane is asked when it is carried out. `None`: it does not
    /// know.
    ///
    /// # Errors
    /// `max_legitimate_share`.
    pub fn check_legitimate_share(&self, share: Option<f64>) -> Result<(), Refusal> {
        self.check_share(share)
    }

    /// A deadline, and one that is near enough. For renewals too.
    ///
    /// # Errors
    /// `max_ttl`.
    pub fn check_ttl(&self, ttl: Duration) -> Result<(), Refusal> {
        let limit = self.rules.max_ttl;
        if !ttl.is_zero() && ttl <= limit {
            return Ok(());
        }
        Err(refusal(
            "max_ttl",
            seconds(ttl),
            seconds(limit),
            "every mitigation ends by itself within this time: ask for less and renew it while it is needed",
        ))
    }

    /// Only ours, and nothing that we depend on.
    fn check_target(&self, spec: &Spec) -> Result<(), Refusal> {
        if let Spec::Filter(filter) = spec {
            return self.check_filter(filter);
        }
        let Some(prefix) = spec.prefix() else { return Ok(()) };
        // A source that is blackholed is somebody else's: it must not be ours, and nothing that we depend on.
        let source = matches!(spec, Spec::Blackhole { direction: crate::ledger::Direction::Source, .. });
        let owned = self.rules.owned_prefixes.iter().any(|owned| owned.covers(&prefix));
        if source && self.rules.owned_prefixes.iter().any(|owned| owned.overlaps(&prefix)) {
            let text = "a blackhole for sources that are our own would cut us off";
            return Err(refusal("owned_prefixes", prefix, list(&self.rules.owned_prefixes), text));
        }
        if !(owned || source) {
            let text = "we may only speak of our own prefixes upstream: add it if it is yours to announce";
            return Err(refusal("owned_prefixes", prefix, list(&self.rules.owned_prefixes), text));
        }
        for protected in &self.protected {
            if protected.prefix.overlaps(&prefix) {
                let text = format!("it would touch {}, which has to stay reachable", protected.what);
                return Err(refusal("protected_prefixes", prefix, protected.prefix, &text));
            }
        }
        Ok(())
    }
}

impl Guards {
    /// Of filters the dataplane refuses those that touch what is protected; its own leave it out.
    fn check_filter(&self, filter: &FilterSpec) -> Result<(), Refusal> {
        let of_zone = self.zones.get(&filter.target.zone).map(Vec::as_slice).unwrap_or_default();
        let reach = filter.target.prefix.as_ref().map_or(of_zone, std::slice::from_ref);
        let overlap = |protected: &&Protected| reach.iter().any(|prefix| prefix.overlaps(&protected.prefix));
        let mut near = self.protected.iter().filter(overlap).peekable();
        if near.peek().is_none() {
            return Ok(());
        }
        // What cannot be read is not carried out.
        let rules: Vec<FilterRequest> = filter.filters.iter().filter_map(|filter| filter.request().ok()).collect();
        let inside =
            |protected: &Protected| filter.target.prefix.is_some_and(|prefix| protected.prefix.covers(&prefix));
        let hit = near.find(|protected| inside(protected) || rules.iter().any(|rule| touches(rule, protected.prefix)));
        let Some(Protected { prefix, what }) = hit else { return Ok(()) };
        let value =
            filter.target.prefix.map_or_else(|| format!("zone {}", filter.target.zone), |target| target.to_string());
        let text = format!("it would touch {what}, which has to stay reachable: ask for targets beside it");
        Err(refusal("protected_prefixes", value, prefix, &text))
    }
}

/// As the dataplane has it.
fn touches(filter: &FilterRequest, protected: Prefix) -> bool {
    let (rule, towards) = (&filter.rule, HeaderBox::any().prefix(Side::Destination, protected));
    let left_out = || rule.except.iter().any(|hole| hole.and(&towards) == towards);
    filter.action != Action::Pass && !rule.matches.and(&towards).is_empty() && !left_out()
}

fn refusal(guardrail: &str, value: impl ToString, limit: impl ToString, text: &str) -> Refusal {
    Refusal {
        guardrail: guardrail.to_owned(),
        value: value.to_string(),
        limit: limit.to_string(),
        text: text.to_owned(),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

fn list(prefixes: &[Prefix]) -> String {
    if prefixes.is_empty() {
        return "none are listed".to_owned();
    }
    prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
