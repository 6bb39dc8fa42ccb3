//! The store on disk when its file is torn, foreign, gone, too new, or the disk is full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use rusqlite::Connection;

use super::behaviour::{NOON, contents_of, entry, incident, mitigation};
use super::{Beginning, SqliteStore, Store, StoreError, Write, back_up, restore, take_if_due};
use crate::ledger::{Id, MitigationId, State};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn file(folder: &Path) -> PathBuf {
    folder.join("store.sqlite")
}

/// A store with so many mitigations, as a process that was killed leaves it: with its log.
fn left_behind(folder: &Path, mitigations: u64) {
    let (mut store, _) = SqliteStore::open(folder, NOON).unwrap();
    for id in 0..mitigations {
        store.commit(&[Write::PutMitigation(mitigation(id, State::Active)), Write::PutNextId(Id(id + 1))]).unwrap();
    }
}

fn aside_of(beginning: Beginning) -> (Option<PathBuf>, Option<PathBuf>) {
    match beginning {
        Beginning::FromBackup { backup, aside, .. } => (Some(backup), aside),
        Beginning::Empty { aside, .. } => (None, aside),
        other => panic!("{other:?}"),
    }
}

type Damage = fn(&Path);

/// What power cuts, bad disks and people do to a file.
const DAMAGES: [(&str, Damage); 5] = [
    ("torn in the middle", |path| {
        let length = fs::metadata(path).unwrap().len();
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length / 2 + 100).unwrap();
    }),
    ("garbage", |path| fs::write(path, vec![0xa5; 70_000]).unwrap()),
    ("text", |path| fs::write(path, "not a database\n".repeat(500)).unwrap()),
    ("pages overwritten", |path| {
        let mut bytes = fs::read(path).unwrap();
        bytes.iter_mut().skip(4_096).for_each(|byte| *byte = 0xff);
        fs::write(path, bytes).unwrap();
    }),
    ("another program's", |path| {
        fs::remove_file(path).unwrap();
        Connection::open(path)
            .unwrap()
            .execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)")
            .unwrap();
    }),
];

#[test]
fn a_damaged_file_is_kept_aside_and_an_empty_store_begun_when_there_is_no_backup() {
    for (name, damage) in DAMAGES {
        let folder = tempfile::tempdir().unwrap();
        left_behind(folder.path(), 200);
        damage(&file(folder.path()));
        let damaged = fs::read(file(folder.path())).unwrap();
        let (mut store, beginning) = SqliteStore::open(folder.path(), NOON + DAY).unwrap();
        let (backup, aside) = aside_of(beginning);
        let aside = aside.unwrap();
        assert_eq!(
            (backup, aside.file_name().unwrap().to_str().unwrap()),
            (None, "store.sqlite.damaged-19700102T000000Z")
        );
        assert_eq!(fs::read(&aside).unwrap(), damaged, "{name}: kept as it was");
        assert_eq!(store.load().unwrap(), Default::default(), "{name}");
        store.commit(&[Write::PutIncident(incident(1, 1))]).unwrap();
        drop(store);
        assert_eq!(SqliteStore::open(folder.path(), NOON).unwrap().1, Beginning::Continued);
    }
}

#[test]
fn a_damaged_file_is_replaced_by_the_newest_good_backup_and_ids_are_not_given_again() {
    for (name, damage) in DAMAGES {
        let folder = tempfile::tempdir().unwrap();
        left_behind(folder.path(), 5);
        let good = take_if_due(folder.path(), NOON).unwrap().unwrap();
        left_behind(folder.path(), 50);
        let bad = folder.path().join("backups/store-99990101T000000Z.sqlite");
        fs::write(&bad, "the disk was full when this was made").unwrap();
        damage(&file(folder.path()));
        let (mut store, beginning) = SqliteStore::open(folder.path(), NOON + DAY).unwrap();
        let (backup, aside) = aside_of(beginning);
        assert_eq!((backup, aside.is_some()), (Some(good), true), "{name}");
        let contents = store.load().unwrap();
        assert_eq!(contents.mitigations.len(), 5);
        assert!(contents.restored, "so that ids go on far beyond its own");
    }
}

#[test]
fn a_file_that_is_gone_or_empty_is_a_first_start_only_without_backups() {
    let changes: [Damage; 2] = [|path| fs::remove_file(path).unwrap(), |path| fs::write(path, "").unwrap()];
    for change in changes {
        let folder = tempfile::tempdir().unwrap();
        left_behind(folder.path(), 3);
        change(&file(folder.path()));
        let (mut store, beginning) = SqliteStore::open(folder.path(), NOON).unwrap();
        assert_eq!((beginning, store.load().unwrap()), (Beginning::New, Default::default()));
        drop(store);
        left_behind(folder.path(), 3);
        take_if_due(folder.path(), NOON).unwrap().unwrap();
        change(&file(folder.path()));
        let (mut store, beginning) = SqliteStore::open(folder.path(), NOON).unwrap();
        assert!(matches!(beginning, Beginning::FromBackup { .. }), "{beginning:?}");
        assert_eq!(store.load().unwrap().mitigations.len(), 3);
    }
}

#[test]
fn a_log_that_is_torn_loses_its_last_write_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let (mut store, _) = SqliteStore::open(folder.path(), NOON).unwrap();
    let mut whole = Vec::new();
    for id in 0..8 {
        store
            .commit(&[Write::PutMitigation(mitigation(id, State::Active)), Write::AppendTimeline(entry(1, 0))])
            .unwrap();
        whole.push(fs::metadata(file(folder.path()).with_extension("sqlite-wal")).unwrap().len());
    }
    let log = fs::read(file(folder.path()).with_extension("sqlite-wal")).unwrap();
    let main = fs::read(file(folder.path())).unwrap();
    // As a process that is killed, or a machine that loses power, leaves both files.
    for length in (0..=log.len()).step_by(1_000).chain([log.len()]) {
        fs::write(file(copy.path()), &main).unwrap();
        fs::write(file(copy.path()).with_extension("sqlite-wal"), &log[..length]).unwrap();
        let _ = fs::remove_file(file(copy.path()).with_extension("sqlite-shm"));
        let contents = contents_of(copy.path());
        let complete = whole.iter().filter(|end| **end <= length as u64).count();
        assert_eq!(contents.mitigations.len(), complete, "{length} of {} bytes", log.len());
        assert_eq!(contents.timeline.len(), usize::from(complete > 0), "a batch is whole or not at all");
    }
}

#[test]
fn a_file_of_a_later_version_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    left_behind(folder.path(), 1);
    Connection::open(file(folder.path())).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = SqliteStore::open(folder.path(), NOON).unwrap_err();
    let StoreError::Failed(text) = &error else { panic!("{error}") };
    assert!(text.contains("schema 99") && text.contains("put back a backup"), "{text}");
    assert!(file(folder.path()).exists());
}

#[test]
fn a_record_that_cannot_be_read_is_left_out_and_stays_and_the_kill_switch_is_never_guessed() {
    let folder = tempfile::tempdir().unwrap();
    left_behind(folder.path(), 2);
    let sql = |sql: &str| Connection::open(file(folder.path())).unwrap().execute(sql, []).unwrap();
    sql("UPDATE record SET value = '{\"id\":1}' WHERE kind = 'mitigation' AND key LIKE '%1'");
    sql("INSERT INTO record VALUES ('prophecy', 'x', '{}')");
    assert_eq!(contents_of(folder.path()).mitigations.len(), 1);
    assert_eq!(sql("DELETE FROM record WHERE kind = 'prophecy'"), 1, "it is still there");
    sql("INSERT INTO record VALUES ('kill_switch', '', '{}')");
    let error = SqliteStore::open(folder.path(), NOON).unwrap().0.load().unwrap_err();
    assert!(matches!(&error, StoreError::Damaged(text) if text.contains("kill_switch")), "{error}");
}

#[test]
fn a_file_that_is_no_copy_leaves_no_trace() {
    let place = tempfile::tempdir().unwrap();
    let (folder, bad) = (place.path().join("state/controlplane"), place.path().join("bad.sqlite"));
    std::fs::write(&bad, "no store").unwrap();
    for from in [&bad, &place.path().join("missing.sqlite")] {
        restore(&folder, from, NOON).unwrap_err();
        assert!(!place.path().join("state").exists());
    }
}

#[test]
fn a_backup_of_a_running_store_is_whole_and_restored_only_while_it_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("copy.sqlite");
    assert!(back_up(folder.path(), &copy).unwrap_err().to_string().contains("there is no store"));
    let (mut store, _) = SqliteStore::open(folder.path(), NOON).unwrap();
    store.commit(&[Write::PutMitigation(mitigation(1, State::Active)), Write::PutNextId(Id(2))]).unwrap();
    back_up(folder.path(), &copy).unwrap();
    assert!(back_up(folder.path(), &copy).unwrap_err().to_string().contains("exists already"));
    store.commit(&[Write::PutMitigation(mitigation(2, State::Active))]).unwrap();
    let in_use = restore(folder.path(), &copy, NOON).unwrap_err().to_string();
    assert!(in_use.contains(&format!("process {}", std::process::id())), "{in_use}");
    drop(store);

    let nonsense = elsewhere.path().join("nonsense");
    fs::write(&nonsense, "nonsense").unwrap();
    for path in [&nonsense, &elsewhere.path().join("nothing")] {
        restore(folder.path(), path, NOON).unwrap_err();
        assert_eq!(contents_of(folder.path()).mitigations.len(), 2, "nothing has changed");
    }
    let aside = restore(folder.path(), &copy, NOON).unwrap().unwrap();
    assert!(aside.exists());
    let contents = contents_of(folder.path());
    assert_eq!(contents.mitigations.keys().map(|id| id.0).collect::<Vec<_>>(), [1]);
    assert!(contents.restored);
    // Twice in one second: nothing that is kept aside is overwritten.
    assert_ne!(restore(folder.path(), &copy, NOON).unwrap().unwrap(), aside);
    let left: Vec<_> = fs::read_dir(elsewhere.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_copy_is_taken_every_day_and_a_week_of_them_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    left_behind(folder.path(), 1);
    // Copies carry the time of the file system; only how much later it is counts.
    let start = SystemTime::now();
    let mut taken = Vec::new();
    for hours in (0..9 * 24).step_by(6) {
        let now = start + Duration::from_secs(hours * 3_600);
        if let Some(copy) = take_if_due(folder.path(), now).unwrap() {
            fs::File::open(&copy).unwrap().set_modified(now).unwrap();
            taken.push(copy);
        }
    }
    assert_eq!(taken.len(), 9);
    assert_eq!(super::backup::newest_first(folder.path()), taken.iter().rev().take(7).cloned().collect::<Vec<_>>());
}

/// A file system of a few megabytes, gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(megabytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "levee-test"]).arg(folder.path()).output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(folder)),
            failed => {
                eprintln!("skipped: a small disk cannot be mounted, which needs root: {failed:?}");
                None
            }
        }
    }
}

/// Leaves no room on the disk of a file.
fn fill_up(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    while std::io::Write::write_all(&mut file, &[7; 65_536]).is_ok() {}
    while std::io::Write::write_all(&mut file, &[7; 512]).is_ok() {}
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn on_a_full_disk_the_ballast_makes_room_then_commits_fail_and_then_work_again() {
    let Some(disk) = SmallDisk::new(160) else { return };
    let folder = disk.0.path().join("controlplane");
    let (mut store, _) = SqliteStore::open(&folder, NOON).unwrap();
    assert_eq!(fs::metadata(folder.join("ballast")).unwrap().len(), 64 << 20);
    store.commit(&[Write::PutMitigation(mitigation(0, State::Active))]).unwrap();
    // Something else fills the disk, captures for one.
    let fill = |name: &str| fill_up(&disk.0.path().join(name));
    fill("first");
    for id in 1..50 {
        store.commit(&[Write::PutMitigation(mitigation(id, State::Active))]).unwrap();
    }
    assert!(!folder.join("ballast").exists(), "it was given up");
    store.maintain();
    assert!(!folder.join("ballast").exists(), "and is not taken back while there is no room");
    fill("second");
    let mut id = 50;
    let error = loop {
        assert!(id < 5_000, "a full disk takes everything");
        match store.commit(&[Write::PutMitigation(mitigation(id, State::Active))]) {
            Ok(()) => id += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full(_)), "{error:?}");
    assert_eq!(store.load().unwrap().mitigations.len() as u64, id, "reading goes on, and nothing of the last is there");
    // A process that starts on a full disk finds everything.
    drop(store);
    let (mut store, beginning) = SqliteStore::open(&folder, NOON).unwrap();
    assert_eq!((beginning, store.load().unwrap().mitigations.len() as u64), (Beginning::Continued, id));
    fs::remove_file(disk.0.path().join("first")).unwrap();
    fs::remove_file(disk.0.path().join("second")).unwrap();
    store.commit(&[Write::PutMitigation(mitigation(id, State::Active))]).unwrap();
    store.maintain();
    assert_eq!(fs::metadata(folder.join("ballast")).unwrap().len(), 64 << 20);
    assert_eq!(store.load().unwrap().mitigations.len() as u64, id + 1);
}

#[test]
fn a_copy_that_does_not_fit_changes_nothing_and_what_a_killed_restore_left_is_told() {
    let Some(disk) = SmallDisk::new(16) else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let (folder, copy, fill) =
        (disk.0.path().join("controlplane"), elsewhere.path().join("copy.sqlite"), disk.0.path().join("fill"));
    left_behind(&folder, 300);
    back_up(&folder, &copy).unwrap();
    let there = || {
        let mut names: Vec<_> = fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    let before = there();
    fill_up(&fill);
    let error = restore(&folder, &copy, NOON).unwrap_err();
    assert!(error.is_full(), "{error}");
    fs::remove_file(&fill).unwrap();
    assert_eq!(there(), before);
    assert_eq!(contents_of(&folder).mitigations.len(), 300);

    // As a restore leaves it that is killed between its two renames.
    fs::rename(file(&folder), folder.join("store.sqlite.damaged-20261130T222051Z")).unwrap();
    fs::write(folder.join("store.sqlite.draft"), "half").unwrap();
    let (_store, beginning) = SqliteStore::open(&folder, NOON).unwrap();
    let (_, aside) = aside_of(beginning);
    assert!(aside.unwrap().ends_with("store.sqlite.damaged-20261130T222051Z"));
    assert!(!folder.join("store.sqlite.draft").exists());
}

#[test]
fn a_backup_that_does_not_fit_is_waited_for_and_no_empty_store_begun() {
    let Some(disk) = SmallDisk::new(16) else { return };
    let (folder, fill) = (disk.0.path().join("controlplane"), disk.0.path().join("fill"));
    left_behind(&folder, 300);
    let backup = take_if_due(&folder, NOON).unwrap().unwrap();
    fs::write(file(&folder), vec![0xa5; 70_000]).unwrap();
    fill_up(&fill);
    let error = SqliteStore::open(&folder, NOON).unwrap_err();
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    assert_eq!(fs::metadata(file(&folder)).unwrap().len(), 70_000, "it is where it was");
    fs::remove_file(&fill).unwrap();
    let (mut store, beginning) = SqliteStore::open(&folder, NOON).unwrap();
    let (from, aside) = aside_of(beginning);
    assert_eq!((from, aside.is_some()), (Some(backup), true));
    assert_eq!(store.load().unwrap().mitigations.len(), 300);
}

#[test]
fn what_is_withdrawn_on_a_full_disk_stays_withdrawn_over_a_restart() {
    let Some(disk) = SmallDisk::new(16) else { return };
    let (folder, fill) = (disk.0.path().join("controlplane"), disk.0.path().join("fill"));
    let (mut store, _) = SqliteStore::open(&folder, NOON).unwrap();
    let all: Vec<Write> = (0..100).map(|id| Write::PutMitigation(mitigation(id, State::Active))).collect();
    store.commit(&all).unwrap();
    fill_up(&fill);
    let mut id = 100;
    while store.commit(&[Write::PutMitigation(mitigation(id, State::Active))]).is_ok() {
        id += 1;
    }
    // More than are withdrawn by hand before somebody makes room.
    for withdrawn in 0..100 {
        store.note_end(MitigationId(withdrawn)).unwrap();
    }
    drop(store);
    let withdrawn = || {
        let ledger = SqliteStore::open(&folder, NOON).unwrap().0.load().unwrap().mitigations;
        ledger.into_values().filter(|entry| !entry.is_wanted()).map(|entry| entry.id.0).collect::<Vec<_>>()
    };
    assert_eq!(withdrawn(), (0..100).collect::<Vec<_>>(), "while the disk is full");
    fs::remove_file(&fill).unwrap();
    for _ in 0..2 {
        assert_eq!(withdrawn(), (0..100).collect::<Vec<_>>());
    }
    assert!(fs::read(folder.join("withdrawn")).unwrap().iter().all(|byte| *byte == 0), "the store has them now");
}

#[test]
fn a_program_that_holds_the_file_does_not_hold_up_the_one_that_writes_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = SqliteStore::open(folder.path(), NOON).unwrap();
    let other = Connection::open(file(folder.path())).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let before = std::time::Instant::now();
    let error = store.commit(&[Write::PutMitigation(mitigation(1, State::Active))]).unwrap_err();
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    assert!(matches!(&error, StoreError::Busy(text) if text.contains("end the program")), "{error}");
    assert_eq!(store.load().unwrap(), Default::default(), "reading goes on");
    other.execute_batch("ROLLBACK").unwrap();
    store.commit(&[Write::PutMitigation(mitigation(1, State::Active))]).unwrap();
}

fn turned(engaged: bool) -> Write {
    let (by, at) = (crate::actor::Actor::levee("test"), crate::clock::Now::default());
    Write::PutKillSwitch(super::KillSwitch { engaged, by, at, reason: "customers are cut off".into() })
}

#[test]
fn a_store_that_is_lost_does_not_forget_the_kill_switch() {
    for with_backup in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        left_behind(folder.path(), 3);
        if with_backup {
            take_if_due(folder.path(), NOON).unwrap().unwrap();
        }
        let engaged = || {
            let (mut store, beginning) = SqliteStore::open(folder.path(), NOON).unwrap();
            let switch = store.load().unwrap().kill_switch;
            (beginning, switch.filter(|switch| switch.engaged).map(|switch| switch.reason))
        };
        SqliteStore::open(folder.path(), NOON).unwrap().0.commit(&[turned(true)]).unwrap();
        fs::write(file(folder.path()), vec![0xa5; 70_000]).unwrap();
        let (beginning, reason) = engaged();
        assert_ne!(beginning, Beginning::Continued);
        assert_eq!(reason.as_deref(), Some("customers are cut off"), "with a backup: {with_backup}");
        SqliteStore::open(folder.path(), NOON).unwrap().0.commit(&[turned(false)]).unwrap();
        assert_eq!(engaged(), (Beginning::Continued, None));
        // What cannot be understood is not taken for released.
        fs::write(folder.path().join("kill-switch.json"), "").unwrap();
        assert!(engaged().1.unwrap().contains("cannot be understood"));
        SqliteStore::open(folder.path(), NOON).unwrap().0.commit(&[turned(false)]).unwrap();
        assert_eq!(engaged().1, None);
    }
}

#[test]
fn a_kill_switch_that_the_store_does_not_take_holds_over_a_restart_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = SqliteStore::open(folder.path(), NOON).unwrap();
    let other = Connection::open(file(folder.path())).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    store.commit(&[turned(true)]).unwrap_err();
    drop((store, other));
    let (mut store, _) = SqliteStore::open(folder.path(), NOON).unwrap();
    assert!(store.load().unwrap().kill_switch.unwrap().engaged);
}

#[test]
fn a_backup_that_takes_the_place_of_the_store_says_that_it_is_one_until_that_is_dealt_with() {
    let folder = tempfile::tempdir().unwrap();
    left_behind(folder.path(), 3);
    let backup = take_if_due(folder.path(), NOON).unwrap().unwrap();
    let restored = || SqliteStore::open(folder.path(), NOON).unwrap().0.load().unwrap().restored;
    assert!(!restored());
    for by_hand in [true, false] {
        if by_hand {
            restore(folder.path(), &backup, NOON).unwrap();
        } else {
            fs::write(file(folder.path()), vec![0xa5; 70_000]).unwrap();
        }
        assert!(restored() && restored(), "by hand: {by_hand}");
        SqliteStore::open(folder.path(), NOON).unwrap().0.commit(&[Write::PutRestored(false)]).unwrap();
        assert!(!restored());
    }
}
