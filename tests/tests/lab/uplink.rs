//! An attack that is larger than the uplink: a real BIRD upstream is asked for help, more of it as less did not help, and at
//! the end it has nothing of ours. Needs root and BIRD.

#![expect(clippy::unwrap_used, reason = "a test helper that fails fails its test")]

use std::{
    collections::HashMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use levee_tests::{http, send, time_bins::TimeBins};
use serde_json::Value;

use crate::support::{self, Lab, skip_reason};

/// Attacks that are measured one by one unless `LEVEE_ONSETS` says otherwise.
const ATTACKS: u8 = 3;
/// From one attack to the next: four within ten seconds are an attack on the network.
const APART: Duration = Duration::from_millis(4_500);
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
    let attacks = std::env::var("LEVEE_ONSETS").map_or(ATTACKS, |text| text.parse().unwrap());
    let targets: Vec<String> = (30..30 + attacks).map(|host| format!("203.0.113.{host}")).collect();
    let is_rule = |one: &&Logged| one.came && one.what.starts_with("flow4 ");
    let rule_at = |target: &str| {
        let log = logged(&lab);
        log.iter().filter(is_rule).find(|one| one.what.contains(&format!("dst {target}/32"))).map(|one| one.unix_ns)
    };
    // Each fills an uplink that was empty.
    let mac = lab.next_hop_mac();
    for target in &targets {
        let begun = Instant::now();
        let arguments = ["send", "--interface", "wan", "--to-mac", &mac, "--kind", "udp-random", "--target", target];
        let mut attack = lab.inside("internet", env!("CARGO_BIN_EXE_levee-traffic"));
        let sent = attack.args(arguments).args(["--rate", "10000", "--seconds", "1.5"]).output().unwrap();
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        support::await_until("the rule", || rule_at(target).is_some());
        std::thread::sleep(APART.saturating_sub(begun.elapsed()));
    }
    let detected = detected(&lab);
    let took = |target: &String| rule_at(target).unwrap().saturating_sub(detected[target]) as f64 / 1e6;
    let mut times: Vec<f64> = targets.iter().map(took).collect();
    times.sort_by(f64::total_cmp);
    let quantile = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
    println!(
        "from detection to the rule in BIRD's table, the uplink having been empty, ms: p50 {:.1}, p99 {:.1} of {} attacks: {times:.1?}",
        quantile(50),
        quantile(99),
        times.len()
    );
}
