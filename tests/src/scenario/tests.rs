//! Scenarios as files, and what comes of them.

use std::{fs, net::IpAddr};

use levee_api::vector::Vector;

use super::*;
use crate::address;

const SECOND: u64 = 1_000_000_000;

const TEXT: &str = r#"
    seed = 9
    duration_s = 4
    [benign]
    servers = ["203.0.113.9", "2001:db8:a::9"]
    per_s = { web = 10, ssh = 1, fetch = 2, game = 2, query = 20, lookup = 5, quic = 3, voip = 1, ping = 1 }
    [[attack]]
    kind = "syn-flood"
    target = "203.0.113.9/32"
    rate_per_s = 2000
    onset_s = 1.5
    duration_s = 2
    answered = true
    pulse = { on_s = 0.5, off_s = 0.5 }
    [[attack]]
    kind = "dns-amplification"
    target = "203.0.113.0/24"
    rate_per_s = 1000
    onset_s = 2
    duration_s = 1
    [[attack]]
    kind = "http-request-flood"
    target = "2001:db8:a::9/128"
    rate_per_s = 100
    onset_s = 1
    duration_s = 1
"#;

fn packets(scenario: &Scenario) -> Vec<Packet> {
    scenario.packets().unwrap().collect()
}

fn scenario(text: &str) -> Scenario {
    toml::from_str(text).unwrap()
}

fn ms(packet: &Packet) -> u64 {
    (packet.unix_ns - u64::from(june_2025()) * SECOND) / 1_000_000
}

fn source(packet: &Packet) -> IpAddr {
    match packet.frame[12..14] {
        [8, 0] => <[u8; 4]>::try_from(&packet.frame[26..30]).unwrap().into(),
        _ => <[u8; 16]>::try_from(&packet.frame[22..38]).unwrap().into(),
    }
}

fn destination(packet: &Packet) -> IpAddr {
    <[u8; 4]>::try_from(&packet.frame[30..34]).unwrap().into()
}

#[test]
fn a_scenario_is_the_same_every_time_in_order_and_labelled_by_truth() {
    let scenario = scenario(TEXT);
    let all = packets(&scenario);
    assert_eq!(all, packets(&scenario));
    assert!(all.is_sorted_by(|a, b| a.unix_ns < b.unix_ns));
    for packet in all.iter().filter(|packet| packet.inbound) {
        assert_eq!(matches!(packet.label, Label::Attack(_)), address::is_attacker(source(packet)));
    }
    let of = |label| all.iter().filter(|p| p.inbound && p.label == label).count();
    for (attack, expected) in [(0, 1_700..2_300), (1, 1_200..2_000), (2, 500..1_200)] {
        let count = of(Label::Attack(attack));
        assert!(expected.contains(&count), "{attack}: {count}");
    }
    assert!(of(Label::Benign) > 1_000);
}

#[test]
fn attacks_keep_to_their_times_and_are_answered_on_request() {
    let all = packets(&scenario(TEXT));
    let syns: Vec<_> = all.iter().filter(|packet| packet.label == Label::Attack(0)).collect();
    for packet in &syns {
        assert!((1_500..=2_000).contains(&ms(packet)) || (2_500..=3_000).contains(&ms(packet)), "{}", ms(packet));
    }
    assert_eq!(syns.iter().filter(|packet| packet.inbound).count() * 2, syns.len());
    assert!(all.iter().filter(|packet| packet.label == Label::Attack(1)).all(|packet| packet.inbound));
}

#[test]
fn a_crowd_rises_and_a_ramp_grows() {
    let all = packets(&scenario(
        r#"
        duration_s = 8
        [[crowd]]
        kind = "query"
        server = "203.0.113.9"
        per_s = 1000
        onset_s = 0
        duration_s = 4
        rise_s = 4
        [[attack]]
        kind = "udp-random"
        target = "203.0.113.9/32"
        rate_per_s = 2000
        onset_s = 4
        duration_s = 4
        ramp = { from_per_s = 20, factor = 10, every_s = 1 }
        "#,
    ));
    let within = |from: u64| all.iter().filter(|p| p.inbound && (from..from + 1_000).contains(&ms(p))).count();
    let seconds: Vec<usize> = (0..8).map(|second| within(second * 1_000)).collect();
    for (second, expected) in [(0, 80..170), (3, 800..960), (4, 40..120), (5, 500..1_000), (6, 1_900..2_100)] {
        assert!(expected.contains(&seconds[second]), "{seconds:?}");
    }
}

#[test]
fn an_attack_can_go_from_host_to_host() {
    let all = packets(&scenario(
        r#"
        duration_s = 2
        [[attack]]
        kind = "ack-flood"
        target = "203.0.113.0/30"
        rate_per_s = 500
        onset_s = 0
        duration_s = 2
        dwell_s = 0.5
        "#,
    ));
    for packet in &all {
        assert_eq!(destination(packet), IpAddr::from([203, 0, 113, u8::try_from(ms(packet) / 500).unwrap()]));
    }
}

#[test]
fn connections_of_a_flood_inside_connections_are_there_before_it() {
    let all = packets(&scenario(
        r#"
        duration_s = 3
        [[attack]]
        kind = "established-flood"
        target = "203.0.113.9/32"
        rate_per_s = 1000
        onset_s = 1
        duration_s = 1
        "#,
    ));
    let prelude: Vec<_> = all.iter().filter(|packet| packet.label == Label::Prelude).collect();
    assert!(prelude.len() >= 200 && prelude.iter().all(|packet| (400..1_000).contains(&ms(packet))));
    let flood: Vec<_> = all.iter().filter(|packet| packet.label == Label::Attack(0)).collect();
    assert!((850..1_150).contains(&flood.len()) && flood.iter().all(|p| p.inbound && ms(p) >= 1_000));
}

#[test]
fn files_and_labels_agree() {
    let scenario = scenario(TEXT);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    scenario.write(&path("out.pcap"), &path("in.pcap"), Some(&path("labels.csv"))).unwrap();
    let all = packets(&scenario);
    let size = |inbound: bool| {
        24 + all.iter().filter(|p| p.inbound == inbound).map(|p| 16 + p.frame.len() as u64).sum::<u64>()
    };
    assert_eq!(fs::metadata(path("out.pcap")).unwrap().len(), size(true));
    assert_eq!(fs::metadata(path("in.pcap")).unwrap().len(), size(false));
    let labels = fs::read_to_string(path("labels.csv")).unwrap();
    assert_eq!(labels.lines().count(), 1 + all.iter().filter(|p| p.inbound).count());
    assert_eq!(
        labels.lines().filter(|line| line.ends_with("syn-flood")).count(),
        all.iter().filter(|p| p.inbound && p.label == Label::Attack(0)).count()
    );
}

#[test]
fn long_scenarios_are_made_as_they_are_read() {
    let text = "duration_s = 2419200\n[benign]\nservers = [\"203.0.113.9\"]\nper_s = { web = 5 }";
    assert_eq!(scenario(text).packets().unwrap().take(1_000).count(), 1_000);
}

#[test]
fn what_cannot_be_is_an_error() {
    let error = |text: &str| scenario(text).packets().unwrap_err();
    assert!(matches!(error("duration_s = 1\nbenign = { per_s = { web = 1 } }"), ScenarioError::NoServers));
    let attack = |kind: Vector, target: &str, rate: &str| {
        error(&format!(
            "duration_s = 1\n[[attack]]\nkind = \"{kind}\"\ntarget = \"{target}\"\nrate_per_s = {rate}\nonset_s = 0\nduration_s = 1"
        ))
    };
    assert!(matches!(attack(Vector::Icmpv6Flood, "203.0.113.9/32", "1"), ScenarioError::Family { .. }));
    assert!(matches!(attack(Vector::Smurf, "2001:db8::/64", "1"), ScenarioError::Family { .. }));
    for rate in ["0", "-1", "nan", "1e9"] {
        assert!(matches!(attack(Vector::AckFlood, "203.0.113.9/32", rate), ScenarioError::Rate { .. }), "{rate}");
    }
}
