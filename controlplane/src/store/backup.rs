//! Copies of the store: made while it runs, put back while it does not.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, ErrorCode, OpenFlags, params};

use super::lock::{Lock, LockError};
use super::{owner, row, schema, sqlite};
use crate::clock::{UnixTime, nanoseconds};
use crate::utc;

/// How many of the daily copies are kept.
const KEPT: usize = 7;
/// How the names of files that were kept aside go on after that of the store.
const ASIDE: &str = ".damaged-";
/// The same for the files that SQLite keeps beside one that is open.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];
/// How often [`take_if_due`] takes one.
const EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Why there is no copy, or none was put back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is nothing to copy.
    #[error("there is no store at {}", .0.display())]
    NoStore(PathBuf),
    /// What is to be put back is no store.
    #[error("{} is not a store of Levee: {reason}", path.display())]
    NotAStore {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It would be overwritten.
    #[error("{} exists already; choose another name", .0.display())]
    Exists(PathBuf),
    /// The control plane runs.
    #[error("the control plane runs (process {by}) and would overwrite what is put back: stop it first")]
    InUse {
        /// The process that has the store open.
        by: String,
    },
    /// SQLite says no.
    #[error("{}: {error}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What it says.
        error: rusqlite::Error,
    },
    /// The system says no.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        error: io::Error,
    },
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> BackupError {
    move |error| BackupError::Io { path: path.to_owned(), error }
}

fn sqlite_error(path: &Path) -> impl Fn(rusqlite::Error) -> BackupError {
    move |error| BackupError::Sqlite { path: path.to_owned(), error }
}

/// Copies the store of a folder to a new file, whole and as of one moment, while it is in use.
///
/// # Errors
/// When there is no store, the file exists already, or the copy cannot be written or is not good.
pub fn back_up(folder: &Path, to: &Path) -> Result<(), BackupError> {
    let store = folder.join(sqlite::FILE);
    if !store.exists() {
        return Err(BackupError::NoStore(store));
    }
    if to.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(&store, flags).map_err(sqlite_error(&store))?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(sqlite_error(&store))?;
    let draft = draft_of(to);
    remove_if_there(&draft)?;
    let copied = connection.execute("VACUUM INTO ?1", params![draft.to_string_lossy()]).map_err(sqlite_error(&draft));
    let finished = copied.and_then(|_| seal(&draft)).and_then(|()| reveal(&draft, to));
    if finished.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    finished
}

/// Takes a copy into the folder's `backups/` when the newest is a day old, and forgets the oldest. The new copy, if one
/// was due.
///
/// # Errors
/// As [`back_up`].
pub fn take_if_due(folder: &Path, now: SystemTime) -> Result<Option<PathBuf>, BackupError> {
    let kept = newest_first(folder);
    let age = kept.first().and_then(|newest| newest.metadata().ok()?.modified().ok()).map(|at| now.duration_since(at));
    // A copy from the future says that the clock was wrong: one more does no harm.
    if matches!(age, Some(Ok(age)) if age < EVERY) {
        return Ok(None);
    }
    let to = backups(folder).join(format!("store-{}.sqlite", stamp(now)));
    DirBuilder::new().recursive(true).mode(0o700).create(backups(folder)).map_err(io_error(&backups(folder)))?;
    back_up(folder, &to)?;
    let drafts = entries_of(&backups(folder)).filter(|path| path.extension().is_some_and(|end| end == "draft"));
    for old in newest_first(folder).into_iter().skip(KEPT).chain(drafts) {
        std::fs::remove_file(&old).map_err(io_error(&old))?;
    }
    Ok(Some(to))
}

/// Puts a copy back in the place of the store, which is kept aside; where, if there was one. The control plane must not
/// run.
///
/// # Errors
/// When it runs, when the copy is no good store, or when there is no room for it: then nothing has changed.
pub fn restore(folder: &Path, from: &Path, now: SystemTime) -> Result<Option<PathBuf>, BackupError> {
    // First, so that a file that is no copy leaves no trace.
    verify(from)?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io_error(folder))?;
    let _lock = Lock::take(folder).map_err(|error| match error {
        LockError::Held(by) => BackupError::InUse { by },
        LockError::Io(error) => io_error(&folder.join("lock"))(error),
    })?;
    let store = folder.join(sqlite::FILE);
    replacement(from, &store)?.put_in_place(now)
}

/// The copies of a folder, the newest first: their names begin with the time.
pub(super) fn newest_first(folder: &Path) -> Vec<PathBuf> {
    let is_copy = |path: &PathBuf| path.extension().is_some_and(|end| end == "sqlite");
    let mut found: Vec<PathBuf> = entries_of(&backups(folder)).filter(is_copy).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found
}

/// Moves a file of the store aside, with the log of its writes; where to, if there was one.
pub(super) fn keep_aside(store: &Path, now: SystemTime) -> io::Result<Option<PathBuf>> {
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("it cannot be kept aside: {error}"));
    let aside = with_suffix(store, &format!("{ASIDE}{}", stamp(now)));
    let aside = (0..).map(|n| if n == 0 { aside.clone() } else { with_suffix(&aside, &format!("-{n}")) });
    let Some(aside) = { aside }.find(|path| path.symlink_metadata().is_err()) else { return Ok(None) };
    let mut moved = false;
    for (from, to) in
        [(store.to_owned(), aside.clone())].into_iter().chain(companions(store).into_iter().zip(companions(&aside)))
    {
        match std::fs::rename(&from, &to) {
            Ok(()) => moved = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    sync_folder_of(store).map_err(failed)?;
    Ok(moved.then_some(aside))
}

/// The newest file of a folder that was kept aside.
pub(super) fn last_aside(folder: &Path) -> Option<PathBuf> {
    let is_aside = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&format!("{}{ASIDE}", sqlite::FILE)) && !COMPANIONS.iter().any(|end| name.ends_with(end))
    };
    entries_of(folder).filter(is_aside).max()
}

/// A copy that is whole, checked and on the disk, beside the store whose place it can take.
#[derive(Debug)]
pub(super) struct Replacement {
    draft: PathBuf,
    store: PathBuf,
}

/// Copies a backup to beside the store, which stays as it is: only what is known to fit takes its place.
pub(super) fn replacement(backup: &Path, store: &Path) -> Result<Replacement, BackupError> {
    let replacement = Replacement { draft: draft_of(store), store: store.to_owned() };
    let draft = &replacement.draft;
    remove_if_there(draft)?;
    let mut from = File::open(backup).map_err(io_error(backup))?;
    let mut to = owner::create(draft).map_err(io_error(draft))?;
    io::copy(&mut from, &mut to).map_err(io_error(draft))?;
    mark(draft)?;
    seal(draft)?;
    Ok(replacement)
}

/// Removes what a restore that was killed has left half made. Whoever asks has the lock.
pub(super) fn forget_draft(folder: &Path) {
    let store = folder.join(sqlite::FILE);
    drop(Replacement { draft: draft_of(&store), store });
}

impl Replacement {
    /// Takes the place of the store, which is kept aside; where, if there was one.
    pub(super) fn put_in_place(self, now: SystemTime) -> Result<Option<PathBuf>, BackupError> {
        let aside = keep_aside(&self.store, now).map_err(io_error(&self.store))?;
        reveal(&self.draft, &self.store)?;
        Ok(aside)
    }
}

/// What was not put in place leaves nothing behind.
impl Drop for Replacement {
    fn drop(&mut self) {
        let _ = remove_if_there(&self.draft);
        let _ = remove_if_there(&with_suffix(&self.draft, "-journal"));
    }
}

impl BackupError {
    /// Whether room on the disk is what is missing.
    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::Sqlite { error, .. } => error.sqlite_error_code() == Some(ErrorCode::DiskFull),
            Self::Io { error, .. } => {
                matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

/// The files that SQLite keeps beside one that is open.
pub(super) fn companions(store: &Path) -> [PathBuf; 2] {
    COMPANIONS.map(|suffix| with_suffix(store, suffix))
}

/// It says of itself that it is a copy, in the same file so that no crash parts the two: what it holds to be in force may
/// have been withdrawn since, and must be looked for before anything is brought into force again; and ids have been given
/// since.
fn mark(draft: &Path) -> Result<(), BackupError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(draft, flags).map_err(sqlite_error(draft))?;
    let sql = "INSERT OR REPLACE INTO record (kind, key, value) VALUES (?1, ?2, 'true')";
    connection.execute(sql, params![row::RESTORED, row::ONLY]).map_err(sqlite_error(draft))?;
    connection.close().map_err(|(_, error)| sqlite_error(draft)(error))
}

/// A copy is checked, and on the disk, before it becomes visible.
fn seal(draft: &Path) -> Result<(), BackupError> {
    verify(draft)?;
    let file = File::open(draft).map_err(io_error(draft))?;
    file.set_permissions(Permissions::from_mode(0o600)).map_err(io_error(draft))?;
    file.sync_all().map_err(io_error(draft))
}

fn reveal(draft: &Path, to: &Path) -> Result<(), BackupError> {
    std::fs::rename(draft, to).map_err(io_error(to))?;
    sync_folder_of(to).map_err(io_error(to))
}

/// Whether a file is a whole store that this version can read.
fn verify(path: &Path) -> Result<(), BackupError> {
    let refused = |reason: String| BackupError::NotAStore { path: path.to_owned(), reason };
    path.metadata().map_err(io_error(path))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags).map_err(sqlite_error(path))?;
    match schema::version(&connection) {
        Ok(0) => return Err(refused("it is empty".to_owned())),
        Ok(version) if version > schema::VERSION => {
            return Err(refused(schema::SchemaError::Newer { found: version }.to_string()));
        }
        Ok(_) => {}
        Err(schema::SchemaError::Sqlite(error)) if !sqlite::is_damage(&error) => return Err(sqlite_error(path)(error)),
        Err(error) => return Err(refused(error.to_string())),
    }
    match sqlite::check(&connection) {
        Ok(None) => Ok(()),
        Ok(Some(problem)) => Err(refused(problem)),
        Err(error) => Err(refused(error.to_string())),
    }
}

/// What is in a folder; nothing when it is not there.
fn entries_of(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn backups(folder: &Path) -> PathBuf {
    folder.join("backups")
}

fn draft_of(path: &Path) -> PathBuf {
    with_suffix(path, ".draft")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn remove_if_there(path: &Path) -> Result<(), BackupError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path)(error)),
        _ => Ok(()),
    }
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// A time as names have it.
fn stamp(now: SystemTime) -> String {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    utc::stamp(UnixTime(nanoseconds(since)))
}
