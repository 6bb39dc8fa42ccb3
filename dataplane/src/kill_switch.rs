//! The kill switch, as far as the dataplane goes: everything that it does to packets ends, it goes to monitor, and stays
//! there, whatever the control plane says and whether there is one.
//!
//! Two files engage it: one that only root can make (`[guardrails] kill_switch`), and one in the dataplane's own state
//! folder, which SIGUSR1 makes. Both are looked at all the time and at the start. It is released when neither is there.
//!
//! The signal does not wait for a file: it engages the switch in memory first, and the file is for the next start. On a
//! disk that takes none the switch stays engaged, and the file is tried again until it is there.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use levee_api::kill_switch;
use levee_api::zone::{Mode, Zone};
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

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
    /// Engaged by a signal: [`NOT_WRITTEN`] or [`WRITTEN`].
    latch: Arc<AtomicU8>,
}

/// No signal has come that the file does not speak for.
const NO_SIGNAL: u8 = 0;
/// A signal has come, and there is no file of it.
const NOT_WRITTEN: u8 = 1;
/// A signal has come and the file was made: once it was looked at, it alone says whether the switch is engaged.
const WRITTEN: u8 = 2;

/// What is known of the switch at the start.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Nothing is done to packets.
    pub engaged: bool,
    /// Why, in words; none when it is released.
    pub why: Option<String>,
}

/// The switch, looked at by a thread that ends when this is dropped.
#[derive(Debug)]
pub struct Watched {
    engaged: Arc<AtomicBool>,
    latch: Arc<AtomicU8>,
    end: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl KillSwitch {
    /// The switch of a configuration; `state` is the dataplane's state folder.
    pub fn new(of_root: &Path, state: &Path) -> Self {
        Self { of_root: of_root.to_owned(), own: state.join("kill-switch"), latch: Arc::default() }
    }

    /// What to start with. What cannot be known is taken for engaged: a packet too many that passes does less harm than one
    /// that is dropped against the will of whoever pulled the switch.
    pub fn at_start(&self) -> Found {
        let (engaged, why) = match self.look() {
            Ok(None) => (false, None),
            Ok(Some(path)) => {
                let why = reason(path).map_or_else(String::new, |why| format!(" ({why})"));
                (true, Some(format!("{}{why}", path.display())))
            }
            Err(error) => (true, Some(format!("precaution, for it cannot be looked at: {error}"))),
        };
        Found { engaged, why }
    }

    /// Whether it is engaged, and by which file.
    ///
    /// # Errors
    /// When that cannot be known.
    pub fn look(&self) -> io::Result<Option<&Path>> {
        kill_switch::found(&self.of_root, &self.own)
    }

    /// Engages it at once, and for the next start by a file.
    ///
    /// # Errors
    /// When the file cannot be made. It is engaged all the same, and the file is tried again.
    pub fn engage(&self) -> Result<(), files::FileError> {
        self.latch.store(NOT_WRITTEN, Ordering::Release);
        self.persist()?;
        self.latch.store(WRITTEN, Ordering::Release);
        Ok(())
    }

    fn persist(&self) -> Result<(), files::FileError> {
        files::replace(&self.own, b"engaged by SIGUSR1; remove this file to release the kill switch\n").or_else(
            |error| {
                // A full disk often has room for a name still, and that it is there is what counts.
                let made = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o640).open(&self.own);
                made.and_then(|file| file.sync_all()).map_err(|_| error)
            },
        )
    }

    /// Starts to look. `engaged`: what was found at the start.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn watch(self, engaged: bool) -> io::Result<Watched> {
        let ((end, ended), state) = (channel(), Arc::new(AtomicBool::new(engaged)));
        let (told, latch) = (Arc::clone(&state), Arc::clone(&self.latch));
        let thread = std::thread::Builder::new().name("levee-kill".to_owned()).spawn(move || {
            let (mut in_trouble, mut told_latched) = (false, false);
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK_EVERY) {
                let signalled = self.latch.load(Ordering::Acquire);
                if signalled == NOT_WRITTEN {
                    if !told.swap(true, Ordering::AcqRel) {
                        tracing::error!(
                            "the kill switch is engaged by SIGUSR1: every filter is withdrawn, nothing is dropped"
                        );
                    }
                    match self.engage() {
                        Ok(()) => told_latched = false,
                        Err(error) if !told_latched => {
                            told_latched = true;
                            tracing::error!(
                                "the kill switch is engaged until this process ends, and not for the next start: {error}; \
                                 make its file as root"
                            );
                        }
                        Err(_) => {}
                    }
                    continue;
                }
                match self.look() {
                    Ok(found) => {
                        in_trouble = false;
                        tell(found, told.swap(found.is_some(), Ordering::AcqRel));
                        if signalled == WRITTEN {
                            // Unless another signal has come meanwhile.
                            let _ = self.latch.compare_exchange(WRITTEN, NO_SIGNAL, Ordering::AcqRel, Ordering::Relaxed);
                        }
                    }
                    Err(error) if !in_trouble => {
                        in_trouble = true;
                        tracing::error!("cannot look for the kill switch, it stays as it is: {error}");
                    }
                    Err(_) => {}
                }
            }
        })?;
        Ok(Watched { engaged: state, latch, end, thread: Some(thread) })
    }
}

/// What the file says of itself: its first line, as far as somebody reads it.
fn reason(path: &Path) -> Option<String> {
    const MOST: u64 = 200;
    let mut text = String::new();
    // A link that somebody put there is not followed, and a pipe would never end.
    let options = fs::OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path);
    io::Read::take(options.ok()?, MOST).read_to_string(&mut text).ok()?;
    let line = text.lines().next()?.trim();
    let printable = line.chars().filter(|character| !character.is_control()).collect::<String>();
    (!printable.is_empty()).then_some(printable)
}

fn tell(found: Option<&Path>, before: bool) {
    match (found, before) {
        (Some(path), false) => {
            let why = reason(path).map_or_else(String::new, |why| format!(" ({why})"));
            tracing::error!(
                "the kill switch is engaged by {}{why}: every filter is withdrawn, nothing is dropped until the file is gone",
                path.display()
            );
        }
        (None, true) => tracing::warn!("the kill switch is released: zones have the modes of the policy again"),
        _ => {}
    }
}

impl Watched {
    /// Whether the switch is engaged.
    pub fn is_engaged(&self) -> bool {
        // In this order: what engages is set before the latch is let go.
        self.latch.load(Ordering::Acquire) != NO_SIGNAL || self.engaged.load(Ordering::Acquire)
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

    #[test]
    fn a_disk_that_takes_no_file_does_not_keep_it_from_being_engaged() {
        let (folder, switch) = switch();
        // No folder can be made where a file is, whoever asks.
        fs::write(folder.path().join("state"), "in the way").unwrap();
        let watched = switch.clone().watch(false).unwrap();
        assert!(switch.engage().is_err());
        assert!(watched.is_engaged(), "at once");
        let deadline = Instant::now() + Duration::from_secs(30);
        while !watched.engaged.load(Ordering::Acquire) {
            assert!(Instant::now() < deadline && watched.is_engaged());
            std::thread::yield_now();
        }
        // Looked at again and again it stays, and once there is room the file is made: then that decides.
        fs::remove_file(folder.path().join("state")).unwrap();
        while watched.latch.load(Ordering::Acquire) != NO_SIGNAL {
            assert!(Instant::now() < deadline && watched.is_engaged());
            std::thread::yield_now();
        }
        assert_eq!(switch.look().unwrap(), Some(switch.own.as_path()));
        fs::remove_file(&switch.own).unwrap();
        while watched.is_engaged() {
            assert!(Instant::now() < deadline, "not released");
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_cannot_be_known_at_the_start_is_taken_for_engaged() {
        let (folder, switch) = switch();
        assert_eq!(switch.at_start(), Found { engaged: false, why: None });
        // A name that is too long cannot be looked for, whoever asks.
        let unknown = KillSwitch::new(&folder.path().join("x".repeat(300)), &folder.path().join("state"));
        let found = unknown.at_start();
        assert!(found.engaged && found.why.as_ref().unwrap().contains("cannot be looked at"), "{found:?}");
        switch.engage().unwrap();
        let found = switch.at_start();
        assert!(found.engaged && found.why.as_ref().unwrap().contains("engaged by SIGUSR1"), "{found:?}");
        fs::write(&switch.own, "the new rules dropped customers\n").unwrap();
        assert!(switch.at_start().why.unwrap().contains("the new rules dropped customers"));
    }
}
