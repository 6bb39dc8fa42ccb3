//! What peers may say, damaged on purpose: nothing panics, nothing that RFC 7606 tolerates ends a session, and what was read
//! is written as something that is read alike.
//!
//! Seeded and aware of the structure: [`message`] takes messages apart, damages a part and puts them together again with
//! lengths that are right, or lie. The seeds are what daemons were seen to send. By default a fixed number of rounds;
//! `LEVEE_FUZZ_MINUTES` is how long all tests together go on instead, and `LEVEE_FUZZ_SEED` where they begin.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod bmp;
#[path = "../simulation/chance.rs"]
mod chance;
mod damage;
mod message;
mod messages;
mod rules;
mod seeds;
mod sessions;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use chance::Chance;

/// Rounds of each test when nobody says how long: seconds, not optimised.
const ROUNDS: u64 = 50_000;
/// Tests that share the minutes: each of them runs this part of them.
const TESTS: u32 = 5;

/// Runs one test: `input` makes the bytes of a round, `check` looks at what becomes of them.
fn fuzz(what: &str, input: impl Fn(&mut Chance) -> Vec<u8>, mut check: impl FnMut(&[u8], &mut Chance)) {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().unwrap());
    let lasts = number("LEVEE_FUZZ_MINUTES").map(|minutes| Duration::from_secs(minutes * 60) / TESTS);
    let first = number("LEVEE_FUZZ_SEED").unwrap_or(0);
    let begun = Instant::now();
    let mut round = 0;
    while lasts.map_or(round < ROUNDS, |lasts| begun.elapsed() < lasts) {
        let seed = first + round;
        let mut chance = Chance::new(seed);
        let bytes = input(&mut chance);
        if catch_unwind(AssertUnwindSafe(|| check(&bytes, &mut chance))).is_err() {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            panic!("{what}, after {round} rounds: LEVEE_FUZZ_SEED={seed} makes {hex}");
        }
        round += 1;
    }
    println!("{what}: {round} rounds in {:.1?}", begun.elapsed());
}
