//! `leveectl` as its users have it.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::core::Appliance;

pub(crate) fn leveectl(appliance: &Appliance, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_leveectl"))
        .arg("--socket")
        .arg(appliance.socket())
        .args(arguments)
        .output()
        .unwrap()
}

fn text(appliance: &Appliance, arguments: &[&str]) -> String {
    let output = leveectl(appliance, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(appliance: &Appliance, arguments: &[&str]) -> Value {
    serde_json::from_str(&text(appliance, &[arguments, &["-o", "json"]].concat())).unwrap()
}

#[test]
fn the_status_is_on_one_screen() {
    let appliance = Appliance::start();
    let status = text(&appliance, &["status"]);
    assert!(status.contains("appliance     edge-1") && status.contains("connected"), "{status}");
    assert!(status.lines().count() < 24 && status.lines().all(|line| line.len() <= 120), "{status}");
    assert_eq!(json(&appliance, &["status"])["dataplane"]["connected"], true);
}

#[test]
fn measures_are_added_renewed_listed_and_withdrawn() {
    let appliance = Appliance::start();
    let filter = ["mitigations", "add", "filter", "--zone", "web", "--target", "203.0.113.9", "--role", "udp_unserved"];
    let signature = ["--match", "protocol=udp src_port=53", "--ttl", "10m", "--reason", "reflection"];
    let dry = text(&appliance, &[&filter[..], &signature, &["--dry-run"]].concat());
    assert!(dry.starts_with("It would be done"), "{dry}");
    let added = text(&appliance, &[&filter[..], &signature].concat());
    assert_eq!(added, "measure 1: planned, ends in 10 min 0 s\n");
    let renewed = text(&appliance, &["mitigations", "renew", "1", "--ttl", "30m"]);
    assert_eq!(renewed, "measure 1: planned, ends in 30 min 0 s\n");
    let listed = text(&appliance, &["mitigations", "list"]);
    assert!(listed.contains("203.0.113.9") && listed.contains("src_port=53"), "{listed}");
    let one = &json(&appliance, &["mitigations", "list"])["mitigations"][0];
    assert_eq!((&one["target"]["prefix"], &one["renewals"]), (&"203.0.113.9".into(), &1.into()));
    text(&appliance, &["mitigations", "withdraw", "1", "--reason", "over"]);
    let one = &json(&appliance, &["mitigations", "list"])["mitigations"][0];
    assert_eq!((&one["state"], &one["outcome"]), (&"MITIGATION_STATE_WITHDRAWING".into(), &"withdrawn".into()));
}

#[test]
fn exit_statuses_tell_what_went_wrong() {
    let appliance = Appliance::without_dataplane();
    let unknown = leveectl(&appliance, &["incidents", "show", "99"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&unknown.stderr), "leveectl: there is no incident 99\n");
    assert_eq!(leveectl(&appliance, &["incidents", "shew"]).status.code(), Some(2));
    assert_eq!(leveectl(&appliance, &["mitigations", "renew", "1", "--ttl", "soon"]).status.code(), Some(2));
    let mut nobody = Command::new(env!("CARGO_BIN_EXE_leveectl"));
    let nobody = nobody.args(["--socket", "/nonexistent/levee.sock", "status"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    let told = String::from_utf8_lossy(&nobody.stderr);
    assert!(told.contains("/nonexistent/levee.sock") && told.contains("help:"), "{told}");
    let file = appliance.place.folder.path().join("levee.toml");
    std::fs::write(file, "schema = 1\nmood = 3\n").unwrap();
    assert_eq!(leveectl(&appliance, &["config", "diff"]).status.code(), Some(78));
}

#[test]
fn the_story_of_an_incident_is_told() {
    let appliance = Appliance::start();
    appliance.open(1, "203.0.113.1", 0);
    let listed = text(&appliance, &["incidents", "list"]);
    assert!(listed.contains("203.0.113.1") && listed.contains("medium"), "{listed}");
    let story = text(&appliance, &["incidents", "show", "1"]);
    assert!(story.starts_with("Incident 1: 203.0.113.1 in zone web, attack, severity medium\n"), "{story}");
    assert!(story.contains("03:04:05.000  +0 ms"), "{story}");
    assert_eq!(json(&appliance, &["incidents", "show", "1"])["timeline"][0]["kind"], "opened");
}

#[test]
fn watching_prints_what_happens_as_it_happens() {
    let appliance = Appliance::start();
    let mut watch = Command::new(env!("CARGO_BIN_EXE_leveectl"));
    watch.arg("--socket").arg(appliance.socket()).args(["incidents", "watch", "-o", "json"]).stdout(Stdio::piped());
    appliance.open(1, "203.0.113.1", 0);
    let mut child = watch.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["incident"]["id"], "1");
    appliance.open(2, "203.0.113.2", 5);
    let second: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((&second["incident"]["id"], &second["news"][0]["kind"]), (&"2".into(), &"opened".into()));
}

#[test]
fn an_address_is_explained() {
    let appliance = Appliance::start();
    let told = text(&appliance, &["explain", "203.0.113.1"]);
    assert!(told.contains("zone web, mode enforce") && told.contains("Protected by the guardrails"), "{told}");
    assert!(text(&appliance, &["explain", "192.0.2.1"]).contains("in no zone"));
}

#[test]
fn captures_are_listed_and_copied() {
    let appliance = Appliance::without_dataplane();
    assert_eq!(text(&appliance, &["capture", "list"]), "There are no captures.\n");
    let folder = appliance.place.folder.path().join("dataplane/captures");
    std::fs::create_dir_all(&folder).unwrap();
    let name = "20260101T120000.123Z-203.0.113.10";
    let described = levee_dataplane::capture_writer::description::Description {
        target: "203.0.113.10".into(),
        zone: "web".into(),
        detected_at: "2026-01-01T12:00:00.123Z".into(),
        packets: 12,
        sealed: true,
        attack: true,
        vectors: vec!["syn-flood".into()],
        ..Default::default()
    };
    described.write(&folder.join(name).with_extension("x").with_file_name(format!("{name}.json"))).unwrap();
    std::fs::write(folder.join(format!("{name}.pcapng")), "packets").unwrap();
    let listed = text(&appliance, &["capture", "list"]);
    assert!(listed.contains(name) && listed.contains("syn-flood"), "{listed}");
    let copy = appliance.place.folder.path().join("copy.pcapng");
    text(&appliance, &["capture", "get", name, "--to", copy.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&copy).unwrap(), "packets");
    let again = leveectl(&appliance, &["capture", "get", name, "--to", copy.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(1), "an existing file is not overwritten");
}

#[test]
fn completions_and_man_pages_need_no_server() {
    let appliance = Appliance::without_dataplane();
    assert!(text(&appliance, &["completions", "bash"]).contains("kill-switch"));
    let folder = tempfile::tempdir().unwrap();
    text(&appliance, &["man", folder.path().to_str().unwrap()]);
    assert!(folder.path().join("leveectl-incidents-show.1").exists());
}
