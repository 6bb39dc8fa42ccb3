//! Exceptions: values that legitimate packets share and the attack does not have, taken out of a rule again. A rule that
//! is far too wide becomes precise once the few things that real clients send are out of it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use levee_api::filter::HeaderBox;

use super::accept::Scale;
use super::atoms::groups;
use super::condition::{Condition, Population};
use super::features::HEADER;
use super::members::Members;

/// At most this many are tried.
const MAX_CANDIDATES: usize = 128;
/// At most this many per rule.
const MAX_HOLES: usize = 8;
/// A value spares at least this many hits. Leave-one-out: had any of them not been seen, two others would still have
/// vouched for it, so that its like is spared too when it comes. A value of two says nothing about a third.
const MIN_SPARED: u32 = 3;
/// And at least this share of the reservoir, 1 in 500: ephemeral ports and identifications coincide by chance.
const MIN_SHARE: u32 = 500;

/// A value that may be taken out of rules.
pub(super) struct Hole {
    matches: HeaderBox,
    attack: Members,
    legitimate: Members,
}

/// A rule's hits after taking holes out.
pub(super) struct Spared {
    pub(super) holes: Vec<HeaderBox>,
    pub(super) attack: Members,
    pub(super) legitimate: Members,
}

/// What may be taken out: values that legitimate packets of at least two conversations share, most common first.
pub(super) fn holes(scale: &Scale, attack: &Population<'_>, legitimate: &Population<'_>) -> Vec<Hole> {
    let shared = |samples: &[u32]| {
        let conversation = |index: &u32| {
            usize::try_from(*index).ok().and_then(|index| legitimate.samples.get(index)).map(|s| s.conversation)
        };
        let mut conversations = samples.iter().map(conversation);
        let first = conversations.next();
        conversations.any(|other| Some(other) != first)
    };
    let least = usize::try_from((scale.legitimate / MIN_SHARE).max(MIN_SPARED)).unwrap_or(usize::MAX);
    let mut found: Vec<(usize, HeaderBox)> = HEADER
        .iter()
        .flat_map(|feature| groups(feature, legitimate).into_iter().map(move |group| (feature, group)))
        .filter(|(_, group)| group.len() >= least && shared(&group.samples))
        .map(|(feature, group)| (group.len(), (feature.condition)(group.value).matches))
        .collect();
    found.sort_by_key(|(count, _)| Reverse(*count));
    found
        .into_iter()
        .take(2 * MAX_CANDIDATES)
        .filter_map(|(_, matches)| {
            let condition = Condition::header(matches);
            let attack = attack.members(&condition);
            let legitimate = legitimate.members(&condition);
            scale.hardly_of_the_attack(attack.count(), legitimate.count()).then_some(Hole {
                matches,
                attack,
                legitimate,
            })
        })
        .take(MAX_CANDIDATES)
        .collect()
}

/// Legitimate samples that no hole could spare.
pub(super) fn stubborn(size: usize, holes: &[Hole]) -> Members {
    holes.iter().fold(Members::all(size), |left, hole| left.without(&hole.legitimate))
}

/// Takes out of a rule's hits what is worth it, always the value that spares most.
pub(super) fn spare(scale: &Scale, holes: &[Hole], attack: &Members, legitimate: &Members) -> Spared {
    let mut spared = Spared { holes: Vec::new(), attack: attack.clone(), legitimate: legitimate.clone() };
    if !scale.has_reference() {
        return spared;
    }
    // Lazy greedy: what a hole spares only shrinks as others are taken, so a count that is still the largest after
    // being renewed is the largest.
    let mut queue: BinaryHeap<(u32, Reverse<usize>)> = holes
        .iter()
        .enumerate()
        .map(|(index, hole)| (spared.legitimate.count_and(&hole.legitimate), Reverse(index)))
        .filter(|(count, _)| *count >= MIN_SPARED)
        .collect();
    while let Some((_, Reverse(index))) = queue.pop() {
        let Some(hole) = holes.get(index) else { continue };
        let count = spared.legitimate.count_and(&hole.legitimate);
        if count < MIN_SPARED {
            continue;
        }
        if queue.peek().is_some_and(|next| *next > (count, Reverse(index))) {
            queue.push((count, Reverse(index)));
            continue;
        }
        if !scale.worth_sparing(count, spared.attack.count_and(&hole.attack)) {
            continue;
        }
        spared.attack = spared.attack.without(&hole.attack);
        spared.legitimate = spared.legitimate.without(&hole.legitimate);
        spared.holes.push(hole.matches);
        if spared.holes.len() == MAX_HOLES {
            break;
        }
    }
    spared
}
