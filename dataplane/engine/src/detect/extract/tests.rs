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
        only_unnatural: false,
        is_common: false,
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
    for seed in 0..4 {
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

#[test]
fn the_same_job_gives_the_same_rules() {
    let job = job(Role::Syn, 5, mixed_syn, syn, reservoir(2_000, syn));
    let (one, two) = (extract(&job), extract(&job.clone()));
    assert_eq!(one, two);
    assert!(!one.found.is_empty());
}

/// Every finalist of a job: its rule must select exactly the samples that were counted for it.
fn assert_rules_select_what_was_counted(job: &Job) -> usize {
    let attack = Population::of(job.attack.iter().collect());
    let legitimate = Population::of(job.legitimate.iter().collect());
    let scale = Scale {
        role: job.role,
        attack: count(attack.size()),
        legitimate: count(legitimate.size()),
        rho: job.rho,
        only_unnatural: false,
        is_common: false,
    };
    let atoms = atoms::atoms(&scale, &job.served, &Drift::default(), &attack, &legitimate);
    let holes = exceptions::holes(&scale, &attack, &legitimate);
    let stubborn = exceptions::stubborn(legitimate.size(), &holes);
    let nodes = beam::search(&scale, &atoms, &Members::all(attack.size()), &stubborn);
    let mut with_holes = 0;
    for node in nodes {
        let finalist = Finalist::of(&scale, &atoms, &holes, node, &attack, &legitimate);
        with_holes += usize::from(!finalist.rule.except.is_empty());
        for (population, members) in [(&attack, &finalist.attack), (&legitimate, &finalist.legitimate)] {
            let hits: std::collections::HashSet<usize> = members.iter().collect();
            for (index, sample) in population.samples.iter().enumerate() {
                let contains = finalist.rule.contains(&sample.lanes.0, payload(sample));
                assert_eq!(contains, hits.contains(&index), "{} on sample {index}", finalist.rule);
            }
        }
    }
    with_holes
}

/// A packet whose fields take few values each, also impossible ones: present or absent payload, IPv6, fragments.
fn anything(role: Role, values: u16, random: &mut Random) -> Sample {
    let mut sample = packet(role, random);
    for lane in Lane::ALL {
        let draw = random.within(0, values) * 251;
        set(&mut sample, lane, draw);
    }
    set(&mut sample, Lane::Protocol, random.pick(&[(1, 6_u16), (1, 17), (1, 1)]));
    let length = random.within(0, 40);
    let head: Vec<u8> = (0..32).map(|_| u8::try_from(random.within(0, 2)).unwrap()).collect();
    set_payload(&mut sample, &head, length, 28, random);
    sample
}

#[test]
fn a_rule_selects_exactly_what_was_counted_for_it() {
    let mut with_holes = 0;
    for seed in 0..12 {
        let role = Role::ALL[usize::try_from(seed).unwrap() % Role::COUNT];
        let mut random = Random(seed);
        let mut job = job(role, 0, syn, syn, Vec::new());
        job.attack = many(400, &mut random, |random| anything(role, 3, random));
        job.legitimate = many(300, &mut random, |random| anything(role, 6, random));
        with_holes += assert_rules_select_what_was_counted(&job);
    }
    let mimic = job(Role::Syn, 5, mixed_syn, syn, reservoir(1_000, syn));
    with_holes += assert_rules_select_what_was_counted(&mimic);
    assert!(with_holes > 0, "holes were part of it");
}

#[test]
fn exceptions_spare_an_app_that_looks_like_the_attack() {
    // Three in ten legitimate first datagrams have the attack's length and nearly all of its freedom, but a head of
    // their own.
    let app = |random: &mut Random| {
        let (source, length) = (random.within(1024, u16::MAX), random.within(200, 900));
        let ttl = random.pick(&[(2, 128), (3, 64)]);
        udp(b"\x17\xfe\xfd", length, (source, 27_015), ttl, random)
    };
    let legitimate = move |random: &mut Random| if random.percent(30) { app(random) } else { game(random) };
    let extraction = extract(&job(Role::UdpOpen, 5, random_udp, legitimate, reservoir(2_000, legitimate)));
    assert_separates(&extraction, 0.9, 0.002, random_udp, legitimate);
    assert!(extraction.found.iter().any(|found| !found.rule.except.is_empty()), "{extraction:?}");
}

#[test]
fn an_attack_in_the_shape_of_a_third_of_the_clients_is_refused_or_told_apart() {
    // The attack is one common stack in every field, but for a TTL that travels less: a TTL alone is no signature.
    let attack = |random: &mut Random| {
        let mut sample = syn_of(STACKS[0].1, random);
        set(&mut sample, Lane::Ttl, 57);
        sample
    };
    let extraction = extract(&job(Role::Syn, 5, attack, syn, reservoir(2_000, syn)));
    assert!(extraction.found.is_empty() || unseen_share(&extraction, 3, syn) <= 0.005, "{extraction:?}");
}

#[test]
fn without_a_reservoir_only_what_no_common_client_sends_is_dropped() {
    // A tool's SYN: no stack in use omits the MSS.
    let tool = extract(&job(Role::Syn, 0, tool_syn, syn, Vec::new()));
    assert_separates(&tool, 0.999, 0.0, tool_syn, syn);
    assert!(tool.found.iter().all(|found| found.collateral >= 1.0), "nothing was measured");
    // The same bytes from everybody: so does every game's first datagram look.
    let constant = extract(&job(Role::UdpOpen, 0, constant_udp, game, Vec::new()));
    assert_eq!((constant.found, constant.why_not), (Vec::new(), Some(WhyNot::TooFewLegitimate)));
    // Common clients, one of them prevailing.
    let phones = |random: &mut Random| syn_of(STACKS[2].1, random);
    let crowd = extract(&job(Role::Syn, 0, phones, syn, Vec::new()));
    assert_eq!((crowd.found, crowd.why_not), (Vec::new(), Some(WhyNot::TooFewLegitimate)));
    // Pings as everybody sends them, and pings as nobody does.
    let pings = extract(&job(Role::IcmpOther, 0, ping, ping, Vec::new()));
    assert_eq!(pings.found, []);
    let flood = |random: &mut Random| icmp(8, 1000, 64, random);
    assert_separates(&extract(&job(Role::IcmpOther, 0, flood, ping, Vec::new())), 0.999, 0.0, flood, ping);
}

#[test]
fn a_poisoned_reservoir_costs_the_drop_but_not_the_limit() {
    let poisoned = |random: &mut Random| if random.percent(1) { tool_syn(random) } else { syn(random) };
    let mut job = job(Role::Syn, 5, tool_syn, syn, reservoir(4_096, poisoned));
    let drop = extract(&job);
    assert_eq!(drop.found, []);
    job.allow_limit = true;
    let limit = extract(&job);
    assert!(limit.found.iter().all(|found| found.tier == Tier::Limit), "{limit:?}");
    assert_separates(&limit, 0.999, 0.0, tool_syn, syn);
    // Poisoned by one in 500 it still drops.
    job.legitimate = reservoir(4_088, syn);
    job.legitimate.extend(many(8, &mut Random(5), tool_syn));
    let drop = extract(&job);
    assert!(drop.found.iter().all(|found| found.tier == Tier::Drop));
    assert_separates(&drop, 0.999, 0.0, tool_syn, syn);
}

#[test]
fn installed_rules_are_done_with() {
    let mut job = job(Role::Syn, 5, tool_syn, syn, reservoir(2_000, syn));
    let first = extract(&job);
    job.installed = first.found.iter().map(|found| found.rule.clone()).collect();
    job.first_pass = false;
    assert_eq!(extract(&job).why_not, Some(WhyNot::TooFewSamples), "what is left is the legitimate part");
    // A second vector beside it.
    let second = job.attack.iter().zip(many(MAX_WINDOW, &mut Random(9), mixed_syn)).enumerate();
    job.attack = second.map(|(index, (old, new))| if index % 2 == 0 { *old } else { new }).collect();
    let both = extract(&job);
    assert!(!both.found.is_empty() && both.found.iter().all(|found| !job.installed.contains(&found.rule)), "{both:?}");
    assert_separates(&both, 0.9, 0.002, mixed_syn, syn);
}

#[test]
fn jobs_that_cannot_be_done_say_why() {
    let sound = job(Role::Syn, 5, tool_syn, syn, reservoir(2_000, syn));
    let why = |change: fn(&mut Job)| {
        let mut job = sound.clone();
        change(&mut job);
        extract(&job).why_not
    };
    assert_eq!(why(|_| ()), None);
    assert_eq!(why(|job| job.attack.truncate(MIN_SAMPLES - 1)), Some(WhyNot::TooFewSamples));
    assert_eq!(why(|job| job.attack.clear()), Some(WhyNot::TooFewSamples));
    assert_eq!(why(|job| job.rho = 0.7), Some(WhyNot::RhoTooHigh));
    assert_eq!(why(|job| job.rho = f64::NAN), Some(WhyNot::RhoTooHigh));
    assert_eq!(why(|job| job.excess = 0.0), Some(WhyNot::NothingToDo));
    assert_eq!(why(|job| job.excess = f64::NAN), Some(WhyNot::NothingToDo));
    assert_eq!(
        why(|job| job.installed = vec![Rule::of(HeaderBox::any().exact(Lane::Ttl, 1)); 8]),
        Some(WhyNot::NothingToDo)
    );
}

#[test]
fn what_explains_a_small_part_of_the_excess_is_not_installed() {
    // A tool's flood that is a third of the excess; the rest looks like clients.
    let third = |random: &mut Random| if random.percent(33) { tool_syn(random) } else { syn(random) };
    let extraction = extract(&job(Role::Syn, 5, third, syn, reservoir(2_000, syn)));
    assert_eq!((extraction.found, extraction.why_not), (Vec::new(), Some(WhyNot::CoversTooLittle)));
}

/// The window of a crowd, one part of which (in percent) is of a stack that the reservoir does not know.
fn crowd_with_unknown(percent: u16) -> Job {
    let unknown = Stack { options: 0x6e06, window: 32_768, length: 56, ttl: 64, no_ident: false };
    let newcomer = |random: &mut Random| if random.percent(percent) { syn_of(unknown, random) } else { syn(random) };
    job(Role::Syn, 10, newcomer, syn, reservoir(2_000, syn))
}

#[test]
fn a_crowd_in_which_known_clients_shift_is_not_touched() {
    // An event for phones: the rarer stacks of the reservoir prevail.
    let mut shifted = STACKS.to_vec();
    for (weight, stack) in &mut shifted {
        *weight = if stack.no_ident || stack.window == 14_600 { *weight * 6 } else { *weight };
    }
    let phones = |random: &mut Random| {
        let stack = random.pick(&shifted);
        syn_of(stack, random)
    };
    let mut crowd = job(Role::Syn, 10, phones, syn, reservoir(2_000, syn));
    crowd.allow_limit = true;
    assert_eq!(extract(&crowd).found, []);
}

#[test]
fn a_crowd_partly_of_unknown_clients_is_not_touched() {
    assert_eq!(extract(&crowd_with_unknown(35)).found, []);
}

/// The limit of what samples can tell, and the reason why an enforced rule needs a witness first: a new client that most
/// of a crowd uses is, packet by packet, what a tool's flood is.
#[test]
fn a_crowd_of_mostly_one_unknown_client_is_indistinguishable_from_a_flood() {
    let extraction = extract(&crowd_with_unknown(80));
    assert!(extraction.covered > 0.8 && extraction.found.len() == 1, "{extraction:?}");
    assert!(unseen_share(&extraction, 4, syn) == 0.0, "and the known clients beside it are spared");
}
