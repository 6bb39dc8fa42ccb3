//! An attack that is larger than the uplink: a real BIRD upstream is asked for help, more of it as less did not help, and at
//! the end it has nothing of ours. Needs root and BIRD.

#![expect(clippy::unwrap_used, reason = "a test helper that fails fails its test")]

use std::{collections::HashMap, fs, path::Path};

use levee_tests::{http, send, time_bins::TimeBins};
use serde_json::Value;

use crate::support::{self, Lab, skip_reason};

/// Attacks that are measured one by one. One more on the same network is an attack on the network.
const ATTACKS: usize = 3;
/// What the uplink carries.
const MBITS: &str = "10";

fn why_not() -> Option<String> {
    let bird = ["/usr/sbin/bird", "/usr/bin/bird"].iter().any(|path| Path::new(path).exists());
    skip_reason(true).or_else(|| (!bird).then(|| "BIRD is not installed; scripts/setup installs it".into()))
}

/// One line of the router's log about a route of ours.
#[derive(Debug)]
struct Logged {
    unix_ns: u64,
    came: bool,
    what: String,
}

/// What the router has taken in and let go of, by its own log and clock: nobody had to ask it again and again.
fn logged(lab: &Lab) -> Vec<Logged> {
    let text = fs::read_to_string(lab.state("bird.log")).unwrap();
    let line = |line: &str| {
        let (time, rest) = line.split_once(" <TRACE> levee.")?;
        let (table, rest) = rest.split_once(" > ")?;
        let came = rest.starts_with("added") || rest.starts_with("updated");
        // The last word of the time is microseconds since the epoch.
        let unix_ns = time.rsplit(' ').next()?.parse::<u64>().ok()? * 1_000;
        (came || rest.starts_with("removed")).then(|| Logged {
            unix_ns,
            came,
            what: format!("{table} {}", rest.split_once("] ").map_or(rest, |(_, what)| what)),
        })
    };
    text.lines().filter_map(line).collect()
}

/// When each target was first said to be attacked, by the dataplane.
fn detected(lab: &Lab) -> HashMap<String, u64> {
    let mut detected = HashMap::new();
    for line in fs::read_to_string(lab.state("events.jsonl")).unwrap().lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        if event["event"] == "state_changed" && event["state"] == "attack" {
            let target = event["target"].as_str().unwrap_or_default().to_owned();
            detected.entry(target).or_insert_with(|| event["time_unix_ns"].as_u64().unwrap());
        }
    }
    detected
}

fn ctl(lab: &Lab, arguments: &[&str]) -> Value {
    let output = lab.command("ctl", &[arguments, &["-o", "json"]].concat()).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Part of the requests that began within a time and were answered.
fn served(clients: &http::Report, from_ns: u64, to_ns: u64) -> f64 {
    let count = |bins: &TimeBins| bins.between(from_ns, to_ns);
    count(&clients.succeeded) as f64 / count(&clients.begun).max(1) as f64
}

#[test]
fn an_attack_larger_than_the_uplink_climbs_to_a_blackhole_at_the_router_and_everything_is_withdrawn() {
    if let Some(reason) = why_not() {
        return println!("skipped: {reason}");
    }
    let lab = Lab::up("uplink", &["--uplink", MBITS]);
    let outcome = lab.run("uplink", &["--seconds", "24"]);

    let incidents = ctl(&lab, &["incidents", "list", "--all"]);
    let of_target = |one: &&Value| one["target"].to_string().contains("203.0.113.10");
    let id =
        incidents["incidents"].as_array().unwrap().iter().find(of_target).unwrap()["id"].as_str().unwrap().to_owned();
    println!("{}", String::from_utf8_lossy(&lab.command("incident", &[&id]).output().unwrap().stdout));
    outcome.unwrap();
    let all = ctl(&lab, &["mitigations", "list", "--all", "--incident", &id]);
    let all = all["mitigations"].as_array().unwrap();
    let first = |kind: &str, stage: &str| {
        let found = all.iter().rev().find(|one| one["kind"] == kind && one["stage"] == stage);
        found.unwrap_or_else(|| panic!("no {kind} of stage {stage}: {all:#?}"))
    };
    let (rule, hole) = (first("MITIGATION_KIND_FLOWSPEC", "flowspec"), first("MITIGATION_KIND_BLACKHOLE", "blackhole"));
    assert_eq!(rule["effect"]["effective"], false, "BIRD does not filter by FlowSpec, and that was seen: {rule:#}");
    assert_eq!(
        (&hole["effect"]["effective"], &hole["evidence"]),
        (&true.into(), &"EVIDENCE_EFFECTIVE".into()),
        "{hole:#}"
    );
    assert!(all.iter().all(|one| one["state"] == "MITIGATION_STATE_ENDED"), "{all:#?}");

    let (log, sent) = (logged(&lab), lab.report::<send::Sent>("uplink/sent"));
    let came = |what: &str| log.iter().find(|one| one.came && one.what.starts_with(what)).unwrap().unix_ns;
    let (rule, hole) = (came("flow4 flow4 { dst 203.0.113.10/32;"), came("ipv4 203.0.113.10/32"));
    assert!(
        sent.first_unix_ns < rule && rule < hole && hole < sent.last_unix_ns,
        "in this order, during the attack: {log:#?}"
    );
    let left = log.iter().fold(0_i32, |left, one| left + if one.came { 1 } else { -1 });
    println!("{log:#?}\n{left} more came than went");
    let clients: http::Report = lab.report("uplink/http");
    let (full, blackholed) =
        (served(&clients, rule, hole), served(&clients, hole + 1_000_000_000, hole + 6_000_000_000));
    assert!(
        blackholed > full,
        "the neighbour of the target is served better with it: {full} before, {blackholed} then"
    );
}

#[test]
fn the_time_from_detection_to_the_rule_at_the_router_is_told() {
    if let Some(reason) = why_not() {
        return println!("skipped: {reason}");
    }
    let lab = Lab::up("latency", &["--uplink", MBITS]);
    // The uplink is full of what is for no zone, and so of no incident: that it is, is known when the attacks are detected.
    let _full = lab.flood("udp-random", "198.51.100.77", 0, 10_000);
    let utilised = || {
        let metrics = lab.ask("levee", "curl", &["-s", "http://127.0.0.1:9469/metrics"]);
        let lines = metrics.lines().filter(|line| line.starts_with("levee_wire_received_packets_total"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).fold(0.0, f64::max)
    };
    let before = utilised();
    support::await_until("the uplink is full", || utilised() > before + 20_000.0);
    for host in 30..30 + ATTACKS {
        let target = format!("203.0.113.{host}");
        let mac = lab.next_hop_mac();
        let arguments = ["send", "--interface", "wan", "--to-mac", &mac, "--kind", "udp-random", "--target", &target];
        let mut attack = lab.inside("internet", env!("CARGO_BIN_EXE_levee-traffic"));
        let sent = attack.args(arguments).args(["--rate", "4000", "--seconds", "2"]).output().unwrap();
        assert!(sent.status.success());
    }
    let is_rule = |one: &&Logged| one.came && one.what.starts_with("flow4 ");
    let target = |one: &Logged| {
        one.what.split_once("dst ").and_then(|(_, rest)| rest.split_once("/32")).map(|(host, _)| host.to_owned())
    };
    let rules = || {
        let mut first = HashMap::new();
        for one in logged(&lab).iter().filter(is_rule) {
            first.entry(target(one).unwrap_or_default()).or_insert(one.unix_ns);
        }
        first
    };
    support::await_until("a rule for each target", || {
        (30..30 + ATTACKS).all(|host| rules().contains_key(&format!("203.0.113.{host}")))
    });
    let (rules, detected) = (rules(), detected(&lab));
    let took = |(host, at): (&String, &u64)| Some(at.saturating_sub(*detected.get(host)?) as f64 / 1e6);
    let mut times: Vec<f64> = rules.iter().filter_map(took).collect();
    times.sort_by(f64::total_cmp);
    assert!(times.len() >= ATTACKS, "{times:?}");
    println!("from detection to the rule in BIRD's table, while the uplink was full, ms: {times:.1?}");
}
