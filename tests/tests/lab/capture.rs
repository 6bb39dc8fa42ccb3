//! What is left of an attack on disk.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test helper that fails fails its test")]

use std::{fs, net::IpAddr, path::PathBuf, process::Command};

use levee_tests::{address, send};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::support::{self, Lab, skip_reason};

/// A packet as tshark shows it.
struct Shown {
    time_ns: u64,
    comment: String,
    is_attack: bool,
    is_inbound: bool,
}

fn show(file: &PathBuf) -> Vec<Shown> {
    let fields = ["frame.time_epoch", "frame.comment", "frame.interface_name", "ip.src"];
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(file).args(["-T", "fields", "-E", "separator=|", "-E", "occurrence=f"]);
    let output = tshark.args(fields.iter().flat_map(|field| ["-e", field])).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let packet = |line: &str| {
        let [time, comment, interface, source] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let (seconds, nanos) = time.split_once('.').unwrap();
        let source: Option<IpAddr> = source.parse().ok();
        Shown {
            time_ns: seconds.parse::<u64>().unwrap() * 1_000_000_000 + nanos.parse::<u64>().unwrap(),
            comment: comment.to_owned(),
            is_attack: source.is_some_and(address::is_attacker),
            is_inbound: interface == "lab/inbound",
        }
    };
    text.lines().map(packet).collect()
}

#[test]
fn an_attack_is_captured_from_before_its_first_packet() {
    if let Some(reason) = skip_reason(true) {
        return println!("skipped: {reason}");
    }
    let lab = Lab::up("capture", &[]);
    // Whether the promises about clients are kept is the matter of other tests.
    let _outcome = lab.attack("syn-flood", &["--seconds", "3", "--before", "3", "--after", "1"]);
    let sent: send::Sent = lab.report("syn-flood/sent");
    let dataplane = lab.process("levee", "levee-dataplane");
    kill(dataplane, Signal::SIGTERM).unwrap();
    support::await_end(dataplane);

    let folder = lab.state("levee/dataplane/captures");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_str().unwrap().ends_with("-203.0.113.10.pcapng"));
    let [file] = &files[..] else { panic!("{files:?}") };
    let about: Value = serde_json::from_slice(&fs::read(file.with_extension("json")).unwrap()).unwrap();
    println!("{about:#}");
    let packets = show(file);
    assert_eq!(about["packets"], packets.len());
    assert_eq!((&about["target"], &about["zone"]), (&"203.0.113.10/32".into(), &"web".into()));
    assert_eq!((&about["attack"], &about["sealed"]), (&true.into(), &true.into()));

    let first_of_attack = packets.iter().position(|packet| packet.is_attack).expect("the attack is in it");
    // The generator looks at its clock when its first batch has been sent, so that packets of this batch are earlier.
    const BATCH_NS: u64 = 100_000_000;
    assert!(first_of_attack > 0 && packets[0].time_ns + BATCH_NS < sent.first_unix_ns, "it begins before the attack");
    assert!(packets[first_of_attack].time_ns + BATCH_NS >= sent.first_unix_ns, "the clocks agree");
    let (attack, clients): (Vec<_>, Vec<_>) = packets.iter().partition(|packet| packet.is_attack);
    assert!(packets.iter().all(|packet| packet.comment.starts_with("verdict=")));
    assert!(clients.iter().any(|packet| !packet.is_inbound), "answers of the server are in it");
    assert!(clients.iter().filter(|packet| packet.comment.starts_with("verdict=drop")).count() * 100 <= clients.len());
    let dropped = |packet: &&&Shown| {
        packet.comment.starts_with("verdict=drop reason=filter filter=") && packet.comment.ends_with(" role=syn")
    };
    let dropped = attack.iter().filter(dropped).count();
    assert!(dropped * 2 > attack.len(), "{dropped} of {}", attack.len());
}
