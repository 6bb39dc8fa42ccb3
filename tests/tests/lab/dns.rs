//! A real name server in a flood of forged queries, and a real resolver that asks it for its clients.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says why and fails")]

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::support::{Lab, await_until, skip_reason};

const SERVER: &str = "203.0.113.53";
const FLOOD_PPS: u32 = 12_000;

/// A name server that ends with this.
struct Named(Child);

impl Drop for Named {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts BIND in a namespace, with these options and this zone.
fn named(lab: &Lab, part: &str, options: &str, zone: &str) -> Named {
    let folder = lab.state(&format!("named-{part}"));
    fs::create_dir_all(&folder).unwrap();
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let options = format!(
        "options {{ directory \"{}\"; pid-file none; session-keyfile none; listen-on-v6 {{ none; }}; dnssec-validation no; {options} }};\n\
         controls {{ }};\n{zone}\n",
        folder.display()
    );
    fs::write(file("named.conf"), options).unwrap();
    let records = "$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 203.0.113.53\n* A 203.0.113.99\n";
    fs::write(file("zone"), records).unwrap();
    let log = fs::File::create(file("log")).unwrap();
    let child =
        lab.inside(part, "named").args(["-g", "-n", "1", "-c", &file("named.conf")]).stderr(log).spawn().unwrap();
    Named(child)
}

fn has_programs() -> bool {
    ["named", "dnsperf", "dig"].iter().all(|program| Command::new(program).arg("-h").output().is_ok())
}

#[test]
fn a_resolver_is_answered_over_tcp_in_a_flood_of_forged_queries() {
    if let Some(reason) = skip_reason(true) {
        return println!("skipped: {reason}");
    }
    assert!(has_programs(), "scripts/setup installs bind9, bind9-dnsutils and dnsperf");
    let lab = Lab::up("dns", &["--challenge-dns"]);
    lab.ask("server", "ip", &["address", "add", &format!("{SERVER}/32"), "dev", "lo"]);
    let resolver = lab.add_clients(300, 1, false).remove(0);
    let authority = "zone \"bench.test\" { type primary; file \"zone\"; };";
    let _authority = named(&lab, "server", &format!("listen-on {{ {SERVER}; }}; recursion no;"), authority);
    let forwards = format!("zone \"bench.test\" {{ type static-stub; server-addresses {{ {SERVER}; }}; }};");
    let asks = format!("listen-on port 5300 {{ 127.0.0.1; }}; recursion yes; query-source address {resolver};");
    let _resolver = named(&lab, "internet", &asks, &forwards);
    let dig = |name: &str| lab.ask("internet", "dig", &["+short", "+time=1", "-p", "5300", "@127.0.0.1", name]);
    await_until("the resolver answers", || dig("first.bench.test").contains("203.0.113.99"));

    let names: String = (0..20_000).map(|n| format!("name-{n}.bench.test A\n")).collect();
    fs::write(lab.state("names"), names).unwrap();
    let flood = lab.flood("dns-query-flood", SERVER, 53, FLOOD_PPS);
    lab.await_packets_from_the_flood();
    // A query for every name once: none is answered from the resolver's memory.
    let printed = lab
        .inside("internet", "dnsperf")
        .args(["-s", "127.0.0.1", "-p", "5300", "-d", &lab.state("names").to_string_lossy(), "-n", "1"])
        .args(["-l", "10", "-Q", "150", "-t", "5"])
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    let sent = flood.end();
    let report = String::from_utf8_lossy(&printed.stdout).into_owned();
    let number = |what: &str| {
        let line = report.lines().find(|line| line.contains(what)).unwrap_or_default();
        line.split_whitespace().find_map(|word| word.parse::<u64>().ok()).unwrap_or(0)
    };
    let (asked, answered) = (number("Queries sent:"), number("Queries completed:"));
    let codes = report.lines().find(|line| line.contains("Response codes:")).unwrap_or_default().trim();
    let good = codes.split("NOERROR ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0);
    let latency = report.lines().find(|line| line.contains("Average Latency")).unwrap_or_default().trim().to_owned();
    let over_tcp = lab.ask("server", "nstat", &["-asz", "TcpPassiveOpens"]);
    println!(
        "dns: {answered} of {asked} queries answered, {codes}; {latency}; flood of {} queries a second; {over_tcp}",
        sent.rate_pps
    );
    assert!(asked > 1_000 && good * 100 >= asked * 99, "{report}");
    let connections = over_tcp.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).max().unwrap_or(0);
    assert!(connections > 0, "the resolver came back over TCP");
}
