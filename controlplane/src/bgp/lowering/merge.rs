//! Fewer rules that match the same, and long rules cut into several that routers take.

use levee_api::prefix::Prefix;

use super::Lowered;
use crate::bgp::flowspec::MAX_VALUES;
use crate::ledger::{FlowRule, PortRange};

/// Joins rules as long as that makes no packet match that did not before.
pub(super) fn merge(rules: Vec<Lowered>) -> Vec<Lowered> {
    let mut done: Vec<Lowered> = Vec::with_capacity(rules.len());
    for mut rule in rules {
        // What has grown may now meet others that it did not before.
        while let Some((at, joined)) =
            done.iter().enumerate().find_map(|(at, other)| Some((at, together(other, &rule)?)))
        {
            done.swap_remove(at);
            rule = joined;
        }
        done.push(rule);
    }
    done
}

fn together(a: &Lowered, b: &Lowered) -> Option<Lowered> {
    // A rule that limits does not stand in for one that may drop. Of one that takes another in, the other's omissions no longer
    // matter.
    let (rule, omitted): (FlowRule, Vec<String>) = if covers(&a.rule, &b.rule) && (a.exact || !b.exact) {
        (a.rule.clone(), a.omitted.clone())
    } else if covers(&b.rule, &a.rule) && (b.exact || !a.exact) {
        (b.rule.clone(), b.omitted.clone())
    } else if a.exact == b.exact {
        let rule = union(&a.rule, &b.rule)?;
        // Each by itself can be announced; both together would be everything.
        if rule.is_bare() && !(a.rule.is_bare() || b.rule.is_bare()) {
            return None;
        }
        let more = b.omitted.iter().filter(|what| !a.omitted.contains(what));
        (rule, a.omitted.iter().chain(more).cloned().collect())
    } else {
        return None;
    };
    let mut filters: Vec<usize> = a.filters.iter().chain(&b.filters).copied().collect();
    filters.sort_unstable();
    filters.dedup();
    Some(Lowered {
        exact: omitted.is_empty(),
        rule,
        omitted,
        wider_bits: a.wider_bits.max(b.wider_bits),
        effect: a.effect.saturating_add(b.effect),
        filters,
    })
}

/// True when every packet that matches `narrow` matches `wide`.
fn covers(wide: &FlowRule, narrow: &FlowRule) -> bool {
    let source = match (wide.source, narrow.source) {
        (None, _) => true,
        (Some(wide), Some(narrow)) => wide.covers(&narrow),
        (Some(_), None) => false,
    };
    let protocols = wide.protocols.is_empty()
        || !narrow.protocols.is_empty() && narrow.protocols.iter().all(|protocol| wide.protocols.contains(protocol));
    let flags = match (wide.tcp_flags, narrow.tcp_flags) {
        (None, _) => true,
        (Some((mask, value)), Some((more, narrow))) => mask & !more == 0 && narrow & mask == value,
        (Some(_), None) => false,
    };
    let fragment = wide.later_fragment.is_none() || wide.later_fragment == narrow.later_fragment;
    let lists = lists(wide).into_iter().zip(lists(narrow)).all(|(wide, narrow)| {
        let within = |range: &PortRange| wide.iter().any(|all| all.first <= range.first && range.last <= all.last);
        wide.is_empty() || !narrow.is_empty() && narrow.iter().all(within)
    });
    wide.destination.covers(&narrow.destination) && source && protocols && flags && fragment && lists
}

const fn lists(rule: &FlowRule) -> [&Vec<PortRange>; 6] {
    let FlowRule { source_ports, destination_ports, icmp_types, icmp_codes, lengths, dscps, .. } = rule;
    [source_ports, destination_ports, icmp_types, icmp_codes, lengths, dscps]
}

const fn lists_mut(rule: &mut FlowRule) -> [&mut Vec<PortRange>; 6] {
    let FlowRule { source_ports, destination_ports, icmp_types, icmp_codes, lengths, dscps, .. } = rule;
    [source_ports, destination_ports, icmp_types, icmp_codes, lengths, dscps]
}

/// One rule for both, if they differ in one component only.
fn union(a: &FlowRule, b: &FlowRule) -> Option<FlowRule> {
    let mut joined = a.clone();
    if !a.protocols.is_empty() && !b.protocols.is_empty() {
        joined.protocols.extend(&b.protocols);
        joined.protocols.sort_unstable();
        joined.protocols.dedup();
        if is_alike(&joined, b, |rule, all| rule.protocols.clone_from(&all.protocols)) {
            return Some(joined);
        }
        joined.protocols.clone_from(&a.protocols);
    }
    for at in 0..lists(a).len() {
        let (Some(mine), Some(others)) = (lists(a).get(at).copied(), lists(b).get(at).copied()) else { continue };
        if mine.is_empty() || others.is_empty() {
            continue;
        }
        let all = normalised(mine.iter().chain(others).copied());
        let set = |rule: &mut FlowRule, list: &Vec<PortRange>| {
            if let Some(place) = lists_mut(rule).into_iter().nth(at) {
                place.clone_from(list);
            }
        };
        set(&mut joined, &all);
        if is_alike(&joined, b, |rule, _| set(rule, &all)) {
            return Some(joined);
        }
        set(&mut joined, mine);
    }
    if let Some(source) = a.source.zip(b.source).and_then(|(a, b)| parent(a, b)) {
        joined.source = Some(source);
        if is_alike(&joined, b, |rule, all| rule.source = all.source) {
            return Some(joined);
        }
        joined.source = a.source;
    }
    joined.destination = parent(a.destination, b.destination)?;
    is_alike(&joined, b, |rule, all| rule.destination = all.destination).then_some(joined)
}

/// True when `other` is `joined` once it is given the one component that was joined.
fn is_alike(joined: &FlowRule, other: &FlowRule, give: impl Fn(&mut FlowRule, &FlowRule)) -> bool {
    let mut other = other.clone();
    give(&mut other, joined);
    other == *joined
}

/// The prefix of which these two are the halves.
fn parent(a: Prefix, b: Prefix) -> Option<Prefix> {
    let length = a.length().checked_sub(1).filter(|length| *length > 0)?;
    let parent = Prefix::containing(a.address(), length);
    (a != b && a.length() == b.length() && parent.covers(&b)).then_some(parent)
}

/// The same numbers in as few ranges as they need.
fn normalised(ranges: impl Iterator<Item = PortRange>) -> Vec<PortRange> {
    let mut all: Vec<PortRange> = ranges.collect();
    all.sort_unstable();
    let mut joined: Vec<PortRange> = Vec::with_capacity(all.len());
    for range in all {
        match joined.last_mut() {
            Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => last.last = last.last.max(range.last),
            _ => joined.push(range),
        }
    }
    joined
}

/// The same rule as several, none of which compares more than routers take in one component.
pub fn split(rule: &FlowRule) -> Vec<FlowRule> {
    let mut parts: Vec<FlowRule> = rule
        .protocols
        .chunks(MAX_VALUES)
        .map(|protocols| FlowRule { protocols: protocols.to_vec(), ..rule.clone() })
        .collect();
    if parts.is_empty() {
        parts.push(rule.clone());
    }
    for (at, list) in lists(rule).into_iter().enumerate() {
        let pieces = pieces(list);
        if pieces.len() < 2 {
            continue;
        }
        let with = |part: &FlowRule, piece: &Vec<PortRange>| {
            let mut part = part.clone();
            if let Some(place) = lists_mut(&mut part).into_iter().nth(at) {
                place.clone_from(piece);
            }
            part
        };
        parts = parts.iter().flat_map(|part| pieces.iter().map(move |piece| with(part, piece))).collect();
    }
    parts
}

/// A range is two comparisons, a number one.
fn pieces(list: &[PortRange]) -> Vec<Vec<PortRange>> {
    let mut pieces: Vec<Vec<PortRange>> = Vec::new();
    let mut room = 0;
    for range in list {
        let cost = if range.first == range.last { 1 } else { 2 };
        if cost > room {
            pieces.push(Vec::new());
            room = MAX_VALUES;
        }
        room -= cost;
        if let Some(piece) = pieces.last_mut() {
            piece.push(*range);
        }
    }
    pieces
}
