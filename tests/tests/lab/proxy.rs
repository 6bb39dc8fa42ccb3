//! Real kernels on both sides of connections that are opened in the place of a real web server, while SYNs that look like theirs arrive in
//! a flood.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says why and fails")]

use std::fs::File;
use std::io::Read;
use std::process::Stdio;

use levee_tests::http;

use crate::support::{Lab, skip_reason};

const SERVERS: [&str; 2] = ["203.0.113.10", "2001:db8:a::10"];
/// New clients of each kind, and how many begin in a second.
const CLIENTS: usize = 100;
const PER_SECOND: usize = 50;
const FLOOD_PPS: u32 = 10_000;

/// What kernels are set to, besides what they come with.
const KERNELS: [(&str, &[&str]); 7] = [
    ("as they come", &USUAL),
    ("without timestamps", &["net.ipv4.tcp_timestamps=0"]),
    ("without selective acknowledgements", &["net.ipv4.tcp_sack=0"]),
    ("without window scaling", &["net.ipv4.tcp_window_scaling=0"]),
    ("without any option", &["net.ipv4.tcp_timestamps=0", "net.ipv4.tcp_sack=0", "net.ipv4.tcp_window_scaling=0"]),
    ("with congestion notification", &["net.ipv4.tcp_ecn=1"]),
    ("with plain timestamps and small buffers", &["net.ipv4.tcp_timestamps=2", "net.ipv4.tcp_rmem=4096 65536 131072"]),
];
const USUAL: [&str; 5] = [
    "net.ipv4.tcp_timestamps=1",
    "net.ipv4.tcp_sack=1",
    "net.ipv4.tcp_window_scaling=1",
    "net.ipv4.tcp_ecn=2",
    "net.ipv4.tcp_rmem=4096 131072 6291456",
];

fn up(name: &str) -> Lab {
    Lab::up(name, &["--challenge", "proxy", "--ipv6"])
}

fn url(server: &str, file: &str) -> String {
    if server.contains(':') { format!("http://[{server}]/{file}") } else { format!("http://{server}/{file}") }
}

/// What came of a request of each client.
fn ask(lab: &Lab, server: &str, sources: &[String]) -> http::Report {
    let seconds = (sources.len() / PER_SECOND).to_string();
    let server = if server.contains(':') { format!("[{server}]:80") } else { format!("{server}:80") };
    let output = lab
        .inside("internet", env!("CARGO_BIN_EXE_levee-traffic"))
        .args(["http", "--server", &server, "--sources", &sources.join(","), "--seconds", &seconds])
        .args(["--rate", &PER_SECOND.to_string(), "--requests", "1", "--patience", "5"])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// New clients of every kind ask a server in a flood.
fn clients_get_through(server: &str, name: &str) {
    if let Some(reason) = skip_reason(true) {
        return println!("skipped: {reason}");
    }
    let lab = up(name);
    let mut seed = 500;
    let mut clients = || {
        seed += 1;
        lab.add_clients(seed, CLIENTS, server.contains(':'))
    };
    // In peace: what the server offers is learned, and how long a request takes.
    let peace = ask(&lab, server, &clients());
    let flood = lab.flood("syn-mimic", server, 80, FLOOD_PPS);
    lab.await_packets_from_the_flood();
    let first = clients();
    let mut report = None;
    assert!(is_opened_for(&lab, server, &first[0], || report = Some(ask(&lab, server, &first))));
    let report = report.unwrap();
    assert!(report.succeeded.total() * 100 >= report.begun.total() * 99, "the first clients: {:?}", report.failures);
    let (mut failed, mut kernels) = (Vec::new(), KERNELS.map(|(kernel, settings)| (kernel, settings, "1")).to_vec());
    // A server that answers every SYN with a cookie of its own.
    kernels.push(("of a server with cookies", &USUAL, "2"));
    for (kernel, settings, cookies) in kernels {
        lab.sysctl("internet", &USUAL);
        lab.sysctl("internet", settings);
        lab.sysctl("server", &[&format!("net.ipv4.tcp_syncookies={cookies}")]);
        let report = ask(&lab, server, &clients());
        println!(
            "proxy, {server}, clients {kernel}: {} of {} requests answered; added: median {} us, 99th percentile {} us",
            report.succeeded.total(),
            report.begun.total(),
            report.median_us.saturating_sub(peace.median_us),
            report.p99_us.saturating_sub(peace.p99_us),
        );
        if report.begun.total() == 0 || report.succeeded.total() * 100 < report.begun.total() * 99 {
            failed.push(format!("{kernel}: {:?}", report.failures));
        }
    }
    println!(
        "proxy, {server}: flood of {} SYNs a second; in peace median {} us",
        flood.end().rate_pps,
        peace.median_us
    );
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn new_clients_get_through_a_flood_of_mimics_when_their_connections_are_opened_for_them() {
    clients_get_through(SERVERS[0], "proxy");
}

#[test]
fn new_clients_with_ipv6_get_through_a_flood_of_mimics_when_their_connections_are_opened_for_them() {
    clients_get_through(SERVERS[1], "proxy6");
}

/// A file of a server with what is random in it; its name and checksum.
fn file(lab: &Lab, megabytes: u64) -> String {
    let path = lab.state("nginx/www/file");
    let mut random = File::open("/dev/urandom").unwrap().take(megabytes * 1_000_000);
    std::io::copy(&mut random, &mut File::create(&path).unwrap()).unwrap();
    checksum(&lab.ask("server", "sha256sum", &[path.to_str().unwrap()]))
}

fn checksum(printed: &str) -> String {
    printed.split_whitespace().next().unwrap_or_default().to_owned()
}

/// A shell line in the namespace of clients.
fn download(lab: &Lab, server: &str, source: &str, more: &str) -> std::process::Child {
    let line = format!("curl -sS --max-time 90 --interface {source} {more} -g '{}' | sha256sum", url(server, "file"));
    lab.inside("internet", "sh").args(["-c", &line]).stdout(Stdio::piped()).spawn().unwrap()
}

/// Whether the first SYN-ACK to a client has another number where it leaves the server than where it reaches the client, while `run` runs.
fn is_opened_for(lab: &Lab, server: &str, source: &str, run: impl FnOnce()) -> bool {
    let watch = |part, interface| {
        let filter = format!("tcp[13] & 0x12 == 0x12 and dst host {source}");
        let filter =
            if source.contains(':') { format!("ip6[53] & 0x12 == 0x12 and dst host {source}") } else { filter };
        let mut command = lab.inside(part, "timeout");
        command.args(["60", "tcpdump", "-nn", "-S", "-c", "1", "-i", interface, &filter]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut watched = [watch("server", "lan"), watch("internet", "wan")];
    for child in &mut watched {
        // It says on what it listens when it does.
        let stderr = child.stderr.as_mut().unwrap();
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains("listening on") {
            let mut byte = [0];
            stderr.read_exact(&mut byte).unwrap();
            said.extend(byte);
        }
    }
    run();
    let [server_says, client_hears] = watched.map(|child| {
        let printed = child.wait_with_output().unwrap().stdout;
        let text = String::from_utf8_lossy(&printed).into_owned();
        text.split("seq ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default().to_owned()
    });
    println!("{server} to {source}: SYN-ACK {server_says} became {client_hears}");
    !server_says.is_empty() && !client_hears.is_empty() && server_says != client_hears
}

/// Files of 100 MB to clients of several kinds, which are not known when a flood begins, and to one that is.
fn files_arrive(server: &str, name: &str) {
    if let Some(reason) = skip_reason(true) {
        return println!("skipped: {reason}");
    }
    let lab = up(name);
    let expected = file(&lab, 100);
    let ipv6 = server.contains(':');
    // Established before: it is not asked, and loses nothing.
    let before = lab.add_clients(900, 1, ipv6);
    let established = download(&lab, server, &before[0], "--limit-rate 4M");
    let peace = ask(&lab, server, &lab.add_clients(901, CLIENTS, ipv6));
    assert!(peace.failures.is_empty(), "{peace:?}");
    let _flood = lab.flood("syn-mimic", server, 80, FLOOD_PPS);
    lab.await_packets_from_the_flood();
    for (seed, (kernel, settings)) in (1_000..).zip(KERNELS.iter().take(5)) {
        lab.sysctl("internet", &USUAL);
        lab.sysctl("internet", settings);
        let source = lab.add_clients(seed, 1, ipv6).remove(0);
        let mut arrived = String::new();
        let is_opened = is_opened_for(&lab, server, &source, || {
            let output = download(&lab, server, &source, "").wait_with_output().unwrap();
            arrived = checksum(&String::from_utf8_lossy(&output.stdout));
        });
        assert_eq!(arrived, expected, "clients {kernel}");
        assert!(is_opened, "clients {kernel}");
    }
    let output = established.wait_with_output().unwrap();
    assert_eq!(checksum(&String::from_utf8_lossy(&output.stdout)), expected, "begun before the flood");
}

#[test]
fn large_files_arrive_intact_through_connections_that_were_opened_for_their_clients() {
    files_arrive(SERVERS[0], "files");
}

#[test]
fn large_files_arrive_intact_over_ipv6_through_connections_that_were_opened_for_their_clients() {
    files_arrive(SERVERS[1], "files6");
}
