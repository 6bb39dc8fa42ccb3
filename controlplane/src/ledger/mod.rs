//! Desired against observed mitigations.

mod entry;
mod spec;

pub use entry::{Evidence, Id, IncidentId, Mitigation, MitigationId, Outcome, State};
pub use spec::{BadFilter, Direction, FilterSpec, FlowAction, FlowRule, Kind, PortRange, Spec, StoredFilter};
