//! `[[zone]]`: what is protected, and how.

use std::collections::HashMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use super::general::{MODES, name, prefix, values};
use super::guardrails::Guardrails;
use super::problem::{Fault, Problems};
use super::quantity;
use super::reference::RunbookOfZone;
use super::section::{Located, Section, choose, unknown};
use super::template::TEMPLATES;
use crate::overlap::overlaps;
use crate::prefix::Prefix;
use crate::role::Role;
use crate::zone::{Challenge, Mode, Service, Visibility, Zone};

/// Most zones: the tables of the dataplane have that many places.
pub const MAX_ZONES: usize = 4_096;

/// The zones, and where their runbooks are named.
pub(super) fn read(file: &Section<'_>, ceiling: Mode, guardrails: &Guardrails) -> (Vec<Zone>, Vec<RunbookOfZone>) {
    let tables = file.tables("zone");
    if tables.len() > MAX_ZONES {
        let fault =
            Fault::new(format!("{} zones are too many", tables.len()), format!("at most {MAX_ZONES} are possible"));
        file.problems().error(file.place("zone"), fault);
        return (Vec::new(), Vec::new());
    }
    let mut names = HashMap::new();
    let mut covered = Vec::new();
    let (mut zones, mut runbooks) = (Vec::with_capacity(tables.len()), Vec::new());
    for table in tables {
        let span = table.place("runbook");
        if let Some(zone) = zone(table, ceiling, guardrails, &mut names, &mut covered) {
            runbooks.push(RunbookOfZone { zone: zones.len(), span });
            zones.push(zone);
        }
    }
    refuse_overlaps(&covered, file.problems());
    (zones, runbooks)
}

/// A prefix, the name of its zone, and where it stands.
struct Covered {
    prefix: Prefix,
    zone: String,
    span: Range<usize>,
}

fn zone(
    mut table: Section<'_>,
    ceiling: Mode,
    guardrails: &Guardrails,
    names: &mut HashMap<String, Range<usize>>,
    covered: &mut Vec<Covered>,
) -> Option<Zone> {
    let problems = table.problems();
    let name = table.required("name", "\"web\"", |table, key| table.parsed(key, name));
    if let Some(name) = &name {
        table.rename(format!("zone {:?}", name.value));
        if let Some(first) = names.insert(name.value.clone(), name.span.clone()) {
            let fault = Fault::new(format!("two zones are named {:?}", name.value), "give each zone a name of its own");
            problems.conflict(name.span.clone(), fault, first, "first here");
        }
    }
    let prefixes = table.required("prefixes", "[\"203.0.113.0/24\"]", |table, key| table.parsed_list(key, prefix));
    if prefixes.as_ref().is_some_and(Vec::is_empty) && table.list("prefixes").is_some_and(<[_]>::is_empty) {
        problems.error(
            table.place("prefixes"),
            Fault::new("the zone protects nothing", "list at least one prefix, such as \"203.0.113.0/24\""),
        );
    }
    let title = name.as_ref().map_or_else(String::new, |name| name.value.clone());
    for Located { value: prefix, span } in prefixes.iter().flatten() {
        warn_of_guardrails(*prefix, span, guardrails, problems);
        covered.push(Covered { prefix: *prefix, zone: title.clone(), span: span.clone() });
    }
    let services: Vec<Service> = table.tables("services").into_iter().filter_map(|t| service(t)).collect();
    let services_complete = table.boolean("services_complete").unwrap_or(false);
    if services_complete && services.is_empty() && !table.has("services") {
        problems.error(
            table.place("services_complete"),
            Fault::new(
                "the services are said to be complete, and there are none",
                "list what inside offers in `services`",
            ),
        );
    }
    let visibility = table.choice(
        "visibility",
        &[("auto", Visibility::Auto), ("both", Visibility::Both), ("inbound", Visibility::Inbound)],
    );
    let challenge = table.choice(
        "challenge",
        &[
            ("reset", Challenge::Reset),
            ("safe_reset", Challenge::SafeReset),
            ("proxy", Challenge::Proxy),
            ("off", Challenge::Off),
        ],
    );
    if (challenge, visibility) == (Some(Challenge::Proxy), Some(Visibility::Inbound)) {
        let fault = Fault::new(
            "connections cannot be opened in the place of servers whose answers do not pass here (visibility = \"inbound\")",
            "use \"reset\" or \"safe_reset\", which need one direction only",
        );
        problems.error(table.place("challenge"), fault);
    }
    let zone = Zone {
        name: title,
        prefixes: values(prefixes.unwrap_or_default()),
        // Without a word, nothing is dropped.
        mode: table.choice("mode", MODES).unwrap_or(Mode::Monitor).min(ceiling),
        services,
        services_complete,
        visibility: visibility.unwrap_or(Visibility::Auto),
        challenge: challenge.unwrap_or_default(),
        challenge_dns: table.boolean("challenge_dns").unwrap_or(false),
        link_capacity_bps: table.parsed("link_capacity", quantity::bit_rate).map(|rate| rate.value),
        floors: floors(&table),
        runbook: table.parsed("runbook", super::general::name).map(|runbook| runbook.value),
    };
    table.refuse_unknown();
    name.map(|_| zone)
}

fn warn_of_guardrails(prefix: Prefix, span: &Range<usize>, guardrails: &Guardrails, problems: &Problems<'_>) {
    if let Some(protected) = guardrails.protected_prefixes.iter().find(|protected| protected.covers(&prefix)) {
        let fault = Fault::new(
            format!("{prefix} lies inside the protected prefix {protected}: no filter can ever defend it"),
            "make the protected prefix smaller, or leave this one out",
        );
        problems.warning(span.clone(), fault);
    }
    let owned = &guardrails.owned_prefixes;
    if !owned.is_empty() && !owned.iter().any(|owned| owned.covers(&prefix)) {
        let fault = Fault::new(
            format!("{prefix} is not inside `owned_prefixes`: no upstream measure can ever defend it"),
            "add it to `owned_prefixes` of [guardrails] if it is yours to announce",
        );
        problems.warning(span.clone(), fault);
    }
}

fn refuse_overlaps(covered: &[Covered], problems: &Problems<'_>) {
    let prefixes: Vec<Prefix> = covered.iter().map(|covered| covered.prefix).collect();
    for (first, second) in overlaps(&prefixes) {
        let (Some(first), Some(second)) = (covered.get(first), covered.get(second)) else { continue };
        if first.zone == second.zone {
            let fault = Fault::new(
                format!("{} overlaps with {}", second.prefix, first.prefix),
                "the wider of the two is enough",
            );
            problems.warning(second.span.clone(), fault);
        } else {
            let fault = Fault::new(
                format!(
                    "{} of zone {:?} overlaps with {} of zone {:?}",
                    second.prefix, second.zone, first.prefix, first.zone
                ),
                "an address can belong to one zone only: take one of the two out",
            );
            problems.conflict(second.span.clone(), fault, first.span.clone(), "the other one");
        }
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", 1),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", TCP),
    ("udp", UDP),
    ("ipv6", 41),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("ospf", 89),
    ("sctp", SCTP),
];

fn service(mut table: Section<'_>) -> Option<Service> {
    table.rename("service".to_owned());
    let protocol = table.required("proto", "\"tcp\"", protocol);
    let ports: Vec<(u16, u16)> = table
        .list("ports")
        .map_or_else(Vec::new, |values| values.iter().filter_map(|value| ports(&table, value)).collect());
    if let Some(protocol) = protocol
        && table.has("ports")
    {
        if ![TCP, UDP, SCTP].contains(&protocol) {
            let fault =
                Fault::new("this protocol has no ports", "leave `ports` out, or give `proto` as \"tcp\" or \"udp\"");
            table.problems().error(table.place("ports"), fault);
        } else if table.list("ports").is_some_and(<[_]>::is_empty) {
            let fault = Fault::new("the list of ports is empty", "leave `ports` out to mean all ports");
            table.problems().error(table.place("ports"), fault);
        }
    }
    table.refuse_unknown();
    Some(Service { protocol: protocol?, ports })
}

/// A name of the table above, or the number of any IP protocol.
fn protocol(table: &Section<'_>, key: &'static str) -> Option<u8> {
    if table.is_integer(key) {
        return table.integer(key, 0..=255).and_then(|number| u8::try_from(number).ok());
    }
    table.parsed(key, |text| choose("proto", text, PROTOCOLS)).map(|protocol| protocol.value)
}

/// A port, or a range such as "8000-8100".
fn ports<'t>(table: &Section<'t>, value: &'t Spanned<DeValue<'t>>) -> Option<(u16, u16)> {
    match value.get_ref() {
        DeValue::Integer(_) => {
            let port = table.as_integer("ports", value, 1..=65_535)?;
            let port = u16::try_from(port.value).ok()?;
            Some((port, port))
        }
        DeValue::String(_) => table.parse(&table.as_string("ports", value)?, port_range).map(|range| range.value),
        _ => table.wrong_kind("ports", value, "ports such as 443 or \"8000-8100\""),
    }
}

fn port_range(text: &str) -> Result<(u16, u16), Fault> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
        (Ok(first), Ok(last)) if (1..=last).contains(&first) => Ok((first, last)),
        (Ok(first), Ok(last)) if first > last && last > 0 => Err(Fault::new(
            format!("the range {text:?} ends before it begins"),
            format!("did you mean \"{last}-{first}\"?"),
        )),
        _ => Err(Fault::new(
            format!("{text:?} is neither a port nor a range"),
            "write 443 or \"8000-8100\", with ports from 1 to 65535",
        )),
    }
}

/// Floors per role, in packets per second.
pub(super) type Floors = &'static [(Role, u32)];

/// Those of the template, and before them those that the zone gives itself.
fn floors(table: &Section<'_>) -> Vec<(Role, u32)> {
    let mut floors = own_floors(table);
    for (role, pps) in table.choice("template", TEMPLATES).unwrap_or_default() {
        if floors.iter().all(|(own, _)| own != role) {
            floors.push((*role, *pps));
        }
    }
    floors.sort_unstable();
    floors
}

fn own_floors(table: &Section<'_>) -> Vec<(Role, u32)> {
    let Some(section) = table.table("floors", "floors".to_owned()) else { return Vec::new() };
    let known: Vec<&str> = roles_with_floors().map(Role::name).collect();
    let mut floors = Vec::new();
    for (key, value) in section.entries() {
        let Some(role) = roles_with_floors().find(|role| role.name() == key.value) else {
            section.problems().error(key.span, unknown("key", key.value, "`floors`", &known));
            continue;
        };
        let pps = section.as_integer(key.value, value, 1..=u64::from(u32::MAX));
        floors.extend(pps.and_then(|pps| u32::try_from(pps.value).ok()).map(|pps| (role, pps)));
    }
    floors
}

/// Malformed packets are always dropped.
fn roles_with_floors() -> impl Iterator<Item = Role> {
    Role::ALL.into_iter().filter(|role| !matches!(role, Role::Malformed))
}
