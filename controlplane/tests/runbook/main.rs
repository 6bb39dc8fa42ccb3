//! `leveectl runbook` as a process, on a report that `levee-dataplane replay` made of traffic of our own generator
//! (scenario.toml beside this file). What it prints is compared with files; with `LEVEE_WRITE_DOCS=1` in the environment
//! they are written instead.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/runbook")
}

fn leveectl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_leveectl")).current_dir(here()).arg("runbook").args(arguments).output().unwrap()
}

fn simulate(more: &[&str]) -> Output {
    let mut arguments = vec!["simulate", "--config", "levee.toml", "--report", "report.json"];
    arguments.extend(more);
    leveectl(&arguments)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn is_as_in(file: &str, output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let path = here().join(file);
    if std::env::var_os("LEVEE_WRITE_DOCS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &output.stdout).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text(&output.stdout), expected, "{file}: review the change, then run with LEVEE_WRITE_DOCS=1");
}

#[test]
fn what_helps_is_entered_and_left_again() {
    is_as_in("helps.txt", &simulate(&[]));
}

#[test]
fn what_does_not_help_is_followed_by_the_next_stage() {
    is_as_in("in-vain.txt", &simulate(&["--ineffective", "edge", "--answer", "blackhole=yes"]));
}

#[test]
fn what_fails_is_followed_by_the_next_stage() {
    is_as_in("refused.json", &simulate(&["--fail", "edge=refused", "-o", "json"]));
}

#[test]
fn an_incident_that_was_recorded_is_rehearsed_like_a_replay() {
    let recorded = |more: &[&str]| {
        let mut arguments = vec!["simulate", "--config", "levee.toml", "--report", "incident.json"];
        arguments.extend(more);
        leveectl(&arguments)
    };
    is_as_in("recorded.txt", &recorded(&[]));
    is_as_in("recorded.json", &recorded(&["-o", "json", "--fail", "edge=error"]));
    // Of one that goes on, the end is not known.
    let folder = tempfile::tempdir().unwrap();
    let story = std::fs::read_to_string(here().join("incident.json")).unwrap();
    let mut story: serde_json::Value = serde_json::from_str(&story).unwrap();
    let incident = story["incident"].as_object_mut().unwrap();
    incident.remove("closed_unix_ns");
    let open = folder.path().join("open.json");
    std::fs::write(&open, story.to_string()).unwrap();
    let lasts = ["simulate", "--config", "levee.toml", "--report", open.to_str().unwrap(), "--lasts", "20"];
    let output = text(&leveectl(&lasts).stdout);
    assert!(output.contains("20.0 s") && output.contains("the attack ends"), "{output}");
}

#[test]
fn a_zone_that_the_configuration_does_not_have_is_told_and_can_be_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let other = std::fs::read_to_string(here().join("levee.toml")).unwrap().replace("\"customers\"", "\"shops\"");
    let file = folder.path().join("levee.toml");
    std::fs::write(&file, other).unwrap();
    let file = file.to_str().unwrap();
    let output = leveectl(&["simulate", "--config", file, "--report", "report.json"]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""));
    let told = text(&output.stderr);
    assert!(told.contains("zone \"customers\"") && told.contains("it has: shops") && told.contains("--zone"), "{told}");
    let output = leveectl(&["simulate", "--config", file, "--report", "report.json", "--zone", "shops"]);
    assert!(text(&output.stdout).contains("in zone shops") && text(&output.stdout).contains("runbook small"));
    let output = leveectl(&["simulate", "--config", file, "--report", "report.json", "--zone", "shop"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn values_can_be_assumed() {
    let output = text(&simulate(&["--assume", "uplink.utilisation=0.1", "--assume", "local.cpu=0.2"]).stdout);
    assert!(
        output.contains("not entered: uplink.saturated || uplink.utilisation > 0.7 || local.cpu > 0.85\n"),
        "{output}"
    );
    let output = text(&simulate(&["--assume", "uplink.utilisation=0.1"]).stdout);
    assert!(output.contains("(not known: local.cpu; --assume NAME=VALUE)"), "{output}");
}

#[test]
fn the_ladder_is_shown_with_how_each_stage_is_reached() {
    is_as_in("ladder.txt", &leveectl(&["check", "--config", "levee.toml"]));
    let output = leveectl(&["check", "--config", "levee.toml", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["runbooks"][0]["stages"][2]["reached"][0], "also when edge failed");
}

#[test]
fn what_cannot_be_done_is_told() {
    let wrong = |arguments: &[&str], status: i32, says: &str| {
        let output = leveectl(arguments);
        assert_eq!(output.status.code(), Some(status), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains(says), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "");
    };
    wrong(&["simulate", "--config", "levee.toml"], 2, "--report");
    wrong(&["simulate", "--config", "none.toml", "--report", "report.json"], 1, "none.toml");
    wrong(&["simulate", "--config", "levee.toml", "--report", "none.json"], 1, "cannot read the report none.json");
    wrong(&["simulate", "--config", "levee.toml", "--report", "scenario.toml"], 1, "is not the report of a replay");
    wrong(&["simulate", "--config", "scenario.toml", "--report", "report.json"], 78, "unknown key");
    let with = |more: &[&'static str]| {
        let mut arguments = vec!["simulate", "--config", "levee.toml", "--report", "report.json"];
        arguments.extend(more);
        arguments
    };
    wrong(&with(&["--fail", "egde=error"]), 2, "has a stage \"egde\"; there are: blackhole, edge, local");
    wrong(&with(&["--fail", "edge=tired"]), 2, "STAGE=refused");
    wrong(&with(&["--assume", "local.cpuu=1"]), 2, "did you mean local.cpu?");
    wrong(&with(&["--assume", "stage.edge.failed=true"]), 2, "--fail edge=error");
    wrong(&with(&["--assume", "local.cpu=high"]), 2, "\"high\" is no number, which local.cpu is: write local.cpu=0.9");
    wrong(&with(&["--assume", "local.cpu=90"]), 2, "local.cpu is never 90: it is from 0 to 1");
    wrong(&with(&["--assume", "attack.vectors=syn-flod"]), 2, "did you mean syn-flood?");
    wrong(&with(&["--assume", "attack.age=10"]), 2, "write attack.age=5m");
    wrong(&with(&["--lasts", "0"]), 2, "0 is not in 1..=86400");
}

#[test]
fn what_is_assumed_and_changes_nothing_is_told() {
    let told = |report: &str, more: &[&str], says: &str| {
        let output = leveectl(&[&["simulate", "--config", "levee.toml", "--report", report], more].concat());
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""), "{more:?}");
        assert!(text(&output.stderr).contains(says), "{more:?}: {}", text(&output.stderr));
    };
    let here = |more: &[&str], says: &str| told("report.json", more, says);
    here(&["--answer", "edge=yes"], "--answer edge changes nothing: the stage asks nobody; what asks: blackhole");
    here(&["--ineffective", "local"], "takes nothing away before the uplink; what does: blackhole, edge");
    here(&["--ineffective", "scrub"], "has a stage \"scrub\"; there are: blackhole, edge, local");
    here(&["--ineffective", "edge", "--fail", "edge=error"], "--ineffective edge changes nothing: it is to fail");
    here(&["--fail", "edge=error", "--fail", "edge=refused"], "--fail is given twice for edge");
    here(&["--assume", "local.cpu=0.1", "--assume", "local.cpu=0.9"], "--assume is given twice for local.cpu");
    here(
        &["--assume", "attack.pps=1e6"],
        "no condition that is followed asks for it; they ask for local.cpu, uplink.ut",
    );
    told("incident.json", &["--lasts", "20"], "--lasts changes nothing: the report says of each attack when it ended");
    // What the uplink carries is asked for by what is calculated from it.
    let output = simulate(&["--assume", "uplink.bps=1e6", "--fail", "local=error", "--answer", "blackhole=no"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}
