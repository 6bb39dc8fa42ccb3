//! The kill switch of a running dataplane: by signal and by a file of root's, with nobody on the socket.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use levee_api::grpc::dataplane::v1 as contract;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tonic::Code;

use crate::lab::{DEADLINE, Dataplane, Gap, SERVER, assert_stream_crosses, is_root, program, protecting_wire};
use crate::policy::{connect, of_control_plane, owners};

/// Whether a SYN of the client's gets through; the filter of this test drops them all.
fn is_dropped(gap: &Gap) -> bool {
    let listener = gap.server.enter(|| TcpListener::bind((SERVER, 0)).expect("listening"));
    let address = listener.local_addr().expect("an address");
    gap.client.enter(|| TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_err())
}

async fn install(socket: &Path) -> Result<(), tonic::Status> {
    let filters = vec![(&of_control_plane("levee-edge-1-7")).into()];
    let request = contract::InstallFiltersRequest { request_id: String::new(), filters };
    connect(socket).await.0.install_filters(request).await.map(drop)
}

async fn assert_stopped(gap: &Gap, socket: &Path) {
    let begun = Instant::now();
    while !owners(&mut connect(socket).await.0).await.is_empty() {
        assert!(begun.elapsed() < DEADLINE, "the filter stays");
    }
    assert_stream_crosses(&gap.client, &gap.server);
    let refused = install(socket).await.expect_err("nothing is installed while everything is stopped");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("the kill switch is engaged"), "{refused}");
}

#[tokio::test]
async fn everything_ends_at_once_stays_ended_after_a_restart_and_goes_on_when_it_is_released() {
    if !is_root() {
        return;
    }
    let (gap, folder) = (Gap::new(1500), TempDir::new().expect("a folder"));
    let (socket, file) = (folder.path().join("levee.sock"), folder.path().join("kill-switch"));
    let zone = protecting_wire("net_af_packet,iface=outside", "net_af_packet,iface=inside")
        + &format!("[guardrails]\nkill_switch = \"{}\"\n", file.display());
    let start = || {
        let command = program(Some(&gap.middle), folder.path(), &zone, &[]);
        Dataplane::spawn(command, TempDir::new().expect("a folder"))
    };
    let first = start();
    install(&socket).await.expect("a filter");
    assert!(is_dropped(&gap), "{}", first.log());

    first.signal(Signal::SIGUSR1);
    first.wait_for_log("the kill switch is engaged by");
    assert_stopped(&gap, &socket).await;
    first.signal(Signal::SIGKILL);
    first.wait();
    let second = start();
    assert_stopped(&gap, &socket).await;

    fs::remove_file(folder.path().join("state/dataplane/kill-switch")).expect("the file that the signal made");
    second.wait_for_log("the kill switch is released");
    let begun = Instant::now();
    while install(&socket).await.is_err() {
        assert!(begun.elapsed() < DEADLINE, "{}", second.log());
    }
    assert!(is_dropped(&gap), "{}", second.log());

    fs::write(&file, "").expect("root's file");
    second.wait_for_log("kill-switch: every filter is withdrawn");
    assert_stopped(&gap, &socket).await;
}
