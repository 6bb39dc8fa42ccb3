//! The kill switch, once more beside the store: a store that is damaged and replaced by a backup or by an empty one must not
//! forget that everything was stopped.
//!
//! It is engaged when either says so, but for a store that came from a backup: then the file alone knows what was last.
//! A file that cannot be understood counts as engaged, for nobody knows that it is not.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::owner;
use super::record::KillSwitch;
use crate::actor::Actor;
use crate::clock::Now;

/// The file, there or not.
#[derive(Debug)]
pub(super) struct Witness {
    path: PathBuf,
}

impl Witness {
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self { path: folder.join("kill-switch.json") }
    }

    /// Writes down how the switch is. On a disk that has no room for that, its being engaged is told by a file without
    /// anything in it.
    pub(super) fn write(&self, state: &KillSwitch) -> io::Result<()> {
        let text = serde_json::to_string(state)?;
        let draft = self.path.with_extension("draft");
        let written = write_synced(&draft, text.as_bytes()).and_then(|()| fs::rename(&draft, &self.path));
        if let Err(error) = written {
            let _ = fs::remove_file(&draft);
            if !state.engaged {
                return Err(error);
            }
            write_synced(&self.path, b"")?;
        }
        File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()
    }

    /// How the switch is, with what the store says of it. `restored`: the store came from a backup.
    pub(super) fn agree(&self, stored: Option<KillSwitch>, restored: bool) -> Option<KillSwitch> {
        let found = match fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice::<KillSwitch>(&bytes).map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return stored,
            Err(error) => Err(error.to_string()),
        };
        let is_engaged = |state: &KillSwitch| state.engaged;
        match found {
            Ok(found) if found.engaged && !stored.as_ref().is_some_and(is_engaged) => {
                tracing::error!(
                    "the kill switch was engaged by {} and the store does not know it: it stays engaged ({})",
                    found.by,
                    self.path.display()
                );
                Some(found)
            }
            Ok(found) if restored => Some(found),
            Ok(_) => stored,
            Err(_) if stored.as_ref().is_some_and(is_engaged) => stored,
            Err(error) => {
                let reason = format!("{} cannot be understood ({error})", self.path.display());
                tracing::error!(
                    "{reason}: the kill switch is taken for engaged; look why, and release it with leveectl kill-switch off"
                );
                Some(KillSwitch { engaged: true, by: Actor::levee("precaution"), at: Now::default(), reason })
            }
        }
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = owner::open(path)?;
    file.set_len(0)?;
    file.write_all(bytes)?;
    file.sync_all()
}
