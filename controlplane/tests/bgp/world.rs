//! What the tests have in common: addresses of their own, peers and measures.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use levee_api::prefix::Prefix;
use levee_controlplane::bgp::route::{Community, Family};
use levee_controlplane::bgp::speaker::connection::Terms;
use levee_controlplane::bgp::speaker::export::Policy;
use levee_controlplane::bgp::speaker::socket::Protection;
use levee_controlplane::bgp::speaker::{PeerSettings, Settings, Speaker, Told};
use levee_controlplane::ledger::{Direction, FlowAction, FlowRule, MitigationId, PortRange, Spec};

use super::daemon::PATIENCE;

/// Our AS in all tests (RFC 5398).
pub(crate) const OUR_AS: u32 = 64_496;
/// That of the other side.
pub(crate) const THEIR_AS: u32 = 64_497;
/// BGP's own port needs a privilege.
pub(crate) const PORT: u16 = 1790;
/// The announcer of all tests.
pub(crate) const ANNOUNCER: &str = "core";

/// Addresses that no other test of this or another process has: ours, and the other side's.
pub(crate) fn addresses() -> (Ipv4Addr, Ipv4Addr) {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let process = std::process::id();
    let [_, _, high, low] = process.to_be_bytes();
    let host = NEXT.fetch_add(2, Ordering::Relaxed);
    // Another process with the same last sixteen bits does not run at the same time.
    let net = |host| Ipv4Addr::new(127, high | 0x80, low, host);
    (net(host), net(host + 1))
}

/// A peer with everything that is usual.
pub(crate) fn peer(ours: Ipv4Addr, theirs: Ipv4Addr) -> PeerSettings {
    PeerSettings {
        name: "upstream".to_owned(),
        announcer: ANNOUNCER.to_owned(),
        address: SocketAddr::new(theirs.into(), PORT),
        local_address: Some(ours.into()),
        passive: false,
        terms: Terms {
            local_as: OUR_AS,
            peer_as: THEIR_AS,
            router_id: ours,
            hold_time: 9,
            families: Family::ALL.to_vec(),
            retain: None,
        },
        protection: Protection::default(),
        policy: Policy {
            local_as: OUR_AS,
            blackhole: vec![Community::BLACKHOLE],
            no_export: true,
            next_hop_ipv6: Some(IpAddr::V6("2001:db8::1".parse().unwrap())),
            max_routes: 1_000,
            ..Policy::default()
        },
    }
}

/// A speaker with one peer.
pub(crate) fn speaker(peer: PeerSettings) -> Speaker {
    let speaker = Speaker::default();
    speaker.configure(&Settings { peers: vec![peer], ..Settings::default() });
    speaker
}

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// UDP from some ports to one host.
pub(crate) fn amplification(host: &str) -> FlowRule {
    FlowRule {
        protocols: vec![17],
        source_ports: [53, 123].map(|port| PortRange { first: port, last: port }).to_vec(),
        ..FlowRule::to(prefix(host))
    }
}

pub(crate) fn flowspec(rule: FlowRule, action: FlowAction) -> Spec {
    Spec::FlowSpec { rule, action }
}

pub(crate) fn blackhole(host: &str) -> Spec {
    Spec::Blackhole { prefix: prefix(host), direction: Direction::Destination }
}

/// Announces, and gives everybody time.
pub(crate) async fn announce(speaker: &Speaker, id: u64, spec: &Spec) -> Told {
    let (lasts, patience) = (Duration::from_secs(600), Duration::from_secs(10));
    speaker.announce(ANNOUNCER, MitigationId(id), spec, lasts, patience).await.unwrap()
}

pub(crate) async fn withdraw(speaker: &Speaker, id: u64) {
    let left = speaker.withdraw(ANNOUNCER, MitigationId(id), Duration::from_secs(10)).await;
    assert_eq!(left, []);
}

/// True once the session with the only peer is established.
pub(crate) fn is_established(speaker: &Speaker) -> Result<(), String> {
    let peers = speaker.peers();
    if peers.iter().all(|peer| peer.status.is_established()) { Ok(()) } else { Err(format!("{peers:#?}")) }
}

/// Asks again and again until it is as it should be.
pub(crate) async fn until(what: &str, mut ask: impl FnMut() -> Result<(), String>) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while let Err(answer) = ask() {
        assert!(std::time::Instant::now() < deadline, "{what} did not happen: {answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
