//! The configuration in force: read again whole or not at all, on trial until somebody confirms it, taken back by itself.
//!
//! The file is the truth, with one exception that survives restarts: a text that was taken on trial and not confirmed in
//! time is not taken again by itself, until the file is another one or somebody reloads it. What to go back to is kept in
//! `STATE_DIR/controlplane/configuration.json`, and is in force also when a start finds a file that is no good.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use levee_api::config::{Config, ConfigError, ContentHash};
use serde::{Deserialize, Serialize};

use super::diff::{Change, compare};
use super::plan::{Lacking, Plan};
use crate::clock::{Deadline, Now};
use crate::runbook::Runbooks;

/// The record's name in the folder of the state.
const RECORD: &str = "configuration.json";

/// Shortest time in which somebody can look and confirm.
pub const SHORTEST_TRIAL: Duration = Duration::from_secs(10);
/// Longest trial, together with those that follow it before anything is confirmed.
pub const LONGEST_TRIAL: Duration = Duration::from_secs(24 * 3_600);

/// The configuration in force, and what is known of its trial.
#[derive(Debug)]
pub struct InForce {
    path: PathBuf,
    record_path: PathBuf,
    config: Config,
    record: Record,
    /// What was wrong with the file when it was last read.
    refused_file: Option<String>,
}

/// What survives a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The last text that needs no confirmation.
    confirmed: String,
    /// A text on trial.
    trial: Option<Trial>,
    /// The hash of a text that was not confirmed in time.
    refused: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Trial {
    hash: u64,
    until: Deadline,
    /// Where trials end that followed one another.
    #[serde(default)]
    latest: Option<Deadline>,
}

/// What a start has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// The file is in force.
    File,
    /// The file is in force, on trial.
    OnTrial(Deadline),
    /// The file was not confirmed in time: what was in force before it is in force.
    Before,
    /// The file is no good: what was in force before it is in force.
    WithoutFile,
}

/// What a reload has done.
#[derive(Debug, Clone, PartialEq)]
pub struct Reloaded {
    /// What is different now; none: the file says what was in force.
    pub changes: Vec<Change>,
    /// What is in force.
    pub hash: ContentHash,
    /// Until when it has to be confirmed.
    pub confirm_by: Option<Deadline>,
}

/// A trial that has ended without a confirmation.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialOver {
    /// What is different now.
    pub changes: Vec<Change>,
    /// What is in force again.
    pub hash: ContentHash,
}

/// Why the configuration stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file cannot be read or is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A trial that a restart would forget is none.
    #[error("cannot write {} down: {reason}", path.display())]
    Record {
        /// The record of the trial.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// The file is valid, and what it needs is not there.
    #[error(transparent)]
    Lacking(#[from] Lacking),
    /// Without a trial of its own it would be kept, and nobody has confirmed that.
    #[error(
        "a configuration is on trial: leveectl config confirm keeps it, config reload --confirm TIME tries what the file says \
         now"
    )]
    OnTrial,
    /// There is nothing to confirm.
    #[error("no configuration is on trial")]
    NotOnTrial,
}

impl InForce {
    /// Reads the file, or what was in force before it when it was not confirmed or is no good. `folder`: the control plane's
    /// state.
    ///
    /// # Errors
    /// When the file cannot be read or is not valid, and nothing was in force before it.
    pub fn start(path: &Path, folder: &Path, now: &Now) -> Result<(Self, Started), ConfigError> {
        let record_path = folder.join(RECORD);
        let record = read_record(&record_path);
        let (config, refused_file) = match Runbooks::load(path) {
            Ok((config, _)) => (config, None),
            Err(error) => match confirmed_of(path, &record) {
                Some(config) => (config, Some(error.to_string())),
                None => return Err(error),
            },
        };
        let mut in_force = Self { path: path.to_owned(), record_path, config, record, refused_file };
        if in_force.refused_file.is_some() {
            // What was on trial is not in force.
            in_force.record.trial = None;
            return Ok((in_force, Started::WithoutFile));
        }
        let started = in_force.recall(now);
        if started == Started::File && *in_force.record.confirmed != *in_force.config.text {
            let record = Record { confirmed: in_force.config.text.to_string(), ..Record::default() };
            // It is missed only when a trial is asked for, which fails then.
            if let Err(error) = in_force.write(record) {
                tracing::warn!("{error}");
            }
        }
        Ok((in_force, started))
    }

    /// What is in force.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Until when it has to be confirmed; none: it is not on trial.
    pub fn confirm_by(&self) -> Option<Deadline> {
        self.record.trial.as_ref().map(|trial| trial.until)
    }

    /// That the file is no good, and what to do; none when what it says was taken the last time it was read.
    pub fn trouble(&self) -> Option<String> {
        let error = self.refused_file.as_ref()?;
        Some(format!("what was in force before the file stays: {error}; mend it, then leveectl config reload"))
    }

    /// What reads the file again and compares it, elsewhere: that may take a second.
    pub fn planner(&self) -> impl FnOnce() -> Result<Plan, ConfigError> + Send + 'static {
        let (path, config) = (self.path.clone(), self.config.clone());
        move || Plan::of(&path, &config)
    }

    /// What a reload would change, and into what.
    ///
    /// # Errors
    /// Why a reload would change nothing.
    pub fn judge(
        &self,
        plan: Result<Plan, ConfigError>,
        confirm_within: Option<Duration>,
    ) -> Result<Reloaded, ReloadError> {
        let Plan { config, changes, .. } = plan?.possible()?;
        self.check_trial(&config, confirm_within)?;
        Ok(Reloaded { changes, hash: config.hash, confirm_by: None })
    }

    /// True when something else was in force when the plan was made.
    pub fn is_outdated(&self, plan: &Plan) -> bool {
        plan.before != self.config.hash
    }

    /// Reads the file again and takes it.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn reload(&mut self, confirm_within: Option<Duration>, now: &Now) -> Result<Reloaded, ReloadError> {
        let plan = self.planner()();
        self.take(plan, confirm_within, now)
    }

    /// Takes what was read. With a time for confirmation, what is in force now comes back when that has passed.
    ///
    /// # Errors
    /// Then nothing has changed.
    pub fn take(
        &mut self,
        plan: Result<Plan, ConfigError>,
        confirm_within: Option<Duration>,
        now: &Now,
    ) -> Result<Reloaded, ReloadError> {
        self.refused_file = plan.as_ref().err().map(ToString::to_string);
        let Plan { config, changes, .. } = plan?.possible()?;
        self.check_trial(&config, confirm_within)?;
        let within = confirm_within.filter(|_| *config.text != *self.record.confirmed);
        let before = self.record.trial.as_ref().and_then(|trial| trial.latest);
        let latest = before.unwrap_or_else(|| Deadline::after(now, LONGEST_TRIAL));
        let until = within.map(|within| Deadline::after(now, within.min(latest.remaining(now))));
        let record = match until {
            Some(until) => {
                let trial = Trial { hash: config.hash.0, until, latest: Some(latest) };
                Record { trial: Some(trial), refused: None, ..self.record.clone() }
            }
            None => Record { confirmed: config.text.to_string(), ..Record::default() },
        };
        match self.write(record) {
            Err(error) if until.is_some() => return Err(error),
            // Without a trial the file alone says at the next start what is in force.
            Err(error) => tracing::warn!("{error}"),
            Ok(()) => {}
        }
        self.config = config;
        Ok(Reloaded { changes, hash: self.config.hash, confirm_by: until })
    }

    /// Another text is not confirmed by the way: what was in force before the trial may be taken again.
    fn check_trial(&self, config: &Config, confirm_within: Option<Duration>) -> Result<(), ReloadError> {
        let confirms = confirm_within.is_none() && *config.text != *self.record.confirmed;
        if confirms && self.record.trial.is_some() { Err(ReloadError::OnTrial) } else { Ok(()) }
    }

    /// Keeps what is on trial.
    ///
    /// # Errors
    /// When nothing is, or when it cannot be written down: then the trial goes on.
    pub fn confirm(&mut self) -> Result<ContentHash, ReloadError> {
        if self.record.trial.is_none() {
            return Err(ReloadError::NotOnTrial);
        }
        self.write(Record { confirmed: self.config.text.to_string(), ..Record::default() })?;
        Ok(self.config.hash)
    }

    /// Ends a trial whose time has passed: what was in force before it is in force again.
    pub fn expire(&mut self, now: &Now) -> Option<TrialOver> {
        if !self.record.trial.as_ref()?.until.has_passed(now) {
            return None;
        }
        let before = Arc::clone(&self.config.text);
        self.go_back();
        Some(TrialOver { changes: compare(&before, &self.config.text), hash: self.config.hash })
    }

    /// What a restart has to remember of the file that was read.
    fn recall(&mut self, now: &Now) -> Started {
        let hash = self.config.hash.0;
        if let Some(trial) = self.record.trial.clone().filter(|trial| trial.hash == hash) {
            if trial.until.has_passed(now) {
                self.go_back();
                return Started::Before;
            }
            return Started::OnTrial(trial.until);
        }
        if self.record.refused == Some(hash) {
            self.go_back();
            return Started::Before;
        }
        Started::File
    }

    /// Goes back to the confirmed text, and remembers the one of the trial so that no restart takes it.
    fn go_back(&mut self) {
        let refused = self.record.trial.as_ref().map(|trial| trial.hash).or(self.record.refused);
        match Runbooks::parse_checked(&self.path.display().to_string(), &self.record.confirmed) {
            Ok(config) => {
                self.config = config;
                let record = Record { trial: None, refused, ..self.record.clone() };
                self.record.clone_from(&record);
                if let Err(error) = self.write(record) {
                    tracing::error!("{error}: after a restart the trial begins to end once more");
                }
            }
            // A later version of Levee may refuse what an earlier one took.
            Err(error) => {
                tracing::error!("what was in force before the trial is not valid any more, the file stays: {error}");
                self.record.trial = None;
            }
        }
    }

    fn write(&mut self, record: Record) -> Result<(), ReloadError> {
        let failed = |reason| ReloadError::Record { path: self.record_path.clone(), reason };
        let bytes = serde_json::to_vec(&record).map_err(|error| failed(error.into()))?;
        replace(&self.record_path, &bytes).map_err(failed)?;
        self.record = record;
        Ok(())
    }
}

/// What is in force in a folder when the file is no good.
pub(super) fn confirmed(path: &Path, folder: &Path) -> Option<Config> {
    let record = folder.join(RECORD);
    confirmed_of(path, &record.exists().then(|| read_record(&record))?)
}

/// An empty text was never in force; a later version of Levee may refuse what an earlier one took.
fn confirmed_of(path: &Path, record: &Record) -> Option<Config> {
    let text = Some(&record.confirmed).filter(|text| !text.is_empty())?;
    Runbooks::parse_checked(&path.display().to_string(), text).ok()
}

/// What cannot be read is as good as none: the file is in force.
fn read_record(path: &Path) -> Record {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::error!("{} is damaged, a trial is forgotten: {error}", path.display());
            Record::default()
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Record::default(),
        Err(error) => {
            tracing::error!("{} cannot be read, a trial is forgotten: {error}", path.display());
            Record::default()
        }
    }
}

/// Written aside, synced and renamed: there is never half of it.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let draft = path.with_extension("json.draft");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        // The disk may be full.
        let _ = fs::remove_file(&draft);
    }
    written?;
    File::open(folder)?.sync_all()
}
