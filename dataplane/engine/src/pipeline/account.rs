//! What packets are in their conversations: the role of those from outside, with the counters of their hosts, and what those from
//! inside teach.

use levee_api::lane::{Lane, TcpFlags};
use levee_api::role::Role;
use levee_api::time::Timestamp;

use super::{BURST, Scratch, Stages, set_bits};
use crate::link::Notice;
use crate::packet::{Kind, Packet};
use crate::tables::Tables;
use crate::target::conversation::{Judged, Step, stranger_tcp, stranger_udp};

impl Stages {
    /// Role and counters of inbound packets.
    #[inline(never)]
    pub(super) fn account(&mut self, tables: &Tables, packets: &[Packet<'_>], now: Timestamp) {
        let Self { link, limits, conversations, scratch, .. } = self;
        let plan = &tables.plan;
        let Scratch { parsed, keys, maybe_known, places, judged, answers, blocked, .. } = &mut **scratch;
        let marks = parsed.marks;
        let located = places
            .iter()
            .take(packets.len())
            .enumerate()
            .fold(0, |bits, (at, place)| bits | u64::from(place.is_some()) << at);
        // Who is blocked has no role: what it does is no reason for further measures.
        *blocked = 0;
        if limits.may_block(now) {
            let is_enforced = |at: &usize| places.get(*at).copied().flatten().is_some_and(|at| plan.enforces(at.zone));
            let enforced = set_bits(located).filter(is_enforced).fold(0, |bits, at| bits | 1 << at);
            *blocked = limits.blocked(enforced, &parsed.lanes, now);
        }
        let heard = located & !*blocked;
        let whole = heard & !marks.fragments;
        let (tcp, udp) = (whole & marks.tcp, whole & marks.udp);

        // What no conversation explains has its role from its headers alone: in a flood nearly everything.
        let mut opening = 0;
        for (at, (pair, judged)) in parsed.columns.of(Lane::TcpFlags).iter().zip(&mut *judged).enumerate() {
            let flags = TcpFlags::from_bits_retain(u16::try_from(pair >> 16).unwrap_or(0));
            *judged = Judged::of(stranger_tcp(flags));
            opening |= u64::from(judged.role == Role::Syn) << at;
        }
        let known = conversations.known(*maybe_known & (tcp & !opening | udp), keys, now);
        *answers = 0;
        for at in set_bits(udp & !known) {
            let (Some(lanes), Some(Some(place)), Some(judged)) =
                (parsed.lanes.get(at), places.get(at), judged.get_mut(at))
            else {
                continue;
            };
            *judged = Judged::of(stranger_udp(lanes, plan.serves_udp(place.zone, lanes.get(Lane::DstPort))));
        }
        for at in set_bits(*blocked) {
            judged.get_mut(at).into_iter().for_each(|judged| *judged = Judged::of(Role::Established));
        }
        for at in set_bits(heard & !(tcp | udp) | known) {
            let (Some(lanes), Some(key)) = (parsed.lanes.get(at), keys.get(at)) else { continue };
            let (Some(packet), Some(Some(place)), Some(judged)) = (packets.get(at), places.get(at), judged.get_mut(at))
            else {
                continue;
            };
            let mut layers = parsed.layers(at);
            let served = layers.kind == Kind::Udp && plan.serves_udp(place.zone, lanes.get(Lane::DstPort));
            *judged = conversations.inbound(at, packet, lanes, &mut layers, *key, served, now);
            if judged.role == Role::Request && limits.repeats(lanes, now) {
                link.counters.repeated(place.slot);
            }
            if let Some(step) = judged.step {
                link.counters.went_on(place.slot, step);
                match step {
                    Step::Handshake => {
                        limits.verify(lanes, now);
                        link.notice(Notice::Proven(*key));
                    }
                    Step::Continued => {
                        link.notice(Notice::Continued(*key));
                    }
                    Step::Second => {}
                }
            }
            if marks.fragments >> at & 1 != 0 {
                parsed.set_kind(at, layers.kind);
            }
        }
        self.scratch.strangers = tcp & !opening & !known;
        if self.challenges.are_open(now) || self.scratch.proxied != 0 {
            self.hear_answers(self.scratch.strangers, packets, now);
        }
        self.mark_forged(udp & !known, packets);
        let Self { link, scratch, epoch, .. } = self;
        let Scratch { places, judged, .. } = &**scratch;
        let counters = link.counters.view();
        let (mut dirty, mut dirty_count) = ([0; BURST], 0);
        for at in set_bits(located) {
            let (Some(packet), Some(Some(place)), Some(judged)) = (packets.get(at), places.get(at), judged.get(at))
            else {
                continue;
            };
            let is_first = counters.arrival(place.slot, judged.role, packet.wire_len, *epoch);
            if let Some(next) = dirty.get_mut(dirty_count) {
                *next = place.slot;
            }
            dirty_count += usize::from(is_first);
        }
        link.dirty(dirty.get(..dirty_count).unwrap_or_default());
    }

    /// Outbound packets create the memory that roles need.
    #[inline(never)]
    pub(super) fn learn(&mut self, tables: &Tables, packets: &[Packet<'_>], now: Timestamp) {
        let Self { link, conversations, scratch, epoch, .. } = self;
        let plan = &tables.plan;
        let Scratch { parsed, keys, places, .. } = &**scratch;
        let known = parsed.lanes.iter().zip(keys).zip(places);
        for (at, (packet, ((lanes, key), place))) in packets.iter().zip(known).enumerate() {
            let layers = parsed.layers(at);
            if matches!(layers.kind, Kind::Malformed { .. }) {
                continue;
            }
            let Some(place) = place else { continue };
            let served = layers.kind == Kind::Udp && plan.serves_udp(place.zone, lanes.get(Lane::SrcPort));
            let learned = conversations.outbound(packet, lanes, &layers, *key, served, now);
            link.counters.outbound(place.slot);
            if learned.answer {
                if link.counters.answer(place.slot, *epoch) {
                    link.dirty(&[place.slot]);
                }
                link.notice(Notice::Proven(learned.conversation));
            }
        }
    }
}
