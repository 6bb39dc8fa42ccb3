//! The kill switch, as far as the dataplane goes: everything that it does to packets ends, it goes to monitor, and stays
//! there, whatever the control plane says and whether there is one.
//!
//! Two files engage it: one that only root can make (`[guardrails] kill_switch`), and one in the dataplane's own state
//! folder, which SIGUSR1 makes. Both are looked at all the time and at the start. It is released when neither is there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use levee_api::zone::{Mode, Zone};

use crate::files;

/// How often the files are looked at: a person has typed one into being.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Where the switch is.
#[derive(Debug, Clone)]
pub struct KillSwitch {
    /// Counts when root owns it.
    of_root: PathBuf,
    /// Ours.
    own: PathBuf,
}

/// The switch, looked at by a thread that ends when this is dropped.
#[derive(Debug)]
pub struct Watched {
    engaged: Arc<AtomicBool>,
    end: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl KillSwitch {
    /// The switch of a configuration; `state` is the dataplane's state folder.
    pub fn new(of_root: &Path, state: &Path) -> Self {
        Self { of_root: of_root.to_owned(), own: state.join("kill-switch") }
    }

    /// Whether it is engaged, and by which file.
    ///
    /// # Errors
    /// When that cannot be known.
    pub fn look(&self) -> io::Result<Option<&Path>> {
        let mut trouble = None;
        for (path, must_be_roots) in [(&self.of_root, true), (&self.own, false)] {
            match fs::symlink_metadata(path) {
                // Somebody else's file in a folder that others can write to stops nothing.
                Ok(found) if must_be_roots && found.uid() != 0 => {}
                Ok(_) => return Ok(Some(path)),
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                // The other file counts all the same.
                Err(error) => trouble = Some(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
            }
        }
        trouble.map_or(Ok(None), Err)
    }

    /// Engages it, also for the next start.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn engage(&self) -> Result<(), files::FileError> {
        files::replace(&self.own, b"engaged by SIGUSR1; remove this file to release the kill switch\n")
    }

    /// Starts to look. `engaged`: what was found at the start.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn watch(self, engaged: bool) -> io::Result<Watched> {
        let ((end, ended), state) = (channel(), Arc::new(AtomicBool::new(engaged)));
        let told = Arc::clone(&state);
        let thread = std::thread::Builder::new().name("levee-kill".to_owned()).spawn(move || {
            let mut in_trouble = false;
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK_EVERY) {
                match self.look() {
                    Ok(found) => {
                        in_trouble = false;
                        tell(found, told.swap(found.is_some(), Ordering::Relaxed));
                    }
                    Err(error) if !in_trouble => {
                        in_trouble = true;
                        tracing::error!("cannot look for the kill switch, it stays as it is: {error}");
                    }
                    Err(_) => {}
                }
            }
        })?;
        Ok(Watched { engaged: state, end, thread: Some(thread) })
    }
}

fn tell(found: Option<&Path>, before: bool) {
    match (found, before) {
        (Some(path), false) => tracing::error!(
            "the kill switch is engaged by {}: every filter is withdrawn, nothing is dropped until the file is gone",
            path.display()
        ),
        (None, true) => tracing::warn!("the kill switch is released: zones have the modes of the policy again"),
        _ => {}
    }
}

impl Watched {
    /// Whether the switch is engaged.
    pub fn is_engaged(&self) -> bool {
        self.engaged.load(Ordering::Relaxed)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.end.send(());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that looks for the kill switch had panicked");
        }
    }
}

/// Zones as they are while the switch is engaged.
pub fn lowered(zones: &[Zone]) -> Vec<Zone> {
    zones.iter().map(|zone| Zone { mode: Mode::Monitor, ..zone.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn switch() -> (tempfile::TempDir, KillSwitch) {
        let folder = tempfile::tempdir().unwrap();
        let switch = KillSwitch::new(&folder.path().join("of-root"), &folder.path().join("state"));
        (folder, switch)
    }

    #[test]
    fn it_is_engaged_by_roots_file_or_by_our_own_and_by_nobody_elses() {
        let (_folder, switch) = switch();
        assert_eq!(switch.look().unwrap(), None);
        switch.engage().unwrap();
        assert_eq!(switch.look().unwrap(), Some(switch.own.as_path()));
        fs::remove_file(&switch.own).unwrap();
        fs::write(&switch.of_root, "").unwrap();
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: a file of root's needs root");
            return;
        }
        assert_eq!(switch.look().unwrap(), Some(switch.of_root.as_path()));
        std::os::unix::fs::chown(&switch.of_root, Some(65_534), None).unwrap();
        assert_eq!(switch.look().unwrap(), None);
        fs::remove_file(&switch.of_root).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &switch.of_root).unwrap();
        std::os::unix::fs::lchown(&switch.of_root, Some(65_534), None).unwrap();
        assert_eq!(switch.look().unwrap(), None, "a link to a file of root's is not root's");
    }

    #[test]
    fn it_is_noticed_while_running_and_released_when_the_file_is_gone() {
        let (_folder, switch) = switch();
        let watched = switch.clone().watch(false).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let wait = |engaged| {
            while watched.is_engaged() != engaged {
                assert!(Instant::now() < deadline, "not noticed");
                std::thread::yield_now();
            }
        };
        switch.engage().unwrap();
        wait(true);
        fs::remove_file(&switch.own).unwrap();
        wait(false);
    }
}
