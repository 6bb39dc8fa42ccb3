//! Which of many prefixes overlap.

use crate::prefix::Prefix;

/// Pairs of positions whose prefixes overlap: each prefix with the narrowest one that covers it. n log n in time.
///
/// Sorted by first address, wider first, only what is still open around a prefix can overlap with it.
pub fn overlaps(prefixes: &[Prefix]) -> Vec<(usize, usize)> {
    let mut order: Vec<(usize, &Prefix)> = prefixes.iter().enumerate().collect();
    order.sort_by_key(|&(position, prefix)| (!prefix.is_ipv4(), prefix.address(), prefix.length(), position));
    let mut open: Vec<(usize, &Prefix)> = Vec::new();
    let mut pairs = Vec::new();
    for (position, prefix) in order {
        while open.last().is_some_and(|(_, outer)| !outer.covers(prefix)) {
            open.pop();
        }
        pairs.extend(open.last().map(|&(outer, _)| (outer.min(position), outer.max(position))));
        open.push((position, prefix));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn there_are_overlaps_exactly_when_two_prefixes_overlap(
            drawn in prop::collection::vec((0_u32..64, 26_u8..=32, any::<bool>()), 0..12)
        ) {
            let prefixes: Vec<Prefix> = drawn
                .into_iter()
                .map(|(low, length, v4)| {
                    let address = if v4 { IpAddr::from(low.to_be_bytes()) } else { IpAddr::from(u128::from(low).to_be_bytes()) };
                    Prefix::containing(address, if v4 { length } else { length + 96 })
                })
                .collect();
            let found = overlaps(&prefixes);
            for &(a, b) in &found {
                prop_assert!(a < b && prefixes[a].overlaps(&prefixes[b]));
            }
            for b in 0..prefixes.len() {
                for a in 0..b {
                    if prefixes[a].overlaps(&prefixes[b]) {
                        prop_assert!(found.iter().any(|pair| [a, b].contains(&pair.0) || [a, b].contains(&pair.1)));
                    }
                }
            }
        }
    }
}
