//! Whether those who send a first packet send another: the one sign of life that shows where the return direction does not pass, and
//! for echo requests, which nobody answers for their sake.
//!
//! A forged source never comes again; a client does, within 0.4 s as a rule, and who pings does after a second. So what was first
//! heard of a moment ago, patience and 0.3 s, is compared with how many of them have been heard of since. It is read from samples:
//! of roles that are watched nearly everything is sampled. In peace less is, so that what is usual is underestimated, which is no
//! reason to take somebody for forged.
//!
//! Bounded: of more conversations than there is room for, those are followed whose keyed hash ends in zeros.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use levee_api::prefix::Prefix;
use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::detect::window::as_f32;
use crate::sample::Sample;
use crate::target::plan::destination_address;

/// Conversations that are followed at once.
const MOST: usize = 4096;
/// What began within this long before patience ends is judged together.
const SPAN: Duration = Duration::from_millis(300);
/// Clients send again because of an answer, or of its acknowledgement.
const PATIENCE: Duration = Duration::from_millis(400);
/// Every ping program waits a second unless it is told otherwise.
const PING_PATIENCE: Duration = Duration::from_millis(1_200);
/// All are remembered for as long as a sample waits to be taken for legitimate, and a little more.
const REMEMBERED: Duration = Duration::from_millis(1_200);
/// What is usual is learned from about as many.
const USUAL_OF: f32 = 2_000.0;
/// Fewer say nothing about what is usual.
const ENOUGH: f32 = 20.0;
/// Echo requests from one source within [`PING_PATIENCE`] and [`SPAN`] that nobody sends by hand: without being an administrator
/// five a second are possible, one is usual.
const INSISTENT: u32 = 9;

/// First packets of a role in a zone, and whether others followed.
#[derive(Debug)]
pub struct Returns {
    patience: Duration,
    firsts: HashMap<u64, First>,
    order: VecDeque<(Timestamp, u64)>,
    /// So many bits of a key are zero, if it is followed.
    level: u32,
    /// Of those whose time was over in peace: how many, and how many came again.
    usual: (f32, f32),
}

#[derive(Clone, Copy, Debug)]
struct First {
    at: Timestamp,
    to: IpAddr,
    /// A filter let it pass.
    passed: bool,
    packets: u32,
}

/// What is known of the senders to a target.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Who began long enough ago.
    pub began: f32,
    /// Who of them came again.
    pub again: f32,
    /// Share that usually does; none: not known.
    pub usual: Option<f32>,
    /// Packets of all who are followed.
    pub packets: f32,
    /// Those of senders that send more than people do by hand.
    pub insistent: f32,
}

impl Returns {
    /// Nobody is followed yet. None: the role's packets are not those of senders that come again.
    pub fn of(role: Role) -> Option<Self> {
        let patience = match role {
            Role::IcmpOther => PING_PATIENCE,
            Role::OutOfState | Role::UdpOpen | Role::UdpUnserved => PATIENCE,
            _ => return None,
        };
        let (firsts, order) = (HashMap::new(), VecDeque::new());
        Some(Self { patience, firsts, order, level: 0, usual: (0.0, 0.0) })
    }

    /// Takes in a sample. `peace`: the role is not under attack.
    pub fn note(&mut self, sample: &Sample, peace: bool) {
        self.forget(sample.at, peace);
        let key = sample.conversation;
        if key.trailing_zeros() < self.level {
            return;
        }
        if let Some(known) = self.firsts.get_mut(&key) {
            known.packets = known.packets.saturating_add(1);
            return;
        }
        if self.firsts.len() >= MOST {
            self.level += 1;
            let level = self.level;
            self.firsts.retain(|key, _| key.trailing_zeros() >= level);
            self.order.retain(|(_, key)| key.trailing_zeros() >= level);
            return;
        }
        let to = destination_address(&sample.lanes);
        self.firsts.insert(key, First { at: sample.at, to, passed: sample.passed, packets: 1 });
        self.order.push_back((sample.at, key));
    }

    fn forget(&mut self, now: Timestamp, peace: bool) {
        while let Some((at, key)) = self.order.front().copied() {
            if now.since(at) <= (self.patience + SPAN).max(REMEMBERED) {
                break;
            }
            self.order.pop_front();
            let Some(first) = self.firsts.remove(&key) else { continue };
            if peace {
                let (began, again) = &mut self.usual;
                if *began >= USUAL_OF {
                    (*began, *again) = (*began / 2.0, *again / 2.0);
                }
                *began += 1.0;
                *again += if first.packets > 1 { 1.0 } else { 0.0 };
            }
        }
        if self.firsts.len() < MOST / 16 {
            self.level = self.level.saturating_sub(1);
        }
    }

    /// True when a sender has come again, and not more often than people do.
    pub fn proves(&self, conversation: u64) -> bool {
        let insistent = if self.patience > PATIENCE { INSISTENT } else { u32::MAX };
        self.firsts.get(&conversation).is_some_and(|first| (2..insistent).contains(&first.packets))
    }

    /// What those did that sent a first packet to a target. `passed`: only those whom filters let pass.
    pub fn counts(&self, to: &Prefix, passed: bool, now: Timestamp) -> Counts {
        let (began, again) = self.usual;
        let usual = (began >= ENOUGH).then(|| again / began);
        let theirs = self.firsts.values().filter(|first| (first.passed || !passed) && to.contains(first.to));
        theirs.fold(Counts { usual, ..Counts::default() }, |mut sum, first| {
            let age = now.since(first.at);
            if age > self.patience + SPAN {
                return sum;
            }
            sum.packets += as_f32(first.packets);
            if first.packets >= INSISTENT {
                sum.insistent += as_f32(first.packets);
            }
            if age > self.patience {
                sum.began += 1.0;
                sum.again += if first.packets > 1 { 1.0 } else { 0.0 };
            }
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Lanes;
    use crate::sample::SAMPLE_PAYLOAD;

    fn sample(conversation: u64, at: Timestamp) -> Sample {
        let mut lanes = Lanes::default();
        (lanes.0[14], lanes.0[15]) = (0xcb00, 0x710a);
        let payload = [0; SAMPLE_PAYLOAD];
        Sample { lanes, payload, at, conversation, slot: 0, role: Role::OutOfState, passed: true, present: 0 }
    }

    fn target() -> Prefix {
        "203.0.113.10/32".parse().unwrap()
    }

    /// Senders that begin each millisecond, and send `packets` with `gap` between them, for so long.
    fn senders(role: Role, packets: u64, gap: Duration, length_ms: u64) -> (Returns, Timestamp) {
        let mut returns = Returns::of(role).unwrap();
        let now = Timestamp(1_000_000_000_000);
        let gap = u64::try_from(gap.as_millis()).unwrap();
        let mut due: Vec<(u64, u64)> =
            (0..length_ms).flat_map(|key| (0..packets).map(move |n| (key + n * gap, key))).collect();
        due.retain(|(at, _)| *at < length_ms);
        due.sort_unstable();
        for (at, key) in due {
            returns.note(&sample(key, now + Duration::from_millis(at)), true);
        }
        (returns, now + Duration::from_millis(length_ms))
    }

    #[test]
    fn clients_come_again_and_forged_sources_do_not() {
        let (clients, now) = senders(Role::OutOfState, 3, Duration::from_millis(150), 2_000);
        let Counts { began, again, usual, .. } = clients.counts(&target(), false, now);
        assert!(began > 200.0 && again == began && usual == Some(1.0));
        assert!(clients.proves(1_500) && !clients.proves(1_999) && !clients.proves(10));
        let (forged, now) = senders(Role::OutOfState, 1, Duration::ZERO, 2_000);
        let Counts { began, again, .. } = forged.counts(&target(), false, now);
        assert!(began > 200.0 && again == 0.0);
        assert_eq!(forged.counts(&"203.0.113.11/32".parse().unwrap(), false, now).began, 0.0, "another target");
    }

    #[test]
    fn a_second_between_echo_requests_is_no_absence_and_many_are_no_people() {
        let (people, now) = senders(Role::IcmpOther, 4, Duration::from_secs(1), 3_000);
        let Counts { began, again, insistent, .. } = people.counts(&target(), false, now);
        assert!(began > 200.0 && again == began && insistent == 0.0);
        let (program, now) = senders(Role::IcmpOther, 1_000, Duration::from_millis(20), 3_000);
        let Counts { packets, insistent, .. } = program.counts(&target(), false, now);
        assert!(insistent > packets / 2.0);
    }

    #[test]
    fn it_never_grows_beyond_its_room_and_still_tells() {
        let mut returns = Returns::of(Role::UdpOpen).unwrap();
        let start = Timestamp(1_000_000_000_000);
        for n in 0..100_000_u64 {
            let at = start + Duration::from_micros(10 * n);
            let key = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            returns.note(&sample(key ^ key >> 32, at), false);
            assert!(returns.firsts.len() <= MOST && returns.order.len() <= MOST);
        }
        let counts = returns.counts(&target(), false, start + Duration::from_secs(1));
        assert!(counts.began > 100.0 && counts.again < counts.began / 10.0, "{counts:?}");
        assert_eq!(counts.usual, None, "what an alarm follows is no habit");
    }
}
