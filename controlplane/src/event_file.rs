//! Where the events go, and how far they have come: the file is the memory of its own position.
//!
//! A file that has come to its limit takes the place of its predecessor, `NAME.1`, and a new one is begun: the two never
//! have more than twice the limit and one batch of lines.
//!
//! What is no regular file (standard output, a pipe, a device) may have a reader who does not read, and writing to it would
//! hold up whoever writes. A thread of its own writes there, and lines that it has no room for are left out and counted.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::event_line;

/// Where event lines are written.
pub struct EventFile {
    out: Out,
    name: String,
    position: Option<(String, u64)>,
    in_trouble: bool,
}

enum Out {
    /// At once: it is there when it was written.
    File(Bounded),
    /// By a thread.
    Reader { texts: Option<SyncSender<String>>, written: Receiver<()>, left_out: u64 },
}

/// A file, and how long it may become.
struct Bounded {
    file: File,
    path: PathBuf,
    /// Bytes in it.
    length: u64,
    /// Bytes.
    limit: u64,
    in_trouble: bool,
}

/// Bytes in one file: some hundred thousand events.
const LIMIT: u64 = 128 << 20;
/// How far back a position is looked for: far more than any line.
const TAIL_BYTES: u64 = 1 << 20;
/// Writes that a reader may be behind.
const WAITING: usize = 4_096;
/// How long a reader may take for the last lines when everything ends.
const LAST_LINES: Duration = Duration::from_secs(1);
/// What the name of the file before goes on with.
const PREDECESSOR: &str = ".1";

impl EventFile {
    /// `-` is standard output, anything else a file to append to.
    ///
    /// # Errors
    /// When the file cannot be read and written.
    pub fn open(name: &str) -> io::Result<Self> {
        Self::with_limit(name, LIMIT)
    }

    fn with_limit(name: &str, limit: u64) -> io::Result<Self> {
        let (file, position) = if name == "-" {
            (File::from(io::stdout().as_fd().try_clone_to_owned()?), None)
        } else {
            open_at_end(Path::new(name))?
        };
        let out = if name != "-" && file.metadata()?.is_file() {
            let length = file.metadata()?.len();
            Out::File(Bounded { file, path: PathBuf::from(name), length, limit, in_trouble: false })
        } else {
            Out::of_reader(file, name)?
        };
        Ok(Self { out, name: name.to_owned(), position, in_trouble: false })
    }

    /// Boot id and sequence number of the last event that is in the file.
    pub fn position(&self) -> Option<&(String, u64)> {
        self.position.as_ref()
    }

    /// Writes lines. When that fails it is logged, and the position stays where it was.
    pub fn write(&mut self, lines: &[Value]) {
        let mut text = String::new();
        for line in lines {
            text.push_str(&line.to_string());
            text.push('\n');
        }
        match self.out.write(text, lines.len()) {
            Ok(()) => {
                self.in_trouble = false;
                let last = lines.last().and_then(|line| event_line::position(&line.to_string()));
                self.position = last.or_else(|| self.position.take());
            }
            // Once per trouble: a full disk needs no further lines.
            Err(error) if !self.in_trouble => {
                self.in_trouble = true;
                tracing::error!(%error, file = self.name, "events cannot be written and are lost");
            }
            Err(_) => {}
        }
    }
}

impl Out {
    fn of_reader(mut file: File, name: &str) -> io::Result<Self> {
        let (texts, given) = sync_channel::<String>(WAITING);
        let (done, written) = sync_channel(1);
        let name = name.to_owned();
        std::thread::Builder::new().name("levee-events".to_owned()).spawn(move || {
            let mut in_trouble = false;
            for text in given {
                let outcome = file.write_all(text.as_bytes());
                if let (Err(error), false) = (&outcome, in_trouble) {
                    tracing::error!(%error, file = name, "events cannot be written and are lost");
                }
                in_trouble = outcome.is_err();
            }
            // Who waits for it may have gone.
            let _ = done.send(());
        })?;
        Ok(Self::Reader { texts: Some(texts), written, left_out: 0 })
    }

    fn write(&mut self, mut text: String, lines: usize) -> io::Result<()> {
        match self {
            Self::File(bounded) => bounded.write(text.as_bytes()),
            Self::Reader { texts, left_out, .. } => {
                let Some(texts) = texts else { return Ok(()) };
                // The reader learns what he has missed.
                if *left_out > 0 {
                    text.insert_str(0, &format!("{}\n", json!({ "event": "lines_left_out", "lines": *left_out })));
                }
                match texts.try_send(text) {
                    Ok(()) => {
                        *left_out = 0;
                        Ok(())
                    }
                    Err(refused) => {
                        *left_out = left_out.saturating_add(u64::try_from(lines).unwrap_or(u64::MAX));
                        let why = match refused {
                            TrySendError::Full(_) => "nobody reads them",
                            TrySendError::Disconnected(_) => "the thread that writes has ended",
                        };
                        Err(io::Error::other(why))
                    }
                }
            }
        }
    }
}

impl Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.length > 0 && self.length.saturating_add(more) > self.limit {
            match self.begin_anew() {
                Ok(()) => self.in_trouble = false,
                // Too long a file is better than lost events; once per trouble.
                Err(error) => {
                    if !std::mem::replace(&mut self.in_trouble, true) {
                        let path = self.path.display();
                        tracing::error!("{path} has come to its limit, and no new one can be begun: {error}");
                    }
                }
            }
        }
        self.file.write_all(bytes)?;
        self.length = self.length.saturating_add(more);
        Ok(())
    }

    /// The new file is locked before it has the name, so that there is no moment for a second writer.
    fn begin_anew(&mut self) -> io::Result<()> {
        let next = beside(&self.path, ".next");
        let file = writable(&next)?;
        lock(&file)?;
        file.set_len(0)?;
        std::fs::rename(&self.path, beside(&self.path, PREDECESSOR))?;
        std::fs::rename(&next, &self.path)?;
        (self.file, self.length) = (file, 0);
        Ok(())
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if let Self::Reader { texts, written, .. } = self {
            drop(texts.take());
            if written.recv_timeout(LAST_LINES) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!("the last events were not read by anybody");
            }
        }
    }
}

/// A process that was killed may have left half a line: it is ended, and the position is that of a whole one.
fn open_at_end(path: &Path) -> io::Result<(File, Option<(String, u64)>)> {
    let mut file = writable(path)?;
    // Pipes and devices have no length and no past, and any number may write to them.
    if !file.metadata()?.is_file() {
        return Ok((file, None));
    }
    lock(&file)?;
    let tail = tail(&mut file)?;
    if tail.last().is_some_and(|last| *last != b'\n') {
        file.write_all(b"\n")?;
    }
    let position = match position_in(&tail) {
        Some(position) => Some(position),
        // Killed when it had just begun a new one.
        None => match File::open(beside(path, PREDECESSOR)) {
            Ok(mut predecessor) => position_in(&self::tail(&mut predecessor)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        },
    };
    Ok((file, position))
}

fn writable(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)
}

/// Two that append to one file would write every event twice.
fn lock(file: &File) -> io::Result<()> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => io::Error::other("another process writes to it; stop it, or name another file"),
        TryLockError::Error(error) => error,
    })
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn tail(file: &mut File) -> io::Result<Vec<u8>> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(tail)
}

fn position_in(tail: &[u8]) -> Option<(String, u64)> {
    String::from_utf8_lossy(tail).lines().rev().find_map(event_line::position)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_position_is_that_of_the_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let name = path.to_str().unwrap();
        let mut file = EventFile::open(name).unwrap();
        assert_eq!(file.position(), None);
        file.write(&[json!({ "event": "snapshot", "boot_id": "a", "sequence": 7 })]);
        file.write(&[json!({ "event": "gap", "boot_id": "a", "sequence": 9 })]);
        file.write(&[json!({ "event": "filter_in_force", "boot_id": "a" })]);
        assert_eq!(file.position(), Some(&("a".to_owned(), 7)));
        drop(file);
        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(b"{\"boot_id\":\"a\",\"event\":\"gap\",\"sequence\":8").unwrap();

        let mut file = EventFile::open(name).unwrap();
        assert_eq!(file.position(), Some(&("a".to_owned(), 7)));
        file.write(&[json!({ "event": "snapshot" })]);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with(":8\n{\"event\":\"snapshot\"}\n"), "{text}");
    }

    #[test]
    fn a_file_that_has_come_to_its_limit_is_kept_once_and_a_new_one_begun() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let name = path.to_str().unwrap();
        let mut file = EventFile::with_limit(name, 1_000).unwrap();
        let mut sequence = 0;
        let mut write = |file: &mut EventFile| {
            sequence += 1;
            file.write(&[json!({ "event": "snapshot", "boot_id": "a", "sequence": sequence })]);
            sequence
        };
        for _ in 0..200 {
            let last = write(&mut file);
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text.lines().last().and_then(event_line::position), Some(("a".to_owned(), last)));
            assert!(text.len() <= 1_000, "{}", text.len());
        }
        let names = || {
            let mut names: Vec<_> =
                std::fs::read_dir(folder.path()).unwrap().flatten().map(|e| e.file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(), ["events.jsonl", "events.jsonl.1"]);
        let both =
            [beside(&path, PREDECESSOR), path.clone()].map(|path| std::fs::read_to_string(path).unwrap()).concat();
        let found: Vec<u64> = both.lines().filter_map(event_line::position).map(|(_, sequence)| sequence).collect();
        assert!(found.len() > 20 && found.windows(2).all(|pair| pair[1] == pair[0] + 1), "{found:?}");
        assert!(EventFile::open(name).err().unwrap().to_string().contains("another process writes to it"));

        // Killed between the two renames, and after them.
        drop(file);
        std::fs::rename(&path, beside(&path, PREDECESSOR)).unwrap();
        for _ in 0..2 {
            assert_eq!(EventFile::open(name).unwrap().position(), Some(&("a".to_owned(), 200)));
        }

        // What is longer than the limit is one file still, and a start does not lose it.
        let mut file = EventFile::with_limit(name, 10).unwrap();
        write(&mut file);
        drop(file);
        assert_eq!(EventFile::with_limit(name, 10).unwrap().position(), Some(&("a".to_owned(), 201)));
    }

    #[test]
    fn a_file_has_one_writer_and_a_device_any_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let name = path.to_str().unwrap();
        let first = EventFile::open(name).unwrap();
        assert!(EventFile::open(name).err().unwrap().to_string().contains("another process writes to it"));
        drop(first);
        EventFile::open(name).unwrap();
        let _both = [EventFile::open("/dev/null").unwrap(), EventFile::open("/dev/null").unwrap()];
    }

    #[test]
    fn a_reader_who_does_not_read_holds_up_nobody_and_learns_what_he_has_missed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Reading and writing: opening one end only would wait for the other.
        let mut reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut file = EventFile::open(path.to_str().unwrap()).unwrap();
        // Far more than a pipe and the queue have room for.
        let line = json!({ "event": "gap", "boot_id": "a", "sequence": 7, "text": "x".repeat(500) });
        let begun = std::time::Instant::now();
        for _ in 0..3 * WAITING {
            file.write(std::slice::from_ref(&line));
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
        assert!(file.in_trouble);
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            let mut piece = [0; 65_536];
            while !text.contains("lines_left_out") {
                let length = reader.read(&mut piece).unwrap();
                text.push_str(std::str::from_utf8(&piece[..length]).unwrap());
            }
            // The rest, so that the thread can end.
            while !text.contains("the last") {
                let length = reader.read(&mut piece).unwrap();
                text.push_str(std::str::from_utf8(&piece[..length]).unwrap());
            }
            text
        });
        while file.in_trouble {
            file.write(std::slice::from_ref(&line));
            std::thread::yield_now();
        }
        let mut written = false;
        while !written {
            file.write(&[json!({ "event": "the last" })]);
            written = !file.in_trouble;
        }
        let text = reading.join().unwrap();
        let told = text.lines().find(|line| line.contains("lines_left_out")).unwrap();
        let told: Value = serde_json::from_str(told).unwrap();
        assert!(told["lines"].as_u64().unwrap() >= WAITING as u64, "{told}");
    }
}
