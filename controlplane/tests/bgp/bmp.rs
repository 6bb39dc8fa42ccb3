//! Routers that tell by BMP what they have of ours: GoBGP all four families, FRR prefixes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use levee_controlplane::bgp::bmp::{BmpSettings, Table};
use levee_controlplane::bgp::speaker::{PeerSettings, Settings, Speaker};
use levee_controlplane::ledger::{Evidence, FlowAction, Spec};

use super::daemon::ask;
use super::driver::{apply, config, driver};
use super::frr::Frr;
use super::gobgp::Gobgp;
use super::world::{
    ANNOUNCER, OUR_AS, addresses, amplification, announce, blackhole, flowspec, is_established, peer, withdraw,
};

/// What routers are told to connect to.
const PORT: u16 = 11_019;

/// A speaker to which routers on this machine may speak BMP.
fn speaker(ours: Ipv4Addr, peer: PeerSettings) -> Speaker {
    let routers: BTreeSet<IpAddr> = [Ipv4Addr::LOCALHOST, ours].map(IpAddr::from).into();
    let listen = vec![SocketAddr::new(ours.into(), PORT)];
    let bmp = Some(BmpSettings { listen, routers, local_as: OUR_AS });
    let speaker = Speaker::default();
    speaker.configure(&Settings { peers: vec![peer], bmp, ..Settings::default() });
    speaker
}

fn gobgp(ours: Ipv4Addr, theirs: Ipv4Addr) -> Option<Gobgp> {
    let station = format!(
        "[[bmp-servers]]\n[bmp-servers.config]\naddress = \"{ours}\"\nport = {PORT}\nroute-monitoring-policy = \"all\"\n"
    );
    Gobgp::start_with(ours, theirs, &station)
}

/// Where each measure is seen, in the order of their numbers.
fn tables(speaker: &Speaker) -> Vec<Vec<Table>> {
    let seen = |tables: &[levee_controlplane::bgp::bmp::Sighting]| {
        tables.iter().flat_map(|sighting| sighting.tables.clone()).collect()
    };
    speaker.observed(ANNOUNCER).iter().map(|standing| seen(&standing.seen)).collect()
}

fn four() -> [Spec; 4] {
    [
        flowspec(amplification("203.0.113.30"), FlowAction::RateLimit { bps: 1_000_000 }),
        flowspec(amplification("2001:db8::30"), FlowAction::Drop),
        blackhole("203.0.113.31"),
        blackhole("2001:db8::31"),
    ]
}

#[tokio::test]
async fn what_gobgp_has_of_ours_is_seen_until_it_is_gone() {
    let (ours, theirs) = addresses();
    let Some(gobgp) = gobgp(ours, theirs) else { return };
    let mut settings = peer(ours, theirs);
    // What has a next hop on loopback it receives, and does not accept.
    settings.policy.next_hop_ipv4 = Some("192.0.2.1".parse().unwrap());
    let speaker = speaker(ours, settings);
    gobgp.daemon.until("the session", || is_established(&speaker)).await;
    for (id, spec) in (1..).zip(four()) {
        announce(&speaker, id, &spec).await;
    }
    let everywhere =
        |tables: &Vec<Table>| [Table::BeforePolicy, Table::AfterPolicy].iter().all(|table| tables.contains(table));
    gobgp
        .daemon
        .until("all four seen", || {
            let tables = tables(&speaker);
            if tables.iter().all(everywhere) { Ok(()) } else { Err(format!("{tables:?} {:?}", speaker.routers())) }
        })
        .await;
    let routers = speaker.routers();
    assert!(routers.len() == 1 && routers[0].malformed == 0 && routers[0].left_out == 0, "{routers:?}");
    let before = routers[0].routes;
    withdraw(&speaker, 1).await;
    withdraw(&speaker, 3).await;
    gobgp
        .daemon
        .until("two gone", || {
            let routes = speaker.routers().first().map_or(0, |router| router.routes);
            if routes == before / 2 { Ok(()) } else { Err(format!("{routes} of {before}")) }
        })
        .await;
    // A router that says no more has nothing that we know of.
    let host = gobgp.host.clone();
    let said = ask(&gobgp.client, &["-u", &host, "bmp", "del", &format!("{ours}:{PORT}")]);
    gobgp
        .daemon
        .until(&format!("the end of BMP ({said})"), || {
            let tables = tables(&speaker);
            if tables.iter().all(Vec::is_empty) { Ok(()) } else { Err(format!("{tables:?}")) }
        })
        .await;
    assert!(is_established(&speaker).is_ok());
    let totals = speaker.monitoring().unwrap();
    assert_eq!((totals.routers, totals.routes, totals.sessions, totals.errors, totals.malformed), (0, 0, 1, 0, 0));
    assert!(totals.messages > 8, "{totals:?}");
}

#[tokio::test]
async fn what_frr_has_of_ours_is_seen() {
    let (ours, theirs) = addresses();
    let bmp = format!(
        " bmp targets levee\n  bmp connect {ours} port {PORT} min-retry 100 max-retry 500\n\
           bmp monitor ipv4 unicast post-policy\n  bmp monitor ipv6 unicast post-policy\n exit\n"
    );
    let Some(frr) = Frr::start(ours, theirs, &["-M", "bmp"], &bmp) else { return };
    let mut settings = peer(ours, theirs);
    // FRR takes no next hop on loopback.
    settings.policy.next_hop_ipv4 = Some("192.0.2.1".parse().unwrap());
    let speaker = speaker(ours, settings);
    frr.daemon.until("the session", || is_established(&speaker)).await;
    announce(&speaker, 1, &blackhole("203.0.113.31")).await;
    announce(&speaker, 2, &blackhole("2001:db8::31")).await;
    frr.daemon
        .until("both seen", || {
            let tables = tables(&speaker);
            let there = tables.iter().all(|tables| tables.contains(&Table::AfterPolicy));
            if there { Ok(()) } else { Err(format!("{tables:?} {:?}", speaker.routers())) }
        })
        .await;
    withdraw(&speaker, 1).await;
    frr.daemon
        .until("one gone", || {
            let routes = speaker.routers().first().map_or(0, |router| router.routes);
            let left: Vec<Vec<Table>> = tables(&speaker);
            if left == [[Table::AfterPolicy]] && routes == 1 { Ok(()) } else { Err(format!("{left:?}, {routes}")) }
        })
        .await;
    assert_eq!(speaker.routers()[0].malformed, 0);
}

#[tokio::test]
async fn a_measure_is_seen_as_long_as_a_router_shows_it() {
    let (ours, theirs) = addresses();
    let Some(gobgp) = gobgp(ours, theirs) else { return };
    let more = format!("[bgp.bmp]\nlisten = [\"{ours}:{PORT}\"]\nrouters = [\"127.0.0.1\", \"{ours}\"]");
    let speaker = Speaker::default();
    let core = driver(&config(ours, theirs, &more), Some(&speaker));
    let spec = flowspec(amplification("203.0.113.7"), FlowAction::RateLimit { bps: 1_000_000 });
    gobgp.daemon.until("the session", || is_established(&speaker)).await;
    gobgp
        .daemon
        .until("BMP", || {
            let routers = speaker.routers();
            if routers.is_empty() { Err("no router".to_owned()) } else { Ok(()) }
        })
        .await;
    assert_eq!(apply(&core, 1, &spec).await, Ok(Evidence::Advertised));
    let until = async |evidence: Evidence| {
        let deadline = std::time::Instant::now() + super::daemon::PATIENCE;
        loop {
            let observed = core.observe().await;
            if observed.as_ref().is_ok_and(|all| all.iter().all(|one| one.evidence == evidence) && all.len() == 1) {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "not {evidence:?}: {observed:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    until(Evidence::Seen).await;
    ask(&gobgp.client, &["-u", &gobgp.host, "bmp", "del", &format!("{ours}:{PORT}")]);
    until(Evidence::Advertised).await;
    speaker.stop().await;
}
