//! Challenges: a SYN is answered in the place of the server, with a number that only who receives the answer can know.
//!
//! * [`cookie`]: these numbers. Nothing is remembered of who was asked: a flood fills no table.
//! * [`reply`]: a packet rewritten into the answer to it.
//!
//! Who answers is verified ([`crate::target::verified`]), and its SYNs pass. `docs/explanation/challenges.md` says what that
//! costs a client.

pub mod cookie;
pub mod reply;

use levee_api::lane::{Lane, TcpFlags};
use levee_api::time::Timestamp;
use levee_api::zone::Challenge;

use self::cookie::Cookies;
use self::reply::Reply;
use crate::packet::{Lanes, Layers, Packet};
use crate::target::keyed::Keyed;

/// What one worker asks and is answered.
#[derive(Debug)]
pub struct Challenges {
    cookies: Cookies,
    /// Until here what was asked can be answered.
    open_until: Timestamp,
}

/// What a client has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has acknowledged a cookie: it takes its connection for open, and has to be told that it is not.
    Acknowledged(Reply),
    /// It has reset what it never asked for, and asks the server again by itself.
    Reset,
}

impl Challenges {
    /// Nothing has been asked yet. `keyed`: of the worker's tables; the secret of cookies is made of theirs.
    pub fn new(keyed: &Keyed) -> Self {
        Self { cookies: Cookies::new(keyed), open_until: Timestamp::ZERO }
    }

    /// The challenge that answers a SYN; none when its zone has none. `conversation`: the key of its connection.
    #[inline]
    pub fn ask(
        &mut self,
        how: Challenge,
        packet: &Packet<'_>,
        layers: &Layers,
        conversation: u64,
        now: Timestamp,
    ) -> Option<Reply> {
        let reply = match how {
            Challenge::Off => return None,
            Challenge::Reset => {
                let first = sequence(packet, layers);
                Reply::syn_ack(self.cookies.make(conversation, Some(first), now), first.wrapping_add(1))
            }
            Challenge::SafeReset => Reply::syn_ack(0, self.cookies.make(conversation, None, now)),
        };
        self.open_until = now + cookie::LIFETIME;
        Some(reply)
    }

    /// True while there may be answers to what was asked.
    #[inline]
    pub fn are_open(&self, now: Timestamp) -> bool {
        now < self.open_until
    }

    /// What a segment that no connection explains answers; none if it is no answer, or not to what was asked.
    #[inline]
    pub fn answer(
        &self,
        packet: &Packet<'_>,
        lanes: &Lanes,
        layers: &Layers,
        conversation: u64,
        now: Timestamp,
    ) -> Option<Answer> {
        let flags = TcpFlags::from_bits_truncate(lanes.get(Lane::TcpFlags));
        if flags.intersects(TcpFlags::SYN | TcpFlags::FIN) {
            return None;
        }
        if flags.contains(TcpFlags::RST) {
            // RFC 9293 section 3.10.7.3: a reset of an unacceptable acknowledgement has its number as sequence number.
            let cookie = sequence(packet, layers);
            return self.cookies.is_ours(cookie, conversation, None, now).then_some(Answer::Reset);
        }
        let acknowledged = acknowledgement(packet, layers);
        let first = sequence(packet, layers).wrapping_sub(1);
        let is_ours = self.cookies.is_ours(acknowledged.wrapping_sub(1), conversation, Some(first), now);
        is_ours.then_some(Answer::Acknowledged(Reply::reset(acknowledged)))
    }
}

fn sequence(packet: &Packet<'_>, layers: &Layers) -> u32 {
    word(packet, usize::from(layers.l4) + 4)
}

fn acknowledgement(packet: &Packet<'_>, layers: &Layers) -> u32 {
    word(packet, usize::from(layers.l4) + 8)
}

/// Parsing has checked that the transport header is present.
fn word(packet: &Packet<'_>, at: usize) -> u32 {
    packet.head.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
