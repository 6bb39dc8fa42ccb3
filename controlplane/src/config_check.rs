//! `leveectl config check`: says whether a file is valid, what is wrong with it, and what it amounts to.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use levee_api::config::{Config, ConfigError, Problem};
use serde_json::{Value, json};

use crate::environment::{self, Lack};
use crate::ladder;
use crate::runbook::Runbooks;

/// `EX_CONFIG` of sysexits.h.
pub const INVALID: u8 = 78;

/// How the result is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people: what is wrong on standard error, with the lines of the file.
    Human,
    /// For programs: one object on standard output.
    Json,
}

/// A valid file, and what this machine lacks of what it speaks of.
struct Checked {
    config: Config,
    runbooks: Runbooks,
    lacks: Vec<Lack>,
}

/// Checks the file in three layers: syntax, meaning, and (if asked for) what this machine has of what it speaks of. Tells the
/// result: 0 valid, 78 not valid or something lacking, 1 it could not be read.
pub fn run(file: &Path, format: Format, with_environment: bool) -> ExitCode {
    let result = Runbooks::load(file).map(|(config, runbooks)| {
        let lacks = if with_environment { environment::check(&config) } else { Vec::new() };
        Checked { config, runbooks, lacks }
    });
    let status = match &result {
        Ok(checked) if checked.lacks.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(INVALID),
        Err(ConfigError::Invalid(_)) => ExitCode::from(INVALID),
        Err(ConfigError::Read { .. }) => ExitCode::FAILURE,
    };
    let (out, err) = match (format, result) {
        (Format::Json, result) => (format!("{:#}\n", as_json(file, &result)), String::new()),
        (Format::Human, Ok(Checked { config, runbooks, lacks })) => {
            let told = warnings(file, &config.warnings) + &lacking(file, &lacks);
            let summary = if lacks.is_empty() { summary(file, &config, &runbooks) } else { String::new() };
            (summary, told)
        }
        (Format::Human, Err(error)) => (String::new(), format!("{:?}\n", miette::Report::new(error))),
    };
    // A reader that has gone away has read enough.
    let _ = io::stderr().write_all(err.as_bytes());
    let _ = io::stdout().write_all(out.as_bytes());
    status
}

fn summary(file: &Path, config: &Config, runbooks: &Runbooks) -> String {
    let mut text = format!(
        "{}: ok, {}, {}\n",
        file.display(),
        counted(config.zones.len(), "zone"),
        counted(config.dataplane.wires.len(), "wire")
    );
    let _ = writeln!(text, "ceiling  {}", config.appliance.mode);
    for zone in &config.zones {
        let (prefixes, services) = (counted(zone.prefixes.len(), "prefix"), counted(zone.services.len(), "service"));
        let _ = writeln!(text, "zone     {}: {}, {prefixes}, {services}", zone.name, zone.mode);
    }
    for wire in &config.dataplane.wires {
        let _ = writeln!(text, "wire     {}: {} <-> {}, mtu {}", wire.name, wire.outside, wire.inside, wire.mtu);
    }
    if !runbooks.list().is_empty() {
        text.push_str(&ladder::text(config, runbooks));
    }
    text
}

fn lacking(file: &Path, lacks: &[Lack]) -> String {
    let mut text = lacks.iter().fold(String::new(), |mut text, Lack { of, message, help }| {
        let _ = writeln!(text, "{}: {of}: {message}\n  help: {help}", file.display());
        text
    });
    if !lacks.is_empty() {
        let _ = writeln!(
            text,
            "{}: the file is valid, but this machine lacks {}; check it for another machine with --no-environment",
            file.display(),
            counted(lacks.len(), "thing")
        );
    }
    text
}

fn counted(count: usize, noun: &str) -> String {
    match (count, noun) {
        (1, _) => format!("1 {noun}"),
        (_, "prefix") => format!("{count} prefixes"),
        _ => format!("{count} {noun}s"),
    }
}

fn warnings(file: &Path, warnings: &[Problem]) -> String {
    warnings.iter().fold(String::new(), |mut text, Problem { line, column, message, help, .. }| {
        let _ = writeln!(text, "{}:{line}:{column}: warning: {message}\n  help: {help}", file.display());
        text
    })
}

fn as_json(file: &Path, result: &Result<Checked, ConfigError>) -> Value {
    let problems = |problems: &[Problem], errors: bool| -> Vec<Value> {
        problems.iter().filter(|problem| problem.is_error == errors).map(problem_as_json).collect()
    };
    let file = file.display().to_string();
    match result {
        Ok(Checked { config, runbooks, lacks }) => json!({
            "file": file,
            "valid": true,
            "hash": config.hash.to_string(),
            "ceiling": config.appliance.mode.to_string(),
            "zones": config.zones.iter().map(|zone| json!({
                "name": zone.name,
                "mode": zone.mode.to_string(),
                "prefixes": zone.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "wires": config.dataplane.wires.iter().map(|wire| json!({
                "name": wire.name,
                "outside": wire.outside,
                "inside": wire.inside,
                "mtu": wire.mtu,
            })).collect::<Vec<_>>(),
            "runbooks": ladder::json(config, runbooks)["runbooks"],
            "errors": [],
            "warnings": problems(&config.warnings, false),
            "environment": lacks.iter().map(|Lack { of, message, help }| json!({
                "of": of,
                "message": message,
                "help": help,
            })).collect::<Vec<_>>(),
        }),
        Err(ConfigError::Invalid(invalid)) => json!({
            "file": file,
            "valid": false,
            "errors": problems(invalid.problems(), true),
            "warnings": problems(invalid.problems(), false),
        }),
        Err(error @ ConfigError::Read { .. }) => json!({
            "file": file,
            "valid": false,
            "errors": [{ "message": error.to_string() }],
            "warnings": [],
        }),
    }
}

fn problem_as_json(problem: &Problem) -> Value {
    let Problem { message, help, line, column, .. } = problem;
    json!({ "line": line, "column": column, "message": message, "help": help })
}
