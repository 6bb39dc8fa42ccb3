//! The core under a seeded simulation: a store, drivers, a dataplane and clocks that fail in every way that they can.
//!
//! Each seed is one life: attacks come and go while everything fails (safety: nothing unsafe ever happens), then faults
//! stop, then the attacks (liveness: everything converges). The same seed is the same life. `LEVEE_SEEDS=FIRST..LAST` runs
//! others than the default; `scripts/test lives` runs 10 000.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod bug;
mod carry_out;
mod chance;
mod check;
mod configuration;
mod dataplane;
mod life;
mod operators;
mod outcome;
mod receiver;
mod trouble;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;

use bug::Bug;
use life::{Life, live};

/// Seeds when nobody says how many: a look.
const SEEDS: std::ops::Range<u64> = 0..40;
/// A planted bug has to be found within so many.
const SEEDS_FOR_A_BUG: std::ops::Range<u64> = 0..300;

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("LEVEE_SEEDS") else { return SEEDS };
    let (first, last) = text.split_once("..").unwrap_or(("0", &text));
    first.parse().unwrap()..last.parse().unwrap()
}

#[test]
fn whatever_fails_nothing_unsafe_happens_and_afterwards_everything_converges() {
    let seeds = seeds();
    let lives = seeds.end - seeds.start;
    let next = AtomicU64::new(seeds.start);
    // Each life is one thread's, and the same on any.
    let part = || {
        let mine = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < seeds.end));
        mine.map(|seed| live(seed, None).map_err(|broken| format!("seed {seed}: {broken}"))).collect::<Vec<_>>()
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..available_parallelism().unwrap().get()).map(|_| scope.spawn(part)).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    let broken: Vec<&str> = all.iter().filter_map(|life| Some(life.as_ref().err()?.as_str())).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let sum = |of: fn(&Life) -> u64| all.iter().flatten().map(of).sum::<u64>();
    let (steps, orders, crashes) = (sum(|life| life.steps), sum(|life| life.orders), sum(|life| life.crashes));
    let climbed = sum(|life| life.climbed.into());
    println!("{lives} lives, {steps} steps, {orders} orders, {crashes} crashes, {climbed} climbed to the top");
    // A simulation in which nothing happens proves nothing.
    assert!(orders > lives && crashes > lives / 2 && climbed > lives / 2, "{lives} {orders} {crashes} {climbed}");
}

#[test]
fn the_same_seed_is_the_same_life() {
    for seed in 0..5 {
        assert_eq!(live(seed, None).unwrap().trace, live(seed, None).unwrap().trace, "seed {seed}");
    }
}

/// Plants a bug and expects the checker to name what it breaks, among what else goes wrong then: without a bug nothing does.
fn finds(bug: Bug, words: &str) {
    let mut broken = SEEDS_FOR_A_BUG.filter_map(|seed| Some((seed, live(seed, Some(bug)).err()?)));
    let Some((seed, broken)) = broken.find(|(_, broken)| broken.contains(words)) else {
        panic!("{bug:?} was not noticed as {words:?}")
    };
    println!("{bug:?}: seed {seed}: {broken}");
}

#[test]
fn a_core_without_guardrails_is_noticed() {
    finds(Bug::NoGuardrails, "guardrail");
}

#[test]
fn commands_before_their_writes_are_durable_are_noticed() {
    finds(Bug::CommandsFirst, "without a ledger entry");
}

#[test]
fn a_disk_that_loses_what_it_said_it_had_stored_is_noticed() {
    finds(Bug::Unsynced, "without a ledger entry");
}

#[test]
fn ends_that_are_never_ordered_are_noticed() {
    finds(Bug::NoWithdrawals, "past its deadline");
}

#[test]
fn orphans_that_nobody_adopts_are_noticed() {
    finds(Bug::NoAdoption, "past its deadline");
}

#[test]
fn ends_that_are_believed_without_a_look_are_noticed() {
    finds(Bug::BelievesEnds, "past its deadline");
}

#[test]
fn a_ladder_that_dead_ends_is_noticed() {
    finds(Bug::DeadEnd, "dead end");
}

#[test]
fn measures_that_a_backup_brings_back_are_noticed() {
    finds(Bug::TrustsBackups, "after its end");
}

#[test]
fn messages_that_are_never_answered_are_noticed() {
    finds(Bug::LostMessages, "messages wait");
}

#[test]
fn deadlines_that_move_with_the_wall_clock_are_noticed() {
    finds(Bug::WallClock, "past its deadline");
}

#[test]
fn answers_that_come_again_and_are_believed_are_noticed() {
    finds(Bug::BelievesRepeats, "not in force");
}

#[test]
fn ids_that_are_given_again_are_noticed() {
    finds(Bug::ReusedIds, "is given again");
}

#[test]
fn measures_that_are_begun_without_a_store_are_noticed() {
    finds(Bug::FullDisk, "without a ledger entry");
}

#[test]
fn a_kill_switch_that_is_not_obeyed_is_noticed() {
    finds(Bug::NoKillSwitch, "kill switch");
}
