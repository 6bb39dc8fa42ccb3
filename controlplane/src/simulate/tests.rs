//! The engine in the model of a world: ladders are climbed and come down again, whatever fails.

use std::path::Path;

use levee_api::config::Config;

use super::*;
use crate::runbook::{Failure, News, Runbooks};

fn shipped(name: &str) -> (Config, Runbooks) {
    Runbooks::load(Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name))
        .unwrap_or_else(|error| panic!("{:?}", miette::Report::new(error)))
}

/// More than any of the uplinks carries, for a quarter of an hour.
fn flood(zone: &str) -> Report {
    let text = format!(
        r#"{{ "incidents": [ {{ "target": "203.0.113.7", "zone": "{zone}", "detected_at_ns": 1790000000000000000,
              "vectors": [ {{ "name": "dns-amplification", "confidence": 0.95, "evidence": [] }} ],
              "mitigated_at_ns": null, "ended_at_ns": 1790001800000000000, "peak_pps": 30000000.0, "peak_bps": 300000000000.0,
              "filters": [ {{}} ] }} ] }}"#
    );
    Report::parse(text.as_bytes()).unwrap()
}

const SHIPPED: [(&str, &str); 3] =
    [("runbook-hosting.toml", "customers"), ("runbook-game-servers.toml", "matches"), ("runbook-isp.toml", "access")];

fn entered(story: &Story, stage: &str) -> bool {
    story.lines.iter().any(|line| line.stage.as_deref() == Some(stage) && line.news == Some(News::InForce))
}

/// Everybody says yes, nothing that is done upstream helps.
fn in_vain(runbook: &crate::runbook::Runbook) -> Assumptions {
    let names = || runbook.stages.iter().map(|stage| stage.name.clone());
    Assumptions {
        answers: names().map(|name| (name, true)).collect(),
        ineffective: names().collect(),
        ..Assumptions::default()
    }
}

#[test]
fn the_shipped_runbooks_climb_to_the_top_and_come_down_again() {
    for (file, zone) in SHIPPED {
        let (config, runbooks) = shipped(file);
        let (report, runbook) = (flood(zone), &runbooks.list()[0]);
        let assumptions = in_vain(runbook);
        let story = World::new(&config, &runbooks, &report, &assumptions).stories().remove(0);
        assert_eq!(story.runbook, runbook.name);
        for stage in &runbook.stages {
            assert!(entered(&story, &stage.name), "{file}: {} is not reached\n{}", stage.name, story.text());
        }
        assert!(story.at_rest, "{file}\n{}", story.text());
        let left: Vec<&str> = story
            .lines
            .iter()
            .filter(|line| line.news == Some(News::Left) && line.at.0 >= 1_790_001_800_000_000_000)
            .filter_map(|line| line.stage.as_deref())
            .collect();
        let down: Vec<&str> = runbook.stages.iter().rev().map(|stage| stage.name.as_str()).collect();
        assert_eq!(left, down, "{file}: in reverse order\n{}", story.text());
    }
}

#[test]
fn the_shipped_runbooks_reach_their_top_when_each_stage_in_turn_refuses_or_fails() {
    for (file, zone) in SHIPPED {
        let (config, runbooks) = shipped(file);
        let (report, runbook) = (flood(zone), &runbooks.list()[0]);
        let (top, below) = runbook.stages.split_last().unwrap();
        for failing in below {
            for failure in [Failure::Refused, Failure::Incapable, Failure::Denied, Failure::Error] {
                let mut assumptions = in_vain(runbook);
                if failure == Failure::Denied && failing.approve.is_some() {
                    assumptions.answers.insert(failing.name.clone(), false);
                } else {
                    assumptions.fails.insert(failing.name.clone(), failure);
                }
                let story = World::new(&config, &runbooks, &report, &assumptions).stories().remove(0);
                let what = format!("{file}: {} {}\n{}", failing.name, failure.name(), story.text());
                assert!(!entered(&story, &failing.name), "{what}");
                assert!(entered(&story, &top.name), "{what}");
                assert!(story.at_rest, "{what}");
            }
        }
        // And the top itself: what is below comes down all the same.
        let mut assumptions = in_vain(runbook);
        assumptions.fails.insert(top.name.clone(), Failure::Error);
        assert!(World::new(&config, &runbooks, &report, &assumptions).stories().remove(0).at_rest, "{file}");
    }
}

#[test]
fn nobody_answering_does_not_stop_a_ladder() {
    for (file, zone) in SHIPPED {
        let (config, runbooks) = shipped(file);
        let (report, runbook) = (flood(zone), &runbooks.list()[0]);
        let mut assumptions = in_vain(runbook);
        assumptions.answers.clear();
        let story = World::new(&config, &runbooks, &report, &assumptions).stories().remove(0);
        let top = &runbook.stages.last().unwrap().name;
        let asked = story.lines.iter().any(|line| line.stage.as_ref() == Some(top) && line.news == Some(News::Asked));
        assert!(asked && story.at_rest, "{file}\n{}", story.text());
    }
}

#[test]
fn what_helps_ends_the_climb() {
    for (file, zone) in SHIPPED {
        let (config, runbooks) = shipped(file);
        let (report, runbook) = (flood(zone), &runbooks.list()[0]);
        let story = World::new(&config, &runbooks, &report, &Assumptions::default()).stories().remove(0);
        assert!(!entered(&story, &runbook.stages.last().unwrap().name), "{file}\n{}", story.text());
        assert!(story.at_rest, "{file}\n{}", story.text());
    }
}

#[test]
fn what_was_not_known_is_named_where_a_stage_was_not_entered() {
    let text = "schema = 1\n[[zone]]\nname = \"z\"\nprefixes = [\"203.0.113.0/24\"]\nrunbook = \"r\"\n\
                [[notifier]]\nname = \"noc\"\nkind = \"log\"\n\
                [[runbook]]\nname = \"r\"\n[[runbook.stage]]\nname = \"busy\"\nwhen = \"local.cpu > 0.8\"\n\
                action = { notify = { channels = [\"noc\"] } }\n";
    let (config, runbooks) = Runbooks::parse("test.toml", text).unwrap_or_else(|e| panic!("{e:?}"));
    let report = flood("z");
    let assumptions = Assumptions::default();
    let story = World::new(&config, &runbooks, &report, &assumptions).stories().remove(0);
    assert_eq!(story.not_entered[0].unknown, ["local.cpu"]);
    assert!(
        story.text().contains("not entered: local.cpu > 0.8 (not known: local.cpu; --assume NAME=VALUE)"),
        "{}",
        story.text()
    );
    let Assumption(variable, value) = "local.cpu=0.9".parse().unwrap();
    let assumptions = Assumptions { values: vec![(variable, value)], ..Assumptions::default() };
    let story = World::new(&config, &runbooks, &report, &assumptions).stories().remove(0);
    assert!(entered(&story, "busy"));
}

#[test]
fn assumptions_are_read_or_told() {
    for (text, says) in [
        ("local.cpu", "NAME=VALUE"),
        ("local.cpuu=1", "did you mean local.cpu?"),
        ("local.cpu=high", "no number"),
        ("local.cpu=NaN", "no number"),
        ("uplink.saturated=1", "no bool"),
        ("attack.age=-1s", "no duration"),
    ] {
        let told = text.parse::<Assumption>().unwrap_err();
        assert!(told.contains(says), "{text}: {told}");
    }
}

#[test]
fn what_is_no_report_is_told() {
    for (text, says) in [
        ("", "EOF"),
        ("[]", "invalid length 0"),
        ("{}", "missing field `incidents`"),
        (
            r#"{"incidents": [{"target": "x", "zone": "z", "vectors": [], "detected_at_ns": 1, "peak_pps": 1, "peak_bps": 1, "filters": []}]}"#,
            "incident 1: \"x\" is not a prefix",
        ),
        (
            r#"{"incidents": [{"target": "192.0.2.1", "zone": "z", "vectors": [], "detected_at_ns": 2, "ended_at_ns": 1, "peak_pps": 1, "peak_bps": 1, "filters": []}]}"#,
            "ends before it begins",
        ),
        (
            r#"{"incidents": [{"target": "192.0.2.1", "zone": "z", "vectors": [], "detected_at_ns": 2, "peak_pps": -1, "peak_bps": 1, "filters": []}]}"#,
            "a rate cannot be",
        ),
    ] {
        let told = Report::parse(text.as_bytes()).unwrap_err();
        assert!(told.contains(says), "{text}: {told}");
    }
}
