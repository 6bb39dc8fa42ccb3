//! Incidents: one attack on one target, from its first anomaly to closure.

mod book;
mod events;
mod record;
mod report;
mod severity;
mod suspicion;
mod timeline;

pub use book::{Incidents, MAX_ENTRIES, MAX_OPEN, Note};
pub use events::{Change, Context};
pub use record::{AnomalyRef, Calm, Incident, Peak, Phase, Rates, RoleRecord, Severity, VectorRecord};
pub use report::Report;
pub use severity::{Effect, LINK_FULL, severity};
pub use timeline::{TimelineEntry, TimelineKind};

#[cfg(test)]
mod tests;
