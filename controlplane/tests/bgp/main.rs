//! The embedded speaker against real daemons, on loopback addresses that each test has for itself. A daemon that is not
//! installed is told and left out; `scripts/setup` installs all of them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails where it stands")]

mod bird;
mod bmp;
mod by_hand;
#[path = "../simulation/chance.rs"]
mod chance;
mod crash;
mod daemon;
#[path = "../contract/world.rs"]
#[expect(dead_code, reason = "the tests of the contract use the rest")]
mod dataplane;
mod deaf;
mod diversion;
mod driver;
mod exabgp;
mod fake;
mod frr;
mod gobgp;
mod kills;
mod latency;
mod process;
mod random;
mod rendered;
mod speakers;
mod unruly;
mod world;
