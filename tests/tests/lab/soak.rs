//! Minutes inline under attack: no growth of memory, every packet accounted for. `LEVEE_SOAK_MINUTES` says how many;
//! without it the test is skipped. Needs root and optimised programs.

#![expect(clippy::unwrap_used, reason = "a test helper that fails fails its test")]

use std::fs;

use levee_tests::http;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{self, Lab, skip_reason};

#[test]
fn under_attack_for_minutes_memory_stays_and_every_packet_is_accounted_for() {
    let Some(minutes) = std::env::var("LEVEE_SOAK_MINUTES").ok().and_then(|text| text.parse::<u64>().ok()) else {
        return println!("skipped: LEVEE_SOAK_MINUTES does not say how long");
    };
    if let Some(reason) = skip_reason(true) {
        return println!("skipped: {reason}");
    }
    let lab = Lab::up("soak", &[]);
    let dataplane = lab.process("levee", "levee-dataplane");
    let half = (minutes * 30).to_string();
    lab.attack("syn-flood", &["--seconds", &half]).unwrap();
    let halfway = resident_kib(dataplane);
    lab.attack("syn-flood", &["--seconds", &half, "--seed", "2"]).unwrap();

    let end = resident_kib(dataplane);
    println!("resident memory: {halfway} KiB half-way, {end} KiB at the end");
    assert!(end <= halfway + halfway / 50, "memory grew from {halfway} to {end} KiB");

    let clients: http::Report = lab.report("syn-flood/http");
    assert!(clients.succeeded.total() > 0);

    let ports = ["outside", "inside"].map(|port| (lab.counter(port, "rx_packets"), lab.counter(port, "tx_packets")));
    kill(dataplane, Signal::SIGTERM).unwrap();
    support::await_end(dataplane);
    let log = fs::read_to_string(lab.state("dataplane.log")).unwrap();
    println!("{log}");
    let [inbound, outbound] = ["inbound", "outbound"].map(|direction| Counts::read(&log, direction));
    for counts in [&inbound, &outbound] {
        assert_eq!(counts.received, counts.forwarded + counts.replied + counts.dropped);
    }
    let [outside, inside] = ports;
    // What crossed the interfaces before Levee was there is in the ports' counts only, what still arrived between reading
    // these and the end in Levee's only; nothing else may differ.
    let (early, late) = (20, 100);
    for (name, kernel, own) in [
        ("received outside", outside.0, inbound.received + inbound.lost),
        ("received inside", inside.0, outbound.received + outbound.lost),
        ("sent inside", inside.1, inbound.forwarded),
        ("sent outside", outside.1, outbound.forwarded + inbound.replied),
    ] {
        assert!((kernel - early..=kernel + late).contains(&own), "{name}: the port says {kernel}, Levee {own}");
    }
}

/// One direction of the wire, as the dataplane tells it when it ends.
struct Counts {
    received: u64,
    forwarded: u64,
    replied: u64,
    dropped: u64,
    lost: u64,
}

impl Counts {
    fn read(log: &str, direction: &str) -> Self {
        let line = log.lines().find(|line| line.contains(&format!("{direction}: received"))).unwrap();
        let number = |text: &str| text.trim().parse().unwrap();
        let after = |key: &str| line.split_once(key).unwrap().1;
        let first = |key: &str| number(after(key).split(',').next().unwrap());
        let reasons = after("dropped [").split_once(']').unwrap().0;
        Self {
            received: first("received "),
            forwarded: first("forwarded "),
            replied: first("replied "),
            dropped: reasons.split(", ").filter_map(|one| one.rsplit_once(' ')).map(|(_, count)| number(count)).sum(),
            lost: first("lost before "),
        }
    }
}

fn resident_kib(process: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
