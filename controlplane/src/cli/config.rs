//! `leveectl config`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use levee_api::grpc::v1;
use levee_api::grpc::v1::system_client::SystemClient;

use super::arguments::{Changing, Output};
use super::client::{CallError, Client};
use super::prefix_argument::duration;
use super::times::{between, now};
use super::{json, print};
use crate::clock::nanoseconds;
use crate::config_check::{Format, INVALID};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Say whether a configuration file is valid, and what it means. Needs no server.
    Check {
        /// The file, usually levee.toml.
        file: PathBuf,
        /// How to say it.
        #[arg(long, value_enum, default_value_t = Format::Human)]
        format: Format,
        /// Do not look at this machine: whether it has the ports, folders, users and files that the file speaks of.
        #[arg(long)]
        no_environment: bool,
    },
    /// Say what would change if the control plane read its file again; with two files, what is different between them,
    /// which needs no server.
    Diff {
        /// The file before.
        #[arg(requires = "after")]
        before: Option<PathBuf>,
        /// The file after.
        after: Option<PathBuf>,
    },
    /// Print a file of an older schema in this one. Needs no server.
    Migrate {
        /// The file, usually levee.toml.
        file: PathBuf,
        /// Write it instead, and keep the old text beside it.
        #[arg(long)]
        write: bool,
    },
    /// Have the control plane read its file again: it takes it whole, or keeps what it has.
    Reload {
        /// Go back to what was before, unless `leveectl config confirm` comes within this time, 10s to 24h.
        #[arg(long, value_parser = duration, value_name = "TIME")]
        confirm: Option<Duration>,
        #[command(flatten)]
        changing: Changing,
    },
    /// Keep a configuration that is on trial.
    Confirm {
        #[command(flatten)]
        changing: Changing,
    },
}

pub(super) async fn run(client: Client, output: Output, command: ConfigCommand) -> Result<ExitCode, CallError> {
    let mut system = SystemClient::new(client.channel());
    match command {
        // Needs no server, and has been done before one was looked for.
        ConfigCommand::Check { file, format, no_environment } => {
            Ok(crate::config_check::run(&file, format, !no_environment))
        }
        ConfigCommand::Migrate { file, write } => Ok(crate::configuration::migrate(&file, write)),
        ConfigCommand::Diff { .. } => {
            let answer = system.diff_config(v1::DiffConfigRequest {}).await?.into_inner();
            let text = match output {
                Output::Json => json::text("DiffConfigResponse", &answer)?,
                Output::Table => planned(&answer),
            };
            let status = print(&text);
            let is_invalid = answer.problems.iter().any(|problem| problem.is_error);
            Ok(if is_invalid { ExitCode::from(INVALID) } else { status })
        }
        ConfigCommand::Reload { confirm, changing } => {
            let request = v1::ReloadConfigRequest {
                request_id: changing.id(),
                validate_only: changing.dry_run,
                confirm_within_ns: confirm.map(nanoseconds).unwrap_or_default(),
            };
            let answer = system.reload_config(request).await?.into_inner();
            let text = match output {
                Output::Json => json::text("ReloadConfigResponse", &answer)?,
                Output::Table => reloaded(&answer, changing.dry_run, now()),
            };
            Ok(print(&text))
        }
        ConfigCommand::Confirm { changing } => {
            let request = v1::ConfirmConfigRequest { request_id: changing.id(), validate_only: changing.dry_run };
            let answer = system.confirm_config(request).await?.into_inner();
            let text = match output {
                Output::Json => json::text("ConfirmConfigResponse", &answer)?,
                Output::Table => format!("The configuration {} is kept.\n", answer.hash),
            };
            Ok(print(&text))
        }
    }
}

fn planned(answer: &v1::DiffConfigResponse) -> String {
    let mut text = String::new();
    for problem in &answer.problems {
        let what = if problem.is_error { "error" } else { "warning" };
        let place = if problem.line > 0 { format!("{}:{}: ", problem.line, problem.column) } else { String::new() };
        let _ = writeln!(text, "{place}{what}: {}\n  help: {}", problem.message, problem.help);
    }
    if answer.problems.iter().any(|problem| problem.is_error) {
        text.push_str("The file is not valid; what is in force would stay.\n");
    } else {
        text.push_str(&changes(&answer.changes));
    }
    text
}

fn reloaded(answer: &v1::ReloadConfigResponse, dry_run: bool, now: u64) -> String {
    let mut text = changes(&answer.changes);
    if dry_run {
        text.push_str("It would be done.\n");
    } else {
        let _ = writeln!(text, "The configuration {} is in force.", answer.hash);
    }
    if let Some(until) = answer.confirm_by_unix_ns {
        let left = between(now, until);
        let _ = writeln!(text, "It goes back in {left} unless you say: leveectl config confirm");
    }
    text
}

fn changes(changes: &[String]) -> String {
    if changes.is_empty() {
        return "Nothing changes.\n".to_owned();
    }
    changes.iter().map(|change| format!("{change}\n")).collect()
}
