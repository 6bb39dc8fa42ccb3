//! The files of address sets: read at the start, and again when they have changed.
//!
//! All sets are taken whole or refused whole: a list that cannot be read leaves the one before it in force. Files are first
//! read with the rights of the start; later the user that the dataplane has become must be able to read them, which is said
//! once at the start when it is not so.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use levee_api::address_set::{AddressSet, SetAction};
use levee_api::prefix::Prefix;
use levee_engine::filter::SourceSets;
use levee_engine::filter::sources::list::{self, ListFault};
use levee_engine::filter::sources::{BuildError, Ranges, Set};

/// Larger files are refused: more than the most prefixes do not fit, a wrong path such as a disk image does not either.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why address sets are not what their files say.
#[derive(Debug, thiserror::Error)]
pub enum SourceFileError {
    /// No readable file.
    #[error("address set {set:?}: cannot read {}: {reason}; give a file that the dataplane's user may read", path.display())]
    Read {
        /// Name of the set.
        set: String,
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// A line that is wrong.
    #[error("address set {set:?}: {}, {fault}", path.display())]
    Line {
        /// Name of the set.
        set: String,
        /// The file.
        path: PathBuf,
        /// Which line, and why.
        fault: ListFault,
    },
    /// The sets together.
    #[error("{0}")]
    Build(#[from] BuildError),
}

/// Address sets that were read.
#[derive(Debug, Default)]
pub struct Loaded {
    /// What the workers ask.
    pub sets: Arc<SourceSets>,
    /// Prefixes and ranges of each set.
    pub counts: Vec<usize>,
}

/// Reads all files of the sets and builds what the workers ask.
///
/// # Errors
/// The first thing that is wrong.
pub fn load(described: &[AddressSet], protected: &[Prefix]) -> Result<Loaded, SourceFileError> {
    let mut sets = Vec::with_capacity(described.len());
    for set in described {
        let mut ranges: Ranges = set.prefixes.iter().copied().collect();
        for path in &set.files {
            let bytes = read(path).map_err(|reason| SourceFileError::Read {
                set: set.name.clone(),
                path: path.clone(),
                reason,
            })?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let read = list::parse(&bytes, &set.format, &name).map_err(|fault| SourceFileError::Line {
                set: set.name.clone(),
                path: path.clone(),
                fault,
            })?;
            ranges.append(read);
        }
        sets.push(Set { ranges, keeps_protected: set.action == SetAction::Pass });
    }
    let counts = sets.iter().map(|set| set.ranges.len()).collect();
    let sets = SourceSets::build(&sets, &protected.iter().copied().collect())?;
    for (bit, set) in described.iter().enumerate() {
        if sets.protected() >> bit & 1 == 1 {
            tracing::warn!("address set {:?} speaks of protected prefixes: they are left out of it", set.name);
        }
    }
    Ok(Loaded { sets: Arc::new(sets), counts })
}

/// Says what is in force.
pub fn tell(described: &[AddressSet], loaded: &Loaded) {
    for (set, count) in described.iter().zip(&loaded.counts) {
        tracing::info!("address set {:?}: {count} prefixes", set.name);
    }
    if !described.is_empty() {
        tracing::info!("address sets take {} MiB", loaded.sets.bytes() >> 20);
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

/// The thread that looks after the files. It ends when this is dropped.
#[derive(Debug)]
pub struct SourceFiles {
    ask: Sender<Ask>,
    loaded: Receiver<Loaded>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is asked.
#[derive(Debug)]
enum Ask {
    Again,
    Protect(Vec<Prefix>),
    End,
}

/// Asks for a look at the files now.
#[derive(Clone, Debug)]
pub struct LookAgain(Sender<Ask>);

impl LookAgain {
    /// Has all files read, changed or not.
    pub fn now(&self) {
        // The thread is gone only when the process is about to end.
        let _ = self.0.send(Ask::Again);
    }
}

impl SourceFiles {
    /// Starts the thread. `protected`: in no set that does not pass, whatever a list says. `seen`: the files as they were
    /// before they were first read; what has changed since is read again.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn watch(described: Vec<AddressSet>, protected: Vec<Prefix>, seen: Seen) -> io::Result<Self> {
        let ((ask, asked), (give, loaded)) = (channel(), channel());
        let thread = std::thread::Builder::new()
            .name("levee-sources".to_owned())
            .spawn(move || Watch { described, protected, seen, give }.run(&asked))?;
        Ok(Self { ask, loaded, thread: Some(thread) })
    }

    /// What asks for a look at the files.
    pub fn look_again(&self) -> LookAgain {
        LookAgain(self.ask.clone())
    }

    /// Has the sets built anew without these.
    pub fn protect(&self, prefixes: Vec<Prefix>) {
        // As above.
        let _ = self.ask.send(Ask::Protect(prefixes));
    }

    /// What was read since this was last called; never waits.
    pub fn take(&self) -> Option<Loaded> {
        self.loaded.try_iter().last()
    }
}

impl Drop for SourceFiles {
    fn drop(&mut self) {
        let _ = self.ask.send(Ask::End);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that reads address sets had panicked");
        }
    }
}

/// What is known of each file of the sets without reading it.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen(Vec<Option<FileState>>);

/// Another file, or another content, differs in some of these: inode, size, seconds and nanoseconds of the last change.
type FileState = (u64, u64, i64, i64);

/// Looks at the files of the sets.
pub fn look(described: &[AddressSet]) -> Seen {
    Seen(paths(described).map(|path| state(path)).collect())
}

fn paths(described: &[AddressSet]) -> impl Iterator<Item = &PathBuf> {
    described.iter().flat_map(|set| &set.files)
}

fn state(path: &Path) -> Option<FileState> {
    let known = std::fs::metadata(path).ok()?;
    Some((known.ino(), known.size(), known.mtime(), known.mtime_nsec()))
}

struct Watch {
    described: Vec<AddressSet>,
    protected: Vec<Prefix>,
    seen: Seen,
    give: Sender<Loaded>,
}

impl Watch {
    fn run(mut self, asked: &Receiver<Ask>) {
        for (path, seen) in paths(&self.described).zip(&mut self.seen.0) {
            if let Err(reason) = File::open(path) {
                // Said here once; who may not search the folder sees another state, which is no change.
                *seen = state(path);
                tracing::warn!(
                    "{} cannot be read without the rights of the start ({reason}): changes of it will be refused; let \
                     the dataplane's user read it",
                    path.display()
                );
            }
        }
        loop {
            let is_asked = match asked.recv_timeout(LOOK_EVERY) {
                Ok(Ask::Again) => true,
                Ok(Ask::Protect(prefixes)) => std::mem::replace(&mut self.protected, prefixes) != self.protected,
                Err(RecvTimeoutError::Timeout) => false,
                Ok(Ask::End) | Err(RecvTimeoutError::Disconnected) => return,
            };
            let now = look(&self.described);
            if !is_asked && now == self.seen {
                continue;
            }
            self.seen = now;
            match load(&self.described, &self.protected) {
                Ok(loaded) => {
                    if self.give.send(loaded).is_err() {
                        return;
                    }
                }
                Err(error) => tracing::error!("{error}; the address sets stay as they were"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn set(name: &str, file: &Path) -> AddressSet {
        AddressSet {
            name: name.to_owned(),
            files: vec![file.to_owned()],
            format: Default::default(),
            prefixes: Vec::new(),
            action: SetAction::Drop,
            zones: Vec::new(),
        }
    }

    #[test]
    fn an_error_names_set_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("feed.netset");
        let told = load(&[set("feed", &file)], &[]).unwrap_err().to_string();
        assert!(told.contains("\"feed\"") && told.contains("feed.netset"), "{told}");
        std::fs::write(&file, "192.0.2.0/24\nnonsense\n").unwrap();
        let told = load(&[set("feed", &file)], &[]).unwrap_err().to_string();
        assert!(told.contains("feed.netset, line 2: \"nonsense\" is not an address"), "{told}");
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_damaged_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("feed");
        std::fs::write(&file, "192.0.2.0/24\n").unwrap();
        let protected: Vec<Prefix> = vec!["198.51.100.1/32".parse().unwrap()];
        let described = vec![set("feed", &file)];
        let watched = SourceFiles::watch(described.clone(), protected, look(&described)).unwrap();
        let ask = watched.look_again();
        std::fs::write(&file, "<html>").unwrap();
        ask.now();
        // Damaged and then right: the first of what arrives is already the right one.
        std::fs::write(folder.path().join("new"), "198.51.100.0/24\n").unwrap();
        std::fs::rename(folder.path().join("new"), &file).unwrap();
        ask.now();
        let deadline = Instant::now() + Duration::from_secs(30);
        let loaded = watched.loaded.recv_timeout(deadline - Instant::now()).unwrap();
        assert_eq!(loaded.sets.class_of("198.51.100.7".parse().unwrap()), 1);
        assert_eq!(loaded.sets.class_of("198.51.100.1".parse().unwrap()), 0, "protected");
        assert_eq!(loaded.sets.class_of("192.0.2.1".parse().unwrap()), 0);
    }

    #[test]
    fn what_changes_while_the_dataplane_starts_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("feed");
        std::fs::write(&file, "192.0.2.0/24\n").unwrap();
        let described = vec![set("feed", &file)];
        let seen = look(&described);
        std::fs::write(&file, "192.0.2.0/24\n198.51.100.0/24\n").unwrap();
        let watched = SourceFiles::watch(described, Vec::new(), seen).unwrap();
        let loaded = watched.loaded.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(loaded.counts, [2]);
    }
}
