//! What a packet is in its conversation: the role of inbound packets, and what outbound packets teach.

use levee_api::lane::{Lane, TcpFlags};
use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::detect::classify::amplification;
use crate::isa::Isa;
use crate::packet::{Direction, Kind, Lanes, Layers, Packet, icmp, udp};
use crate::pipeline::{BURST, set_bits};
use crate::target::fragment::{Arrival, Fragments, Lead};
use crate::target::keyed::Keyed;
use crate::target::memory::{Conversation, Memory, State, lifetime};
use crate::verdict::Reason;

/// What an inbound packet turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Its role.
    pub role: Role,
    /// What its conversation has got past with it.
    pub step: Option<Step>,
    /// The first fragment that it follows.
    pub lead: Lead,
}

/// How far a conversation has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The client has completed the handshake.
    Handshake,
    /// It has promptly gone on after the first answer to its datagram.
    Continued,
    /// It has promptly sent more data after the reply to its request.
    Second,
}

/// What an outbound packet taught.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// It was the first answer to a datagram.
    pub answer: bool,
    /// Key of the conversation it is part of.
    pub conversation: u64,
}

/// The memory of one worker.
pub struct Conversations {
    memory: Memory,
    fragments: Fragments,
}

/// An acknowledgement of the SYN-ACK may already cover this much of the server's data, when the first one was lost.
const ACK_REACH: u32 = 1 << 20;

/// Packets without data that a client may send for no reason that we have seen: window updates, keep-alives.
const UNPROMPTED: u32 = 16;
/// And what inside may have sent before them, in segments.
const MOST_PROMPTED: u32 = 1 << 16;
/// The smallest segments that a path may be made of (RFC 9293 section 3.7.1). A capture made at a sender has many in one
/// frame, each of which is acknowledged.
const SEGMENT: u16 = 536;

impl Conversations {
    /// A memory of about `entries` conversations, and a sixteenth of that of fragmented datagrams.
    pub fn new(entries: usize, keyed: Keyed) -> Self {
        Self { memory: Memory::new(entries), fragments: Fragments::new(entries / 16, keyed) }
    }

    /// Living conversations that had to make room so far.
    pub fn evicted(&self) -> u64 {
        self.memory.evicted()
    }

    /// True while the conversation of a key may be missing, because one had to make room that had got past its first exchange.
    pub fn is_incomplete(&self, key: u64, now: Timestamp) -> bool {
        self.memory.is_incomplete(key, now)
    }

    /// Asks for the cache lines in which the conversations of a burst may be remembered; a bit for each packet whose may be.
    #[inline]
    pub fn prefetch(&self, direction: Direction, keys: &[u64]) -> u64 {
        let mut maybe = 0;
        for (at, key) in keys.iter().enumerate() {
            maybe |= u64::from(direction == Direction::Outbound || self.memory.may_know(*key)) << at;
        }
        for key in set_bits(maybe).filter_map(|at| keys.get(at)) {
            self.memory.prefetch(*key);
        }
        maybe
    }

    /// Of the packets of a burst whose bit is set in `which` those whose conversation is remembered.
    #[inline]
    pub fn known(&self, which: u64, keys: &[u64; BURST], now: Timestamp) -> u64 {
        self.memory.known(which, keys, now)
    }

    /// True when inside has begun the connection of a key.
    #[inline]
    pub fn inside_opened(&mut self, key: u64, now: Timestamp) -> bool {
        self.memory.find(key, now).is_some_and(|known| known.state().contains(State::INSIDE_SYN))
    }

    /// The server has accepted a connection whose client had shown itself before: it acknowledges another number than the server's.
    pub fn opened_for(&mut self, key: u64, now: Timestamp) {
        if let Some((mut known, _)) = self.memory.find_or_create(key, now) {
            known.mark(State::INSIDE_SYN_ACK | State::PROVEN);
            known.set_note(UNPROMPTED);
            known.keep(now, lifetime::CONNECTION);
        }
    }

    /// Begins an inbound burst, and asks for what is remembered of the datagrams of its fragments. `which`: a bit for each
    /// packet that is one.
    #[inline]
    pub fn locate_fragments(&mut self, isa: Isa, which: u64, lanes: &[Lanes], layers: &[Layers]) {
        self.fragments.locate(isa, which, lanes, layers);
    }

    /// The role of the inbound packet at position `at` of the burst; a fragment that overlaps others becomes malformed.
    /// `key`: of its conversation; `served`: its UDP destination port is served.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "all that a role depends on")]
    pub fn inbound(
        &mut self,
        at: usize,
        packet: &Packet<'_>,
        lanes: &Lanes,
        layers: &mut Layers,
        key: u64,
        served: bool,
        now: Timestamp,
    ) -> Judged {
        let Self { memory, fragments } = self;
        if layers.piece.end == 0 || matches!(layers.kind, Kind::Malformed { .. }) {
            return judge(memory, packet, lanes, layers, key, served, now);
        }
        match fragments.arrive(at, layers.piece, now) {
            Arrival::Overlap => {
                layers.kind = Kind::Malformed { reason: Reason::FragmentOverlap, addressed: true };
                Judged::of(Role::Malformed)
            }
            Arrival::First(first) => {
                let judged = judge(memory, packet, lanes, layers, key, served, now);
                // What has a limit of its own is not an opening for fragments that nothing limits.
                if !matches!(layers.kind, Kind::IcmpError | Kind::Discovery) {
                    first.leads(judged.role);
                }
                judged
            }
            Arrival::Later { role, lead } => Judged { lead, ..Judged::of(role) },
        }
    }

    /// The first fragment at this position of the burst was dropped: the others follow it.
    #[inline]
    pub fn first_fragment_dropped(&mut self, at: usize) {
        self.fragments.first_dropped(at);
    }

    /// True when a later fragment follows a first that was dropped, even one of the same burst, which has been judged.
    #[inline]
    pub fn follows_dropped(&self, judged: &Judged) -> bool {
        self.fragments.follows_dropped(judged.lead)
    }

    /// Learns from an outbound packet. `key`: of its conversation; `served`: its UDP source port is served, so that it can
    /// be an answer.
    pub fn outbound(
        &mut self,
        packet: &Packet<'_>,
        lanes: &Lanes,
        layers: &Layers,
        key: u64,
        served: bool,
        now: Timestamp,
    ) -> Learned {
        match layers.kind {
            Kind::Tcp => self.tcp_out(packet, lanes, layers, key, now),
            Kind::Udp => self.udp_out(packet, lanes, layers, key, served, now),
            Kind::IcmpOther if icmp::is_echo_request(lanes) => self.echo_out(key, now),
            _ => Learned::default(),
        }
    }

    /// Inside asks: whoever it asked may reply.
    fn echo_out(&mut self, conversation: u64, now: Timestamp) -> Learned {
        if let Some((mut entry, _)) = self.memory.find_or_create(conversation, now) {
            entry.mark(State::PROVEN);
            entry.keep(now, lifetime::DATAGRAMS);
        }
        Learned { answer: false, conversation }
    }

    fn tcp_out(
        &mut self,
        packet: &Packet<'_>,
        lanes: &Lanes,
        layers: &Layers,
        conversation: u64,
        now: Timestamp,
    ) -> Learned {
        let learned = Learned { answer: false, conversation };
        let flags = TcpFlags::from_bits_truncate(lanes.get(Lane::TcpFlags));
        if flags.contains(TcpFlags::RST) {
            // An error is not an answer: it ends what is known and begins nothing.
            if let Some(mut known) = self.memory.find(conversation, now) {
                known.mark(State::CLOSING);
                known.keep(now, lifetime::CLOSING);
            }
            return learned;
        }
        let Some((mut entry, new)) = self.memory.find_or_create(conversation, now) else { return learned };
        match (flags.contains(TcpFlags::SYN), flags.contains(TcpFlags::ACK)) {
            (true, false) => {
                entry.mark(State::INSIDE_SYN);
                entry.set_note(UNPROMPTED);
                entry.keep(now, lifetime::HALF_OPEN);
            }
            (true, true) => {
                entry.mark(State::INSIDE_SYN_ACK);
                if !entry.state().contains(State::PROVEN) {
                    entry.set_note(tcp_sequence(packet, layers));
                    entry.keep(now, lifetime::HALF_OPEN);
                }
            }
            _ => {
                if new {
                    // In mid-connection: it was opened before we looked, or its entry was evicted.
                    entry.mark(State::PROVEN | State::REQUEST | State::CONTINUED);
                    entry.set_note(UNPROMPTED);
                }
                prompt(&mut entry, lanes.get(Lane::PayloadLength));
                go_on(&mut entry, flags, now);
            }
        }
        learned
    }

    fn udp_out(
        &mut self,
        packet: &Packet<'_>,
        lanes: &Lanes,
        layers: &Layers,
        conversation: u64,
        served: bool,
        now: Timestamp,
    ) -> Learned {
        if self.memory.find(conversation, now).is_none() && udp::is_error_answer(layers, packet.head, lanes) {
            return Learned { answer: false, conversation };
        }
        let Some((mut entry, new)) = self.memory.find_or_create(conversation, now) else {
            return Learned { answer: false, conversation };
        };
        if new {
            entry.mark(if served { State::ANSWERED } else { State::PROVEN });
        }
        entry.keep(now, lifetime::DATAGRAMS);
        Learned { answer: new && served, conversation }
    }
}

impl Judged {
    /// A packet of a role, and nothing else.
    pub const fn of(role: Role) -> Self {
        Self { role, step: None, lead: Lead::None }
    }
}

/// The role of an inbound packet by what is remembered of its conversation.
#[inline]
fn judge(
    memory: &mut Memory,
    packet: &Packet<'_>,
    lanes: &Lanes,
    layers: &Layers,
    key: u64,
    served: bool,
    now: Timestamp,
) -> Judged {
    match layers.kind {
        Kind::Tcp => tcp_in(memory, packet, lanes, layers, key, now),
        Kind::Udp => udp_in(memory, lanes, key, served, now),
        Kind::LaterFragment => Judged::of(Role::LaterFragment),
        Kind::IcmpOther if icmp::is_echo_reply(lanes) && memory.find(key, now).is_some() => {
            Judged::of(Role::Established)
        }
        Kind::IcmpOther => Judged::of(Role::IcmpOther),
        Kind::OtherProtocol => Judged::of(Role::OtherProtocol),
        Kind::Malformed { .. } => Judged::of(Role::Malformed),
        // Error messages quote a packet of the target, discovery is link-local: each has its own limit.
        Kind::IcmpError | Kind::Discovery | Kind::Other | Kind::Heartbeat | Kind::TooDeep => {
            Judged::of(Role::Established)
        }
    }
}

#[inline]
fn tcp_in(
    memory: &mut Memory,
    packet: &Packet<'_>,
    lanes: &Lanes,
    layers: &Layers,
    key: u64,
    now: Timestamp,
) -> Judged {
    let flags = TcpFlags::from_bits_truncate(lanes.get(Lane::TcpFlags));
    if is_opening(flags) {
        return Judged::of(Role::Syn);
    }
    let Some(mut known) = memory.find(key, now) else { return Judged::of(stranger_tcp(flags)) };
    let state = known.state();
    if flags.contains(TcpFlags::SYN) && !state.contains(State::INSIDE_SYN) {
        return Judged::of(Role::UnsolicitedSynAck);
    }
    let mut judged = Judged::of(Role::Established);
    if state.contains(State::INSIDE_SYN_ACK) && !state.contains(State::PROVEN) && !flags.contains(TcpFlags::RST) {
        // Only who received our sequence number can acknowledge it.
        let acknowledged = tcp_acknowledgement(packet, layers).wrapping_sub(known.note());
        if !flags.contains(TcpFlags::ACK) || acknowledged == 0 || acknowledged > ACK_REACH {
            return Judged::of(Role::OutOfState);
        }
        known.mark(State::PROVEN);
        known.set_note(UNPROMPTED);
        judged.step = Some(Step::Handshake);
    }
    let state = known.state();
    if lanes.get(Lane::PayloadLength) == 0 {
        // It acknowledges what inside has sent, or nothing that anybody needs.
        if state.is_opened() {
            let Some(left) = known.note().checked_sub(1) else { return Judged::of(Role::OutOfState) };
            known.set_note(left);
        }
    } else if state.contains(State::INSIDE_SYN_ACK | State::PROVEN) && !state.contains(State::REQUEST) {
        known.mark(State::REQUEST);
        judged.role = Role::Request;
    } else if state.contains(State::REPLIED) && !state.contains(State::CONTINUED) {
        known.mark(State::CONTINUED);
        if known.is_prompt(now, lifetime::CONNECTION) {
            judged.step = Some(Step::Second);
        }
    }
    go_on(&mut known, flags, now);
    judged
}

#[inline]
fn udp_in(memory: &mut Memory, lanes: &Lanes, key: u64, served: bool, now: Timestamp) -> Judged {
    if let Some(mut known) = memory.find(key, now) {
        let mut judged = Judged::of(Role::Established);
        if known.state().contains(State::ANSWERED) && !known.state().contains(State::CONTINUED) {
            known.mark(State::CONTINUED);
            judged.step = known.is_prompt(now, lifetime::DATAGRAMS).then_some(Step::Continued);
        }
        known.keep(now, lifetime::DATAGRAMS);
        return judged;
    }
    Judged::of(stranger_udp(lanes, served))
}

/// True for a SYN that begins a connection, whatever is remembered.
#[inline(always)]
const fn is_opening(flags: TcpFlags) -> bool {
    flags.contains(TcpFlags::SYN) && !flags.contains(TcpFlags::ACK)
}

/// The role of a segment of no connection that is remembered. A table, so that flags that an attacker mixes cost no branches.
#[inline(always)]
pub fn stranger_tcp(flags: TcpFlags) -> Role {
    const BY_SYN_AND_ACK: [Role; 4] = [Role::OutOfState, Role::Syn, Role::OutOfState, Role::UnsolicitedSynAck];
    let at = usize::from(flags.contains(TcpFlags::SYN)) | usize::from(flags.contains(TcpFlags::ACK)) << 1;
    BY_SYN_AND_ACK.get(at).copied().unwrap_or(Role::OutOfState)
}

/// The role of a datagram of no conversation that is remembered. `served`: its destination port is.
#[inline(always)]
pub fn stranger_udp(lanes: &Lanes, served: bool) -> Role {
    if amplification::answer_of(lanes).is_some() {
        Role::UnsolicitedResponse
    } else if served {
        Role::UdpOpen
    } else {
        Role::UdpUnserved
    }
}

/// A segment of either side keeps its connection alive, or ends it.
fn go_on(known: &mut Conversation<'_>, flags: TcpFlags, now: Timestamp) {
    if flags.intersects(TcpFlags::FIN | TcpFlags::RST) {
        known.mark(State::CLOSING);
    }
    if known.state().contains(State::CLOSING) {
        known.keep(now, lifetime::CLOSING);
    } else if known.state().intersects(State::PROVEN | State::INSIDE_SYN) {
        known.keep(now, lifetime::CONNECTION);
    }
}

/// Inside sends so much data: the client may acknowledge it, and what came with it.
fn prompt(known: &mut Conversation<'_>, payload: u16) {
    let state = known.state();
    if payload > 0 && state.contains(State::REQUEST) {
        known.mark(State::REPLIED);
    }
    if state.is_opened() {
        let segments = 1 + u32::from(payload / SEGMENT);
        known.set_note(known.note().saturating_add(segments).min(MOST_PROMPTED));
    }
}

fn tcp_sequence(packet: &Packet<'_>, layers: &Layers) -> u32 {
    word(packet, usize::from(layers.l4) + 4)
}

fn tcp_acknowledgement(packet: &Packet<'_>, layers: &Layers) -> u32 {
    word(packet, usize::from(layers.l4) + 8)
}

/// Parsing has checked that the transport header is present.
fn word(packet: &Packet<'_>, at: usize) -> u32 {
    packet.head.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
