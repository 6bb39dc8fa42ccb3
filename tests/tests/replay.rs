//! Composed captures through `levee-dataplane replay`: what is attack and what is not is known for every packet.

#![expect(clippy::unwrap_used, reason = "a test helper that fails fails its test")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::ValueEnum;
use levee_tests::{
    address,
    attack::Kind,
    scenario::{Benign, Component, Scenario},
};
use tempfile::TempDir;

const SECOND: u64 = 1_000_000_000;
const ONSET_S: u32 = 8;

/// What cannot be dropped yet, and only must not do harm: SYNs that look like everybody's need a challenge.
const NOT_YET: [Kind; 1] = [Kind::SynMimic];

const CONFIGURATION: &str = r#"
schema = 1

[[zone]]
name = "web"
prefixes = ["203.0.113.0/24"]
mode = "enforce"
services = [ { proto = "tcp", ports = [443] }, { proto = "udp", ports = [27015] } ]
link_capacity = "1Gbps"
"#;

#[test]
fn every_kind_of_flood_is_dropped_and_conversations_are_spared() {
    let Some(program) = dataplane() else { return };
    let mut complaints = Vec::new();
    for kind in Kind::value_variants() {
        let run = Run::of(&program, &scenario(*kind));
        let first = u64::from(scenario(*kind).start_unix_s + ONSET_S) * SECOND;
        let count = |packets: &[Packet], attack: bool| {
            packets.iter().filter(|p| p.attack == attack && (!attack || p.unix_ns >= first + SECOND / 5)).count()
        };
        let [sent, passed] = [&run.outside, &run.passed].map(|packets| count(packets, true));
        let [offered, served] = [&run.outside, &run.passed].map(|packets| count(packets, false));
        println!(
            "{kind}: {passed} of {sent} attack packets passed, {} of {offered} others were lost",
            offered - served
        );
        if passed * 100 > sent && !NOT_YET.contains(kind) {
            complaints.push(format!("{kind}: {passed} of {sent} attack packets passed after the first 200 ms"));
        }
        if (offered - served) * 200 > offered {
            complaints.push(format!("{kind}: {} of {offered} legitimate packets were lost", offered - served));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn without_an_attack_nothing_is_lost() {
    let Some(program) = dataplane() else { return };
    let run = Run::of(&program, &Scenario { attacks: Vec::new(), ..scenario(Kind::SynFlood) });
    assert_eq!(run.outside, run.passed);
}

#[test]
fn the_same_captures_give_the_same_output_to_the_byte() {
    let Some(program) = dataplane() else { return };
    let runs = [(); 2].map(|()| Run::of(&program, &scenario(Kind::SynFlood)));
    for name in ["passed.pcap", "report.json"] {
        let [one, other] = [0, 1].map(|i: usize| fs::read(runs[i].folder.path().join(name)).unwrap());
        assert!(one == other, "{name} differs");
    }
}

fn scenario(kind: Kind) -> Scenario {
    let target = if kind == Kind::Carpet { "203.0.113.0/24" } else { "203.0.113.10/32" };
    let port = matches!(kind, Kind::SynFlood | Kind::SynMimic | Kind::AckFlood).then_some(443);
    Scenario {
        seed: 7,
        duration_s: 20,
        start_unix_s: 1_750_000_000,
        benign: Benign {
            servers: (9..13).map(|host| [203, 0, 113, host].into()).collect(),
            web_per_s: 30,
            game_per_s: 2,
            dns_per_s: 10,
        },
        attacks: vec![Component {
            kind,
            target: target.parse().unwrap(),
            port,
            rate_pps: 10_000,
            onset_s: ONSET_S.into(),
            duration_s: 10.0,
            pulse: None,
        }],
    }
}

/// One replay and its captures.
struct Run {
    folder: TempDir,
    outside: Vec<Packet>,
    passed: Vec<Packet>,
}

#[derive(Debug, PartialEq)]
struct Packet {
    unix_ns: u64,
    attack: bool,
}

impl Run {
    fn of(program: &Path, scenario: &Scenario) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        scenario.write(&path("outside.pcap"), &path("inside.pcap"), None).unwrap();
        fs::write(path("levee.toml"), CONFIGURATION).unwrap();
        let output = Command::new(program)
            .args(["replay", "--config", "levee.toml", "--report", "report.json"])
            .args(["--outside-in", "outside.pcap", "--inside-in", "inside.pcap", "--inside-out", "passed.pcap"])
            .current_dir(&folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (outside, passed) = (read(&path("outside.pcap")), read(&path("passed.pcap")));
        Self { folder, outside, passed }
    }
}

/// Packets of a classic pcap file with nanoseconds, little-endian, as this crate and replay write them.
fn read(path: &Path) -> Vec<Packet> {
    let bytes = fs::read(path).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(word(0), 0xa1b2_3c4d);
    let (mut at, mut packets) = (24, Vec::new());
    while at < bytes.len() {
        let unix_ns = u64::from(word(at)) * SECOND + u64::from(word(at + 4));
        let source: [u8; 4] = bytes[at + 16 + 26..at + 16 + 30].try_into().unwrap();
        packets.push(Packet { unix_ns, attack: address::is_attacker(source.into()) });
        at += 16 + usize::try_from(word(at + 8)).unwrap();
    }
    packets
}

/// The optimised program; a debug build takes too long for so many packets.
fn dataplane() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_BIN_EXE_levee-traffic")).parent().unwrap().parent().unwrap();
    let program = beside.join("release/levee-dataplane");
    if program.exists() {
        return Some(program);
    }
    println!("skipped: {} is missing: cargo build --release --workspace --bins", program.display());
    None
}
