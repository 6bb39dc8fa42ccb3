//! What operators have ended while the store took nothing: a file beside it, whose room was reserved while there was some.
//!
//! Records of 16 bytes, an id and its complement, so that none is ever half of one; the first that is not whole is the end.
//! Ids are never given again: one that is noted for longer than needed ends nothing that is to be in force.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

use super::{Contents, Write, owner};
use crate::ledger::{Mitigation, MitigationId, Outcome, State};

/// Bytes of one.
const RECORD: u64 = 16;
/// Room for four thousand.
const BYTES: i64 = 64 << 10;

/// The file, there or not.
#[derive(Debug)]
pub(super) struct Ends {
    path: PathBuf,
    noted: BTreeSet<MitigationId>,
    /// Bytes of the file that are used.
    used: u64,
}

impl Ends {
    /// Reads what was noted, and reserves the room for more.
    pub(super) fn in_folder(folder: &Path) -> io::Result<Self> {
        let path = folder.join("withdrawn");
        let file = owner::open(&path)?;
        if let Err(error) = fallocate(&file, FallocateFlags::empty(), 0, BYTES) {
            tracing::warn!("{}: no room can be kept for withdrawals: {error}", path.display());
        }
        let bytes = fs::read(&path)?;
        let records: Vec<MitigationId> = bytes.chunks_exact(16).map_while(id_of).collect();
        let used = u64::try_from(records.len()).unwrap_or(u64::MAX).saturating_mul(RECORD);
        Ok(Self { path, noted: records.into_iter().collect(), used })
    }

    /// Notes one; it is on the disk when this returns without an error.
    pub(super) fn note(&mut self, id: MitigationId) -> io::Result<()> {
        if self.noted.contains(&id) {
            return Ok(());
        }
        let file = owner::open(&self.path)?;
        file.write_all_at(&record_of(id), self.used)?;
        file.sync_all()?;
        self.used = self.used.saturating_add(RECORD);
        self.noted.insert(id);
        Ok(())
    }

    /// They are in the store now, or were never in it.
    pub(super) fn forget(&mut self, is_known: impl Fn(&MitigationId) -> bool) {
        if self.noted.is_empty() {
            return;
        }
        self.noted.retain(|id| !is_known(id));
        if self.noted.is_empty() {
            let zeros = vec![0; usize::try_from(self.used).unwrap_or_default()];
            self.used = 0;
            // What stays in the file ends nothing that is to be in force.
            if let Err(error) = owner::open(&self.path).and_then(|file| file.write_all_at(&zeros, 0)) {
                tracing::debug!("{}: {error}", self.path.display());
            }
        }
    }

    pub(super) const fn noted(&self) -> &BTreeSet<MitigationId> {
        &self.noted
    }
}

/// Ends what is stored as to be in force although an operator has ended it; the lines that have changed.
pub(super) fn end(contents: &mut Contents, noted: &BTreeSet<MitigationId>) -> Vec<Write> {
    let mut changed = Vec::new();
    for id in noted {
        if let Some(entry) = contents.mitigations.get_mut(id).filter(|entry| entry.is_wanted()) {
            let outcome = Some(Outcome::Withdrawn);
            let begun = Mitigation { failures: 0, retry_at: None, unproven: false, ..entry.clone() };
            *entry = Mitigation { state: State::Withdrawing, outcome, ..begun };
            tracing::warn!("mitigation {id} was withdrawn while the store took nothing: it ends");
            changed.push(Write::PutMitigation(entry.clone()));
        }
    }
    changed
}

fn record_of(id: MitigationId) -> [u8; 16] {
    (u128::from(id.0) << 64 | u128::from(!id.0)).to_be_bytes()
}

fn id_of(record: &[u8]) -> Option<MitigationId> {
    let id = MitigationId(u64::from_be_bytes(record.get(..8)?.try_into().ok()?));
    (record_of(id) == record).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_again_up_to_the_first_record_that_is_not_whole() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Ends::in_folder(folder.path()).unwrap();
        let found = |ends: &Ends| ends.noted().iter().map(|id| id.0).collect::<Vec<_>>();
        let mut ends = open();
        assert_eq!(found(&ends), [0; 0], "zeros are no id");
        for id in [0, 7, 7, u64::MAX] {
            ends.note(MitigationId(id)).unwrap();
        }
        assert_eq!(found(&open()), [0, 7, u64::MAX]);
        let path = folder.path().join("withdrawn");
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(found(&open()), [0]);
        let mut ends = open();
        ends.forget(|id| id.0 == 1);
        assert_eq!(found(&ends), [0]);
        ends.forget(|id| id.0 == 0);
        assert_eq!((found(&ends), found(&open())), (vec![], vec![]));
        ends.note(MitigationId(9)).unwrap();
        assert!(found(&open()).contains(&9));
    }
}
