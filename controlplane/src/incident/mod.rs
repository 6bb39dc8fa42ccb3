//! Incidents: one attack on one target, from its first anomaly to closure.

mod record;
mod timeline;

pub use record::{AnomalyRef, Calm, Incident, Peak, Phase, Rates, RoleRecord, Severity, VectorRecord};
pub use timeline::{TimelineEntry, TimelineKind};
