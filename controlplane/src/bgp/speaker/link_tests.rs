//! What one connection says, and what of it is heard.

use std::net::Ipv4Addr;

use levee_api::prefix::Prefix;
use tokio::net::TcpSocket;

use super::*;
use crate::bgp::route::Community;
use crate::bgp::speaker::connection::{Terms, Why};
use crate::bgp::speaker::socket::Protection;
use crate::bgp::speaker::wire::keepalive;
use crate::ledger::{Direction, Spec};

/// A session between two of ours, of which only what we say is looked at, and the other end of its connection.
async fn link() -> (Link, TcpStream) {
    let terms = |ours, theirs, id| Terms {
        local_as: ours,
        peer_as: theirs,
        router_id: Ipv4Addr::new(192, 0, 2, id),
        hold_time: 90,
        families: Family::ALL.to_vec(),
        retain: None,
    };
    let mut connection = Connection::new(terms(64_496, 64_497, 1), false, Duration::ZERO);
    let mut peer = Connection::new(terms(64_497, 64_496, 2), false, Duration::ZERO);
    while connection.wants_to_send() || peer.wants_to_send() {
        peer.received(&std::mem::take(connection.out()), Duration::ZERO);
        connection.received(&std::mem::take(peer.out()), Duration::ZERO);
    }
    let listener = TcpSocket::new_v4().unwrap();
    listener.set_recv_buffer_size(4_096).unwrap();
    listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = listener.listen(1).unwrap();
    let to = listener.local_addr().unwrap();
    let protection = Protection::default();
    let (stream, accepted) = tokio::join!(socket::connect(None, to, &protection), listener.accept());
    (Link::new(stream.unwrap(), connection, true).unwrap(), accepted.unwrap().0)
}

fn policy(max_routes: usize) -> Policy {
    Policy { local_as: 64_496, blackhole: vec![Community::BLACKHOLE], max_routes, ..Policy::default() }
}

/// Blackholes of so many hosts.
fn rib(hosts: u32) -> Rib {
    let mut rib = Rib::default();
    for id in 1..=hosts {
        let prefix = Prefix::host(Ipv4Addr::from(0xcb00_7100 + id).into());
        let spec = Spec::Blackhole { prefix, direction: Direction::Destination };
        rib.announce("core", MitigationId(id.into()), &spec, Duration::from_secs(60)).unwrap();
    }
    rib
}

/// How many UPDATEs are whole in what has come.
fn updates(mut bytes: &[u8]) -> usize {
    let mut updates = 0;
    while let Some(&[high, low, kind]) = bytes.get(16..19) {
        let Some(rest) = bytes.get(usize::from(u16::from_be_bytes([high, low]))..) else { break };
        updates += usize::from(kind == 2);
        bytes = rest;
    }
    updates
}

#[tokio::test]
async fn what_ends_while_everything_is_asked_for_again_is_withdrawn_all_the_same() {
    let (mut link, _peer) = link().await;
    let (policy, mut rib) = (policy(9), rib(2));
    link.tell(&rib, "core", &policy, true);
    assert_eq!((link.withheld.len(), link.told.len(), link.updates_sent), (0, 2, 2));
    link.connection.out().clear();
    link.tell_again(Family::Ipv4Unicast);
    rib.withdraw("core", MitigationId(1));
    link.tell(&rib, "core", &policy, true);
    let out = link.connection.out().clone();
    let withdrawal = Announced::withdraw(&Destination::Prefix("203.0.113.1".parse().unwrap()));
    assert!(out.starts_with(&withdrawal), "{out:02x?}");
    assert!(out.len() > withdrawal.len(), "the other one is told once more");
    assert_eq!((link.told.len(), link.updates_sent), (1, 4));
}

const ROUTES: u32 = 4_000;

/// Writes until nothing more comes over, at a time that does not pass.
async fn until_it_stands_still(link: &mut Link, now: Duration) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let before = link.unacknowledged();
        // Longer than what an acknowledgement may be put off for.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(link.exchange(now), []);
        if link.unacknowledged() == before {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{before} bytes");
    }
}

#[tokio::test]
async fn what_a_peer_does_not_take_it_was_not_told_and_the_send_hold_time_ends_the_session() {
    let (mut link, mut peer) = link().await;
    let start = Duration::from_secs(1_000);
    // That nothing was to be sent for long is no reason.
    link.connection.received(&keepalive(), start);
    assert_eq!(link.exchange(start), []);
    link.tell(&rib(ROUTES), "core", &policy(10_000), true);
    link.complete();
    until_it_stands_still(&mut link, start).await;
    let told = link.ids.len();
    assert!(told < link.told.len() / 2, "{told} of {} are with the peer", link.told.len());
    assert_eq!((link.heard, link.has_heard_all), (None, false));
    let end = link.deadline().unwrap();
    assert!(end <= start + link.patience(), "{end:?}");
    // The hold time of the peer is another matter: it may say that it is there.
    for at in [start + Duration::from_secs(85), start + Duration::from_secs(170)] {
        link.connection.received(&keepalive(), at);
    }
    assert_eq!(link.exchange(start + Duration::from_secs(179)), []);
    let events = link.exchange(start + Duration::from_secs(180));
    let [Event::Closed(why @ Why::Stalled { .. })] = events.as_slice() else { panic!("{events:?}") };
    assert!(why.to_string().contains("acknowledged nothing for 180 s"), "{why}");
    link.close(start + Duration::from_secs(180));
    let mut bytes = Vec::new();
    let end = tokio::io::AsyncReadExt::read_to_end(&mut peer, &mut bytes).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset, "nothing is left in the kernel to be sent later");
    assert!(updates(&bytes) >= told, "{} UPDATEs came, and {told} counted as told", updates(&bytes));
}

#[tokio::test]
async fn a_peer_that_takes_it_late_was_told_then() {
    let (mut link, mut peer) = link().await;
    link.tell(&rib(ROUTES), "core", &policy(10_000), true);
    link.complete();
    until_it_stands_still(&mut link, Duration::ZERO).await;
    let reads = tokio::spawn(async move {
        let mut bytes = Vec::new();
        while updates(&bytes) < ROUTES.try_into().unwrap() {
            tokio::io::AsyncReadExt::read_buf(&mut peer, &mut bytes).await.unwrap();
        }
        peer
    });
    let begun = std::time::Instant::now();
    while !link.has_heard_all {
        assert!(begun.elapsed() < Duration::from_secs(30), "{} of {ROUTES}", link.ids.len());
        let _ = tokio::time::timeout(LAST_LOOK, link.ready()).await;
        // Some is taken all the time, so that the send hold time, which would be over, begins again and again.
        assert_eq!(link.exchange(begun.elapsed()), []);
    }
    assert_eq!((link.ids.len(), link.heard), (4_000, Some(4_000)));
    assert_eq!((link.unacknowledged(), link.look, link.waiting), (0, None, None));
    drop(reads.await.unwrap());
}

#[tokio::test]
async fn a_stall_at_the_end_of_a_message_is_told() {
    let (mut link, mut peer) = link().await;
    link.connection.stalled(Duration::from_secs(20), 1, &mut Vec::new());
    link.close(Duration::ZERO);
    let mut bytes = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut peer, &mut bytes).await.unwrap();
    assert_eq!(bytes.get(16..), Some([0, 21, 3, 8, 0].as_slice()));
}
