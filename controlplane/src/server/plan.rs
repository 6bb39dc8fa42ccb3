//! What would change if the configuration file were read again.

use std::fmt::Debug;
use std::path::Path;

use levee_api::config::{Config, ConfigError, Problem};
use levee_api::grpc::v1;

/// Reads the file, and compares it with what is in force. Changes nothing.
pub(super) fn of_file(path: &Path, in_force: &Config) -> v1::DiffConfigResponse {
    match Config::load(path) {
        Ok(config) => v1::DiffConfigResponse {
            changes: changes(in_force, &config),
            problems: config.warnings.iter().map(problem).collect(),
            hash: config.hash.to_string(),
        },
        Err(ConfigError::Invalid(invalid)) => {
            v1::DiffConfigResponse { problems: invalid.problems().iter().map(problem).collect(), ..Default::default() }
        }
        Err(error @ ConfigError::Read { .. }) => {
            let help = "the configuration in force stays".to_owned();
            let problem = v1::ConfigProblem { message: error.to_string(), help, is_error: true, ..Default::default() };
            v1::DiffConfigResponse { problems: vec![problem], ..Default::default() }
        }
    }
}

fn problem(problem: &Problem) -> v1::ConfigProblem {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    v1::ConfigProblem {
        line: number(problem.line),
        column: number(problem.column),
        message: problem.message.clone(),
        help: problem.help.clone(),
        is_error: problem.is_error,
    }
}

/// One line for each thing that is not as it was, in the order of the file.
pub(super) fn changes(old: &Config, new: &Config) -> Vec<String> {
    let mut changes = Vec::new();
    section(&mut changes, "[appliance]", &old.appliance, &new.appliance);
    section(&mut changes, "[dataplane]", &old.dataplane, &new.dataplane);
    section(&mut changes, "[exceptions]", &old.exceptions, &new.exceptions);
    section(&mut changes, "[guardrails]", &old.guardrails, &new.guardrails);
    section(&mut changes, "[controlplane]", &old.controlplane, &new.controlplane);
    section(&mut changes, "[[maintenance]]", &old.maintenance, &new.maintenance);
    named(&mut changes, "zone", &old.zones, &new.zones, |zone| &zone.name);
    named(&mut changes, "address set", &old.address_sets, &new.address_sets, |set| &set.name);
    named(&mut changes, "runbook", &old.runbooks, &new.runbooks, |runbook| &runbook.name);
    named(&mut changes, "notifier", &old.notifiers, &new.notifiers, |notifier| &notifier.name);
    named(&mut changes, "announcer", &old.announcers, &new.announcers, |announcer| &announcer.name);
    named(&mut changes, "scrubber", &old.scrubbers, &new.scrubbers, |scrubber| &scrubber.name);
    changes
}

fn section<T: PartialEq>(changes: &mut Vec<String>, name: &str, old: &T, new: &T) {
    if old != new {
        changes.push(format!("{name} changed"));
    }
}

fn named<T: PartialEq + Debug>(
    changes: &mut Vec<String>,
    what: &str,
    old: &[T],
    new: &[T],
    name: impl Fn(&T) -> &String,
) {
    for one in new {
        match old.iter().find(|before| name(before) == name(one)) {
            None => changes.push(format!("{what} {} added", name(one))),
            Some(before) if before != one => changes.push(format!("{what} {} changed", name(one))),
            Some(_) => {}
        }
    }
    for one in old.iter().filter(|one| !new.iter().any(|after| name(after) == name(one))) {
        changes.push(format!("{what} {} removed", name(one)));
    }
}
