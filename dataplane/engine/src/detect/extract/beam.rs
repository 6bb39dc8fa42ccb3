//! Beam search over conjunctions of atoms.

use std::cmp::Ordering;

use super::accept::{MIN_GAIN, Scale};
use super::atoms::Atom;
use super::condition::Condition;
use super::members::Members;
use super::natural::Natural;

/// Conjunctions kept per level that a rule may rest on, by what they are worth as they are,
const WIDTH: usize = 16;
/// and any, by what they would be worth if every exception were made: wide ones that exceptions may save.
const WIDTH_POTENTIAL: usize = 8;
/// Conditions in a conjunction.
pub(super) const DEPTH: usize = 5;
/// Candidates that are looked at to fill the width: many differ in name only.
const SHORTLIST: usize = 16 * WIDTH;

/// A conjunction and who satisfies it.
#[derive(Clone)]
pub(super) struct Node {
    /// Indices of its atoms, in the order they were added.
    pub(super) atoms: Vec<usize>,
    pub(super) condition: Condition,
    pub(super) attack: Members,
    pub(super) legitimate: Members,
    pub(super) natural: Natural,
    pub(super) score: f64,
    /// The score if every exception were made.
    pub(super) potential: f64,
    /// A rule may rest on it: one of its atoms is specific.
    pub(super) specific: bool,
    hits: u32,
}

/// A node and one atom more, counted but not yet made.
struct Child {
    parent: usize,
    atom: usize,
    hits: u32,
    score: f64,
    potential: f64,
    natural: f64,
    specific: bool,
}

/// The best conjunctions that a rule may rest on, for the part of the attack that is not `covered`, in no particular order; `stubborn` are the
/// legitimate samples that no exception can spare.
pub(super) fn search(scale: &Scale, atoms: &[Atom], uncovered: &Members, stubborn: &Members) -> Vec<Node> {
    let mut beam = vec![root(scale)];
    let mut found: Vec<Node> = Vec::new();
    for _ in 0..DEPTH {
        let mut children = expand(scale, atoms, &beam, uncovered, stubborn);
        let restable = |child: &Child| if child.specific { child.score } else { f64::MIN };
        let by_score = |one: &Child, two: &Child| better(one, two, restable);
        let by_potential = |one: &Child, two: &Child| better(one, two, |child| child.potential);
        let mut next: Vec<Node> = Vec::new();
        keep(&mut next, WIDTH, atoms, &beam, shortlist(&mut children, by_score));
        keep(&mut next, WIDTH + WIDTH_POTENTIAL, atoms, &beam, shortlist(&mut children, by_potential));
        if next.is_empty() {
            break;
        }
        found.extend(next.iter().filter(|node| node.specific).cloned());
        beam = next;
    }
    found
}

/// The conjunction of nothing, which everything satisfies.
fn root(scale: &Scale) -> Node {
    let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    Node {
        atoms: Vec::new(),
        condition: Condition::any(),
        attack: Members::all(size(scale.attack)),
        legitimate: Members::all(size(scale.legitimate)),
        natural: Natural::ALL,
        score: f64::MIN,
        potential: f64::MIN,
        specific: false,
        hits: scale.legitimate,
    }
}

/// Every way to add an atom that makes a conjunction less common among legitimate packets and still explains enough.
fn expand(scale: &Scale, atoms: &[Atom], beam: &[Node], uncovered: &Members, stubborn: &Members) -> Vec<Child> {
    let mut children = Vec::new();
    for (parent, node) in beam.iter().enumerate() {
        let conditions = node.atoms.len() + 1;
        for (index, atom) in atoms.iter().enumerate() {
            if node.atoms.contains(&index) {
                continue;
            }
            let (_, fresh) = node.attack.count_and_third(&atom.attack, uncovered);
            if scale.gain(fresh, 0) < MIN_GAIN {
                continue;
            }
            let natural = node.natural.and(atom.natural).share();
            let (hits, hard) = node.legitimate.count_and_third(&atom.legitimate, stubborn);
            if hits >= node.hits && (scale.has_reference() || natural >= node.natural.share()) {
                continue;
            }
            let worth = |hits| scale.score(scale.gain(fresh, hits), scale.risk(hits, natural), conditions);
            let (score, potential) = (worth(hits), worth(hard));
            let specific = node.specific || atom.specific;
            children.push(Child { parent, atom: index, hits, score, potential, natural, specific });
        }
    }
    children
}

/// Higher first; then what is rarer by nature; then the order of the atoms, so that nothing is left to chance.
fn better(one: &Child, two: &Child, worth: impl Fn(&Child) -> f64) -> Ordering {
    worth(two)
        .total_cmp(&worth(one))
        .then(one.natural.total_cmp(&two.natural))
        .then((one.parent, one.atom).cmp(&(two.parent, two.atom)))
}

/// The best children, in order.
fn shortlist(children: &mut [Child], order: impl Fn(&Child, &Child) -> Ordering) -> &[Child] {
    let length = SHORTLIST.min(children.len());
    if length < children.len() {
        children.select_nth_unstable_by(length, &order);
    }
    let best = children.get_mut(..length).unwrap_or_default();
    best.sort_unstable_by(order);
    best
}

/// Makes nodes of the best children until there are `width`, leaving out those that select the same as one before.
fn keep(next: &mut Vec<Node>, width: usize, atoms: &[Atom], beam: &[Node], best: &[Child]) {
    for child in best {
        if next.len() >= width {
            return;
        }
        let (Some(parent), Some(atom)) = (beam.get(child.parent), atoms.get(child.atom)) else { continue };
        let Some(condition) = parent.condition.and(&atom.condition) else { continue };
        let (attack, legitimate) = (parent.attack.and(&atom.attack), parent.legitimate.and(&atom.legitimate));
        let known = |node: &Node| {
            node.hits == child.hits
                && node.specific >= child.specific
                && node.attack == attack
                && node.legitimate == legitimate
        };
        if next.iter().any(known) {
            continue;
        }
        let mut indices = parent.atoms.clone();
        indices.push(child.atom);
        next.push(Node {
            atoms: indices,
            condition,
            attack,
            legitimate,
            natural: parent.natural.and(atom.natural),
            score: child.score,
            potential: child.potential,
            specific: child.specific,
            hits: child.hits,
        });
    }
}
