//! Real clients that nobody has seen before, while SYNs that look like theirs arrive in a flood.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says why and fails")]

use std::process::{Command, Stdio};

use levee_tests::{http, send};

use crate::support::{Lab, skip_reason};

/// Clients of the test: none of them is known before the flood.
const CLIENTS: usize = 300;

/// What came of new clients' connections during a flood of mimics, where clients are asked like this.
fn under_flood(name: &str, challenge: &str, retries: u32) -> http::Report {
    let lab = Lab::up(name, &["--challenge", challenge]);
    let run = |program: &str| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &lab.namespace("internet"), program]).stdout(Stdio::piped());
        command
    };
    let traffic = env!("CARGO_BIN_EXE_levee-traffic");
    let listed = Command::new(traffic).args(["clients", "--seed", "77", "--count", &CLIENTS.to_string()]).output();
    let sources: Vec<String> = String::from_utf8_lossy(&listed.unwrap().stdout).lines().map(str::to_owned).collect();
    for source in &sources {
        let added = run("ip").args(["address", "add", &format!("{source}/32"), "dev", "lo"]).status().unwrap();
        assert!(added.success());
    }
    let flood = run(traffic)
        .args(["send", "--interface", "wan", "--to-mac", &lab.next_hop_mac(), "--kind", "syn-mimic"])
        .args(["--target", "203.0.113.10", "--port", "80", "--rate", "20000", "--seconds", "8"])
        .spawn()
        .unwrap();
    lab.await_packets_from_the_flood();
    let clients = run(traffic)
        .args(["http", "--server", "203.0.113.10:80", "--sources", &sources.join(","), "--seconds", "4"])
        .args(["--requests", "1", "--patience", "3", "--retries", &retries.to_string()])
        .output()
        .unwrap();
    let flood = flood.wait_with_output().unwrap();
    let sent: send::Sent = serde_json::from_slice(&flood.stdout).unwrap();
    let report: http::Report = serde_json::from_slice(&clients.stdout).unwrap();
    println!(
        "{challenge}: {} of {} requests answered, {} connections opened again, median {} us, 99th percentile {} us; flood {}/s",
        report.succeeded.total(),
        report.begun.total(),
        report.retried,
        report.median_us,
        report.p99_us,
        sent.rate_pps,
    );
    report
}

/// At least 99 of 100 requests were answered.
fn are_served(report: &http::Report) -> bool {
    report.begun.total() > 0 && report.succeeded.total() * 100 >= report.begun.total() * 99
}

#[test]
fn new_clients_get_through_a_flood_of_mimics_when_they_try_again_once() {
    if let Some(reason) = skip_reason(true) {
        return println!("skipped: {reason}");
    }
    let report = under_flood("reset", "reset", 1);
    assert!(are_served(&report), "{:?}", report.failures);
    assert!(report.retried > 0, "somebody was asked");
}

#[test]
fn new_clients_that_are_asked_in_the_safe_way_notice_nothing() {
    if let Some(reason) = skip_reason(true) {
        return println!("skipped: {reason}");
    }
    let report = under_flood("safe", "safe_reset", 0);
    assert!(are_served(&report), "{:?}", report.failures);
}
