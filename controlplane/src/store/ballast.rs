//! Room that is kept for the ledger: a file of zeros, deleted when the disk is full, so that what must be written down
//! while an attack runs still can be.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;

use super::owner;

/// What is kept free: years of ledger entries, and little of any disk.
const BYTES: i64 = 64 << 20;

/// The file, there or not.
#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
}

impl Ballast {
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self { path: folder.join("ballast") }
    }

    /// Makes the file, unless it is there or the disk has less than twice its size left: what it reserves would be
    /// missed at once. True when it is there.
    pub(super) fn put_down(&self) -> io::Result<bool> {
        if self.path.metadata().is_ok_and(|found| found.len() >= BYTES.unsigned_abs()) {
            return Ok(true);
        }
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        if free_bytes(folder)? < 2 * BYTES.unsigned_abs() {
            return Ok(false);
        }
        let file = owner::open(&self.path)?;
        let reserved = fallocate(&file, FallocateFlags::empty(), 0, BYTES).map_err(io::Error::from);
        if let Err(error) = reserved.and_then(|()| file.sync_all()) {
            self.free()?;
            return Err(error);
        }
        Ok(true)
    }

    /// Gives its room back; true when there was any. The room is there when this returns.
    pub(super) fn free(&self) -> io::Result<bool> {
        let reserved = self.path.metadata().map_or(0, |found| found.len());
        match std::fs::remove_file(&self.path) {
            Ok(()) => {
                // Some file systems give blocks back only once the deletion is written.
                File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
                Ok(reserved > 0)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What a user without privileges can still write on the disk of a folder.
pub(super) fn free_bytes(folder: &Path) -> io::Result<u64> {
    let disk = statvfs(folder)?;
    Ok(disk.blocks_available() * disk.fragment_size())
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn it_is_made_once_given_back_once_and_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let ballast = Ballast::in_folder(folder.path());
        assert!(!ballast.free().unwrap());
        for _ in 0..2 {
            assert!(ballast.put_down().unwrap());
            assert_eq!(ballast.path.metadata().unwrap().len(), 64 << 20);
        }
        assert!(ballast.free().unwrap());
        assert!(!ballast.free().unwrap());
        assert!(ballast.put_down().unwrap());
    }

    #[test]
    fn a_file_that_a_crash_left_half_made_is_made_whole() {
        let folder = tempfile::tempdir().unwrap();
        let ballast = Ballast::in_folder(folder.path());
        std::fs::write(&ballast.path, b"begun").unwrap();
        assert!(ballast.put_down().unwrap());
        assert_eq!(ballast.path.metadata().unwrap().len(), 64 << 20);
    }
}
