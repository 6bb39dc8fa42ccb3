//! Writes classic pcap with nanoseconds: what every tool reads, with nothing in it but the packets, so that equal
//! packets make equal files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use levee_engine::time::Timestamp;

use super::error::{WriteError, WriteFault};
use super::{LinkType, MAX_CAPTURED_LEN};

const BUFFER_LEN: usize = 512 * 1024;
/// Captures hold personal data: nothing for others.
const MODE: u32 = 0o640;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// Writes one capture file.
///
/// The packets go to `NAME.partial` next to the file, which takes its name in [`finish`](Self::finish): under the
/// final name there is never half a file. What is dropped unfinished is removed. Pipes and devices
/// (`/dev/null`) are written directly.
#[derive(Debug)]
pub struct Writer {
    named: PathBuf,
    out: BufWriter<File>,
    aside: Option<Aside>,
}

#[derive(Debug)]
struct Aside {
    partial: PathBuf,
    last: PathBuf,
}

impl Writer {
    /// Begins a file; an older one of this name stays until [`finish`](Self::finish).
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, WriteError> {
        let named = path.as_ref().to_owned();
        match Self::create_at(&named) {
            Ok((out, aside)) => {
                let mut writer = Self { named, out: BufWriter::with_capacity(BUFFER_LEN, out), aside };
                let header = file_header();
                writer.out.write_all(&header).map_err(|error| writer.error(error.into()))?;
                Ok(writer)
            }
            Err(error) => Err(WriteError { path: named, fault: error.into() }),
        }
    }

    /// Appends a frame, captured `at` this time since the epoch, of `wire_len` bytes on the wire.
    ///
    /// # Errors
    /// When the time or the length does not fit the format, or the file cannot be written.
    pub fn write(&mut self, at: Timestamp, data: &[u8], wire_len: u32) -> Result<(), WriteError> {
        let Ok(seconds) = u32::try_from(at.0 / NS_PER_SECOND) else {
            return Err(self.error(WriteFault::TooLate { at }));
        };
        let Some(captured_len) = u32::try_from(data.len()).ok().filter(|&len| len <= MAX_CAPTURED_LEN) else {
            return Err(self.error(WriteFault::TooLong { len: data.len() }));
        };
        let nanoseconds = u32::try_from(at.0 % NS_PER_SECOND).unwrap_or_default();
        let header = [seconds, nanoseconds, captured_len, wire_len.max(captured_len)].map(u32::to_le_bytes);
        let written = self.out.write_all(header.as_flattened()).and_then(|()| self.out.write_all(data));
        written.map_err(|error| self.error(error.into()))
    }

    /// Makes the file complete and gives it its name.
    ///
    /// # Errors
    /// When the last bytes cannot be written or the file cannot be renamed; there is no new file then.
    pub fn finish(mut self) -> Result<(), WriteError> {
        self.commit().map_err(|error| self.error(error.into()))
    }

    fn create_at(path: &Path) -> io::Result<(File, Option<Aside>)> {
        // A rename would replace a device, a pipe or a symbolic link by a file.
        let last = match fs::canonicalize(path) {
            Ok(existing) if !existing.is_file() => return Ok((OpenOptions::new().write(true).open(existing)?, None)),
            Ok(existing) => existing,
            Err(_) => path.to_owned(),
        };
        let Some(name) = last.file_name() else { return Err(io::ErrorKind::IsADirectory.into()) };
        let mut partial = name.to_owned();
        partial.push(".partial");
        let partial = last.with_file_name(partial);
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&partial)?;
        Ok((file, Some(Aside { partial, last })))
    }

    fn commit(&mut self) -> io::Result<()> {
        self.out.flush()?;
        if let Some(Aside { partial, last }) = &self.aside {
            // A name must not survive a power failure that its bytes did not.
            self.out.get_ref().sync_all()?;
            fs::rename(partial, last)?;
            self.aside = None;
        }
        Ok(())
    }

    fn error(&self, fault: WriteFault) -> WriteError {
        WriteError { path: self.named.clone(), fault }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(Aside { partial, .. }) = &self.aside {
            // Nobody is left to tell, and the next writer of this name removes it too.
            let _gone = fs::remove_file(partial);
        }
    }
}

/// Always little-endian, so that the bytes do not depend on the machine.
fn file_header() -> [u8; 24] {
    const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
    const VERSION: u32 = 2 | 4 << 16;
    let numbers = [MAGIC_NANOSECONDS, VERSION, 0, 0, MAX_CAPTURED_LEN, u32::from(LinkType::ETHERNET.0)];
    let mut header = [0; 24];
    header.copy_from_slice(numbers.map(u32::to_le_bytes).as_flattened());
    header
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

    use super::super::fixture::{packet, read, read_sound};
    use super::super::open;
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_finished_file_has_exactly_these_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clean.pcap");
        let mut writer = Writer::create(&path).unwrap();
        writer.write(Timestamp(12_345_000_000_007), b"abc", 60).unwrap();
        writer.write(Timestamp(1), b"no less than captured", 0).unwrap();
        writer.finish().unwrap();
        let expected = b"\x4d\x3c\xb2\xa1\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\x04\0\x01\0\0\0\
            \x39\x30\0\0\x07\0\0\0\x03\0\0\0\x3c\0\0\0abc\
            \0\0\0\0\x01\0\0\0\x15\0\0\0\x15\0\0\0no less than captured";
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes, expected);
        let expected = [packet(12_345_000_000_007, b"abc", 60), packet(1, b"no less than captured", 21)];
        assert_eq!(read_sound(&bytes), expected);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o007, 0, "nothing for others");
        assert_eq!(names(folder.path()), ["clean.pcap"]);
    }

    #[test]
    fn until_it_is_finished_the_older_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clean.pcap");
        fs::write(&path, "older").unwrap();
        fs::write(folder.path().join("clean.pcap.partial"), "left by a killed process").unwrap();
        let mut writer = Writer::create(&path).unwrap();
        writer.write(Timestamp(1), b"abc", 3).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"older");
        drop(writer);
        assert_eq!(names(folder.path()), ["clean.pcap"]);
        assert_eq!(fs::read(&path).unwrap(), b"older");
        Writer::create(&path).unwrap().finish().unwrap();
        assert_eq!(read(open(&path).unwrap()).0, []);
    }

    #[test]
    fn a_symbolic_link_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target.pcap"), folder.path().join("link.pcap"));
        fs::write(&target, "older").unwrap();
        symlink(&target, &link).unwrap();
        Writer::create(&link).unwrap().finish().unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::metadata(&target).unwrap().len(), 24);
    }

    #[test]
    fn a_device_stays_one() {
        let mut writer = Writer::create("/dev/null").unwrap();
        writer.write(Timestamp(1), b"abc", 3).unwrap();
        writer.finish().unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }

    #[test]
    fn what_no_reader_would_take_is_refused_and_nothing_of_it_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clean.pcap");
        let mut writer = Writer::create(&path).unwrap();
        let error = writer.write(Timestamp(0), &vec![0; MAX_CAPTURED_LEN as usize + 1], 0).unwrap_err();
        assert!(error.to_string().ends_with("clean.pcap: cannot hold a packet of 262145 bytes: the most is 262144"));
        assert!(writer.write(Timestamp::NEVER, b"", 0).unwrap_err().to_string().contains("February 2106"));
        writer.write(Timestamp(4_294_967_295_999_999_999), &vec![7; MAX_CAPTURED_LEN as usize], 0).unwrap();
        writer.finish().unwrap();
        let (packets, error) = read(open(&path).unwrap());
        assert!(error.is_none());
        assert_eq!(packets, [packet(4_294_967_295_999_999_999, &vec![7; MAX_CAPTURED_LEN as usize], MAX_CAPTURED_LEN)]);
    }

    #[test]
    fn a_file_that_cannot_be_created_or_written_is_named() {
        let error = Writer::create("/nonexistent/clean.pcap").unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/clean.pcap: cannot be written: No such file"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        assert!(Writer::create(folder.path()).is_err(), "a folder");
        let error = Writer::create("/dev/full").unwrap().finish().unwrap_err();
        assert!(error.to_string().starts_with("/dev/full: cannot be written: No space left"), "{error}");
    }
}
