//! `[appliance]`, `[exceptions]` and `[guardrails]`: what holds for the whole appliance.

use std::path::PathBuf;
use std::time::Duration;

use super::problem::Fault;
use super::quantity;
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

/// Rules that no mitigation may break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guardrails {
    /// The network that upstream measures may speak of.
    pub owned_prefixes: Vec<Prefix>,
    /// Addresses that no filter may ever touch: management, routers, resolvers.
    pub protected_prefixes: Vec<Prefix>,
    /// Longest time that a mitigation may be installed or renewed for.
    pub max_ttl: Duration,
}

impl Guardrails {
    /// What `max_ttl` is at most.
    pub const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);
}

impl Default for Guardrails {
    fn default() -> Self {
        Self { owned_prefixes: Vec::new(), protected_prefixes: Vec::new(), max_ttl: Self::MAX_TTL }
    }
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

pub(super) fn guardrails(file: &Section<'_>) -> Guardrails {
    let default = Guardrails::default();
    let Some(section) = file.table("guardrails", "[guardrails]".to_owned()) else { return default };
    let prefixes = |key| values(section.parsed_list(key, prefix).unwrap_or_default());
    let guardrails = Guardrails {
        owned_prefixes: prefixes("owned_prefixes"),
        protected_prefixes: prefixes("protected_prefixes"),
        max_ttl: section.parsed("max_ttl", max_ttl).map_or(default.max_ttl, |ttl| ttl.value),
    };
    section.refuse_unknown();
    guardrails
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

fn max_ttl(text: &str) -> Result<Duration, Fault> {
    let ttl = quantity::duration(text)?;
    if (Duration::from_secs(1)..=Guardrails::MAX_TTL).contains(&ttl) {
        return Ok(ttl);
    }
    Err(Fault::new(
        format!("a mitigation cannot last for {text}"),
        "give a duration from \"1s\" to \"24h\"; mitigations that last longer are renewed",
    ))
}

/// Takes the values out of their places.
pub(super) fn values<T>(located: Vec<Located<T>>) -> Vec<T> {
    located.into_iter().map(|located| located.value).collect()
}
