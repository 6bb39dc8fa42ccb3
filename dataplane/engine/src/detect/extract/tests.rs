//! What is found and what is refused, judged on samples that the extractor has not seen.

use super::*;
use population::*;

pub(crate) mod population;

/// A job with 2 048 samples of an attack, of which `rho` percent are legitimate.
fn job(
    role: Role,
    rho: u16,
    attack: impl Fn(&mut Random) -> Sample,
    window_legitimate: impl Fn(&mut Random) -> Sample,
    legitimate: Vec<Sample>,
) -> Job {
    let mut random = Random(0x5eed);
    let window =
        many(
            MAX_WINDOW,
            &mut random,
            |random| {
                if random.percent(rho) { window_legitimate(random) } else { attack(random) }
            },
        );
    Job {
        role,
        attack: window,
        legitimate,
        rho: f64::from(rho) / 100.0,
        excess: 0.9 - f64::from(rho) / 100.0,
        installed: Vec::new(),
        first_pass: true,
        allow_limit: false,
        served: vec![
            Service { protocol: 6, ports: vec![(80, 80), (443, 443)] },
            Service { protocol: 17, ports: vec![(27_015, 27_015)] },
        ],
    }
}

fn selected(extraction: &Extraction, sample: &Sample) -> bool {
    extraction.found.iter().any(|found| found.rule.contains(&sample.lanes.0, payload(sample)))
}

/// Share of 20 000 unseen packets that the rules select.
fn unseen_share(extraction: &Extraction, seed: u64, one: impl Fn(&mut Random) -> Sample) -> f64 {
    let mut random = Random(seed);
    let samples = many(20_000, &mut random, one);
    share(count(samples.iter().filter(|sample| selected(extraction, sample)).count()), 20_000)
}

/// Asserts what the rules do to unseen attack packets and unseen legitimate packets.
fn assert_separates(
    extraction: &Extraction,
    least_gain: f64,
    most_collateral: f64,
    attack: impl Fn(&mut Random) -> Sample,
    legitimate: impl Fn(&mut Random) -> Sample,
) {
    let (gain, collateral) = (unseen_share(extraction, 1, attack), unseen_share(extraction, 2, legitimate));
    let rules: Vec<String> = extraction.found.iter().map(|found| found.rule.to_string()).collect();
    assert!(
        gain >= least_gain && collateral <= most_collateral,
        "gain {gain}, collateral {collateral}, {:?}, rules {rules:#?}",
        extraction.why_not
    );
}

fn reservoir(size: usize, one: impl Fn(&mut Random) -> Sample) -> Vec<Sample> {
    many(size, &mut Random(77), one)
}

#[test]
fn a_tools_syn_flood_is_told_from_the_diversity_of_clients() {
    let extraction = extract(&job(Role::Syn, 5, tool_syn, syn, reservoir(2_000, syn)));
    assert_separates(&extraction, 0.999, 0.0, tool_syn, syn);
    assert!(extraction.found.iter().all(|found| found.tier == Tier::Drop && found.collateral < 0.005));
    assert!(extraction.covered > 0.99 && extraction.found.len() == 1);
}

#[test]
fn mixed_option_layouts_need_more_than_one_rule() {
    let extraction = extract(&job(Role::Syn, 5, mixed_syn, syn, reservoir(2_000, syn)));
    assert_separates(&extraction, 0.9, 0.002, mixed_syn, syn);
}

#[test]
fn a_constant_payload_is_dropped_beside_players() {
    let extraction = extract(&job(Role::UdpOpen, 10, constant_udp, game, reservoir(1_000, game)));
    assert_separates(&extraction, 0.999, 0.0, constant_udp, game);
}

#[test]
fn random_payload_of_random_length_is_dropped_beside_players() {
    let extraction = extract(&job(Role::UdpOpen, 5, random_udp, game, reservoir(1_000, game)));
    assert_separates(&extraction, 0.95, 0.002, random_udp, game);
}

#[test]
fn a_dns_amplification_is_its_source_port_even_without_a_reservoir() {
    let extraction = extract(&job(Role::UnsolicitedResponse, 0, dns_response, dns_response, Vec::new()));
    assert_separates(&extraction, 0.999, 0.0, dns_response, game);
}

#[test]
fn an_echo_flood_of_one_size_is_told_from_pings() {
    let flood = |random: &mut Random| icmp(8, 1000, 64, random);
    let extraction = extract(&job(Role::IcmpOther, 5, flood, ping, reservoir(400, ping)));
    assert_separates(&extraction, 0.999, 0.0, flood, ping);
    assert!(
        extraction.found.iter().all(|found| found.rule.to_string().contains("protocol=1")),
        "ICMP is said to be so"
    );
}

#[test]
fn an_exact_mimic_of_legitimate_syns_is_left_to_challenges() {
    for size in [0, 150, 300, 1_000, 4_096] {
        let extraction = extract(&job(Role::Syn, 5, syn, syn, reservoir(size, syn)));
        assert_eq!(extraction.found, [], "reservoir of {size}");
        assert!(extraction.why_not.is_some());
    }
}

#[test]
fn a_crowd_from_the_known_population_is_never_touched() {
    for seed in 0..8 {
        for size in [200, 300, 1_000, 4_096] {
            for window in [MIN_SAMPLES, 500, MAX_WINDOW] {
                let mut random = Random(seed);
                let mut crowd = job(Role::Syn, 10, syn, syn, many(size, &mut random, syn));
                crowd.attack = many(window, &mut random, syn);
                crowd.allow_limit = true;
                assert_eq!(extract(&crowd).found, [], "seed {seed}, reservoir {size}, window {window}");
                let mut players = job(Role::UdpOpen, 10, game, game, many(size, &mut random, game));
                players.attack = many(window, &mut random, game);
                players.allow_limit = true;
                assert_eq!(extract(&players).found, [], "seed {seed}, reservoir {size}, window {window}");
            }
        }
    }
}
