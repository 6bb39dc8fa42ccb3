//! Packets of connections that are opened in the place of a server: into what each is rewritten.

use levee_api::lane::{Lane, TcpFlags};
use levee_api::time::Timestamp;
use levee_api::zone::{Challenge, Visibility};

use super::{BURST, Scratch, Stages, set_bits};
use crate::challenge::connections::{Connection, Slot, State};
use crate::challenge::cookie::Offer;
use crate::challenge::options::Options;
use crate::challenge::proxy::{Outbound, Proxy};
use crate::challenge::reply::{Reply, Way};
use crate::challenge::services::Agreed;
use crate::challenge::translation::Edit;
use crate::challenge::{said, segment, sequence};
use crate::packet::{Direction, Kind, Lanes, Layers, Packet, address, icmp};
use crate::tables::Tables;
use crate::target::plan::Place;
use crate::verdict::Verdict;

/// What a SYN that meets a challenge is asked with, gathered for a burst.
pub(super) struct Openings {
    /// A bit for each SYN that is answered with a cookie behind which the connection goes on.
    pub(super) which: u64,
    firsts: [u32; BURST],
    offers: [Offer; BURST],
    agreed: [Options; BURST],
}

/// What has come of a segment that acknowledges a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// It becomes the client's SYN.
    Yes,
    /// There is no room for its connection.
    Full,
    /// It cannot be rewritten.
    No,
}

impl Openings {
    pub(super) const NONE: Self = Self {
        which: 0,
        firsts: [0; BURST],
        offers: [Offer::NOTHING; BURST],
        agreed: [Options { mss: None, scale: None, sack: false, stamps: None }; BURST],
    };
}

impl Stages {
    /// Reads what clients offer whose connections are to be opened in the place of their server.
    #[cold]
    pub(super) fn openings(&self, tables: &Tables, which: u64, packets: &[Packet<'_>], now: Timestamp) -> Openings {
        let mut openings = Openings::NONE;
        let Scratch { parsed, places, .. } = &*self.scratch;
        for at in set_bits(which & parsed.marks.tcp) {
            let (Some(packet), Some(Some(place)), Some(lanes)) =
                (packets.get(at), places.get(at), parsed.lanes.get(at))
            else {
                continue;
            };
            let Some(service) = self.opens(tables, place, lanes, now) else { continue };
            let layers = parsed.layers(at);
            let said = said(packet, &layers);
            let agreed = Proxy::agree(&said, &service, 0);
            let Openings { which, firsts, offers, agreed: all } = &mut openings;
            let places = (firsts.get_mut(at), offers.get_mut(at), all.get_mut(at));
            let (Some(first), Some(offer), Some(place)) = places else { continue };
            *first = sequence(packet, &layers);
            *offer = Proxy::offer(&said, &agreed, least_mss(packet, &layers));
            *place = agreed;
            *which |= 1 << at;
        }
        openings
    }

    /// What is offered in the place of the server that a SYN is for; none where connections are not opened. Unless the operator says
    /// that both directions pass here, a SYN-ACK of this server must have shown it.
    fn opens(&self, tables: &Tables, place: &Place, lanes: &Lanes, now: Timestamp) -> Option<Agreed> {
        let zone = tables.plan.zone(place.zone)?;
        if zone.challenge != Challenge::Proxy {
            return None;
        }
        let service = self.proxy.service(address(lanes.destination()), lanes.get(Lane::DstPort));
        let known = self.proxy.services.offer(service, now);
        known.or((zone.visibility == Visibility::Both).then_some(Agreed::UNKNOWN))
    }

    /// Writes down the answers to SYNs whose connections are opened. Those to others stay as they are.
    #[cold]
    pub(super) fn open_with(&mut self, openings: &Openings, now: Timestamp) {
        let Self { isa, challenges, scratch, .. } = self;
        let Scratch { keys, replies, .. } = &mut **scratch;
        let Openings { which, firsts, offers, agreed } = openings;
        let tellings = challenges.tellings(*isa, keys, firsts, offers, now);
        // A clock of about a millisecond, as most have (RFC 7323 section 5.4).
        let clock = u32::try_from(now.0 >> 20 & u64::from(u32::MAX)).unwrap_or(0);
        for at in set_bits(*which) {
            let (Some(telling), Some(first)) = (tellings.get(at), firsts.get(at)) else { continue };
            let (Some(agreed), Some(reply)) = (agreed.get(at), replies.get_mut(at)) else { continue };
            let mut options = *agreed;
            if let Some(stamps) = &mut options.stamps {
                stamps.value = clock.wrapping_add(telling.salt);
            }
            let acknowledgement = first.wrapping_add(1);
            *reply = Reply::Opening { sequence: telling.cookie, acknowledgement, options };
        }
    }

    /// The connection of a packet at a position of the burst, if it was opened in the place of its server.
    #[inline]
    pub(super) fn proxied(&self, at: usize, now: Timestamp) -> Option<(Slot, Connection)> {
        let Scratch { keys, proxied, .. } = &*self.scratch;
        if *proxied >> at & 1 == 0 {
            return None;
        }
        self.proxy.connections.find(*keys.get(at)?, now)
    }

    /// True when the server of a SYN's connection knows it already: it is for the server to say what becomes of it.
    #[inline]
    pub(super) fn is_open(&self, at: usize, now: Timestamp) -> bool {
        self.proxied(at, now).is_some_and(|(_, known)| known.state.contains(State::OPEN) && !known.is_closed())
    }

    /// A client has acknowledged a cookie that tells `offer` and follows the sequence number `first`.
    pub(super) fn open(
        &mut self,
        at: usize,
        known: Option<Slot>,
        packet: &Packet<'_>,
        told: (Offer, u32),
        now: Timestamp,
    ) -> Opened {
        let Self { proxy, scratch, .. } = self;
        let Scratch { parsed, keys, edits, edited, .. } = &mut **scratch;
        let layers = parsed.layers(at);
        let (Some(lanes), Some(key), Some(edit)) = (parsed.lanes.get(at), keys.get(at), edits.get_mut(at)) else {
            return Opened::No;
        };
        if Way::back(packet.head, &layers) != Way::Open {
            return Opened::No;
        }
        let service = proxy.service(address(lanes.destination()), lanes.get(Lane::DstPort));
        let segment = segment(packet, lanes, &layers);
        let Some(opening) = proxy.open(*key, service, known, &segment, told, now) else { return Opened::Full };
        *edit = opening;
        *edited |= 1 << at;
        Opened::Yes
    }

    /// What becomes of packets from outside that pass: those of connections that were opened, and errors that quote one.
    #[inline]
    pub(super) fn translate_inbound(
        &mut self,
        special: u64,
        packets: &[Packet<'_>],
        now: Timestamp,
        verdicts: &mut [Verdict],
    ) {
        if self.proxy.connections.are_any(now) {
            self.translate_inbound_some(special, packets, now, verdicts);
        }
    }

    #[inline(never)]
    fn translate_inbound_some(
        &mut self,
        special: u64,
        packets: &[Packet<'_>],
        now: Timestamp,
        verdicts: &mut [Verdict],
    ) {
        for at in set_bits(self.scratch.proxied & !self.scratch.edited) {
            let Some((slot, known)) = self.proxied(at, now) else { continue };
            let Self { proxy, scratch, .. } = self;
            let Scratch { parsed, keys, edits, edited, .. } = &mut **scratch;
            let (Some(lanes), Some(key), Some(edit)) = (parsed.lanes.get(at), keys.get(at), edits.get_mut(at)) else {
                continue;
            };
            if verdicts.get(at) != Some(&Verdict::Forward) || !known.state.contains(State::OPEN) {
                continue;
            }
            let flags = TcpFlags::from_bits_truncate(lanes.get(Lane::TcpFlags));
            *edit = proxy.inbound(slot, *key, &known, flags, now);
            *edited |= u64::from(*edit != Edit::None) << at;
        }
        for at in set_bits(special) {
            let Self { proxy, keyed, scratch, .. } = self;
            let Scratch { parsed, edits, edited, .. } = &mut **scratch;
            let layers = parsed.layers(at);
            let (Some(packet), Some(edit)) = (packets.get(at), edits.get_mut(at)) else { continue };
            if layers.kind != Kind::IcmpError {
                continue;
            }
            let Some(quoted) = icmp::quoted(&layers, packet.head) else { continue };
            let key = keyed.conversation(
                &quoted.lanes(packet.head.get(usize::from(layers.payload)).copied()),
                Direction::Outbound,
            );
            let Some((_, known)) = proxy.connections.find(key, now) else { continue };
            if known.state.contains(State::OPEN) {
                *edit = Edit::Quote { sequence: known.offset };
                *edited |= 1 << at;
            }
        }
        self.pass_edited(verdicts);
    }

    /// What becomes of packets from inside; and what servers offer is learned from them.
    #[inline]
    pub(super) fn translate_outbound(
        &mut self,
        tables: &Tables,
        packets: &[Packet<'_>],
        now: Timestamp,
        verdicts: &mut [Verdict],
    ) {
        if tables.plan.opens_connections() || self.proxy.connections.are_any(now) {
            self.translate_outbound_some(tables, packets, now, verdicts);
        }
    }

    #[inline(never)]
    fn translate_outbound_some(
        &mut self,
        tables: &Tables,
        packets: &[Packet<'_>],
        now: Timestamp,
        verdicts: &mut [Verdict],
    ) {
        for at in set_bits(self.scratch.parsed.marks.tcp) {
            let found = self.proxied(at, now);
            let Self { proxy, conversations, scratch, .. } = self;
            let Scratch { parsed, keys, places, edits, edited, replies, .. } = &mut **scratch;
            let (Some(packet), Some(lanes), Some(key)) = (packets.get(at), parsed.lanes.get(at), keys.get(at)) else {
                continue;
            };
            let flags = TcpFlags::from_bits_truncate(lanes.get(Lane::TcpFlags));
            let answers = flags.contains(TcpFlags::SYN | TcpFlags::ACK);
            if found.is_none() && !answers {
                continue;
            }
            let layers = parsed.layers(at);
            let service = proxy.service(address(lanes.source()), lanes.get(Lane::SrcPort));
            let Some((slot, known)) = found else {
                let zone = places.get(at).copied().flatten().map(|place| tables.plan.challenge(place.zone));
                if zone == Some(Challenge::Proxy) {
                    proxy.services.learn(service, &said(packet, &layers), None, now);
                }
                continue;
            };
            let (Some(edit), Some(reply)) = (edits.get_mut(at), replies.get_mut(at)) else { continue };
            let segment = segment(packet, lanes, &layers);
            match proxy.outbound(slot, *key, service, &known, &segment, now) {
                Outbound::Passes => continue,
                Outbound::Becomes(becomes) => *edit = becomes,
                Outbound::Opens(becomes) => {
                    *edit = becomes;
                    conversations.opened_for(*key, now);
                }
                Outbound::Answered(answer) => {
                    *reply = answer;
                    verdicts.get_mut(at).into_iter().for_each(|verdict| *verdict = Verdict::Reply);
                    continue;
                }
            }
            *edited |= 1 << at;
        }
        self.pass_edited(verdicts);
    }

    fn pass_edited(&self, verdicts: &mut [Verdict]) {
        for at in set_bits(self.scratch.edited) {
            if let Some(verdict) = verdicts.get_mut(at).filter(|verdict| **verdict == Verdict::Forward) {
                *verdict = Verdict::Translate;
            }
        }
    }
}

/// What a client that says no segment size can take (RFC 9293 section 3.7.1, RFC 8200 section 5).
fn least_mss(packet: &Packet<'_>, layers: &Layers) -> u16 {
    let is_v4 = packet.head.get(usize::from(layers.l3)).is_some_and(|first| first >> 4 == 4);
    if is_v4 { 536 } else { 1220 }
}
