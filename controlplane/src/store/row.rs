//! What is stored, as rows of kind, key and document: the same for the file and for its twin in memory.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;
use super::record::{Contents, Write};
use crate::ledger::IncidentId;

/// A row as it is read: kind, key, document.
pub(super) type Stored = (String, String, String);

/// One change of the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Replaces what is there.
    Put(&'static str, String, String),
    /// What is not there is no error.
    Delete(&'static str, String),
    /// Every key that begins so.
    DeleteUnder(&'static str, String),
}

const INCIDENT: &str = "incident";
const TIMELINE: &str = "timeline";
const RUNBOOK: &str = "runbook";
const MITIGATION: &str = "mitigation";
const MESSAGE: &str = "message";
const REQUEST: &str = "request";
const POSITION: &str = "position";
const KILL_SWITCH: &str = "kill_switch";
pub(super) const NEXT_ID: &str = "next_id";
pub(super) const RESTORED: &str = "restored";
/// The key of kinds of which there is one.
pub(super) const ONLY: &str = "";

/// The changes that a batch of writes amounts to.
pub(super) fn changes(batch: &[Write]) -> Result<Vec<Change>, StoreError> {
    let mut changes = Vec::with_capacity(batch.len());
    for write in batch {
        match write {
            Write::PutIncident(incident) => changes.push(put(INCIDENT, number(incident.id.0), incident)?),
            Write::DeleteIncident(id) => changes.extend([
                Change::Delete(INCIDENT, number(id.0)),
                Change::Delete(RUNBOOK, number(id.0)),
                Change::DeleteUnder(TIMELINE, of_incident(*id)),
            ]),
            Write::AppendTimeline(entry) => {
                let key = format!("{}{:010}", of_incident(entry.incident), entry.number);
                changes.push(put(TIMELINE, key, entry)?);
            }
            Write::PutRunbook(state) => changes.push(put(RUNBOOK, number(state.incident.0), state)?),
            Write::DeleteRunbook(id) => changes.push(Change::Delete(RUNBOOK, number(id.0))),
            Write::PutMitigation(mitigation) => changes.push(put(MITIGATION, number(mitigation.id.0), mitigation)?),
            Write::DeleteMitigation(id) => changes.push(Change::Delete(MITIGATION, number(id.0))),
            Write::PutMessage(message) => changes.push(put(MESSAGE, message.id.0.clone(), message)?),
            Write::DeleteMessage(id) => changes.push(Change::Delete(MESSAGE, id.0.clone())),
            Write::PutRequest(request) => changes.push(put(REQUEST, request.id.clone(), request)?),
            Write::DeleteRequest(id) => changes.push(Change::Delete(REQUEST, id.clone())),
            Write::PutPosition(position) => changes.push(put(POSITION, ONLY.to_owned(), position)?),
            Write::PutKillSwitch(kill_switch) => changes.push(put(KILL_SWITCH, ONLY.to_owned(), kill_switch)?),
            Write::PutNextId(id) => changes.push(put(NEXT_ID, ONLY.to_owned(), id)?),
            Write::PutRestored(true) => changes.push(put(RESTORED, ONLY.to_owned(), &true)?),
            Write::PutRestored(false) => changes.push(Change::Delete(RESTORED, ONLY.to_owned())),
        }
    }
    Ok(changes)
}

/// What the rows mean. A document that this version cannot read stays where it is and is told: a measure that it describes
/// is found by its owner tag.
///
/// # Errors
/// When what cannot be read is something that must not be guessed: the kill switch, the ids already given.
pub(super) fn contents(rows: Vec<Stored>) -> Result<Contents, StoreError> {
    /// As many as somebody reads.
    const TOLD: u32 = 10;
    let mut contents = Contents::default();
    let mut unreadable = 0_u32;
    for (kind, key, document) in rows {
        let Err(error) = add(&mut contents, &kind, &document) else { continue };
        if key == ONLY {
            return Err(StoreError::Damaged(format!("the record {kind} cannot be read: {error}")));
        }
        unreadable += 1;
        if unreadable <= TOLD {
            tracing::error!("the {kind} {key} in the store cannot be read and is left out: {error}");
        }
    }
    if unreadable > TOLD {
        tracing::error!("{unreadable} records in the store cannot be read and are left out");
    }
    Ok(contents)
}

fn add(contents: &mut Contents, kind: &str, document: &str) -> Result<(), String> {
    let write = match kind {
        INCIDENT => Write::PutIncident(read(document)?),
        TIMELINE => Write::AppendTimeline(read(document)?),
        RUNBOOK => Write::PutRunbook(read(document)?),
        MITIGATION => Write::PutMitigation(read(document)?),
        MESSAGE => Write::PutMessage(read(document)?),
        REQUEST => Write::PutRequest(read(document)?),
        POSITION => Write::PutPosition(read(document)?),
        KILL_SWITCH => Write::PutKillSwitch(read(document)?),
        NEXT_ID => Write::PutNextId(read(document)?),
        RESTORED => Write::PutRestored(read(document)?),
        _ => return Err("this version of Levee knows no such kind of record".to_owned()),
    };
    contents.apply(&write);
    Ok(())
}

fn read<T: DeserializeOwned>(document: &str) -> Result<T, String> {
    serde_json::from_str(document).map_err(|error| error.to_string())
}

fn put<T: Serialize>(kind: &'static str, key: String, document: &T) -> Result<Change, StoreError> {
    let document = serde_json::to_string(document);
    let document = document.map_err(|error| StoreError::Failed(format!("a {kind} cannot be written down: {error}")))?;
    Ok(Change::Put(kind, key, document))
}

/// Sorts as the number does.
fn number(id: u64) -> String {
    format!("{id:020}")
}

/// Kind, first key and what is behind the last key of the timeline of an incident.
pub(super) fn timeline_of(id: IncidentId) -> (&'static str, String, String) {
    // '0' is what comes behind '/'.
    (TIMELINE, of_incident(id), format!("{id:020}0", id = id.0))
}

fn of_incident(id: IncidentId) -> String {
    format!("{id:020}/", id = id.0)
}
