//! SYNs that meet a challenge, and the segments that answer one.

use levee_api::filter::Action;
use levee_api::role::Role;
use levee_api::time::Timestamp;

use super::judge::Met;
use super::limits::Asked;
use super::{Scratch, Stages, set_bits};
use crate::challenge::Answer;
use crate::challenge::reply::Way;
use crate::link::Notice;
use crate::packet::Packet;
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
        for at in set_bits(which) {
            let Self { limits, challenges, scratch, .. } = self;
            let Scratch { parsed, keys, places, challenge_keys, replies, .. } = &mut **scratch;
            let (Some(Some(found)), Some(Some(place))) = (met.filters.get(at), places.get(at)) else { continue };
            let (Some(packet), Some(lanes), Some(key)) = (packets.get(at), parsed.lanes.get(at), keys.get(at)) else {
                continue;
            };
            let (Some(known_by), Some(reply)) = (challenge_keys.get(at), replies.get_mut(at)) else { continue };
            let Action::Challenge { above_pps } = found.action else { continue };
            let (layers, how) = (parsed.layers(at), tables.plan.challenge(place.zone));
            let way = Way::back(packet.head, &layers);
            // Labels mean something else on the way back, and come from the network and not from clients.
            if !tables.plan.enforces(place.zone) || way == Way::BelowLabels {
                continue;
            }
            match limits.challenge(found.counter, above_pps, *known_by, lanes, now) {
                Asked::No => continue,
                Asked::Yes if way == Way::Open => {
                    let Some(asked) = challenges.ask(how, packet, &layers, *key, now) else { continue };
                    *reply = asked;
                    if let Some(verdict) = verdicts.get_mut(at) {
                        *verdict = Verdict::Reply;
                    }
                }
                Asked::Yes | Asked::TooMuch => self.condemn(tables, at, Reason::Challenge, now, verdicts),
            }
        }
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
