//! `kill -9` at random moments: of a process that writes to the store, and of the whole control plane under load.
//! `LEVEE_KILLS` says how often; a handful unless it is set.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails where it stands")]

mod control_plane;
mod store;

#[path = "../contract/world.rs"]
#[expect(dead_code, reason = "the tests of the contract use the rest")]
mod world;

fn kills() -> u64 {
    std::env::var("LEVEE_KILLS").map_or(5, |kills| kills.parse().unwrap())
}
