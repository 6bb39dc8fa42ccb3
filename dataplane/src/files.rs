//! Files that survive a crash: written aside, synced and renamed, so that there is never half of one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}: {reason}", path = path.display())]
pub struct FileError {
    /// What was tried.
    pub doing: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why it failed.
    pub reason: io::Error,
}

/// Replaces a file, 0640, in a directory that is made if need be. What is no regular file (a pipe, `/dev/null`) is written
/// to directly.
///
/// # Errors
/// When the system refuses; the file is then what it was.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    put(path, None, bytes)
}

/// The same, and what the file was is kept under another name in its directory. Whenever a crash comes, one of the two is
/// there, whole.
///
/// # Errors
/// When the system refuses; at least one of the files is then what the first was.
pub fn replace_keeping(path: &Path, previous: &Path, bytes: &[u8]) -> Result<(), FileError> {
    put(path, Some(previous), bytes)
}

fn put(path: &Path, previous: Option<&Path>, bytes: &[u8]) -> Result<(), FileError> {
    let fail = |doing: &'static str| move |reason| FileError { doing, path: path.to_owned(), reason };
    if fs::metadata(path).is_ok_and(|known| !known.is_file()) {
        return fs::write(path, bytes).map_err(fail("write"));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(fail("make the directory of"))?;
    let mut aside = path.as_os_str().to_owned();
    aside.push(".partial");
    let written = write_synced(Path::new(&aside), bytes).and_then(|()| {
        match previous.map(|previous| fs::rename(path, previous)) {
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::rename(&aside, path)
    });
    if let Err(reason) = written {
        // What is left of it is of no use; that it cannot be removed either changes nothing.
        let _ = fs::remove_file(&aside);
        return Err(fail("write")(reason));
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail("sync the directory of"))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Reads a file; none if there is no such file.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(reason) => Err(FileError { doing: "read", path: path.to_owned(), reason }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/down/file");
        assert_eq!(read(&path).unwrap(), None);
        replace(&path, b"first").unwrap();
        replace(&path, b"second").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some(&b"second"[..]));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_the_file_was_is_kept_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, previous) = (folder.path().join("file"), folder.path().join("file.previous"));
        for bytes in [b"1", b"2", b"3"] {
            replace_keeping(&path, &previous, bytes).unwrap();
        }
        assert_eq!(read(&path).unwrap().as_deref(), Some(&b"3"[..]));
        assert_eq!(read(&previous).unwrap().as_deref(), Some(&b"2"[..]));
    }

    #[test]
    fn a_place_that_cannot_be_written_to_is_named() {
        let error = replace(Path::new("/proc/levee/file"), b"").unwrap_err();
        assert!(error.to_string().contains("/proc/levee/file"), "{error}");
    }
}
