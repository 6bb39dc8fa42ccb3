//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use levee_api::prefix::Prefix;

use super::captures::CaptureCommand;
use super::config::ConfigCommand;
use super::flowspec::FlowspecCommand;
use super::incidents::IncidentCommand;
use super::mitigations::MitigationCommand;
use super::prefix_argument::prefix;
use super::runbooks::RunbookCommand;
use super::status::KillSwitchCommand;
use super::store::StoreCommand;

/// Watch and steer Levee.
///
/// Exit status: 0 done, 1 it could not be done, 2 wrong usage, 78 the configuration is not valid.
#[derive(Debug, Parser)]
#[command(name = "leveectl", version)]
pub struct Arguments {
    /// The control plane's socket: `socket` in [controlplane].
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        default_value = "/run/levee/controlplane.sock",
        env = "LEVEE_SOCKET"
    )]
    pub(super) socket: PathBuf,
    /// How answers are told.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(super) output: Output,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// How answers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    Table,
    /// For programs: the message of the API; one line for each change when watching.
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// How the appliance is, and what needs attention.
    Status,
    /// What is protected, and how it fares.
    Zones {
        /// Only this one.
        name: Option<String>,
    },
    /// Attacks: list them, read their story, watch them.
    #[command(subcommand)]
    Incidents(IncidentCommand),
    /// Measures: list, add, renew, withdraw.
    #[command(subcommand)]
    Mitigations(MitigationCommand),
    /// What is done about attacks, and what waits for a decision.
    #[command(subcommand)]
    Runbook(RunbookCommand),
    /// Packets around attacks.
    #[command(subcommand)]
    Capture(CaptureCommand),
    /// Check, compare and reload the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Copy the store, and put copies back. Needs no server.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Rules for routers upstream: of filters, of bytes, and those that are announced.
    #[command(subcommand)]
    Flowspec(FlowspecCommand),
    /// Withdraw everything and only watch; or let go of that again.
    #[command(subcommand)]
    KillSwitch(KillSwitchCommand),
    /// Why packets of an address are dropped: its zone, the filters on it, what protects it.
    Explain {
        /// An address or a prefix.
        #[arg(value_parser = prefix)]
        address: Prefix,
    },
    /// Print completions for a shell.
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
    /// Write man pages into a folder.
    Man {
        /// Which; it must exist.
        folder: PathBuf,
    },
}

/// What every change has.
#[derive(Debug, Clone, Args)]
pub(super) struct Changing {
    /// Only say whether it would be done.
    #[arg(long, visible_alias = "validate-only")]
    pub(super) dry_run: bool,
    /// The same id again gives the same answer and does nothing; chosen at random unless given.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

impl Changing {
    /// The id of the request.
    pub(super) fn id(&self) -> String {
        use std::hash::{BuildHasher as _, RandomState};
        // Two draws of the standard library's random keys: unique among the requests of an appliance.
        let half = || RandomState::new().hash_one(std::process::id());
        self.request_id.clone().unwrap_or_else(|| format!("leveectl-{:016x}{:016x}", half(), half()))
    }
}
