//! Starting, ending, dying, and what is left of each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::forwarding::{datagram, write};
use crate::lab::{DEADLINE, Dataplane, Gap, is_root, program, protecting_wire, wire};

const AF_PACKET: (&str, &str) = ("net_af_packet,iface=outside", "net_af_packet,iface=inside");

fn nothing_to_do() -> String {
    wire("net_null0,no-rx=1", "net_null1,no-rx=1", 1500)
}

/// Everything that DPDK processes leave about, if they do.
fn leavings(pid: Pid) -> Vec<PathBuf> {
    let mark = pid.to_string();
    ["/var/run/dpdk", "/run/dpdk", "/dev/hugepages", "/dev/shm", "/tmp"]
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().contains(&format!("levee-{mark}")))
        .collect()
}

#[test]
fn sigterm_and_sigint_end_it_in_order_and_nothing_is_left() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let dataplane = Dataplane::start(None, &nothing_to_do());
        let pid = dataplane.pid();
        dataplane.signal(signal);
        let status = dataplane.wait();
        let log = dataplane.log();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!log.contains("not returned by the drivers") && !log.contains("does not stop"), "{log}");
        assert_eq!(leavings(pid), Vec::<PathBuf>::new());
    }
}

#[test]
fn sighup_ends_nothing() {
    let dataplane = Dataplane::start(None, &nothing_to_do());
    dataplane.signal(Signal::SIGHUP);
    dataplane.wait_for_log("SIGHUP: reading the lists of address sets again");
    let log = dataplane.stop();
    assert!(log.contains("forwarding: DPDK") && log.contains("no zone, everything passes"), "{log}");
    assert!(log.contains("ending on SIGTERM"), "{log}");
}

#[test]
fn after_sigkill_nothing_is_left_and_the_next_start_works_at_once() {
    if !is_root() {
        return;
    }
    let gap = Gap::new(1500);
    let configuration = wire(AF_PACKET.0, AF_PACKET.1, 1500);
    let first = Dataplane::start(Some(&gap.middle), &configuration);
    gap.assert_forwards();
    first.signal(Signal::SIGKILL);
    first.wait();
    let _second = Dataplane::start(Some(&gap.middle), &configuration);
    gap.assert_forwards();
    assert_eq!(leavings(first.pid()), Vec::<PathBuf>::new());
}

#[test]
fn after_sigkill_a_vhost_port_finds_its_socket_free() {
    let folder = TempDir::new().expect("a folder");
    let configuration = wire("net_null0,no-rx=1", &format!("net_vhost0,iface={}/vhost", folder.path().display()), 1500);
    let first = Dataplane::start(None, &configuration);
    first.signal(Signal::SIGKILL);
    first.wait();
    Dataplane::start(None, &configuration).stop();
}

#[test]
fn two_dataplanes_run_beside_each_other() {
    if !is_root() {
        return;
    }
    let gaps = [Gap::new(1500), Gap::new(1500)];
    let configuration = wire(AF_PACKET.0, AF_PACKET.1, 1500);
    let _dataplanes = gaps.each_ref().map(|gap| Dataplane::start(Some(&gap.middle), &configuration));
    for gap in &gaps {
        gap.assert_forwards();
    }
}

#[test]
fn once_it_forwards_no_thread_has_a_capability() {
    if !is_root() {
        return;
    }
    let gap = Gap::new(1500);
    let dataplane = Dataplane::start(Some(&gap.middle), &wire(AF_PACKET.0, AF_PACKET.1, 1500));
    assert_powerless(dataplane.pid());
    gap.assert_forwards();
}

#[test]
fn it_becomes_user_levee_if_there_is_one() {
    if !is_root() {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let dataplane = Dataplane::spawn(with_user_levee(&folder, &nothing_to_do()), folder);
    let status = fs::read_to_string(format!("/proc/{}/status", dataplane.pid())).expect("its status");
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("a user id");
    assert!(!uid.split_whitespace().any(|id| id == "0"), "{uid}");
    assert_powerless(dataplane.pid());
    dataplane.stop();
}

#[test]
fn user_levee_reads_the_lists_of_address_sets_again_on_sighup_and_when_they_change() {
    if !is_root() {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let list = folder.path().join("feed");
    let replace = |content: &str| {
        let new = list.with_extension("new");
        fs::write(&new, content).expect("writing");
        fs::rename(&new, &list).expect("renaming");
    };
    replace("198.51.100.0/25\n");
    let set = format!("[[address_set]]\nname = \"feed\"\nfiles = [\"{}\"]\n", list.display());
    let dataplane = Dataplane::spawn(with_user_levee(&folder, &(nothing_to_do() + &set)), folder);
    let told = |prefixes: usize| format!("address set \"feed\": {prefixes} prefixes");
    assert!(dataplane.log().contains(&told(1)), "{}", dataplane.log());
    replace("198.51.100.0/25\n203.0.113.9\n");
    dataplane.wait_for_log(&told(2));
    dataplane.signal(Signal::SIGHUP);
    dataplane.wait_for_log("SIGHUP: reading the lists of address sets again");
    replace("198.51.100.0/25\n203.0.113.9\n192.0.2.0/32\n");
    dataplane.signal(Signal::SIGHUP);
    dataplane.wait_for_log(&told(3));
    let log = dataplane.stop();
    assert!(!log.contains("cannot be read"), "{log}");
}

/// The program, where there is a user levee.
fn with_user_levee(folder: &TempDir, configuration: &str) -> Command {
    let file = |name: &str, line: &str| {
        let path = folder.path().join(name);
        let content = fs::read_to_string(Path::new("/etc").join(name)).expect("a system file");
        fs::write(&path, format!("{content}{line}\n")).expect("writing");
        path
    };
    // The last of equal names is not looked at, so this holds on machines that have the user too.
    let passwd = file("passwd", "levee:x:64999:64999::/nonexistent:/usr/sbin/nologin");
    let group = file("group", "levee:x:64999:");
    let inner = program(None, folder.path(), configuration, &[]);
    // Only this process sees the user.
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "sh",
        "-c",
        "mount --bind \"$1\" /etc/passwd && mount --bind \"$2\" /etc/group && shift 2 && exec \"$@\"",
        "sh",
    ]);
    command.arg(passwd).arg(group).arg(inner.get_program()).args(inner.get_args());
    command
}

fn assert_powerless(pid: Pid) {
    let tasks: Vec<_> = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads").flatten().collect();
    assert!(tasks.len() >= 3, "main, worker and DPDK's own");
    for task in tasks {
        let status = fs::read_to_string(task.path().join("status")).expect("a thread's status");
        for (field, value) in [("CapEff:", "0000000000000000"), ("CapPrm:", "0000000000000000"), ("NoNewPrivs:", "1")] {
            let found = status.lines().find_map(|line| line.strip_prefix(field)).map(str::trim);
            assert_eq!(found, Some(value), "{field} of a thread:\n{status}");
        }
    }
}

#[test]
fn hugepages_are_used_and_leave_no_file() {
    let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").unwrap_or_default();
    if free.trim().parse().unwrap_or(0) < 64 {
        eprintln!("skipped: 64 free hugepages of 2 MiB are needed (echo 64 > /proc/sys/vm/nr_hugepages)");
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let dataplane = Dataplane::start(None, &nothing_to_do().replace("no-huge", "128MiB"));
        let status = fs::read_to_string(format!("/proc/{}/status", dataplane.pid())).expect("its status");
        let huge = status.lines().find_map(|line| line.strip_prefix("HugetlbPages:")).expect("a size");
        assert!(!huge.trim().starts_with("0 "), "memory comes from hugepages: {huge}");
        dataplane.signal(signal);
        dataplane.wait();
        assert_eq!(leavings(dataplane.pid()), Vec::<PathBuf>::new());
    }
}

/// How to look at it by hand: `strace -f -e trace=all -p PID`; only the driver's calls may come from `levee-worker-*`.
#[test]
fn a_worker_makes_no_system_call_between_start_and_end() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: strace is not installed");
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let trace = folder.path().join("trace");
    // A capture in memory that begins again and again: this driver makes no system call of its own.
    let flood = folder.path().join("flood");
    let from = |number: u16| [198, 51, 100, number.to_le_bytes()[0]];
    let land = [192, 0, 2, 2];
    write(
        &flood,
        &(0..512).flat_map(|number| [datagram(from(number), number), datagram(land, number)]).collect::<Vec<_>>(),
    );
    let outside = format!("net_pcap0,rx_pcap={},infinite_rx=1", flood.display());
    let configuration = protecting_wire(&outside, "net_null0,no-rx=1").replace("adaptive", "spin");
    let inner = program(None, folder.path(), &(configuration + "visibility = \"both\"\n"), &[]);
    let mut command = Command::new("strace");
    // With -D the process that is started is the traced one: it is that which is killed if the test fails.
    command.args(["-D", "-f", "-o"]).arg(&trace).arg(inner.get_program()).args(inner.get_args());
    let dataplane = Dataplane::spawn(command, folder);
    wait_for_work(dataplane.pid());
    dataplane.signal(Signal::SIGTERM);
    let status = dataplane.wait();
    let log = dataplane.log();
    assert!(status.success(), "{status}:\n{log}");
    assert!(log.contains("malformed_land"), "packets were judged: {log}");

    let trace = fs::read_to_string(&trace).expect("the trace");
    let worker = trace
        .lines()
        .find(|line| line.contains("PR_SET_NAME, \"levee-worker-0\""))
        .and_then(|line| line.split_whitespace().next())
        .expect("the worker names itself");
    let from = trace.find("READY=1").expect("forwarding was announced");
    let until = from + trace[from..].find("--- SIGTERM").expect("it was ended by a signal");
    // What is interrupted or resumed at either edge belongs to start-up.
    let calls: Vec<&str> =
        trace[from..until].lines().filter(|line| line.starts_with(worker) && !line.contains("resumed>")).collect();
    assert_eq!(calls, Vec::<&str>::new());
}

/// Lets the process work for a tenth of a second of CPU time: thousands of bursts.
fn wait_for_work(process: Pid) {
    let worked = || -> u64 {
        let threads = fs::read_dir(format!("/proc/{process}/task")).expect("its threads").flatten();
        // The first number is the time on a CPU in nanoseconds.
        let time = |path: PathBuf| fs::read_to_string(path).ok()?.split(' ').next()?.parse::<u64>().ok();
        threads.filter_map(|thread| time(thread.path().join("schedstat"))).sum()
    };
    let (start, deadline) = (worked(), Instant::now() + DEADLINE);
    while worked() < start + 100_000_000 {
        assert!(Instant::now() < deadline, "the worker does not run");
    }
}
