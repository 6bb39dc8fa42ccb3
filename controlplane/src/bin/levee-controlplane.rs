//! `levee-controlplane`: owns policy, memory and the outside world.
//!
//! Exit status: 0 told to stop, 1 it could not start, 2 wrong usage, 78 the configuration is not valid.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Levee's control plane.
#[derive(Debug, Parser)]
#[command(name = "levee-controlplane", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep the dataplane at the policy of a file, and write down its events. SIGHUP reads the file again.
    Run {
        /// The configuration, usually /etc/levee/levee.toml.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Where events are appended as JSON Lines; - is standard output.
        #[arg(long, value_name = "FILE", default_value = "-")]
        events: String,
    },
    /// End every mitigation that is past its deadline, from the ledger alone, while no control plane runs.
    Sweep {
        /// The configuration, usually /etc/levee/levee.toml.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// End everything that Levee has in force anywhere, and engage the kill switch, while no control plane runs.
    WithdrawAll {
        /// The configuration, usually /etc/levee/levee.toml.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match Arguments::parse().command {
        Command::Run { config, events } => levee_controlplane::run::run(&config, &events),
        Command::Sweep { config } => levee_controlplane::withdraw::sweep(&config),
        Command::WithdrawAll { config } => levee_controlplane::withdraw::withdraw_all(&config),
    }
}
