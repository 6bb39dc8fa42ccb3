//! From the action of a stage to measures that drivers can carry out.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use levee_api::address_set::SetAction;
use levee_api::config::{Action, BlackholeDirection, Divert, FlowSpec, FlowSpecAction, Via};
use levee_api::filter::{self, Rule};
use levee_api::grpc::{FilterRequest, v1};
use levee_api::lane::Lane;
use levee_api::prefix::Prefix;
use levee_api::role::RoleSet;

use super::Core;
use crate::bgp::lowering::{self, Wanted};
use crate::driver::DriverName;
use crate::guardrail::can_be_judged;
use crate::ledger::{Direction, FlowAction, FlowRule, IncidentId, Spec};
use crate::runbook::Failure;

/// What nobody can carry out, in words.
type Why = (Failure, String);

impl Core {
    /// What a stage asks of which driver. `down`: a rate limit in its place, to see whether the attack goes on.
    pub(super) fn plans(&self, id: IncidentId, action: &Action, down: bool) -> (Vec<(DriverName, Spec)>, Option<Why>) {
        let Some(incident) = self.incidents.get(id) else { return (Vec::new(), None) };
        let Some(prefix) = incident.target.prefix else {
            let why = "a whole zone is attacked: measures upstream need a prefix".to_owned();
            return (Vec::new(), Some((Failure::Incapable, why)));
        };
        let (drivers, specs): (Vec<DriverName>, Vec<Spec>) = match action {
            Action::FlowSpec(flowspec) => match self.flowspec(id, (&incident.target.zone, prefix), flowspec, down) {
                Ok(specs) => (named(&flowspec.announcers), specs),
                Err(why) => return (Vec::new(), Some(why)),
            },
            Action::Divert(divert) => {
                let drivers = match &divert.via {
                    Via::Scrubber(scrubber) => named(std::slice::from_ref(scrubber)),
                    Via::Announcers(announcers) => named(announcers),
                };
                (drivers, vec![Spec::Divert { prefix: diverted(prefix, divert) }])
            }
            Action::Blackhole(blackhole) if down => {
                let rule = FlowRule::to(prefix);
                let action = FlowAction::RateLimit { bps: blackhole.rate_bps };
                (named(&blackhole.announcers), vec![Spec::FlowSpec { rule, action }])
            }
            Action::Blackhole(blackhole) => match blackhole.direction {
                BlackholeDirection::Destination => {
                    let spec = Spec::Blackhole { prefix, direction: Direction::Destination };
                    (named(&blackhole.announcers), vec![spec])
                }
                BlackholeDirection::Source => {
                    let sources = self.sources(id, &incident.target.zone, prefix);
                    if sources.is_empty() {
                        let why =
                            "no filter on the target is about sources: those of this attack are not known one by one";
                        return (Vec::new(), Some((Failure::Incapable, why.to_owned())));
                    }
                    let spec = |prefix| Spec::Blackhole { prefix, direction: Direction::Source };
                    (named(&blackhole.announcers), sources.into_iter().map(spec).collect())
                }
            },
            _ => (Vec::new(), Vec::new()),
        };
        let mut plans = Vec::new();
        let mut why = None;
        for driver in drivers {
            for spec in &specs {
                match self.cannot(&driver, spec) {
                    Some(what) => why = Some((Failure::Incapable, what)),
                    None => plans.push((driver.clone(), spec.clone())),
                }
            }
        }
        (plans, why)
    }

    /// Why a driver cannot do this; none when it can.
    pub(super) fn cannot(&self, driver: &DriverName, spec: &Spec) -> Option<String> {
        let Some(can) = self.ledger.capabilities(driver) else {
            return Some(format!("{driver} has no driver in this version"));
        };
        let kind = spec.kind();
        let of_sources = matches!(spec, Spec::Blackhole { direction: Direction::Source, .. });
        if of_sources && !can.sources {
            return Some(format!("{driver} cannot blackhole sources"));
        }
        if !of_sources && !can.kinds.contains(&kind) {
            return Some(format!("{driver} cannot do {kind}"));
        }
        let is_ipv4 = spec.prefix().is_none_or(|prefix| prefix.is_ipv4());
        if is_ipv4 && !can.ipv4 || !is_ipv4 && !can.ipv6 {
            return Some(format!("{driver} cannot do {kind} for {}", if is_ipv4 { "IPv4" } else { "IPv6" }));
        }
        let Spec::FlowSpec { action, .. } = spec else { return None };
        let (able, what) = match action {
            FlowAction::Drop => (true, ""),
            FlowAction::RateLimit { .. } | FlowAction::RateLimitPackets { .. } => (can.rate_limit, "limit rates"),
            FlowAction::Redirect { .. } => (can.redirect, "redirect"),
            FlowAction::Mark { .. } => (can.mark, "mark"),
            FlowAction::Sample => (can.sample, "sample"),
        };
        (!able).then(|| format!("{driver} cannot {what}"))
    }

    /// Rules that select what the reflex filters here, for routers upstream.
    fn flowspec(
        &self,
        id: IncidentId,
        (zone, prefix): (&str, Prefix),
        flowspec: &FlowSpec,
        down: bool,
    ) -> Result<Vec<Spec>, Why> {
        let limit = FlowAction::RateLimit { bps: flowspec.rate_bps };
        let filters: Vec<(Rule, Prefix, bool, u64)> =
            self.incidents.reflex_filters(id).filter_map(|filter| filtered(filter, prefix)).collect();
        let mut rules: Vec<(FlowRule, bool, u64)> = Vec::new();
        let targets: BTreeSet<Prefix> = filters.iter().map(|(_, target, ..)| *target).collect();
        for target in targets {
            let on_it = filters.iter().filter(|(_, on, ..)| *on == target);
            let wanted: Vec<Wanted<'_>> =
                on_it.map(|(rule, _, by_role, effect)| Wanted { rule, by_role: *by_role, effect: *effect }).collect();
            let lowering = lowering::lower(&wanted, target, usize::from(flowspec.max_rules));
            rules.extend(lowering.rules.into_iter().map(|lowered| {
                // What it would do to legitimate traffic has to be known of what drops, and what passes here passes there.
                let exact = lowered.exact && can_be_judged(&lowered.rule) && !self.spares(zone, &lowered.rule);
                (lowered.rule, exact, lowered.effect)
            }));
        }
        if rules.is_empty() && down {
            // The filters have ended, for nothing reaches them any more. What is in force is known all the same, and has to be
            // stepped down: it could not end otherwise.
            let in_force = self.ledger.of_incident(id).filter(|entry| entry.is_wanted());
            for entry in in_force {
                if let Spec::FlowSpec { rule, .. } = &entry.spec
                    && !rules.iter().any(|(known, ..)| known == rule)
                {
                    rules.push((rule.clone(), false, 0));
                }
            }
        }
        rules.sort_by_key(|(.., effect)| Reverse(*effect));
        if rules.is_empty() {
            // Nothing tells the attack from the rest yet: everything to the target is limited, nothing is dropped. Of a whole
            // network that would be everybody in it, most of whom nobody attacks.
            if !prefix.is_host() {
                let why =
                    format!("nothing tells the attack on {prefix} from its other traffic, all of which is not limited");
                return Err((Failure::Incapable, why));
            }
            rules.push((FlowRule::to(prefix), false, 0));
        }
        rules.truncate(usize::from(flowspec.max_rules));
        let action = |exact: bool| match &flowspec.prefer {
            _ if down => limit.clone(),
            FlowSpecAction::RateLimit => limit.clone(),
            // A rule that is wider than the filter would drop what the filter spares.
            FlowSpecAction::Drop if !exact => limit.clone(),
            FlowSpecAction::Drop => FlowAction::Drop,
            FlowSpecAction::Redirect { to } => FlowAction::Redirect { to: to.clone() },
            FlowSpecAction::Mark { dscp } => FlowAction::Mark { dscp: *dscp },
            FlowSpecAction::Sample => FlowAction::Sample,
        };
        Ok(rules.into_iter().map(|(rule, exact, _)| Spec::FlowSpec { rule, action: action(exact) }).collect())
    }

    /// The sources that filters on a prefix drop by, those of the reflex that have matched the most first, then those of
    /// operators: so many as there may be blackholes. Not those of which something may pass here.
    fn sources(&self, id: IncidentId, zone: &str, prefix: Prefix) -> Vec<Prefix> {
        let reflex = self.incidents.reflex_filters(id).filter_map(|filter| filtered(filter, prefix));
        let mut reflex: Vec<(Rule, Prefix, u64)> = reflex.map(|(rule, on, _, effect)| (rule, on, effect)).collect();
        reflex.sort_by_key(|(.., effect)| Reverse(*effect));
        let asked = self.ledger.live().filter(|entry| entry.is_wanted() && entry.zone == zone);
        let asked = asked.filter_map(|entry| match &entry.spec {
            Spec::Filter(filter) => Some(filter.filters.iter().filter_map(|stored| stored.request().ok())),
            _ => None,
        });
        let drops = asked.flatten().filter(|request| request.action == filter::Action::Drop);
        let drops = drops.filter_map(|request| {
            let on = request.target.prefix.unwrap_or(prefix);
            on.overlaps(&prefix).then_some((request.rule, if on.covers(&prefix) { prefix } else { on }, 0))
        });
        let least = self.policy.config.guardrails.blackhole_length;
        let mut sources = Vec::new();
        for (rule, on, _) in reflex.into_iter().chain(drops) {
            let wanted = Wanted { rule: &rule, by_role: false, effect: 0 };
            let lowered = lowering::lower(&[wanted], on, 1).rules.pop().map(|lowered| lowered.rule);
            let Some(rule) = lowered else { continue };
            let Some(source) = rule.source else { continue };
            let long_enough = source.length() >= if source.is_ipv4() { least.ipv4 } else { least.ipv6 };
            if long_enough && !sources.contains(&source) && !self.spares(zone, &rule) {
                sources.push(source);
            }
        }
        sources.truncate(self.policy.config.guardrails.max_blackholes.try_into().unwrap_or(usize::MAX));
        sources
    }

    /// True when something that a rule matches may pass here, whatever filters say: no router knows of that.
    fn spares(&self, zone: &str, rule: &FlowRule) -> bool {
        let within = |prefix: &Prefix| match &rule.source {
            Some(source) => source.overlaps(prefix),
            None => prefix.is_ipv4() == rule.destination.is_ipv4(),
        };
        let by_set = self.policy.config.address_sets.iter().any(|set| {
            let here = set.zones.is_empty() || set.zones.iter().any(|known| known == zone);
            // What is in its files only the dataplane knows.
            set.action == SetAction::Pass && here && (!set.files.is_empty() || set.prefixes.iter().any(within))
        });
        let on_it = |target: &filter::Target| {
            target.zone == zone && target.prefix.is_none_or(|prefix| prefix.overlaps(&rule.destination))
        };
        by_set
            || self.ledger.live().filter(|entry| entry.is_wanted()).any(|entry| match &entry.spec {
                Spec::Filter(filter) if on_it(&filter.target) => {
                    let mut requests = filter.filters.iter().filter_map(|stored| stored.request().ok());
                    requests.any(|request| request.action == filter::Action::Pass)
                }
                _ => false,
            })
    }
}

fn named(names: &[String]) -> Vec<DriverName> {
    names.iter().map(|name| DriverName(name.clone())).collect()
}

fn diverted(prefix: Prefix, divert: &Divert) -> Prefix {
    let length = if prefix.is_ipv4() { divert.ipv4_length } else { divert.ipv6_length };
    Prefix::containing(prefix.address(), length.min(prefix.length()))
}

/// What a filter of the reflex selects, on which part of the prefix, whether it selects by more than a packet's headers, and
/// how many packets it has matched. None when it takes nothing away, or is on something else.
fn filtered(filter: &v1::Filter, prefix: Prefix) -> Option<(Rule, Prefix, bool, u64)> {
    let told = filter.request.as_ref()?;
    // The reflex has no name, which who asks for a filter must have, and what is at its end was in force until now.
    let named =
        v1::FilterRequest { owner: "reflex".to_owned(), remaining_ns: told.remaining_ns.max(1), ..told.clone() };
    let request = FilterRequest::try_from(&named).ok()?;
    let target = match request.target.prefix {
        Some(target) if prefix.covers(&target) => target,
        Some(target) if !target.covers(&prefix) => return None,
        _ => prefix,
    };
    // What passes some of what it matches selects more than the attack: then a rule may only limit, as one that is wider.
    let by_role = match request.action {
        filter::Action::Pass => return None,
        filter::Action::Drop => !request.roles.is_empty() && request.roles != RoleSet::ALL,
        filter::Action::Limit { .. } | filter::Action::Challenge { .. } | filter::Action::BlockSource { .. } => true,
    };
    // Routers know no roles, but what these say of the protocol: without it a rule could not name ports.
    let Rule { matches, pattern, except } = request.rule;
    let matches = request.roles.protocol().map_or(matches, |protocol| matches.exact(Lane::Protocol, protocol.into()));
    Some((Rule { matches, pattern, except }, target, by_role, filter.hits))
}
