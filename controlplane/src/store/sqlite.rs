//! The store on disk: one SQLite file, in WAL mode with `synchronous=FULL`, so that what was committed is there after a
//! power cut.
//!
//! ```text
//! STATE_DIR/controlplane/store.sqlite              the store (with -wal and -shm while it is open)
//!                       /store.sqlite.damaged-*    what could not be read, kept aside
//!                       /backups/store-*.sqlite    copies, made every day and when asked for
//!                       /kill-switch.json          the kill switch once more, for when the store is lost
//!                       /withdrawn                what operators ended while the store took nothing
//!                       /ballast                   64 MiB, freed when the disk is full
//!                       /lock                      held by the process that has the store open
//! ```

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, params};

use super::ballast::{self, Ballast};
use super::ends::{self, Ends};
use super::lock::{Lock, LockError};
use super::row::{self, Change, Stored};
use super::schema::{self, SchemaError};
use super::witness::Witness;
use super::{Contents, KillSwitch, Store, StoreError, Write, backup, owner};
use crate::incident::TimelineEntry;
use crate::ledger::{IncidentId, MitigationId};

/// The file's name in its folder.
pub(super) const FILE: &str = "store.sqlite";

/// A disk with less than this left is full, whatever name the error has that SQLite makes of it.
const FULL_BELOW: u64 = 1 << 20;
/// At the start an operator who looks into the file with another program is waited for.
const BUSY_AT_START: Duration = Duration::from_secs(5);
/// Later the loop of the control plane waits for no more than this: what was not stored is stored with the next attempt.
const BUSY: Duration = Duration::from_millis(50);

/// The store on disk, open.
#[derive(Debug)]
pub struct SqliteStore {
    connection: Connection,
    folder: PathBuf,
    ballast: Ballast,
    witness: Witness,
    ends: Ends,
    _lock: Lock,
}

/// How the store was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beginning {
    /// There was none: the first start.
    New,
    /// As it was left.
    Continued,
    /// It was damaged; the newest good backup is in its place. What happened since is not known: measures in force are
    /// found by their owner tags.
    FromBackup {
        /// The backup.
        backup: PathBuf,
        /// Where the damaged file is kept, if there was one.
        aside: Option<PathBuf>,
        /// What was wrong with it.
        reason: String,
    },
    /// It was damaged and there is no good backup: it is empty now.
    Empty {
        /// Where the damaged file is kept.
        aside: Option<PathBuf>,
        /// What was wrong with it.
        reason: String,
    },
}

impl SqliteStore {
    /// Opens the store in a folder, making what is missing. A damaged file is kept aside, and the newest good backup
    /// takes its place, or an empty store: [`Beginning`] says so, and the log does.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it open, others when a later version of Levee wrote it, or when the folder or the disk does not allow it.
    pub fn open(folder: &Path, now: SystemTime) -> Result<(Self, Beginning), StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| StoreError::Failed(format!("cannot make {}: {error}", folder.display())))?;
        let lock = Lock::take(folder).map_err(|error| match error {
            LockError::Held(by) => StoreError::Locked(format!("{} is in use by process {by}", folder.display())),
            LockError::Io(error) => StoreError::Failed(format!("cannot lock {}: {error}", folder.display())),
        })?;
        backup::forget_draft(folder);
        let ballast = Ballast::in_folder(folder);
        let opened = match open_or_replace(folder, now) {
            // What the last start needs is what the ballast is for.
            Err(StoreError::Full(_)) if freed(&ballast) => open_or_replace(folder, now),
            opened => opened,
        };
        let (connection, beginning) = opened?;
        connection.busy_timeout(BUSY).map_err(|error| store_error(folder, &error))?;
        tell(&beginning);
        let witness = Witness::in_folder(folder);
        let ends = Ends::in_folder(folder)
            .map_err(|error| StoreError::Failed(format!("{}: withdrawals: {error}", folder.display())))?;
        let store = Self { connection, folder: folder.to_owned(), ballast, witness, ends, _lock: lock };
        store.put_down_ballast();
        Ok((store, beginning))
    }

    /// The folder it is in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What happened in one incident, in order.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn timeline(&self, id: IncidentId) -> Result<Vec<TimelineEntry>, StoreError> {
        let read = || {
            let text = "SELECT kind, key, value FROM record WHERE kind = ?1 AND key >= ?2 AND key < ?3 ORDER BY key";
            let (kind, from, to) = row::timeline_of(id);
            let mut statement = self.connection.prepare_cached(text)?;
            let rows = statement.query_map((kind, from, to), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect::<rusqlite::Result<Vec<Stored>>>()
        };
        let rows = read().map_err(|error| store_error(&self.folder, &error))?;
        Ok(row::contents(rows)?.timeline.into_values().collect())
    }

    /// What has to be done now and then: the ballast is put down again once there is room, and the log of writes is
    /// taken into the file.
    pub fn maintain(&mut self) {
        self.put_down_ballast();
        // Readers may be in the way: what is left over is taken in the next time.
        if let Err(error) = self.connection.pragma_query(None, "wal_checkpoint(TRUNCATE)", |_| Ok(())) {
            tracing::debug!("the log of the store was not taken in: {error}");
        }
    }

    fn tell_witness(&self, turned: Option<&KillSwitch>) {
        if let Some(state) = turned
            && let Err(error) = self.witness.write(state)
        {
            let folder = self.folder.display();
            tracing::error!("{folder}: how the kill switch is cannot be written down beside the store: {error}");
        }
    }

    fn put_down_ballast(&self) {
        match self.ballast.put_down() {
            Ok(true) => {}
            Ok(false) => tracing::warn!(
                folder = %self.folder.display(),
                "too little room is left on the disk to keep 64 MiB for the ledger"
            ),
            Err(error) => tracing::warn!(folder = %self.folder.display(), "cannot keep room for the ledger: {error}"),
        }
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let written = write(&mut self.connection, changes);
        written.map_err(|error| store_error(&self.folder, &error))
    }
}

impl Store for SqliteStore {
    fn load(&mut self) -> Result<Contents, StoreError> {
        let rows = read(&self.connection).map_err(|error| store_error(&self.folder, &error))?;
        let mut contents = row::contents(rows)?;
        contents.kill_switch = self.witness.agree(contents.kill_switch, contents.restored);
        let ended = ends::end(&mut contents, self.ends.noted());
        // What does not fit yet stays noted.
        if self.commit(&ended).is_ok() {
            self.ends.forget(|_| true);
        }
        Ok(contents)
    }

    fn commit(&mut self, batch: &[Write]) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let changes = row::changes(batch)?;
        let turned = batch.iter().rev().find_map(|write| match write {
            Write::PutKillSwitch(state) => Some(state),
            _ => None,
        });
        // Whenever the process ends between the two, the switch is engaged.
        self.tell_witness(turned.filter(|state| state.engaged));
        match self.write(&changes) {
            Err(StoreError::Full(_)) if freed(&self.ballast) => self.write(&changes)?,
            outcome => outcome?,
        }
        self.tell_witness(turned.filter(|state| !state.engaged));
        if !self.ends.noted().is_empty() {
            let ended = batch.iter().filter_map(|write| match write {
                Write::PutMitigation(entry) => Some(entry.id).filter(|_| !entry.is_wanted()),
                _ => None,
            });
            let ended: BTreeSet<MitigationId> = ended.collect();
            self.ends.forget(|id| ended.contains(id));
        }
        Ok(())
    }

    fn note_kill_switch(&mut self, engaged: &KillSwitch) -> Result<(), StoreError> {
        let written = self.witness.write(engaged);
        written.map_err(|error| StoreError::Failed(format!("{}: {error}", self.folder.display())))
    }

    fn note_end(&mut self, id: MitigationId) -> Result<(), StoreError> {
        self.ends.note(id).map_err(|error| StoreError::Failed(format!("{}: {error}", self.folder.display())))
    }
}

fn write(connection: &mut Connection, changes: &[Change]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut put =
            transaction.prepare_cached("INSERT OR REPLACE INTO record (kind, key, value) VALUES (?1, ?2, ?3)")?;
        let mut delete = transaction.prepare_cached("DELETE FROM record WHERE kind = ?1 AND key = ?2")?;
        // From the prefix to what follows everything that begins so: keys are ASCII.
        let under = "DELETE FROM record WHERE kind = ?1 AND key >= ?2 AND key < ?3";
        let mut delete_under = transaction.prepare_cached(under)?;
        for change in changes {
            match change {
                Change::Put(kind, key, document) => put.execute(params![kind, key, document])?,
                Change::Delete(kind, key) => delete.execute(params![kind, key])?,
                Change::DeleteUnder(kind, prefix) => {
                    delete_under.execute(params![kind, prefix, format!("{prefix}\u{7f}")])?
                }
            };
        }
    }
    transaction.commit()
}

fn read(connection: &Connection) -> rusqlite::Result<Vec<Stored>> {
    let mut statement = connection.prepare("SELECT kind, key, value FROM record ORDER BY kind, key")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    rows.collect()
}

/// Frees the ballast, loudly; true when there was some.
fn freed(ballast: &Ballast) -> bool {
    match ballast.free() {
        Ok(true) => {
            tracing::error!("the disk is full: the 64 MiB kept for the ledger are used from now on; make room");
            true
        }
        Ok(false) => false,
        Err(error) => {
            tracing::error!("the disk is full, and the room kept for the ledger cannot be freed: {error}");
            false
        }
    }
}

impl Beginning {
    /// What was lost, if something was.
    pub fn loss(&self) -> Option<String> {
        let kept = |aside: &Option<PathBuf>| match aside {
            Some(aside) => format!("it is kept as {}", aside.display()),
            None => "nothing was left of it".to_owned(),
        };
        match self {
            Self::New | Self::Continued => None,
            Self::FromBackup { backup, aside, reason } => Some(format!(
                "the store is damaged ({reason}) and {}; going on from the backup {}: what happened since is not known",
                kept(aside),
                backup.display()
            )),
            Self::Empty { aside, reason } => Some(format!(
                "the store is damaged ({reason}) and {}; there is no good backup, going on with an empty one: \
                 what is in force elsewhere under our tag will be found and withdrawn",
                kept(aside)
            )),
        }
    }
}

fn tell(beginning: &Beginning) {
    if *beginning == Beginning::New {
        tracing::info!("a new store is begun");
    }
    if let Some(loss) = beginning.loss() {
        tracing::error!("{loss}");
    }
}

/// Why one file could not be opened.
enum OpenError {
    /// It is no store of ours, or not whole.
    Damaged(String),
    Store(StoreError),
}

fn open_or_replace(folder: &Path, now: SystemTime) -> Result<(Connection, Beginning), StoreError> {
    let path = folder.join(FILE);
    let length = match path.symlink_metadata() {
        Ok(found) => Some(found.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(StoreError::Failed(format!("{}: {error}", path.display()))),
    };
    let backups = backup::newest_first(folder);
    // What a restore that was killed has kept aside, for one.
    let left = backup::last_aside(folder).filter(|_| length.unwrap_or(0) == 0);
    // A file without anything in it is what a crash leaves behind, of the first start or of a disk that lost writes.
    if length.unwrap_or(0) == 0 && backups.is_empty() && left.is_none() {
        remove_companions(&path)?;
        return open_file(&path).map(|connection| (connection, Beginning::New)).map_err(|error| match error {
            OpenError::Damaged(reason) => StoreError::Failed(reason),
            OpenError::Store(error) => error,
        });
    }
    let reason = match length {
        None => "it is gone".to_owned(),
        Some(0) => "it is empty".to_owned(),
        Some(_) => match open_file(&path) {
            Ok(connection) => return Ok((connection, Beginning::Continued)),
            Err(OpenError::Store(error)) => return Err(error),
            Err(OpenError::Damaged(reason)) => reason,
        },
    };
    let mut aside = left;
    for backup in backups {
        let replaced = backup::replacement(&backup, &path).and_then(|replacement| replacement.put_in_place(now));
        let opened = match replaced {
            Ok(kept) => {
                aside = aside.or(kept);
                open_file(&path).map_err(|error| match error {
                    OpenError::Damaged(reason) => reason,
                    OpenError::Store(error) => error.to_string(),
                })
            }
            // To begin with nothing because a copy does not fit now would be to lose it.
            Err(error) if error.is_full() => return Err(StoreError::Full(format!("{}: {error}", backup.display()))),
            Err(error) => Err(error.to_string()),
        };
        match opened {
            Ok(connection) => return Ok((connection, Beginning::FromBackup { backup, aside, reason })),
            Err(error) => tracing::error!("the backup {} is no use: {error}", backup.display()),
        }
    }
    let kept = backup::keep_aside(&path, now);
    aside = aside.or(kept.map_err(|error| StoreError::Failed(format!("{}: {error}", path.display())))?);
    remove_companions(&path)?;
    let _ = std::fs::remove_file(&path);
    match open_file(&path) {
        Ok(connection) => Ok((connection, Beginning::Empty { aside, reason })),
        Err(OpenError::Damaged(reason)) => Err(StoreError::Failed(reason)),
        Err(OpenError::Store(error)) => Err(error),
    }
}

/// A log of writes without the file it belongs to would be taken for that of the new one.
fn remove_companions(path: &Path) -> Result<(), StoreError> {
    for companion in backup::companions(path) {
        match std::fs::remove_file(&companion) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::Failed(format!("cannot remove {}: {error}", companion.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

fn open_file(path: &Path) -> Result<Connection, OpenError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let failed = |error: rusqlite::Error| {
        if is_damage(&error) {
            OpenError::Damaged(error.to_string())
        } else {
            OpenError::Store(store_error(folder, &error))
        }
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    match owner::create(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            let text = format!("cannot make {}: {error}", path.display());
            let is_full = error.kind() == io::ErrorKind::StorageFull;
            return Err(OpenError::Store(if is_full { StoreError::Full(text) } else { StoreError::Failed(text) }));
        }
    }
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_AT_START).map_err(failed)?;
    // Whose file it is, before anything in it changes.
    schema::version(&connection).map_err(|error| match error {
        SchemaError::Sqlite(error) => failed(error),
        foreign => OpenError::Damaged(foreign.to_string()),
    })?;
    set_up(&connection).map_err(failed)?;
    schema::bring_up_to_date(&mut connection).map_err(|error| match error {
        SchemaError::Sqlite(error) => failed(error),
        foreign @ SchemaError::Foreign(_) => OpenError::Damaged(foreign.to_string()),
        newer @ SchemaError::Newer { .. } => {
            let advice = "install that version again, or put back a backup of before";
            OpenError::Store(StoreError::Failed(format!("{}: {newer}; {advice}", path.display())))
        }
    })?;
    check(&connection).map_err(failed)?.map_or(Ok(connection), |problem| Err(OpenError::Damaged(problem)))
}

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    // Damage is found when a page is read, not when what it says is believed.
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // After a burst the log does not keep its room.
    connection.pragma_update(None, "journal_size_limit", 16 << 20)
}

/// What is wrong with a file, if anything is.
pub(super) fn check(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok((found != "ok").then(|| found.lines().collect::<Vec<_>>().join("; ")))
}

pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// What an error of SQLite means for those who use the store.
pub(super) fn store_error(folder: &Path, error: &rusqlite::Error) -> StoreError {
    let is_full = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => true,
        // The file that readers and writer share cannot grow, for one.
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => {
            ballast::free_bytes(folder).is_ok_and(|free| free < FULL_BELOW)
        }
        _ => false,
    };
    let text = format!("{}: {error}", folder.join(FILE).display());
    if is_full {
        StoreError::Full(text)
    } else if is_damage(error) {
        StoreError::Damaged(text)
    } else if matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) {
        StoreError::Busy(format!("{text}; end the program that has it open for writing"))
    } else {
        StoreError::Failed(text)
    }
}
