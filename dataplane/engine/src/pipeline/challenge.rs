//! Packets that meet a challenge, and the segments that answer one.

use levee_api::filter::Action;
use levee_api::lane::Lane;
use levee_api::role::Role;
use levee_api::time::Timestamp;
use levee_api::zone::Challenge;

use super::judge::Met;
use super::limits::Asked;
use super::{BURST, Scratch, Stages, set_bits};
use crate::challenge::reply::{Reply, Way};
use crate::challenge::{Answer, sequence};
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
        let cookies = self.cookies(tables, which, packets, now);
        for at in set_bits(which) {
            let Self { limits, scratch, .. } = self;
            let Scratch { parsed, places, challenge_keys, replies, .. } = &mut **scratch;
            let (Some(Some(found)), Some(Some(place))) = (met.filters.get(at), places.get(at)) else { continue };
            let (Some(packet), Some(lanes), Some(cookie)) = (packets.get(at), parsed.lanes.get(at), cookies.get(at))
            else {
                continue;
            };
            let (Some(known_by), Some(reply)) = (challenge_keys.get(at), replies.get_mut(at)) else { continue };
            let Action::Challenge { above_pps } = found.action else { continue };
            let layers = parsed.layers(at);
            let (plan, way) = (&tables.plan, Way::back(packet.head, &layers));
            // Labels mean something else on the way back, and come from the network and not from clients.
            if !plan.enforces(place.zone) || way == Way::BelowLabels {
                continue;
            }
            let challenge = match (layers.kind, plan.challenge(place.zone)) {
                (Kind::Tcp, Challenge::Reset) => Reply::syn_ack(*cookie, sequence(packet, &layers).wrapping_add(1)),
                (Kind::Tcp, Challenge::SafeReset) => Reply::syn_ack(0, *cookie),
                (Kind::Udp, _) if plan.challenges_dns(place.zone) && lanes.get(Lane::DstPort) == dns::PORT => {
                    Reply::Truncated
                }
                _ => continue,
            };
            match limits.challenge(found.counter, above_pps, *known_by, lanes, now) {
                Asked::No => {}
                Asked::Yes if way == Way::Open && challenge.is_possible(packet.head, &layers) => {
                    *reply = challenge;
                    if let Some(verdict) = verdicts.get_mut(at) {
                        *verdict = Verdict::Reply;
                    }
                }
                Asked::Yes | Asked::TooMuch => self.condemn(tables, at, Reason::Challenge, now, verdicts),
            }
        }
    }

    /// The cookies of SYNs that meet a challenge.
    #[inline]
    fn cookies(&mut self, tables: &Tables, which: u64, packets: &[Packet<'_>], now: Timestamp) -> [u32; BURST] {
        let Self { isa, challenges, scratch, .. } = self;
        let Scratch { parsed, keys, places, .. } = &**scratch;
        let mut firsts = [None; BURST];
        for at in set_bits(which & parsed.marks.tcp) {
            let (Some(packet), Some(Some(place))) = (packets.get(at), places.get(at)) else { continue };
            if let (Challenge::Reset, Some(first)) = (tables.plan.challenge(place.zone), firsts.get_mut(at)) {
                *first = Some(sequence(packet, &parsed.layers(at)));
            }
        }
        challenges.cookies(*isa, keys, &firsts, now)
    }

    /// Looks among segments that no connection explains, those whose bit is set in `strangers`, for answers to challenges.
    /// Who answers has completed a handshake, as far as anybody could.
    #[inline(never)]
    pub(super) fn hear_answers(&mut self, strangers: u64, packets: &[Packet<'_>], now: Timestamp) {
        let Self { link, limits, challenges, scratch, .. } = self;
        let Scratch { parsed, keys, places, judged, replies, answers, .. } = &mut **scratch;
        for at in set_bits(strangers) {
            let (Some(packet), Some(lanes), Some(key)) = (packets.get(at), parsed.lanes.get(at), keys.get(at)) else {
                continue;
            };
            let (Some(Some(place)), Some(judged)) = (places.get(at), judged.get_mut(at)) else { continue };
            let Some(answer) = challenges.answer(packet, lanes, &parsed.layers(at), *key, now) else { continue };
            // A cookie is good for a while: who sends one again and again has not completed that many handshakes.
            if !limits.may_answer(lanes, now) {
                continue;
            }
            *judged = Judged { step: Some(Step::Handshake), ..Judged::of(Role::Established) };
            link.counters.went_on(place.slot, Step::Handshake);
            limits.verify(lanes, now);
            link.notice(Notice::Proven(*key));
            if let (Answer::Acknowledged(reset), Some(reply)) = (answer, replies.get_mut(at)) {
                *reply = reset;
                *answers |= 1 << at;
            }
        }
    }
}
