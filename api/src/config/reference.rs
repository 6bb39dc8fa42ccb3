//! Names that stand for something elsewhere in the file: runbooks of zones, announcers, scrubbers and notifiers of
//! stages; and whether what they stand for can do what is asked of it.

use super::Config;
use super::action::{Action, BlackholeDirection, FlowSpecAction, Via};
use super::bgp::{BgpFamily, BgpPeer};
use super::notifier::NotifierKind;
use super::problem::{Fault, Problems};
use super::runbook::{BUILT_IN, Otherwise, Runbook, Stage};
use super::section::nearest;
use super::upstream::{Announcer, AnnouncerKind, Capability};
use crate::zone::Zone;
use std::net::IpAddr;
use std::ops::Range;

/// Where a zone's runbook is named.
pub(super) struct RunbookOfZone {
    pub(super) zone: usize,
    pub(super) span: Range<usize>,
}

pub(super) fn check(config: &Config, of_zones: &[RunbookOfZone], problems: &Problems<'_>) {
    for place in of_zones {
        if let Some(zone) = config.zones.get(place.zone) {
            runbook_of(zone, &place.span, config, problems);
        }
    }
    let windows = config.maintenance.iter().flat_map(|window| window.zones.iter().map(move |zone| (window, zone)));
    for (window, zone) in windows {
        if !config.zones.iter().any(|known| known.name == *zone) {
            let names: Vec<&str> = config.zones.iter().map(|zone| zone.name.as_str()).collect();
            let fault = unknown(&format!("maintenance {:?} is for", window.name), "zone", zone, &names, "[[zone]]");
            problems.error(window.span.clone(), fault);
        }
    }
    check_peers(config, problems);
    for runbook in &config.runbooks {
        for stage in &runbook.stages {
            check_stage(runbook, stage, config, problems);
        }
    }
}

fn check_peers(config: &Config, problems: &Problems<'_>) {
    let names: Vec<&str> = config.announcers.iter().map(|announcer| announcer.name.as_str()).collect();
    for peer in config.bgp.iter().flat_map(|bgp| &bgp.peers) {
        let who = format!("the BGP peer {:?} belongs to", peer.name);
        match config.announcers.iter().find(|announcer| announcer.name == peer.announcer) {
            None => {
                let fault = unknown(&who, "announcer", &peer.announcer, &names, "[[announcer]]");
                problems.error(peer.span.clone(), fault);
            }
            Some(announcer) if announcer.kind != AnnouncerKind::Embedded => {
                let message = format!(
                    "{who} the announcer {:?}, which is of the kind {:?}",
                    announcer.name,
                    announcer.kind.name()
                );
                problems.error(peer.span.clone(), Fault::new(message, "name one with kind = \"embedded\""));
            }
            Some(announcer) => check_next_hops(peer, announcer, config, problems),
        }
    }
}

/// Blackholes and diversions of IPv6 need a next hop, and a session over IPv4 has none by itself.
fn check_next_hops(peer: &BgpPeer, announcer: &Announcer, config: &Config, problems: &Problems<'_>) {
    let needs = [Capability::Blackhole, Capability::SourceBlackhole, Capability::Divert];
    let would_be_asked = announcer.capabilities.contains(&Capability::Ipv6)
        && announcer.capabilities.iter().any(|capability| needs.contains(capability))
        && peer.families.contains(&BgpFamily::Ipv6Unicast)
        && config.zones.iter().flat_map(|zone| &zone.prefixes).any(|prefix| !prefix.is_ipv4());
    if would_be_asked && peer.address.is_ipv4() && announcer.next_hops.iter().all(IpAddr::is_ipv4) {
        let fault = Fault::new(
            format!(
                "the session with {:?} is over IPv4, so that blackholes and diversions of IPv6 have no next hop",
                peer.name
            ),
            format!(
                "give one in `next_hops` of the announcer {:?}, or leave \"ipv6-unicast\" out of `families` of the peer: then \
                 no such measure is asked of it",
                announcer.name
            ),
        );
        problems.warning(peer.span.clone(), fault);
    }
}

fn runbook_of(zone: &Zone, span: &Range<usize>, config: &Config, problems: &Problems<'_>) {
    let Some(name) = zone.runbook.as_deref() else { return };
    if name == BUILT_IN || config.runbooks.iter().any(|runbook| runbook.name == name) {
        return;
    }
    let mut names: Vec<&str> = config.runbooks.iter().map(|runbook| runbook.name.as_str()).collect();
    let fault = |names: &[&str]| unknown("the zone follows", "runbook", name, names, "[[runbook]]");
    if names.is_empty() {
        // Files from before there were runbooks go on working: the dataplane does not need one.
        let Fault { message, .. } = fault(&names);
        let help = format!("the zone gets the built-in one, {BUILT_IN:?}; describe your own in a [[runbook]] table");
        problems.warning(span.clone(), Fault::new(message, help));
    } else {
        names.push(BUILT_IN);
        problems.error(span.clone(), fault(&names));
    }
}

fn check_stage(runbook: &Runbook, stage: &Stage, config: &Config, problems: &Problems<'_>) {
    let who = format!("stage {:?} of runbook {:?}", stage.name, runbook.name);
    let error = |fault| problems.error(stage.span.clone(), fault);
    let notifiers: Vec<&str> = config.notifiers.iter().map(|notifier| notifier.name.as_str()).collect();
    let channels = match &stage.action {
        Action::Notify { channels } => channels.as_slice(),
        Action::Webhook { notifier } => std::slice::from_ref(notifier),
        _ => &[],
    };
    for channel in stage.notify.iter().chain(channels) {
        if !notifiers.contains(&channel.as_str()) {
            error(unknown(&format!("{who} tells"), "notifier", channel, &notifiers, "[[notifier]]"));
        }
    }
    if let Action::Webhook { notifier } = &stage.action
        && config.notifiers.iter().any(|known| known.name == *notifier && known.kind == NotifierKind::Log)
    {
        let message = format!("{who} calls the notifier {notifier:?}, which is a log");
        error(Fault::new(message, "name a notifier with kind = \"webhook\""));
    }
    check_announcers(&who, stage, config, problems);
    if let Action::Divert(divert) = &stage.action
        && let Via::Scrubber(name) = &divert.via
    {
        let names: Vec<&str> = config.scrubbers.iter().map(|scrubber| scrubber.name.as_str()).collect();
        match config.scrubbers.iter().find(|scrubber| scrubber.name == *name) {
            None => error(unknown(&format!("{who} diverts to"), "scrubber", name, &names, "[[scrubber]]")),
            Some(scrubber) if !scrubber.capabilities.contains(&Capability::Divert) => {
                error(incapable(&who, "scrubber", name, Capability::Divert));
            }
            Some(_) => {}
        }
    }
    check_lengths(&who, stage, config, problems);
}

fn check_announcers(who: &str, stage: &Stage, config: &Config, problems: &Problems<'_>) {
    let needed: &[Capability] = match &stage.action {
        Action::FlowSpec(flowspec) => match flowspec.prefer {
            FlowSpecAction::RateLimit => &[Capability::Flowspec, Capability::RateLimit],
            FlowSpecAction::Drop => &[Capability::Flowspec],
            FlowSpecAction::Redirect { .. } => &[Capability::Flowspec, Capability::Redirect],
            FlowSpecAction::Mark { .. } => &[Capability::Flowspec, Capability::Mark],
            FlowSpecAction::Sample => &[Capability::Flowspec, Capability::Sample],
        },
        Action::Blackhole(blackhole) => match blackhole.direction {
            BlackholeDirection::Destination => &[Capability::Blackhole],
            BlackholeDirection::Source => &[Capability::SourceBlackhole],
        },
        Action::Divert(_) => &[Capability::Divert],
        _ => &[],
    };
    let names: Vec<&str> = config.announcers.iter().map(|announcer| announcer.name.as_str()).collect();
    for name in stage.action.announcers() {
        let Some(announcer) = config.announcers.iter().find(|announcer| announcer.name == *name) else {
            let fault = unknown(&format!("{who} announces by"), "announcer", name, &names, "[[announcer]]");
            problems.error(stage.span.clone(), fault);
            continue;
        };
        for capability in needed {
            if !announcer.capabilities.contains(capability) {
                problems.error(stage.span.clone(), incapable(who, "announcer", name, *capability));
            }
        }
    }
}

/// What guardrails would refuse at 3 AM is refused now.
fn check_lengths(who: &str, stage: &Stage, config: &Config, problems: &Problems<'_>) {
    let guardrails = &config.guardrails;
    let error = |message: String, help: &str| problems.error(stage.span.clone(), Fault::new(message, help));
    if let Action::Divert(divert) = &stage.action {
        let shortest = guardrails.divert_length;
        for (length, least, version) in
            [(divert.ipv4_length, shortest.ipv4, "IPv4"), (divert.ipv6_length, shortest.ipv6, "IPv6")]
        {
            if length < least {
                let message =
                    format!("{who} diverts a /{length} of {version}, the guardrails allow no shorter than /{least}");
                error(message, "divert a longer prefix, or lower `divert_ipv4_length` and `divert_ipv6_length`");
            }
        }
        if guardrails.two_person {
            match &stage.approve {
                None => error(
                    format!("{who} takes a whole prefix away, which two people have to approve"),
                    "add `approve` to the stage, or leave `two_person` of [guardrails] out",
                ),
                Some(approval) if approval.otherwise == Otherwise::Proceed => error(
                    format!("{who} would proceed without an answer, but two people have to approve it"),
                    "write otherwise = \"skip\", or leave `two_person` of [guardrails] out",
                ),
                Some(_) => {}
            }
        }
    }
    let none = |what: &str, key: &str| {
        error(
            format!("{who} needs a {what}, and the guardrails allow none"),
            &format!("raise `{key}` of [guardrails]"),
        );
    };
    match &stage.action {
        Action::FlowSpec(_) if guardrails.max_flowspec_rules == 0 => none("FlowSpec rule", "max_flowspec_rules"),
        Action::Blackhole(_) if guardrails.max_blackholes == 0 => none("blackhole", "max_blackholes"),
        Action::Divert(_) if guardrails.max_diversions == 0 => none("diversion", "max_diversions"),
        _ => {}
    }
    if stage.action.is_upstream() && guardrails.owned_prefixes.is_empty() {
        let message = format!("{who} acts upstream, and no prefix is owned: guardrails would refuse all it does");
        error(message, "list what is yours to announce in `owned_prefixes` of [guardrails]");
    }
}

fn unknown(who: &str, what: &str, name: &str, known: &[&str], table: &str) -> Fault {
    let help = match (nearest(name, known), known) {
        (Some(near), _) => format!("did you mean {near:?}?"),
        (None, []) => format!("describe it in a {table} table"),
        (None, known) => format!("known are {}; describe others in a {table} table", known.join(", ")),
    };
    Fault::new(format!("{who} the {what} {name:?}, which there is not"), help)
}

fn incapable(who: &str, what: &str, name: &str, capability: Capability) -> Fault {
    Fault::new(
        format!("{who} needs `{}`, which the {what} {name:?} cannot do", capability.name()),
        format!("take another {what}, or add it to its `capabilities` if its peer accepts that"),
    )
}
