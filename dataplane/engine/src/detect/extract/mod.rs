//! Signature extraction: from samples of one role at one target, the rules that select the attack and spare the rest.
//!
//! Pure functions: the same job gives the same rules to the byte. The steps, each in a file of its own:
//! [`features`] are read from the samples and become [`atoms`]; a [`beam`] search joins them to conjunctions;
//! [`exceptions`] take out again what legitimate packets share; [`accept`] judges; the greedy cover here picks.
//!
//! What is known of legitimate traffic is a reservoir of samples, and some of it is always missing from it. Four things
//! guard what was not seen: bounds instead of counts; exceptions only for values that would have been made without any
//! one sample; rules narrowed to everything that the attack has in common (`common` below); and, where there is next to
//! no reservoir, the shares in [`natural`] in its place, which let pass for the roles of newcomers (`syn`, `request`,
//! `udp_open`) only what no common client sends.

mod accept;
mod atoms;
mod beam;
mod condition;
mod drift;
mod exceptions;
mod features;
mod members;
mod natural;
#[cfg(test)]
mod tests;

use levee_api::filter::{HeaderBox, Rule};
use levee_api::lane::Lane;
use levee_api::role::Role;
use levee_api::zone::Service;

use self::accept::{MAX_RHO, MIN_COVERED, MIN_GAIN, Scale, share};
use self::atoms::Atom;
use self::beam::{DEPTH, Node};
use self::condition::{Condition, Population, payload};
use self::drift::Drift;
use self::exceptions::Hole;
use self::features::Kind;
use self::members::Members;
use crate::sample::Sample;

pub use self::accept::Tier;

/// Fewer samples than this say nothing about an attack.
pub const MIN_SAMPLES: usize = 150;
/// The newest samples of a window that are looked at.
pub const MAX_WINDOW: usize = 2_048;
/// The samples of a reservoir that are looked at.
pub const MAX_RESERVOIR: usize = 4_096;
/// Rules of a first pass, when little has been seen.
const MAX_FIRST: usize = 4;
/// Rules in force at once, installed ones included.
const MAX_RULES: usize = 8;
/// Searches per job, some 2 ms each: what is left then is found in the next pass, with these rules installed.
const MAX_SEARCHES: usize = 3;
/// Conjunctions that exceptions are tried on: the best as they are, and those that exceptions could make best.
const FINALISTS: (usize, usize) = (24, 16);
/// A conjunction is narrowed to what its hits have in common only if it has this many: 100 of 100 are more than 97 %.
const MIN_COMMON: u32 = 100;

/// What to find rules for.
#[derive(Clone, Debug)]
pub struct Job {
    /// The alarmed role.
    pub role: Role,
    /// Samples of that role at the target, newest last; the last [`MAX_WINDOW`] count.
    pub attack: Vec<Sample>,
    /// Samples of that role known to be legitimate; the first [`MAX_RESERVOIR`] count. May be empty.
    pub legitimate: Vec<Sample>,
    /// Share of legitimate traffic in the window, 0..=1.
    pub rho: f64,
    /// Share of the window above the threshold, 0..=1.
    pub excess: f64,
    /// Rules in force at the target: what they select is done with, and is left out of the window.
    pub installed: Vec<Rule>,
    /// No rule has been extracted for this anomaly yet.
    pub first_pass: bool,
    /// 250 ms have passed without a drop rule: rules of [`Tier::Limit`] will do.
    pub allow_limit: bool,
    /// Nothing else proves an attack: rules have to hold only what no common client sends, whatever the reservoir says.
    pub only_unnatural: bool,
    /// Clients send much of the role, or may do: where the return direction is not seen, or memory is young.
    pub is_common: bool,
    /// What the zone serves.
    pub served: Vec<Service>,
}

/// A rule and what it is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The rule; the role it was extracted for goes with it.
    pub rule: Rule,
    /// What it may be used for.
    pub tier: Tier,
    /// Share of the attack that it selects, 0..=1, corrected for legitimate traffic in the window.
    pub gain: f64,
    /// Upper bound of the share of legitimate traffic that it hits (95 % Wilson), from the reservoir alone: 1 if that is
    /// empty.
    pub collateral: f64,
    /// The share of legitimate traffic that must be reckoned with: `collateral`, or what is natural where the reservoir does not
    /// speak, 0..=1.
    pub risk: f64,
    /// How many times as often it selects the attack as legitimate traffic.
    pub lift: f64,
    /// Share of the window that it selects, 0..=1.
    pub attack_share: f64,
}

/// What came out of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Extraction {
    /// Rules, best first.
    pub found: Vec<Found>,
    /// Share of the excess that they take away together, 0..=1.
    pub covered: f64,
    /// Why there is none.
    pub why_not: Option<WhyNot>,
}

/// Why no rule was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhyNot {
    /// Less than [`MIN_SAMPLES`] that no installed rule selects.
    TooFewSamples,
    /// Installed rules leave no excess, or are as many as there may be.
    NothingToDo,
    /// Too much of the window is legitimate.
    RhoTooHigh,
    /// Too few legitimate samples to compare with, and nothing that no common client sends.
    TooFewLegitimate,
    /// The attack looks like legitimate traffic.
    NothingSeparates,
    /// What separates them hits too much legitimate traffic.
    CollateralTooHigh,
    /// All rules together leave more than half of the excess.
    CoversTooLittle,
}

impl WhyNot {
    /// The reason in words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::TooFewSamples => "too few samples yet",
            Self::NothingToDo => "installed rules leave no excess, or are as many as there may be",
            Self::RhoTooHigh => "too much of the window is legitimate",
            Self::TooFewLegitimate => "too few legitimate samples to compare with",
            Self::NothingSeparates => "nothing separates the attack from legitimate traffic",
            Self::CollateralTooHigh => "what separates the attack would hit too much legitimate traffic",
            Self::CoversTooLittle => "all rules together would leave more than half of the excess",
        }
    }
}

/// Finds the rules for a job. Deterministic.
pub fn extract(job: &Job) -> Extraction {
    let window = job.attack.get(job.attack.len().saturating_sub(MAX_WINDOW)..).unwrap_or(&job.attack);
    let left: Vec<&Sample> = window
        .iter()
        .filter(|sample| !job.installed.iter().any(|rule| rule.contains(&sample.lanes.0, payload(sample))))
        .collect();
    if left.len() < MIN_SAMPLES {
        return refused(WhyNot::TooFewSamples);
    }
    // Installed rules hardly select legitimate traffic, and what they select is excess no more: both shares are of what
    // is left. What is not a number is refused.
    let selected = 1.0 - share(count(left.len()), count(window.len()));
    let excess = (job.excess.min(1.0) - selected) / (1.0 - selected);
    let rho = if job.rho.is_nan() { 1.0 } else { job.rho.max(0.0) / (1.0 - selected) };
    let budget = MAX_RULES.saturating_sub(job.installed.len()).min(if job.first_pass { MAX_FIRST } else { MAX_RULES });
    if excess <= 0.0 || job.excess.is_nan() || budget == 0 {
        return refused(WhyNot::NothingToDo);
    }
    if rho > MAX_RHO {
        return refused(WhyNot::RhoTooHigh);
    }
    let drift = Drift::of(&job.installed, &left);
    let attack = Population::of(left);
    let legitimate = Population::of(job.legitimate.iter().take(MAX_RESERVOIR).collect());
    let scale = Scale {
        role: job.role,
        attack: count(attack.size()),
        legitimate: count(legitimate.size()),
        rho,
        only_unnatural: job.only_unnatural,
        is_common: job.is_common,
    };
    let atoms = atoms::atoms(&scale, &job.served, &drift, &attack, &legitimate);
    let holes = exceptions::holes(&scale, &attack, &legitimate);
    let stubborn = exceptions::stubborn(legitimate.size(), &holes);
    let mut cover = Cover::new(&scale);
    let mut tried: Vec<Finalist> = Vec::new();
    for _ in 0..MAX_SEARCHES {
        let nodes = beam::search(&scale, &atoms, &cover.uncovered, &stubborn);
        let finalists = finalists(nodes)
            .into_iter()
            .map(|node| Finalist::of(&scale, &atoms, &holes, node, &attack, &legitimate))
            .collect::<Vec<_>>();
        let took = cover.take(&scale, &finalists, Tier::Drop, budget);
        tried.extend(finalists);
        if !took || cover.rules.len() >= budget || !cover.leaves(&scale) {
            break;
        }
    }
    let drop = cover.finish(&scale, excess);
    if !drop.found.is_empty() || !job.allow_limit {
        return drop;
    }
    let mut cover = Cover::new(&scale);
    cover.take(&scale, &tried, Tier::Limit, budget);
    cover.finish(&scale, excess)
}

fn refused(why: WhyNot) -> Extraction {
    Extraction { found: Vec::new(), covered: 0.0, why_not: Some(why) }
}

fn count(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// The conjunctions that exceptions are tried on.
fn finalists(mut nodes: Vec<Node>) -> Vec<Node> {
    nodes.sort_by(|one, two| two.score.total_cmp(&one.score));
    let mut rest = nodes.split_off(FINALISTS.0.min(nodes.len()));
    rest.sort_by(|one, two| two.potential.total_cmp(&one.potential));
    nodes.extend(rest.into_iter().take(FINALISTS.1));
    nodes
}

/// A conjunction with its exceptions.
struct Finalist {
    rule: Rule,
    attack: Members,
    legitimate: Members,
    conditions: usize,
    /// Share of legitimate traffic that satisfies it by nature.
    natural: f64,
}

impl Finalist {
    fn of(
        scale: &Scale,
        atoms: &[Atom],
        holes: &[Hole],
        node: Node,
        attack: &Population<'_>,
        legitimate: &Population<'_>,
    ) -> Self {
        let conditions = node.atoms.len();
        let mut condition = node.condition;
        let (mut hit, mut selected) = (node.legitimate, node.attack.clone());
        let mut narrow = |wanted: &Condition, legitimate: &Members, attack: &Members| {
            if let Some(both) = condition.and(wanted) {
                condition = both;
                hit = hit.and(legitimate);
                selected = selected.and(attack);
            }
        };
        for atom in common(scale, atoms, &node.atoms, &node.attack) {
            narrow(&atom.condition, &atom.legitimate, &atom.attack);
        }
        let seen =
            [protocol(scale.role, attack, &node.attack), lengths(scale, atoms, &node.atoms, attack, &node.attack)];
        for condition in seen.into_iter().flatten() {
            narrow(&condition, &legitimate.members(&condition), &attack.members(&condition));
        }
        let spared = exceptions::spare(scale, holes, &selected, &hit);
        Self {
            rule: condition.rule(spared.holes),
            attack: spared.attack,
            legitimate: spared.legitimate,
            conditions,
            natural: node.natural.share(),
        }
    }

    fn risk(&self, scale: &Scale) -> f64 {
        scale.risk(self.legitimate.count(), self.natural)
    }

    fn tier(&self, scale: &Scale) -> Option<Tier> {
        let lift = scale.lift(self.attack.count(), self.legitimate.count(), self.natural);
        scale.tier(lift, self.risk(scale)).filter(|_| !scale.only_unnatural || scale.is_unnatural(self.natural))
    }
}

/// So many of a number of hits must agree, for a rule to be narrowed to what they agree on. A rule for requests blocks whoever
/// matches it, and one that nothing but its content speaks for may hit clients that are as odd: there the few hits that do not
/// agree are taken for clients.
fn agreeing(scale: &Scale, hits: u32) -> u32 {
    if scale.role == Role::Request || scale.only_unnatural { hits - hits / 10 } else { hits }
}

/// What else all hits of a conjunction have in common and less than half of legitimate packets have: it costs no gain
/// and spares legitimate traffic that the reservoir does not know. Not who sends from where, nor to which port (that
/// changes within an attack), no payload pattern (that costs the data path a second look), and one value of a kind.
fn common<'a>(scale: &Scale, atoms: &'a [Atom], chosen: &[usize], hits: &Members) -> Vec<&'a Atom> {
    let least = agreeing(scale, hits.count());
    if hits.count() < MIN_COMMON {
        return Vec::new();
    }
    let one_of = |kind| if kind == Kind::PayloadLength { Kind::Length } else { kind };
    let mut kinds: Vec<Kind> = chosen.iter().filter_map(|index| atoms.get(*index)).map(|a| one_of(a.kind)).collect();
    let mut common: Vec<&Atom> = atoms
        .iter()
        .filter(|atom| atom.common <= 0.5 && atom.kind.lasts() && atom.condition.pattern.is_none())
        .filter(|atom| hits.count_and(&atom.attack) >= least)
        .collect();
    common.sort_by(|one, two| one.common.total_cmp(&two.common));
    common.retain(|atom| {
        let new = !kinds.contains(&one_of(atom.kind));
        kinds.push(one_of(atom.kind));
        new
    });
    common.truncate(DEPTH.saturating_sub(chosen.len()));
    common
}

/// The lengths that all hits of a range of lengths have, and a little more: a range that was tried because it is
/// common ends somewhere far away.
fn lengths(
    scale: &Scale,
    atoms: &[Atom],
    chosen: &[usize],
    attack: &Population<'_>,
    hits: &Members,
) -> Option<Condition> {
    let ranged = chosen.iter().filter_map(|index| atoms.get(*index)).any(|atom| atom.kind == Kind::LengthRange);
    if !ranged || hits.count() < MIN_COMMON {
        return None;
    }
    let found = hits.iter().filter_map(|index| attack.samples.get(index)).map(|s| s.lanes.get(Lane::IpLength));
    let mut found: Vec<u16> = found.collect();
    found.sort_unstable();
    // The shortest range that enough of them are in.
    let enough = usize::try_from(agreeing(scale, hits.count())).ok()?.max(1);
    let ranges = found.iter().zip(found.iter().skip(enough - 1));
    let (least, most) = ranges.min_by_key(|(least, most)| *most - *least)?;
    let (least, most) = (*least, *most);
    let margin = (most - least) / 16;
    Some(Condition::header(HeaderBox::any().range(
        Lane::IpLength,
        least.saturating_sub(margin),
        most.saturating_add(margin),
    )))
}

/// The protocol that all hits have, where the role does not imply it.
fn protocol(role: Role, attack: &Population<'_>, hits: &Members) -> Option<Condition> {
    let open = matches!(role, Role::IcmpOther | Role::LaterFragment | Role::OtherProtocol | Role::Malformed);
    let mut protocols = hits.iter().filter_map(|index| attack.samples.get(index)).map(|s| s.lanes.get(Lane::Protocol));
    let first = protocols.next().filter(|_| open)?;
    protocols.all(|other| other == first).then(|| Condition::header(HeaderBox::any().exact(Lane::Protocol, first)))
}

/// The greedy cover: rules taken so far and what they leave.
struct Cover {
    rules: Vec<Found>,
    uncovered: Members,
    hit: Members,
    natural: f64,
    why_not: WhyNot,
}

impl Cover {
    fn new(scale: &Scale) -> Self {
        let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        Self {
            rules: Vec::new(),
            uncovered: Members::all(size(scale.attack)),
            hit: Members::none(size(scale.legitimate)),
            natural: 0.0,
            why_not: WhyNot::NothingSeparates,
        }
    }

    /// True while a rule could still gain enough.
    fn leaves(&self, scale: &Scale) -> bool {
        scale.gain(self.uncovered.count(), scale.legitimate) >= MIN_GAIN
    }

    /// Takes rules from the finalists, best first, as long as one gains enough; false when none did.
    fn take(&mut self, scale: &Scale, finalists: &[Finalist], worst: Tier, budget: usize) -> bool {
        let before = self.rules.len();
        let mut usable: Vec<(Tier, &Finalist)> = Vec::new();
        for finalist in finalists {
            match finalist.tier(scale) {
                Some(tier) if tier <= worst => usable.push((tier, finalist)),
                other => self.note(scale, finalist, other),
            }
        }
        while self.rules.len() < budget {
            let worth = |(tier, finalist)| Some((self.worth(scale, worst, finalist)?, tier, finalist));
            // Of equals the first: `max_by` would keep the last.
            let best = usable.iter().copied().filter_map(worth).min_by(|one, two| two.0.total_cmp(&one.0));
            let Some((_, tier, finalist)) = best else { break };
            let (attack, hits) = (finalist.attack.count(), finalist.legitimate.count());
            self.rules.push(Found {
                rule: finalist.rule.clone(),
                tier,
                gain: scale.gain(attack, hits),
                collateral: scale.collateral(hits),
                risk: scale.risk(hits, finalist.natural),
                lift: scale.lift(attack, hits, finalist.natural),
                attack_share: share(attack, scale.attack),
            });
            self.uncovered = self.uncovered.without(&finalist.attack);
            self.hit = self.hit.or(&finalist.legitimate);
            self.natural = (self.natural + finalist.natural).min(1.0);
        }
        self.rules.len() > before
    }

    /// What a rule adds to those taken; none when that is too little, or would make all together hit too much.
    fn worth(&self, scale: &Scale, worst: Tier, finalist: &Finalist) -> Option<f64> {
        let fresh = finalist.attack.count_and(&self.uncovered);
        let gain = scale.gain(fresh, finalist.legitimate.count());
        let together =
            scale.risk(self.hit.or(&finalist.legitimate).count(), (self.natural + finalist.natural).min(1.0));
        let allowed = scale.tier(f64::INFINITY, together).is_some_and(|allowed| allowed <= worst);
        (gain >= scale.least_gain() && allowed).then(|| scale.score(gain, finalist.risk(scale), finalist.conditions))
    }

    /// Remembers the best reason for which a finalist was refused.
    fn note(&mut self, scale: &Scale, finalist: &Finalist, tier: Option<Tier>) {
        let lift = scale.lift(finalist.attack.count(), finalist.legitimate.count(), finalist.natural);
        if !scale.has_reference() {
            self.why_not = WhyNot::TooFewLegitimate;
        } else if tier.is_some() || scale.tier(lift, 0.0).is_some() {
            self.why_not = WhyNot::CollateralTooHigh;
        }
    }

    fn finish(self, scale: &Scale, excess: f64) -> Extraction {
        if self.rules.is_empty() {
            return refused(self.why_not);
        }
        let selected = share(scale.attack - self.uncovered.count(), scale.attack);
        let covered = (selected - scale.rho * share(self.hit.count(), scale.legitimate)) / excess;
        if covered < MIN_COVERED {
            return refused(WhyNot::CoversTooLittle);
        }
        Extraction { found: self.rules, covered: covered.clamp(0.0, 1.0), why_not: None }
    }
}
