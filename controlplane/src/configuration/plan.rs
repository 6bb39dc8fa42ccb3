//! What the file would change if it were read again: the one answer to `config diff`, `config reload` and the signal.

use std::path::Path;

use levee_api::config::{Config, ConfigError, ContentHash};

use super::diff::{Change, compare};
use crate::environment;
use crate::runbook::Runbooks;

/// A file that is valid, conditions and all, beside what is in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What the file says.
    pub config: Config,
    /// Of what it was compared with.
    pub before: ContentHash,
    /// What it would change; none: it says what is in force.
    pub changes: Vec<Change>,
}

/// Secrets that a file speaks of and that cannot be read: with it in force nobody would be told anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{of}: {message} ({help})")]
pub struct Lacking {
    /// Which part of the file speaks of it.
    pub of: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

impl Plan {
    /// Reads the file, and compares it with what is in force. Changes nothing.
    ///
    /// # Errors
    /// When the file cannot be read or is not valid, as `config check` has it.
    pub fn of(path: &Path, in_force: &Config) -> Result<Self, ConfigError> {
        let (config, _) = Runbooks::load(path)?;
        let changes = compare(&in_force.text, &config.text);
        Ok(Self { config, before: in_force.hash, changes })
    }

    /// What would keep the service, which runs this, from taking it.
    pub fn lacking(&self) -> Vec<Lacking> {
        let lacks = environment::secrets_of_service(&self.config).into_iter();
        lacks.map(|lack| Lacking { of: lack.of, message: lack.message, help: lack.help }).collect()
    }

    /// Itself, if nothing is lacking.
    ///
    /// # Errors
    /// The first thing that is.
    pub fn possible(self) -> Result<Self, Lacking> {
        match self.lacking().into_iter().next() {
            Some(lacking) => Err(lacking),
            None => Ok(self),
        }
    }
}
