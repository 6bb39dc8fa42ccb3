//! The calls, one by one.

use std::io::{Read, Write};
use std::net::Ipv6Addr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::dataplane::v1::event::What;
use levee_api::prefix::Prefix;
use levee_api::zone::{Challenge, Mode, Visibility, Zone};
use levee_controlplane::dataplane::{Dataplane, DataplaneError, Generation};
use levee_dataplane::service::Policy;
use levee_engine::detect::event::Phase;
use tonic::{Code, Streaming};

use crate::world::{Place, filter};

/// Longer than any answer takes, shorter than anybody's patience.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) async fn next(events: &mut Streaming<contract::Event>) -> contract::Event {
    tokio::time::timeout(DEADLINE, events.message()).await.expect("an event in time").unwrap().expect("no end")
}

pub(crate) async fn watch(dataplane: &mut Dataplane, boot_id: &str, after_sequence: u64) -> Streaming<contract::Event> {
    let request = contract::WatchRequest { boot_id: boot_id.to_owned(), after_sequence };
    dataplane.client.watch(request).await.unwrap().into_inner()
}

fn zone(name: &str, prefixes: Vec<Prefix>) -> Zone {
    Zone {
        name: name.into(),
        prefixes,
        mode: Mode::Enforce,
        services: vec![],
        services_complete: false,
        visibility: Visibility::Auto,
        challenge: Challenge::default(),
        challenge_dns: false,
        link_capacity_bps: None,
        floors: vec![],
        runbook: None,
    }
}

fn addresses(count: u32) -> Vec<Prefix> {
    let host = |index: u32| Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(index));
    (0..count).map(|index| Prefix::host(host(index).into())).collect()
}

#[tokio::test]
async fn another_major_version_is_refused_and_both_are_told() {
    let place = Place::new();
    let _world = place.start();
    let other = contract::Version { major: 9, minor: 3 };
    let error = Dataplane::connect_as(&place.socket(), other).await.unwrap_err().to_string();
    assert!(error.contains("version 1.1") && error.contains("9.3"), "{error}");
    let newer = contract::Version { major: 1, minor: 7 };
    Dataplane::connect_as(&place.socket(), newer).await.unwrap();
}

#[tokio::test]
async fn what_rules_would_do_is_asked_and_captures_are_begun() {
    let place = Place::new();
    let _world = place.start();
    let mut dataplane = Dataplane::connect(&place.socket()).await.unwrap();
    assert!(dataplane.can("capture") && dataplane.can("legitimate-share") && !dataplane.can("fly"));
    let filters = vec![filter("203.0.113.9", Duration::from_secs(1)); 3];
    let target = filters[0].target.clone();
    assert_eq!(dataplane.legitimate_share(&target, &filters).await.unwrap(), Some(0.3));
    let too_many = vec![filters[0].clone(); 17];
    let refused = dataplane.legitimate_share(&target, &too_many).await.unwrap_err().to_string();
    assert!(refused.contains("at most 16"), "{refused}");
    assert_eq!(dataplane.capture(&target, Duration::from_secs(9)).await.unwrap(), "web.pcapng");
    let off = dataplane.capture(&target, Duration::ZERO).await.unwrap_err().to_string();
    assert!(off.contains("switched off"), "{off}");
    let whole = levee_api::filter::Target { prefix: None, ..target.clone() };
    let refused = dataplane.capture(&whole, Duration::from_secs(9)).await.unwrap_err().to_string();
    assert!(refused.contains("a whole zone is too much"), "{refused}");
    let nowhere = levee_api::filter::Target { zone: "nowhere".to_owned(), ..target };
    let refused = dataplane.capture(&nowhere, Duration::from_secs(9)).await.unwrap_err().to_string();
    assert!(refused.contains("there is no zone \"nowhere\""), "{refused}");
}

#[tokio::test]
async fn garbage_on_the_socket_disturbs_nobody() {
    let place = Place::new();
    let world = place.start();
    let mut dataplane = Dataplane::connect(&place.socket()).await.unwrap();
    let mut events = watch(&mut dataplane, "", 0).await;
    assert!(matches!(next(&mut events).await.what, Some(What::Gap(_))));
    let socket = place.socket();
    let garbage = std::thread::spawn(move || {
        for seed in 0..64_u8 {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            // The first half is refused at once, the second after a valid beginning of HTTP/2.
            let mixed = |i: u32| i.wrapping_mul(2_654_435_761).to_be_bytes()[1] ^ seed;
            let mut bytes: Vec<u8> = (0..2_000).map(mixed).collect();
            if seed >= 32 {
                bytes.splice(0..0, *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            }
            // The other side may hang up in the middle, and must in the end.
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    tokio::task::spawn_blocking(|| garbage.join().unwrap()).await.unwrap();
    world.change("203.0.113.9", Phase::Watch);
    assert!(matches!(next(&mut events).await.what, Some(What::StateChanged(_))));
    Dataplane::connect(&place.socket()).await.unwrap();
}

#[tokio::test]
async fn two_clients_see_the_same_events_and_one_upload_at_a_time() {
    let place = Place::new();
    let world = place.start();
    let mut first = Dataplane::connect(&place.socket()).await.unwrap();
    let mut second = Dataplane::connect(&place.socket()).await.unwrap();
    let boot_id = first.identity.boot_id.clone();
    world.change("203.0.113.9", Phase::Attack);
    for dataplane in [&mut first, &mut second] {
        let mut events = watch(dataplane, &boot_id, 0).await;
        let changed = next(&mut events).await;
        let opened = next(&mut events).await;
        assert_eq!((changed.sequence, opened.sequence), (1, 2));
        assert!(
            matches!(changed.what, Some(What::StateChanged(_))) && matches!(opened.what, Some(What::AnomalyOpened(_)))
        );
    }

    let begin = contract::BeginGenerationRequest { boot_id, ..Default::default() };
    let generation = first.client.begin_generation(begin).await.unwrap().into_inner().generation;
    second.upload(Generation { zones: &[zone("web", addresses(1))], ..Default::default() }).await.unwrap();
    let chunk = contract::Chunk { generation, ..Default::default() };
    let status = first.client.upload_chunk(tokio_stream::iter([chunk])).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    assert!(status.message().contains("begin again"));
}

#[tokio::test]
async fn a_generation_is_begun_on_what_the_client_believes_or_not_at_all() {
    let place = Place::new();
    let _world = place.start();
    let mut dataplane = Dataplane::connect(&place.socket()).await.unwrap();
    let boot_id = dataplane.identity.boot_id.clone();
    let begin = |boot_id: &str, base, request_id: &str| contract::BeginGenerationRequest {
        boot_id: boot_id.to_owned(),
        base,
        request_id: request_id.to_owned(),
    };
    for (boot, base) in [("another", None), (boot_id.as_str(), Some(7))] {
        let status = dataplane.client.begin_generation(begin(boot, base, "")).await.unwrap_err();
        assert_eq!(status.code(), Code::Aborted);
    }
    let mut numbers = Vec::new();
    for request_id in ["a", "a", "b"] {
        let begun = dataplane.client.begin_generation(begin(&boot_id, Some(0), request_id)).await.unwrap();
        numbers.push(begun.into_inner().generation);
    }
    assert_eq!(numbers, [1, 1, 2], "the same request again is the same generation");
}

#[tokio::test]
async fn an_upload_interrupted_in_the_middle_changes_nothing() {
    let place = Place::new();
    let _world = place.start();
    let mut dataplane = Dataplane::connect(&place.socket()).await.unwrap();
    let boot_id = dataplane.identity.boot_id.clone();
    let begin = contract::BeginGenerationRequest { boot_id, ..Default::default() };
    let generation = dataplane.client.begin_generation(begin).await.unwrap().into_inner().generation;
    let chunk = contract::Chunk { generation, zones: vec![(&zone("new", addresses(9))).into()], ..Default::default() };
    // The stream breaks off after a chunk: the client is gone before it says that this was all.
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(chunk).await.unwrap();
    let mut client = dataplane.client.clone();
    let upload =
        tokio::spawn(async move { client.upload_chunk(tokio_stream::wrappers::ReceiverStream::new(receiver)).await });
    sender.reserve().await.unwrap();
    upload.abort();
    drop(dataplane);

    let mut dataplane = Dataplane::connect(&place.socket()).await.unwrap();
    assert_eq!(dataplane.identity.generation, 0);
    let snapshot = dataplane.snapshot().await.unwrap();
    assert_eq!((snapshot.header.generation, snapshot.zones), (0, 2));
    // Committing what has arrived of it is refused whole: not all that was meant is there.
    let expected = Some(contract::Counts { zones: 2, ..Default::default() });
    let commit = contract::CommitGenerationRequest { generation, expected };
    let answer = dataplane.client.commit_generation(commit).await;
    let refused = answer.unwrap().into_inner().outcome.unwrap();
    assert!(
        matches!(&refused, contract::commit_generation_response::Outcome::Refused(r) if r.reasons[0].contains("expected"))
    );
    assert_eq!(dataplane.snapshot().await.unwrap().header.generation, 0);
    assert_eq!(
        dataplane.upload(Generation { zones: &[zone("web", addresses(3))], ..Default::default() }).await.unwrap(),
        2
    );
    assert_eq!(dataplane.snapshot().await.unwrap().zones, 1);
}

#[tokio::test]
async fn what_breaks_a_limit_is_refused_whole_with_its_reason() {
    let place = Place::new();
    let _world = place.start();
    let mut dataplane = Dataplane::connect(&place.socket()).await.unwrap();
    let zones = [zone("web", vec!["203.0.113.0/24".parse().unwrap()])];
    let hour = Duration::from_secs(3_600);
    for (filters, reason) in [
        (vec![filter("203.0.113.9", hour), filter("203.0.113.1", hour)], "filters[1]: it covers 203.0.113.1/32"),
        (vec![filter("203.0.113.9", hour * 2)], "max_ttl"),
        (vec![filter("198.51.100.9", hour)], "lies outside of zone"),
    ] {
        let refused = dataplane.upload(Generation { zones: &zones, filters: &filters, ..Default::default() }).await;
        let Err(DataplaneError::Refused(reasons)) = refused else { panic!("{refused:?}") };
        assert!(reasons[0].contains(reason), "{reasons:?}");
    }
    assert_eq!(dataplane.snapshot().await.unwrap().header.generation, 0);
    let status = dataplane.upload(Generation { zones: &[zone("", addresses(1))], ..Default::default() }).await;
    assert!(status.unwrap_err().to_string().contains("zones[0].name"));
}

#[tokio::test]
async fn a_hundred_thousand_prefixes_and_filters_arrive_in_chunks() {
    let place = Place::new();
    let _world = place.start();
    let mut dataplane = Dataplane::connect(&place.socket()).await.unwrap();
    let zones = [zone("web", vec!["203.0.113.0/24".parse().unwrap()]), zone("many", addresses(100_000))];
    let filters = vec![filter("203.0.113.9", Duration::from_secs(60)); 100_000];
    let protected = addresses(100_000);
    let everything = Generation { zones: &zones, protected: &protected, filters: &filters };
    assert_eq!(dataplane.upload(everything).await.unwrap(), 1);
    let snapshot = dataplane.snapshot().await.unwrap();
    assert_eq!((snapshot.zones, snapshot.filters.len()), (2, 100_000));
}

#[tokio::test]
async fn filters_are_installed_renewed_and_removed_by_their_owner() {
    let place = Place::new();
    let _world = place.start();
    let mut dataplane = Dataplane::connect(&place.socket()).await.unwrap();
    let install = contract::InstallFiltersRequest {
        request_id: "once".into(),
        filters: vec![(&filter("203.0.113.9", Duration::from_secs(60))).into()],
    };
    let ids = dataplane.client.install_filters(install.clone()).await.unwrap().into_inner().ids;
    let again = dataplane.client.install_filters(install).await.unwrap().into_inner().ids;
    assert_eq!(ids, again, "the same request is carried out once");

    let renew = |owner: &str, seconds: u64| contract::RenewFiltersRequest {
        owner: owner.into(),
        ids: ids.clone(),
        remaining_ns: seconds * 1_000_000_000,
    };
    dataplane.client.renew_filters(renew("incident 1", 3_000)).await.unwrap();
    for (owner, seconds, code) in [
        ("incident 2", 60, Code::FailedPrecondition),
        ("incident 1", 3_601, Code::InvalidArgument),
        ("incident 1", 0, Code::InvalidArgument),
    ] {
        assert_eq!(dataplane.client.renew_filters(renew(owner, seconds)).await.unwrap_err().code(), code);
    }
    let remaining = |snapshot: levee_controlplane::dataplane::Snapshot| {
        snapshot.filters.first().and_then(|filter| filter.request.as_ref().map(|request| request.remaining_ns))
    };
    assert!(remaining(dataplane.snapshot().await.unwrap()).unwrap() > 60_000_000_000);

    let remove = |owner: &str| contract::RemoveFiltersRequest { owner: owner.into(), ids: ids.clone() };
    for (owner, removed) in [("incident 2", 0), ("incident 1", 1), ("incident 1", 0)] {
        assert_eq!(dataplane.client.remove_filters(remove(owner)).await.unwrap().into_inner().removed, removed);
    }
    assert_eq!(remaining(dataplane.snapshot().await.unwrap()), None);

    let protected = contract::InstallFiltersRequest {
        request_id: String::new(),
        filters: vec![(&filter("203.0.113.1", Duration::from_secs(60))).into()],
    };
    let status = dataplane.client.install_filters(protected).await.unwrap_err();
    assert!(status.message().contains("203.0.113.1/32, which is protected"), "{status}");
}

#[tokio::test]
async fn a_client_goes_on_where_it_stopped_or_is_told_of_the_gap() {
    let place = Place::new();
    let world = place.start();
    let mut dataplane = Dataplane::connect(&place.socket()).await.unwrap();
    let boot_id = dataplane.identity.boot_id.clone();
    world.change("203.0.113.9", Phase::Watch);
    world.change("203.0.113.8", Phase::Watch);
    let mut events = watch(&mut dataplane, &boot_id, 2).await;
    assert_eq!(next(&mut events).await.sequence, 3);
    for (boot_id, after, reason) in [("", 0, "the beginning"), ("before", 3, "restarted"), (&boot_id, 99, "lost")] {
        let mut events = watch(&mut dataplane, boot_id, after).await;
        let gap = next(&mut events).await;
        let Some(What::Gap(told)) = gap.what else { panic!("{gap:?}") };
        assert!(told.reason.contains(reason), "{told:?}");
        let snapshot = dataplane.snapshot().await.unwrap();
        assert_eq!((snapshot.header.sequence, snapshot.anomalies.len()), (4, 2));
        assert!(gap.sequence <= snapshot.header.sequence);
    }
    world.change("203.0.113.8", Phase::Normal);
    assert_eq!(next(&mut events).await.sequence, 4);
    assert_eq!(next(&mut events).await.sequence, 5);
    assert!(matches!(next(&mut events).await.what, Some(What::AnomalyEnded(_))));
}

#[tokio::test]
async fn requests_are_checked_against_the_policy_of_before_a_restart() {
    let place = Place::new();
    let zones = vec![zone("other", vec!["192.0.2.0/24".parse().unwrap()])];
    let protected = vec!["192.0.2.1/32".parse().unwrap()];
    let _world = place.start_with(Policy { generation: 7, zones, protected, filters: vec![] });
    let mut dataplane = Dataplane::connect(&place.socket()).await.unwrap();
    assert_eq!(dataplane.identity.generation, 7);
    assert_eq!(dataplane.snapshot().await.unwrap().zones, 1);
    for (host, refusal) in
        [("192.0.2.9", None), ("192.0.2.1", Some("which is protected")), ("203.0.113.9", Some("lies outside"))]
    {
        let mut request = filter(host, Duration::from_secs(60));
        request.target.zone = "other".into();
        let install = contract::InstallFiltersRequest { request_id: String::new(), filters: vec![(&request).into()] };
        match (dataplane.client.install_filters(install).await, refusal) {
            (Ok(_), None) => {}
            (Err(status), Some(reason)) => assert!(status.message().contains(reason), "{status}"),
            (answer, _) => panic!("{host}: {answer:?}"),
        }
    }
    let zones = [zone("web", vec!["203.0.113.0/24".parse().unwrap()])];
    assert_eq!(dataplane.upload(Generation { zones: &zones, ..Default::default() }).await.unwrap(), 8);
}

#[tokio::test]
async fn counters_are_told() {
    let place = Place::new();
    let _world = place.start();
    let mut dataplane = Dataplane::connect(&place.socket()).await.unwrap();
    let counters = dataplane.client.counters(contract::CountersRequest::default()).await.unwrap().into_inner();
    assert_eq!(counters.zones[0].dropped, 2);
}
