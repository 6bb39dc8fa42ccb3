//! What is to be sent, to whom, when: pure, so that it runs in the simulation as it runs live.
//!
//! A message is stored with the change that it tells of, in one batch, so that neither is without the other; it stays in
//! the store until the receiver has taken it or it was given up. Per channel one message is under way at a time, the
//! oldest first but for what somebody has to decide; within an incident a message waits for those before it, while other incidents go past one that is being
//! tried again. A receiver may get a message twice (the process was killed after the sending), and knows it by its id.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::time::Duration;

use siphasher::sip::SipHasher13;

use super::{DeliveryError, Ended, How, Message, MessageId};
use crate::clock::Now;
use crate::ledger::IncidentId;
use crate::store::Write;

/// What a channel takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelLimits {
    /// Messages a minute at most; more wait.
    pub max_per_minute: u32,
}

/// First pause after a failure; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause of our own.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Longest pause that a receiver may ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);
/// A message that is older than this helps nobody any more.
const OLDEST: Duration = Duration::from_secs(24 * 60 * 60);
/// A channel that takes nothing after so many attempts is a trouble.
const FAILURES_TOLD: u32 = 3;
/// More messages that wait for one channel than this are given up, the oldest first: the disk is not theirs to fill.
const MOST_WAITING: usize = 1_000;

/// The messages that were not sent yet.
#[derive(Debug)]
pub struct Outbox {
    seed: u64,
    channels: BTreeMap<String, Channel>,
}

#[derive(Debug)]
struct Channel {
    limits: ChannelLimits,
    /// In the order in which they were written down.
    waiting: BTreeMap<Place, Message>,
    under_way: Option<Place>,
    /// Messages that may be sent at once: a part of what a minute allows, refilled as time passes.
    tokens: f64,
    counted_at: Option<Now>,
    /// It said that it takes no messages any more.
    gone: Option<String>,
    delivered: u64,
    failed: u64,
    given_up: u64,
    /// Attempts that failed since the last message that was taken, and why the last did.
    in_a_row: u32,
    error: Option<String>,
}

/// By time, and by incident and number among those of one moment.
type Place = (u64, Option<u64>, u64, MessageId);

/// How one channel is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelView {
    /// Its name.
    pub name: String,
    /// Messages that wait.
    pub waiting: usize,
    /// Messages that its receiver has taken since the start.
    pub delivered: u64,
    /// Attempts since the start that failed.
    pub failed: u64,
    /// Messages that were given up since the start.
    pub given_up: u64,
    /// Why nothing comes through, as it has been for some attempts.
    pub trouble: Option<String>,
}

/// What became of a message, to be stored and told.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Concluded {
    /// To be stored.
    pub writes: Vec<Write>,
    /// Messages that were given up, with the reason: to be told where it is not lost.
    pub given_up: Vec<(Message, String)>,
}

impl Outbox {
    /// An outbox for channels; `seed` only spreads pauses.
    pub fn new(channels: impl IntoIterator<Item = (String, ChannelLimits)>, seed: u64) -> Self {
        let channels = channels.into_iter().map(|(name, limits)| (name, Channel::new(limits))).collect();
        Self { seed, channels }
    }

    /// Takes the channels of another configuration. Messages for a channel that is gone are given up at the next
    /// [`Outbox::due`].
    pub fn reconfigure(&mut self, channels: impl IntoIterator<Item = (String, ChannelLimits)>) {
        let mut before = std::mem::take(&mut self.channels);
        for (name, limits) in channels {
            let mut channel = before.remove(&name).unwrap_or_else(|| Channel::new(limits));
            // The operator has had a look: a receiver that was gone is tried again.
            (channel.limits, channel.gone) = (limits, None);
            self.channels.insert(name, channel);
        }
        for (name, mut channel) in before {
            if !channel.waiting.is_empty() {
                channel.gone = Some("it is no longer in the configuration".to_owned());
                self.channels.insert(name, channel);
            }
        }
    }

    /// Takes a message that is stored, or will be before it is sent. One with an id that waits already is the same, one
    /// that has ended is not sent again.
    pub fn add(&mut self, message: Message) {
        if message.ended.is_some() {
            return;
        }
        let channel = self.channels.entry(message.channel.clone()).or_insert_with(|| Channel {
            gone: Some("there is no such channel in the configuration".to_owned()),
            ..Channel::new(ChannelLimits { max_per_minute: 1 })
        });
        if channel.waiting.values().all(|waiting| waiting.id != message.id) {
            channel.waiting.insert(place(&message), message);
        }
    }

    /// The messages to send now, at most one per channel; each is under way until [`Outbox::sent`] or
    /// [`Outbox::failed`]. Gives up what is too old or too much.
    pub fn due(&mut self, now: &Now) -> (Vec<Message>, Concluded) {
        let mut concluded = Concluded::default();
        let mut due = Vec::new();
        for channel in self.channels.values_mut() {
            channel.give_up(now, &mut concluded);
            due.extend(channel.next(now));
        }
        (due, concluded)
    }

    /// Time until [`Outbox::due`] may have something, if nothing else happens; none: nothing waits.
    pub fn next_due(&self, now: &Now) -> Option<Duration> {
        self.channels.values().filter_map(|channel| channel.next_due(now)).min()
    }

    /// The receiver has taken a message.
    pub fn sent(&mut self, id: &MessageId, now: &Now) -> Concluded {
        let mut concluded = Concluded::default();
        if let Some((channel, message)) = self.take(id) {
            channel.delivered = channel.delivered.saturating_add(1);
            (channel.in_a_row, channel.error) = (0, None);
            concluded.end(message, How::Delivered, now);
        }
        concluded
    }

    /// The receiver has not taken a message.
    pub fn failed(&mut self, id: &MessageId, error: &DeliveryError, now: &Now) -> Concluded {
        let mut concluded = Concluded::default();
        let seed = self.seed;
        let Some(channel) = self.channels.values_mut().find(|channel| channel.is_under_way(id)) else {
            return concluded;
        };
        let Some(place) = channel.under_way.take() else { return concluded };
        channel.failed = channel.failed.saturating_add(1);
        channel.in_a_row = channel.in_a_row.saturating_add(1);
        channel.error = Some(error.to_string());
        match error {
            DeliveryError::Retryable { reason, retry_after } => {
                if let Some(message) = channel.waiting.get_mut(&place) {
                    message.failures = message.failures.saturating_add(1);
                    message.error = Some(reason.clone());
                    message.retry_at = Some(now.after(pause(seed, message, *retry_after)));
                    concluded.writes.push(Write::PutMessage(message.clone()));
                }
            }
            DeliveryError::Permanent { reason } => {
                if let Some(message) = channel.waiting.remove(&place) {
                    channel.given_up = channel.given_up.saturating_add(1);
                    concluded.give_up(message, reason.clone(), now);
                }
            }
            DeliveryError::Gone { reason } => {
                channel.gone = Some(reason.clone());
                channel.give_up(now, &mut concluded);
            }
        }
        concluded
    }

    /// How each channel is.
    pub fn channels(&self) -> impl Iterator<Item = ChannelView> {
        self.channels.iter().map(|(name, channel)| ChannelView {
            name: name.clone(),
            waiting: channel.waiting.len(),
            delivered: channel.delivered,
            failed: channel.failed,
            given_up: channel.given_up,
            trouble: channel.error.clone().filter(|_| channel.in_a_row >= FAILURES_TOLD || channel.gone.is_some()),
        })
    }

    fn take(&mut self, id: &MessageId) -> Option<(&mut Channel, Message)> {
        let channel = self.channels.values_mut().find(|channel| channel.is_under_way(id))?;
        let place = channel.under_way.take()?;
        let message = channel.waiting.remove(&place)?;
        Some((channel, message))
    }
}

impl Concluded {
    fn end(&mut self, mut message: Message, how: How, now: &Now) {
        message.retry_at = None;
        message.ended = Some(Ended { at: *now, how });
        self.writes.push(Write::PutMessage(message));
    }

    fn give_up(&mut self, message: Message, reason: String, now: &Now) {
        self.given_up.push((message.clone(), reason.clone()));
        self.end(message, How::GivenUp { reason }, now);
    }
}

impl Channel {
    fn new(limits: ChannelLimits) -> Self {
        let tokens = burst(limits);
        Self {
            limits,
            waiting: BTreeMap::new(),
            under_way: None,
            tokens,
            counted_at: None,
            gone: None,
            delivered: 0,
            failed: 0,
            given_up: 0,
            in_a_row: 0,
            error: None,
        }
    }

    fn is_under_way(&self, id: &MessageId) -> bool {
        self.under_way.as_ref().is_some_and(|(.., under_way)| under_way == id)
    }

    fn give_up(&mut self, now: &Now, concluded: &mut Concluded) {
        let under_way = self.under_way.clone();
        let excess = self.waiting.len().saturating_sub(MOST_WAITING);
        let gone = self.gone.clone();
        let given_up: Vec<(Place, String)> = self
            .waiting
            .iter()
            .filter(|(place, _)| Some(*place) != under_way.as_ref())
            .enumerate()
            .filter_map(|(index, (place, message))| {
                let reason = if let Some(gone) = &gone {
                    gone.clone()
                } else if now.since(&message.created) > OLDEST {
                    format!("it could not be delivered within {} hours", OLDEST.as_secs() / 3_600)
                } else if index < excess {
                    format!("more than {MOST_WAITING} messages wait for this channel")
                } else {
                    return None;
                };
                Some((place.clone(), reason))
            })
            .collect();
        for (place, mut reason) in given_up {
            if let Some(message) = self.waiting.remove(&place) {
                self.given_up = self.given_up.saturating_add(1);
                if let Some(error) = &message.error {
                    reason = format!("{reason}; the last attempt: {error}");
                }
                concluded.give_up(message, reason, now);
            }
        }
    }

    /// The next message, if there is one and the channel takes one now.
    fn next(&mut self, now: &Now) -> Option<Message> {
        self.refill(now);
        if self.under_way.is_some() || self.gone.is_some() || self.tokens < 1.0 {
            return None;
        }
        // Whoever has to decide is told first, and before that what else there is of the same incident.
        let urgent = self.waiting.values().filter(|message| message.topic.is_urgent());
        let urgent: BTreeSet<IncidentId> = urgent.filter_map(|message| message.incident).collect();
        let can_wait = |message: &Message| {
            !message.topic.is_urgent() && message.incident.is_none_or(|incident| !urgent.contains(&incident))
        };
        let ready = self.candidates().filter(|(_, message)| wait(message, now).is_zero());
        let (place, message) = ready.min_by_key(|(_, message)| can_wait(message))?;
        let (place, message) = (place.clone(), message.clone());
        self.tokens -= 1.0;
        self.under_way = Some(place);
        Some(message)
    }

    /// What may be next: of each incident the first, of what belongs to none each.
    fn candidates(&self) -> impl Iterator<Item = (&Place, &Message)> {
        let mut firsts: BTreeMap<u64, (u64, &MessageId)> = BTreeMap::new();
        for message in self.waiting.values() {
            if let Some(incident) = message.incident {
                let first = firsts.entry(incident.0).or_insert((message.number, &message.id));
                *first = (*first).min((message.number, &message.id));
            }
        }
        self.waiting.iter().filter(move |(_, message)| {
            message
                .incident
                .is_none_or(|incident| firsts.get(&incident.0).is_some_and(|(_, first)| **first == message.id))
        })
    }

    fn next_due(&self, now: &Now) -> Option<Duration> {
        if self.under_way.is_some() || self.waiting.is_empty() {
            return None;
        }
        if self.gone.is_some() {
            return Some(Duration::ZERO);
        }
        let until_due = self.candidates().map(|(_, message)| wait(message, now)).min()?;
        let since = self.counted_at.map_or(Duration::ZERO, |counted_at| now.since(&counted_at));
        let missing = 1.0 - self.tokens - since.as_secs_f64() * f64::from(self.limits.max_per_minute) / 60.0;
        let until_token =
            Duration::from_secs_f64((missing.max(0.0) * 60.0 / f64::from(self.limits.max_per_minute)).min(60.0));
        Some(until_due.max(until_token))
    }

    fn refill(&mut self, now: &Now) {
        let since = self.counted_at.map_or(Duration::ZERO, |counted_at| now.since(&counted_at));
        let refill = since.as_secs_f64() * f64::from(self.limits.max_per_minute) / 60.0;
        self.tokens = (self.tokens + refill).min(burst(self.limits));
        self.counted_at = Some(*now);
    }
}

/// What may go out at once: a sixth of what a minute allows, so that an incident's first messages do not wait.
fn burst(limits: ChannelLimits) -> f64 {
    (f64::from(limits.max_per_minute) / 6.0).max(1.0)
}

fn place(message: &Message) -> Place {
    (message.created.wall.0, message.incident.map(|incident| incident.0), message.number, message.id.clone())
}

/// Time until a message may be tried.
fn wait(message: &Message, now: &Now) -> Duration {
    // A deadline from before a reboot, or far in the future after a jump of the clock, never holds for longer than it was
    // meant to.
    let Some(retry_at) = message.retry_at else { return Duration::ZERO };
    retry_at.since(now).min(LONGEST_RETRY_AFTER)
}

/// How long to wait after a failure: doubled each time, spread between half and all of it, and never less than the receiver
/// asked for.
fn pause(seed: u64, message: &Message, retry_after: Option<Duration>) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << message.failures.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
    let half = doubled / 2;
    let mut hasher = SipHasher13::new_with_keys(seed, u64::from(message.failures));
    hasher.write(message.id.0.as_bytes());
    // 32 bits are fine enough a grain.
    let part = f64::from(u32::try_from(hasher.finish() >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX);
    (half + half.mul_f64(part)).max(retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER))
}
