//! The API for operators: a real client over a real socket, the real `leveectl`, a real Prometheus.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod calls;
mod core;
mod leveectl;
mod limits;
mod prometheus;
mod reference;

#[path = "../contract/world.rs"]
#[expect(dead_code, reason = "the tests of the contract use the rest")]
mod world;
