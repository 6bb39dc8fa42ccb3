//! Challenges: a packet is answered in the place of the server. A SYN with a number that only who receives the answer can know,
//! a DNS query with the request to come back over TCP, where a handshake shows the same.
//!
//! * [`cookie`]: these numbers. Nothing is remembered of who was asked: a flood fills no table.
//! * [`reply`]: a packet rewritten into the answer to it. [`options`]: what a handshake agrees on.
//! * [`proxy`]: connections that are opened in the place of a server. [`connections`]: what is remembered of them; [`services`]: what
//!   servers offer; [`translation`]: their packets, rewritten on their way.
//!
//! Who answers is verified ([`crate::target::verified`]), and its SYNs pass. `docs/explanation/challenges.md` says what that
//! costs a client.

pub mod connections;
pub mod cookie;
mod dns;
mod header;
pub mod options;
pub mod proxy;
pub mod reply;
pub mod services;
pub mod translation;

use levee_api::lane::{Lane, TcpFlags};
use levee_api::time::Timestamp;

use self::cookie::{Cookies, Offer, Telling};
use self::options::Options;
use self::proxy::Segment;
use self::reply::Reply;
use crate::isa::Isa;
use crate::packet::{Lanes, Layers, Packet};
use crate::pipeline::BURST;
use crate::target::keyed::Keyed;

/// What one worker asks and is answered.
#[derive(Debug)]
pub struct Challenges {
    cookies: Cookies,
    /// Until here what was asked can be answered.
    open_until: Timestamp,
    /// The same of cookies that tell what their client offers.
    telling_until: Timestamp,
}

/// What a client has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has acknowledged a cookie: it takes its connection for open, and has to be told that it is not.
    Acknowledged(Reply),
    /// It has reset what it never asked for, and asks the server again by itself.
    Reset,
    /// It has acknowledged a cookie behind which its connection goes on.
    Opened {
        /// What it has offered.
        offer: Offer,
        /// Its first sequence number.
        first: u32,
    },
}

impl Challenges {
    /// Nothing has been asked yet. `keyed`: of the worker's tables; the secret of cookies is made of theirs.
    pub fn new(keyed: &Keyed) -> Self {
        Self { cookies: Cookies::new(keyed), open_until: Timestamp::ZERO, telling_until: Timestamp::ZERO }
    }

    /// The cookies of a burst of SYNs. `conversations`: the keys of their connections; `firsts`: their sequence numbers, none where
    /// they do not come back.
    #[inline]
    pub fn cookies(
        &mut self,
        isa: Isa,
        conversations: &[u64; BURST],
        firsts: &[Option<u32>; BURST],
        now: Timestamp,
    ) -> [u32; BURST] {
        self.open_until = now + cookie::LIFETIME;
        self.cookies.make(isa, conversations, firsts, now)
    }

    /// The same for cookies behind which the connection goes on. `offers`: what their clients offer.
    #[inline]
    pub fn tellings(
        &mut self,
        isa: Isa,
        conversations: &[u64; BURST],
        firsts: &[u32; BURST],
        offers: &[Offer; BURST],
        now: Timestamp,
    ) -> [Telling; BURST] {
        self.telling_until = now + cookie::LIFETIME;
        self.cookies.tell(isa, conversations, firsts, offers, now)
    }

    /// True while there may be answers to what was asked.
    #[inline]
    pub fn are_open(&self, now: Timestamp) -> bool {
        now < self.open_until || now < self.telling_until
    }

    /// What a segment that no connection explains answers; none if it is no answer, or not to what was asked. `may_probe`: its client
    /// has answered before, and may probe the closed window with the number before the next one (Linux does).
    #[inline]
    pub fn answer(
        &self,
        packet: &Packet<'_>,
        lanes: &Lanes,
        layers: &Layers,
        conversation: u64,
        may_probe: bool,
        now: Timestamp,
    ) -> Option<Answer> {
        let flags = TcpFlags::from_bits_truncate(lanes.get(Lane::TcpFlags));
        if flags.intersects(TcpFlags::SYN | TcpFlags::FIN) {
            return None;
        }
        if flags.contains(TcpFlags::RST) {
            if now >= self.open_until {
                return None;
            }
            // RFC 9293 section 3.10.7.3: a reset of an unacceptable acknowledgement has its number as sequence number.
            let cookie = sequence(packet, layers);
            return self.cookies.is_ours(cookie, conversation, None, now).then_some(Answer::Reset);
        }
        let acknowledged = acknowledgement(packet, layers);
        if now < self.telling_until {
            let number = sequence(packet, layers);
            let firsts = [Some(number.wrapping_sub(1)), may_probe.then_some(number)];
            let told = |first| {
                let offer = self.cookies.told(acknowledged.wrapping_sub(1), conversation, first, now)?;
                Some(Answer::Opened { offer, first })
            };
            if let Some(opened) = firsts.into_iter().flatten().find_map(told) {
                return Some(opened);
            }
        }
        if now >= self.open_until {
            return None;
        }
        let first = sequence(packet, layers).wrapping_sub(1);
        let is_ours = self.cookies.is_ours(acknowledged.wrapping_sub(1), conversation, Some(first), now);
        is_ours.then_some(Answer::Acknowledged(Reply::reset(acknowledged)))
    }
}

/// The sequence number of a segment.
#[inline]
pub fn sequence(packet: &Packet<'_>, layers: &Layers) -> u32 {
    word(packet, usize::from(layers.l4) + 4)
}

/// What a segment says.
#[inline]
pub fn segment(packet: &Packet<'_>, lanes: &Lanes, layers: &Layers) -> Segment {
    Segment {
        flags: TcpFlags::from_bits_truncate(lanes.get(Lane::TcpFlags)),
        sequence: sequence(packet, layers),
        acknowledgement: acknowledgement(packet, layers),
        window: lanes.get(Lane::TcpWindow),
        options: said(packet, layers),
    }
}

/// The options of a segment.
#[inline]
pub fn said(packet: &Packet<'_>, layers: &Layers) -> Options {
    const FIXED: usize = 20;
    let field = packet.head.get(usize::from(layers.l4) + FIXED..usize::from(layers.payload));
    Options::read(field.unwrap_or_default())
}

/// The acknowledgement number of a segment.
#[inline]
pub fn acknowledgement(packet: &Packet<'_>, layers: &Layers) -> u32 {
    word(packet, usize::from(layers.l4) + 8)
}

/// Parsing has checked that the transport header is present.
fn word(packet: &Packet<'_>, at: usize) -> u32 {
    packet.head.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
