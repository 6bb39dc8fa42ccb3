//! An attack leads to an incident, its runbook's stages are entered and left by effect, and `leveectl` tells the story.

use serde_json::Value;

use crate::support::{Lab, skip_reason};

#[test]
fn an_attack_becomes_an_incident_whose_stages_are_entered_and_left_by_effect() {
    if let Some(reason) = skip_reason(true) {
        return println!("skipped: {reason}");
    }
    let lab = Lab::up("incident", &[]);
    lab.attack("udp-random", &["--seconds", "6"]).unwrap();
    let output = lab.command("incident", &["--settled"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    assert!(text.starts_with("Incident ") && text.contains("203.0.113.10 in zone web"), "{text}");

    let story = lab.command("ctl", &["incidents", "list", "--all", "-o", "json"]).output().unwrap();
    let incidents: Value = serde_json::from_slice(&story.stdout).unwrap();
    let id = incidents["incidents"][0]["id"].as_str().unwrap().to_owned();
    let story = lab.command("ctl", &["incidents", "show", &id, "-o", "json"]).output().unwrap();
    let story: Value = serde_json::from_slice(&story.stdout).unwrap();
    let timeline = story["timeline"].as_array().unwrap();
    let of_alarm: Vec<&Value> = timeline.iter().filter(|entry| entry["stage"] == "alarm").collect();
    assert!(of_alarm.len() >= 2, "entered and left: {timeline:#?}");
    let at = |entry: &Value| entry["time_unix_ns"].as_u64().unwrap();
    let kind = |name: &str| timeline.iter().find(|entry| entry["kind"] == name).map(at);
    let (entered, left) = (at(of_alarm[0]), at(of_alarm[of_alarm.len() - 1]));
    let sent: levee_tests::send::Sent = lab.report("udp-random/sent");
    let (first, last) = (sent.first_unix_ns, sent.last_unix_ns);
    // The clients alone, who began before, are no incident: the story begins with the attack.
    assert!(first <= kind("opened").unwrap() && kind("opened").unwrap() <= entered, "{timeline:#?}");
    assert!(
        first < entered && entered < last && last < left,
        "entered during the attack, left behind it: {timeline:#?}"
    );
    assert_eq!(story["incident"]["runbook"]["runbook"], "lab");

    // The counters of the wire come through the control plane.
    let metrics = std::process::Command::new("ip")
        .args(["netns", "exec", &lab.namespace("levee"), "curl", "-s", "-f", "http://127.0.0.1:9469/metrics"])
        .output()
        .unwrap();
    let metrics = String::from_utf8_lossy(&metrics.stdout);
    let dropped = metrics.lines().find(|line| line.starts_with("levee_zone_dropped_packets_total{zone=\"web\"}"));
    let dropped: f64 = dropped.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok()).unwrap();
    assert!(dropped > 1_000.0, "{metrics}");
    assert!(metrics.contains("levee_dataplane_up 1"), "{metrics}");
}
