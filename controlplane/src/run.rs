//! `levee-controlplane run`: the core with its store, drivers, notifiers, API and the session with the dataplane around it.
//!
//! One loop owns the core. Whatever happens is an input; what a step writes is durable before anything that it commands is
//! carried out. Everything that can hang runs beside the loop, and comes back as an input.

mod carry_out;
mod legitimate;
mod session;
mod sessions;
mod shell;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use levee_api::config::{Config, ConfigError};

use crate::config_check::INVALID;
use crate::configuration::{InForce, Started, state_folder};
use crate::event_file::EventFile;
use crate::runbook::Runbooks;
use crate::store::SqliteStore;
use crate::system_clock::SystemClock;

/// How long what runs beside the loop may take when that has ended.
const LAST_WORK: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or SIGINT. 0 when told to stop, 78 when the file is not valid, 1 when it cannot start.
pub fn run(config: &Path, events: &str) -> ExitCode {
    // Conditions and all: what `check` refuses does not run, unless something was in force before it.
    let folder = match state_folder(config, std::env::var_os("STATE_DIRECTORY").as_deref()) {
        Ok(folder) => folder,
        Err(error) => {
            let status = if matches!(error, ConfigError::Invalid(_)) { INVALID } else { 1 };
            tell(error);
            return ExitCode::from(status);
        }
    };
    match start(config, &folder, events) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// With the lines of the file. Without a standard error there is nobody to tell.
fn tell(error: ConfigError) {
    let _ = writeln!(std::io::stderr(), "{:?}", miette::Report::new(error));
}

fn start(path: &Path, folder: &Path, events: &str) -> Result<(), String> {
    let clock = SystemClock::new().map_err(|error| format!("cannot read the clock: {error}"))?;
    let (store, beginning) = SqliteStore::open(folder, SystemTime::now()).map_err(|error| error.to_string())?;
    let (in_force, started) = InForce::start(path, folder, &clock.now()).map_err(|error| error.to_string())?;
    if started == Started::Before {
        tracing::warn!("the file was not confirmed in time: what was in force before it is in force again");
    }
    if let Some(trouble) = in_force.trouble() {
        Runbooks::load(path).err().into_iter().for_each(tell);
        tracing::error!("{trouble}");
    }
    warn_of(in_force.config());
    let events = EventFile::open(events).map_err(|error| format!("cannot write events to {events}: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    let ended = runtime.block_on(shell::run(shell::Parts {
        path: path.to_owned(),
        in_force,
        store,
        loss: beginning.loss(),
        events,
        clock,
    }));
    // A directory service that does not answer, or a copy of the store that is half made, is not waited for.
    runtime.shutdown_timeout(LAST_WORK);
    ended
}

fn warn_of(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!(line = warning.line, column = warning.column, "{}: {}", warning.message, warning.help);
    }
}
