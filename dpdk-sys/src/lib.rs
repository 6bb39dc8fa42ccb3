//! Raw bindings to libdpdk, generated at build time; no logic, no safe wrapper.
//!
//! The safe wrapper is `levee-dataplane`'s `dpdk` module, the only caller. What is bound is the allow-list in
//! `build.rs`; layouts are asserted at compile time by the generated code.
#![no_std]
#![allow(unsafe_code, reason = "this crate is the foreign interface")]
#![allow(missing_docs, non_camel_case_types, non_snake_case, non_upper_case_globals, reason = "the names are DPDK's")]
#![allow(clippy::all, clippy::undocumented_unsafe_blocks, reason = "generated code")]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "generated code")]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
