//! A process that writes to the store: what it was told to be stored is there, each batch is whole or not at all, and the next
//! start goes on.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use levee_controlplane::actor::Actor;
use levee_controlplane::clock::Now;
use levee_controlplane::incident::{TimelineEntry, TimelineKind};
use levee_controlplane::ledger::{Id, IncidentId};
use levee_controlplane::store::{Beginning, Position, SqliteStore, Store, Write};

/// Where the process that is killed has its store; set for that process only.
const FOLDER: &str = "LEVEE_KILL_FOLDER";
/// Two batches of each size, so that some take one page and some take many.
const SIZES: [u32; 4] = [1, 3, 40, 200];

/// One batch: its number in three places, and entries beside it.
fn batch(number: u64) -> Vec<Write> {
    let size = SIZES[usize::try_from(number).unwrap() % SIZES.len()];
    let entry = |index| TimelineEntry {
        incident: IncidentId(number),
        number: index,
        at: Now::default(),
        kind: TimelineKind::Note,
        text: "x".repeat(100),
        actor: Some(Actor::levee("test")),
        stage: None,
        mitigation: None,
    };
    let mut batch: Vec<Write> = (0..size).map(|index| Write::AppendTimeline(entry(index))).collect();
    batch.push(Write::PutNextId(Id(number)));
    batch.push(Write::PutPosition(Position { boot_id: "run".into(), sequence: number }));
    // The store does not grow without end.
    if let Some(old) = number.checked_sub(50) {
        batch.push(Write::DeleteIncident(IncidentId(old)));
    }
    batch
}

/// Not a test of its own: the process that is killed. It says each number once that is stored.
#[test]
fn writer() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let (mut store, _) = SqliteStore::open(Path::new(&folder), SystemTime::now()).unwrap();
    let mut number = store.load().unwrap().next_id.map_or(0, |id| id.0);
    let mut out = std::io::stdout();
    loop {
        number += 1;
        store.commit(&batch(number)).unwrap();
        writeln!(out, "stored {number}").unwrap();
        out.flush().unwrap();
    }
}

/// Runs the writer until a moment that the seed chooses, and kills it. The last number that it said.
fn run_and_kill(folder: &Path, seed: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::writer", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let random = BuildHasherDefault::<DefaultHasher>::default().hash_one(seed);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    // Some are killed while they open the store, others after some commits; then at any instruction within a commit.
    let (commits, microseconds) = (random % 8, random / 8 % 3_000);
    let number = |line: String| Some(line.split("stored ").nth(1)?.trim().parse().unwrap());
    let mut last = 0;
    if commits > 0 {
        last = lines.by_ref().filter_map(number).nth(usize::try_from(commits - 1).unwrap()).unwrap_or(0);
    }
    let until = Instant::now() + Duration::from_micros(microseconds);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said before it was killed counts too.
    lines.filter_map(number).last().unwrap_or(last).max(last)
}

#[test]
fn nothing_that_was_stored_is_lost_whenever_the_process_is_killed() {
    let kills = crate::kills();
    let folder = tempfile::tempdir().unwrap();
    let (mut said, mut ahead) = (0, 0);
    for seed in 0..kills {
        said = run_and_kill(folder.path(), seed).max(said);
        let (mut store, beginning) = SqliteStore::open(folder.path(), SystemTime::now()).unwrap();
        let expected = if said == 0 { vec![Beginning::New, Beginning::Continued] } else { vec![Beginning::Continued] };
        assert!(expected.contains(&beginning), "seed {seed}: {beginning:?}");
        let contents = store.load().unwrap();
        let stored = contents.next_id.map_or(0, |id| id.0);
        // The one it was about to say may be there, and no other.
        assert!(stored == said || stored == said + 1, "seed {seed}: said {said}, stored {stored}");
        ahead += stored - said;
        said = stored;
        assert_eq!(contents.position.map_or(0, |position| position.sequence), stored, "seed {seed}");
        for incident in stored.saturating_sub(49).max(1)..=stored {
            let size = SIZES[usize::try_from(incident).unwrap() % SIZES.len()];
            let found = contents.timeline.range((IncidentId(incident), 0)..(IncidentId(incident + 1), 0)).count();
            assert_eq!(found, usize::try_from(size).unwrap(), "seed {seed}: batch {incident} is not whole");
        }
        let first = contents.timeline.keys().next().map_or(1, |(incident, _)| incident.0);
        assert!(first >= stored.saturating_sub(49), "seed {seed}: what was deleted is back");
    }
    println!("{kills} kills, {said} batches, {ahead} stored and not yet said");
    if kills >= 100 && said < kills {
        panic!("the process was killed before it did anything: {said} batches");
    }
}
