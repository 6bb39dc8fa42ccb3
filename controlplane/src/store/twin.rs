//! The store's twin in memory, for the simulation: a disk that can be full, fail, lose what was not synced, and stop the
//! process at any write.
//!
//! The [`Disk`] outlives the process that is simulated; [`Disk::open`] is what a start does. It behaves as the store on
//! disk does, which the shared tests of both hold it to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::row::{self, Change, Stored};
use super::{Contents, KillSwitch, Store, StoreError, Write, ends};
use crate::ledger::MitigationId;

/// What goes wrong with one commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The disk reports an error; nothing is stored.
    Fails,
    /// The disk is full; nothing is stored.
    Full,
    /// The process ends before anything is stored.
    CrashBefore,
    /// The process ends when everything is stored, and before it learns so.
    CrashAfter,
    /// Said to be stored, and lost at the next crash: what a disk without `synchronous=FULL` does. A program that is
    /// right cannot survive this, a simulation that is right notices.
    Unsynced,
}

/// A simulated disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What a running process sees.
    rows: Rows,
    /// What a crash goes back to; none when everything was synced.
    synced: Option<Rows>,
    /// Counts the starts: a store of an earlier one writes no more.
    opened: u64,
    /// Whether the store of that start is still open.
    in_use: bool,
    /// How many commits there were, failed ones included.
    commits: u64,
    /// By the number of the commit.
    faults: BTreeMap<u64, Fault>,
    /// Room for so many bytes of keys and documents.
    room: Option<usize>,
    /// What was ended while nothing was stored; for ever, for ids are never given again.
    noted: BTreeSet<MitigationId>,
    /// How the kill switch is, beside the store.
    witness: Option<KillSwitch>,
}

type Rows = BTreeMap<(&'static str, String), String>;

/// The store on a [`Disk`], open.
#[derive(Debug)]
pub struct Twin {
    disk: Disk,
    opened: u64,
}

impl Disk {
    /// An empty one without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the start of a process does.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while another store is open on it.
    pub fn open(&self) -> Result<Twin, StoreError> {
        let mut state = self.state();
        if state.in_use {
            return Err(StoreError::Locked("the simulated disk is in use".to_owned()));
        }
        state.in_use = true;
        state.opened += 1;
        Ok(Twin { disk: self.clone(), opened: state.opened })
    }

    /// What `kill -9` or a power cut does: the store that is open is no longer, what was not synced is lost.
    pub fn crash(&self) {
        self.state().crash();
    }

    /// Whether the process has ended since its start: a fault did that, or [`Disk::crash`].
    pub fn has_crashed(&self) -> bool {
        !self.state().in_use
    }

    /// Lets the commit with this number go wrong; the first of a disk is number 0.
    pub fn fault_at(&self, commit: u64, fault: Fault) {
        self.state().faults.insert(commit, fault);
    }

    /// How many commits there were: the crash points that an enumeration goes through.
    pub fn commits(&self) -> u64 {
        self.state().commits
    }

    /// Leaves room for so many bytes of keys and documents, or without end.
    pub fn set_room(&self, bytes: Option<usize>) {
        self.state().room = bytes;
    }

    /// What a power cut now would leave.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn survives(&self) -> Result<Contents, StoreError> {
        let state = self.state();
        let rows = state.synced.as_ref().unwrap_or(&state.rows).iter();
        state
            .contents(rows.map(|((kind, key), document)| ((*kind).to_owned(), key.clone(), document.clone())).collect())
    }

    /// Another disk, with a copy of this one that was put back in the place of a store: what survives a power cut now, with
    /// the mark that a restored store has.
    #[must_use]
    pub fn restored(&self) -> Self {
        let state = self.state();
        let mut rows = state.synced.as_ref().unwrap_or(&state.rows).clone();
        rows.insert((row::RESTORED, row::ONLY.to_owned()), "true".to_owned());
        Self(Arc::new(Mutex::new(State { rows, ..State::default() })))
    }

    /// Takes the place of another, whose store is gone: what lay beside that lies beside this.
    pub fn instead_of(&self, other: &Self) {
        let other = {
            let other = other.state();
            (other.noted.clone(), other.witness.clone())
        };
        let mut state = self.state();
        (state.noted, state.witness) = other;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is made at once: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn crash(&mut self) {
        if let Some(synced) = self.synced.take() {
            self.rows = synced;
        }
        self.in_use = false;
    }

    fn contents(&self, rows: Vec<Stored>) -> Result<Contents, StoreError> {
        let mut contents = row::contents(rows)?;
        ends::end(&mut contents, &self.noted);
        // As the file beside a real store.
        if self.witness.as_ref().is_some_and(|state| state.engaged || contents.restored) {
            contents.kill_switch.clone_from(&self.witness);
        }
        Ok(contents)
    }

    fn store(&mut self, changes: Vec<Change>, is_synced: bool) -> Result<(), StoreError> {
        if let Some(room) = self.room {
            let mut rows = self.rows.clone();
            changes.iter().cloned().for_each(|change| apply(&mut rows, change));
            // As on a real disk: what makes room is always possible.
            if bytes(&rows) > room.max(bytes(&self.rows)) {
                return Err(full());
            }
        }
        if is_synced {
            // Syncing one write syncs all before it.
            self.synced = None;
        } else if self.synced.is_none() {
            self.synced = Some(self.rows.clone());
        }
        changes.into_iter().for_each(|change| apply(&mut self.rows, change));
        Ok(())
    }
}

fn apply(rows: &mut Rows, change: Change) {
    match change {
        Change::Put(kind, key, document) => drop(rows.insert((kind, key), document)),
        Change::Delete(kind, key) => drop(rows.remove(&(kind, key))),
        Change::DeleteUnder(kind, prefix) => rows.retain(|(of, key), _| !(*of == kind && key.starts_with(&prefix))),
    }
}

fn bytes(rows: &Rows) -> usize {
    rows.iter().map(|((_, key), document)| key.len() + document.len()).sum()
}

fn full() -> StoreError {
    StoreError::Full("the simulated disk has no room".to_owned())
}

fn crashed() -> StoreError {
    StoreError::Failed("the process has ended".to_owned())
}

impl Twin {
    fn check(&self, state: &State) -> Result<(), StoreError> {
        if state.in_use && state.opened == self.opened { Ok(()) } else { Err(crashed()) }
    }
}

impl Store for Twin {
    fn load(&mut self) -> Result<Contents, StoreError> {
        let state = self.disk.state();
        self.check(&state)?;
        let stored = state.rows.iter();
        let stored = stored.map(|((kind, key), document)| ((*kind).to_owned(), key.clone(), document.clone()));
        state.contents(stored.collect())
    }

    fn commit(&mut self, batch: &[Write]) -> Result<(), StoreError> {
        let mut state = self.disk.state();
        self.check(&state)?;
        if batch.is_empty() {
            return Ok(());
        }
        let changes = row::changes(batch)?;
        let number = state.commits;
        let fault = state.faults.remove(&number);
        state.commits += 1;
        let turned = batch.iter().rev().find_map(|write| match write {
            Write::PutKillSwitch(turned) => Some(turned.clone()),
            _ => None,
        });
        if turned.as_ref().is_some_and(|turned| turned.engaged) {
            state.witness.clone_from(&turned);
        }
        let outcome = match fault {
            None => state.store(changes, true),
            Some(Fault::Unsynced) => state.store(changes, false),
            Some(Fault::Fails) => Err(StoreError::Failed("the simulated disk reports an error".to_owned())),
            Some(Fault::Full) => Err(full()),
            Some(Fault::CrashBefore) => {
                state.crash();
                Err(crashed())
            }
            Some(Fault::CrashAfter) => {
                // A disk that is full crashes with nothing stored.
                let _ = state.store(changes, true);
                state.crash();
                Err(crashed())
            }
        };
        if turned.is_some() && outcome.is_ok() {
            state.witness = turned;
        }
        outcome
    }

    fn note_kill_switch(&mut self, engaged: &KillSwitch) -> Result<(), StoreError> {
        let mut state = self.disk.state();
        self.check(&state)?;
        state.witness = Some(engaged.clone());
        Ok(())
    }

    fn note_end(&mut self, id: MitigationId) -> Result<(), StoreError> {
        let mut state = self.disk.state();
        self.check(&state)?;
        state.noted.insert(id);
        Ok(())
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.opened == self.opened {
            state.in_use = false;
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::ledger::Id;

    fn put(id: u64) -> [Write; 1] {
        [Write::PutNextId(Id(id))]
    }

    fn stored(disk: &Disk) -> Option<Id> {
        disk.open().unwrap().load().unwrap().next_id
    }

    #[test]
    fn a_crash_at_any_write_leaves_it_whole_or_not_at_all() {
        for crash_at in 0..4 {
            for fault in [Fault::CrashBefore, Fault::CrashAfter] {
                let disk = Disk::new();
                disk.fault_at(crash_at, fault);
                let mut store = disk.open().unwrap();
                let committed = (1..=4).take_while(|id| store.commit(&put(*id)).is_ok()).count() as u64;
                assert_eq!((committed, disk.has_crashed(), disk.commits()), (crash_at, true, crash_at + 1));
                store.commit(&put(99)).unwrap_err();
                store.load().unwrap_err();
                let expected = crash_at + u64::from(fault == Fault::CrashAfter);
                assert_eq!(stored(&disk), (expected > 0).then_some(Id(expected)));
                store.commit(&put(99)).unwrap_err();
                assert_eq!(stored(&disk), (expected > 0).then_some(Id(expected)), "a dead process writes no more");
            }
        }
    }

    #[test]
    fn what_was_not_synced_is_there_until_a_crash_or_until_the_next_sync() {
        let disk = Disk::new();
        [1, 2, 4].into_iter().for_each(|commit| disk.fault_at(commit, Fault::Unsynced));
        let mut store = disk.open().unwrap();
        (1..=3).for_each(|id| store.commit(&put(id)).unwrap());
        assert_eq!(store.load().unwrap().next_id, Some(Id(3)));
        disk.crash();
        assert_eq!(stored(&disk), Some(Id(1)));
        let mut store = disk.open().unwrap();
        store.commit(&put(4)).unwrap();
        store.commit(&put(5)).unwrap();
        store.commit(&put(6)).unwrap();
        disk.crash();
        assert_eq!(stored(&disk), Some(Id(6)));
    }

    #[test]
    fn a_full_or_failing_disk_stores_nothing_and_lets_delete() {
        let disk = Disk::new();
        let mut store = disk.open().unwrap();
        store.commit(&[Write::PutNextId(Id(1)), Write::PutPosition(Default::default())]).unwrap();
        disk.set_room(Some(0));
        assert!(matches!(store.commit(&put(10_000)), Err(StoreError::Full(_))));
        store.commit(&[Write::DeleteIncident(crate::ledger::IncidentId(1))]).unwrap();
        disk.set_room(None);
        disk.fault_at(disk.commits(), Fault::Fails);
        assert!(matches!(store.commit(&put(2)), Err(StoreError::Failed(_))));
        disk.fault_at(disk.commits(), Fault::Full);
        assert!(matches!(store.commit(&put(2)), Err(StoreError::Full(_))));
        assert_eq!(store.load().unwrap().next_id, Some(Id(1)));
        store.commit(&put(2)).unwrap();
        drop(store);
        assert_eq!(stored(&disk), Some(Id(2)));
    }
}
