use std::collections::BTreeMap;
use std::time::Duration;

use levee_api::time::Timestamp;

use super::*;
use crate::actor::Actor;
use crate::clock::{BootId, Now, UnixTime};
use crate::driver::{Capabilities, DriverError, DriverName, Observed};
use crate::store::Write;

const TTL: Duration = Duration::from_secs(300);
const ID: MitigationId = MitigationId(7);

fn at(seconds: u64) -> Now {
    Now { boot: BootId(1), monotonic: Timestamp(seconds * 1_000_000_000), wall: UnixTime(seconds * 1_000_000_000) }
}

fn driver() -> DriverName {
    DriverName("core-a".to_owned())
}

fn blackhole() -> Spec {
    Spec::Blackhole { prefix: "203.0.113.7".parse().unwrap(), direction: Direction::Destination }
}

fn with_driver(mut ledger: Ledger, observe: bool, now: &Now) -> Ledger {
    let can = Capabilities { kinds: vec![Kind::Blackhole], ipv4: true, observe, ..Capabilities::default() };
    ledger.configure([(driver(), can)].into(), now);
    ledger
}

fn planned(observe: bool) -> Ledger {
    let mut ledger = with_driver(Ledger::load("edge-1", [].into(), false, &at(0)), observe, &at(0));
    let intent = Intent {
        driver: driver(),
        spec: blackhole(),
        effect: None,
        zone: "web".to_owned(),
        incident: Some(IncidentId(1)),
        stage: Some("blackhole".to_owned()),
        asked_by: Actor::levee("test"),
        reason: "test".to_owned(),
        ttl: TTL,
    };
    ledger.plan(ID, intent, &at(0));
    ledger
}

fn advance(ledger: &mut Ledger, now: &Now) -> (Vec<Order>, Vec<Notice>) {
    let (mut orders, mut notices) = (Vec::new(), Vec::new());
    ledger.advance(now, &mut orders, &mut notices);
    (orders, notices)
}

fn applied(orders: &[Order]) -> Option<Operation> {
    orders.iter().find_map(|order| if let Order::Apply(operation) = order { Some(operation.clone()) } else { None })
}

fn withdrawn(orders: &[Order]) -> Option<Operation> {
    orders.iter().find_map(|order| if let Order::Withdraw(operation) = order { Some(operation.clone()) } else { None })
}

fn observe(ledger: &mut Ledger, round: u64, list: Vec<Observed>, now: &Now) -> Vec<Notice> {
    let mut notices = Vec::new();
    ledger.observed(&driver(), round, Ok(list), now, &mut notices);
    notices
}

fn round(orders: &[Order]) -> u64 {
    orders.iter().find_map(|order| if let Order::Observe { round, .. } = order { Some(*round) } else { None }).unwrap()
}

fn seen(id: MitigationId) -> Observed {
    Observed { id, spec: blackhole(), evidence: Evidence::Seen, remaining: None, taken_bps: None }
}

/// Brings it into force at second 1.
fn active() -> Ledger {
    let mut ledger = planned(true);
    let (orders, _) = advance(&mut ledger, &at(0));
    let (operation, round) = (applied(&orders).unwrap(), round(&orders));
    observe(&mut ledger, round, Vec::new(), &at(0));
    ledger.applied(ID, &operation.key, Ok(Evidence::Accepted), &at(1), &mut Vec::new());
    assert_eq!(ledger.get(ID).unwrap().state, State::Active);
    ledger
}

#[test]
fn an_order_is_written_down_with_what_it_may_have_done_before_it_is_given() {
    let mut ledger = planned(true);
    let (orders, _) = advance(&mut ledger, &at(0));
    let mut writes = Vec::new();
    ledger.write(&mut writes);
    let Some(Write::PutMitigation(entry)) = writes.last() else { unreachable!("{writes:?}") };
    assert!(entry.touched && entry.state == State::Applying && applied(&orders).is_some());
}

#[test]
fn after_a_restart_an_order_without_an_answer_is_given_again_under_the_same_key() {
    let mut ledger = planned(true);
    let first = applied(&advance(&mut ledger, &at(0)).0).unwrap();
    let entries = ledger.iter().map(|entry| (entry.id, entry.clone())).collect();
    let mut again = with_driver(Ledger::load("edge-1", entries, false, &at(5)), true, &at(5));
    let second = applied(&advance(&mut again, &at(5)).0).unwrap();
    assert_eq!((first.key, first.tag), (second.key, second.tag));
    assert_eq!(second.remaining, TTL - Duration::from_secs(5));
}

#[test]
fn what_is_past_its_deadline_is_withdrawn_and_has_ended_when_it_is_no_longer_seen() {
    let mut ledger = active();
    let (orders, _) = advance(&mut ledger, &at(300));
    let withdraw = withdrawn(&orders).unwrap();
    assert_eq!(ledger.get(ID).unwrap().outcome, Some(Outcome::Expired));
    ledger.withdrawn(ID, &withdraw.key, Ok(()), &at(301), &mut Vec::new());
    // The observation that was asked for together with the order began before its answer: it says nothing.
    observe(&mut ledger, round(&orders), Vec::new(), &at(302));
    assert_eq!(ledger.get(ID).unwrap().state, State::Withdrawing);
    let (orders, _) = advance(&mut ledger, &at(305));
    let notices = observe(&mut ledger, round(&orders), Vec::new(), &at(306));
    assert_eq!(notices, [Notice::Ended { id: ID }]);
    assert_eq!(ledger.get(ID).unwrap().state, State::Ended);
}

#[test]
fn a_driver_that_says_ended_and_still_shows_it_is_told_again() {
    let mut ledger = active();
    ledger.end(ID, Outcome::Withdrawn, &at(10));
    let withdraw = withdrawn(&advance(&mut ledger, &at(10)).0).unwrap();
    ledger.withdrawn(ID, &withdraw.key, Ok(()), &at(11), &mut Vec::new());
    let (orders, _) = advance(&mut ledger, &at(12));
    observe(&mut ledger, round(&orders), vec![seen(ID)], &at(13));
    let (orders, _) = advance(&mut ledger, &at(20));
    assert!(withdrawn(&orders).is_some(), "{orders:?}");
}

#[test]
fn what_could_not_be_ended_is_ended_as_soon_as_whoever_has_it_is_there_again() {
    let mut ledger = active();
    ledger.end(ID, Outcome::Retired, &at(2));
    for second in 2..100 {
        if let Some(operation) = withdrawn(&advance(&mut ledger, &at(second)).0) {
            let lost = DriverError::Retryable { reason: "the session is lost".to_owned(), retry_after: None };
            ledger.withdrawn(ID, &operation.key, Err(lost), &at(second), &mut Vec::new());
        }
    }
    assert!(withdrawn(&advance(&mut ledger, &at(100)).0).is_none(), "it is not asked all the time");
    ledger.retry_soon(&driver(), &at(100));
    assert!(withdrawn(&advance(&mut ledger, &at(100)).0).is_some());
}

#[test]
fn what_is_missing_is_brought_back_and_what_is_unknown_is_adopted_and_withdrawn() {
    let mut ledger = active();
    let (orders, _) = advance(&mut ledger, &at(31));
    let stranger = MitigationId(99);
    let notices = observe(&mut ledger, round(&orders), vec![seen(stranger)], &at(31));
    assert_eq!(notices, [Notice::Missing { id: ID }, Notice::Adopted { id: stranger }]);
    let (orders, _) = advance(&mut ledger, &at(31));
    assert_eq!(applied(&orders).unwrap().id, ID);
    assert_eq!(withdrawn(&orders).unwrap().id, stranger);
}

#[test]
fn a_first_attempt_that_was_not_carried_out_leaves_nothing_to_withdraw() {
    let mut ledger = planned(true);
    let operation = applied(&advance(&mut ledger, &at(0)).0).unwrap();
    let error = DriverError::Incapable { what: "no IPv4".to_owned() };
    ledger.applied(ID, &operation.key, Err(error), &at(1), &mut Vec::new());
    let (orders, notices) = advance(&mut ledger, &at(1));
    assert!(withdrawn(&orders).is_none() && notices == [Notice::Ended { id: ID }]);
    assert_eq!(ledger.get(ID).unwrap().state, State::Failed);
}

#[test]
fn an_attempt_whose_answer_was_lost_is_withdrawn_even_if_the_next_one_is_refused_for_good() {
    let mut ledger = planned(true);
    let operation = applied(&advance(&mut ledger, &at(0)).0).unwrap();
    let lost = DriverError::Retryable { reason: "lost".to_owned(), retry_after: None };
    ledger.applied(ID, &operation.key, Err(lost), &at(1), &mut Vec::new());
    let operation = applied(&advance(&mut ledger, &at(10)).0).unwrap();
    let error = DriverError::Permanent { reason: "no".to_owned() };
    ledger.applied(ID, &operation.key, Err(error), &at(11), &mut Vec::new());
    let (orders, _) = advance(&mut ledger, &at(11));
    assert!(withdrawn(&orders).is_some(), "{orders:?}");
}

#[test]
fn a_renewal_moves_the_end_and_one_that_comes_late_does_not() {
    let mut ledger = active();
    assert!(ledger.renew(ID, TTL, &at(200)));
    let operation = applied(&advance(&mut ledger, &at(200)).0).unwrap();
    assert_eq!((operation.remaining, operation.key.0.as_str()), (TTL, "apply-7-1"));
    ledger.applied(ID, &operation.key, Ok(Evidence::Accepted), &at(201), &mut Vec::new());
    assert!(withdrawn(&advance(&mut ledger, &at(499)).0).is_none());
    assert!(!ledger.renew(ID, TTL, &at(500)));
    assert!(withdrawn(&advance(&mut ledger, &at(500)).0).is_some());
}

#[test]
fn a_sweep_takes_what_may_be_in_force_and_should_not_be() {
    let ledger = active();
    assert_eq!(past_end(ledger.iter(), &at(100)).count(), 0);
    assert_eq!(past_end(ledger.iter(), &at(300)).count(), 1);
}

#[test]
fn a_tag_stays_what_it_was_when_the_appliance_is_renamed() {
    let ledger = active();
    let entries: std::collections::BTreeMap<_, _> = ledger.iter().map(|entry| (entry.id, entry.clone())).collect();
    let mut renamed = with_driver(Ledger::load("edge-2", entries.clone(), false, &at(5)), true, &at(5));
    renamed.end(ID, Outcome::Withdrawn, &at(6));
    assert_eq!(withdrawn(&advance(&mut renamed, &at(6)).0).unwrap().tag.to_string(), "levee-edge-1-7");
    // While running, too: what is begun from then on has the new name.
    let mut running = active();
    running.rename("edge-2");
    let intent = Intent {
        driver: driver(),
        spec: blackhole(),
        effect: None,
        zone: "web".to_owned(),
        incident: None,
        stage: None,
        asked_by: Actor::levee("test"),
        reason: "test".to_owned(),
        ttl: TTL,
    };
    running.plan(MitigationId(8), intent, &at(5));
    let tags: Vec<String> = running.tags().iter().map(ToString::to_string).collect();
    assert_eq!(tags, ["levee-edge-1-7", "levee-edge-2-8"]);
    // Written down by a version that kept no name.
    let mut old = entries;
    old.values_mut().for_each(|entry| entry.appliance = None);
    let mut old = Ledger::load("edge-1", old, false, &at(5));
    old.rename("edge-2");
    assert_eq!(old.tags().iter().map(ToString::to_string).collect::<Vec<_>>(), ["levee-edge-1-7"]);
}

#[test]
fn changes_of_the_last_minute_are_counted_over_a_restart_by_driver_and_without_filters() {
    let mut ledger = planned(true);
    let filter = Intent {
        driver: DriverName::dataplane(),
        spec: Spec::Filter(FilterSpec {
            target: levee_api::filter::Target { zone: "web".to_owned(), prefix: None },
            filters: Vec::new(),
        }),
        effect: None,
        zone: "web".to_owned(),
        incident: None,
        stage: None,
        asked_by: Actor::levee("test"),
        reason: "test".to_owned(),
        ttl: TTL,
    };
    ledger.plan(MitigationId(8), filter, &at(1));
    let entries: std::collections::BTreeMap<_, _> = ledger.iter().map(|entry| (entry.id, entry.clone())).collect();
    let mut again = Ledger::load("edge-1", entries, false, &at(5));
    for ledger in [&mut ledger, &mut again] {
        assert_eq!(ledger.recent_changes(&driver(), &at(59)), 1);
        assert_eq!(ledger.recent_changes(&DriverName::dataplane(), &at(59)), 0, "the dataplane is no peer");
        assert_eq!(ledger.recent_changes(&DriverName("core-b".to_owned()), &at(59)), 0);
        assert_eq!(ledger.recent_changes(&driver(), &at(60)), 0);
    }
}

#[test]
fn what_could_be_begun_late_only_is_a_change_of_that_moment_also_after_a_restart() {
    let mut ledger = planned(true);
    let lost = || DriverError::Retryable { reason: "it cannot be written down".to_owned(), retry_after: None };
    for second in 0..100 {
        if let Some(operation) = applied(&advance(&mut ledger, &at(second)).0) {
            ledger.applied(ID, &operation.key, Err(lost()), &at(second), &mut Vec::new());
        }
        assert_eq!(ledger.recent_changes(&driver(), &at(second)), 1, "one that is tried again and again");
    }
    let (operation, second) = (100..200)
        .find_map(|second| Some((applied(&advance(&mut ledger, &at(second)).0)?, second)))
        .expect("it is tried again");
    ledger.applied(ID, &operation.key, Ok(Evidence::Accepted), &at(second), &mut Vec::new());
    let entries: BTreeMap<_, _> = ledger.iter().map(|entry| (entry.id, entry.clone())).collect();
    let mut again = Ledger::load("edge-1", entries, false, &at(second + 1));
    for ledger in [&mut ledger, &mut again] {
        assert_eq!(ledger.recent_changes(&driver(), &at(second + 59)), 1);
        assert_eq!(ledger.recent_changes(&driver(), &at(second + 60)), 0);
    }
}

#[test]
fn what_a_receiver_shows_no_more_is_not_seen_any_more() {
    let mut ledger = active();
    let evidence = |ledger: &Ledger| ledger.get(ID).unwrap().evidence;
    for (second, shown) in [(40, Evidence::Seen), (80, Evidence::Advertised), (120, Evidence::Seen)] {
        let round = round(&advance(&mut ledger, &at(second)).0);
        observe(&mut ledger, round, vec![Observed { evidence: shown, ..seen(ID) }], &at(second));
        assert_eq!((evidence(&ledger), ledger.get(ID).unwrap().state), (Some(shown), State::Active));
    }
    // What is measured is known, whatever is shown.
    ledger.entries.get_mut(&ID).unwrap().evidence = Some(Evidence::Effective);
    let round = round(&advance(&mut ledger, &at(160)).0);
    observe(&mut ledger, round, vec![Observed { evidence: Evidence::Advertised, ..seen(ID) }], &at(160));
    assert_eq!(evidence(&ledger), Some(Evidence::Effective));
}

#[test]
fn changes_of_an_earlier_boot_do_not_count_for_ever_when_the_wall_clock_was_set_back() {
    let mut ledger = planned(true);
    let mut writes = Vec::new();
    ledger.write(&mut writes);
    let entries: BTreeMap<MitigationId, Mitigation> = writes
        .into_iter()
        .filter_map(|write| if let Write::PutMitigation(entry) = write { Some((entry.id, entry)) } else { None })
        .map(|(id, entry)| (id, Mitigation { created: at(5_000), ..entry }))
        .collect();
    let rebooted = |wall: u64| Now { boot: BootId(2), monotonic: Timestamp(7), wall: UnixTime(wall * 1_000_000_000) };
    for (wall, expected) in [(4_000, 0), (5_030, 1), (5_100, 0)] {
        let now = rebooted(wall);
        let mut ledger = Ledger::load("edge-1", entries.clone(), false, &now);
        assert_eq!(ledger.recent_changes(&driver(), &now), expected, "the wall clock says {wall} s");
        let later = now.after(Duration::from_secs(60));
        assert_eq!(ledger.recent_changes(&driver(), &later), 0, "a minute after {wall} s");
    }
}
