//! `leveectl config check`: says whether a file is valid, what is wrong with it, and what it amounts to.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use levee_api::config::{Config, ConfigError, Problem};
use serde_json::{Value, json};

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

/// Checks the file and tells the result: 0 valid, 78 not valid, 1 it could not be read.
pub fn run(file: &Path, format: Format) -> ExitCode {
    let result = Config::load(file);
    let status = match &result {
        Ok(_) => ExitCode::SUCCESS,
        Err(ConfigError::Invalid(_)) => ExitCode::from(INVALID),
        Err(ConfigError::Read { .. }) => ExitCode::FAILURE,
    };
    let (out, err) = match (format, result) {
        (Format::Json, result) => (format!("{:#}\n", as_json(file, &result)), String::new()),
        (Format::Human, Ok(config)) => (summary(file, &config), warnings(file, &config.warnings)),
        (Format::Human, Err(error)) => (String::new(), format!("{:?}\n", miette::Report::new(error))),
    };
    // A reader that has gone away has read enough.
    let _ = io::stderr().write_all(err.as_bytes());
    let _ = io::stdout().write_all(out.as_bytes());
    status
}

fn summary(file: &Path, config: &Config) -> String {
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

fn as_json(file: &Path, result: &Result<Config, ConfigError>) -> Value {
    let problems = |problems: &[Problem], errors: bool| -> Vec<Value> {
        problems.iter().filter(|problem| problem.is_error == errors).map(problem_as_json).collect()
    };
    let file = file.display().to_string();
    match result {
        Ok(config) => json!({
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
            "errors": [],
            "warnings": problems(&config.warnings, false),
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
