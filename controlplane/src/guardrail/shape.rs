//! What measures may look like: lengths, and FlowSpec rules that are narrow enough not to be an outage of their own.

use levee_api::config::Lengths;
use levee_api::prefix::Prefix;

use super::cover::{self, LEAST_BPS, LEAST_PPS, limits, taken_together, takes};
use super::{Guards, Protected, Refusal, refusal};
use crate::ledger::{FlowAction, FlowRule, PortRange, Spec};

const TCP: u8 = 6;
const BGP: u16 = 179;

impl Guards {
    /// What a measure looks like: what is too short or takes too much, for whomever it is.
    ///
    /// # Errors
    /// `…_length`, `flowspec_shape`, `management_ports`, `protected_prefixes`.
    pub fn check_shape(&self, spec: &Spec) -> Result<(), Refusal> {
        match spec {
            Spec::Filter(_) => Ok(()),
            Spec::Blackhole { prefix, .. } => long_enough(
                *prefix,
                self.rules.blackhole_length,
                "blackhole",
                "a blackhole takes everything away: a host is the usual measure",
            ),
            Spec::Divert { prefix, .. } => long_enough(
                *prefix,
                self.rules.divert_length,
                "divert",
                "what is diverted is announced to the internet",
            ),
            Spec::FlowSpec { rule, action } => self.check_flowspec(rule, action),
        }
    }

    fn check_flowspec(&self, rule: &FlowRule, action: &FlowAction) -> Result<(), Refusal> {
        let FlowRule { source_ports, destination_ports, icmp_types, icmp_codes, lengths, dscps, .. } = rule;
        for (ranges, last) in [
            (source_ports, u16::MAX),
            (destination_ports, u16::MAX),
            (icmp_types, 255),
            (icmp_codes, 255),
            (lengths, u16::MAX),
            (dscps, 63),
        ] {
            let all = PortRange { first: 0, last };
            if let Some(range) = ranges.iter().find(|range| range.first > range.last || range.last > last) {
                let text = "a range that no packet is in matches nothing, or on some routers everything";
                return Err(refusal("flowspec_shape", range, all, text));
            }
        }
        if let Some((mask, value)) = rule.tcp_flags
            && value & !mask != 0
        {
            let text = "flags that are looked for and not looked at: no packet can match";
            return Err(refusal("flowspec_shape", format!("{value:#x}"), format!("within {mask:#x}"), text));
        }
        if let FlowAction::Mark { dscp: 64.. } = action {
            return Err(refusal("flowspec_shape", action, "0 to 63", "there are 64 code points"));
        }
        if rule.source.is_some_and(|source| source.is_ipv4() != rule.destination.is_ipv4()) {
            let text = "source and destination are of one version of IP";
            return Err(refusal("flowspec_shape", rule, "one version", text));
        }
        let (limits, takes) = (limits(action), takes(action));
        let is_wide = rule.destination.length() < self.rules.flowspec_length.of(rule.destination.is_ipv4());
        let everything = if takes { rule.everything() } else { None };
        if takes && (everything.is_some() || is_wide) && is_limit(action) {
            let least = format!("{LEAST_BPS} bps or {LEAST_PPS} pps");
            return Err(refusal("flowspec_shape", action, least, "a limit that lets so little pass drops everything"));
        }
        if let Some(whom) = everything {
            let text = format!("it takes away what comes to {whom}: that is a blackhole, ask for one, or only limit");
            return Err(refusal("flowspec_shape", rule, "a part of what usually comes", &text));
        }
        // What is wide has to be narrow in another way, and must not drop.
        if is_wide && !(rule.is_narrow() && limits) {
            let text = "a wider rule needs a protocol and a few source ports, and may only limit";
            return long_enough(rule.destination, self.rules.flowspec_length, "flowspec", text);
        }
        self.check_management(rule, action)
    }

    /// Rules that each take a part may together be what none of them may be alone.
    pub(super) fn check_together(spec: &Spec, others: &[(&FlowRule, &FlowAction)]) -> Result<(), Refusal> {
        let Spec::FlowSpec { rule, action } = spec else { return Ok(()) };
        if !takes(action) {
            return Ok(());
        }
        let others: Vec<&FlowRule> = others.iter().filter(|(_, action)| takes(action)).map(|(rule, _)| *rule).collect();
        let Some((destination, whom)) = taken_together(rule, &others) else { return Ok(()) };
        let text = format!(
            "with the rules that are in force it takes away what comes to {whom} at {destination}: that is a blackhole, ask for \
             one, or only limit"
        );
        Err(refusal("flowspec_shape", rule, "a part of what usually comes", &text))
    }

    /// A rule travels over sessions that it must not cut, and the appliance has to stay reachable. Destinations that
    /// overlap with protected prefixes are refused anyway; this is about packets *from* them, and about rules that match
    /// the ports of management for a whole owned prefix.
    fn check_management(&self, rule: &FlowRule, action: &FlowAction) -> Result<(), Refusal> {
        if action.lets_all_pass() {
            return Ok(());
        }
        let named = |protected: &&Protected| rule.source.is_some_and(|source| protected.prefix.covers(&source));
        if let Some(protected) = self.protected.iter().find(named) {
            let text = format!("it would take away what {} sends", protected.what);
            return Err(refusal("protected_prefixes", rule, format!("not from {}", protected.prefix), &text));
        }
        if !(rule.protocols.is_empty() || rule.protocols.contains(&TCP)) {
            return Ok(());
        }
        let from_protected = self
            .protected
            .iter()
            .find(|protected| rule.source.is_some_and(|source| source.overlaps(&protected.prefix)));
        let includes = |ranges: &[PortRange], port: u16| {
            ranges.is_empty() || ranges.iter().any(|range| (range.first..=range.last).contains(&port))
        };
        if let Some(protected) = from_protected {
            let managed = self.rules.management_ports.iter().chain([&BGP]);
            for port in managed {
                if includes(&rule.source_ports, *port) || includes(&rule.destination_ports, *port) {
                    let text = format!("it would take sessions of TCP port {port} away from {}", protected.what);
                    return Err(refusal("management_ports", rule, format!("not from {}", protected.prefix), &text));
                }
            }
        }
        // TCP/179 by name is never an attack that a rule should answer.
        if cover::names(&rule.destination_ports, BGP) || cover::names(&rule.source_ports, BGP) {
            let text = "a rule must not match the sessions that it travels over";
            return Err(refusal("management_ports", rule, "not TCP port 179", text));
        }
        Ok(())
    }
}

const fn is_limit(action: &FlowAction) -> bool {
    matches!(action, FlowAction::RateLimit { .. } | FlowAction::RateLimitPackets { .. })
}

fn long_enough(prefix: Prefix, least: Lengths, what: &str, text: &str) -> Result<(), Refusal> {
    let (version, least) = if prefix.is_ipv4() { ("ipv4", least.ipv4) } else { ("ipv6", least.ipv6) };
    if prefix.length() >= least {
        return Ok(());
    }
    Err(refusal(&format!("{what}_{version}_length"), prefix, format!("/{least} or longer"), text))
}
