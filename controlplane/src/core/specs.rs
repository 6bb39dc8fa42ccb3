//! From the action of a stage to measures that drivers can carry out.

use levee_api::config::{Action, BlackholeDirection, Divert, FlowSpec, FlowSpecAction, Via};
use levee_api::filter::{Constraint, Rule};
use levee_api::grpc::v1;
use levee_api::lane::Lane;
use levee_api::prefix::Prefix;

use super::Core;
use crate::driver::DriverName;
use crate::ledger::{Direction, FlowAction, FlowRule, IncidentId, Kind, PortRange, Spec};
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
            Action::FlowSpec(flowspec) => (named(&flowspec.announcers), self.flowspec(id, prefix, flowspec, down)),
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
                    let why = "the sources of this attack are not known one by one".to_owned();
                    return (Vec::new(), Some((Failure::Incapable, why)));
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
        if !can.kinds.contains(&kind) {
            return Some(format!("{driver} cannot do {kind}"));
        }
        let is_ipv4 = spec.prefix().is_none_or(|prefix| prefix.is_ipv4());
        if is_ipv4 && !can.ipv4 || !is_ipv4 && !can.ipv6 {
            return Some(format!("{driver} cannot do {kind} for {}", if is_ipv4 { "IPv4" } else { "IPv6" }));
        }
        let limits = matches!(
            spec,
            Spec::FlowSpec { action: FlowAction::RateLimit { .. } | FlowAction::RateLimitPackets { .. }, .. }
        );
        (kind == Kind::FlowSpec && limits && !can.rate_limit).then(|| format!("{driver} cannot limit rates"))
    }

    /// Rules that select what the reflex filters here, for routers upstream.
    fn flowspec(&self, id: IncidentId, prefix: Prefix, wanted: &FlowSpec, down: bool) -> Vec<Spec> {
        let limit = FlowAction::RateLimit { bps: wanted.rate_bps };
        let mut rules: Vec<(FlowRule, bool)> = Vec::new();
        for filter in self.incidents.reflex_filters(id) {
            let rule = filter.request.as_ref().and_then(|request| lowered(request, prefix));
            let Some((rule, exact)) = rule else { continue };
            match rules.iter_mut().find(|(known, _)| *known == rule) {
                Some((_, known)) => *known &= exact,
                None => rules.push((rule, exact)),
            }
        }
        if rules.is_empty() {
            // Nothing tells the attack from the rest yet: everything to the target is limited, nothing is dropped.
            rules.push((FlowRule::to(prefix), false));
        }
        rules.truncate(usize::from(wanted.max_rules));
        let action = |exact: bool| match &wanted.prefer {
            _ if down => limit.clone(),
            FlowSpecAction::RateLimit => limit.clone(),
            // A rule that is wider than the filter would drop what the filter spares.
            FlowSpecAction::Drop if !exact => limit.clone(),
            FlowSpecAction::Drop => FlowAction::Drop,
            FlowSpecAction::Redirect { to } => FlowAction::Redirect { to: to.clone() },
            FlowSpecAction::Mark { dscp } => FlowAction::Mark { dscp: *dscp },
        };
        rules.into_iter().map(|(rule, exact)| Spec::FlowSpec { rule, action: action(exact) }).collect()
    }
}

fn named(names: &[String]) -> Vec<DriverName> {
    names.iter().map(|name| DriverName(name.clone())).collect()
}

fn diverted(prefix: Prefix, divert: &Divert) -> Prefix {
    let length = if prefix.is_ipv4() { divert.ipv4_length } else { divert.ipv6_length };
    Prefix::containing(prefix.address(), length.min(prefix.length()))
}

/// The rule that selects at least what a filter does, and whether it selects no more. None when routers cannot select it by
/// protocol at all: it would be anything to the target.
///
/// This takes over what routers everywhere have: protocol, ports and lengths. Whatever else the filter asks for makes the
/// rule wider, and then it only limits.
fn lowered(request: &v1::FilterRequest, destination: Prefix) -> Option<(FlowRule, bool)> {
    let rule = Rule::try_from(request.rule.as_ref()?).ok()?;
    let mut lowered = FlowRule::to(destination);
    // Roles are what conversations say: no router knows them.
    let mut exact = request.roles.is_empty() && rule.pattern.is_none() && rule.except.is_empty();
    for constraint in rule.matches.constraints() {
        let Constraint::Range { lane, lo, hi } = constraint else {
            exact = false;
            continue;
        };
        let range = vec![PortRange { first: lo, last: hi }];
        match lane {
            Lane::Protocol if lo == hi => lowered.protocols = vec![u8::try_from(lo).ok()?],
            Lane::SrcPort => lowered.source_ports = range,
            Lane::DstPort => lowered.destination_ports = range,
            Lane::IpLength => lowered.lengths = range,
            _ => exact = false,
        }
    }
    let has_ports = [6, 17].iter().any(|protocol| lowered.protocols == [*protocol]);
    if !has_ports {
        // Of ICMP these lanes hold type and code.
        exact &= lowered.source_ports.is_empty() && lowered.destination_ports.is_empty();
        lowered.source_ports.clear();
        lowered.destination_ports.clear();
    }
    (!lowered.protocols.is_empty()).then_some((lowered, exact))
}
