//! What workers read and never change: one generation of the policy and its filters.

use std::sync::Arc;

use levee_api::zone::Mode;

use crate::filter::FilterTable;
use crate::filter::sources::Sources;
use crate::target::plan::Plan;

/// What to do with a packet when a decision cannot be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// It passes.
    #[default]
    Pass,
    /// It is dropped.
    Drop,
}

/// One generation.
pub struct Tables {
    /// From addresses to zones and slots.
    pub plan: Arc<Plan>,
    /// The filters in force.
    pub filters: FilterTable,
    /// The address sets in force.
    pub sources: Arc<Sources>,
    /// Ceiling of what may be done to packets that belong to no zone.
    pub ceiling: Mode,
    /// What to do with a packet that only the memory of conversations speaks against, while that has lost some.
    pub evicted: OnFailure,
    /// What to do with deeper encapsulation than is followed.
    pub too_deep: OnFailure,
}
