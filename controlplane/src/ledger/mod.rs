//! Desired against observed mitigations.

mod advance;
mod book;
mod effect;
mod entry;
mod reconcile;
mod spec;

pub use book::{ANSWER_WITHIN, Intent, Ledger, Notice, Operation, Order, draft};
pub use effect::{Effect, Verdict};
pub use entry::{Evidence, Id, IncidentId, Mitigation, MitigationId, Outcome, State};
pub use reconcile::past_end;
pub use spec::{BadFilter, Direction, FilterSpec, FlowAction, FlowRule, Kind, PortRange, Spec, StoredFilter};

#[cfg(test)]
mod tests;
