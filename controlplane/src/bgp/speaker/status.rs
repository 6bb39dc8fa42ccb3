//! How a session is, for people, programs and drivers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::connection::{Negotiated, State};
use crate::ledger::MitigationId;

/// How a session is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// How far the best of its connections is; none while there is none.
    pub state: Option<State>,
    /// What both can do, while it is established.
    pub negotiated: Option<Negotiated>,
    /// When it was established or lost last, on the speaker's clock.
    pub since: Duration,
    /// How often it was established.
    pub established: u64,
    /// Why it ended or could not begin, the last time.
    pub error: Option<String>,
    /// Everything up to this version of what shall be announced has been acknowledged by the peer's TCP.
    pub told: u64,
    /// The measures that the peer was told, each of them one route: its TCP has acknowledged them.
    pub ids: Ids,
    /// What it was not told, and why.
    pub withheld: BTreeMap<MitigationId, String>,
    /// Since when its TCP has acknowledged nothing although something waits for that, on the speaker's clock; none while that is
    /// no more than a moment.
    pub stuck: Option<Duration>,
    /// How often the send hold time has ended the session.
    pub stalls: u64,
    /// UPDATEs that were written.
    pub updates_sent: u64,
    /// UPDATEs of the peer, of which nothing is imported.
    pub updates_ignored: u64,
    /// UPDATEs of the peer that were not right, and tolerated.
    pub updates_malformed: u64,
    /// Until then the peer may keep what it was told before the session was lost, also by the process before this one, on the
    /// speaker's clock. None once its TCP has acknowledged everything over the session that there is.
    pub retained_until: Option<Duration>,
}

/// The measures that were told over one session. Clones are the same: they can be many, and each change is small.
#[derive(Clone, Debug, Default)]
pub struct Ids(Arc<Mutex<BTreeSet<MitigationId>>>);

impl PartialEq for Ids {
    /// True for those of the same session.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Ids {}

impl Ids {
    fn set(&self) -> MutexGuard<'_, BTreeSet<MitigationId>> {
        // Each change is made at once: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a measure was told.
    pub fn contains(&self, id: MitigationId) -> bool {
        self.set().contains(&id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.set().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.set().is_empty()
    }

    /// One was told instead of another.
    pub(super) fn replace(&self, before: Option<MitigationId>, now: Option<MitigationId>) {
        let mut set = self.set();
        if let Some(before) = before {
            set.remove(&before);
        }
        set.extend(now);
    }
}

impl Status {
    /// Routes are being told.
    pub fn is_established(&self) -> bool {
        self.state == Some(State::Established)
    }

    /// What is wrong, in words for an operator.
    pub fn trouble(&self) -> String {
        match (&self.error, self.state) {
            (_, Some(State::Established)) => "established".to_owned(),
            (Some(error), _) => error.clone(),
            (None, Some(_)) => "the session is being opened".to_owned(),
            (None, None) => "no connection yet".to_owned(),
        }
    }
}
