//! Detection: from counters and samples to anomalies, from anomalies to signatures.

pub mod classify;
pub mod event;
pub mod extract;
pub mod reservoir;
pub mod threshold;
pub mod track;
pub mod window;
pub mod witness;
