//! The driver for filters, against the dataplane's real service: idempotent by reading, bound to its tags.

use std::sync::Arc;
use std::time::Duration;

use levee_api::filter::{Action, Target};
use levee_api::grpc::FilterRequest;
use levee_api::grpc::dataplane::v1 as contract;
use levee_controlplane::dataplane::Dataplane;
use levee_controlplane::driver::{Driver, DriverError, Filters, Observed, OperationKey, OwnerTag};
use levee_controlplane::guardrail::Refusal;
use levee_controlplane::ledger::{Direction, Evidence, FilterSpec, MitigationId, Spec, StoredFilter};

use crate::world::{Place, filter};

const MINUTE: Duration = Duration::from_secs(60);

fn driver(place: &Place) -> Filters {
    Filters::new("edge-1", place.socket(), Arc::new(|_, _| Ok(())))
}

fn tag(id: u64) -> OwnerTag {
    OwnerTag { appliance: "edge-1".into(), id: MitigationId(id) }
}

fn key(text: &str) -> OperationKey {
    OperationKey(text.into())
}

/// Filters on a host that differ in their action.
fn spec(host: &str, limits: &[u32]) -> Spec {
    let target = Target { zone: "web".into(), prefix: Some(host.parse().unwrap()) };
    let of = |pps: &u32| {
        let per = levee_api::filter::Per::Target;
        StoredFilter::of(&FilterRequest { action: Action::Limit { pps: *pps, per }, ..filter(host, MINUTE) })
    };
    Spec::Filter(FilterSpec { target, filters: limits.iter().map(of).collect() })
}

/// Ids, owners and actions of everything in force, in the order of their ids.
async fn in_force(place: &Place) -> Vec<(u64, String, String)> {
    let snapshot = Dataplane::connect(&place.socket()).await.unwrap().snapshot().await.unwrap();
    let mut found: Vec<_> = snapshot
        .filters
        .iter()
        .map(|filter| {
            let request = FilterRequest::try_from(filter.request.as_ref().unwrap()).unwrap();
            (filter.id, request.owner, request.action.to_string())
        })
        .collect();
    found.sort();
    found
}

async fn remaining(driver: &Filters, id: u64) -> Duration {
    let found = driver.observe().await.unwrap();
    found.iter().find(|found| found.id == MitigationId(id)).unwrap().remaining.unwrap()
}

#[tokio::test]
async fn the_same_operation_again_renews_and_another_spec_changes_only_what_differs() {
    let place = Place::new();
    let _world = place.start();
    let driver = driver(&place);
    let both = spec("203.0.113.9", &[100, 200]);
    for attempt in 0..3 {
        let evidence = driver.apply(&key("7/apply"), &both, &tag(7), MINUTE * (attempt + 1)).await.unwrap();
        assert_eq!(evidence, Evidence::Seen);
        let found = in_force(&place).await;
        let expected = [(1, "limit 100 pps"), (2, "limit 200 pps")];
        let expected = expected.map(|(id, action)| (id, "levee-edge-1-7".to_owned(), action.to_owned()));
        assert_eq!(found, expected, "attempt {attempt}");
        let left = remaining(&driver, 7).await;
        assert!(left > MINUTE * attempt && left <= MINUTE * (attempt + 1), "{left:?}");
    }
    driver.apply(&key("7/apply"), &spec("203.0.113.9", &[200, 300]), &tag(7), MINUTE).await.unwrap();
    let found: Vec<_> = in_force(&place).await.into_iter().map(|(id, _, action)| (id, action)).collect();
    assert_eq!(found, [(2, "limit 200 pps".to_owned()), (3, "limit 300 pps".to_owned())]);
    // What has ended behind our back is installed again, though the operation is the same.
    let mut dataplane = Dataplane::connect(&place.socket()).await.unwrap();
    let remove = contract::RemoveFiltersRequest { owner: tag(7).to_string(), ids: vec![2, 3] };
    dataplane.client.remove_filters(remove).await.unwrap();
    driver.apply(&key("7/apply"), &both, &tag(7), MINUTE).await.unwrap();
    assert_eq!(in_force(&place).await.len(), 2);
    for _ in 0..2 {
        driver.withdraw(&key("7/withdraw"), &both, &tag(7)).await.unwrap();
        assert_eq!(in_force(&place).await, []);
    }
}

#[tokio::test]
async fn what_has_no_tag_of_ours_is_neither_seen_nor_touched() {
    let place = Place::new();
    let _world = place.start();
    let driver = driver(&place);
    let host = spec("203.0.113.9", &[100]);
    let others = ["incident 1", "levee-edge-2-7", "levee-edge-1-", "levee-edge-1-07", "levee-edge-1-8"];
    let foreign = others.map(|owner| (&FilterRequest { owner: owner.into(), ..filter("203.0.113.9", MINUTE) }).into());
    let install = contract::InstallFiltersRequest { request_id: String::new(), filters: foreign.into() };
    Dataplane::connect(&place.socket()).await.unwrap().client.install_filters(install).await.unwrap();
    driver.apply(&key("7/apply"), &host, &tag(7), MINUTE).await.unwrap();
    let mut observed = driver.observe().await.unwrap();
    observed.sort_by_key(|found| found.id);
    assert_eq!(observed.iter().map(|found| found.id.0).collect::<Vec<_>>(), [7, 8]);
    let Observed { spec: Spec::Filter(found), evidence, taken_bps, .. } = &observed[0] else { panic!("{observed:?}") };
    assert_eq!((*evidence, *taken_bps, found.filters.len()), (Evidence::Seen, None, 1));
    // What was observed is enough to end it.
    driver.withdraw(&key("8/withdraw"), &observed[1].spec, &tag(8)).await.unwrap();
    driver.withdraw(&key("7/withdraw"), &host, &tag(7)).await.unwrap();
    let left: Vec<String> = in_force(&place).await.into_iter().map(|(_, owner, _)| owner).collect();
    assert_eq!(left, others[..4]);
    assert_eq!(driver.observe().await.unwrap(), []);
}

#[tokio::test]
async fn a_dataplane_that_is_away_is_tried_again_and_found_when_it_is_back() {
    let place = Place::new();
    let driver = driver(&place);
    let host = spec("203.0.113.9", &[100]);
    let apply = async || driver.apply(&key("7/apply"), &host, &tag(7), MINUTE).await;
    let away = apply().await.unwrap_err();
    assert!(
        matches!(&away, DriverError::Retryable { reason, .. } if reason.contains("no dataplane answers")),
        "{away}"
    );
    let world = place.start();
    apply().await.unwrap();
    drop(world);
    assert!(matches!(driver.observe().await, Err(DriverError::Retryable { .. })));
    let _world = place.start();
    assert_eq!(driver.observe().await.unwrap(), [], "a new run has nothing of the old one");
    apply().await.unwrap();
    assert_eq!(in_force(&place).await.len(), 1);
}

#[tokio::test]
async fn what_the_dataplane_or_a_guardrail_refuses_is_not_tried_again() {
    let place = Place::new();
    let _world = place.start();
    let driver = driver(&place);
    let blackhole = Spec::Blackhole { prefix: "203.0.113.9/32".parse().unwrap(), direction: Direction::Destination };
    let error = driver.apply(&key("1"), &blackhole, &tag(1), MINUTE).await.unwrap_err();
    assert!(matches!(&error, DriverError::Incapable { what } if what.contains("blackhole")), "{error}");
    for (host, ttl, reason) in [("203.0.113.1", MINUTE, "is protected"), ("203.0.113.9", MINUTE * 120, "max_ttl")] {
        let error = driver.apply(&key("1"), &spec(host, &[100]), &tag(1), ttl).await.unwrap_err();
        assert!(matches!(&error, DriverError::Permanent { reason: told } if told.contains(reason)), "{error}");
    }
    let refusal =
        Refusal { guardrail: "max_ttl".into(), value: "1h".into(), limit: "1m".into(), text: "too long".into() };
    let refused = refusal.clone();
    let careful = Filters::new("edge-1", place.socket(), Arc::new(move |_, _| Err(refused.clone())));
    let host = spec("203.0.113.9", &[100]);
    assert_eq!(careful.apply(&key("1"), &host, &tag(1), MINUTE).await, Err(DriverError::Refused(refusal)));
    assert_eq!(in_force(&place).await, []);
    careful.withdraw(&key("1"), &host, &tag(1)).await.unwrap();
}

#[tokio::test]
async fn two_that_race_leave_one_filter_each_and_many_do_not_disturb_each_other() {
    let place = Place::new();
    let _world = place.start();
    let driver = Arc::new(driver(&place));
    let work: Vec<_> = (0..40_u64)
        .map(|index| {
            let driver = Arc::clone(&driver);
            tokio::spawn(async move {
                let id = index / 2;
                let host = spec(&format!("203.0.113.{}", 10 + id), &[100]);
                driver.apply(&key(&format!("{id}/apply")), &host, &tag(id), MINUTE).await.unwrap();
            })
        })
        .collect();
    for done in work {
        done.await.unwrap();
    }
    // A duplicate that slipped through is found and ended by the next look.
    for id in 0..20_u64 {
        let host = spec(&format!("203.0.113.{}", 10 + id), &[100]);
        driver.apply(&key(&format!("{id}/apply")), &host, &tag(id), MINUTE).await.unwrap();
    }
    let mut owners: Vec<String> = in_force(&place).await.into_iter().map(|(_, owner, _)| owner).collect();
    owners.sort();
    owners.dedup();
    assert_eq!((owners.len(), in_force(&place).await.len()), (20, 20));
}

#[tokio::test]
async fn a_table_that_is_full_is_tried_again() {
    let place = Place::new();
    let world = place.start();
    let driver = driver(&place);
    world.steered.room.store(1, std::sync::atomic::Ordering::SeqCst);
    driver.apply(&key("1"), &spec("203.0.113.9", &[100]), &tag(1), MINUTE).await.unwrap();
    let two = spec("203.0.113.10", &[100]);
    let full = driver.apply(&key("2"), &two, &tag(2), MINUTE).await.unwrap_err();
    assert!(
        matches!(&full, DriverError::Retryable { reason, .. } if reason.contains("no more are possible")),
        "{full}"
    );
    driver.withdraw(&key("1/w"), &two, &tag(1)).await.unwrap();
    driver.apply(&key("2"), &two, &tag(2), MINUTE).await.unwrap();
}

#[tokio::test]
async fn filters_under_an_earlier_name_of_the_appliance_are_seen_if_the_ledger_knows_them() {
    let place = Place::new();
    let _world = place.start();
    let host = spec("203.0.113.9", &[100]);
    for id in [7, 8] {
        driver(&place).apply(&key("1"), &host, &tag(id), MINUTE).await.unwrap();
    }
    let renamed = Filters::new("edge-2", place.socket(), Arc::new(|_, _| Ok(())));
    assert_eq!(renamed.observe().await.unwrap(), [], "another appliance may have that name");
    let renamed = renamed.with_former(&[tag(7)].into());
    assert_eq!(renamed.observe().await.unwrap().iter().map(|found| found.id.0).collect::<Vec<_>>(), [7]);
}
