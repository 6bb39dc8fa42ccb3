//! Beam search over conjunctions of atoms.

use std::cmp::Ordering;
use std::rc::Rc;

use super::accept::{MIN_GAIN, Scale};
use super::atoms::Atom;
use super::condition::Condition;
use super::members::Members;
use super::natural::Natural;

/// Conjunctions kept per level, 24: those that a rule may rest on, by what they are worth as they are,
const WIDTH: usize = 12;
/// the same by what they would be worth if every exception were made: wide ones that exceptions may save,
const WIDTH_POTENTIAL: usize = 6;
/// and any, because something specific may still be added to them.
const WIDTH_ANY: usize = 6;
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
    /// Atoms worth adding, as far as its parent could tell: one that explains too little of the parent, or takes
    /// nothing from it, does so for every part of the parent.
    promising: Rc<[usize]>,
    /// Its part of the attack that is not covered.
    fresh: Members,
    /// Its legitimate samples that no exception can spare.
    stubborn: Members,
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

/// The best conjunctions that a rule may rest on, for the `uncovered` part of the attack, in no particular order;
/// `stubborn` are the legitimate samples that no exception can spare.
pub(super) fn search(scale: &Scale, atoms: &[Atom], uncovered: &Members, stubborn: &Members) -> Vec<Node> {
    let mut beam = vec![root(scale, atoms, uncovered, stubborn)];
    let mut found: Vec<Node> = Vec::new();
    for _ in 0..DEPTH {
        let mut children = expand(scale, atoms, &mut beam);
        let specific = |child: &Child, worth: f64| if child.specific { worth } else { f64::MIN };
        let mut next = Vec::new();
        let mut wanted = 0;
        let mut keep_best = |width: usize, worth: &dyn Fn(&Child) -> f64| {
            wanted += width;
            let best = shortlist(&mut children, |one, two| better(one, two, worth));
            keep(&mut next, wanted, &found, atoms, &beam, best);
        };
        keep_best(WIDTH, &|child| specific(child, child.score));
        keep_best(WIDTH_POTENTIAL, &|child| specific(child, child.potential));
        keep_best(WIDTH_ANY, &|child| child.score);
        if next.is_empty() {
            break;
        }
        found.extend(next.iter().filter(|node| node.specific).cloned());
        beam = next;
    }
    found
}

/// The conjunction of nothing, which everything satisfies.
fn root(scale: &Scale, atoms: &[Atom], uncovered: &Members, stubborn: &Members) -> Node {
    let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    Node {
        atoms: Vec::new(),
        condition: Condition::any(),
        attack: Members::all(size(scale.attack)),
        legitimate: Members::all(size(scale.legitimate)),
        natural: Natural::ALL,
        promising: (0..atoms.len()).collect(),
        fresh: uncovered.clone(),
        stubborn: stubborn.clone(),
        score: f64::MIN,
        potential: f64::MIN,
        specific: false,
        hits: scale.legitimate,
    }
}

/// Every way to add an atom that makes a conjunction less common among legitimate packets and still explains enough.
fn expand(scale: &Scale, atoms: &[Atom], beam: &mut [Node]) -> Vec<Child> {
    let mut children = Vec::new();
    for (parent, node) in beam.iter_mut().enumerate() {
        let conditions = node.atoms.len() + 1;
        let mut promising = Vec::new();
        for index in node.promising.iter().copied() {
            let Some(atom) = atoms.get(index) else { continue };
            let fresh = node.fresh.count_and(&atom.attack);
            if scale.gain(fresh, 0) < MIN_GAIN {
                continue;
            }
            let natural = node.natural.and(atom.natural).share();
            let hits = node.legitimate.count_and(&atom.legitimate);
            if hits >= node.hits && (scale.has_reference() || natural >= node.natural.share()) {
                continue;
            }
            promising.push(index);
            let hard = if hits == 0 { 0 } else { node.stubborn.count_and(&atom.legitimate) };
            let worth = |hits| scale.score(scale.gain(fresh, hits), scale.risk(hits, natural), conditions);
            let (score, potential) = (worth(hits), worth(hard));
            let specific = node.specific || atom.specific;
            children.push(Child { parent, atom: index, hits, score, potential, natural, specific });
        }
        node.promising = promising.into();
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

/// Makes nodes of the best children until there are `width`, leaving out those that select the same as one before, of
/// this level or of an earlier one.
fn keep(next: &mut Vec<Node>, width: usize, found: &[Node], atoms: &[Atom], beam: &[Node], best: &[Child]) {
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
        if found.iter().chain(next.iter()).any(known) {
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
            promising: Rc::clone(&parent.promising),
            fresh: parent.fresh.and(&atom.attack),
            stubborn: parent.stubborn.and(&atom.legitimate),
            score: child.score,
            potential: child.potential,
            specific: child.specific,
            hits: child.hits,
        });
    }
}
