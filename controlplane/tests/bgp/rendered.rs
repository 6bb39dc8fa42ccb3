//! Rules as daemons are told them in their own languages, against what these daemons then send: it has to be what we send.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use levee_controlplane::bgp::flowspec::{Nlri, TrafficAction, Version};
use levee_controlplane::bgp::render::{Syntax, render};
use levee_controlplane::bgp::route::Family;
use levee_controlplane::bgp::speaker::wire::{Open, keepalive};
use levee_controlplane::ledger::{FlowAction, FlowRule, PortRange};
use tokio::net::TcpSocket;

use super::daemon::{Daemon, PATIENCE, find};
use super::world::{OUR_AS, PORT, THEIR_AS, addresses, amplification, prefix};

/// Rules of every kind, and some by chance.
fn rules() -> Vec<(FlowRule, FlowAction)> {
    [chosen(), super::random::rules(40)].concat()
}

fn chosen() -> Vec<(FlowRule, FlowAction)> {
    let range = |first, last| PortRange { first, last };
    let one = |port| range(port, port);
    let limit = FlowAction::RateLimit { bps: 1_000_000 };
    vec![
        (
            FlowRule {
                source: Some(prefix("198.51.100.0/24")),
                destination_ports: vec![range(1024, 65_535)],
                lengths: vec![range(200, 1500)],
                ..amplification("203.0.113.30")
            },
            limit.clone(),
        ),
        (
            FlowRule {
                protocols: vec![6],
                destination_ports: vec![one(80), one(443)],
                tcp_flags: Some((0x12, 0x02)),
                ..FlowRule::to(prefix("203.0.113.31"))
            },
            FlowAction::Drop,
        ),
        (
            FlowRule {
                protocols: vec![1],
                icmp_types: vec![one(8)],
                icmp_codes: vec![one(0)],
                dscps: vec![one(10), one(46)],
                ..FlowRule::to(prefix("203.0.113.32"))
            },
            limit.clone(),
        ),
        (
            FlowRule { later_fragment: Some(true), protocols: vec![17], ..FlowRule::to(prefix("203.0.113.33")) },
            limit.clone(),
        ),
        (amplification("2001:db8::34"), FlowAction::Drop),
        (
            FlowRule {
                source: Some(prefix("2001:db8:1::/48")),
                protocols: vec![17, 50],
                lengths: vec![range(1000, 1500)],
                ..FlowRule::to(prefix("2001:db8::35"))
            },
            limit,
        ),
        (amplification("203.0.113.38"), FlowAction::Sample),
        (amplification("2001:db8::39"), FlowAction::Sample),
        // Less than a byte, and no whole number of them.
        (amplification("203.0.113.36"), FlowAction::RateLimit { bps: 1 }),
        (amplification("203.0.113.37"), FlowAction::RateLimit { bps: 1_000_001 }),
    ]
}

/// Ways to write the same rule: a single bit is "all of it" as well as "any of it".
fn alike(rule: &FlowRule) -> Vec<Vec<u8>> {
    let bytes = Nlri::from(rule).encode().unwrap();
    let mut other = bytes.clone();
    if rule.later_fragment.is_some() {
        let at = other.len() - 2;
        other[at] |= 1;
    }
    vec![bytes, other]
}

/// Speaks BGP just enough to be told everything, and waits for all the rules.
async fn expect(daemon: &Daemon, ours: Ipv4Addr, theirs: Ipv4Addr, rules: &[(FlowRule, FlowAction)]) {
    let deadline = Instant::now() + PATIENCE;
    let connected = loop {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(IpAddr::V4(ours), 0)).unwrap();
        match socket.connect(SocketAddr::new(IpAddr::V4(theirs), PORT)).await {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}: {}", daemon.said()),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut stream = connected.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let open = Open {
        asn: OUR_AS,
        hold_time: 90,
        router_id: ours,
        families: Family::ALL.map(|family| (family.afi(), family.safi())).to_vec(),
        four_octet: true,
        route_refresh: true,
        extended_message: false,
        graceful_restart: None,
        add_path: Vec::new(),
    };
    stream.write_all(&open.encode()).unwrap();
    stream.write_all(&keepalive()).unwrap();
    let mut heard = Vec::new();
    loop {
        let is_there = |bytes: &Vec<u8>| heard.windows(bytes.len()).any(|window| window == bytes.as_slice());
        // The number of an AS in it means nothing.
        let is_asked =
            |wanted: &[u8; 8]| heard.windows(8).any(|bytes| bytes[..2] == wanted[..2] && bytes[4..] == wanted[4..]);
        let missing: Vec<String> = rules
            .iter()
            .map(|(rule, action)| (rule, action, TrafficAction::of(rule, action).unwrap().encode()))
            .filter(|(rule, _, community)| !alike(rule).iter().any(is_there) || !is_asked(community))
            .map(|(rule, action, community)| {
                format!("{rule}: {action}: {:02x?} {community:02x?}", Nlri::from(rule).encode().unwrap())
            })
            .collect();
        if missing.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "not sent: {missing:#?}\nheard: {heard:02x?}\nthe daemon says: {}",
            daemon.said()
        );
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) => panic!("the daemon has hung up: {}", daemon.said()),
            Ok(count) => heard.extend_from_slice(&buffer[..count]),
            Err(_) => stream.write_all(&keepalive()).unwrap(),
        }
    }
}

/// Rates of whole bytes: ExaBGP knows no others.
fn whole() -> Vec<(FlowRule, FlowAction)> {
    let is_whole = |action: &FlowAction| !matches!(action, FlowAction::RateLimit { bps } if !bps.is_multiple_of(8));
    rules().into_iter().filter(|(_, action)| is_whole(action)).collect()
}

fn rendered(syntax: Syntax, version: Version, rules: Vec<(FlowRule, FlowAction)>) -> Vec<String> {
    let of_version = rules.into_iter().filter(|(rule, _)| Version::of(&rule.destination) == version);
    of_version.map(|(rule, action)| render(syntax, "levee", &rule, &action).unwrap()).collect()
}

#[tokio::test]
async fn bird_sends_what_it_is_told_as_we_do() {
    let Some(program) = find(&["bird"]) else { return };
    let (ours, theirs) = addresses();
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "log stderr all; router id {theirs}; protocol device {{}}\nflow4 table f4; flow6 table f6;\n\
         protocol static s4 {{ flow4 {{ table f4; }};\n{}\n}}\nprotocol static s6 {{ flow6 {{ table f6; }};\n{}\n}}\n\
         protocol bgp levee {{ local {theirs} port {PORT} as {THEIR_AS}; neighbor {ours} as {OUR_AS};\n\
         passive on; multihop; strict bind yes;\n\
         flow4 {{ table f4; import none; export all; }}; flow6 {{ table f6; import none; export all; }}; }}\n",
        rendered(Syntax::Bird, Version::V4, rules()).join("\n"),
        rendered(Syntax::Bird, Version::V6, rules()).join("\n"),
    );
    let (path, control) = (folder.path().join("bird.conf"), folder.path().join("ctl").display().to_string());
    std::fs::write(&path, config).unwrap();
    let daemon = Daemon::start(folder, &program, &["-f", "-c", &path.display().to_string(), "-s", &control], &[]);
    expect(&daemon, ours, theirs, &rules()).await;
}

#[tokio::test]
async fn exabgp_sends_what_it_is_told_as_we_do() {
    let Some(program) = find(&["exabgp"]) else { return };
    let (ours, theirs) = addresses();
    let folder = tempfile::tempdir().unwrap();
    let routes: Vec<String> = [Version::V4, Version::V6]
        .into_iter()
        .flat_map(|version| rendered(Syntax::Exabgp, version, whole()))
        .map(|route| route.trim_start_matches("flow ").to_owned())
        .collect();
    let config = format!(
        "neighbor {ours} {{ router-id {theirs}; local-address {theirs}; local-as {THEIR_AS}; peer-as {OUR_AS};\n\
         passive true; family {{ ipv4 flow; ipv6 flow; }}\nflow {{\n{}\n}} }}\n",
        routes.join("\n")
    );
    let daemon = Daemon::exabgp(folder, &program, theirs, &config);
    expect(&daemon, ours, theirs, &whole()).await;
}

#[tokio::test]
async fn gobgp_sends_what_it_is_told_as_we_do() {
    let (ours, theirs) = addresses();
    let Some(gobgp) = super::gobgp::Gobgp::start(ours, theirs) else { return };
    for (version, family) in [(Version::V4, "ipv4-flowspec"), (Version::V6, "ipv6-flowspec")] {
        for arguments in rendered(Syntax::Gobgp, version, rules()) {
            gobgp
                .daemon
                .until("the rule", || {
                    // The rule is quoted for a shell, as an operator would type it.
                    let line =
                        format!("{} -u {} global rib -a {family} add {arguments}", gobgp.client.display(), gobgp.host);
                    let output =
                        Command::new("/bin/sh").args(["-c", &line]).output().map_err(|error| error.to_string())?;
                    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
                    if output.status.success() { Ok(()) } else { Err(format!("{line}: {said}")) }
                })
                .await;
        }
    }
    expect(&gobgp.daemon, ours, theirs, &rules()).await;
}
