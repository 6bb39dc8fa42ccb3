//! `leveectl store`: copies of the store. Needs no server.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Subcommand;

use super::{fail, print};
use crate::store;

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Copy the store to a new file, whole and as of one moment. The control plane may run.
    Backup {
        /// The copy; it must not exist yet.
        to: PathBuf,
        /// `state_dir` in [appliance].
        #[arg(long, value_name = "FOLDER", default_value = "/var/lib/levee")]
        state_dir: PathBuf,
    },
    /// Put a copy in the place of the store, which is kept aside. The control plane must not run.
    Restore {
        /// The copy.
        from: PathBuf,
        /// `state_dir` in [appliance].
        #[arg(long, value_name = "FOLDER", default_value = "/var/lib/levee")]
        state_dir: PathBuf,
    },
}

/// Does it. 0 done, 1 not done.
pub(super) fn run(command: &StoreCommand) -> ExitCode {
    let folder = |state_dir: &Path| state_dir.join("controlplane");
    match command {
        StoreCommand::Backup { to, state_dir } => told(store::back_up(&folder(state_dir), to), |()| {
            format!("The store has been copied to {}.\n", to.display())
        }),
        StoreCommand::Restore { from, state_dir } => {
            if let Err(why) = levee_api::regular_file::check(from) {
                return fail(&format!("{}: {why}; give a file that `leveectl store backup` wrote", from.display()));
            }
            told(store::restore(&folder(state_dir), from, SystemTime::now()), |aside| match aside {
                Some(aside) => format!("{} is the store now; what it was is {}.\n", from.display(), aside.display()),
                None => format!("{} is the store now.\n", from.display()),
            })
        }
    }
}

fn told<T, E: Display>(outcome: Result<T, E>, text: impl FnOnce(T) -> String) -> ExitCode {
    match outcome {
        Ok(done) => print(&text(done)),
        Err(error) => fail(&error.to_string()),
    }
}
