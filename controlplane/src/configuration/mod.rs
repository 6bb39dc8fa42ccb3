//! The life of a configuration: compared, taken whole or not at all, on trial, kept or taken back, migrated.

mod diff;
mod in_force;
mod meaning;
mod migrate;
mod plan;
mod state_folder;

#[cfg(test)]
mod in_force_test;

pub use diff::{Change, Effect, compare, diff};
pub use in_force::{InForce, LONGEST_TRIAL, ReloadError, Reloaded, SHORTEST_TRIAL, Started, TrialOver};
pub use migrate::{MigrateError, Migrated, migrate, migrate_text};
pub use plan::{Lacking, Plan};
pub use state_folder::{last_in_force, state_folder};
