//! Sessions: what a peer can do to one by what it says.

use std::net::Ipv4Addr;
use std::time::Duration;

use levee_controlplane::bgp::route::Family;
use levee_controlplane::bgp::speaker::connection::{Connection, Event, State, Terms, Why};

use super::messages::{framed, has_an_outline};
use super::{fuzz, message, seeds};

fn terms(local_as: u32, peer_as: u32, host: u8) -> Terms {
    Terms {
        local_as,
        peer_as,
        router_id: Ipv4Addr::new(192, 0, 2, host),
        hold_time: 90,
        families: Family::ALL.to_vec(),
        retain: Some(120),
    }
}

/// A session with a peer that has said nothing yet, or everything that is needed.
fn session(is_established: bool) -> Connection {
    let mut session = Connection::new(terms(64_496, 64_497, 1), false, Duration::ZERO);
    if is_established {
        let mut peer = Connection::new(terms(64_497, 64_496, 2), false, Duration::ZERO);
        while session.wants_to_send() || peer.wants_to_send() {
            peer.received(&std::mem::take(session.out()), Duration::ZERO);
            session.received(&std::mem::take(peer.out()), Duration::ZERO);
        }
        assert_eq!(session.state(), State::Established);
    }
    session
}

#[test]
fn a_session_outlives_what_is_tolerated_and_ends_once_by_what_is_not() {
    let messages = seeds::messages();
    let (mut tolerated, mut ended) = (0_u64, 0_u64);
    fuzz(
        "sessions",
        |chance| message::damaged(&messages, chance),
        |bytes, chance| {
            let mut session = session(chance.percent(80));
            let was = session.state();
            let mut events = Vec::new();
            for piece in bytes.chunks(usize::try_from(chance.between(1, 300)).unwrap()) {
                events.extend(session.received(piece, Duration::from_secs(1)));
            }
            let frame = framed(bytes).filter(|(_, body)| 19 + body.len() == bytes.len());
            if let (State::Established, Some((2, body))) = (was, frame)
                && body.len() >= 4
                && has_an_outline(body)
            {
                assert_eq!((session.state(), events.as_slice()), (State::Established, &[][..]));
                assert_eq!(session.ignored_updates + session.malformed_updates, 1);
                tolerated += 1;
            }
            events.extend(session.tick(Duration::from_secs(300)));
            events.extend(session.received(bytes, Duration::from_secs(301)));
            let closed: Vec<&Event> = events.iter().filter(|event| matches!(event, Event::Closed(_))).collect();
            assert!(matches!(session.state(), State::Closed) && closed.len() == 1, "silence ends it at the latest");
            let [Event::Closed(why)] = closed[..] else { panic!("{closed:?}") };
            ended += u64::from(!matches!(why, Why::Sent(silence) if silence.code == 4));
            assert!(!why.to_string().is_empty() && session.deadline().is_none());
        },
    );
    assert!(tolerated > 1_000 && ended > 1_000, "{tolerated} tolerated, {ended} ended");
}
