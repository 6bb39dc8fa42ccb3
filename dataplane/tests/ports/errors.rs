//! What cannot run says why, in one line, and what to do.

use tempfile::TempDir;

use crate::lab::{is_root, program, wire};

const UNKNOWN: i32 = 1;
const EX_CONFIG: i32 = 78;

/// Runs it, and expects this exit status and these words on the last line.
fn assert_refused(configuration: &str, status: i32, words: &[&str]) {
    let folder = TempDir::new().expect("a folder");
    let output = program(None, folder.path(), configuration, &[]).output().expect("the program");
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{configuration}\n{log}");
    let last = if status == EX_CONFIG { log.as_ref() } else { log.lines().last().unwrap_or_default() };
    for word in words {
        assert!(last.contains(word), "{word:?} is missing in:\n{log}");
    }
}

#[test]
fn a_port_that_does_not_exist() {
    assert_refused(&wire("net_null0", "net_nonsense0", 1500), UNKNOWN, &["wire \"uplink\"", "net_nonsense0", "driver"]);
    assert_refused(
        &wire("net_null0", "net_pcap0,rx_pcap=/nonexistent.pcap,tx_pcap=/dev/null", 1500),
        UNKNOWN,
        &["wire \"uplink\"", "/nonexistent.pcap"],
    );
    assert_refused(
        &wire("net_null0", "0000:7f:1f.7", 1500),
        UNKNOWN,
        &["0000:7f:1f.7", "no such port", "dpdk-devbind"],
    );
    if is_root() {
        assert_refused(&wire("net_null0", "net_af_packet,iface=nonexistent0", 1500), UNKNOWN, &["iface=nonexistent0"]);
    }
}

#[test]
fn what_names_no_port() {
    assert_refused(&wire("net_null0", "eth1", 1500), EX_CONFIG, &["wire \"uplink\"", "\"eth1\"", "PCI address"]);
}

#[test]
fn a_wire_from_a_port_to_itself() {
    assert_refused(&wire("net_null0", "net_null0", 1500), EX_CONFIG, &["net_null0"]);
    assert_refused(&wire("net_af_packet,iface=a", "net_af_packet,iface=a", 1500), EX_CONFIG, &["iface=a"]);
}

#[test]
fn an_mtu_that_the_port_does_not_carry() {
    if is_root() {
        assert_refused(&wire("net_null0", "net_tap0", 9000), UNKNOWN, &["net_tap0", "MTU of 9000", "1504"]);
    }
    let small = "net_af_packet,iface=a,framesz=2048";
    assert_refused(&wire("net_null0", small, 9000), EX_CONFIG, &["framesz=2048", "framesz=9216"]);
}

#[test]
fn hugepages_that_are_not_there() {
    let configuration = wire("net_null0", "net_null1", 1500).replace("no-huge", "1024GiB");
    assert_refused(&configuration, UNKNOWN, &["1048576 MiB", "/proc/sys/vm/nr_hugepages", "no-huge"]);
}

#[test]
fn memory_too_small_for_the_buffers() {
    let configuration = wire("net_null0", "net_null1", 9000).replace("no-huge", "64MiB");
    assert_refused(&configuration, EX_CONFIG, &["64 MiB", "[dataplane]"]);
}

#[test]
fn a_cpu_that_is_not_ours() {
    let configuration = wire("net_null0", "net_null1", 1500).replace("idle =", "workers = [8000]\nidle =");
    assert_refused(&configuration, UNKNOWN, &["CPU 8000", "may run on"]);
}

#[test]
fn no_wire_at_all() {
    let zone =
        "schema = 1\n[dataplane]\n[[zone]]\nname = \"web\"\nprefixes = [\"203.0.113.0/24\"]\nmode = \"enforce\"\n";
    assert_refused(zone, EX_CONFIG, &["[[dataplane.wire]]"]);
}
