//! ExaBGP as a second opinion on our UPDATEs, and at the other end.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use levee_controlplane::bgp::flowspec::{Nlri, TrafficAction, Version};
use levee_controlplane::bgp::route::{Destination, Route};
use levee_controlplane::bgp::speaker::wire::Announced;
use levee_controlplane::ledger::{FlowAction, FlowRule, PortRange};

use super::daemon::{Daemon, ask, find};
use super::world::{
    OUR_AS, THEIR_AS, addresses, amplification, announce, flowspec, is_established, peer, prefix, speaker, withdraw,
};

/// What `exabgp --decode` reads in an UPDATE, one line of JSON.
fn decoded(program: &Path, folder: &Path, update: &[u8]) -> String {
    let config = folder.join("decode.conf");
    let text = "neighbor 127.0.0.1 { router-id 127.0.0.2; local-address 127.0.0.2; local-as 64497; peer-as 64496;\n\
                family { ipv4 unicast; ipv6 unicast; ipv4 flow; ipv6 flow; } }\n";
    std::fs::write(&config, text).unwrap();
    let digits: String = update.iter().map(|byte| format!("{byte:02x}")).collect();
    let said = ask(program, &["--decode", &digits, &config.display().to_string()]);
    said.lines().find(|line| line.contains("\"exabgp\"")).map_or_else(|| panic!("no JSON in: {said}"), str::to_owned)
}

#[test]
fn exabgp_reads_in_our_rules_what_we_mean() {
    let Some(program) = find(&["exabgp"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let range = |first, last| PortRange { first, last };
    let one = |port| range(port, port);
    let rules = [
        (
            FlowRule {
                source: Some(prefix("198.51.100.0/24")),
                destination_ports: vec![range(1024, 65_535)],
                lengths: vec![range(200, 1500)],
                ..amplification("203.0.113.30")
            },
            FlowAction::RateLimit { bps: 1_000_000 },
            vec![
                "\"destination-ipv4\": [ \"203.0.113.30/32\" ]",
                "\"source-ipv4\": [ \"198.51.100.0/24\" ]",
                "\"source-port\": [ \"=53\", \"=123\" ]",
                "\"destination-port\": [ \">=1024&<=65535\" ]",
                "\"packet-length\": [ \">=200&<=1500\" ]",
                "rate-limit:125000",
            ],
        ),
        (
            FlowRule {
                protocols: vec![6],
                destination_ports: vec![one(80), one(443)],
                tcp_flags: Some((0x02, 0x02)),
                dscps: vec![one(46)],
                ..FlowRule::to(prefix("203.0.113.31"))
            },
            FlowAction::Drop,
            vec!["\"=tcp\"", "\"=80\", \"=443\"", "syn", "\"dscp\": [ \"=46\" ]", "rate-limit:0"],
        ),
        (
            FlowRule {
                protocols: vec![1],
                icmp_types: vec![one(8)],
                icmp_codes: vec![one(0)],
                ..FlowRule::to(prefix("203.0.113.32"))
            },
            FlowAction::Redirect { to: "64496:100".to_owned() },
            vec!["icmp-type", "icmp-code", "redirect:64496:100"],
        ),
        (
            FlowRule { protocols: vec![17], later_fragment: Some(true), ..FlowRule::to(prefix("2001:db8::7")) },
            FlowAction::Mark { dscp: 46 },
            vec!["2001:db8::7/128", "is-fragment", "mark 46"],
        ),
    ];
    for (rule, action, expected) in rules {
        let version = Version::of(&rule.destination);
        let route = Route {
            destination: Destination::Rule(version, Nlri::from(&rule).encode().unwrap()),
            next_hop: None,
            path_length: 1,
            communities: Vec::new(),
            extended: vec![TrafficAction::of(&rule, &action).unwrap().encode()],
            large: Vec::new(),
        };
        let update = Announced { local_as: OUR_AS, external: true, four_octet: true }.announce(&route);
        let json = decoded(&program, folder.path(), &update);
        for part in expected {
            assert!(json.contains(part), "{part} of {rule} in {json}");
        }
    }
}

#[tokio::test]
async fn exabgp_receives_what_is_announced_and_withdrawn() {
    let Some(program) = find(&["exabgp"]) else { return };
    let (ours, theirs) = addresses();
    let folder = tempfile::tempdir().unwrap();
    let heard = folder.path().join("heard");
    // ExaBGP starts a program for each helper, and that one may not answer.
    let helper = folder.path().join("helper");
    let script = format!(
        "#!/usr/bin/python3\nimport os, select\nwhile True:\n select.select([0], [], [])\n text = os.read(0, 65536)\n\
         \x20if not text: break\n open({:?}, 'ab').write(text)\n",
        heard.display().to_string()
    );
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = format!(
        "process heard {{ run {}; encoder json; }}\n\
         neighbor {ours} {{ router-id {theirs}; local-address {theirs}; local-as {THEIR_AS}; peer-as {OUR_AS};\n\
         hold-time 9; passive true; family {{ ipv4 unicast; ipv6 unicast; ipv4 flow; ipv6 flow; }}\n\
         api {{ processes [ heard ]; receive {{ parsed; update; }} }} }}\n",
        helper.display()
    );
    let daemon = Daemon::exabgp(folder, &program, theirs, &config);
    let speaker = speaker(peer(ours, theirs));
    daemon.until("the session", || is_established(&speaker)).await;
    announce(&speaker, 1, &flowspec(amplification("203.0.113.7"), FlowAction::Drop)).await;
    let said = |part: &str| {
        let text = std::fs::read_to_string(&heard).unwrap_or_default();
        let found = text.lines().any(|line| line.contains(part) && line.contains("203.0.113.7/32"));
        if found { Ok(()) } else { Err(text) }
    };
    daemon.until("the rule", || said("\"announce\"")).await;
    withdraw(&speaker, 1).await;
    daemon.until("its end", || said("\"withdraw\"")).await;
}
