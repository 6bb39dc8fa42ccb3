//! `leveectl`: what operators type, and what they read.
//!
//! Each module is one group of commands: it makes one call, and shows the answer as a table or text for people, or as
//! JSON for programs. JSON is the message of `api/proto/levee/v1`, with its names, prefixes as text.

mod arguments;
mod captures;
mod client;
mod config;
mod explain;
mod flowspec;
mod incidents;
mod json;
mod manual;
mod mitigations;
mod prefix_argument;
mod routes;
mod runbooks;
mod signature;
mod status;
mod store;
mod table;
mod times;
mod upstream;
mod zones;

use std::io::{self, Write as _};
use std::process::ExitCode;

pub use arguments::Arguments;
pub use manual::manual;

use arguments::{Command, Output};
use client::{CallError, Client};
use flowspec::FlowspecCommand;
use levee_api::grpc::v1;

/// Does what was typed. 0 done, 1 it could not be done, 78 the configuration is not valid.
pub fn run(arguments: Arguments) -> ExitCode {
    let Arguments { socket, output, command } = arguments;
    let command = match command {
        Command::Config(config::ConfigCommand::Check { file, format, no_environment }) => {
            return crate::config_check::run(&file, format, !no_environment);
        }
        Command::Runbook(runbooks::RunbookCommand::Check(arguments)) => {
            return crate::ladder::run(&arguments, output == Output::Json);
        }
        Command::Runbook(runbooks::RunbookCommand::Simulate(arguments)) => {
            return crate::simulate::run(&arguments, output == Output::Json);
        }
        Command::Config(config::ConfigCommand::Diff { before: Some(before), after: Some(after) }) => {
            return crate::configuration::diff(&before, &after);
        }
        Command::Config(config::ConfigCommand::Migrate { file, write }) => {
            return crate::configuration::migrate(&file, write);
        }
        Command::Store(command) => return store::run(&command),
        Command::Flowspec(FlowspecCommand::Build(arguments)) => {
            return flowspec::build(arguments, output == Output::Json);
        }
        Command::Flowspec(FlowspecCommand::Parse(arguments)) => {
            return flowspec::parse(&arguments, output == Output::Json);
        }
        Command::Mitigations(command) if command.contradiction().is_some() => {
            let _ = fail(command.contradiction().unwrap_or_default());
            return ExitCode::from(2);
        }
        Command::Completions { shell } => return manual::completions(shell),
        Command::Man { folder } => return manual::pages(&folder),
        command => command,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    let done = runtime.block_on(async {
        let client = Client::connect(&socket).await?;
        dispatch(client, output, command).await
    });
    match done {
        Ok(status) => status,
        Err(error) => fail(&error.to_string()),
    }
}

async fn dispatch(client: Client, output: Output, command: Command) -> Result<ExitCode, CallError> {
    match command {
        Command::Status => status::run(client, output).await,
        Command::Zones { name } => zones::run(client, output, name).await,
        Command::Incidents(command) => incidents::run(client, output, command).await,
        Command::Mitigations(command) => mitigations::run(client, output, command).await,
        Command::Runbook(command) => runbooks::run(client, output, command).await,
        Command::Capture(command) => captures::run(client, output, command).await,
        Command::Config(command) => config::run(client, output, command).await,
        Command::KillSwitch(command) => status::kill_switch(client, output, command).await,
        Command::Explain { address } => explain::run(client, output, address).await,
        Command::Flowspec(FlowspecCommand::Show(show)) => routes::run(client, output, show).await,
        Command::Completions { .. } | Command::Man { .. } | Command::Store(_) | Command::Flowspec(_) => {
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn fail(text: &str) -> ExitCode {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "leveectl: {text}");
    ExitCode::FAILURE
}

/// Prints; a reader that has gone away has read enough.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot print: {error}")),
    }
}

/// A target as people write it: an address, a prefix, or `zone NAME`.
fn target(target: Option<&v1::Target>) -> String {
    let Some(target) = target else { return "-".to_owned() };
    match &target.prefix {
        Some(prefix) => prefix_text(prefix),
        None => format!("zone {}", target.zone),
    }
}

fn prefix_text(prefix: &v1::Prefix) -> String {
    match levee_api::prefix::Prefix::try_from(prefix) {
        Ok(prefix) if prefix.is_host() => prefix.address().to_string(),
        Ok(prefix) => prefix.to_string(),
        // What breaks the contract is shown as it came.
        Err(_) => format!("{:?}/{}", prefix.address, prefix.length),
    }
}

/// What is there, or a dash.
fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
