//! What a client may not do.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use levee_api::grpc::v1;
use levee_api::grpc::v1::incidents_client::IncidentsClient;
use levee_api::grpc::v1::mitigations_client::MitigationsClient;
use tonic::Code;

use crate::calls::channel;
use crate::core::Appliance;

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_the_connection_lives() {
    let appliance = Appliance::without_dataplane();
    let channel = channel(&appliance).await;
    let reason = "x".repeat(2 << 20);
    let large = v1::WithdrawMitigationRequest { request_id: "1".into(), id: "1".into(), reason, ..Default::default() };
    let status = MitigationsClient::new(channel.clone()).withdraw(large).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    IncidentsClient::new(channel).list(v1::ListIncidentsRequest::default()).await.unwrap();
}

#[tokio::test]
async fn a_method_that_does_not_exist_is_unimplemented_and_counted_together() {
    let appliance = Appliance::without_dataplane();
    let mut client = tonic::client::Grpc::new(channel(&appliance).await);
    for name in ["/levee.v1.System/Shutdown", "/x.Y/Z"] {
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<v1::GetStatusRequest, v1::Status>::default();
        let path = http::uri::PathAndQuery::from_static(name);
        let request = tonic::Request::new(v1::GetStatusRequest {});
        let status = client.unary(request, path, codec).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
    }
    let text = crate::prometheus::scrape(appliance.metrics).await;
    assert!(text.contains("levee_api_calls_total{method=\"unknown\",code=\"unimplemented\"} 2"), "{text}");
}

#[test]
fn who_sends_garbage_or_nothing_does_not_keep_others_out() {
    let appliance = Appliance::without_dataplane();
    let silent: Vec<UnixStream> = (0..20).map(|_| UnixStream::connect(appliance.socket()).unwrap()).collect();
    let mut garbage = UnixStream::connect(appliance.socket()).unwrap();
    garbage.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let _ = garbage.write_all(&[0xa5; 4_096]);
    let mut answer = Vec::new();
    let _ = garbage.read_to_end(&mut answer);
    let output = crate::leveectl::leveectl(&appliance, &["status"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    drop(silent);
}

#[test]
fn the_socket_is_for_root_and_the_group_and_others_are_turned_away() {
    let appliance = Appliance::without_dataplane();
    let socket = appliance.socket();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: being somebody else needs root");
    }
    // As if the file system let anybody through: the credentials still say who it is.
    for path in [appliance.place.folder.path(), &socket] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let program = appliance.place.folder.path().join("leveectl");
    std::fs::copy(env!("CARGO_BIN_EXE_leveectl"), &program).unwrap();
    let mut command = Command::new(program);
    let output = command.arg("--socket").arg(&socket).arg("status").uid(65_534).gid(65_534).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}
