//! Everything that decides about packets, without DPDK: it runs under miri, loom and fuzzers, in replay and in tests
//! exactly as it does live.
//!
//! * [`packet`]: bytes to header lanes. * [`filter`]: boxes compiled to tables, limiters.
//! * [`target`]: zones, hosts, counters and memories. * [`pipeline`]: the data path, one burst on one page.
//! * [`detect`]: thresholds, witnesses, signatures. * [`reflex`]: from a finding to filters.
//! * [`challenge`]: answers in the place of a server. * [`generation`]: immutable tables handed to workers without locks.
//! * [`capture`]: copies of packets around an attack, from before it was noticed.

#![deny(clippy::indexing_slicing)]

pub mod capture;
pub mod challenge;
pub mod detect;
pub mod engine;
pub mod filter;
pub mod generation;
pub mod isa;
pub mod link;
pub mod packet;
pub mod pipeline;
pub mod reflex;
pub mod sample;
pub mod sealed;
pub mod tables;
pub mod target;
pub mod verdict;

pub use levee_api::time;
