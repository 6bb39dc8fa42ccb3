//! The contract between the planes, the shared vocabulary and the configuration schema.
//!
//! The vocabulary (this crate without features) is what both planes and the engine speak:
//! [`prefix::Prefix`], [`zone::Zone`], [`role::Role`], [`vector::Vector`], and a filter as a region of
//! header space ([`filter::HeaderBox`] over the [`lane::Lane`]s).

pub mod address_set;
#[cfg(feature = "config")]
pub mod config;
pub mod filter;
#[cfg(feature = "grpc")]
pub mod grpc;
pub mod kill_switch;
pub mod lane;
pub mod overlap;
pub mod prefix;
pub mod regular_file;
pub mod role;
pub mod time;
pub mod vector;
pub mod zone;
