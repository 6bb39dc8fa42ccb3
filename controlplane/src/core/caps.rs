//! How much is kept at most, whatever retention says: what an attack can make many of must not fill memory or disk. The
//! oldest goes first, and how much went before its time is counted and told.

use super::{Core, Step};
use crate::ledger::{IncidentId, MitigationId};
use crate::notify::MessageId;
use crate::store::Write;

/// Forgotten in one tick at most, of each kind: a step stays short.
const AT_ONCE: usize = 200;

/// The limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caps {
    /// Incidents that are closed.
    pub(super) closed: usize,
    /// Entries of the timelines of all incidents together: beyond them the oldest closed incidents go.
    pub(super) entries: u64,
    /// Mitigations that have ended.
    pub(super) ended: usize,
    /// Messages that have ended.
    pub(super) sent: usize,
    /// Answers to requests.
    pub(super) requests: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self { closed: 20_000, entries: 2_000_000, ended: 200_000, sent: 50_000, requests: 20_000 }
    }
}

/// What was forgotten before its time, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Forgotten {
    incidents: u64,
    mitigations: u64,
    messages: u64,
    requests: u64,
}

impl Core {
    pub(super) fn keep_within_caps(&mut self, step: &mut Step) {
        let caps = self.caps;
        let incidents = self.oldest_closed(caps);
        count(&mut self.forgotten.incidents, incidents.len());
        for id in incidents {
            self.incidents.forget(id, &mut step.writes);
        }
        let mitigations = self.oldest_ended(caps.ended);
        count(&mut self.forgotten.mitigations, mitigations.len());
        for id in mitigations {
            self.ledger.forget(id, &mut step.writes);
        }
        let sent = self.sent.iter().map(|(id, at)| ((at.wall, at.monotonic), id));
        let messages: Vec<MessageId> = oldest(sent, self.sent.len(), caps.sent);
        count(&mut self.forgotten.messages, messages.len());
        for id in messages {
            self.sent.remove(&id);
            step.writes.push(Write::DeleteMessage(id));
        }
        let requests = self.requests.values().map(|request| ((request.at.wall, request.at.monotonic), &request.id));
        let requests: Vec<String> = oldest(requests, self.requests.len(), caps.requests);
        count(&mut self.forgotten.requests, requests.len());
        for id in requests {
            self.requests.remove(&id);
            step.writes.push(Write::DeleteRequest(id));
        }
    }

    fn oldest_closed(&self, caps: Caps) -> Vec<IncidentId> {
        let mut excess = self.incidents.closed_count().saturating_sub(caps.closed);
        let mut entries = self.incidents.entry_count().saturating_sub(caps.entries);
        if excess == 0 && entries == 0 {
            return Vec::new();
        }
        let closed = self.incidents.iter().filter(|incident| !incident.is_open()).take(AT_ONCE);
        let goes = closed.take_while(|incident| {
            let goes = excess > 0 || entries > 0;
            excess = excess.saturating_sub(1);
            entries = entries.saturating_sub(u64::from(incident.next_entry));
            goes
        });
        goes.map(|incident| incident.id).collect()
    }

    fn oldest_ended(&self, most: usize) -> Vec<MitigationId> {
        let excess = self.ledger.ended_count().saturating_sub(most).min(AT_ONCE);
        if excess == 0 {
            return Vec::new();
        }
        let ended = self.ledger.iter().filter(|entry| entry.has_ended());
        ended.take(excess).map(|entry| entry.id).collect()
    }

    /// What went before its time, in words.
    pub(super) fn forgotten_in_words(&self) -> Vec<String> {
        let Forgotten { incidents, mitigations, messages, requests } = self.forgotten;
        let Caps { closed, entries, ended, sent, requests: answers } = self.caps;
        let words = [
            (
                incidents,
                format!("closed incidents: no more than {closed}, and {entries} entries of timelines, are kept"),
            ),
            (mitigations, format!("ended mitigations: no more than {ended} are kept")),
            (messages, format!("messages that were sent: no more than {sent} are kept")),
            (
                requests,
                format!(
                    "answers to requests, which would be carried out if they were repeated: no more than {answers} are kept"
                ),
            ),
        ];
        let told = words.into_iter().filter(|(count, _)| *count > 0);
        let mut told: Vec<String> =
            told.map(|(count, words)| format!("{count} were forgotten before their time, of {words}")).collect();
        if self.incidents.hosts_left_out > 0 {
            told.push(format!(
                "{} attacked hosts are not kept by address: each attack on a prefix has room for so many",
                self.incidents.hosts_left_out
            ));
        }
        if self.incidents.entries_not_held > 0 {
            told.push(format!(
                "{} entries of timelines had no room, with so many incidents open",
                self.incidents.entries_not_held
            ));
        }
        told
    }
}

/// What is oldest of more than `most`.
fn oldest<'i, T: Clone + 'i, K: Ord>(all: impl Iterator<Item = (K, &'i T)>, count: usize, most: usize) -> Vec<T> {
    let excess = count.saturating_sub(most).min(AT_ONCE);
    if excess == 0 {
        return Vec::new();
    }
    let mut all: Vec<(K, &T)> = all.collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all.into_iter().take(excess).map(|(_, id)| id.clone()).collect()
}

fn count(counter: &mut u64, more: usize) {
    *counter = counter.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
}
