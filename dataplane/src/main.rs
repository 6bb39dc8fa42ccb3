//! `levee-dataplane`. One module per subcommand.
//!
//! Exit status: 0 done, 1 it could not be done, 2 wrong usage, 78 the configuration is not valid (`EX_CONFIG` of
//! sysexits.h).

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use levee_api::config::ConfigError;
use levee_dataplane::baseline::BaselineError;
use levee_dataplane::huge_pages::HugePages;
use levee_dataplane::replay::ReplayError;
use levee_dataplane::run::RunError;
use levee_dataplane::{baseline, ports, replay, run};

const EX_CONFIG: u8 = 78;

#[global_allocator]
static ALLOCATOR: HugePages = HugePages;

/// Watches and filters every packet between two ports.
#[derive(Debug, Parser)]
#[command(name = "levee-dataplane", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Forward and filter on the wires of a configuration, until SIGTERM or SIGINT.
    Run(run::Arguments),
    /// Judge a capture as if it arrived now, and write what would have passed.
    Replay(replay::Arguments),
    /// Show, carry elsewhere, accept or forget what was learned.
    Baseline(baseline::Arguments),
    /// List the ports that DPDK sees.
    Ports(ports::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match arguments.command {
        Command::Run(arguments) => match run::run(&arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(RunError::Config(error)) => refused(error),
            Err(error) => {
                eprintln!("levee-dataplane: {error}");
                if error.is_configuration() { ExitCode::from(EX_CONFIG) } else { ExitCode::FAILURE }
            }
        },
        Command::Replay(arguments) => match replay::replay(&arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(ReplayError::Config(error)) => refused(error),
            Err(error) => {
                eprintln!("levee-dataplane: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Baseline(arguments) => match baseline::run(&arguments) {
            Ok(text) => print(&text),
            Err(BaselineError::Config(error)) => refused(error),
            Err(error) => {
                eprintln!("levee-dataplane: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Ports(arguments) => match ports::list(&arguments) {
            Ok(text) => print(&text),
            Err(error) => {
                eprintln!("levee-dataplane: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

fn print(text: &str) -> ExitCode {
    // A reader that has seen enough closes the pipe.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// A file that cannot be read says nothing about its content.
fn refused(error: ConfigError) -> ExitCode {
    let is_invalid = matches!(error, ConfigError::Invalid(_));
    eprintln!("{:?}", miette::Report::new(error));
    if is_invalid { ExitCode::from(EX_CONFIG) } else { ExitCode::FAILURE }
}
