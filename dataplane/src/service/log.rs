//! The last events, kept so that a client can go on where it stopped.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::dataplane::v1::event::What;
use tokio::sync::watch;

/// How many events are kept: minutes of a busy attack, days of peace.
const KEPT: usize = 65_536;

/// A ring of events without holes.
pub(super) struct EventLog {
    boot_id: String,
    events: Mutex<VecDeque<contract::Event>>,
    newest: watch::Sender<u64>,
    /// The last event that was told, on its way to here.
    told: Arc<AtomicU64>,
}

impl EventLog {
    pub(super) fn new(boot_id: String, told: Arc<AtomicU64>) -> Self {
        Self { boot_id, events: Mutex::default(), newest: watch::Sender::new(0), told }
    }

    pub(super) fn push(&self, event: contract::Event) {
        let sequence = event.sequence;
        let mut events = self.events();
        if events.back().is_some_and(|last| last.sequence + 1 != sequence) {
            // Nobody can go on across a hole: who is not past it gets a gap, as after falling behind.
            events.clear();
        }
        if events.len() == KEPT {
            events.pop_front();
        }
        events.push_back(event);
        drop(events);
        self.newest.send_replace(sequence);
    }

    /// Where a client starts that has nothing, or nothing that can be continued from.
    pub(super) fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// Resolves when there is something newer than what the receiver has seen.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Up to `most` events after a sequence number; `None` when some of them are lost, or it was never told.
    pub(super) fn after(&self, sequence: u64, most: usize) -> Option<Vec<contract::Event>> {
        if sequence > self.told.load(Ordering::Acquire) {
            return None;
        }
        let events = self.events();
        let Some(oldest) = events.front().map(|event| event.sequence) else { return Some(Vec::new()) };
        let skip = usize::try_from((sequence + 1).checked_sub(oldest)?).unwrap_or(usize::MAX);
        Some(events.iter().skip(skip).take(most).cloned().collect())
    }

    /// Tells a client that it has to take a snapshot before it goes on after `sequence`.
    pub(super) fn gap(&self, sequence: u64, reason: &str) -> contract::Event {
        let what = What::Gap(contract::Gap { reason: reason.to_owned() });
        contract::Event { boot_id: self.boot_id.clone(), sequence, what: Some(what), ..Default::default() }
    }

    fn events(&self) -> MutexGuard<'_, VecDeque<contract::Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(sequences: impl IntoIterator<Item = u64>) -> EventLog {
        let log = EventLog::new("boot".into(), Arc::default());
        for sequence in sequences {
            log.told.store(sequence, Ordering::Release);
            log.push(contract::Event { sequence, ..Default::default() });
        }
        log
    }

    fn sequences(log: &EventLog, after: u64, most: usize) -> Option<Vec<u64>> {
        log.after(after, most).map(|events| events.iter().map(|event| event.sequence).collect())
    }

    #[test]
    fn a_client_goes_on_where_it_stopped() {
        let log = log(1..=5);
        assert_eq!(sequences(&log, 0, 9), Some(vec![1, 2, 3, 4, 5]));
        assert_eq!(sequences(&log, 3, 1), Some(vec![4]));
        assert_eq!(sequences(&log, 5, 9), Some(vec![]));
        assert_eq!(sequences(&log, 6, 9), None, "events that do not exist were never seen");
    }

    #[test]
    fn an_empty_log_has_only_its_beginning() {
        let log = log([]);
        assert_eq!(sequences(&log, 0, 9), Some(vec![]));
        assert_eq!(sequences(&log, 1, 9), None);
    }

    #[test]
    fn an_event_that_is_on_its_way_is_waited_for() {
        let log = log([1, 2]);
        log.told.store(4, Ordering::Release);
        assert_eq!(sequences(&log, 4, 9), Some(vec![]));
        assert_eq!(sequences(&log, 5, 9), None);
    }

    #[test]
    fn who_fell_behind_or_stands_before_a_hole_is_told() {
        let long = log(1..=KEPT as u64 + 10);
        assert_eq!(sequences(&long, 9, 1), None);
        assert_eq!(sequences(&long, 10, 1), Some(vec![11]));
        let holed = log([1, 2, 5, 6]);
        assert_eq!(sequences(&holed, 2, 9), None);
        assert_eq!(sequences(&holed, 4, 9), Some(vec![5, 6]));
    }
}
