//! What would change if the configuration file were read again.

use std::path::Path;

use levee_api::config::{Config, ConfigError, Problem};
use levee_api::grpc::v1;

use crate::configuration::{Lacking, Plan};

/// Reads the file, and compares it with what is in force. Changes nothing.
pub(super) fn of_file(path: &Path, in_force: &Config) -> v1::DiffConfigResponse {
    match Plan::of(path, in_force) {
        Ok(plan) => v1::DiffConfigResponse {
            changes: plan.changes.iter().map(ToString::to_string).collect(),
            problems: plan.config.warnings.iter().map(problem).chain(plan.lacking().iter().map(lacking)).collect(),
            hash: plan.config.hash.to_string(),
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

fn lacking(Lacking { of, message, help }: &Lacking) -> v1::ConfigProblem {
    v1::ConfigProblem { message: format!("{of}: {message}"), help: help.clone(), is_error: true, ..Default::default() }
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
