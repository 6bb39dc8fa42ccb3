//! Runbooks for people: what each stage does and when, and how it is reached when the ones before it fail. Printed by
//! `leveectl runbook check` and `leveectl config check`.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use levee_api::config::{Config, ConfigError, Problem};
use serde_json::{Value, json};

use crate::config_check::INVALID;
use crate::runbook::{Blindness, Reach, Runbook, Runbooks, Stage, describe, reach};

/// Says whether the runbooks of a file are valid, and what they would do.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The file, usually levee.toml.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// 0 told, 78 the file is not valid, 1 it could not be read.
pub fn run(arguments: &Arguments, as_json: bool) -> ExitCode {
    let (config, runbooks) = match Runbooks::load(&arguments.config) {
        Ok(loaded) => loaded,
        Err(error) => {
            let status = if matches!(error, ConfigError::Invalid(_)) { INVALID } else { 1 };
            let _ = writeln!(io::stderr(), "{:?}", miette::Report::new(error));
            return ExitCode::from(status);
        }
    };
    let text = if as_json { format!("{:#}\n", json(&config, &runbooks)) } else { text(&config, &runbooks) };
    // A reader that has gone away has read enough.
    let _ = io::stderr().write_all(warnings(&arguments.config, &config).as_bytes());
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn warnings(file: &Path, config: &Config) -> String {
    config.warnings.iter().fold(String::new(), |mut text, Problem { line, column, message, help, .. }| {
        let _ = writeln!(text, "{}:{line}:{column}: warning: {message}\n  help: {help}", file.display());
        text
    })
}

/// All runbooks of a file, and who follows them.
pub fn text(config: &Config, runbooks: &Runbooks) -> String {
    let mut text = String::new();
    for runbook in runbooks.list() {
        let zones = followers(config, &runbook.name);
        let zones = if zones.is_empty() { "no zone".to_owned() } else { zones.join(", ") };
        let _ = writeln!(text, "runbook  {}: followed by {zones}", runbook.name);
        for (stage, reach) in runbook.stages.iter().zip(reach(runbook, runbooks.list().len())) {
            text.push_str(&stage_text(runbook, stage, &reach));
        }
    }
    if runbooks.list().is_empty() {
        text.push_str(
            "runbook  none is described: zones keep the dataplane's own filters as long as an attack lasts\n",
        );
    }
    text
}

fn followers<'c>(config: &'c Config, runbook: &str) -> Vec<&'c str> {
    let follows = config.zones.iter().filter(|zone| zone.runbook.as_deref() == Some(runbook));
    follows.map(|zone| zone.name.as_str()).collect()
}

fn stage_text(runbook: &Runbook, stage: &Stage, reach: &Reach) -> String {
    let (mut text, name) = (String::new(), &stage.name);
    let _ = writeln!(text, "  {}. {name}: {}", reach.stage + 1, describe(stage));
    let _ = writeln!(text, "     enters  {}", enters(stage));
    let _ = writeln!(text, "     leaves  {}", leaves(stage));
    for way in ways(runbook, reach) {
        let _ = writeln!(text, "     reached {way}");
    }
    text
}

fn enters(stage: &Stage) -> String {
    match &stage.written {
        Some(written) => {
            let written = written.split_whitespace().collect::<Vec<_>>().join(" ");
            format!("when {written}, for {} s", stage.hold.as_secs_f64())
        }
        None => "as soon as there is an attack".to_owned(),
    }
}

fn leaves(stage: &Stage) -> String {
    let calm =
        format!("when that has been false for {} s, not before {} s", stage.calm.as_secs(), stage.min_hold.as_secs());
    match stage.blindness {
        Blindness::Sees => calm,
        Blindness::Limits => format!("{calm}; it hides a part of the attack: kept longer each time it comes back"),
        Blindness::Steps => {
            format!("{calm}; it hides the attack: by its receiver's report, or stepped down to a limit first")
        }
        Blindness::Holds => format!("{calm}; it hides the attack: by its receiver's report, or kept longer each time"),
    }
}

/// How a stage is reached when stages before it fail.
fn ways(runbook: &Runbook, reach: &Reach) -> Vec<String> {
    let name = |at: &usize| runbook.stages.get(*at).map_or("", |stage| stage.name.as_str());
    if reach.asks.is_empty() {
        return if reach.stage == 0 { Vec::new() } else { vec!["whatever becomes of the stages before".to_owned()] };
    }
    let mut ways = Vec::new();
    let (yes, others): (Vec<&usize>, Vec<&usize>) = reach.asks.iter().partition(|at| reach.after_yes.contains(at));
    if !yes.is_empty() {
        ways.push(format!("only after a yes to {}", yes.into_iter().map(name).collect::<Vec<_>>().join(" and ")));
    }
    if reach.dead_ends.is_empty() && !others.is_empty() {
        ways.push(format!("also when {} failed", others.into_iter().map(name).collect::<Vec<_>>().join(" or ")));
    }
    for dead_end in &reach.dead_ends {
        ways.push(format!("not when {} failed", dead_end.iter().map(name).collect::<Vec<_>>().join(" and ")));
    }
    if let Some(waits) = &reach.waits {
        let stages = waits.stages.iter().map(name).collect::<Vec<_>>().join(" and ");
        ways.push(format!("not while {}: it waits for {stages}, not entered then", waits.while_));
    }
    ways
}

/// All runbooks of a file, for programs.
pub fn json(config: &Config, runbooks: &Runbooks) -> Value {
    let all = runbooks.list();
    let runbooks = all.iter().map(|runbook| {
        let stages = runbook.stages.iter().zip(reach(runbook, all.len())).map(|(stage, reach)| {
            json!({
                "name": stage.name,
                "action": stage.action.name(),
                "does": describe(stage),
                "enters": enters(stage),
                "leaves": leaves(stage),
                "reached": ways(runbook, &reach),
            })
        });
        json!({
            "name": runbook.name,
            "zones": followers(config, &runbook.name),
            "stages": stages.collect::<Vec<_>>(),
        })
    });
    json!({ "runbooks": runbooks.collect::<Vec<_>>() })
}
