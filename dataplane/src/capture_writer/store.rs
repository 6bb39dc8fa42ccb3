//! The folder of captures: what is in it never takes more than its quota, and nothing in it is older than the retention.
//!
//! Of each capture there is `TIME-TARGET.pcapng` and `TIME-TARGET.json`. While one is being written it is
//! `TIME-TARGET.pcapng.partial`, and counts with all that it may become; so the quota holds at any time. Files of other names
//! are nobody's business here.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use levee_api::prefix::Prefix;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::description::{Description, Truncated};
use super::utc;
use crate::capture_file::pcapng_blocks;
use crate::files::FileError;

const CAPTURE: &str = ".pcapng";
const PARTIAL: &str = ".pcapng.partial";
const DESCRIPTION: &str = ".json";
/// Captures hold personal data: nothing for others, and nothing but the group may read.
const FILE_MODE: u32 = 0o640;
const FOLDER_MODE: u32 = 0o750;

/// Why a capture cannot begin.
#[derive(Debug, Error)]
pub enum CreateError {
    /// Captures that are being written may take all there is.
    #[error("the quota of {quota} bytes is taken by captures that are being written")]
    Full {
        /// The quota.
        quota: u64,
    },
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The folder.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    quota: u64,
    retention: Duration,
    /// Oldest first.
    sealed: VecDeque<Sealed>,
    used: u64,
    reserved: u64,
}

#[derive(Debug)]
struct Sealed {
    stem: String,
    begin: SystemTime,
    bytes: u64,
}

/// A capture that is being written.
#[derive(Debug)]
pub struct Begun {
    stem: String,
    begin: SystemTime,
    reserved: u64,
    /// Its file, empty at first.
    pub file: File,
}

impl Begun {
    /// Name of its file, once it is complete.
    pub fn file_name(&self) -> String {
        format!("{}{CAPTURE}", self.stem)
    }
}

impl Store {
    /// Looks at what there is: seals what a crash left unsealed, and deletes what is too old or too much.
    pub fn open(folder: PathBuf, quota: u64, retention: Duration, wall: SystemTime) -> Self {
        let mut store = Self { folder, quota, retention, sealed: VecDeque::new(), used: 0, reserved: 0 };
        if let Err(error) = store.look(wall) {
            tracing::warn!("{error}");
        }
        store.sweep(wall);
        if let Err(error) = store.make_room(0) {
            tracing::warn!("{error}");
        }
        store
    }

    /// Begins the capture of a target, and deletes the oldest ones that are sealed if there is no room for its `budget` of
    /// bytes, description included.
    ///
    /// # Errors
    /// When there is no room, or the system refuses. Then there is nothing of it on disk.
    pub fn create(
        &mut self,
        target: &Prefix,
        begin: SystemTime,
        budget: u64,
        description: &Description,
    ) -> Result<Begun, CreateError> {
        self.make_room(budget)?;
        let stem = stem(target, begin);
        let path = self.path(&stem, PARTIAL);
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(&self.folder)
            .map_err(failed("make the directory", &self.folder))?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&path)
            .map_err(failed("create", &path))?;
        // The umask may have taken the group's right away.
        let described = file
            .set_permissions(Permissions::from_mode(FILE_MODE))
            .map_err(failed("set the permissions of", &path))
            .and_then(|()| description.write(&self.path(&stem, DESCRIPTION)));
        if let Err(error) = described {
            // What cannot be removed either is found at the next start.
            let _ = self.remove(&stem);
            return Err(error.into());
        }
        self.reserved += budget;
        Ok(Begun { stem, begin, reserved: budget, file })
    }

    /// Makes a capture complete: cuts its file to the `length` that was written whole and gives it its name.
    ///
    /// # Errors
    /// When the system refuses; what there is of it still counts, and is sealed at the next start.
    pub fn seal(&mut self, begun: Begun, length: u64, description: &Description) -> Result<(), FileError> {
        let Begun { stem, begin, reserved, file } = begun;
        self.reserved -= reserved;
        let sealed = self.complete(&stem, &file, length, description);
        self.count(stem, begin);
        sealed
    }

    /// Deletes what is too old.
    pub fn sweep(&mut self, wall: SystemTime) {
        let retention = self.retention;
        let over = |sealed: &Sealed| wall.duration_since(sealed.begin).is_ok_and(|age| age >= retention);
        while self.sealed.front().is_some_and(over) {
            if let Err(error) = self.remove_oldest() {
                tracing::warn!("{error}");
                return;
            }
        }
    }

    /// Bytes that all captures take, those being written with all that they may become.
    pub fn bytes(&self) -> u64 {
        self.used + self.reserved
    }

    /// Where a capture is being written.
    pub fn partial(&self, begun: &Begun) -> PathBuf {
        self.path(&begun.stem, PARTIAL)
    }

    fn make_room(&mut self, budget: u64) -> Result<(), CreateError> {
        while self.bytes() + budget > self.quota {
            if self.sealed.is_empty() {
                return Err(CreateError::Full { quota: self.quota });
            }
            self.remove_oldest()?;
        }
        Ok(())
    }

    /// What cannot be deleted stays and counts.
    fn remove_oldest(&mut self) -> Result<(), FileError> {
        let Some(oldest) = self.sealed.pop_front() else { return Ok(()) };
        match self.remove(&oldest.stem) {
            Ok(()) => {
                self.used -= oldest.bytes;
                Ok(())
            }
            Err(error) => {
                self.sealed.push_front(oldest);
                Err(error)
            }
        }
    }

    fn remove(&self, stem: &str) -> Result<(), FileError> {
        // The description last: what is left of a removal that was interrupted can still be told.
        for suffix in [CAPTURE, PARTIAL, DESCRIPTION] {
            let path = self.path(stem, suffix);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("delete", &path)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    fn complete(&self, stem: &str, file: &File, length: u64, description: &Description) -> Result<(), FileError> {
        let (partial, named) = (self.path(stem, PARTIAL), self.path(stem, CAPTURE));
        file.set_len(length).and_then(|()| file.sync_all()).map_err(failed("write", &partial))?;
        fs::rename(&partial, &named).map_err(failed("rename", &partial))?;
        // Replaces the one that says it is being written, and syncs the folder.
        description.write(&self.path(stem, DESCRIPTION))
    }

    /// Takes a capture that is on disk into account.
    fn count(&mut self, stem: String, begin: SystemTime) {
        let length = |suffix| fs::metadata(self.path(&stem, suffix)).map_or(0, |metadata| metadata.len());
        let bytes = [CAPTURE, PARTIAL, DESCRIPTION].map(length).iter().sum();
        self.used += bytes;
        let after = self.sealed.partition_point(|other| (other.begin, &other.stem) <= (begin, &stem));
        self.sealed.insert(after, Sealed { stem, begin, bytes });
    }

    fn look(&mut self, wall: SystemTime) -> Result<(), FileError> {
        let fail = || failed("look into", &self.folder);
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(fail())?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(fail())?.file_name();
            let name = name.to_string_lossy();
            let known = [PARTIAL, CAPTURE, DESCRIPTION].iter().find_map(|suffix| name.strip_suffix(suffix));
            if let Some((stem, begin)) = known.and_then(|stem| Some((stem, utc::parse_stamp(stem)?))) {
                found.push((begin, stem.to_owned()));
            }
        }
        found.sort();
        found.dedup();
        for (begin, stem) in found {
            if self.path(&stem, PARTIAL).exists()
                && let Err(error) = self.recover(&stem, wall)
            {
                tracing::warn!("a capture from before the restart is incomplete: {error}");
            }
            self.count(stem, begin);
        }
        Ok(())
    }

    /// Seals what a process that was killed had begun.
    fn recover(&self, stem: &str, wall: SystemTime) -> Result<(), FileError> {
        let path = self.path(stem, PARTIAL);
        let mut file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed("open", &path))?;
        let (length, packets) = pcapng_blocks::sound_part(&mut file).map_err(failed("read", &path))?;
        let mut description = Description::read(&self.path(stem, DESCRIPTION)).unwrap_or_default();
        description.packets = packets;
        description.bytes = length;
        description.truncated = Some(Truncated::Interrupted);
        description.sealed = true;
        description.sealed_at = Some(utc::rfc3339(wall));
        let mut hash = Sha256::new();
        let read = io::Seek::rewind(&mut file)
            .and_then(|()| io::copy(&mut io::Read::take(&mut file, length), &mut hash))
            .map_err(failed("read", &path))?;
        debug_assert_eq!(read, length, "nobody else writes to it");
        description.sha256 = Some(hexadecimal(hash));
        self.complete(stem, &file, length, &description)
    }

    fn path(&self, stem: &str, suffix: &str) -> PathBuf {
        self.folder.join(format!("{stem}{suffix}"))
    }
}

/// A hash as people write it.
pub(super) fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stem(target: &Prefix, begin: SystemTime) -> String {
    let address = target.address().to_string().replace(':', "-");
    let length = if target.is_host() { String::new() } else { format!("_{}", target.length()) };
    format!("{}-{address}{length}", utc::stamp(begin))
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |reason| FileError { doing, path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;
    use std::time::UNIX_EPOCH;

    use tempfile::TempDir;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const KIB: u64 = 1 << 10;

    fn day(number: u32) -> SystemTime {
        UNIX_EPOCH + 20_000 * DAY + number * DAY
    }

    fn target(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn begin(store: &mut Store, host: &str, at: SystemTime, budget: u64) -> Result<Begun, CreateError> {
        store.create(&target(host), at, budget, &Description { target: host.to_owned(), ..Description::default() })
    }

    /// A sealed capture of about `bytes`.
    fn capture(store: &mut Store, host: &str, at: SystemTime, bytes: u64) {
        let mut begun = begin(store, host, at, bytes + KIB).unwrap();
        begun.file.write_all(&vec![7; usize::try_from(bytes).unwrap()]).unwrap();
        store
            .seal(begun, bytes, &Description { target: host.to_owned(), sealed: true, ..Description::default() })
            .unwrap();
    }

    fn names(folder: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn captures(folder: &TempDir) -> Vec<String> {
        names(folder).into_iter().filter(|name| name.ends_with(CAPTURE)).collect()
    }

    fn bytes_on_disk(folder: &TempDir) -> u64 {
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    #[test]
    fn a_capture_is_named_after_time_and_target_and_for_the_group_to_read() {
        let folder = TempDir::new().unwrap();
        let mut store = Store::open(folder.path().join("captures"), 64 * KIB, DAY, day(0));
        for host in ["203.0.113.10", "203.0.113.0/24", "2001:db8::1", "2001:db8::/48"] {
            capture(&mut store, host, day(0), KIB);
        }
        let inner = folder.path().join("captures");
        let mut found: Vec<_> = fs::read_dir(&inner).unwrap().map(|entry| entry.unwrap()).collect();
        found.sort_by_key(fs::DirEntry::file_name);
        let pcapng: Vec<_> = found.iter().filter(|entry| entry.path().extension().unwrap() == "pcapng").collect();
        let expected = ["2001-db8--1", "2001-db8--_48", "203.0.113.0_24", "203.0.113.10"];
        let named: Vec<String> = pcapng.iter().map(|entry| entry.file_name().into_string().unwrap()).collect();
        assert_eq!(named, expected.map(|name| format!("20241004T000000.000Z-{name}.pcapng")));
        assert!(found.iter().all(|entry| entry.metadata().unwrap().mode() & 0o777 == 0o640));
        assert_eq!(fs::metadata(&inner).unwrap().mode() & 0o027, 0);
    }

    #[test]
    fn the_oldest_captures_make_room_and_the_quota_always_holds() {
        const QUOTA: u64 = 20 * KIB;
        let folder = TempDir::new().unwrap();
        let mut store = Store::open(folder.path().to_owned(), QUOTA, 365 * DAY, day(0));
        for number in 0..12 {
            capture(&mut store, &format!("203.0.113.{number}"), day(number), 4 * KIB);
            assert!(store.bytes() <= QUOTA && bytes_on_disk(&folder) <= QUOTA, "{}", store.bytes());
        }
        let left: Vec<SystemTime> = captures(&folder).iter().map(|name| utc::parse_stamp(name).unwrap()).collect();
        assert_eq!(left, (8..12).map(day).collect::<Vec<_>>());
        assert_eq!(names(&folder).len(), 8, "and a description of each");
        // Started again with a smaller quota.
        let store = Store::open(folder.path().to_owned(), 10 * KIB, 365 * DAY, day(12));
        assert_eq!(captures(&folder).len(), 2);
        assert_eq!(store.bytes(), bytes_on_disk(&folder));
    }

    #[test]
    fn what_is_being_written_is_never_deleted_and_counts_with_its_budget() {
        let folder = TempDir::new().unwrap();
        let mut store = Store::open(folder.path().to_owned(), 20 * KIB, DAY, day(0));
        let first = begin(&mut store, "203.0.113.1", day(0), 8 * KIB).unwrap();
        let second = begin(&mut store, "203.0.113.2", day(0), 8 * KIB).unwrap();
        let refused = begin(&mut store, "203.0.113.3", day(5), 8 * KIB).unwrap_err();
        assert_eq!(refused.to_string(), "the quota of 20480 bytes is taken by captures that are being written");
        store.sweep(day(9));
        assert_eq!(names(&folder).len(), 4);
        store.seal(first, 0, &Description::default()).unwrap();
        begin(&mut store, "203.0.113.3", day(5), 8 * KIB).unwrap();
        store.seal(second, 0, &Description::default()).unwrap();
    }

    #[test]
    fn captures_are_deleted_when_their_time_is_over_and_other_files_are_left_alone() {
        let folder = TempDir::new().unwrap();
        let mut store = Store::open(folder.path().to_owned(), 1 << 20, 3 * DAY, day(0));
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        for number in 0..3 {
            capture(&mut store, "203.0.113.1", day(number), KIB);
        }
        store.sweep(day(3) - Duration::from_secs(1));
        assert_eq!(captures(&folder).len(), 3);
        store.sweep(day(3));
        assert_eq!(captures(&folder).len(), 2);
        store.sweep(day(100));
        assert_eq!((names(&folder), store.bytes()), (vec!["notes.txt".to_owned()], 0));
        capture(&mut store, "203.0.113.1", day(100), KIB);
        Store::open(folder.path().to_owned(), 1 << 20, Duration::ZERO, day(100));
        assert_eq!(names(&folder), ["notes.txt"], "retention 0 keeps nothing");
    }

    #[test]
    fn what_a_crash_left_is_sealed_at_the_next_start() {
        let folder = TempDir::new().unwrap();
        let mut store = Store::open(folder.path().to_owned(), 1 << 20, DAY, day(0));
        let mut begun = begin(&mut store, "203.0.113.1", day(0), 8 * KIB).unwrap();
        let mut sound = Vec::new();
        pcapng_blocks::section_header(&mut sound, "test", "cut");
        begun.file.write_all(&[sound.as_slice(), &[6, 0, 0, 0, 200]].concat()).unwrap();
        drop((begun, store));
        Store::open(folder.path().to_owned(), 1 << 20, DAY, day(0));
        let [json, pcapng] = &names(&folder)[..] else { panic!("{:?}", names(&folder)) };
        assert_eq!(fs::read(folder.path().join(pcapng)).unwrap(), sound);
        let description = Description::read(&folder.path().join(json)).unwrap();
        assert_eq!((description.target.as_str(), description.sealed), ("203.0.113.1", true));
        assert_eq!((description.truncated, description.bytes), (Some(Truncated::Interrupted), sound.len() as u64));
        let mut hash = Sha256::new();
        hash.update(&sound);
        assert_eq!(description.sha256, Some(hexadecimal(hash)));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named_and_nothing_stays_reserved() {
        let mut store = Store::open("/proc/levee/captures".into(), 1 << 20, DAY, day(0));
        let error = begin(&mut store, "203.0.113.1", day(0), KIB).unwrap_err();
        assert!(error.to_string().contains("/proc/levee/captures"), "{error}");
        assert_eq!(store.bytes(), 0);
    }
}
