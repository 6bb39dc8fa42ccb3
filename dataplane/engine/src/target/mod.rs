//! What is protected: lookup of zone and host, counters per host, and the memory of conversations and fragments.

pub mod conversation;
pub mod counters;
pub mod fragment;
pub mod hosts;
pub mod keyed;
pub mod memory;
pub mod plan;
pub mod source_marks;
pub(crate) mod stamps;
