#![expect(clippy::cast_possible_truncation, reason = "addresses are drawn by cutting random numbers")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use levee_api::prefix::Prefix;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::packet::{Kind, Lanes};
use levee_api::lane::Bits;

/// What sets mean: an address is in a set when one of its prefixes contains it, protected ones apart.
fn oracle(sets: &[(Vec<Prefix>, bool)], protected: &[Prefix], address: IpAddr) -> u16 {
    let is_protected = protected.iter().any(|prefix| prefix.contains(address));
    (0..).zip(sets).fold(0, |class, (bit, (prefixes, keeps))| {
        let inside = prefixes.iter().any(|prefix| prefix.contains(address)) && (!is_protected || *keeps);
        class | u16::from(inside) << bit
    })
}

fn built(sets: &[(Vec<Prefix>, bool)], protected: &[Prefix]) -> SourceSets {
    let sets: Vec<Set> = sets
        .iter()
        .map(|(prefixes, keeps)| Set { ranges: prefixes.iter().copied().collect(), keeps_protected: *keeps })
        .collect();
    SourceSets::build(&sets, &protected.iter().copied().collect()).unwrap()
}

fn lanes_of(address: IpAddr) -> Lanes {
    let mut lanes = Lanes::default();
    let (value, bits) = match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), Bits::empty()),
        IpAddr::V6(address) => (u128::from(address), Bits::IPV6),
    };
    for (piece, lane) in lanes.0.iter_mut().take(8).enumerate() {
        *lane = (value >> (112 - 16 * piece) & 0xffff) as u16;
    }
    lanes.set(Lane::Bits, bits.bits());
    lanes
}

/// The ends of a prefix, their neighbours outside, and something in the middle.
fn edges(prefix: Prefix, noise: u128) -> Vec<IpAddr> {
    match prefix.address() {
        IpAddr::V4(first) => {
            let (first, span) = (u32::from(first), u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0));
            let middle = first | (noise & u128::from(span)) as u32;
            [first, first.wrapping_sub(1), first | span, (first | span).wrapping_add(1), middle, middle ^ 1]
                .map(|address| IpAddr::V4(Ipv4Addr::from(address)))
                .into()
        }
        IpAddr::V6(first) => {
            let (first, span) = (u128::from(first), u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0));
            let middle = first | noise & span;
            [first, first.wrapping_sub(1), first | span, (first | span).wrapping_add(1), middle, middle ^ 1]
                .map(|address| IpAddr::V6(Ipv6Addr::from(address)))
                .into()
        }
    }
}

/// Prefixes that meet each other: few different first bits, all lengths.
fn prefix() -> impl Strategy<Value = Prefix> {
    let ipv4 = (select(vec![0_u32, 0xc000_0200, 0xc000_0300, 0xcb00_7100, 0xffff_ff00]), 0..4_u32, any::<u8>());
    let ipv4 = (ipv4, select(vec![0_u8, 1, 8, 16, 22, 23, 24, 25, 26, 28, 30, 31, 32, 32, 32])).prop_map(
        |((net, near, host), length)| {
            Prefix::containing(IpAddr::V4(Ipv4Addr::from(net.wrapping_add(near << 8) | u32::from(host))), length)
        },
    );
    let nets = vec![0_u128, 0x2001_0db8 << 96, 0x2001_0db8_000a_0001 << 64, u128::MAX << 64, u128::MAX];
    let lengths = vec![0_u8, 3, 16, 29, 32, 44, 48, 56, 63, 64, 64, 65, 96, 120, 127, 128, 128];
    let ipv6 = (select(nets), any::<u16>(), select(vec![0_u32, 16, 48, 62, 64, 72, 100]), select(lengths)).prop_map(
        |(net, noise, shift, length)| {
            Prefix::containing(IpAddr::V6(Ipv6Addr::from(net ^ u128::from(noise) << shift)), length)
        },
    );
    prop_oneof![ipv4, ipv6]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn agrees_with_plain_lists_of_prefixes(
        sets in vec((vec(prefix(), 0..60), any::<bool>()), 0..5),
        protected in vec(prefix(), 0..3),
        noise in any::<u128>(),
    ) {
        // A protected /0 would leave nothing to look at.
        let protected: Vec<_> = protected.into_iter().filter(|prefix| prefix.length() > 8).collect();
        let table = match SourceSets::build(
            &sets.iter().map(|(prefixes, keeps)| Set {
                ranges: prefixes.iter().copied().collect(),
                keeps_protected: *keeps,
            }).collect::<Vec<_>>(),
            &protected.iter().copied().collect(),
        ) {
            Ok(table) => table,
            Err(error) => panic!("{error}"),
        };
        let all = sets.iter().flat_map(|(prefixes, _)| prefixes).chain(&protected);
        let addresses: Vec<IpAddr> = all.flat_map(|prefix| edges(*prefix, noise)).collect();
        let lanes: Vec<Lanes> = addresses.iter().map(|address| lanes_of(*address)).collect();
        let classes = classes_of(&table, &lanes);
        for (address, class) in addresses.iter().zip(classes) {
            let expected = oracle(&sets, &protected, *address);
            prop_assert_eq!(class, expected, "{}", address);
            prop_assert_eq!(table.class_of(*address), expected, "{} alone", address);
        }
    }
}

/// The classes of the sources of packets, burst by burst, which all instruction sets agree on.
fn classes_of(table: &SourceSets, lanes: &[Lanes]) -> Vec<u16> {
    let of_burst = |isa, lanes: &[Lanes]| {
        let parsed = Parsed::of_rows(lanes.iter().map(|lanes| (*lanes, Kind::Tcp)));
        let mut classes = [0xffff; BURST];
        table.prefetch(parsed.columns.of(Lane::Src6));
        let members = table.classify(isa, &parsed, lanes.len(), &mut classes);
        let classes = classes[..lanes.len()].to_vec();
        assert!(classes.iter().enumerate().all(|(at, class)| (*class != 0) == (members >> at & 1 != 0)));
        classes
    };
    let of_all = |isa| lanes.chunks(BURST).flat_map(|lanes| of_burst(isa, lanes)).collect();
    let classes = of_all(Isa::SCALAR);
    for isa in Isa::available() {
        assert_eq!(of_all(isa), classes, "{isa}");
    }
    classes
}

/// A repeatable stream of numbers (splitmix64).
fn numbers(mut seed: u64) -> impl FnMut() -> u64 {
    move || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = seed;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

#[test]
fn of_a_hundred_thousand_hosts_none_is_lost() {
    let mut next = numbers(1);
    let ipv4: Vec<Prefix> =
        (0..100_000).map(|_| Prefix::host(IpAddr::V4(Ipv4Addr::from((next() >> 32) as u32)))).collect();
    let ipv6: Vec<Prefix> = (0..100_000)
        .map(|_| {
            let address = 0x2001_0db8 << 96 | u128::from(next() >> 44) << 64 | u128::from(next() >> 56);
            Prefix::containing(IpAddr::V6(Ipv6Addr::from(address)), if next().is_multiple_of(4) { 64 } else { 128 })
        })
        .collect();
    let table = built(&[(ipv4.clone(), false), (ipv6.clone(), false)], &[]);
    let lanes: Vec<_> = ipv4.iter().chain(&ipv6).map(|prefix| lanes_of(prefix.address())).collect();
    let classes = classes_of(&table, &lanes);
    assert!(classes.iter().take(100_000).all(|class| *class == 1));
    assert!(classes.iter().skip(100_000).all(|class| *class == 2));
}

#[test]
fn addresses_made_to_collide_are_all_found() {
    // Neighbours under the multiplication of the bucket's hash: steps by its inverse give near hashes.
    let inverse = 0x9e37_79b9_7f4a_7c15_u64;
    let wanted: Vec<Prefix> = (0_u32..=u32::MAX >> 4)
        .filter(|address| u64::from(*address).wrapping_mul(inverse) >> 48 == 0)
        .map(|address| Prefix::host(IpAddr::V4(Ipv4Addr::from(address))))
        .collect();
    assert!(wanted.len() > 1000, "{}", wanted.len());
    let table = built(&[(wanted.clone(), false)], &[]);
    for prefix in &wanted {
        assert_eq!(table.class_of(prefix.address()), 1, "{prefix}");
    }
    assert_eq!(table.class_of("255.255.255.255".parse().unwrap()), 0);
}

#[test]
fn protected_addresses_are_taken_out_and_told() {
    let bogons = vec!["192.0.0.0/8".parse().unwrap()];
    let protected: Vec<Prefix> = vec!["192.0.2.0/24".parse().unwrap()];
    let table = built(&[(bogons.clone(), false), (bogons, true)], &protected);
    assert_eq!(table.class_of("192.0.1.255".parse().unwrap()), 3);
    assert_eq!(table.class_of("192.0.2.7".parse().unwrap()), 2, "a set that keeps them keeps them");
    assert_eq!(table.protected(), 1);
}

#[test]
fn more_combinations_than_there_are_numbers_are_refused() {
    // Host n is in the sets that the bits of n say: 127 combinations of 7 sets.
    let sets = |hosts: u32| -> Vec<Set> {
        (0..7)
            .map(|bit| {
                let members = (1..=hosts).filter(|host| host >> bit & 1 == 1);
                let members = members.map(|host| Prefix::host(IpAddr::V4(Ipv4Addr::from(0xc000_0200 | host))));
                Set { ranges: members.collect(), keeps_protected: false }
            })
            .collect()
    };
    let table = SourceSets::build(&sets(126), &Ranges::default()).unwrap();
    assert_eq!(table.class_of("192.0.2.126".parse().unwrap()), 126);
    let error = SourceSets::build(&sets(127), &Ranges::default()).unwrap_err();
    assert_eq!(error, BuildError::Combinations);
    assert_eq!(SourceSets::build(&vec![Set::default(); 17], &Ranges::default()).unwrap_err(), BuildError::Sets(17));
}

#[test]
fn no_sets_take_no_memory_and_contain_nothing() {
    let table = built(&[(Vec::new(), false)], &["192.0.2.0/24".parse().unwrap()]);
    assert!(table.is_empty());
    assert_eq!(table.bytes(), 0);
    assert_eq!(classes_of(&table, &[Lanes::default(); 3]), [0; 3]);
}
