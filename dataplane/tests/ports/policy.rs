//! Filters of the control plane in a running dataplane: who may end them, and that they end by themselves.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use hyper_util::rt::TokioIo;
use levee_api::config::Config;
use levee_api::filter::{Action, Filter, HeaderBox, Origin, Rule, Target};
use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::dataplane::v1::dataplane_client::DataplaneClient;
use levee_api::grpc::{FilterRequest, v1};
use levee_api::lane::Lane;
use levee_api::role::Role;
use levee_api::time::Timestamp;
use levee_dataplane::in_force::{self, InForce};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::lab::{DEADLINE, Dataplane, program, protecting_wire};

pub(crate) type Client = DataplaneClient<Channel>;

fn filter(origin: Origin) -> Filter {
    Filter {
        id: 0,
        target: Target { zone: "servers".to_owned(), prefix: Some("192.0.2.2".parse().expect("a prefix")) },
        roles: Role::Syn.set(),
        rule: Rule::of(HeaderBox::any().exact(Lane::Ttl, 64)),
        action: Action::Drop,
        deadline: Timestamp::ZERO + Duration::from_secs(60),
        origin,
        witness: "half-open".to_owned(),
    }
}

pub(crate) fn of_control_plane(owner: &str) -> FilterRequest {
    in_force::request_of(&filter(Origin::ControlPlane { owner: owner.to_owned() }), Timestamp::ZERO)
}

/// A client that has introduced itself, and the run it talks to.
pub(crate) async fn connect(socket: &Path) -> (Client, String) {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://dataplane.invalid");
    let mut client = DataplaneClient::new(endpoint.connect_with_connector(connector).await.expect("a dataplane"));
    let hello = contract::HandshakeRequest { version: Some(levee_api::grpc::VERSION), client: "test".to_owned() };
    let identity = client.handshake(hello).await.expect("a handshake").into_inner();
    (client, identity.boot_id)
}

/// Owners of the filters in force, in order.
pub(crate) async fn owners(client: &mut Client) -> Vec<String> {
    let mut parts = client.snapshot(contract::SnapshotRequest {}).await.expect("a snapshot").into_inner();
    let mut owners = Vec::new();
    while let Some(part) = parts.message().await.expect("a part") {
        if let Some(contract::snapshot_part::Part::Filters(filters)) = part.part {
            owners.extend(filters.filters.into_iter().filter_map(|filter| Some(filter.request?.owner)));
        }
    }
    owners
}

/// Puts the zones of the file in force, without any filter.
async fn commit(client: &mut Client, config: &Config, boot_id: String) {
    let begin = contract::BeginGenerationRequest { boot_id, ..Default::default() };
    let generation = client.begin_generation(begin).await.expect("a generation").into_inner().generation;
    let zones = config.zones.iter().map(v1::Zone::from).collect();
    let chunk = contract::Chunk { generation, zones, ..Default::default() };
    client.upload_chunk(tokio_stream::iter([chunk])).await.expect("an upload");
    let expected = Some(contract::Counts { zones: 1, ..Default::default() });
    let commit = contract::CommitGenerationRequest { generation, expected };
    let outcome = client.commit_generation(commit).await.expect("a commit").into_inner().outcome;
    assert!(matches!(outcome, Some(contract::commit_generation_response::Outcome::Committed(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_new_policy_ends_filters_of_the_control_plane_and_leaves_those_of_the_reflex_before_a_restart() {
    let folder = TempDir::new().expect("a folder");
    let command = program(None, folder.path(), &protecting_wire("net_null0,no-rx=1", "net_null1,no-rx=1"), &[]);
    let before = InForce {
        filters: vec![in_force::request_of(&filter(Origin::Reflex), Timestamp::ZERO), of_control_plane("incident 7")],
        ..InForce::default()
    };
    let state = folder.path().join("state/dataplane");
    std::fs::create_dir_all(&state).expect("a state directory");
    std::fs::write(in_force::path(&state), before.to_bytes(SystemTime::now())).expect("what was in force");
    let dataplane = Dataplane::spawn(command, TempDir::new().expect("a folder"));

    let config = Config::load(folder.path().join("levee.toml")).expect("the configuration");
    let (mut client, boot_id) = connect(&config.dataplane.socket).await;
    let restored = owners(&mut client).await;
    assert_eq!(restored.len(), 2, "{restored:?}\n{}", dataplane.log());
    commit(&mut client, &config, boot_id).await;
    assert_eq!(owners(&mut client).await, ["reflex before the restart"]);
    dataplane.wait_for_log("policy of the control plane: zones: 1 in mode enforce, 0 in mode monitor");
}

#[tokio::test]
async fn a_filter_ends_at_its_deadline_when_nobody_is_there_to_end_it() {
    let folder = TempDir::new().expect("a folder");
    let command = program(None, folder.path(), &protecting_wire("net_null0,no-rx=1", "net_null1,no-rx=1"), &[]);
    let _dataplane = Dataplane::spawn(command, TempDir::new().expect("a folder"));
    let socket = folder.path().join("levee.sock");
    let (mut client, _) = connect(&socket).await;
    let filters = [("incident 8", Duration::from_millis(300)), ("incident 9", Duration::from_secs(600))]
        .map(|(owner, ttl)| v1::FilterRequest::from(&FilterRequest { ttl, ..of_control_plane(owner) }));
    let install = contract::InstallFiltersRequest { request_id: "1".to_owned(), filters: filters.into() };
    client.install_filters(install).await.expect("filters");
    drop(client);

    let (mut client, _) = connect(&socket).await;
    let begun = Instant::now();
    while owners(&mut client).await != ["incident 9"] {
        assert!(begun.elapsed() < DEADLINE, "the filter does not end");
    }
}
