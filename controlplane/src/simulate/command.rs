//! `leveectl runbook simulate` as a command.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use levee_api::config::{Config, ConfigError};
use serde_json::{Value, json};

use super::attack::Report;
use super::idle::idle;
use super::world::{Assumption, Assumptions, World};
use crate::config_check::INVALID;
use crate::runbook::{Failure, Runbook, Runbooks};

/// What a runbook would have done about the attacks of a replay, or about an incident that was recorded.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The configuration with the runbooks.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// What `levee-dataplane replay --report FILE` wrote, or `leveectl incidents show ID -o json`.
    #[arg(long, value_name = "FILE")]
    pub report: PathBuf,
    /// Follow the runbook of this zone of the configuration, whichever zone the report names.
    #[arg(long, value_name = "NAME")]
    pub zone: Option<String>,
    /// A variable that has this value all the time, such as local.cpu=0.9. Can be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub assume: Vec<Assumption>,
    /// A stage that fails: refused, incapable or error. Can be repeated.
    #[arg(long, value_name = "STAGE=WHY", value_parser = failing)]
    pub fail: Vec<(String, Failure)>,
    /// How the question of a stage is answered: yes or no. Without it nobody answers. Can be repeated.
    #[arg(long, value_name = "STAGE=ANSWER", value_parser = answer)]
    pub answer: Vec<(String, bool)>,
    /// A stage whose measures take nothing away. Can be repeated.
    #[arg(long, value_name = "STAGE")]
    pub ineffective: Vec<String>,
    /// Seconds that attacks last whose end is not in the report.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub lasts: Option<u64>,
}

/// 0 told, 78 the configuration is not valid, 1 something could not be read, 2 a stage or a zone is named that there is not,
/// or something is assumed that changes nothing.
pub fn run(arguments: &Arguments, as_json: bool) -> ExitCode {
    match text(arguments, as_json) {
        Ok(text) => {
            // A reader that has gone away has read enough.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err((status, text)) => {
            let _ = writeln!(io::stderr(), "{text}");
            ExitCode::from(status)
        }
    }
}

fn text(arguments: &Arguments, as_json: bool) -> Result<String, (u8, String)> {
    let (config, runbooks) = Runbooks::load(&arguments.config).map_err(|error| {
        let status = if matches!(error, ConfigError::Invalid(_)) { INVALID } else { 1 };
        (status, format!("{:?}", miette::Report::new(error)))
    })?;
    let mut report = Report::load(&arguments.report).map_err(|error| (1, format!("leveectl: {error}")))?;
    settle_zones(&mut report, &config, arguments)?;
    let assumptions = Assumptions {
        values: arguments.assume.iter().map(|Assumption(variable, value)| (*variable, value.clone())).collect(),
        fails: arguments.fail.iter().cloned().collect::<BTreeMap<_, _>>(),
        answers: arguments.answer.iter().cloned().collect::<BTreeMap<_, _>>(),
        ineffective: arguments.ineffective.iter().cloned().collect::<BTreeSet<_>>(),
        lasts: arguments.lasts.map(Duration::from_secs),
    };
    let world = World::new(&config, &runbooks, &report, &assumptions);
    let known: BTreeSet<&str> = report
        .attacks
        .iter()
        .flat_map(|attack| world.runbook_of(attack).stages.iter().map(|stage| stage.name.as_str()))
        .collect();
    let named = assumptions.fails.keys().chain(assumptions.answers.keys()).chain(&assumptions.ineffective);
    if let Some(strange) = named.into_iter().find(|name| !known.is_empty() && !known.contains(name.as_str())) {
        let known: Vec<&str> = known.into_iter().collect();
        return Err((
            2,
            format!("leveectl: no runbook that is followed has a stage {strange:?}; there are: {}", known.join(", ")),
        ));
    }
    let followed: Vec<&Runbook> = report.attacks.iter().map(|attack| world.runbook_of(attack)).collect();
    if let Some(told) = idle(arguments, &followed, &report) {
        return Err((2, format!("leveectl: {told}")));
    }
    let stories = world.stories();
    if as_json {
        let stories: Vec<Value> = stories.iter().map(super::Story::json).collect();
        return Ok(format!("{:#}\n", json!({ "incidents": stories })));
    }
    if stories.is_empty() {
        return Ok("the report has no incident: no runbook would have been followed\n".to_owned());
    }
    Ok(stories.iter().map(super::Story::text).collect::<Vec<_>>().join("\n"))
}

/// Each attack is in a zone of the configuration, or in the one that was given: else the built-in runbook would be followed,
/// which nobody has written.
fn settle_zones(report: &mut Report, config: &Config, arguments: &Arguments) -> Result<(), (u8, String)> {
    if let Some(zone) = &arguments.zone {
        report.attacks.iter_mut().for_each(|attack| attack.zone.clone_from(zone));
    }
    let is_known = |name: &str| config.zones.iter().any(|zone| zone.name == name);
    let strange = arguments.zone.iter().chain(report.attacks.iter().map(|attack| &attack.zone));
    let Some(strange) = strange.into_iter().find(|zone| !is_known(zone)) else { return Ok(()) };
    let known: Vec<&str> = config.zones.iter().map(|zone| zone.name.as_str()).collect();
    let (file, known) = (arguments.config.display(), known.join(", "));
    let help = format!("it has: {known}; follow the runbook of one of them with --zone NAME");
    let what = if arguments.zone.is_some() { "--zone is" } else { "the report is of the zone" };
    Err((2, format!("leveectl: {what} {strange:?}, which {file} does not have; {help}")))
}

fn failing(text: &str) -> Result<(String, Failure), String> {
    let help = "write STAGE=refused, STAGE=incapable or STAGE=error";
    let (stage, why) = text.split_once('=').ok_or(help)?;
    let why = [Failure::Refused, Failure::Incapable, Failure::Error].into_iter().find(|known| known.name() == why);
    Ok((stage.to_owned(), why.ok_or(help)?))
}

fn answer(text: &str) -> Result<(String, bool), String> {
    match text.split_once('=') {
        Some((stage, "yes")) => Ok((stage.to_owned(), true)),
        Some((stage, "no")) => Ok((stage.to_owned(), false)),
        _ => Err("write STAGE=yes or STAGE=no".to_owned()),
    }
}
