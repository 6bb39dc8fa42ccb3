//! IPv4: one byte for each /24, and for those that are not of one piece a bucket of single addresses, or a leaf.
//!
//! Most lookups end at the byte: the number of the combination that all of the /24 has. Otherwise its top bit is set, and
//! the seven others are what holds for the addresses of the /24 that are not found in a bucket: 64 bytes, 12 addresses,
//! found by a hash of the address. A /24 with many odd addresses, or one whose bucket is full, has a leaf instead: a
//! byte per address. So nothing is lost, and no lookup ever takes a second probe.

use super::build::Boundary;
use crate::isa::prefetch_at;
use crate::pipeline::set_bits;

/// Number of /24s.
const NETS: usize = 1 << 24;
/// Top bit of a /24's byte: not of one piece.
const LONGER: u8 = 0x80;
/// A /24 with a leaf.
const LEAF: u8 = 0xff;
/// Odd addresses from which on a leaf takes less memory than places in buckets.
const LEAF_FROM: u32 = 24;
/// Addresses of a bucket.
const WAYS: usize = 12;
/// Addresses per bucket that the table is made for: at 6 of 12 one address in a hundred meets a full bucket.
const FILL: usize = 6;

/// The structure for IPv4: 16 MiB, and 11 bytes for each address that differs from its /24 (leaves: 256 bytes for a /24).
#[derive(Debug, Default)]
pub(super) struct Ipv4 {
    nets: Box<[u8]>,
    buckets: Box<[Bucket]>,
    /// Which /24s have leaves.
    with_leaf: Box<[Ranked]>,
    leaves: Box<[[u8; 256]]>,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    addresses: [u32; WAYS],
    /// Numbers with [`LONGER`] set; an empty place has zero.
    numbers: [u8; WAYS],
}

/// 64 /24s: which of them have leaves, and how many before them have.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(16))]
struct Ranked {
    bits: u64,
    before: u32,
}

impl Ipv4 {
    pub(super) fn build(boundaries: &[Boundary<u32>]) -> Self {
        if boundaries.is_empty() {
            return Self::default();
        }
        let mut nets = vec![0; NETS].into_boxed_slice();
        let mut split = fill_whole(&mut nets, boundaries);
        split.dedup();
        let (mut odd, mut leaves) = (Vec::new(), Vec::new());
        for net in split {
            let pieces = Pieces::of(net, boundaries);
            let (most, others) = pieces.most();
            if others >= LEAF_FROM {
                leaves.push(net);
                continue;
            }
            set(&mut nets, net, most | LONGER);
            for (first, end, number) in pieces.iter().filter(|(.., number)| *number != most) {
                odd.extend((first..end).map(|low| (net << 8 | low, number)));
            }
        }
        let mut buckets = vec![Bucket::default(); odd.len().div_ceil(FILL)].into_boxed_slice();
        for (address, number) in odd {
            let at = bucket_of(address, buckets.len());
            if !buckets.get_mut(at).is_some_and(|bucket| bucket.insert(address, number)) {
                leaves.push(address >> 8);
            }
        }
        leaves.sort_unstable();
        leaves.dedup();
        let mut table = Self { nets, buckets, ..Self::default() };
        table.grow_leaves(&leaves, boundaries);
        table
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nets.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.nets)
            + size_of_val(&*self.buckets)
            + size_of_val(&*self.with_leaf)
            + size_of_val(&*self.leaves)
    }

    /// Asks for what [`Self::look_up`] reads first.
    #[inline]
    pub(super) fn prefetch(&self, address: u32) {
        prefetch_at(&self.nets, index(address >> 8));
    }

    /// The number for each address, at most a burst of them.
    #[inline]
    pub(super) fn look_up(&self, addresses: &[u32], numbers: &mut [u8]) {
        if self.is_empty() {
            return numbers.fill(0);
        }
        for (number, address) in numbers.iter_mut().zip(addresses) {
            *number = self.nets.get(index(address >> 8)).copied().unwrap_or(0);
        }
        let longer = marked(numbers);
        if longer != 0 {
            self.look_further(longer, addresses, numbers);
        }
    }

    /// For the addresses of /24s that are not of one piece: a bit for each in `longer`.
    fn look_further(&self, longer: u64, addresses: &[u32], numbers: &mut [u8]) {
        let bucket = |address: u32| bucket_of(address, self.buckets.len());
        for address in set_bits(longer).filter_map(|at| addresses.get(at)) {
            prefetch_at(&self.buckets, bucket(*address));
        }
        let mut in_leaf = 0;
        for at in set_bits(longer) {
            let (Some(address), Some(number)) = (addresses.get(at), numbers.get_mut(at)) else { continue };
            if *number == LEAF {
                prefetch_at(&self.with_leaf, index(address >> 14));
                in_leaf |= 1 << at;
                continue;
            }
            let found = self.buckets.get(bucket(*address)).map_or(0, |bucket| bucket.find(*address));
            *number = if found & LONGER != 0 { found } else { *number } & !LONGER;
        }
        for address in set_bits(in_leaf).filter_map(|at| addresses.get(at)) {
            prefetch_at(&self.leaves, self.leaf_of(address >> 8));
        }
        for at in set_bits(in_leaf) {
            let (Some(address), Some(number)) = (addresses.get(at), numbers.get_mut(at)) else { continue };
            if let Some(leaf) = self.leaves.get(self.leaf_of(address >> 8)) {
                *number = leaf.get(index(address & 0xff)).copied().unwrap_or(0);
            }
        }
    }

    #[inline(always)]
    fn leaf_of(&self, net: u32) -> usize {
        let Some(ranked) = self.with_leaf.get(index(net >> 6)) else { return usize::MAX };
        let below = ranked.bits & ((1 << (net & 63)) - 1);
        index(ranked.before + below.count_ones())
    }

    fn grow_leaves(&mut self, nets: &[u32], boundaries: &[Boundary<u32>]) {
        if nets.is_empty() {
            return;
        }
        self.with_leaf = vec![Ranked::default(); NETS / 64].into();
        self.leaves = vec![[0; 256]; nets.len()].into();
        for (net, leaf) in nets.iter().zip(&mut self.leaves) {
            set(&mut self.nets, *net, LEAF);
            if let Some(ranked) = self.with_leaf.get_mut(index(net >> 6)) {
                ranked.bits |= 1 << (net & 63);
            }
            for (first, end, number) in Pieces::of(*net, boundaries).iter() {
                if let Some(piece) = leaf.get_mut(index(first)..index(end)) {
                    piece.fill(number);
                }
            }
        }
        let mut before = 0;
        for ranked in &mut self.with_leaf {
            ranked.before = before;
            before += ranked.bits.count_ones();
        }
    }
}

impl Bucket {
    fn insert(&mut self, address: u32, number: u8) -> bool {
        let free = self.numbers.iter().position(|number| *number == 0);
        let place = free.and_then(|at| Some((self.addresses.get_mut(at)?, self.numbers.get_mut(at)?)));
        let Some((key, value)) = place else { return false };
        (*key, *value) = (address, number | LONGER);
        true
    }

    /// The number of an address with [`LONGER`] set, or something without.
    #[inline(always)]
    fn find(&self, address: u32) -> u8 {
        let same = |sum, (at, known): (u32, &u32)| sum | u32::from(*known == address) << at;
        // Full places come first, so that an empty one never hides address 0.
        let found = (0..).zip(&self.addresses).fold(0, same);
        self.numbers.get(index(found.trailing_zeros())).copied().unwrap_or(0)
    }
}

/// A bit for each of up to 64 numbers that has [`LONGER`] set, eight at a time.
#[inline(always)]
fn marked(numbers: &[u8]) -> u64 {
    /// Moves the lowest bits of eight bytes side by side into the highest byte.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let (eights, rest) = numbers.as_chunks::<8>();
    let one_by_one = rest.iter().rev().fold(0, |bits, number| bits << 1 | u64::from(number >> 7));
    eights.iter().rev().fold(one_by_one, |bits, eight| {
        let high = (u64::from_le_bytes(*eight) & u64::from_ne_bytes([LONGER; 8])) >> 7;
        bits << 8 | high.wrapping_mul(GATHER) >> 56
    })
}

/// The pieces of one /24.
struct Pieces<'a> {
    net: u32,
    before: u8,
    inside: &'a [Boundary<u32>],
}

impl<'a> Pieces<'a> {
    fn of(net: u32, boundaries: &'a [Boundary<u32>]) -> Self {
        let first = boundaries.partition_point(|(at, _)| at >> 8 < net);
        let count = boundaries.iter().skip(first).take_while(|(at, _)| at >> 8 == net).count();
        let before = first.checked_sub(1).and_then(|last| boundaries.get(last)).map_or(0, |(_, number)| *number);
        Self { net, before, inside: boundaries.get(first..first + count).unwrap_or_default() }
    }

    /// First, end and number of each, the ends relative to the /24.
    fn iter(&self) -> impl Iterator<Item = (u32, u32, u8)> + '_ {
        let starts =
            std::iter::once((0, self.before)).chain(self.inside.iter().map(|(at, n)| (at - (self.net << 8), *n)));
        let ends = self.inside.iter().map(|(at, _)| at - (self.net << 8)).chain([256]);
        starts.zip(ends).map(|((first, number), end)| (first, end, number))
    }

    /// The number that most addresses have, and how many have another.
    fn most(&self) -> (u8, u32) {
        let mut lengths = [0_u32; 128];
        for (first, end, number) in self.iter() {
            if let Some(length) = lengths.get_mut(usize::from(number)) {
                *length += end - first;
            }
        }
        let most = (0_u8..).zip(lengths).max_by_key(|(_, length)| *length);
        most.map_or((0, 0), |(number, length)| (number, 256 - length))
    }
}

/// Fills in the /24s that are of one piece, and returns the others, in order.
fn fill_whole(nets: &mut [u8], boundaries: &[Boundary<u32>]) -> Vec<u32> {
    let mut split = Vec::new();
    let ends = boundaries.iter().skip(1).map(|(at, _)| u64::from(*at)).chain([1 << 32]);
    for ((first, number), end) in boundaries.iter().zip(ends) {
        if first & 0xff != 0 {
            split.push(first >> 8);
        }
        let whole = (u64::from(*first) + 0xff) >> 8..end >> 8;
        let bounds = usize::try_from(whole.start).ok().zip(usize::try_from(whole.end).ok());
        if let Some(nets) = bounds.and_then(|(start, end)| nets.get_mut(start..end)) {
            nets.fill(*number);
        }
    }
    split
}

fn set(nets: &mut [u8], net: u32, byte: u8) {
    if let Some(at) = nets.get_mut(index(net)) {
        *at = byte;
    }
}

/// A multiplication spreads what lists have in common: neighbours. Who fills a list so that addresses collide gets leaves.
#[inline(always)]
fn bucket_of(address: u32, buckets: usize) -> usize {
    let hash = u64::from(address).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let buckets = u64::try_from(buckets).unwrap_or(0);
    usize::try_from((hash * buckets) >> 32).unwrap_or(0)
}

#[inline(always)]
fn index(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
