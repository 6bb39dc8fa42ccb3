//! Calls of a client over the socket.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use levee_api::filter::{Action, HeaderBox, Rule};
use levee_api::grpc::v1;
use levee_api::grpc::v1::captures_client::CapturesClient;
use levee_api::grpc::v1::incidents_client::IncidentsClient;
use levee_api::grpc::v1::mitigations_client::MitigationsClient;
use levee_api::grpc::v1::runbooks_client::RunbooksClient;
use levee_api::grpc::v1::system_client::SystemClient;
use levee_api::grpc::v1::zones_client::ZonesClient;
use levee_api::lane::Lane;
use levee_api::prefix::Prefix;
use levee_controlplane::incident::{Phase, TimelineKind};
use levee_controlplane::store::Write;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt as _;

use crate::core::{Appliance, at, entry, incident};

/// Longer than anything takes, shorter than anybody's patience.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) async fn channel(appliance: &Appliance) -> Channel {
    let socket = appliance.socket();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://test.invalid").connect_with_connector(connector).await.unwrap()
}

fn prefix(text: &str) -> Option<v1::Prefix> {
    Some(Prefix::from(text.parse::<std::net::IpAddr>().unwrap()).into())
}

fn wanted(id: &str, ttl: Duration) -> v1::AddMitigationRequest {
    let rule = Rule::of(HeaderBox::any().exact(Lane::Ttl, 64));
    let filter = v1::FilterMeasure {
        target: Some(v1::Target { zone: "web".into(), prefix: prefix("203.0.113.9") }),
        roles: vec!["syn".into()],
        rule: Some((&rule).into()),
        action: Some(Action::Drop.into()),
    };
    v1::AddMitigationRequest {
        request_id: id.into(),
        ttl_ns: u64::try_from(ttl.as_nanos()).unwrap(),
        reason: "seen in the capture".into(),
        measure: Some(v1::add_mitigation_request::Measure::Filter(filter)),
        ..Default::default()
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn incidents_are_listed_in_pages_and_by_what_was_asked() {
    let appliance = Appliance::start();
    for id in 1..=5 {
        appliance.open(id, &format!("203.0.113.{id}"), id);
    }
    let mut incidents = IncidentsClient::new(channel(&appliance).await);
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListIncidentsRequest { page_size: 2, page_token: token, ..Default::default() };
        let page = incidents.list(request).await.unwrap().into_inner();
        assert_eq!(page.total, 5);
        seen.extend(page.incidents.into_iter().map(|incident| incident.id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["5", "4", "3", "2", "1"]);

    let of = v1::ListIncidentsRequest { prefix: prefix("203.0.113.3"), ..Default::default() };
    let found = incidents.list(of).await.unwrap().into_inner();
    assert_eq!(found.incidents.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["3"]);
    let closed = vec![v1::IncidentState::Closed.into()];
    let none = incidents.list(v1::ListIncidentsRequest { states: closed, ..Default::default() }).await.unwrap();
    assert_eq!(none.into_inner().total, 0);
}

#[tokio::test]
async fn every_wrong_field_is_named() {
    let appliance = Appliance::without_dataplane();
    let mut incidents = IncidentsClient::new(channel(&appliance).await);
    let request = v1::ListIncidentsRequest {
        page_size: 5_000,
        page_token: "x".into(),
        prefix: Some(v1::Prefix { address: vec![1, 2, 3], length: 24 }),
        ..Default::default()
    };
    let status = incidents.list(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let fields = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(fields.iter().map(|one| one.field.as_str()).collect::<Vec<_>>(), ["page_size", "page_token", "prefix"]);

    let mut mitigations = MitigationsClient::new(channel(&appliance).await);
    let mut nothing = wanted("", Duration::ZERO);
    nothing.measure = None;
    let status = mitigations.add(nothing).await.unwrap_err();
    let fields = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(fields.iter().map(|one| one.field.as_str()).collect::<Vec<_>>(), ["request_id", "ttl_ns", "measure"]);

    let mut wrong = wanted("1", MINUTE);
    if let Some(v1::add_mitigation_request::Measure::Filter(filter)) = &mut wrong.measure {
        filter.roles = vec!["sin".into()];
    }
    let status = mitigations.add(wrong).await.unwrap_err();
    assert!(status.message().starts_with("filter.roles[0]"), "{}", status.message());
}

#[tokio::test]
async fn what_does_not_exist_is_named() {
    let appliance = Appliance::without_dataplane();
    let channel = channel(&appliance).await;
    let told = |status: tonic::Status| {
        assert_eq!(status.code(), Code::NotFound);
        status.get_details_resource_info().unwrap().resource_type
    };
    let get = v1::GetIncidentRequest { id: "9".into() };
    assert_eq!(told(IncidentsClient::new(channel.clone()).get(get).await.unwrap_err()), "incident");
    let get = v1::GetZoneRequest { name: "x".into() };
    assert_eq!(told(ZonesClient::new(channel.clone()).get(get).await.unwrap_err()), "zone");
    let get = v1::GetRunbookRequest { name: "x".into() };
    assert_eq!(told(RunbooksClient::new(channel.clone()).get(get).await.unwrap_err()), "runbook");
    let get = v1::GetCaptureRequest { name: "../x".into() };
    assert_eq!(told(CapturesClient::new(channel).get(get).await.unwrap_err()), "capture");
}

#[tokio::test]
async fn the_same_request_again_gets_the_same_answer_and_does_nothing() {
    let appliance = Appliance::start();
    let mut mitigations = MitigationsClient::new(channel(&appliance).await);
    let first = mitigations.add(wanted("a", MINUTE)).await.unwrap().into_inner().mitigation.unwrap();
    let again = mitigations.add(wanted("a", MINUTE)).await.unwrap().into_inner().mitigation.unwrap();
    assert_eq!(first, again);
    assert_eq!(
        (first.id.as_str(), first.state(), first.kind()),
        ("1", v1::MitigationState::Planned, v1::MitigationKind::Filter)
    );
    assert!(first.requested_by.contains("admin") && first.reason == "seen in the capture", "{first:?}");
    let all = mitigations.list(v1::ListMitigationsRequest::default()).await.unwrap().into_inner();
    assert_eq!(all.total, 1);

    let other = mitigations.add(wanted("a", 2 * MINUTE)).await.unwrap_err();
    assert_eq!(other.code(), Code::AlreadyExists);
    // The same id for another method is another request.
    let withdraw = v1::WithdrawMitigationRequest { request_id: "a".into(), id: "1".into(), ..Default::default() };
    let gone = mitigations.withdraw(withdraw).await.unwrap().into_inner().mitigation.unwrap();
    assert_eq!((gone.state(), gone.outcome.as_str()), (v1::MitigationState::Withdrawing, "withdrawn"));
}

#[tokio::test]
async fn what_is_only_validated_is_not_done() {
    let appliance = Appliance::start();
    let mut mitigations = MitigationsClient::new(channel(&appliance).await);
    let request = v1::AddMitigationRequest { validate_only: true, ..wanted("v", MINUTE) };
    mitigations.add(request).await.unwrap();
    assert_eq!(mitigations.list(v1::ListMitigationsRequest::default()).await.unwrap().into_inner().total, 0);
    // And its id is free.
    mitigations.add(wanted("v", MINUTE)).await.unwrap();
    assert_eq!(mitigations.list(v1::ListMitigationsRequest::default()).await.unwrap().into_inner().total, 1);
}

#[tokio::test]
async fn a_guardrail_that_refuses_names_itself() {
    let appliance = Appliance::start();
    let mut mitigations = MitigationsClient::new(channel(&appliance).await);
    let status = mitigations.add(wanted("g", 120 * MINUTE)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.metadata["guardrail"].as_str(), info.metadata["limit"].as_str()), ("max_ttl", "1h"));
}

#[tokio::test]
async fn a_watcher_hears_of_what_is_open_and_of_every_change() {
    let appliance = Appliance::start();
    appliance.open(1, "203.0.113.1", 0);
    let mut incidents = IncidentsClient::new(channel(&appliance).await);
    let mut changes = incidents.watch(v1::WatchIncidentsRequest::default()).await.unwrap().into_inner();
    let mut next = async || {
        let change = tokio::time::timeout(DEADLINE, changes.message()).await.expect("a change").unwrap().unwrap();
        let incident = change.incident.unwrap();
        (incident.id.clone(), incident.state(), change.news)
    };
    let (id, state, news) = next().await;
    assert_eq!((id.as_str(), state, news.len()), ("1", v1::IncidentState::Attack, 0));

    let mut closed = incident(1, "203.0.113.1", 0);
    (closed.phase, closed.next_entry) = (Phase::Closed { at: at(50) }, 2);
    let told = entry(1, 1, 50, TimelineKind::Closed, "everything has ended");
    appliance.write(vec![Write::PutIncident(closed), Write::AppendTimeline(told)]);
    appliance.open(2, "203.0.113.2", 60);
    let (id, state, news) = next().await;
    assert_eq!((id.as_str(), state, news[0].text.as_str()), ("1", v1::IncidentState::Closed, "everything has ended"));
    let (id, _, news) = next().await;
    assert_eq!((id.as_str(), news[0].kind.as_str()), ("2", "opened"));
}

#[tokio::test]
async fn a_watcher_of_an_incident_that_does_not_exist_hears_so() {
    let appliance = Appliance::without_dataplane();
    let mut incidents = IncidentsClient::new(channel(&appliance).await);
    let watch = v1::WatchIncidentsRequest { id: "4".into(), ..Default::default() };
    let mut changes = incidents.watch(watch).await.unwrap().into_inner();
    assert_eq!(changes.message().await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn the_status_and_explanations_have_the_dataplanes_part() {
    let appliance = Appliance::start();
    let mut system = SystemClient::new(channel(&appliance).await);
    let status = system.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert!(status.dataplane.as_ref().unwrap().connected);
    assert_eq!((status.appliance.as_str(), status.mode()), ("edge-1", v1::Mode::Enforce));
    let explain = v1::ExplainRequest { prefix: prefix("203.0.113.1") };
    let explained = system.explain(explain).await.unwrap().into_inner();
    assert_eq!((explained.zone.as_str(), explained.dataplane_answers), ("web", true));
    assert_eq!(explained.protected_by.len(), 1);
    let zones = ZonesClient::new(channel(&appliance).await).list(v1::ListZonesRequest {}).await.unwrap().into_inner();
    assert_eq!(zones.zones[0].traffic.as_ref().unwrap().dropped, 2);
}

#[tokio::test]
async fn without_a_dataplane_nothing_is_made_up() {
    let appliance = Appliance::without_dataplane();
    let channel = channel(&appliance).await;
    let mut system = SystemClient::new(channel.clone());
    let status = system.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert!(!status.dataplane.unwrap().connected);
    assert!(status.troubles[0].contains("does not answer"), "{:?}", status.troubles);
    let zones = ZonesClient::new(channel).list(v1::ListZonesRequest {}).await.unwrap().into_inner().zones;
    assert!(zones.iter().all(|zone| zone.traffic.is_none()));
}

#[tokio::test]
async fn the_kill_switch_lowers_every_zone() {
    let appliance = Appliance::start();
    let mut system = SystemClient::new(channel(&appliance).await);
    let on = v1::SetKillSwitchRequest { request_id: "k".into(), on: true, ..Default::default() };
    assert!(system.set_kill_switch(on).await.unwrap().into_inner().kill_switch.unwrap().on);
    let status = system.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.mode(), v1::Mode::Monitor);
    let explain = v1::ExplainRequest { prefix: prefix("203.0.113.9") };
    assert_eq!(system.explain(explain).await.unwrap().into_inner().mode(), v1::Mode::Monitor);
}

#[tokio::test]
async fn a_configuration_file_is_compared_before_it_is_taken() {
    let appliance = Appliance::without_dataplane();
    let mut system = SystemClient::new(channel(&appliance).await);
    let same = system.diff_config(v1::DiffConfigRequest {}).await.unwrap().into_inner();
    assert!(same.changes.is_empty() && !same.hash.is_empty());
    let file = appliance.place.folder.path().join("levee.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let more = format!("{text}[[zone]]\nname = \"third\"\nprefixes = [\"192.0.2.0/24\"]\n");
    std::fs::write(&file, more.replace("max_ttl = \"1h\"", "max_ttl = \"2h\"")).unwrap();
    let other = system.diff_config(v1::DiffConfigRequest {}).await.unwrap().into_inner();
    assert_eq!(
        other.changes,
        [
            "~ guardrails: max_ttl = \"1h\" -> \"2h\" (in the control plane at once, in the dataplane when it restarts)",
            "+ zone \"third\": name = \"third\"",
            "+ zone \"third\": prefixes = [\"192.0.2.0/24\"]",
        ]
    );
    std::fs::write(&file, text.replace("prefixes", "prefxies")).unwrap();
    let wrong = system.diff_config(v1::DiffConfigRequest {}).await.unwrap().into_inner();
    assert!(
        wrong.problems.iter().any(|problem| problem.is_error && problem.line > 0 && problem.help.contains("prefixes"))
    );
    let condition = "[[runbook]]\nname = \"own\"\n[[runbook.stage]]\nname = \"edge\"\nwhen = \"attack.ppps > 1\"\n\
                     action = { notify = { channels = [] } }\n";
    std::fs::write(&file, format!("{text}{condition}")).unwrap();
    let wrong = system.diff_config(v1::DiffConfigRequest {}).await.unwrap().into_inner();
    assert!(
        wrong.problems.iter().any(|problem| problem.is_error && problem.message.contains("attack.ppps")),
        "{wrong:?}"
    );
}

#[tokio::test]
async fn health_and_reflection_answer() {
    let appliance = Appliance::without_dataplane();
    let channel = channel(&appliance).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let request = tonic_health::pb::HealthCheckRequest { service: "levee.v1.Incidents".into() };
    let status = health.check(request).await.unwrap().into_inner().status();
    assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::Serving);

    use tonic_reflection::pb::v1 as reflection;
    let ask = reflection::ServerReflectionRequest {
        message_request: Some(reflection::server_reflection_request::MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(tokio_stream::iter([ask])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let listed = format!("{answer:?}");
    assert!(listed.contains("levee.v1.Mitigations") && listed.contains("grpc.health.v1.Health"), "{listed}");
}
