//! `levee-dataplane baseline`: what was learned, shown, carried elsewhere, accepted and forgotten.
//!
//! All of it works on the files of a state directory. A dataplane that runs would write over them within a minute, so that
//! nothing is changed beside one.

mod exchange;
mod show;
pub mod store;

use std::fs;
use std::io;
use std::path::PathBuf;

use levee_api::config::{Config, ConfigError};
use levee_api::prefix::Prefix;
use levee_api::role::Role;
use levee_engine::detect::snapshot::{Learned, TargetRecord, ZoneRecord};
use levee_engine::detect::threshold::Baseline;

use crate::files::FileError;
use crate::service::{BindError, Listener};
use crate::start::{AtStart, since_1970};

use self::exchange::Exchange;
pub use self::exchange::ExchangeError;

/// What to do with what was learned.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print thresholds, and what they follow from, for each target and role.
    Show {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        selection: Selection,
        /// Also print the factors of the hours of the week.
        #[arg(long)]
        hours: bool,
    },
    /// Print baselines as JSON.
    Export {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        selection: Selection,
    },
    /// Take baselines from JSON; they replace those of the same targets.
    Import {
        #[command(flatten)]
        place: Place,
        /// What `export` printed.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Let thresholds follow what was seen at once, however fast it has grown.
    Accept {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Forget what was learned.
    Reset {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        chosen: Chosen,
    },
}

/// Where the files are.
#[derive(Debug, clap::Args)]
struct Place {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Directory with what a replay learned; without it, that of the dataplane.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// Which baselines are meant; all, when nothing is given.
#[derive(Debug, Default, clap::Args)]
struct Selection {
    /// Those of a zone.
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    /// Those of a host or prefix.
    #[arg(long, value_name = "ADDRESS")]
    target: Option<Prefix>,
    /// Those of a role.
    #[arg(long, value_name = "ROLE")]
    role: Option<Role>,
}

/// Which baselines are changed: said in so many words.
#[derive(Debug, clap::Args)]
struct Chosen {
    #[command(flatten)]
    selection: Selection,
    /// All of them.
    #[arg(long, required_unless_present_any = ["zone", "target", "role"])]
    all: bool,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A dataplane is running.
    #[error("nothing is changed beside a running dataplane, which would write over it: {0}")]
    Running(#[from] BindError),
    /// There is nothing to work on.
    #[error("nothing has been learned: there is no usable {}", .0.display())]
    Nothing(PathBuf),
    /// The selection fits nothing.
    #[error("nothing was learned of what is selected: `levee-dataplane baseline show` lists what was")]
    NoSuch,
    /// A file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// The JSON says nothing that can be used.
    #[error("{}: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: ExchangeError,
    },
    /// The result cannot be written.
    #[error(transparent)]
    Write(#[from] FileError),
}

/// Does what the command says, and returns what it has to print.
///
/// # Errors
/// When there is nothing to work on, or a file cannot be used; then nothing has changed.
pub fn run(arguments: &Arguments) -> Result<String, BaselineError> {
    match &arguments.command {
        Command::Show { place, selection, hours } => {
            let opened = Opened::of(place)?;
            let zones = AtStart::read(&opened.config, &opened.state).policy.zones;
            Ok(show::render(&selection.of(opened.learned()?)?, &zones, *hours, since_1970()))
        }
        Command::Export { place, selection } => {
            let learned = selection.of(Opened::of(place)?.learned()?)?;
            Ok(Exchange::of(&learned).to_json())
        }
        Command::Import { place, file } => {
            let fault = |reason| BaselineError::Json { path: file.clone(), reason };
            let text = fs::read_to_string(file).map_err(|reason| BaselineError::Read { path: file.clone(), reason })?;
            let imported = Exchange::from_json(&text).and_then(Exchange::into_learned).map_err(fault)?;
            let opened = Opened::to_change(place)?;
            let (targets, mut learned) = (imported.targets.len(), opened.load().unwrap_or_default());
            exchange::merge(&mut learned, imported);
            opened.save(&learned)?;
            Ok(format!("targets taken over: {targets}\n"))
        }
        Command::Accept { place, chosen } => {
            let opened = Opened::to_change(place)?;
            let mut learned = opened.learned()?;
            let accepted = chosen.selection.change(&mut learned, |baseline| {
                baseline.accept();
                true
            })?;
            opened.save(&learned)?;
            Ok(format!("baselines accepted: {accepted}\n"))
        }
        Command::Reset { place, chosen } => {
            let opened = Opened::to_change(place)?;
            let mut learned = opened.learned()?;
            let forgotten = chosen.selection.change(&mut learned, |_| false)?;
            chosen.selection.forget_zones(&mut learned);
            opened.save(&learned)?;
            Ok(format!("baselines forgotten: {forgotten}\n"))
        }
    }
}

/// A state directory.
struct Opened {
    config: Config,
    state: PathBuf,
    /// As long as this is held, no dataplane starts.
    _alone: Option<Listener>,
}

impl Opened {
    fn of(place: &Place) -> Result<Self, BaselineError> {
        let config = Config::load(&place.config)?;
        let state = place.state.clone().unwrap_or_else(|| config.appliance.state_dir.join("dataplane"));
        Ok(Self { config, state, _alone: None })
    }

    fn to_change(place: &Place) -> Result<Self, BaselineError> {
        let opened = Self::of(place)?;
        let alone = place.state.is_none().then(|| Listener::bind(&opened.config.dataplane.socket)).transpose()?;
        Ok(Self { _alone: alone, ..opened })
    }

    fn load(&self) -> Option<Learned> {
        store::load(&self.state, |told| eprintln!("levee-dataplane: {told}"))
    }

    fn learned(&self) -> Result<Learned, BaselineError> {
        self.load().ok_or_else(|| BaselineError::Nothing(store::newest(&self.state)))
    }

    fn save(&self, learned: &Learned) -> Result<(), FileError> {
        store::save(&self.state, &learned.to_bytes())
    }
}

impl Selection {
    fn has(&self, zones: &[ZoneRecord], target: &TargetRecord, role: Role) -> bool {
        let zone = usize::try_from(target.zone).ok().and_then(|zone| zones.get(zone));
        self.zone.as_ref().is_none_or(|name| zone.is_some_and(|zone| zone.name == *name))
            && self.target.is_none_or(|prefix| prefix == target.prefix)
            && self.role.is_none_or(|selected| selected == role)
    }

    /// Changes what is selected, or takes it out where that says false; returns how many baselines it was.
    fn change(
        &self,
        learned: &mut Learned,
        mut change: impl FnMut(&mut Baseline) -> bool,
    ) -> Result<usize, BaselineError> {
        let (zones, mut count) = (&learned.zones, 0);
        for target in &mut learned.targets {
            for (role, mut baseline) in std::mem::take(&mut target.baselines) {
                let selected = self.has(zones, target, role);
                count += usize::from(selected);
                if !selected || change(&mut baseline) {
                    target.baselines.push((role, baseline));
                }
            }
        }
        if count == 0 { Err(BaselineError::NoSuch) } else { Ok(count) }
    }

    /// Only what is selected.
    fn of(&self, mut learned: Learned) -> Result<Learned, BaselineError> {
        let zones = &learned.zones;
        for target in &mut learned.targets {
            let baselines = std::mem::take(&mut target.baselines);
            target.baselines = baselines.into_iter().filter(|(role, _)| self.has(zones, target, *role)).collect();
        }
        learned.targets.retain(|target| !target.baselines.is_empty());
        if learned.targets.is_empty() { Err(BaselineError::NoSuch) } else { Ok(learned) }
    }

    /// Forgets what zones have learned as a whole, where nothing narrower is selected.
    fn forget_zones(&self, learned: &mut Learned) {
        if self.target.is_some() || self.role.is_some() {
            return;
        }
        for zone in &mut learned.zones {
            if self.zone.as_ref().is_none_or(|name| zone.name == *name) {
                *zone = ZoneRecord { name: std::mem::take(&mut zone.name), ..ZoneRecord::default() };
            }
        }
        learned.targets.retain(|target| !target.baselines.is_empty());
    }
}

#[cfg(test)]
mod tests;
