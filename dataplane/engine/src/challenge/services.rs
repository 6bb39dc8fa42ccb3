//! What servers offer in their SYN-ACKs: so that who answers in their place does not offer more, or less.
//!
//! Learned from what inside sends, so that nobody outside can fill the table. A bucket is one cache line of four services; in a full
//! one the service that has been silent for longest makes room.

use std::time::Duration;

use levee_api::time::Timestamp;

use super::options::{MOST_SCALE, Options};
use crate::isa::prefetch_at;

/// Services that a worker remembers, 16 bytes each.
const SERVICES: usize = 1 << 12;
const WAYS: usize = 4;
/// A service that nobody has connected to for a day is unknown.
const LIFETIME: Duration = Duration::from_secs(24 * 3_600);
/// Time unit: 2^30 ns, about a second.
const UNIT_SHIFT: u32 = 30;
/// Stands for no window scale.
const NO_SCALE: u8 = MOST_SCALE + 1;
const SACK: u8 = 1;
const STAMPS: u8 = 2;

#[derive(Clone, Copy, Debug, Default)]
struct Service {
    tag: u32,
    /// Until when it is known; zero: it never was.
    until: u32,
    mss: u16,
    scale: u8,
    /// Whether it has agreed to selective acknowledgements, and to timestamps.
    agrees: u8,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Bucket([Service; WAYS]);

/// Services of one worker.
#[derive(Debug)]
pub struct Services(Box<[Bucket]>);

impl Default for Services {
    fn default() -> Self {
        Self(vec![Bucket::default(); SERVICES / WAYS].into_boxed_slice())
    }
}

impl Services {
    /// Asks for what [`Self::offer`] reads.
    #[inline]
    pub fn prefetch(&self, key: u64) {
        prefetch_at(&self.0, self.at(key));
    }

    /// What the service of a key offers, without values of timestamps; none if it is not known.
    #[inline]
    pub fn offer(&self, key: u64, now: Timestamp) -> Option<Agreed> {
        let Bucket(services) = self.0.get(self.at(key))?;
        let service = services.iter().find(|service| service.tag == tag(key) && service.until > unit(now))?;
        let scale = (service.scale <= MOST_SCALE).then_some(service.scale);
        let Service { mss, agrees, .. } = *service;
        Some(Agreed { mss, scale, sack: agrees & SACK != 0, stamps: agrees & STAMPS != 0 })
    }

    /// The service of a key has answered a SYN with these options. `asked`: what that SYN offered, if that is known: what is missing
    /// then is not offered any more. Else it may have been the client that lacked it. The scale stays what it was: behind one
    /// address may be servers with different ones, and who was told one is to be told the same again.
    pub fn learn(&mut self, key: u64, options: &Options, asked: Option<&Options>, now: Timestamp) {
        let (at, tag) = (self.at(key), tag(key));
        let Some(Bucket(services)) = self.0.get_mut(at) else { return };
        let is_own = |service: &Service| service.tag == tag && service.until > unit(now);
        let Some(service) = services.iter_mut().min_by_key(|service| (!is_own(service), service.until)) else { return };
        if !is_own(service) {
            *service = Service { tag, until: 0, mss: Agreed::UNKNOWN.mss, scale: NO_SCALE, agrees: 0 };
        }
        service.until = unit(now + LIFETIME);
        if let Some(mss) = options.mss {
            service.mss = mss;
        }
        match (options.scale, asked) {
            (Some(scale), _) if service.scale == NO_SCALE => service.scale = scale,
            (None, Some(Options { scale: Some(_), .. })) => service.scale = NO_SCALE,
            _ => {}
        }
        let agreed = [(SACK, options.sack, asked.map(|asked| asked.sack))];
        let stamps = [(STAMPS, options.stamps.is_some(), asked.map(|asked| asked.stamps.is_some()))];
        for (bit, agrees, asked) in agreed.into_iter().chain(stamps) {
            match (agrees, asked) {
                (true, _) => service.agrees |= bit,
                (false, Some(true)) => service.agrees &= !bit,
                (false, _) => {}
            }
        }
    }

    fn at(&self, key: u64) -> usize {
        usize::try_from(key).unwrap_or(0) & (self.0.len() - 1)
    }
}

/// What a service is known to agree to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Its maximum segment size.
    pub mss: u16,
    /// Its window scale.
    pub scale: Option<u8>,
    /// Selective acknowledgements.
    pub sack: bool,
    /// Timestamps.
    pub stamps: bool,
}

impl Agreed {
    /// What is offered in the place of a service that is not known: nothing that it might not keep, and a size that fits the usual
    /// tunnels.
    pub const UNKNOWN: Self = Self { mss: 1360, scale: None, sack: false, stamps: false };
}

fn unit(at: Timestamp) -> u32 {
    u32::try_from(at.0 >> UNIT_SHIFT & 0xffff_ffff).unwrap_or(u32::MAX)
}

fn tag(key: u64) -> u32 {
    u32::try_from(key >> 32).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::options::Stamps;
    use super::*;

    const NOW: Timestamp = Timestamp(5_000_000_000_000);
    const ALL: Options =
        Options { mss: Some(1460), scale: Some(7), sack: true, stamps: Some(Stamps { value: 1, echo: 2 }) };
    const NOTHING: Options = Options { mss: Some(1440), scale: None, sack: false, stamps: None };

    #[test]
    fn what_a_client_lacks_says_nothing_about_the_service() {
        let mut services = Services::default();
        assert_eq!(services.offer(1 << 32, NOW), None);
        services.learn(1 << 32, &ALL, None, NOW);
        services.learn(1 << 32, &NOTHING, None, NOW);
        let offer = services.offer(1 << 32, NOW).unwrap();
        assert_eq!(offer, Agreed { mss: 1440, scale: Some(7), sack: true, stamps: true });
        assert_eq!(services.offer(2 << 32, NOW), None);
        services.learn(1 << 32, &NOTHING, Some(&ALL), NOW);
        let offer = services.offer(1 << 32, NOW).unwrap();
        assert_eq!(offer, Agreed { mss: 1440, scale: None, sack: false, stamps: false }, "it was asked");
        assert_eq!(services.offer(1 << 32, NOW + LIFETIME + Duration::from_secs(2)), None);
    }

    #[test]
    fn the_scale_that_was_told_stays() {
        let mut services = Services::default();
        for scale in [9, 7, 8] {
            services.learn(1, &Options { scale: Some(scale), ..ALL }, None, NOW);
            assert_eq!(services.offer(1, NOW).unwrap().scale, Some(9));
        }
    }

    #[test]
    fn in_a_full_bucket_the_one_that_was_silent_for_longest_makes_room() {
        let mut services = Services::default();
        for n in 0..=WAYS as u64 {
            services.learn(n << 32, &ALL, None, NOW + Duration::from_secs(2 * n));
        }
        let later = NOW + Duration::from_secs(60);
        let known = (0..=WAYS as u64).filter(|n| services.offer(n << 32, later).is_some()).collect::<Vec<_>>();
        assert_eq!(known, [1, 2, 3, 4]);
    }
}
