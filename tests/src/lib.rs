//! Whole-program tests and the traffic generator.
//!
//! | module | |
//! |---|---|
//! | [`address`] | who sends: public addresses, and the rule that tells attackers from clients |
//! | [`frame`] | Ethernet frames with correct lengths and checksums |
//! | [`attack`], [`amplification`] | floods, the same for the same seed, and what servers say to them |
//! | [`system`] | how operating systems open connections |
//! | [`conversation`] | what clients and servers say to each other in peace |
//! | [`scenario`], [`capture`] | both composed into captures with labels of truth |
//! | [`measure`] | captures through `levee-dataplane replay`, and how it did by the labels |
//! | [`packet_socket`], [`send`], [`receive`] | onto a wire and off it again, with counts |
//! | [`time_bins`] | counts over time, as reports carry them |
//! | [`http`] | a real HTTP client that measures |
//! | [`allocations`] | counts what a test allocates |
//! | [`events`], [`timeline`] | what Levee said and what was measured, for people |
//!
//! Live traffic is meant for interfaces inside network namespaces; nothing here routes.

pub mod address;
pub mod allocations;
pub mod amplification;
pub mod attack;
pub mod capture;
pub mod conversation;
pub mod events;
pub mod frame;
pub mod http;
pub mod measure;
pub mod packet_socket;
mod quic;
pub mod receive;
pub mod scenario;
pub mod send;
pub mod system;
pub mod time_bins;
pub mod timeline;
