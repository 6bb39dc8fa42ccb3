//! GoBGP at the other end: what it has received is compared byte for byte.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use levee_controlplane::bgp::flowspec::Nlri;
use levee_controlplane::ledger::{FlowAction, FlowRule, PortRange};

use super::daemon::{Daemon, ask, find};
use super::world::{
    OUR_AS, PORT, THEIR_AS, addresses, amplification, announce, blackhole, flowspec, is_established, peer, prefix,
    speaker, withdraw,
};

/// A running GoBGP.
pub(super) struct Gobgp {
    pub(super) daemon: Daemon,
    pub(super) client: PathBuf,
    pub(super) host: String,
}

impl Gobgp {
    pub(super) fn start(ours: Ipv4Addr, theirs: Ipv4Addr) -> Option<Self> {
        Self::start_with(ours, theirs, "")
    }

    /// With more in its configuration.
    pub(super) fn start_with(ours: Ipv4Addr, theirs: Ipv4Addr, more: &str) -> Option<Self> {
        let (program, client) = (find(&["gobgpd"])?, find(&["gobgp"])?);
        let families: String = ["ipv4-unicast", "ipv6-unicast", "ipv4-flowspec", "ipv6-flowspec"]
            .map(|family| {
                format!("[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{family}\"\n")
            })
            .concat();
        let config = format!(
            "[global.config]\nas = {THEIR_AS}\nrouter-id = \"{theirs}\"\nport = {PORT}\nlocal-address-list = [\"{theirs}\"]\n\
             [[neighbors]]\n[neighbors.config]\nneighbor-address = \"{ours}\"\npeer-as = {OUR_AS}\n\
             [neighbors.timers.config]\nhold-time = 9\nkeepalive-interval = 3\n\
             [neighbors.transport.config]\nlocal-address = \"{theirs}\"\npassive-mode = true\n\
             [neighbors.ebgp-multihop.config]\nenabled = true\nmultihop-ttl = 5\n{families}{more}"
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gobgpd.toml");
        std::fs::write(&path, config).unwrap();
        let arguments = ["-f", &path.display().to_string(), &format!("--api-hosts={theirs}:50051"), "--pprof-disable"];
        let daemon = Daemon::start(folder, &program, &arguments, &[]);
        Some(Self { daemon, client, host: theirs.to_string() })
    }

    fn routes(&self, family: &str) -> String {
        ask(&self.client, &["-u", &self.host, "global", "rib", "-a", family, "-j"])
    }
}

#[tokio::test]
async fn rules_arrive_byte_for_byte_and_go_again() {
    let (ours, theirs) = addresses();
    let Some(gobgp) = Gobgp::start(ours, theirs) else { return };
    let speaker = speaker(peer(ours, theirs));
    gobgp.daemon.until("the session", || is_established(&speaker)).await;
    let range = |first, last| PortRange { first, last };
    let rule = FlowRule {
        source: Some(prefix("198.51.100.0/24")),
        destination_ports: vec![range(1024, 65_535)],
        lengths: vec![range(200, 1500)],
        ..amplification("203.0.113.30")
    };
    announce(&speaker, 1, &flowspec(rule.clone(), FlowAction::RateLimit { bps: 1_000_000 })).await;
    announce(&speaker, 2, &blackhole("2001:db8::66")).await;
    let flows = gobgp
        .daemon
        .until("the rule", || {
            let routes = gobgp.routes("ipv4-flowspec");
            if routes.contains("203.0.113.30/32") { Ok(routes) } else { Err(routes) }
        })
        .await;
    for part in ["198.51.100.0/24", "125000"] {
        assert!(flows.contains(part), "{part} in {flows}");
    }
    // GoBGP writes the rule anew when it tells it on; what it makes of it is compared with what we made of it.
    let bytes = Nlri::from(&rule).encode().unwrap();
    let values: Vec<u64> = numbers(&flows);
    for number in [17, 53, 123, 1024, 65_535, 200, 1500] {
        assert!(values.contains(&number), "{number} of {bytes:02x?} in {flows}");
    }
    gobgp
        .daemon
        .until("the blackhole", || {
            let routes = gobgp.routes("ipv6");
            if routes.contains("2001:db8::66/128") && routes.contains("4294902426") { Ok(()) } else { Err(routes) }
        })
        .await;
    withdraw(&speaker, 1).await;
    withdraw(&speaker, 2).await;
    gobgp
        .daemon
        .until("nothing", || {
            let routes = gobgp.routes("ipv4-flowspec") + &gobgp.routes("ipv6");
            if routes.contains("203.0.113.30") || routes.contains("2001:db8::66") { Err(routes) } else { Ok(()) }
        })
        .await;
}

/// Every number in a text.
fn numbers(text: &str) -> Vec<u64> {
    text.split(|character: char| !character.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}
