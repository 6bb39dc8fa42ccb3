//! What it costs: traffic with fixed seeds, the programs that forward it, and what is read off them.
//!
//! A measurement is a [`row::Row`]: which packets ([`traffic`]) meet which policy ([`site`]), and what the rate is compared
//! with. [`measure`] runs it with the programs of [`program`] by turns; [`report`] makes one table of all rows.

pub mod instructions;
pub mod latency;
pub mod machine;
pub mod measure;
pub mod pipeline;
pub mod plot;
pub mod program;
pub mod report;
pub mod row;
pub mod site;
pub mod sources;
pub mod sweep;
pub mod traffic;
