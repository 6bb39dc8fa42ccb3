//! What would have happened, for people and for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::attack::Attack;
use crate::clock::UnixTime;
use crate::runbook::News;

/// What a runbook would have done about one attack.
#[derive(Clone, Debug, PartialEq)]
pub struct Story {
    /// The attack.
    pub attack: Attack,
    /// Name of the runbook.
    pub runbook: String,
    /// In order of time.
    pub lines: Vec<Line>,
    /// Stages that were not entered and did not fail either.
    pub not_entered: Vec<NotEntered>,
    /// False when something was still in force at the end of the simulation.
    pub at_rest: bool,
}

/// Something that would have happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Since the attack was detected.
    pub after: Duration,
    /// Wall clock of the capture.
    pub at: UnixTime,
    /// Name of the stage; none: the attack itself.
    pub stage: Option<String>,
    /// What happened to the stage.
    pub news: Option<News>,
    /// In words.
    pub text: String,
    /// How often what is in force was renewed before the next line of the stage.
    pub renewals: u32,
}

/// A stage that was not entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotEntered {
    /// Its name.
    pub stage: String,
    /// Its condition.
    pub when: Option<String>,
    /// Variables that the condition wanted and that were not known.
    pub unknown: Vec<&'static str>,
}

impl Line {
    pub(super) fn of_attack(after: Duration, at: UnixTime, text: &str) -> Self {
        Self { after, at, stage: None, news: None, text: text.to_owned(), renewals: 0 }
    }

    pub(super) fn of_stage(after: Duration, at: UnixTime, stage: &str, news: News, text: String) -> Self {
        Self { after, at, stage: Some(stage.to_owned()), news: Some(news), text, renewals: 0 }
    }
}

impl Story {
    /// For people.
    pub fn text(&self) -> String {
        let Attack { target, zone, vectors, peak_pps, peak_bps, .. } = &self.attack;
        let vectors: Vec<&str> = vectors.iter().map(|(name, _)| name.as_str()).collect();
        let vectors = if vectors.is_empty() { "no known vector".to_owned() } else { vectors.join(", ") };
        let target = if target.is_host() { target.address().to_string() } else { target.to_string() };
        let mut text = format!(
            "{target} in zone {zone}: {vectors}, {peak_pps:.0} packets/s, {:.1} Mbit/s; runbook {}\n",
            peak_bps / 1e6,
            self.runbook
        );
        let width = self.lines.iter().filter_map(|line| line.stage.as_ref()).map(String::len).max().unwrap_or(0);
        for line in &self.lines {
            let stage = line.stage.as_deref().unwrap_or_default();
            let _ = write!(text, "{:>10.1} s  {stage:<width$}  {}", line.after.as_secs_f64(), line.text);
            match line.renewals {
                0 => {}
                1 => text.push_str(" (then renewed once)"),
                times => {
                    let _ = write!(text, " (then renewed {times} times)");
                }
            }
            text.push('\n');
        }
        for NotEntered { stage, when, unknown } in &self.not_entered {
            let when = when.as_deref().unwrap_or("while the attack lasts");
            let _ = write!(
                text,
                "{:>12}  {stage:<width$}  not entered: {}",
                "",
                when.split_whitespace().collect::<Vec<_>>().join(" ")
            );
            if !unknown.is_empty() {
                let _ = write!(text, " (not known: {}; --assume NAME=VALUE)", unknown.join(", "));
            }
            text.push('\n');
        }
        if !self.at_rest {
            text.push_str("              something is still in force two days later\n");
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let lines = self.lines.iter().map(|line| {
            json!({
                "after_ms": u64::try_from(line.after.as_millis()).unwrap_or(u64::MAX),
                "at_ns": line.at.0,
                "stage": line.stage,
                "text": line.text,
                "renewals": line.renewals,
            })
        });
        let not_entered = self
            .not_entered
            .iter()
            .map(|NotEntered { stage, when, unknown }| json!({ "stage": stage, "when": when, "unknown": unknown }));
        json!({
            "target": self.attack.target.to_string(),
            "zone": self.attack.zone,
            "runbook": self.runbook,
            "detected_at_ns": self.attack.detected_at_ns,
            "lines": lines.collect::<Vec<_>>(),
            "not_entered": not_entered.collect::<Vec<_>>(),
            "at_rest": self.at_rest,
        })
    }
}
