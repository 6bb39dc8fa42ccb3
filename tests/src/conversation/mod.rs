//! What clients and servers say to each other in peace, seen from the middle.

mod datagrams;
mod streams;
mod talk;

use std::net::IpAddr;

use clap::ValueEnum;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::frame::Link;

pub(crate) use streams::client_hello;
pub(crate) use talk::Talk;

/// A frame of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it passes, nanoseconds on the scenario's clock.
    pub at_ns: u64,
    /// Whether it comes from outside.
    pub inbound: bool,
    /// The frame.
    pub frame: Vec<u8>,
}

/// A kind of conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A page: TLS on port 443, one in five without on port 80; one to three requests, some of them uploads.
    Web,
    /// A terminal on port 22: keys, echoes and now and then a screen, for up to half a minute.
    Ssh,
    /// A protected host opens a connection to a server outside, port 443, and loads something.
    Fetch,
    /// A player on UDP port 27015: 30 datagrams a second for two to six seconds, each answered.
    Game,
    /// A resolver outside asks a protected server on port 53.
    Query,
    /// A protected host asks a resolver outside; one answer in twenty is long and comes in fragments.
    Lookup,
    /// QUIC on UDP port 443: handshake, requests, responses.
    Quic,
    /// A call: SIP on port 5060, then RTP both ways, 50 datagrams a second, for two to five seconds; protected hosts have it
    /// on ports 16384 to 16999.
    Voip,
    /// A file is sent to port 443, in flights of up to 30 segments a round trip.
    Upload,
    /// Four echo requests, one a second, each answered.
    Ping,
}

impl Kind {
    /// One conversation that begins at `at_ns` with a protected host, its frames in order of time.
    pub fn conversation(self, at_ns: u64, host: IpAddr, link: Link, rng: &mut ChaCha8Rng) -> Vec<Event> {
        match self {
            Self::Web => streams::web(at_ns, host, link, rng),
            Self::Ssh => streams::ssh(at_ns, host, link, rng),
            Self::Fetch => streams::fetch(at_ns, host, link, rng),
            Self::Game => datagrams::game(at_ns, host, link, rng),
            Self::Query => datagrams::query(at_ns, host, link, rng),
            Self::Lookup => datagrams::lookup(at_ns, host, link, rng),
            Self::Quic => datagrams::quic(at_ns, host, link, rng),
            Self::Voip => datagrams::voip(at_ns, host, link, rng),
            Self::Upload => streams::upload(at_ns, host, link, rng),
            Self::Ping => datagrams::ping(at_ns, host, link, rng),
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{SlicedPacket, TransportSlice};
    use rand::SeedableRng;

    use super::*;
    use crate::frame;

    const SERVERS: [&str; 2] = ["203.0.113.9", "2001:db8:a::9"];

    fn each(mut check: impl FnMut(Kind, &[Event])) {
        for server in SERVERS {
            for kind in Kind::value_variants() {
                for seed in 0..20 {
                    let mut rng = ChaCha8Rng::seed_from_u64(seed);
                    check(*kind, &kind.conversation(5, server.parse().unwrap(), Link::default(), &mut rng));
                }
            }
        }
    }

    #[test]
    fn every_conversation_has_both_directions_in_order_of_time_within_the_mtu() {
        each(|kind, events| {
            assert!(events.is_sorted_by_key(|event| event.at_ns), "{kind:?}");
            assert!(events.iter().any(|event| event.inbound) && events.iter().any(|event| !event.inbound), "{kind:?}");
            assert!(events.iter().all(|event| event.frame.len() <= 1_514), "{kind:?}");
            for event in events {
                SlicedPacket::from_ethernet(&event.frame).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            }
        });
    }

    #[test]
    fn only_what_protected_hosts_ask_for_begins_inside() {
        each(|kind, events| {
            let from_inside = matches!(kind, Kind::Fetch | Kind::Lookup);
            assert_eq!(events[0].inbound, !from_inside, "{kind:?}");
        });
    }

    #[test]
    fn connections_open_and_transfer_with_sequence_numbers_that_fit() {
        each(|kind, events| {
            let mut expected = [None::<u32>; 2];
            for event in events {
                let packet = SlicedPacket::from_ethernet(&event.frame).unwrap();
                let Some(TransportSlice::Tcp(tcp)) = packet.transport else { return };
                let own = usize::from(!event.inbound);
                assert!(expected[own].is_none_or(|sequence| sequence == tcp.sequence_number()), "{kind:?}");
                if tcp.ack() {
                    assert_eq!(Some(tcp.acknowledgment_number()), expected[1 - own], "{kind:?}");
                }
                let data = u32::from(frame::low16(tcp.payload().len()));
                expected[own] = Some(tcp.sequence_number().wrapping_add(data + u32::from(tcp.syn() || tcp.fin())));
            }
            assert!(events.len() > 9, "{kind:?}");
        });
    }
}
