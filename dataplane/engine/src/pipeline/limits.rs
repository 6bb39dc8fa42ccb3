//! Rates: those of the action limit, per target (which workers share), per source and per source prefix; and those that bound
//! what is answered. And which sources are blocked.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use levee_api::filter::Per;
use levee_api::time::Timestamp;

use super::{BURST, set_bits};
use crate::filter::limiter::Rate;
use crate::filter::shares::Shares;
use crate::filter::{Limiters, SourceLimiters};
use crate::packet::Lanes;
use crate::target::keyed::Keyed;
use crate::target::source_marks::SourceMarks;

/// Sources that a worker can limit, and verified and blocked sources that it remembers: 8 MiB each.
const SOURCES: usize = 1 << 20;
/// How long a source stays verified: what a connection that is idle is remembered for, and a while.
const VERIFIED: Duration = Duration::from_secs(600);
/// How long a source is blocked after it has matched as often as its filter says. Not renewed by what it sends meanwhile: many
/// may be behind one address.
const BLOCKED: Duration = Duration::from_secs(60);
/// Matches of a source are counted over this time.
const MATCHES: Duration = Duration::from_secs(10);
/// A source with more requests than this in that time repeats itself.
const REQUESTS: u32 = 2;
/// A verified source is exempt from a shared limit up to this part of it, and at least [`OWN_PPS`].
const OWN_PART: u32 = 16;
const OWN_PPS: u32 = 10;

/// Packets per second of a verified source that pass a challenge: a network behind one address.
const VERIFIED_PPS: u32 = 100;
/// Answers per second to a source prefix, over all targets: who forges its addresses can have that much sent to it.
const ANSWERS_PPS: u32 = 256;
/// Packets above its limit that a source may lose in ten seconds: so many times what it may send in one, and a window that was
/// under way.
const UNYIELDING: u32 = 5;
const LEAST_UNYIELDING: u32 = 1_024;
/// What a limit per target lets pass at once at least.
const SHARED_BURST: u32 = 3;
/// What a source inside conversations may send at once: an upload of some tens of kilobytes.
const PATIENT_BURST: u32 = 64;
/// Tell the limiters of answers, and of requests, from those of filters, which are indices.
const ANSWERS: u32 = u32::MAX;
const REPEATS: u32 = u32::MAX - 1;
const COOKIES: u32 = u32::MAX - 2;
const STRAYS: u32 = u32::MAX - 3;
/// Segments of no known connection per second of a verified source that pass what drops those of others, and at once: what a client sends on
/// one that was idle for too long, until the server answers and it is known again.
const STRAYS_PPS: u32 = 2;
const STRAYS_BURST: u32 = 8;
/// Answers to challenges per second of one source, and at once: a browser opens a handful of connections.
const COOKIES_PPS: u32 = 16;
const COOKIES_BURST: u32 = 64;

/// What limits say of a packet that meets a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// It passes.
    No,
    /// It is to be answered.
    Yes,
    /// So much has been answered to its source prefix that it is not.
    TooMuch,
}

/// What the actions limit and challenge need.
pub(super) struct Limits {
    keyed: Keyed,
    workers: NonZeroU32,
    shared: Limiters,
    sources: SourceLimiters,
    verified: SourceMarks,
    blocked: SourceMarks,
    /// Answers to a source prefix: to divide for each packet would cost more than the rest.
    answers: Rate,
}

/// A limit that a packet meets.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    /// Index of the filter's limiter.
    pub(super) limiter: u32,
    pub(super) pps: u32,
    pub(super) per: Per,
    /// Packets at once.
    pub(super) burst: u32,
    /// Who goes on although it loses what is above is blocked.
    pub(super) must_yield: bool,
}

impl Limit {
    /// A limit that a tenth of a second's packets may come at once of. What all share has next to no burst beyond that: it is
    /// what the beginning of a pulse gets past a filter that waits.
    pub(super) fn new(limiter: u32, pps: u32, per: Per) -> Self {
        let burst = if per == Per::Target { (pps / 10).max(SHARED_BURST) } else { burst_of(pps) };
        Self { limiter, pps, per, burst, must_yield: false }
    }

    /// The same for sources inside conversations, who send what they have in one go: a second's packets.
    #[must_use]
    pub(super) fn patient(self) -> Self {
        Self { burst: self.pps.max(PATIENT_BURST), must_yield: true, ..self }
    }
}

impl Limits {
    /// Limits of one of so many workers, that has met nothing yet.
    pub(super) fn new(keyed: Keyed, workers: NonZeroU32, shares: Arc<Shares>) -> Self {
        Self {
            keyed,
            workers,
            shared: Limiters::shared(shares),
            sources: SourceLimiters::new(SOURCES),
            verified: SourceMarks::new(SOURCES, VERIFIED),
            blocked: SourceMarks::new(SOURCES, BLOCKED),
            answers: Rate::of(ANSWERS_PPS, ANSWERS_PPS).shared_by(workers),
        }
    }

    /// The source of a packet has shown its target that its address is its own.
    pub(super) fn verify(&mut self, lanes: &Lanes, now: Timestamp) {
        self.verified.insert(self.keyed.pair(lanes), now);
    }

    /// Counts an answer to a challenge; false when its source sends more of them than clients do. `opens`: its connection goes on.
    pub(super) fn may_answer(&mut self, opens: bool, lanes: &Lanes, now: Timestamp) -> bool {
        let key = self.keyed.pair_for(COOKIES, lanes);
        let pps = if opens { VERIFIED_PPS } else { COOKIES_PPS };
        self.sources.allow(key, Rate::of(pps, pps.max(COOKIES_BURST)), now)
    }

    /// True when a source that is verified sends a segment of no known connection, and not many of them.
    #[cold]
    pub(super) fn spares(&mut self, lanes: &Lanes, now: Timestamp) -> bool {
        self.verified.contains(self.keyed.pair(lanes), now)
            && self.sources.allow(self.keyed.pair_for(STRAYS, lanes), Rate::of(STRAYS_PPS, STRAYS_BURST), now)
    }

    /// Counts a request; true when its source has sent more of them to its target than most do.
    pub(super) fn repeats(&mut self, lanes: &Lanes, now: Timestamp) -> bool {
        let key = self.keyed.pair_for(REPEATS, lanes);
        !self.sources.allow(key, Rate::over(REQUESTS, MATCHES), now)
    }

    /// Counts a packet that matches a filter; true when that is the `after`th of its source, which is blocked then. `uses`: it is
    /// the request of a connection whose SYN was counted.
    pub(super) fn block(&mut self, filter: u32, after: u8, uses: bool, lanes: &Lanes, now: Timestamp) -> bool {
        let key = self.keyed.pair_for(filter, lanes);
        let allowed = if after == 0 { REQUESTS } else { u32::from(after) - 1 };
        if uses {
            self.sources.take_back(key, Rate::over(allowed.max(1), MATCHES), now);
            return false;
        }
        if allowed > 0 && self.sources.allow(key, Rate::over(allowed, MATCHES), now) || after == 0 {
            return false;
        }
        self.blocked.insert(self.keyed.pair(lanes), now);
        true
    }

    /// Counts a packet of a source inside its conversations that was above its limit, and blocks who goes on regardless: whoever
    /// loses so much and is a client sends less.
    #[cold]
    pub(super) fn has_to_yield(&mut self, Limit { limiter, pps, .. }: Limit, lanes: &Lanes, now: Timestamp) {
        let most = pps.saturating_mul(UNYIELDING).max(LEAST_UNYIELDING);
        if !self.sources.allow(self.keyed.pair_for(limiter, lanes), Rate::over(most, MATCHES), now) {
            self.blocked.insert(self.keyed.pair(lanes), now);
        }
    }

    /// False when no source is blocked.
    #[inline]
    pub(super) fn may_block(&self, now: Timestamp) -> bool {
        self.blocked.may_contain_any(now)
    }

    /// Of the packets whose bit is set those whose source is blocked.
    #[cold]
    pub(super) fn blocked(&self, which: u64, lanes: &[Lanes; BURST], now: Timestamp) -> u64 {
        let mut keys = [0; BURST];
        for at in set_bits(which) {
            if let (Some(key), Some(lanes)) = (keys.get_mut(at), lanes.get(at)) {
                *key = self.keyed.pair(lanes);
                self.blocked.prefetch(*key);
            }
        }
        let mut found = 0;
        for at in set_bits(which) {
            let is_blocked = keys.get(at).is_some_and(|key| self.blocked.contains(*key, now));
            found |= u64::from(is_blocked) << at;
        }
        found
    }

    /// The key by which a limit knows a packet: to be given to [`Self::allow`], which reads what this asks for.
    #[inline]
    pub(super) fn key(&self, Limit { limiter, per, .. }: Limit, lanes: &Lanes) -> u64 {
        match per {
            Per::Target => {
                let key = self.keyed.pair(lanes);
                self.shared.prefetch(limiter);
                self.verified.prefetch(key);
                key
            }
            Per::Source | Per::SourcePrefix => {
                let key = self.keyed.source(limiter, per, lanes);
                self.sources.prefetch(key);
                key
            }
        }
    }

    /// True when a packet is within its limit. A verified source that others have left nothing of a shared limit has a
    /// rate of its own, so that a flood of forged sources does not stop it, and it cannot be the flood.
    #[inline]
    pub(super) fn allow(&mut self, limit: Limit, key: u64, lanes: &Lanes, now: Timestamp) -> bool {
        let Limit { limiter, pps, per, burst, .. } = limit;
        match per {
            Per::Target => {
                self.shared.allow(limiter, pps, burst, now)
                    || self.verified.contains(key, now) && self.allow_own(limiter, pps, lanes, now)
            }
            Per::Source => self.sources.allow(key, Rate::of(pps, burst), now),
            Per::SourcePrefix => self.sources.allow(key, Rate::of(pps, burst).shared_by(self.workers), now),
        }
    }

    /// The keys by which a packet that meets a challenge is known: of its source, and of its source prefix.
    #[inline]
    pub(super) fn challenge_keys(&self, lanes: &Lanes) -> [u64; 2] {
        let keys = [self.keyed.pair(lanes), self.keyed.source(ANSWERS, Per::SourcePrefix, lanes)];
        let [pair, prefix] = keys;
        self.verified.prefetch(pair);
        self.sources.prefetch(prefix);
        keys
    }

    /// Whether a packet is to be answered. `above_pps` of those that meet the filter pass in any case.
    #[inline]
    pub(super) fn challenge(
        &mut self,
        filter: u32,
        above_pps: u32,
        [pair, prefix]: [u64; 2],
        lanes: &Lanes,
        now: Timestamp,
    ) -> Asked {
        if above_pps > 0 && self.shared.allow(filter, above_pps, unasked_at_once(above_pps), now) {
            return Asked::No;
        }
        if self.verified.contains(pair, now) {
            let own = self.keyed.source(filter, Per::Source, lanes);
            if self.sources.allow(own, Rate::of(VERIFIED_PPS, VERIFIED_PPS), now) {
                return Asked::No;
            }
        }
        if self.sources.allow(prefix, self.answers, now) { Asked::Yes } else { Asked::TooMuch }
    }

    #[cold]
    fn allow_own(&mut self, limiter: u32, pps: u32, lanes: &Lanes, now: Timestamp) -> bool {
        let own = (pps / OWN_PART).max(OWN_PPS).min(pps);
        self.sources.allow(self.keyed.source(limiter, Per::Source, lanes), Rate::of(own, burst_of(own)), now)
    }
}

/// Forty milliseconds at the rate, at least eight packets: what an attack that changes its shape gets through before it is
/// asked. Who is asked and legitimate loses nothing, so that less is enough than for a limit.
fn unasked_at_once(pps: u32) -> u32 {
    (pps / 25).max(8)
}

/// A tenth of a second at the rate, at least eight packets.
fn burst_of(pps: u32) -> u32 {
    (pps / 10).max(8)
}
