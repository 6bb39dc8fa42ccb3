//! Both ends of the contract over real sockets: the dataplane's service with an owner of filters in memory behind it,
//! and the control plane, as a library and as a process.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]
#![expect(clippy::expect_used, reason = "a test fails where it stands")]
#![expect(clippy::panic, reason = "a test fails where it stands")]

mod calls;
mod filters;
mod one_shots;
mod processes;
mod world;
