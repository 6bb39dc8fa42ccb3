//! One control plane per state folder: two that act on one ledger would undo each other's measures.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use super::owner;

/// The lock, given back when dropped, also by `kill -9`.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum LockError {
    /// Another process has it; its id as it wrote it down.
    Held(String),
    /// The file cannot be made.
    Io(io::Error),
}

impl Lock {
    /// Takes the lock of a folder, or says who has it. Never waits.
    pub(super) fn take(folder: &Path) -> Result<Self, LockError> {
        let mut file = owner::open(&folder.join("lock")).map_err(LockError::Io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who it is only helps; that it is held is what matters.
                let _ = file.take(20).read_to_string(&mut holder);
                return Err(LockError::Held(holder.trim().to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
        }
        // On a full disk the id may be missing: the lock holds all the same.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child that is being started has the file open, too, until it is another program.
        let _ = self.file.unlock();
    }
}
