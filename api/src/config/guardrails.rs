//! `[guardrails]`: rules that no mitigation may break, whoever asks for it.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::general::{absolute_path, prefix, values};
use super::problem::Fault;
use super::quantity;
use super::section::Section;
use crate::prefix::Prefix;

/// Rules that no mitigation may break.
#[derive(Debug, Clone, PartialEq)]
pub struct Guardrails {
    /// The network that upstream measures may speak of.
    pub owned_prefixes: Vec<Prefix>,
    /// Addresses that no filter may ever touch: management, routers, resolvers.
    pub protected_prefixes: Vec<Prefix>,
    /// Longest time that a mitigation may be installed or renewed for.
    pub max_ttl: Duration,
    /// FlowSpec rules in force at one announcer.
    pub max_flowspec_rules: u32,
    /// Blackholes in force at one announcer.
    pub max_blackholes: u32,
    /// Prefixes diverted at the same time.
    pub max_diversions: u32,
    /// Measures upstream that begin, change or end within a minute; ends are never held back.
    pub max_changes_per_minute: u32,
    /// Shortest destination of a FlowSpec rule; shorter ones only as narrow rate limits inside owned prefixes.
    pub flowspec_length: Lengths,
    /// Shortest prefix of a blackhole.
    pub blackhole_length: Lengths,
    /// Shortest prefix that is diverted: what the internet takes is no longer than /24 and /48.
    pub divert_length: Lengths,
    /// Share of the last minute's legitimate traffic that a rule may hit, 0 to 1.
    pub max_legitimate_share: f64,
    /// TCP ports by which routers and this appliance are managed: no rule drops them towards protected addresses.
    pub management_ports: Vec<u16>,
    /// Two different people have to approve what takes a whole prefix away.
    pub two_person: bool,
    /// While this file exists and root owns it nothing is mitigated, here or upstream.
    pub kill_switch: PathBuf,
}

/// Prefix lengths, by version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// Of IPv4.
    pub ipv4: u8,
    /// Of IPv6.
    pub ipv6: u8,
}

impl Lengths {
    /// The one for this prefix's version.
    pub const fn of(&self, ipv4: bool) -> u8 {
        if ipv4 { self.ipv4 } else { self.ipv6 }
    }
}

impl Guardrails {
    /// What `max_ttl` is at most.
    pub const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);
}

impl Default for Guardrails {
    fn default() -> Self {
        Self {
            owned_prefixes: Vec::new(),
            protected_prefixes: Vec::new(),
            max_ttl: Self::MAX_TTL,
            max_flowspec_rules: 100,
            max_blackholes: 5,
            max_diversions: 5,
            max_changes_per_minute: 60,
            flowspec_length: Lengths { ipv4: 24, ipv6: 48 },
            blackhole_length: Lengths { ipv4: 32, ipv6: 128 },
            divert_length: Lengths { ipv4: 24, ipv6: 48 },
            max_legitimate_share: 0.05,
            management_ports: vec![22, 179, 830],
            two_person: false,
            kill_switch: PathBuf::from("/etc/levee/kill-switch"),
        }
    }
}

const IPV4: RangeInclusive<u64> = 8..=32;
const IPV6: RangeInclusive<u64> = 16..=128;

pub(super) fn read(file: &Section<'_>) -> Guardrails {
    let default = Guardrails::default();
    let Some(section) = file.table("guardrails", "[guardrails]".to_owned()) else { return default };
    let prefixes = |key| values(section.parsed_list(key, prefix).unwrap_or_default());
    let number = |key, most, otherwise: u32| {
        section.integer(key, 0..=most).and_then(|number| u32::try_from(number).ok()).unwrap_or(otherwise)
    };
    let length = |key, allowed, otherwise: u8| {
        section.integer(key, allowed).and_then(|length| u8::try_from(length).ok()).unwrap_or(otherwise)
    };
    let listed = section.parsed_list("owned_prefixes", prefix).unwrap_or_default();
    for owned in &listed {
        if owned.value.length() < if owned.value.is_ipv4() { 8 } else { 16 } {
            let message = format!(
                "{} is more than anybody owns: with it, guardrails let measures touch nearly everything",
                owned.value
            );
            section.problems().warning(owned.span.clone(), Fault::new(message, "list what is yours to announce"));
        }
    }
    let guardrails = Guardrails {
        owned_prefixes: values(listed),
        protected_prefixes: prefixes("protected_prefixes"),
        max_ttl: section.parsed("max_ttl", max_ttl).map_or(default.max_ttl, |ttl| ttl.value),
        max_flowspec_rules: number("max_flowspec_rules", 10_000, default.max_flowspec_rules),
        max_blackholes: number("max_blackholes", 10_000, default.max_blackholes),
        max_diversions: number("max_diversions", 10_000, default.max_diversions),
        max_changes_per_minute: section
            .integer("max_changes_per_minute", 1..=100_000)
            .and_then(|number| u32::try_from(number).ok())
            .unwrap_or(default.max_changes_per_minute),
        flowspec_length: Lengths {
            ipv4: length("flowspec_ipv4_length", IPV4, default.flowspec_length.ipv4),
            ipv6: length("flowspec_ipv6_length", IPV6, default.flowspec_length.ipv6),
        },
        blackhole_length: Lengths {
            // A whole /24 is the most that anybody takes away on purpose.
            ipv4: length("blackhole_ipv4_length", 24..=32, default.blackhole_length.ipv4),
            ipv6: length("blackhole_ipv6_length", 48..=128, default.blackhole_length.ipv6),
        },
        divert_length: Lengths {
            ipv4: length("divert_ipv4_length", IPV4, default.divert_length.ipv4),
            ipv6: length("divert_ipv6_length", IPV6, default.divert_length.ipv6),
        },
        max_legitimate_share: section
            .fraction("max_legitimate_share", 0.0..=1.0)
            .unwrap_or(default.max_legitimate_share),
        management_ports: ports(&section).unwrap_or(default.management_ports),
        two_person: section.boolean("two_person").unwrap_or(default.two_person),
        kill_switch: section.parsed("kill_switch", absolute_path).map_or(default.kill_switch, |path| path.value),
    };
    section.refuse_unknown();
    guardrails
}

fn ports(section: &Section<'_>) -> Option<Vec<u16>> {
    let ports = section.list("management_ports")?;
    let port = |value| section.as_integer("management_ports", value, 1..=65_535);
    Some(ports.iter().filter_map(port).filter_map(|port| u16::try_from(port.value).ok()).collect())
}

fn max_ttl(text: &str) -> Result<Duration, Fault> {
    let ttl = quantity::duration(text)?;
    if (Duration::from_secs(1)..=Guardrails::MAX_TTL).contains(&ttl) {
        return Ok(ttl);
    }
    Err(Fault::new(
        format!("a mitigation cannot last for {text}"),
        "give a duration from \"1s\" to \"24h\"; mitigations that last longer are renewed",
    ))
}
