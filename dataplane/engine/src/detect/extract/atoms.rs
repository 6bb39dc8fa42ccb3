//! Atoms: the single conditions that conjunctions are made of, each with the samples that satisfy it.

use levee_api::role::Role;
use levee_api::zone::Service;

use super::accept::{Scale, never_alone, share};
use super::condition::{Condition, Population};
use super::drift::Drift;
use super::features::{Candidate, Feature, HEADER, Kind, RULE_ONLY, fixed};
use super::members::Members;
use super::natural::Natural;

/// At most this many atoms take part in the search.
const MAX_ATOMS: usize = 320;
/// An atom must hold for this share of the window: 1 in 25.
const MIN_SUPPORT: usize = 25;

/// A condition and who satisfies it.
pub(super) struct Atom {
    pub(super) kind: Kind,
    pub(super) condition: Condition,
    pub(super) attack: Members,
    pub(super) legitimate: Members,
    /// How common it is without knowing this network.
    pub(super) natural: Natural,
    /// True when a rule may rest on it: see [`never_alone`].
    pub(super) specific: bool,
    /// How common it is among legitimate packets, by the reservoir or else by what is natural.
    pub(super) common: f64,
}

/// The atoms of a window that tell something, those first that separate best.
pub(super) fn atoms(
    scale: &Scale,
    served: &[Service],
    drift: &Drift,
    attack: &Population<'_>,
    legitimate: &Population<'_>,
) -> Vec<Atom> {
    let least = attack.size().div_ceil(MIN_SUPPORT).max(2);
    let values = HEADER.iter().chain(RULE_ONLY).flat_map(|feature| {
        groups(feature, attack).into_iter().filter(move |group| group.len() >= least).map(move |group| Candidate {
            kind: feature.kind,
            value: group.value,
            condition: (feature.condition)(group.value),
        })
    });
    let mut atoms: Vec<(f64, Atom)> = values
        .chain(fixed(scale.role, attack))
        .filter(|candidate| !drift.concerns(&candidate.condition))
        .filter_map(|candidate| {
            let attack = attack.members(&candidate.condition);
            let hits = attack.count();
            if usize::try_from(hits).unwrap_or(usize::MAX) < least {
                return None;
            }
            let legitimate = legitimate.members(&candidate.condition);
            let spared = scale.legitimate - legitimate.count();
            let natural = match scale.role {
                Role::IcmpOther => {
                    Natural::of_echo(candidate.kind, candidate.value, candidate.condition.pattern.as_ref())
                }
                role => Natural::of(role, candidate.kind, candidate.value),
            };
            let common = if scale.has_reference() { 1.0 - share(spared, scale.legitimate) } else { natural.share() };
            if hits == scale.attack && common >= 1.0 {
                return None;
            }
            let weak = never_alone(scale.role, served, candidate.kind, candidate.value);
            let atom = Atom {
                kind: candidate.kind,
                condition: candidate.condition,
                attack,
                legitimate,
                natural,
                specific: !weak && common <= 0.5,
                common,
            };
            Some((share(hits, scale.attack) - common, atom))
        })
        .collect();
    // Stable, so that equal separation keeps the order of the features.
    atoms.sort_by(|(one, _), (two, _)| two.total_cmp(one));
    atoms.truncate(MAX_ATOMS);
    atoms.into_iter().map(|(_, atom)| atom).collect()
}

/// The samples of a population that share a value of a feature.
pub(super) struct Group {
    pub(super) value: u64,
    pub(super) samples: Vec<u32>,
}

impl Group {
    pub(super) fn len(&self) -> usize {
        self.samples.len()
    }
}

/// The values of a feature in a population that more than one sample has, ascending, with the samples that have them.
pub(super) fn groups(feature: &Feature, population: &Population<'_>) -> Vec<Group> {
    let mut values: Vec<(u64, u32)> = population
        .samples
        .iter()
        .zip(0_u32..)
        .filter_map(|(sample, index)| (feature.value)(sample).map(|value| (value, index)))
        .collect();
    values.sort_unstable();
    values
        .chunk_by(|one, two| one.0 == two.0)
        .filter(|same| same.len() > 1)
        .filter_map(|same| {
            let (value, _) = same.first()?;
            Some(Group { value: *value, samples: same.iter().map(|(_, index)| *index).collect() })
        })
        .collect()
}
