//! `[appliance]` and `[exceptions]`: what holds for the whole appliance.

use std::path::PathBuf;

use super::problem::Fault;
use super::section::{Located, Section};
use crate::prefix::{Prefix, PrefixError};
use crate::zone::Mode;

/// Who this appliance is and what it may do at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appliance {
    /// Its name in events, logs and tags.
    pub name: String,
    /// Where both planes keep what survives a restart, each in its own folder below.
    pub state_dir: PathBuf,
    /// The ceiling for the mode of every zone.
    pub mode: Mode,
}

impl Default for Appliance {
    fn default() -> Self {
        Self { name: "levee".to_owned(), state_dir: PathBuf::from("/var/lib/levee"), mode: Mode::Enforce }
    }
}

/// What happens to packets about which a decision cannot be made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Exception {
    /// They pass, and are counted.
    #[default]
    Pass,
    /// They are dropped, and counted.
    Drop,
}

/// What to do when a decision cannot be made, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exceptions {
    /// The state that the decision needs was evicted from a full table.
    pub state_evicted: Exception,
    /// Tunnels inside tunnels, deeper than is looked at.
    pub encapsulation_too_deep: Exception,
}

pub(super) fn appliance(file: &Section<'_>) -> Appliance {
    let default = Appliance::default();
    let Some(section) = file.table("appliance", "[appliance]".to_owned()) else { return default };
    let appliance = Appliance {
        name: section.parsed("name", name).map_or(default.name, |name| name.value),
        state_dir: section.parsed("state_dir", absolute_path).map_or(default.state_dir, |path| path.value),
        mode: section.choice("mode", MODES).unwrap_or(default.mode),
    };
    section.refuse_unknown();
    appliance
}

pub(super) fn exceptions(file: &Section<'_>) -> Exceptions {
    const WORDS: &[(&str, Exception)] = &[("pass", Exception::Pass), ("drop", Exception::Drop)];
    let Some(section) = file.table("exceptions", "[exceptions]".to_owned()) else { return Exceptions::default() };
    let exceptions = Exceptions {
        state_evicted: section.choice("state_evicted", WORDS).unwrap_or_default(),
        encapsulation_too_deep: section.choice("encapsulation_too_deep", WORDS).unwrap_or_default(),
    };
    section.refuse_unknown();
    exceptions
}

pub(super) const MODES: &[(&str, Mode)] = &[("monitor", Mode::Monitor), ("enforce", Mode::Enforce)];

/// A name as it may stand in events, tables and metric labels.
pub(super) fn name(text: &str) -> Result<String, Fault> {
    const MAX_CHARACTERS: usize = 64;
    let fits = (1..=MAX_CHARACTERS).contains(&text.chars().count());
    if fits && text.trim() == text && !text.contains(char::is_control) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("{text:?} cannot be a name"),
        format!("use 1 to {MAX_CHARACTERS} characters, no line breaks and no blanks at either end"),
    ))
}

pub(super) fn prefix(text: &str) -> Result<Prefix, Fault> {
    text.parse().map_err(|error| match &error {
        PrefixError::HostBits { given, meant } => Fault::new(
            format!("{given} has bits set after its prefix length"),
            format!("write \"{meant}\" for the network, or the address alone for one host"),
        ),
        PrefixError::Syntax(given) => Fault::new(
            format!("{given:?} is not a prefix"),
            "write ADDRESS/LENGTH, such as \"203.0.113.0/24\" or \"2001:db8::/32\"",
        ),
    })
}

/// A path that means the same from every working directory.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, Fault> {
    let path = PathBuf::from(text);
    if path.is_absolute() && !text.contains('\0') {
        return Ok(path);
    }
    Err(Fault::new(format!("{text:?} is not an absolute path"), "let it begin with /"))
}

/// Takes the values out of their places.
pub(super) fn values<T>(located: Vec<Located<T>>) -> Vec<T> {
    located.into_iter().map(|located| located.value).collect()
}
