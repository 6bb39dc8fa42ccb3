//! Copies of packets: samples for the detector, and what captures keep.

use levee_api::role::Role;
use levee_api::time::Timestamp;

use super::{EVERY, Scratch, Stages};
use crate::capture::Offer;
use crate::filter::list::Compiled;
use crate::packet::{Direction, Kind, Lanes, Layers, Packet};
use crate::sample::{SAMPLE_PAYLOAD, Sample};
use crate::verdict::{Reason, Verdict};

impl Stages {
    /// Copies of headers for the detector: in peace as many as the budget allows of what conversations do not explain,
    /// of watched roles at alarmed targets (nearly) all. Of what they do explain, only a part of the bursts.
    #[inline(never)]
    pub(super) fn sample(&mut self, packets: &[Packet<'_>], now: Timestamp) {
        let Self { link, scratch, peace_left, watched_left, established_left, explained_left, lot, .. } = self;
        // A linear congruential generator (Numerical Recipes, 2nd edition, section 7.1), whose high bits are good.
        *lot = lot.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let in_peace = *lot >> (u32::BITS - EVERY.ilog2()) == 0 && *established_left > 0;
        if *peace_left == 0 && !in_peace && (*watched_left == 0 || !link.watch.is_any_watched()) {
            return;
        }
        let Scratch { parsed, keys, places, judged, reasons, .. } = &**scratch;
        let known = parsed.lanes.iter().zip(keys).zip(places).zip(judged).zip(reasons);
        for (at, (packet, ((((lanes, key), place), judged), reason))) in packets.iter().zip(known).enumerate() {
            let Some(place) = *place else { continue };
            let role = judged.role;
            let watched = link.watch.roles(place.zone).contains(role) && link.watch.is_alarmed(place);
            // No signature is looked for in what is dropped anyway; an attack of it is still to be named.
            let left_out = match role {
                Role::Established => {
                    !(watched || in_peace || *explained_left > 0) || *reason == Some(Reason::SourceBlocked)
                }
                Role::Malformed => !watched,
                _ => false,
            };
            if left_out {
                continue;
            }
            let budget = match role {
                Role::Established if watched || in_peace => &mut *established_left,
                Role::Established => &mut *explained_left,
                _ if watched => &mut *watched_left,
                _ => &mut *peace_left,
            };
            let Some(left) = budget.checked_sub(1) else { continue };
            *budget = left;
            let sample = sample_of(packet, lanes, &parsed.layers(at), now);
            // What is only challenged is looked at for a signature still: that drops it without an answer.
            let passed = reason.is_none_or(|reason| reason == Reason::Challenge);
            let is_example = role == Role::Established && !(watched || in_peace);
            let slot = if is_example { Sample::EXAMPLE } else { place.slot };
            link.sample(Sample { conversation: *key, slot, role, passed, ..sample });
        }
    }

    /// Copies of packets for captures, with what became of them.
    #[inline(never)]
    pub(super) fn capture(
        &mut self,
        found: &[Option<&Compiled>],
        wire: usize,
        direction: Direction,
        packets: &[Packet<'_>],
        now: Timestamp,
        verdicts: &[Verdict],
    ) {
        let Self { link, scratch, tap, .. } = self;
        let Scratch { parsed, places, judged, reasons, .. } = &**scratch;
        let inbound = direction == Direction::Inbound;
        let alarmed = |at: usize| places.get(at).copied().flatten().is_some_and(|place| link.watch.is_alarmed(place));
        tap.burst(packets.len(), now, link.watch.is_any_alarmed().then_some(alarmed), |at| {
            let is_judged = inbound && places.get(at).is_some_and(Option::is_some);
            let meets_filters =
                !matches!(parsed.layers(at).kind, Kind::Malformed { .. } | Kind::IcmpError | Kind::Discovery);
            Some(Offer {
                packet: *packets.get(at)?,
                at: now,
                wire: u16::try_from(wire).unwrap_or(u16::MAX),
                direction,
                verdict: *verdicts.get(at)?,
                reason: reasons.get(at).copied().flatten().filter(|_| is_judged),
                filter: found.get(at).copied().flatten().filter(|_| meets_filters).map(|entry| entry.counter),
                role: judged.get(at).filter(|_| is_judged).map(|judged| judged.role),
            })
        });
    }
}

/// What a packet looks like; what became of it is for the caller to say.
fn sample_of(packet: &Packet<'_>, lanes: &Lanes, layers: &Layers, now: Timestamp) -> Sample {
    let bytes = layers.payload(packet.head);
    let mut payload = [0; SAMPLE_PAYLOAD];
    for (to, from) in payload.iter_mut().zip(bytes) {
        *to = *from;
    }
    Sample {
        lanes: *lanes,
        payload,
        at: now,
        conversation: 0,
        slot: 0,
        role: Role::Established,
        passed: true,
        present: u8::try_from(bytes.len().min(SAMPLE_PAYLOAD)).unwrap_or(0),
    }
}
