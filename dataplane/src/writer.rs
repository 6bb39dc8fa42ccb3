//! The writer thread: everything that may wait for a disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use crate::baseline::store;
use crate::files::{self, FileError};

/// Files waiting to be written; more are refused, for a disk that is stuck must not fill the memory.
const WAITING: usize = 8;

/// Writes a file.
type Job = Box<dyn FnOnce() -> Result<(), FileError> + Send>;

/// The way to the thread. When it is dropped, what waits is still written.
pub struct Writer {
    files: Option<SyncSender<(PathBuf, Job)>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start() -> io::Result<Self> {
        let (files, waiting) = sync_channel(WAITING);
        let thread = std::thread::Builder::new().name("levee-writer".to_owned()).spawn(move || write_all(&waiting))?;
        Ok(Self { files: Some(files), thread: Some(thread) })
    }

    /// Has a file replaced; never waits. `bytes` is called where waiting is allowed.
    pub fn replace(&self, path: PathBuf, bytes: impl FnOnce() -> Vec<u8> + Send + 'static) {
        let job = move |path: &Path| files::replace(path, &bytes());
        self.give(path, job);
    }

    /// Has what was learned written into a directory, in the same way.
    pub fn save_baseline(&self, folder: PathBuf, bytes: impl FnOnce() -> Vec<u8> + Send + 'static) {
        self.give(folder, move |folder| store::save(folder, &bytes()));
    }

    fn give(&self, path: PathBuf, job: impl FnOnce(&Path) -> Result<(), FileError> + Send + 'static) {
        let Some(files) = &self.files else { return };
        let on = path.clone();
        match files.try_send((path, Box::new(move || job(&on)))) {
            Ok(()) => {}
            Err(TrySendError::Full((path, _)) | TrySendError::Disconnected((path, _))) => {
                tracing::warn!("{} is not written: the disk does not keep up", path.display());
            }
        }
    }
}

fn write_all(waiting: &Receiver<(PathBuf, Job)>) {
    for (_, job) in waiting {
        if let Err(error) = job() {
            tracing::warn!("{error}");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.files.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
