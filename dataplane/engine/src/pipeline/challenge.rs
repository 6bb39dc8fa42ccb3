//! Packets that meet a challenge, and the segments that answer one.

use levee_api::filter::Action;
use levee_api::lane::{Lane, TcpFlags};
use levee_api::role::Role;
use levee_api::time::Timestamp;
use levee_api::zone::Challenge;

use super::judge::Met;
use super::limits::Asked;
use super::proxy::Opened;
use super::{BURST, Scratch, Stages, set_bits};
use crate::challenge::connections::{Connection, Slot, State};
use crate::challenge::reply::{Reply, Way};
use crate::challenge::{Answer, acknowledgement, sequence};
use crate::link::Notice;
use crate::packet::{Kind, Packet, dns};
use crate::tables::Tables;
use crate::target::conversation::{Judged, Step};
use crate::verdict::{Reason, Verdict};

impl Stages {
    /// What becomes of whole packets that meet a challenge, those whose bit is set in `which`.
    #[inline(never)]
    pub(super) fn challenge(
        &mut self,
        tables: &Tables,
        which: u64,
        met: &Met<'_>,
        packets: &[Packet<'_>],
        now: Timestamp,
        verdicts: &mut [Verdict],
    ) {
        if which == 0 {
            return;
        }
        let mut answerable = self.write_challenges(tables, which & !self.scratch.answers, packets, now);
        for at in set_bits(which) {
            let Self { limits, scratch, .. } = self;
            let Scratch { parsed, places, challenge_keys, replies, .. } = &mut **scratch;
            let (Some(Some(found)), Some(Some(place))) = (met.filters.get(at), places.get(at)) else { continue };
            let (Some(packet), Some(lanes)) = (packets.get(at), parsed.lanes.get(at)) else { continue };
            let (Some(known_by), Some(reply)) = (challenge_keys.get(at), replies.get_mut(at)) else { continue };
            let Action::Challenge { above_pps } = found.action else { continue };
            let layers = parsed.layers(at);
            let (plan, way) = (&tables.plan, Way::back(packet.head, &layers));
            // Labels mean something else on the way back, and come from the network and not from clients.
            if !plan.enforces(place.zone) || way == Way::BelowLabels {
                continue;
            }
            if layers.kind == Kind::Udp && plan.challenges_dns(place.zone) && lanes.get(Lane::DstPort) == dns::PORT {
                *reply = Reply::Truncated;
                answerable |= 1 << at;
            }
            if answerable >> at & 1 == 0 {
                continue;
            }
            match limits.challenge(found.counter, above_pps, *known_by, lanes, now) {
                Asked::No => {}
                Asked::Yes if way == Way::Open && reply.is_possible(packet.head, &layers) => {
                    if let Some(verdict) = verdicts.get_mut(at) {
                        *verdict = Verdict::Reply;
                    }
                }
                Asked::Yes | Asked::TooMuch => self.condemn(tables, at, Reason::Challenge, now, verdicts),
            }
        }
    }

    /// Writes down what SYNs that meet a challenge are answered with, if they are; a bit for each that may be. None of those whose
    /// connections are known.
    #[inline]
    fn write_challenges(&mut self, tables: &Tables, which: u64, packets: &[Packet<'_>], now: Timestamp) -> u64 {
        let plan = &tables.plan;
        let mut which = which & self.scratch.parsed.marks.tcp;
        for at in set_bits(which & (self.scratch.maybe_known | self.scratch.proxied)) {
            let known = self.scratch.keys.get(at).is_some_and(|key| self.conversations.inside_opened(*key, now));
            which &= !(u64::from(known || self.is_open(at, now)) << at);
        }
        let mut opened = 0;
        if plan.opens_connections() {
            let openings = self.openings(tables, which, packets, now);
            if openings.which != 0 {
                self.open_with(&openings, now);
                opened = openings.which;
                which &= !opened;
            }
        }
        if which == 0 {
            return opened;
        }
        let Self { isa, challenges, scratch, .. } = self;
        let Scratch { parsed, keys, places, replies, .. } = &mut **scratch;
        let mut numbers = [0; BURST];
        let mut firsts = [None; BURST];
        for at in set_bits(which) {
            let (Some(packet), Some(Some(place))) = (packets.get(at), places.get(at)) else { continue };
            let (Some(number), Some(first)) = (numbers.get_mut(at), firsts.get_mut(at)) else { continue };
            *number = sequence(packet, &parsed.layers(at));
            *first = match plan.challenge(place.zone) {
                Challenge::Reset | Challenge::Proxy => Some(*number),
                Challenge::SafeReset | Challenge::Off => None,
            };
        }
        let cookies = challenges.cookies(*isa, keys, &firsts, now);
        for at in set_bits(which) {
            let (Some(cookie), Some(number), Some(Some(place))) = (cookies.get(at), numbers.get(at), places.get(at))
            else {
                continue;
            };
            let Some(reply) = replies.get_mut(at) else { continue };
            *reply = match plan.challenge(place.zone) {
                Challenge::Reset | Challenge::Proxy => Reply::syn_ack(*cookie, number.wrapping_add(1)),
                Challenge::SafeReset => Reply::syn_ack(0, *cookie),
                Challenge::Off => {
                    which &= !(1 << at);
                    continue;
                }
            };
        }
        opened | which
    }

    /// Looks among segments that no connection explains, those whose bit is set in `strangers`, for answers to challenges.
    /// Who answers has completed a handshake, as far as anybody could.
    #[inline(never)]
    pub(super) fn hear_answers(&mut self, strangers: u64, packets: &[Packet<'_>], now: Timestamp) {
        for at in set_bits(strangers) {
            let known = self.proxied(at, now);
            let (Some(packet), Some(lanes)) = (packets.get(at), self.scratch.parsed.lanes.get(at)) else { continue };
            let (Some(key), Some(Some(place))) = (self.scratch.keys.get(at), self.scratch.places.get(at)) else {
                continue;
            };
            let (lanes, key, place) = (*lanes, *key, *place);
            if let Some((_, connection)) = known
                && connection.state.contains(State::OPEN)
                && !connection.is_closed()
            {
                // Opened in the place of the server; that inside has sent on it was forgotten.
                self.is_established(at, None);
                continue;
            }
            let layers = self.scratch.parsed.layers(at);
            let may_probe = known.is_some();
            let answer = self.challenges.answer(packet, &lanes, &layers, key, may_probe, now);
            if let Some((_, connection)) = known
                && !connection.is_closed()
            {
                self.wait_for_server(at, connection, answer, packet, known, now);
                continue;
            }
            let Some(answer) = answer else { continue };
            // A cookie is good for a while: who sends one again and again has not completed that many handshakes.
            if !self.limits.may_answer(matches!(answer, Answer::Opened { .. }), &lanes, now) {
                continue;
            }
            let reset = match answer {
                Answer::Acknowledged(reset) => Some(reset),
                Answer::Reset => None,
                Answer::Opened { offer, first } => {
                    match self.open(at, known.map(|(slot, _)| slot), packet, (offer, first), now) {
                        Opened::Yes => None,
                        Opened::Full => Some(Reply::reset(acknowledgement(packet, &layers))),
                        Opened::No => continue,
                    }
                }
            };
            self.is_established(at, Some(Step::Handshake));
            let Self { link, limits, scratch, .. } = self;
            link.counters.went_on(place.slot, Step::Handshake);
            limits.verify(&lanes, now);
            link.notice(Notice::Proven(key));
            if let (Some(reset), Some(reply)) = (reset, scratch.replies.get_mut(at)) {
                *reply = reset;
                scratch.answers |= 1 << at;
            }
        }
    }

    /// A segment of a client whose SYN the server has not answered yet: it is the SYN again, or is held back.
    #[cold]
    fn wait_for_server(
        &mut self,
        at: usize,
        connection: Connection,
        answer: Option<Answer>,
        packet: &Packet<'_>,
        known: Option<(Slot, Connection)>,
        now: Timestamp,
    ) {
        self.is_established(at, None);
        let flags = self.scratch.parsed.lanes.get(at).map_or(0, |lanes| lanes.get(Lane::TcpFlags));
        if TcpFlags::from_bits_truncate(flags).contains(TcpFlags::RST) {
            return;
        }
        let again = match answer {
            Some(Answer::Opened { offer, first }) if !connection.is_fresh(now) => {
                self.open(at, known.map(|(slot, _)| slot), packet, (offer, first), now)
            }
            _ => Opened::No,
        };
        self.scratch.waiting |= u64::from(again != Opened::Yes) << at;
    }

    /// A packet is of a connection that is none of those that conversations know.
    fn is_established(&mut self, at: usize, step: Option<Step>) {
        if let Some(judged) = self.scratch.judged.get_mut(at) {
            *judged = Judged { step, ..Judged::of(Role::Established) };
        }
    }
}
