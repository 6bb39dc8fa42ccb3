//! FRR's bgpd at the other end, without zebra.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use levee_controlplane::ledger::FlowAction;

use super::daemon::{Daemon, ask, find};
use super::world::{
    OUR_AS, PORT, THEIR_AS, addresses, amplification, announce, blackhole, flowspec, is_established, peer, speaker,
    withdraw,
};

/// A running bgpd.
pub(super) struct Frr {
    pub(super) daemon: Daemon,
    client: PathBuf,
}

impl Frr {
    /// With more arguments, and more under `router bgp`.
    pub(super) fn start(ours: Ipv4Addr, theirs: Ipv4Addr, more: &[&str], router: &str) -> Option<Self> {
        let (program, client) = (find(&["bgpd"])?, find(&["vtysh"])?);
        let folder = tempfile::tempdir().unwrap();
        let families = ["ipv4 unicast", "ipv6 unicast", "ipv4 flowspec", "ipv6 flowspec"]
            .map(|family| format!("address-family {family}\n  neighbor {ours} activate\n exit-address-family\n"));
        let config = format!(
            "router bgp {THEIR_AS}\n bgp router-id {theirs}\n no bgp ebgp-requires-policy\n no bgp network import-check\n\
              neighbor {ours} remote-as {OUR_AS}\n neighbor {ours} passive\n neighbor {ours} ebgp-multihop 5\n\
              neighbor {ours} timers 3 9\n neighbor {ours} disable-connected-check\n{}{router}",
            families.concat()
        );
        let path = folder.path().join("bgpd.conf");
        std::fs::write(&path, config).unwrap();
        let text = |name: &str| folder.path().join(name).display().to_string();
        let (path, pid, sockets) = (text("bgpd.conf"), text("pid"), folder.path().display().to_string());
        let (host, port) = (theirs.to_string(), PORT.to_string());
        // -S: as whoever runs the test; it has no privilege to change that, and needs none.
        let usual = [
            "-Z",
            "-S",
            "-l",
            &host,
            "-p",
            &port,
            "-f",
            &path,
            "-i",
            &pid,
            "--vty_socket",
            &sockets,
            "--log",
            "stdout",
        ];
        let daemon = Daemon::start(folder, &program, &[&usual, more].concat(), &[]);
        Some(Self { daemon, client })
    }

    fn shown(&self, family: &str) -> String {
        let sockets = self.daemon.folder.path().display().to_string();
        ask(&self.client, &["--vty_socket", &sockets, "-c", &format!("show bgp {family}")])
    }
}

#[tokio::test]
async fn frr_takes_rules_and_blackholes_and_lets_them_go() {
    let (ours, theirs) = addresses();
    let Some(frr) = Frr::start(ours, theirs, &[], "") else { return };
    let (daemon, shown) = (&frr.daemon, |family: &str| frr.shown(family));
    let mut settings = peer(ours, theirs);
    // FRR takes no next hop on loopback.
    settings.policy.next_hop_ipv4 = Some("192.0.2.1".parse().unwrap());
    let speaker = speaker(settings);
    daemon.until("the session", || is_established(&speaker)).await;
    announce(&speaker, 1, &flowspec(amplification("203.0.113.7"), FlowAction::Drop)).await;
    announce(&speaker, 2, &flowspec(amplification("2001:db8::7"), FlowAction::RateLimit { bps: 8_000 })).await;
    announce(&speaker, 3, &blackhole("203.0.113.9")).await;
    daemon
        .until("all three", || {
            let all = shown("ipv4 flowspec detail") + &shown("ipv6 flowspec detail") + &shown("ipv4 unicast");
            let there = ["203.0.113.7/32", "2001:db8::7/128", "203.0.113.9/32"];
            if there.iter().all(|text| all.contains(text)) { Ok(()) } else { Err(all) }
        })
        .await;
    for id in [1, 2, 3] {
        withdraw(&speaker, id).await;
    }
    daemon
        .until("nothing", || {
            let all = shown("ipv4 flowspec detail") + &shown("ipv6 flowspec detail") + &shown("ipv4 unicast");
            if all.contains("203.0.113.") || all.contains("2001:db8::7") { Err(all) } else { Ok(()) }
        })
        .await;
    assert!(is_established(&speaker).is_ok(), "through all of it the session held");
}
