//! How a store behaves: the same tests for the one on disk and for its twin.

use std::path::Path;
use std::time::{Duration, SystemTime};

use levee_api::filter::Target;
use proptest::prelude::*;
use serde_json::json;

use super::{Contents, Disk, KillSwitch, Position, Request, RunbookState, SqliteStore, Store, StoreError, Write};
use crate::actor::Actor;
use crate::clock::{Deadline, Now, UnixTime};
use crate::driver::DriverName;
use crate::incident::{Incident, Phase, Severity, TimelineEntry, TimelineKind};
use crate::ledger::{Direction, Id, IncidentId, Mitigation, MitigationId, Outcome, Spec, State};
use crate::notify::{Message, MessageId, Topic};

pub(super) const NOON: SystemTime = SystemTime::UNIX_EPOCH;

/// Where a store is, open or not.
trait Place {
    fn open(&self) -> Result<Box<dyn Store>, StoreError>;
}

impl Place for tempfile::TempDir {
    fn open(&self) -> Result<Box<dyn Store>, StoreError> {
        SqliteStore::open(self.path(), NOON).map(|(store, _)| Box::new(store) as Box<dyn Store>)
    }
}

impl Place for Disk {
    fn open(&self) -> Result<Box<dyn Store>, StoreError> {
        Disk::open(self).map(|store| Box::new(store) as Box<dyn Store>)
    }
}

/// The behaviour of both, each under its own name.
macro_rules! behaviour {
    ($($name:ident,)*) => {
        mod sqlite { $(#[test] fn $name() { super::$name(&tempfile::tempdir().unwrap()); })* }
        mod twin { $(#[test] fn $name() { super::$name(&super::Disk::new()); })* }
    };
}

behaviour! {
    an_empty_store_holds_nothing,
    what_was_committed_is_there_after_a_restart,
    putting_again_replaces_and_deleting_what_is_not_there_is_nothing,
    an_incident_goes_with_its_timeline_and_its_runbook_and_no_other,
    a_store_has_one_user,
    an_end_that_was_noted_beside_the_store_holds_over_restarts,
    a_kill_switch_that_was_noted_beside_the_store_holds_over_restarts_until_it_is_released,
    any_sequence_of_writes_reads_as_it_was_applied,
}

pub(super) fn now(seconds: u64) -> Now {
    Now { wall: UnixTime(seconds * 1_000_000_000), ..Now::default() }
}

pub(super) fn incident(id: u64, host: u8) -> Incident {
    Incident {
        id: IncidentId(id),
        target: Target { zone: "web \u{1f600} \"\\".into(), prefix: Some(format!("192.0.2.{host}").parse().unwrap()) },
        opened: now(id),
        phase: Phase::Attack,
        severity: Severity::High,
        vectors: vec![],
        roles: vec![],
        anomalies: vec![],
        rates: Default::default(),
        peak: Default::default(),
        hosts: vec![],
        host_count: 0,
        merged_into: None,
        runbook: None,
        next_entry: 0,
        entries_left_out: 0,
    }
}

pub(super) fn entry(incident: u64, number: u32) -> TimelineEntry {
    TimelineEntry {
        incident: IncidentId(incident),
        number,
        at: now(7),
        kind: TimelineKind::Opened,
        text: "text".into(),
        actor: Some(Actor::levee("test")),
        stage: None,
        mitigation: None,
    }
}

pub(crate) fn mitigation(id: u64, state: State) -> Mitigation {
    let prefix = "192.0.2.7/32".parse().unwrap();
    Mitigation {
        id: MitigationId(id),
        driver: DriverName("core-a".into()),
        spec: Spec::Blackhole { prefix, direction: Direction::Destination },
        zone: "web".into(),
        incident: None,
        stage: None,
        asked_by: Actor::levee("test"),
        reason: "because".into(),
        created: now(1),
        begun: None,
        deadline: Deadline::after(&now(1), Duration::from_secs(60)),
        renewals: 0,
        state,
        since: now(1),
        outcome: None,
        evidence: None,
        touched: false,
        failures: 0,
        retry_at: None,
        error: None,
        appliance: None,
        effect: None,
        unproven: false,
    }
}

pub(super) fn message(id: &str) -> Message {
    Message {
        id: MessageId(id.into()),
        channel: "noc".into(),
        incident: Some(IncidentId(1)),
        number: 1,
        topic: Topic::IncidentOpened,
        created: now(3),
        subject: "subject".into(),
        text: "text".into(),
        data: json!({ "a": [1, 2.5, null] }),
        failures: 0,
        retry_at: None,
        error: None,
        ended: None,
    }
}

fn request(id: &str, answer: &str) -> Request {
    let actor = Actor::levee("test");
    Request { id: id.into(), actor, at: now(4), digest: "digest".into(), answer: answer.into() }
}

fn runbook(incident: u64, state: u8) -> RunbookState {
    RunbookState { incident: IncidentId(incident), runbook: "standard".into(), state: json!({ "stage": state }) }
}

fn an_empty_store_holds_nothing(place: &dyn Place) {
    let mut store = place.open().unwrap();
    assert_eq!(store.load().unwrap(), Contents::default());
    store.commit(&[]).unwrap();
    assert_eq!(store.load().unwrap(), Contents::default());
}

fn what_was_committed_is_there_after_a_restart(place: &dyn Place) {
    let mut store = place.open().unwrap();
    let batches = [
        vec![
            Write::PutIncident(incident(1, 9)),
            Write::AppendTimeline(entry(1, 0)),
            Write::AppendTimeline(entry(1, 1)),
            Write::PutRunbook(runbook(1, 2)),
            Write::PutMitigation(mitigation(2, State::Planned)),
            Write::PutMessage(message("a")),
            Write::PutRequest(request("Add/1", "yes")),
        ],
        vec![
            Write::PutPosition(Position { boot_id: "run".into(), sequence: u64::MAX }),
            Write::PutKillSwitch(KillSwitch {
                engaged: true,
                by: Actor::levee("test"),
                at: now(9),
                reason: "because".into(),
            }),
            Write::PutNextId(Id(3)),
        ],
    ];
    let mut expected = Contents::default();
    for batch in &batches {
        store.commit(batch).unwrap();
        batch.iter().for_each(|write| expected.apply(write));
        assert_eq!(store.load().unwrap(), expected);
    }
    drop(store);
    assert_eq!(place.open().unwrap().load().unwrap(), expected);
    assert_eq!((expected.timeline.len(), expected.mitigations.len(), expected.next_id), (2, 1, Some(Id(3))));
}

fn putting_again_replaces_and_deleting_what_is_not_there_is_nothing(place: &dyn Place) {
    let mut store = place.open().unwrap();
    for state in [State::Planned, State::Active] {
        store.commit(&[Write::PutMitigation(mitigation(2, state))]).unwrap();
    }
    let found = store.load().unwrap();
    assert_eq!(found.mitigations.values().map(|found| found.state).collect::<Vec<_>>(), [State::Active]);
    for _ in 0..2 {
        store
            .commit(&[
                Write::DeleteMitigation(MitigationId(2)),
                Write::DeleteMessage(MessageId("nobody".into())),
                Write::DeleteRequest("nobody".into()),
                Write::DeleteIncident(IncidentId(77)),
                Write::DeleteRunbook(IncidentId(77)),
            ])
            .unwrap();
        assert_eq!(store.load().unwrap(), Contents::default());
    }
}

fn an_incident_goes_with_its_timeline_and_its_runbook_and_no_other(place: &dyn Place) {
    let mut store = place.open().unwrap();
    // Numbers of which one begins as another does.
    for id in [1, 10, 11, 12] {
        let entries = (0..12).map(|number| Write::AppendTimeline(entry(id, number)));
        let other = [Write::PutIncident(incident(id, 9)), Write::PutRunbook(runbook(id, 1))];
        store.commit(&other.into_iter().chain(entries).collect::<Vec<_>>()).unwrap();
    }
    store.commit(&[Write::DeleteIncident(IncidentId(1))]).unwrap();
    let left = store.load().unwrap();
    assert_eq!(left.incidents.keys().map(|id| id.0).collect::<Vec<_>>(), [10, 11, 12]);
    assert_eq!((left.runbooks.len(), left.timeline.len()), (3, 36));
    let numbers: Vec<u32> = left.timeline.keys().filter(|(id, _)| id.0 == 10).map(|(_, number)| *number).collect();
    assert_eq!(numbers, (0..12).collect::<Vec<_>>());
}

fn a_kill_switch_that_was_noted_beside_the_store_holds_over_restarts_until_it_is_released(place: &impl Place) {
    let switch = |engaged| KillSwitch { engaged, by: Actor::levee("test"), at: now(1), reason: String::new() };
    place.open().unwrap().note_kill_switch(&switch(true)).unwrap();
    for _ in 0..2 {
        assert_eq!(place.open().unwrap().load().unwrap().kill_switch, Some(switch(true)));
    }
    place.open().unwrap().commit(&[Write::PutKillSwitch(switch(false))]).unwrap();
    assert_eq!(place.open().unwrap().load().unwrap().kill_switch, Some(switch(false)));
}

fn an_end_that_was_noted_beside_the_store_holds_over_restarts(place: &impl Place) {
    let put = |id, state| Write::PutMitigation(mitigation(id, state));
    let mut store = place.open().unwrap();
    store.commit(&[put(1, State::Active), put(2, State::Active), put(3, State::Ended)]).unwrap();
    for id in [1, 3, 99] {
        store.note_end(MitigationId(id)).unwrap();
    }
    drop(store);
    for _ in 0..2 {
        let mut store = place.open().unwrap();
        let ledger = store.load().unwrap().mitigations;
        let states: Vec<State> = ledger.values().map(|entry| entry.state).collect();
        assert_eq!(states, [State::Withdrawing, State::Active, State::Ended]);
        assert_eq!(ledger[&MitigationId(1)].outcome, Some(Outcome::Withdrawn));
        store.commit(&[Write::PutNextId(Id(4))]).unwrap();
    }
}

fn a_store_has_one_user(place: &dyn Place) {
    let first = place.open().unwrap();
    let error = place.open().err().unwrap();
    assert!(matches!(&error, StoreError::Locked(text) if text.contains("in use")), "{error}");
    drop(first);
    place.open().unwrap();
}

fn writes() -> impl Strategy<Value = Vec<Vec<Write>>> {
    let states = [State::Planned, State::Active, State::Ended];
    let write = prop_oneof![
        (0..4_u64, any::<u8>()).prop_map(|(id, host)| Write::PutIncident(incident(id, host))),
        (0..4_u64).prop_map(|id| Write::DeleteIncident(IncidentId(id))),
        (0..4_u64, 0..3_u32).prop_map(|(id, number)| Write::AppendTimeline(entry(id, number))),
        (0..4_u64, any::<u8>()).prop_map(|(id, state)| Write::PutRunbook(runbook(id, state))),
        (0..4_u64).prop_map(|id| Write::DeleteRunbook(IncidentId(id))),
        (0..4_u64, 0..3_usize).prop_map(move |(id, state)| Write::PutMitigation(mitigation(id, states[state]))),
        (0..4_u64).prop_map(|id| Write::DeleteMitigation(MitigationId(id))),
        "[ab%_'\u{e9}]{0,2}".prop_map(|id| Write::PutMessage(message(&id))),
        "[ab%_'\u{e9}]{0,2}".prop_map(|id| Write::DeleteMessage(MessageId(id))),
        ("[ab]{1,2}", any::<String>()).prop_map(|(id, answer)| Write::PutRequest(request(&id, &answer))),
        "[ab]{1,2}".prop_map(Write::DeleteRequest),
        any::<u64>().prop_map(|sequence| Write::PutPosition(Position { boot_id: "run".into(), sequence })),
        any::<u64>().prop_map(|id| Write::PutNextId(Id(id))),
    ];
    prop::collection::vec(prop::collection::vec(write, 0..6), 0..10)
}

fn any_sequence_of_writes_reads_as_it_was_applied(place: &dyn Place) {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 24, ..Default::default() });
    let checked = runner.run(&writes(), |batches| {
        let mut store = place.open().unwrap();
        let mut contents = store.load().unwrap();
        for batch in &batches {
            store.commit(batch).unwrap();
            batch.iter().for_each(|write| contents.apply(write));
        }
        drop(store);
        prop_assert_eq!(place.open().unwrap().load().unwrap(), contents);
        Ok(())
    });
    checked.unwrap();
}

/// Opens the store of a folder and says what is in it.
pub(super) fn contents_of(folder: &Path) -> Contents {
    SqliteStore::open(folder, NOON).unwrap().0.load().unwrap()
}
