//! The lab as its users have it: `scripts/lab` with real namespaces, a real web server and real floods. Needs root.

mod capture;
mod challenge;
mod dns;
mod incident;
mod proxy;
mod soak;
mod support;
mod uplink;

use std::{
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Instant,
};

use levee_tests::{receive, send, timeline::Outcome};
use support::{Lab, skip_reason};

#[test]
fn without_levee_every_packet_of_a_flood_arrives_and_is_recognised() {
    if let Some(reason) = skip_reason(false) {
        return println!("skipped: {reason}");
    }
    let lab = Lab::up("plain", &["--without-levee"]);
    let flood = ["--seconds", "2", "--rate", "5000", "--before", "1", "--after", "1"];
    lab.attack("dns-amplification", &flood).expect_err("nothing drops the flood");
    let (sent, received): (send::Sent, receive::Report) =
        (lab.report("dns-amplification/sent"), lab.report("dns-amplification/received"));
    assert!(sent.packets > 0);
    assert_eq!((received.attack.packets, received.unseen), (sent.packets, 0));
    let clients = lab.report("dns-amplification/http");
    let outcome = Outcome::of(&sent, &received, &clients);
    assert_eq!(outcome.dropped_after, None);
    for phase in outcome.clients {
        assert!(phase.whole > 0 && phase.part * 10 >= phase.whole * 9, "{phase:?}");
    }
}

#[test]
fn down_removes_everything_after_a_crash() {
    if let Some(reason) = skip_reason(false) {
        return println!("skipped: {reason}");
    }
    let lab = Lab::up("crash", &["--without-levee"]);
    for process in lab.processes("server") {
        support::kill(process);
    }
    std::fs::remove_file(lab.state("lossless")).unwrap();
    lab.run("down", &[]).unwrap();
    assert!(!lab.state("").exists());
    assert!(support::namespaces().iter().all(|name| !name.starts_with(lab.name())), "{:?}", support::namespaces());
}

#[test]
fn a_flood_is_dropped_while_clients_are_served() {
    if let Some(reason) = skip_reason(true) {
        return println!("skipped: {reason}");
    }
    let lab = Lab::up("flood", &[]);
    for kind in ["syn-flood", "carpet-bombing"] {
        lab.attack(kind, &["--seconds", "4"]).unwrap();
    }
}

#[test]
fn the_death_of_the_control_plane_during_an_attack_changes_nothing_on_the_wire() {
    if let Some(reason) = skip_reason(true) {
        return println!("skipped: {reason}");
    }
    let lab = Lab::up("control", &[]);
    let control = lab.process("levee", "levee-controlplane");
    let attack = lab.command("attack", &["udp-random", "--seconds", "4"]).stdout(Stdio::piped()).spawn().unwrap();
    lab.await_packets_from_the_flood();
    support::kill(control);
    let output = attack.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn after_the_death_of_the_dataplane_a_new_one_forwards_and_drops_at_once() {
    if let Some(reason) = skip_reason(true) {
        return println!("skipped: {reason}");
    }
    let lab = Lab::up("data", &[]);
    let dataplane = lab.process("levee", "levee-dataplane");
    let command_line = support::command_line(dataplane);
    let died = Instant::now();
    support::kill(dataplane);
    support::await_end(dataplane);
    let mut again = Command::new("ip")
        .args(["netns", "exec", &lab.namespace("levee")])
        .args(command_line)
        .process_group(0)
        .spawn()
        .unwrap();
    lab.await_request();
    println!("forwards again {} ms after kill -9", died.elapsed().as_millis());
    let outcome = lab.attack("syn-flood", &["--seconds", "3"]);
    again.kill().unwrap();
    again.wait().unwrap();
    outcome.unwrap();
}
