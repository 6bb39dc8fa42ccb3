//! FlowSpec rules in the languages of daemons and routers, for people who want to read or check what Levee announces.
//!
//! What ExaBGP, GoBGP and BIRD make of it is compared byte for byte with our own encoding in the tests. Junos and IOS XR are
//! from their documentation.

use std::fmt::Write as _;

use levee_api::prefix::Prefix;

use super::flowspec::{BadRedirect, TrafficAction};
use crate::ledger::{FlowAction, FlowRule, PortRange};

/// A language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Syntax {
    /// As Levee itself shows rules.
    Levee,
    /// The bytes of the NLRI and of the extended community, in hexadecimal digits.
    Hex,
    /// A `flow route` of ExaBGP 4.
    Exabgp,
    /// Arguments of `gobgp global rib add`.
    Gobgp,
    /// A static route of BIRD 2.
    Bird,
    /// A `set` command of Junos.
    Junos,
    /// A class map and a policy map of IOS XR.
    Iosxr,
}

impl Syntax {
    /// The names of all, in the order above.
    pub const NAMES: [&str; 7] = ["levee", "hex", "exabgp", "gobgp", "bird", "junos", "iosxr"];

    /// Its name, as it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Levee => "levee",
            Self::Hex => "hex",
            Self::Exabgp => "exabgp",
            Self::Gobgp => "gobgp",
            Self::Bird => "bird",
            Self::Junos => "junos",
            Self::Iosxr => "iosxr",
        }
    }

    /// The one of this name; our own when it has none.
    pub fn of(name: &str) -> Option<Self> {
        let all = <Self as clap::ValueEnum>::value_variants();
        if name.is_empty() { Some(Self::Levee) } else { all.iter().copied().find(|syntax| syntax.name() == name) }
    }
}

/// What a language cannot say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unspeakable {
    /// It has no words for this action.
    #[error("{0} has no words for it: {1}")]
    Action(&'static str, String),
    /// A redirection to nowhere.
    #[error(transparent)]
    Redirect(#[from] BadRedirect),
    /// A rule that routers choke on.
    #[error(transparent)]
    Unfit(#[from] super::flowspec::Unfit),
}

/// A rule and what is done with what matches. `name`: where a language wants one.
///
/// # Errors
/// When the language has no words for it.
pub fn render(syntax: Syntax, name: &str, rule: &FlowRule, action: &FlowAction) -> Result<String, Unspeakable> {
    // What is not sent is not shown either.
    let bytes = super::flowspec::Nlri::from(rule).encode()?;
    let community = TrafficAction::of(rule, action)?.encode();
    Ok(match syntax {
        Syntax::Levee => format!("{rule}: {action}"),
        Syntax::Hex => format!("{} {}", hex(&bytes), hex(&community)),
        Syntax::Exabgp => exabgp(rule, action, &community)?,
        Syntax::Gobgp => gobgp(rule, action)?,
        Syntax::Bird => bird(rule, &community),
        Syntax::Junos => junos(name, rule, action)?,
        Syntax::Iosxr => iosxr(name, rule, action)?,
    })
}

/// In hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The lists of a rule with the name that a language has for each: ports to and from, type and code of ICMP, lengths, DSCP.
fn lists<'r>(rule: &'r FlowRule, names: [&'r str; 6]) -> impl Iterator<Item = (&'r str, &'r [PortRange])> {
    let all =
        [&rule.destination_ports, &rule.source_ports, &rule.icmp_types, &rule.icmp_codes, &rule.lengths, &rule.dscps];
    names.into_iter().zip(all).filter(|(_, list)| !list.is_empty()).map(|(name, list)| (name, list.as_slice()))
}

const USUAL: [&str; 6] = ["destination-port", "source-port", "icmp-type", "icmp-code", "packet-length", "dscp"];

fn joined(list: &[PortRange], separator: &str, write: impl Fn(&PortRange) -> String) -> String {
    list.iter().map(write).collect::<Vec<_>>().join(separator)
}

/// Names of TCP flags, lowest bit first.
const FLAGS: [&str; 8] = ["fin", "syn", "rst", "push", "ack", "urgent", "ece", "cwr"];

/// The names of the flags in `bits`.
fn flags(bits: u16) -> Vec<&'static str> {
    FLAGS.into_iter().enumerate().filter(|(bit, _)| bits >> bit & 1 != 0).map(|(_, name)| name).collect()
}

fn exabgp(rule: &FlowRule, action: &FlowAction, community: &[u8; 8]) -> Result<String, Unspeakable> {
    let is_ipv4 = rule.destination.is_ipv4();
    let mut text = format!("flow route {{ match {{ destination {};", rule.destination);
    let number = |range: &PortRange| {
        if range.first == range.last {
            format!("={}", range.first)
        } else {
            format!(">={}&<={}", range.first, range.last)
        }
    };
    if let Some(source) = rule.source {
        let _ = write!(text, " source {source};");
    }
    if !rule.protocols.is_empty() {
        let all: Vec<String> = rule.protocols.iter().map(|protocol| format!("={protocol}")).collect();
        let _ = write!(text, " {} [ {} ];", if is_ipv4 { "protocol" } else { "next-header" }, all.join(" "));
    }
    // ExaBGP keeps only the first of several values without brackets, and says nothing.
    let names = if is_ipv4 {
        USUAL
    } else {
        ["destination-port", "source-port", "icmp-type", "icmp-code", "packet-length", "traffic-class"]
    };
    for (name, list) in lists(rule, names) {
        let _ = write!(text, " {name} [ {} ];", joined(list, " ", number));
    }
    if let Some((mask, value)) = rule.tcp_flags {
        let set = flags(value & mask).join("+");
        let clear = flags(mask & !value).join("+");
        let words = [(!set.is_empty()).then(|| format!("={set}")), (!clear.is_empty()).then(|| format!("!{clear}"))];
        let words: Vec<String> = words.into_iter().flatten().collect();
        let _ = write!(text, " tcp-flags [ {} ];", words.join("&"));
    }
    if let Some(later) = rule.later_fragment {
        let _ = write!(text, " fragment [ {}is-fragment ];", if later { "" } else { "!" });
    }
    let then = match action {
        FlowAction::Drop => "discard".to_owned(),
        // It takes rates for the same that differ by less than a byte, also when it is given them in bytes of the wire.
        FlowAction::RateLimit { bps } if !bps.is_multiple_of(8) => {
            return Err(Unspeakable::Action("ExaBGP", format!("{action}, which are no whole bytes")));
        }
        FlowAction::RateLimit { bps } => format!("rate-limit {}", bps / 8),
        // It has no words for these: their bytes then.
        _ => format!("extended-community [ 0x{} ]", hex(community)),
    };
    let _ = write!(text, " }} then {{ {then}; }} }}");
    Ok(text)
}

fn gobgp(rule: &FlowRule, action: &FlowAction) -> Result<String, Unspeakable> {
    let mut text = format!("match destination {}", rule.destination);
    if let Some(source) = rule.source {
        let _ = write!(text, " source {source}");
    }
    if !rule.protocols.is_empty() {
        let all: Vec<String> = rule.protocols.iter().map(|protocol| format!("=={protocol}")).collect();
        let _ = write!(text, " protocol '{}'", all.join(" "));
    }
    let number = |range: &PortRange| {
        if range.first == range.last {
            format!("=={}", range.first)
        } else {
            format!(">={}&<={}", range.first, range.last)
        }
    };
    for (name, list) in lists(rule, USUAL) {
        let _ = write!(text, " {name} '{}'", joined(list, " ", number));
    }
    if let Some((mask, value)) = rule.tcp_flags {
        let letters = |bits: u16| -> String {
            ['F', 'S', 'R', 'P', 'A', 'U', 'E', 'C']
                .into_iter()
                .enumerate()
                .filter(|(bit, _)| bits >> bit & 1 != 0)
                .map(|(_, letter)| letter)
                .collect()
        };
        let (set, clear) = (letters(value & mask), letters(mask & !value));
        let words = [(!set.is_empty()).then(|| format!("={set}")), (!clear.is_empty()).then(|| format!("!{clear}"))];
        let words: Vec<String> = words.into_iter().flatten().collect();
        let _ = write!(text, " tcp-flags '{}'", words.join("&"));
    }
    if let Some(later) = rule.later_fragment {
        let _ = write!(text, " fragment '{}is-fragment'", if later { "" } else { "!" });
    }
    text.push_str(" then ");
    match action {
        FlowAction::Drop => text.push_str("discard"),
        FlowAction::RateLimit { bps } => {
            let eighths = bps % 8 * 125;
            let _ = write!(text, "rate-limit {}", bps / 8);
            if eighths > 0 {
                let _ = write!(text, ".{eighths:03}");
            }
        }
        FlowAction::Redirect { to } if to.contains(':') => {
            let _ = write!(text, "redirect {to}");
        }
        FlowAction::Mark { dscp } => {
            let _ = write!(text, "mark {dscp}");
        }
        FlowAction::Sample => text.push_str("action terminal-sample"),
        other => return Err(Unspeakable::Action("GoBGP's command line", other.to_string())),
    }
    Ok(text)
}

fn bird(rule: &FlowRule, community: &[u8; 8]) -> String {
    let is_ipv4 = rule.destination.is_ipv4();
    let mut text = format!("route flow{} {{ dst {};", if is_ipv4 { 4 } else { 6 }, rule.destination);
    if let Some(source) = rule.source {
        let _ = write!(text, " src {source};");
    }
    if !rule.protocols.is_empty() {
        let all: Vec<String> = rule.protocols.iter().map(ToString::to_string).collect();
        let _ = write!(text, " {} {};", if is_ipv4 { "proto" } else { "next header" }, all.join(", "));
    }
    let number = |range: &PortRange| {
        if range.first == range.last { range.first.to_string() } else { format!("{}..{}", range.first, range.last) }
    };
    let late = ["dport", "sport", "icmp type", "icmp code", "length", "dscp"];
    let mut after = String::new();
    for (name, list) in lists(rule, late) {
        let place = if matches!(name, "length" | "dscp") { &mut after } else { &mut text };
        let _ = write!(place, " {name} {};", joined(list, ", ", number));
    }
    if let Some((mask, value)) = rule.tcp_flags {
        let _ = write!(text, " tcp flags {:#x}/{mask:#x};", value & mask);
    }
    text.push_str(&after);
    if let Some(later) = rule.later_fragment {
        let _ = write!(text, " fragment {}is_fragment;", if later { "" } else { "!" });
    }
    let [a, b, c, d, e, f, g, h] = *community;
    let (high, low) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    let _ = write!(text, " }} {{ bgp_ext_community.add((generic, {high:#x}, {low:#x})); }};");
    text
}

fn junos(name: &str, rule: &FlowRule, action: &FlowAction) -> Result<String, Unspeakable> {
    let rib = if rule.destination.is_ipv4() { "" } else { " rib inet6.0" };
    let head = format!("set routing-options{rib} flow route {name}");
    let mut lines = vec![format!("{head} match destination {}", rule.destination)];
    lines.extend(rule.source.map(|source| format!("{head} match source {source}")));
    let number = |range: &PortRange| {
        if range.first == range.last { range.first.to_string() } else { format!("{}-{}", range.first, range.last) }
    };
    if !rule.protocols.is_empty() {
        let all: Vec<String> = rule.protocols.iter().map(ToString::to_string).collect();
        lines.push(format!("{head} match protocol [ {} ]", all.join(" ")));
    }
    for (field, list) in lists(rule, USUAL) {
        lines.push(format!("{head} match {field} [ {} ]", joined(list, " ", number)));
    }
    if let Some((mask, value)) = rule.tcp_flags {
        if mask > 0x3f {
            return Err(Unspeakable::Action("Junos", "the TCP flags of congestion notification".to_owned()));
        }
        let set = flags(value & mask).into_iter().map(str::to_owned);
        let clear = flags(mask & !value).into_iter().map(|flag| format!("!{flag}"));
        lines.push(format!("{head} match tcp-flags \"{}\"", set.chain(clear).collect::<Vec<_>>().join(" & ")));
    }
    match rule.later_fragment {
        Some(true) => lines.push(format!("{head} match fragment is-fragment")),
        // The first is none of the later ones.
        Some(false) => lines.push(format!("{head} match fragment [ not-a-fragment first-fragment ]")),
        None => {}
    }
    lines.push(match action {
        FlowAction::Drop => format!("{head} then discard"),
        FlowAction::RateLimit { bps } => format!("{head} then rate-limit {bps}"),
        FlowAction::Redirect { to } if to.contains(':') => format!("{head} then routing-instance target:{to}"),
        FlowAction::Mark { dscp } => format!("{head} then mark {dscp}"),
        FlowAction::Sample => format!("{head} then sample\n{head} then next-term"),
        other => return Err(Unspeakable::Action("Junos", other.to_string())),
    });
    Ok(lines.join("\n"))
}

fn iosxr(name: &str, rule: &FlowRule, action: &FlowAction) -> Result<String, Unspeakable> {
    let mut lines = vec![format!("class-map type traffic match-all {name}")];
    let version = if rule.destination.is_ipv4() { "ipv4" } else { "ipv6" };
    let address = |prefix: Prefix| match prefix.address() {
        std::net::IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.length())).unwrap_or(0);
            format!("{address} {}", std::net::Ipv4Addr::from(mask))
        }
        std::net::IpAddr::V6(_) => prefix.to_string(),
    };
    let number = |range: &PortRange| {
        if range.first == range.last { range.first.to_string() } else { format!("{}-{}", range.first, range.last) }
    };
    lines.push(format!(" match destination-address {version} {}", address(rule.destination)));
    lines.extend(rule.source.map(|source| format!(" match source-address {version} {}", address(source))));
    if !rule.protocols.is_empty() {
        let all: Vec<String> = rule.protocols.iter().map(ToString::to_string).collect();
        lines.push(format!(" match protocol {}", all.join(" ")));
    }
    let types =
        if version == "ipv4" { ["ipv4 icmp-type", "ipv4 icmp-code"] } else { ["ipv6 icmp-type", "ipv6 icmp-code"] };
    for (field, list) in lists(rule, ["destination-port", "source-port", types[0], types[1], "packet length", "dscp"]) {
        lines.push(format!(" match {field} {}", joined(list, " ", number)));
    }
    if let Some((mask, value)) = rule.tcp_flags {
        if mask != value {
            return Err(Unspeakable::Action("IOS XR", "TCP flags that must not be set".to_owned()));
        }
        lines.push(format!(" match tcp-flag {value}"));
    }
    match rule.later_fragment {
        Some(true) => lines.push(" match fragment-type is-fragment".to_owned()),
        Some(false) => return Err(Unspeakable::Action("IOS XR", "no later fragments".to_owned())),
        None => {}
    }
    lines.push(" end-class-map".to_owned());
    lines.push(format!("policy-map type pbr {name}\n class type traffic {name}"));
    lines.push(match action {
        FlowAction::Drop => "  drop".to_owned(),
        FlowAction::RateLimit { bps } => format!("  police rate {bps} bps"),
        FlowAction::Redirect { to } if to.contains(':') => format!("  redirect nexthop route-target {to}"),
        FlowAction::Redirect { to } => format!("  redirect {version} nexthop {to}"),
        FlowAction::Mark { dscp } => format!("  set dscp {dscp}"),
        FlowAction::RateLimitPackets { .. } | FlowAction::Sample => {
            return Err(Unspeakable::Action("IOS XR", action.to_string()));
        }
    });
    lines.push(" !\nend-policy-map".to_owned());
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> FlowRule {
        let range = |first, last| PortRange { first, last };
        FlowRule {
            source: Some("198.51.100.0/24".parse().unwrap()),
            protocols: vec![17],
            source_ports: vec![range(53, 53), range(123, 123)],
            destination_ports: vec![range(1024, 65_535)],
            lengths: vec![range(200, 1500)],
            later_fragment: Some(true),
            ..FlowRule::to("203.0.113.30".parse().unwrap())
        }
    }

    #[test]
    fn one_rule_in_all_languages() {
        let limit = FlowAction::RateLimit { bps: 1_000_000 };
        for (syntax, text) in [
            (
                Syntax::Levee,
                "to 203.0.113.30/32 from 198.51.100.0/24 protocol 17 source port 53,123 destination port 1024-65535 length \
                 200-1500 later fragments: limit 1000000 bps",
            ),
            (Syntax::Hex, "230120cb00711e0218c6336403811105130400d5ffff060135817b0a03c8d505dc0c8002 8006000047f42400"),
            (
                Syntax::Exabgp,
                "flow route { match { destination 203.0.113.30/32; source 198.51.100.0/24; protocol [ =17 ]; \
                 destination-port [ >=1024&<=65535 ]; source-port [ =53 =123 ]; packet-length [ >=200&<=1500 ]; fragment [ \
                 is-fragment ]; } then { rate-limit 125000; } }",
            ),
            (
                Syntax::Gobgp,
                "match destination 203.0.113.30/32 source 198.51.100.0/24 protocol '==17' destination-port \
                 '>=1024&<=65535' source-port '==53 ==123' packet-length '>=200&<=1500' fragment 'is-fragment' then \
                 rate-limit 125000",
            ),
            (
                Syntax::Bird,
                "route flow4 { dst 203.0.113.30/32; src 198.51.100.0/24; proto 17; dport 1024..65535; sport 53, 123; length \
                 200..1500; fragment is_fragment; } { bgp_ext_community.add((generic, 0x80060000, 0x47f42400)); };",
            ),
        ] {
            assert_eq!(render(syntax, "levee-1", &rule(), &limit).unwrap(), text);
        }
        let junos = render(Syntax::Junos, "levee-1", &rule(), &limit).unwrap();
        assert!(junos.contains("set routing-options flow route levee-1 match source-port [ 53 123 ]\n"), "{junos}");
        assert!(junos.ends_with("then rate-limit 1000000"), "{junos}");
        let xr = render(Syntax::Iosxr, "LEVEE-1", &rule(), &limit).unwrap();
        assert!(xr.contains(" match source-address ipv4 198.51.100.0 255.255.255.0\n"), "{xr}");
    }

    #[test]
    fn what_a_language_cannot_say_is_told_and_not_left_out() {
        let packets = FlowAction::RateLimitPackets { pps: 1000 };
        for syntax in [Syntax::Gobgp, Syntax::Junos, Syntax::Iosxr] {
            assert!(matches!(render(syntax, "a", &rule(), &packets), Err(Unspeakable::Action(..))), "{syntax:?}");
        }
        let odd = FlowAction::RateLimit { bps: 9 };
        assert!(matches!(render(Syntax::Exabgp, "a", &rule(), &odd), Err(Unspeakable::Action(..))));
        assert!(render(Syntax::Gobgp, "a", &rule(), &odd).unwrap().ends_with("rate-limit 1.125"));
        let syn = FlowRule { tcp_flags: Some((0x12, 0x02)), protocols: vec![6], ..FlowRule::to(rule().destination) };
        assert!(matches!(render(Syntax::Iosxr, "a", &syn, &FlowAction::Drop), Err(Unspeakable::Action(..))));
        let long = FlowRule { protocols: (0..7).collect(), ..rule() };
        assert!(matches!(render(Syntax::Exabgp, "a", &long, &FlowAction::Drop), Err(Unspeakable::Unfit(_))));
    }
}
