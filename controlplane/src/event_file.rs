//! Where the events go, and how far they have come: the file is the memory of its own position.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::Value;

use crate::event_line;

/// Where event lines are written.
pub struct EventFile {
    out: Box<dyn Write + Send>,
    name: String,
    position: Option<(String, u64)>,
    in_trouble: bool,
}

/// How far back a position is looked for: far more than any line.
const TAIL_BYTES: u64 = 1 << 20;

impl EventFile {
    /// `-` is standard output, anything else a file to append to.
    ///
    /// # Errors
    /// When the file cannot be read and written.
    pub fn open(name: &str) -> io::Result<Self> {
        let (out, position): (Box<dyn Write + Send>, _) = if name == "-" {
            (Box::new(io::stdout()), None)
        } else {
            let (file, position) = open_at_end(Path::new(name))?;
            (Box::new(file), position)
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
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
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

/// A process that was killed may have left half a line: it is ended, and the position is that of a whole one.
fn open_at_end(path: &Path) -> io::Result<(File, Option<(String, u64)>)> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)?;
    // Two that append to one file would write every event twice.
    if file.metadata()?.is_file() {
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other("another process writes to it; stop it, or name another file"),
            TryLockError::Error(error) => error,
        })?;
    }
    let length = file.seek(SeekFrom::End(0))?;
    // Pipes and devices have no length and no past.
    if length == 0 {
        return Ok((file, None));
    }
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    (&mut file).take(TAIL_BYTES).read_to_end(&mut tail)?;
    if tail.last() != Some(&b'\n') {
        file.write_all(b"\n")?;
    }
    let tail = String::from_utf8_lossy(&tail);
    let position = tail.lines().rev().find_map(event_line::position);
    Ok((file, position))
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
}
