//! Composed captures through `levee-dataplane replay`: what is attack and what is not is known for every packet.

#![expect(clippy::unwrap_used, reason = "a test helper that fails fails its test")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use levee_api::vector::Vector;
use levee_tests::{
    attack::Kind,
    measure::{Replay, Score, Site, threshold_pps},
    scenario::{Component, Scenario},
};

const ONSET_S: f64 = 4.5;

/// What cannot be told from clients yet, and only must not do harm.
const NOT_YET: [&str; 2] = ["tls-handshake-flood", "quic-mimic"];

#[test]
fn every_vector_is_named_and_dropped_and_conversations_are_spared() {
    let Some(program) = dataplane() else { return };
    let site = Site::learned(&program, 7, true).unwrap();
    let (kinds, complaints) = (Mutex::new(Kind::all()), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let Some(kind) = kinds.lock().unwrap().next() else { return };
            let complaint = complain(&site, kind);
            complaints.lock().unwrap().extend(complaint.map(|what| format!("{kind}: {what}")));
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    let complaints = complaints.into_inner().unwrap();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// What is wrong with how an attack of a kind was met.
fn complain(site: &Site, kind: Kind) -> Option<String> {
    let scenario = attacked(site, kind);
    let outcome = site.replay().run(&scenario).unwrap();
    let score = Score::of(&scenario, &outcome);
    let named = outcome.report["incidents"].to_string().contains(&format!("\"{}\"", kind.vector()));
    println!("{kind}: dropped after {:?}, leaked {:?}, lost {:?}", score.dropped_after, score.leaked, score.lost);
    if score.lost.part * 200 > score.lost.whole {
        return Some(format!("{:?} of legitimate packets were lost", score.lost));
    }
    if NOT_YET.contains(&kind.name()) {
        return None;
    }
    if !named {
        return Some(format!("was not named: {}", outcome.report["incidents"]));
    }
    score.dropped_after.contains(&None).then(|| format!("was not dropped: {:?} leaked", score.leaked))
}

#[test]
fn without_an_attack_nothing_is_lost() {
    let Some(program) = dataplane() else { return };
    let site = Site::learned(&program, 8, true).unwrap();
    let peace = site.peace(9, 5.0);
    let outcome = site.replay().run(&peace).unwrap();
    assert!(outcome.fates.len() > 1_000);
    assert_eq!(Score::of(&peace, &outcome).lost.part, 0);
    assert!(outcome.report["incidents"].as_array().unwrap().is_empty());
}

#[test]
fn the_same_captures_give_the_same_output_to_the_byte() {
    let Some(program) = dataplane() else { return };
    let site = Site::learned(&program, 10, true).unwrap();
    let scenario = attacked(&site, Kind::Vector(Vector::SynFlood));
    let replay = Replay { state: None, ..site.replay() };
    let [one, other] = [(); 2].map(|()| replay.run(&scenario).unwrap());
    assert_eq!((one.fates, one.report), (other.fates, other.report));
}

fn attacked(site: &Site, kind: Kind) -> Scenario {
    let mut scenario = site.peace(7, ONSET_S + if kind.needs_connections() { 4.0 } else { 1.5 });
    scenario.attacks.push(Component {
        kind,
        target: Site::target(kind).unwrap(),
        port: None,
        sources: None,
        rate_per_s: 10.0 * threshold_pps(kind),
        onset_s: ONSET_S,
        duration_s: scenario.duration_s - ONSET_S,
        answered: true,
        pulse: None,
        ramp: None,
        dwell_s: None,
    });
    scenario
}

/// The optimised program; a debug build takes too long for so many packets.
fn dataplane() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_BIN_EXE_levee-traffic")).parent().unwrap().parent().unwrap();
    let program = beside.join("release/levee-dataplane");
    if program.exists() {
        return Some(fs::canonicalize(program).unwrap());
    }
    println!("skipped: {} is missing: cargo build --release --workspace --bins", program.display());
    None
}
