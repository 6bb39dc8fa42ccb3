//! IPv6: a search tree over the first 64 bits, and small trees over the last 64 for those /64s that are not of one piece.
//!
//! A node is a cache line: seven boundaries, and either where its eight children begin or the numbers of the eight pieces
//! between them. Memory follows the number of ranges, whatever their lengths, and all lookups in one table take the
//! same number of steps, one load each, a whole burst side by side. Trees over the last 64 bits are mostly one node.

use super::BATCH;
use super::build::Boundary;
use super::node::{CHILDREN, KEYS, Node, Root, descend, index};
use crate::isa::{Isa, prefetch_at};

/// The last piece of a leaf.
const LAST_PIECE: u32 = 7;
/// A number that says: look at the last 64 bits.
const LONGER: u8 = 0x80;

/// The structure for IPv6: about 10 bytes for each end of a range, 72 more for each /64 that is not of one piece.
#[derive(Debug, Default)]
pub(super) struct Ipv6 {
    /// The leaves of the tree over the first 64 bits come first.
    nodes: Vec<Node>,
    root: Root,
    /// Of each leaf of that tree: how many trees belong to leaves before it.
    trees_before: Vec<u32>,
    /// The trees over the last 64 bits.
    trees: Vec<Root>,
}

impl Ipv6 {
    pub(super) fn build(boundaries: &[Boundary<u128>]) -> Self {
        if boundaries.is_empty() {
            return Self::default();
        }
        let (mut networks, mut split) = (Vec::new(), Vec::new());
        let mut before = 0;
        for group in boundaries.chunk_by(|(a, _), (b, _)| high(*a) == high(*b)) {
            let (Some((first, number)), Some((_, after))) = (group.first(), group.last()) else { continue };
            let network = high(*first);
            if low(*first) == 0 && group.len() == 1 {
                push(&mut networks, network, *number);
            } else {
                push(&mut networks, network, LONGER);
                split.push((group, before));
                // Replaced by the next group if that is the next network.
                if let Some(next) = network.checked_add(1) {
                    push(&mut networks, next, *after);
                }
            }
            before = *after;
        }
        // Leaves, an eighth more above them, and for each tree of its own one node, or two.
        let mut nodes = Vec::with_capacity(networks.len() / 6 + 2 * split.len() + 2 * CHILDREN);
        let root = plant(&mut nodes, &networks, 0);
        let trees_before = count_trees(&nodes, networks.len());
        let trees = split
            .into_iter()
            .map(|(group, before)| {
                let inside: Vec<_> = group.iter().map(|(at, number)| (low(*at), *number)).collect();
                plant(&mut nodes, &inside, before)
            })
            .collect();
        Self { nodes, root, trees_before, trees }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.nodes) + size_of_val(&*self.trees_before) + size_of_val(&*self.trees)
    }

    /// The number for each address, at most [`BATCH`] of them, of which `networks` are the first 64 bits and `host` gives the last
    /// 64 of one: few are asked for.
    #[inline]
    pub(super) fn look_up(&self, isa: Isa, networks: &[u64], host: impl Fn(usize) -> u64, numbers: &mut [u8]) {
        if self.is_empty() {
            return numbers.fill(0);
        }
        let mut pieces = [(0, 0); BATCH];
        descend(isa, &self.nodes, self.root, networks, &mut pieces);
        let (mut pending, mut count) = ([(0, 0); BATCH], 0);
        for (packet, ((leaf, piece), number)) in pieces.into_iter().zip(&mut *numbers).enumerate() {
            let Some(node) = self.nodes.get(index(leaf)) else { continue };
            *number = number_of(node, piece);
            if *number == LONGER {
                let before = self.trees_before.get(index(leaf)).copied().unwrap_or(0);
                // The very last network may fill up its leaf, and count more than once.
                let tree = (before + trees(node, piece)).saturating_sub(1).min(self.last_tree());
                prefetch_at(&self.trees, index(tree));
                if let Some(place) = pending.get_mut(count) {
                    *place = (packet, tree);
                    count += 1;
                }
            }
        }
        for (_, tree) in pending.iter().take(count) {
            if let Some(root) = self.trees.get(index(*tree)) {
                prefetch_at(&self.nodes, index(root.node));
            }
        }
        for (packet, tree) in pending.iter().take(count) {
            let root = self.trees.get(index(*tree)).copied().unwrap_or_default();
            let mut pieces = [(0, 0)];
            descend(isa, &self.nodes, root, &[host(*packet)], &mut pieces);
            let [(leaf, piece)] = pieces;
            if let (Some(node), Some(number)) = (self.nodes.get(index(leaf)), numbers.get_mut(*packet)) {
                *number = number_of(node, piece);
            }
        }
    }

    #[inline(always)]
    fn last_tree(&self) -> u32 {
        u32::try_from(self.trees.len()).map_or(u32::MAX, |trees| trees.saturating_sub(1))
    }
}

/// The number of a piece of a leaf.
#[inline(always)]
fn number_of(leaf: &Node, piece: u32) -> u8 {
    leaf.word.to_le_bytes().get(index(piece)).copied().unwrap_or(0)
}

/// How many trees begin in a leaf up to and with a piece. The first piece began in the leaf before.
#[inline(always)]
fn trees(leaf: &Node, piece: u32) -> u32 {
    let flags = leaf.word & 0x8080_8080_8080_8000;
    (flags & u64::MAX.checked_shr(56 - 8 * piece).unwrap_or(0)).count_ones()
}

/// Adds a boundary; one at the same place is replaced.
fn push(boundaries: &mut Vec<Boundary<u64>>, at: u64, number: u8) {
    if boundaries.last().is_some_and(|(last, _)| *last == at) {
        boundaries.pop();
    }
    boundaries.push((at, number));
}

/// Adds the nodes of a tree, the leaves first. Levels are filled up with copies of their last node, so that every child
/// that a key can lead to exists.
fn plant(nodes: &mut Vec<Node>, boundaries: &[Boundary<u64>], mut before: u8) -> Root {
    let mut firsts = Vec::new();
    let mut begin = nodes.len();
    for chunk in boundaries.chunks(KEYS) {
        let last = chunk.last().map_or(before, |(_, number)| *number);
        let (mut keys, mut numbers) = ([u64::MAX; KEYS], [last; CHILDREN]);
        if let Some(first) = numbers.first_mut() {
            *first = before;
        }
        for ((key, number), (at, value)) in keys.iter_mut().zip(numbers.iter_mut().skip(1)).zip(chunk) {
            (*key, *number) = (*at, *value);
        }
        firsts.extend(chunk.first().map(|(at, _)| *at));
        nodes.push(Node::new(keys, u64::from_le_bytes(numbers)));
        before = last;
    }
    let mut height = 0;
    while nodes.len() - begin > 1 {
        if let Some(last) = nodes.last().copied() {
            nodes.resize(begin + firsts.len().next_multiple_of(CHILDREN), last);
        }
        let first_child = begin;
        begin = nodes.len();
        let mut above = Vec::with_capacity(firsts.len().div_ceil(CHILDREN));
        for (parent, children) in firsts.chunks(CHILDREN).enumerate() {
            let mut keys = [u64::MAX; KEYS];
            for (key, child) in keys.iter_mut().zip(children.iter().skip(1)) {
                *key = *child;
            }
            above.extend(children.first());
            nodes.push(Node::new(keys, u64::try_from(first_child + parent * CHILDREN).unwrap_or(0)));
        }
        firsts = above;
        height += 1;
    }
    Root { node: u32::try_from(begin).unwrap_or(u32::MAX), height }
}

/// For the leaves of the first tree: how many trees belong to leaves before each.
fn count_trees(nodes: &[Node], boundaries: usize) -> Vec<u32> {
    let leaves = boundaries.div_ceil(KEYS);
    let mut before = 0;
    let mut counts: Vec<u32> = nodes
        .iter()
        .take(leaves)
        .map(|leaf| {
            let here = before;
            before += trees(leaf, LAST_PIECE);
            here
        })
        .collect();
    if let Some(last) = counts.last().copied() {
        // The copies that fill up the level.
        counts.resize(leaves.next_multiple_of(CHILDREN), last);
    }
    counts
}

#[inline(always)]
pub(super) fn high(address: u128) -> u64 {
    u64::try_from(address >> 64).unwrap_or(u64::MAX)
}

#[inline(always)]
pub(super) fn low(address: u128) -> u64 {
    u64::try_from(address & u128::from(u64::MAX)).unwrap_or(u64::MAX)
}
