//! The files that stop the dataplane, looked at by us too: what is announced upstream ends with what is filtered here. A
//! file that only we obeyed, or only the dataplane, would leave the other half of Levee at work, and what the one no longer
//! does would be a reason for the other to do more.

use std::io;
use std::path::{Path, PathBuf};

use levee_api::config::Config;
use levee_api::kill_switch;

/// Where they are.
#[derive(Debug)]
pub struct KillSwitchFiles {
    /// Counts when root owns it.
    of_root: PathBuf,
    /// Made by the dataplane when SIGUSR1 tells it to stop.
    of_dataplane: PathBuf,
    in_trouble: bool,
}

impl KillSwitchFiles {
    /// Those that a configuration speaks of.
    pub fn new(config: &Config) -> Self {
        Self {
            of_root: config.guardrails.kill_switch.clone(),
            of_dataplane: config.appliance.state_dir.join("dataplane/kill-switch"),
            in_trouble: false,
        }
    }

    /// Which of them is there, by the rules of the dataplane. An error when that cannot be known: then nothing changes, and
    /// it is told once.
    pub fn look(&mut self) -> Option<Option<PathBuf>> {
        match self.found().map(|found| found.map(Path::to_owned)) {
            Ok(found) => {
                self.in_trouble = false;
                Some(found)
            }
            Err(error) => {
                if !self.in_trouble {
                    tracing::error!(
                        "cannot look for the kill switch of the dataplane: {error}; only leveectl kill-switch stops \
                         measures upstream until that is mended"
                    );
                }
                self.in_trouble = true;
                None
            }
        }
    }

    fn found(&self) -> io::Result<Option<&Path>> {
        kill_switch::found(&self.of_root, &self.of_dataplane)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::chown;

    use super::*;

    #[test]
    fn it_is_roots_file_or_the_one_of_the_dataplane() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("state/dataplane/kill-switch");
        let mut files =
            KillSwitchFiles { of_root: folder.path().join("of-root"), of_dataplane: own.clone(), in_trouble: false };
        assert_eq!(files.look(), Some(None));
        fs::create_dir_all(own.parent().unwrap()).unwrap();
        fs::write(&own, "").unwrap();
        assert_eq!(files.look(), Some(Some(own.clone())));
        fs::remove_file(&own).unwrap();
        files.of_dataplane = folder.path().join("x".repeat(300));
        assert_eq!(files.look(), None, "not known: a name that is too long cannot be looked for, whoever asks");
        fs::write(&files.of_root, "").unwrap();
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: a file of root's needs root");
            return;
        }
        assert_eq!(files.look(), Some(Some(files.of_root.clone())));
        files.of_dataplane = own;
        chown(&files.of_root, Some(65_534), None).unwrap();
        assert_eq!(files.look(), Some(None));
    }
}
