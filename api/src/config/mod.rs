//! `levee.toml`: the one configuration file, read by both planes.
//!
//! A [`Config`] exists only validated. Reading goes through a table reader that knows the place of every value, so that
//! each problem is told with line, column and what to do, all of them at once; an unknown key is an error that names
//! the nearest known one. Every key is described for operators in `docs/reference/configuration.md`.
//!
//! ```
//! let text = r#"
//!     schema = 1
//!     [[zone]]
//!     name = "web"
//!     prefixes = ["203.0.113.0/24"]
//!     mode = "enforce"
//! "#;
//! let config = levee_api::config::Config::parse("levee.toml", text)?;
//! assert_eq!(config.zones[0].name, "web");
//! # Ok::<(), levee_api::config::Invalid>(())
//! ```

mod action;
mod address_set;
mod bgp;
mod capture;
mod controlplane;
mod dataplane;
mod expression;
mod general;
mod guardrails;
mod maintenance;
mod notifier;
mod problem;
mod quantity;
mod reference;
mod runbook;
mod section;
mod template;
mod upstream;
mod zone;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use toml::de::DeTable;

use crate::address_set::AddressSet;
use crate::regular_file;
use crate::zone::Zone;

pub use action::{Action, Blackhole, BlackholeDirection, Divert, FlowSpec, FlowSpecAction, Via};
pub use bgp::{Bgp, BgpCommunity, BgpFamily, BgpPeer, Bmp};
pub use capture::Capture;
pub use controlplane::{Access, Controlplane, Retention};
pub use dataplane::{Dataplane, Idle, Memory, Simd, Wire};
pub use expression::Expression;
pub use general::{Appliance, Exception, Exceptions};
pub use guardrails::{Guardrails, Lengths};
pub use maintenance::Maintenance;
pub use notifier::{Notifier, NotifierKind, Secret};
pub use problem::{ConfigError, Finding, Invalid, Problem};
pub use runbook::{
    Approval, ApprovalRole, BUILT_IN, MAX_CONDITION_BYTES, MAX_RUNBOOKS, MAX_STAGES, Otherwise, Probe, Runbook, Stage,
};
pub use section::nearest;
pub use upstream::{Announcer, AnnouncerKind, Capability, Scrubber, ScrubberKind};
pub use zone::MAX_ZONES;

use problem::{Fault, Problems};
use section::Section;

/// Reads a duration as the file writes them, such as `5m` or `1h30m`: command lines write them alike.
///
/// # Errors
/// What is wrong and what to write instead, in words.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    quantity::duration(text).map_err(|fault| format!("{}: {}", fault.message, fault.help))
}

/// The schema this program reads.
pub const SCHEMA: u64 = 1;

/// Larger files are refused: a million prefixes fit, a wrong path such as a disk image does not.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// More errors of syntax say no more: a file that is no TOML at all has one on each line.
const MOST_SYNTAX_ERRORS: usize = 10;

/// A valid configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Who this appliance is and what it may do at most.
    pub appliance: Appliance,
    /// The wires and how the dataplane runs them.
    pub dataplane: Dataplane,
    /// What to do when a decision cannot be made.
    pub exceptions: Exceptions,
    /// Rules that no mitigation may break.
    pub guardrails: Guardrails,
    /// How the control plane runs.
    pub controlplane: Controlplane,
    /// What the control plane does about incidents, in the order of the file, their names unique.
    pub runbooks: Vec<Runbook>,
    /// The embedded speaker, if there is to be one.
    pub bgp: Option<Bgp>,
    /// Who announces routes for us.
    pub announcers: Vec<Announcer>,
    /// Who can take traffic over.
    pub scrubbers: Vec<Scrubber>,
    /// Who is told.
    pub notifiers: Vec<Notifier>,
    /// Times of the week in which conditions may decide otherwise.
    pub maintenance: Vec<Maintenance>,
    /// The zones in the order of the file, their names and prefixes disjoint, their modes lowered to the ceiling.
    pub zones: Vec<Zone>,
    /// The address sets in the order of the file, which is that of their bits in a packet's class.
    pub address_sets: Vec<AddressSet>,
    /// Identifies the text this was read from.
    pub hash: ContentHash,
    /// The text this was read from.
    pub text: Arc<str>,
    /// What is valid and probably not meant.
    pub warnings: Vec<Problem>,
}

/// Identifies the text of a file: equal for equal texts, and stable between builds and machines.
///
/// Length and CRC-32. It tells "the file has changed since", it does not defend against a forger: who can write the
/// file can write any policy anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash(pub u64);

impl Config {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// [`ConfigError::Read`] when there is no readable text file of at most [`MAX_FILE_BYTES`],
    /// [`ConfigError::Invalid`] with every problem found.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::load_with(path, |_| Vec::new())
    }

    /// Reads and validates a file, with the findings of somebody who understands a part of it better.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(path: impl AsRef<Path>, check: impl FnOnce(&Self) -> Vec<Finding>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let failed = |reason| ConfigError::Read { path: path.to_owned(), reason };
        let text = regular_file::read(path, MAX_FILE_BYTES).map_err(failed)?;
        let name = path.display().to_string();
        match std::str::from_utf8(&text) {
            _ if text.contains(&0) => {
                let reason =
                    "it is no text: there are zero bytes in it (text of Windows is often UTF-16, and has to be UTF-8)";
                Err(failed(io::Error::new(io::ErrorKind::InvalidData, reason)))
            }
            Ok(text) => Ok(Self::parse_with(&name, text, check)?),
            Err(error) => {
                let start = error.valid_up_to();
                // The replacement character that stands here instead is what the snippet points at.
                let readable = String::from_utf8_lossy(&text);
                let problems = Problems::of(&readable);
                let span = start..start + char::REPLACEMENT_CHARACTER.len_utf8();
                problems.error(span, Fault::new("this is not UTF-8", "a TOML file is UTF-8 text"));
                Err(problems.into_invalid(&name).into())
            }
        }
    }

    /// Validates a text; `name` is what problems call it.
    ///
    /// # Errors
    /// Every problem found.
    pub fn parse(name: &str, text: &str) -> Result<Self, Invalid> {
        Self::parse_with(name, text, |_| Vec::new())
    }

    /// Validates a text, with the findings of somebody who understands a part of it better: the control plane knows how
    /// conditions are written, the dataplane has no need to. `check` may be given a configuration with other errors,
    /// so that all problems are told at once.
    ///
    /// # Errors
    /// Every problem found.
    pub fn parse_with(name: &str, text: &str, check: impl FnOnce(&Self) -> Vec<Finding>) -> Result<Self, Invalid> {
        let problems = Problems::of(text);
        let (table, syntax_errors) = DeTable::parse_recoverable(text);
        for error in syntax_errors.iter().take(MOST_SYNTAX_ERRORS) {
            let span = error.span().unwrap_or(text.len()..text.len());
            problems.error(span, Fault::new(error.message(), "see https://toml.io for what a TOML file looks like"));
        }
        // What follows a syntax error was guessed by the parser: reading on would report problems that are not there.
        let config = if syntax_errors.is_empty() {
            read_file(&Section::new("the file".to_owned(), &table, &problems), text)
        } else {
            problems.hide_what_looks_secret();
            None
        };
        if let Some(config) = &config {
            check(config).into_iter().for_each(|finding| problems.found(finding));
        }
        let (mut config, warnings) = problems.conclude(name, config)?;
        config.warnings = warnings;
        Ok(config)
    }
}

fn read_file(file: &Section<'_>, text: &str) -> Option<Config> {
    let problems = file.problems();
    if file.has("schema") {
        let schema = file.integer("schema", 0..=u64::MAX)?;
        if schema != SCHEMA {
            // The keys of another schema mean something else: nothing more can be said about them.
            problems.error(
                file.place("schema"),
                Fault::new(
                    format!("schema {schema} is not known to this version of Levee"),
                    format!("this version reads schema {SCHEMA}"),
                ),
            );
            return None;
        }
    } else {
        problems.warning(
            0..0,
            Fault::new("the file does not say its schema: taken as schema 1", "let the file begin with: schema = 1"),
        );
    }
    let appliance = general::appliance(file);
    let dataplane = dataplane::read(file);
    let exceptions = general::exceptions(file);
    let guardrails = guardrails::read(file);
    let controlplane = controlplane::read(file);
    let (zones, runbooks_of_zones) = zone::read(file, appliance.mode, &guardrails);
    let address_sets = address_set::read(file, &zones, &guardrails);
    let runbooks = runbook::read(file, &guardrails);
    let bgp = bgp::read(file);
    let (announcers, scrubbers) = (upstream::announcers(file, bgp.as_ref()), upstream::scrubbers(file));
    let (notifiers, maintenance) = (notifier::read(file), maintenance::read(file));
    file.refuse_unknown();
    if zones.is_empty() && !file.has("zone") {
        let fault = |message: &str| Fault::new(message, "describe what is to be protected in a [[zone]] table");
        if dataplane.wires.is_empty() {
            problems.error(0..0, fault("the file has neither zones nor wires"));
        } else {
            problems.warning(0..0, fault("the file has no zone: everything is forwarded"));
        }
    }
    let config = Config {
        appliance,
        dataplane,
        exceptions,
        guardrails,
        controlplane,
        runbooks,
        bgp,
        announcers,
        scrubbers,
        notifiers,
        maintenance,
        zones,
        address_sets,
        hash: ContentHash::of(text),
        text: Arc::from(text),
        warnings: Vec::new(),
    };
    reference::check(&config, &runbooks_of_zones, problems);
    Some(config)
}

impl ContentHash {
    /// The hash of a text.
    pub fn of(text: &str) -> Self {
        // The length above the checksum tells texts of equal checksum and different length apart.
        Self((text.len() as u64) << 32 | u64::from(crc32fast::hash(text.as_bytes())))
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod control_tests;
#[cfg(test)]
mod every_key_test;
#[cfg(test)]
mod tests;
