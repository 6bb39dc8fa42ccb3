//! `leveectl`: what operators type.
//!
//! Exit status: 0 done, 1 it could not be done, 2 wrong usage, 78 the configuration is not valid (`EX_CONFIG` of
//! sysexits.h).

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use levee_controlplane::config_check::{self, Format};

/// Watch and steer Levee.
#[derive(Debug, Parser)]
#[command(name = "leveectl", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Work with configuration files.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether a configuration file is valid, and what it means. Needs no server.
    Check {
        /// The file, usually levee.toml.
        file: PathBuf,
        /// How to say it.
        #[arg(long, value_enum, default_value_t = Format::Human)]
        format: Format,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Config(ConfigCommand::Check { file, format }) => config_check::run(&file, format),
    }
}
