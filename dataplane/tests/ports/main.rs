//! `levee-dataplane` as a process, between real network stacks and on files. Traffic stays in namespaces that each test
//! makes for itself; memory is "no-huge", so that the tests run beside each other on every machine.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says why and fails")]

mod errors;
mod forwarding;
mod kill_switch;
mod lab;
mod lifecycle;
mod policy;
mod restart;
