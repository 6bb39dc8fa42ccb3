//! The one-shots, with receivers that fail, lie and are not there.

use std::sync::Arc;
use std::time::Duration;

use levee_api::time::Timestamp;

use crate::actor::Actor;
use crate::clock::{BootId, Deadline, Now};
use crate::driver::{
    Answer, Asked, Capabilities, Double, Driver, DriverError, DriverName, Misbehaviour, Observed, OperationKey,
    OwnerTag, Receiver,
};
use crate::ledger::{Direction, Evidence, Kind, Mitigation, MitigationId, Outcome, Spec, State};
use crate::store::{Contents, Disk, Fault, Store, Write};
use crate::withdraw::{Report, sweep_with, withdraw_all_with};

fn at(seconds: u64) -> Now {
    Now { boot: BootId(1), monotonic: Timestamp(0), ..Now::default() }.after(Duration::from_secs(seconds))
}

fn spec() -> Spec {
    Spec::Blackhole { prefix: "192.0.2.7/32".parse().unwrap(), direction: Direction::Destination }
}

/// Touched, active, and over so many seconds after the beginning.
fn mitigation(id: u64, ends: u64) -> Mitigation {
    Mitigation {
        id: MitigationId(id),
        driver: DriverName("core-a".into()),
        spec: spec(),
        zone: "web".into(),
        incident: None,
        stage: None,
        asked_by: Actor::levee("test"),
        reason: "because".into(),
        created: at(0),
        begun: None,
        deadline: Deadline::after(&at(0), Duration::from_secs(ends)),
        renewals: 0,
        state: State::Active,
        since: at(0),
        outcome: None,
        evidence: None,
        touched: true,
        failures: 0,
        retry_at: None,
        error: None,
        appliance: None,
        effect: None,
        unproven: false,
    }
}

fn tag(appliance: &str, id: u64) -> OwnerTag {
    OwnerTag { appliance: appliance.into(), id: MitigationId(id) }
}

struct Site {
    disk: Disk,
    receiver: Receiver,
    drivers: Vec<Arc<dyn Driver>>,
}

impl Site {
    /// Everything of the ledger is in force.
    fn new(ledger: Vec<Mitigation>) -> Self {
        let (disk, receiver) = (Disk::new(), Receiver::default());
        receiver.change(|in_force| {
            for entry in ledger.iter().filter(|entry| entry.touched) {
                in_force.insert(tag("edge-1", entry.id.0), (entry.spec.clone(), Duration::ZERO));
            }
        });
        let writes: Vec<Write> = ledger.into_iter().map(Write::PutMitigation).collect();
        disk.open().unwrap().commit(&writes).unwrap();
        let capabilities =
            Capabilities { kinds: vec![Kind::Blackhole], ipv4: true, observe: true, ..Default::default() };
        let driver = Double::new("core-a", "edge-1", capabilities, receiver.clone());
        Self { disk, receiver, drivers: vec![Arc::new(driver)] }
    }

    fn contents(&self) -> Contents {
        self.disk.open().unwrap().load().unwrap()
    }

    async fn sweep(&self, now: u64) -> Report {
        let mut store = self.disk.open().unwrap();
        let contents = store.load().unwrap();
        sweep_with(&mut store, &contents, "edge-1", &self.drivers, &at(now)).await
    }

    async fn withdraw_all(&self, now: u64) -> Report {
        let mut store = self.disk.open().unwrap();
        let contents = store.load().unwrap();
        withdraw_all_with(Some(&mut store), &contents, "edge-1", &self.drivers, &at(now)).await
    }

    fn in_force(&self) -> Vec<u64> {
        self.receiver.in_force().into_keys().map(|tag| tag.id.0).collect()
    }
}

fn withdrawn(ids: &[u64]) -> Report {
    Report { withdrawn: ids.iter().map(|id| MitigationId(*id)).collect(), left: Vec::new() }
}

fn busy() -> Misbehaviour {
    Misbehaviour::Fails(DriverError::Retryable { reason: "busy".into(), retry_after: None })
}

#[tokio::test]
async fn a_sweep_ends_what_is_past_its_deadline_and_nothing_else() {
    let untouched = Mitigation { touched: false, state: State::Planned, ..mitigation(3, 10) };
    let ended = Mitigation { state: State::Ended, ..mitigation(4, 10) };
    let site = Site::new(vec![mitigation(1, 10), mitigation(2, 100), untouched, ended]);
    site.receiver.change(|in_force| drop(in_force.remove(&tag("edge-1", 4))));
    assert_eq!(site.sweep(5).await, Report::default());
    assert_eq!(site.sweep(10).await, withdrawn(&[1]));
    assert_eq!(site.in_force(), [2]);
    let entry = &site.contents().mitigations[&MitigationId(1)];
    assert_eq!((entry.state, entry.outcome), (State::Ended, Some(Outcome::Expired)));
    assert_eq!(site.sweep(11).await, Report::default(), "once");
}

#[tokio::test]
async fn what_could_not_be_withdrawn_is_told_and_swept_the_next_time() {
    let site = Site::new(vec![mitigation(1, 10), mitigation(2, 10)]);
    site.receiver.misbehave([busy(), Misbehaviour::LosesAnswer]);
    let report = site.sweep(20).await;
    assert_eq!(report.withdrawn, []);
    assert!(report.left[0].contains("mitigation 1 (blackhole to 192.0.2.7/32) may be in force: busy"), "{report:?}");
    assert_eq!(site.in_force(), [1], "the answer of the second was lost, it has ended");
    assert_eq!(site.sweep(21).await, withdrawn(&[1, 2]));
    let site = Site::new(vec![Mitigation { driver: DriverName("gone".into()), ..mitigation(1, 10) }]);
    assert!(site.sweep(20).await.left[0].contains("no driver \"gone\""));
}

#[tokio::test]
async fn a_sweep_that_is_killed_at_any_write_is_made_good_by_the_next() {
    for (fault, commit) in [(Fault::CrashBefore, 1), (Fault::CrashAfter, 1), (Fault::Full, 2), (Fault::Fails, 1)] {
        let site = Site::new(vec![mitigation(1, 10), mitigation(2, 10)]);
        site.disk.fault_at(commit, fault);
        site.sweep(20).await;
        site.sweep(21).await;
        assert_eq!((site.in_force().len(), site.sweep(22).await), (0, Report::default()), "{fault:?}");
        assert!(site.contents().mitigations.values().all(Mitigation::has_ended));
    }
}

#[tokio::test]
async fn withdraw_all_ends_everything_of_ours_in_the_ledger_or_not_and_leaves_the_switch_engaged() {
    let planned = Mitigation { touched: false, state: State::Planned, ..mitigation(2, 100) };
    let site = Site::new(vec![mitigation(1, 100), planned]);
    site.receiver.change(|in_force| {
        in_force.insert(tag("edge-1", 9), (spec(), Duration::ZERO));
        in_force.insert(tag("edge-2", 1), (spec(), Duration::ZERO));
    });
    assert_eq!(site.withdraw_all(5).await, withdrawn(&[1, 2, 9]));
    assert_eq!(site.receiver.in_force().into_keys().collect::<Vec<_>>(), [tag("edge-2", 1)]);
    let contents = site.contents();
    assert!(contents.kill_switch.as_ref().unwrap().engaged && contents.mitigations.values().all(Mitigation::has_ended));
    let asked = site.receiver.asked();
    let withdrawals = asked.iter().filter(|asked| matches!(asked, Asked::Withdraw(..))).count();
    assert_eq!(withdrawals, 2, "what was never attempted is not withdrawn: {asked:?}");
}

#[tokio::test]
async fn withdraw_all_catches_a_driver_that_lies_and_works_without_a_store() {
    let site = Site::new(vec![mitigation(1, 100)]);
    site.receiver.misbehave([Misbehaviour::Lies]);
    assert_eq!(site.withdraw_all(5).await, withdrawn(&[1]));
    assert_eq!(site.in_force(), [0; 0], "seen to be there still, and ended");

    let site = Site::new(vec![mitigation(1, 100), mitigation(2, 100)]);
    let report = withdraw_all_with(None, &Contents::default(), "edge-1", &site.drivers, &at(5)).await;
    assert_eq!((report.withdrawn.len(), report.left.len(), site.in_force()), (2, 1, vec![]));
    assert!(report.left[0].contains("keep the control plane stopped"));

    let site = Site::new(vec![mitigation(1, 100)]);
    site.receiver.misbehave([busy(), busy()]);
    let report = site.withdraw_all(5).await;
    assert_eq!((report.left.len(), site.in_force()), (2, vec![1]), "{report:?}");
    assert!(report.left[1].contains("does not say what is in force"));
}

/// A driver whose receivers retain: it can only end everything.
struct Retaining(Double);

impl Driver for Retaining {
    fn name(&self) -> &DriverName {
        self.0.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn apply<'d>(
        &'d self,
        key: &'d OperationKey,
        spec: &'d Spec,
        tag: &'d OwnerTag,
        remaining: Duration,
    ) -> Answer<'d, Evidence> {
        self.0.apply(key, spec, tag, remaining)
    }

    fn withdraw<'d>(&'d self, key: &'d OperationKey, spec: &'d Spec, tag: &'d OwnerTag) -> Answer<'d, ()> {
        self.0.withdraw(key, spec, tag)
    }

    fn observe(&self) -> Answer<'_, Vec<Observed>> {
        self.0.observe()
    }

    fn ends_only_all(&self) -> bool {
        true
    }

    fn end_unnamed(&self) -> Answer<'_, ()> {
        let reason = "core-a: it cannot be reached".to_owned();
        Box::pin(std::future::ready(Err(DriverError::Retryable { reason, retry_after: None })))
    }
}

impl Site {
    fn retaining(ledger: Vec<Mitigation>) -> Self {
        let mut site = Self::new(ledger);
        let capabilities = site.drivers[0].capabilities();
        site.drivers = vec![Arc::new(Retaining(Double::new("core-a", "edge-1", capabilities, site.receiver.clone())))];
        site
    }
}

#[tokio::test]
async fn a_sweep_does_not_take_away_what_is_wanted_where_only_everything_can_be_ended() {
    let site = Site::retaining(vec![mitigation(1, 10), mitigation(2, 100)]);
    let report = site.sweep(20).await;
    assert_eq!((report.withdrawn.len(), site.in_force()), (0, vec![1, 2]));
    assert!(report.left[0].contains("mitigation 2 that is wanted still"), "{report:?}");
    assert_eq!(site.sweep(100).await, withdrawn(&[1, 2]), "nothing is wanted any more");
}

#[tokio::test]
async fn withdraw_all_tells_of_what_may_be_retained_whatever_the_ledger_says() {
    let site = Site::retaining(Vec::new());
    let report = site.withdraw_all(5).await;
    assert_eq!(report.left.len(), 1, "{report:?}");
    assert!(report.left[0].contains("core-a: it cannot be reached"), "{report:?}");
}
