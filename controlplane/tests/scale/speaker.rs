//! The speaker with 10 000 routes and 50 peers: what it takes until all of them have been told, again after every session was
//! lost, and until everything is withdrawn.
//!
//! The peers are as small as a peer can be: a thread each, which opens a session, counts, and throws away.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use levee_api::prefix::Prefix;
use levee_controlplane::bgp::route::{Community, Family};
use levee_controlplane::bgp::speaker::connection::Terms;
use levee_controlplane::bgp::speaker::export::Policy;
use levee_controlplane::bgp::speaker::socket::Protection;
use levee_controlplane::bgp::speaker::wire::{Open, keepalive};
use levee_controlplane::bgp::speaker::{PeerSettings, Settings, Speaker};
use levee_controlplane::ledger::{FlowAction, FlowRule, MitigationId, PortRange, Spec};

use super::figures::{resident_bytes, write_figures};

/// Peers and routes: not optimised, what is enough to see that it works.
const PEERS: usize = if cfg!(debug_assertions) { 10 } else { 50 };
const ROUTES: u64 = if cfg!(debug_assertions) { 1_000 } else { 10_000 };
const OUR_AS: u32 = 64_496;
const THEIR_AS: u32 = 64_497;
/// What any of it may take, not optimised and beside other tests.
const PATIENCE: Duration = Duration::from_secs(240);

/// What one peer has heard since its last session began.
#[derive(Default)]
struct Heard {
    updates: AtomicU64,
    bytes: AtomicU64,
    stream: Mutex<Option<TcpStream>>,
}

/// Takes one connection after the other, and counts.
fn serve(listener: &TcpListener, heard: &Heard) -> std::io::Result<()> {
    let open = Open {
        asn: THEIR_AS,
        hold_time: 90,
        router_id: Ipv4Addr::new(192, 0, 2, 2),
        families: Family::ALL.map(|family| (family.afi(), family.safi())).to_vec(),
        four_octet: true,
        route_refresh: true,
        extended_message: false,
        graceful_restart: None,
        add_path: Vec::new(),
    };
    loop {
        let (mut stream, _) = listener.accept()?;
        heard.updates.store(0, Ordering::SeqCst);
        heard.bytes.store(0, Ordering::SeqCst);
        *heard.stream.lock().unwrap() = Some(stream.try_clone()?);
        stream.write_all(&open.encode())?;
        stream.write_all(&keepalive())?;
        let (mut rest, mut buffer) = (Vec::new(), [0; 16 << 10]);
        while let Ok(count) = stream.read(&mut buffer) {
            if count == 0 {
                break;
            }
            heard.bytes.fetch_add(count as u64, Ordering::SeqCst);
            rest.extend_from_slice(&buffer[..count]);
            let mut at = 0;
            while let Some(length) =
                rest.get(at + 16..at + 18).map(|two| usize::from(two[0]) << 8 | usize::from(two[1]))
            {
                let Some(message) = rest.get(at..at + length) else { break };
                heard.updates.fetch_add(u64::from(message[18] == 2), Ordering::SeqCst);
                at += length;
            }
            rest.drain(..at);
        }
    }
}

fn peer(number: usize, address: SocketAddr) -> PeerSettings {
    PeerSettings {
        name: format!("peer-{number}"),
        announcer: "core".to_owned(),
        address,
        local_address: None,
        passive: false,
        terms: Terms {
            local_as: OUR_AS,
            peer_as: THEIR_AS,
            router_id: Ipv4Addr::new(192, 0, 2, 1),
            hold_time: 90,
            families: Family::ALL.to_vec(),
            retain: None,
        },
        protection: Protection::default(),
        policy: Policy {
            local_as: OUR_AS,
            blackhole: vec![Community::BLACKHOLE],
            no_export: true,
            max_routes: 20_000,
            ..Policy::default()
        },
    }
}

fn rule(number: u64) -> Spec {
    let host = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + u32::try_from(number).unwrap());
    let source_ports = [53, 123].map(|port| PortRange { first: port, last: port }).to_vec();
    let rule = FlowRule { protocols: vec![17], source_ports, ..FlowRule::to(Prefix::host(host.into())) };
    Spec::FlowSpec { rule, action: FlowAction::RateLimit { bps: 1_000_000 } }
}

async fn announce(speaker: &Speaker, number: u64, patience: Duration) -> usize {
    let lasts = Duration::from_secs(3_600);
    speaker.announce("core", MitigationId(number), &rule(number), lasts, patience).await.unwrap().by.len()
}

/// Waits until each peer has heard so many UPDATEs. How long that was.
async fn until(what: &str, peers: &[Arc<Heard>], updates: u64) -> Duration {
    let begun = Instant::now();
    while peers.iter().any(|peer| peer.updates.load(Ordering::SeqCst) < updates) {
        let heard: Vec<u64> = peers.iter().map(|peer| peer.updates.load(Ordering::SeqCst)).collect();
        assert!(begun.elapsed() < PATIENCE, "{what}: {updates} were expected, and came: {heard:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    begun.elapsed()
}

#[tokio::test]
async fn ten_thousand_routes_are_told_to_fifty_peers_told_again_and_withdrawn() {
    let before_bytes = resident_bytes();
    let mut settings = Settings::default();
    let mut peers = Vec::new();
    for number in 0..PEERS {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        settings.peers.push(peer(number, listener.local_addr().unwrap()));
        let heard = Arc::new(Heard::default());
        peers.push(Arc::clone(&heard));
        std::thread::spawn(move || serve(&listener, &heard));
    }
    let speaker = Speaker::default();
    speaker.configure(&settings);
    assert_eq!(speaker.wait_established(PATIENCE).await.len(), PEERS);
    // The end of each of four families.
    until("the end of nothing", &peers, 4).await;

    let begun = Instant::now();
    for number in 1..=ROUTES {
        announce(&speaker, number, Duration::ZERO).await;
    }
    until("the routes", &peers, ROUTES + 4).await;
    let told = begun.elapsed();
    let bytes = peers.iter().map(|peer| peer.bytes.load(Ordering::SeqCst)).max().unwrap();
    let mebibytes = resident_bytes().saturating_sub(before_bytes) >> 20;

    let begun = Instant::now();
    announce(&speaker, ROUTES + 1, Duration::ZERO).await;
    until("one more", &peers, ROUTES + 1 + 4).await;
    let one = begun.elapsed();
    let begun = Instant::now();
    while speaker.told("core", MitigationId(ROUTES + 1)).by.len() < PEERS {
        assert!(begun.elapsed() < PATIENCE, "{:?}", speaker.told("core", MitigationId(ROUTES + 1)));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let acknowledged = one + begun.elapsed();
    let begun = Instant::now();
    let observed = speaker.observed("core");
    let looked = begun.elapsed();
    assert!(observed.len() as u64 == ROUTES + 1 && observed.iter().all(|standing| standing.told.by.len() == PEERS));
    drop(observed);

    let begun = Instant::now();
    for peer in &peers {
        peer.stream.lock().unwrap().take().unwrap().shutdown(Shutdown::Both).unwrap();
    }
    until("the loss of the sessions", &peers, 0).await;
    while peers.iter().any(|peer| peer.stream.lock().unwrap().is_none()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    until("everything again", &peers, ROUTES + 1 + 4).await;
    let replayed = begun.elapsed();

    let begun = Instant::now();
    for number in 1..=ROUTES + 1 {
        speaker.withdraw("core", MitigationId(number), Duration::ZERO).await;
    }
    until("the withdrawals", &peers, 2 * (ROUTES + 1) + 4).await;
    let withdrawn = begun.elapsed();
    speaker.stop().await;

    println!(
        "{ROUTES} routes, {PEERS} peers: told in {told:.2?}, {bytes} bytes each, {mebibytes} MiB; one more {one:.1?}, \
         acknowledged by all after {acknowledged:.1?}; looked at in {looked:.1?}; told again {replayed:.2?} after the loss; withdrawn in {withdrawn:.2?}"
    );
    write_figures(&[
        ("10 000 FlowSpec rules told to 50 peers", format!("{told:.2?}")),
        ("what each peer is sent for them", format!("{} bytes a rule", bytes / ROUTES)),
        ("memory with them, the peers' readers included", format!("{mebibytes} MiB")),
        ("one more rule told to all 50", format!("{one:.1?}")),
        ("which peers have which of them, asked by the reconciler", format!("{looked:.1?}")),
        ("everything told again, from the loss of all sessions", format!("{replayed:.2?}")),
        ("everything withdrawn", format!("{withdrawn:.2?}")),
    ]);
}
