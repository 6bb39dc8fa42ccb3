//! Order, pace, patience and memory of the outbox.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::{ChannelLimits, DeliveryError, How, Message, MessageId, Outbox, Topic};
use crate::clock::Now;
use crate::ledger::IncidentId;
use crate::store::{Disk, Store, Write};

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: f64) -> Now {
    Now::default().after(Duration::from_secs_f64(seconds))
}

fn message(channel: &str, incident: Option<u64>, number: u64, created: f64) -> Message {
    Message {
        id: MessageId(format!("{channel}/{}/{number}", incident.map_or("-".to_owned(), |id| id.to_string()))),
        channel: channel.into(),
        incident: incident.map(IncidentId),
        number,
        topic: Topic::IncidentOpened,
        created: at(created),
        subject: String::new(),
        text: String::new(),
        data: Value::Null,
        failures: 0,
        retry_at: None,
        error: None,
        ended: None,
    }
}

fn outbox(channels: &[(&str, u32)]) -> Outbox {
    let limits = |&(name, max_per_minute): &(&str, u32)| (name.to_owned(), ChannelLimits { max_per_minute });
    Outbox::new(channels.iter().map(limits), 7)
}

fn due(outbox: &mut Outbox, now: f64) -> Vec<String> {
    let (due, concluded) = outbox.due(&at(now));
    assert_eq!(concluded, Default::default());
    due.into_iter().map(|message| message.id.0).collect()
}

fn retryable(retry_after: Option<Duration>) -> DeliveryError {
    DeliveryError::Retryable { reason: "busy".into(), retry_after }
}

fn id(text: &str) -> MessageId {
    MessageId(text.into())
}

#[test]
fn messages_of_an_incident_wait_for_each_other_and_others_go_past() {
    let mut outbox = outbox(&[("noc", 6_000), ("pager", 6_000)]);
    for (incident, number, created) in [(1, 2, 0.1), (1, 1, 0.1), (1, 3, 0.2), (2, 1, 0.3)] {
        outbox.add(message("noc", Some(incident), number, created));
    }
    outbox.add(message("pager", Some(1), 1, 0.1));
    assert_eq!(due(&mut outbox, 1.0), ["noc/1/1", "pager/1/1"]);
    assert_eq!(due(&mut outbox, 1.0), [""; 0], "one at a time for each channel");
    let failed = outbox.failed(&id("noc/1/1"), &retryable(None), &at(1.0));
    assert!(matches!(&failed.writes[..], [Write::PutMessage(message)] if message.failures == 1));
    assert_eq!(due(&mut outbox, 1.0), ["noc/2/1"], "another incident goes past");
    assert!(matches!(&outbox.sent(&id("noc/2/1"), &at(1.0)).writes[..],
        [Write::PutMessage(message)] if message.ended.as_ref().unwrap().how == How::Delivered));
    assert_eq!(due(&mut outbox, 1.0), [""; 0]);
    assert_eq!(due(&mut outbox, 2.1), ["noc/1/1"]);
    outbox.sent(&id("noc/1/1"), &at(2.1));
    assert_eq!(due(&mut outbox, 2.2), ["noc/1/2"]);
}

#[test]
fn the_same_message_again_is_one_message_and_one_that_ended_is_none() {
    let mut outbox = outbox(&[("noc", 60)]);
    outbox.add(message("noc", Some(1), 1, 0.0));
    outbox.add(Message { created: at(5.0), ..message("noc", Some(1), 1, 0.0) });
    let ended = Some(super::Ended { at: at(0.0), how: How::Delivered });
    outbox.add(Message { ended, ..message("noc", Some(1), 2, 0.0) });
    assert_eq!(
        outbox.channels().map(|channel| (channel.name, channel.waiting)).collect::<Vec<_>>(),
        [("noc".into(), 1)]
    );
}

#[test]
fn a_channel_gets_no_more_than_its_limit_and_makes_up_nothing() {
    let mut outbox = outbox(&[("noc", 30)]);
    for number in 0..500 {
        outbox.add(message("noc", Some(number), 1, 0.0));
    }
    let mut sent = Vec::new();
    let mut now = 0.0;
    while now < 120.0 {
        for message in outbox.due(&at(now)).0 {
            outbox.sent(&message.id, &at(now));
            sent.push(now);
        }
        now += outbox.next_due(&at(now)).unwrap().as_secs_f64().max(0.001);
    }
    assert!((64..=66).contains(&sent.len()), "5 at once, then one every two seconds: {}", sent.len());
    for start in &sent {
        let within = sent.iter().filter(|time| (*start..*start + 60.0).contains(*time)).count();
        assert!(within <= 36, "{within} in the minute from {start}");
    }
}

#[test]
fn pauses_grow_are_spread_have_an_end_and_respect_what_the_receiver_asks() {
    let mut last = Vec::new();
    for seed in 0..20 {
        let mut outbox = Outbox::new([("noc".to_owned(), ChannelLimits { max_per_minute: 6_000 })], seed);
        outbox.add(message("noc", None, 1, 0.0));
        let mut now = at(0.0);
        for failures in 0..20_u32 {
            let pause = outbox.next_due(&now).unwrap();
            let whole = if failures == 0 { 0.0 } else { f64::from(1 << (failures - 1).min(16)).min(300.0) };
            assert!((whole / 2.0 - 0.001..=whole + 0.001).contains(&pause.as_secs_f64()), "{failures}: {pause:?}");
            now = now.after(pause);
            assert_eq!(outbox.due(&now).0.len(), 1);
            outbox.failed(&id("noc/-/1"), &retryable(None), &now);
        }
        last.push(outbox.next_due(&now).unwrap());
        outbox.due(&now.after(Duration::from_secs(300)));
        let now = now.after(Duration::from_secs(300));
        outbox.failed(&id("noc/-/1"), &retryable(Some(Duration::from_secs(1_000))), &now);
        assert_eq!(outbox.next_due(&now).unwrap(), Duration::from_secs(1_000));
        assert_eq!(outbox.due(&now.after(Duration::from_secs(1_000))).0.len(), 1);
        outbox.failed(&id("noc/-/1"), &retryable(Some(Duration::MAX)), &now);
        assert_eq!(outbox.next_due(&now).unwrap(), Duration::from_secs(3_600), "nobody silences us for ever");
    }
    last.sort();
    last.dedup();
    assert!(last.len() > 15, "spread by the seed: {last:?}");
}

#[test]
fn what_cannot_be_delivered_is_given_up_and_told_with_its_reason() {
    let mut outbox = outbox(&[("noc", 6_000), ("pager", 6_000)]);
    for number in 1..=3 {
        outbox.add(message("noc", Some(1), number, 0.0));
        outbox.add(message("pager", Some(1), number, 0.0));
    }
    outbox.add(message("nobody", Some(1), 1, 0.0));
    let (due, concluded) = outbox.due(&at(1.0));
    assert_eq!(due.len(), 2);
    assert!(
        matches!(&concluded.given_up[..], [(message, reason)] if message.channel == "nobody" && reason.contains("no such channel"))
    );
    assert_eq!(concluded.writes.len(), 1);

    let concluded = outbox.failed(&id("noc/1/1"), &DeliveryError::Permanent { reason: "400".into() }, &at(1.0));
    assert!(matches!(&concluded.given_up[..], [(message, reason)] if message.number == 1 && reason == "400"));
    assert_eq!(due_ids(&mut outbox, 1.0), ["noc/1/2"], "those behind it are not stopped");

    let concluded = outbox.failed(&id("pager/1/1"), &DeliveryError::Gone { reason: "410".into() }, &at(1.0));
    assert_eq!(concluded.given_up.len(), 3);
    outbox.add(message("pager", Some(2), 1, 2.0));
    assert_eq!(outbox.due(&at(2.0)).1.given_up.len(), 1);
    outbox.reconfigure([("pager".to_owned(), ChannelLimits { max_per_minute: 60 })]);
    outbox.add(message("pager", Some(3), 1, 3.0));
    let (due, concluded) = outbox.due(&at(3.0));
    assert_eq!(due.len(), 1, "it is tried again once the operator has had a look");
    assert_eq!(
        concluded.given_up.len(),
        1,
        "the other channel is no longer configured, and its message under way is not touched"
    );
}

fn due_ids(outbox: &mut Outbox, now: f64) -> Vec<String> {
    outbox.due(&at(now)).0.into_iter().map(|message| message.id.0).collect()
}

#[test]
fn messages_that_are_too_old_or_too_many_make_room_for_the_new() {
    let mut outbox = outbox(&[("noc", 60)]);
    for number in 0..1_010 {
        outbox.add(message("noc", Some(number), 1, f64::from(u32::try_from(number).unwrap())));
    }
    let concluded = outbox.due(&at(1_010.0)).1;
    let given_up: Vec<u64> = concluded.given_up.iter().map(|(message, _)| message.incident.unwrap().0).collect();
    assert_eq!(given_up, (0..10).collect::<Vec<_>>());
    let day = 86_400.0;
    let concluded = outbox.due(&at(day + 100.5)).1;
    assert!(concluded.given_up.iter().all(|(_, reason)| reason.contains("24 hours")));
    assert_eq!(concluded.given_up.len(), 90, "one of those is under way");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..Default::default() })]

    /// Whatever fails and whenever the process is killed: each message reaches its receiver, those of an incident in
    /// order, at most once more for each kill, and nothing is left.
    #[test]
    fn every_message_arrives_in_order_through_failures_and_kills(
        messages in prop::collection::vec((0..3_u64, 0..2_usize), 1..20),
        faults in prop::collection::vec(0..4_u8, 0..60),
        seed: u64,
    ) {
        const CHANNELS: [&str; 2] = ["noc", "pager"];
        let limits = || CHANNELS.map(|name| (name.to_owned(), ChannelLimits { max_per_minute: 120 }));
        let disk = Disk::new();
        let mut store = disk.open().unwrap();
        let mut outbox = Outbox::new(limits(), seed);
        let mut numbers: BTreeMap<(usize, u64), u64> = BTreeMap::new();
        for (incident, channel) in &messages {
            let number = numbers.entry((*channel, *incident)).or_default();
            *number += 1;
            let message = message(CHANNELS[*channel], Some(*incident), *number, 0.0);
            store.commit(&[Write::PutMessage(message.clone())]).unwrap();
            outbox.add(message);
        }
        let mut received: Vec<Message> = Vec::new();
        let (mut now, mut kills) = (at(0.0), 0);
        let mut faults = faults.into_iter();
        while let Some(pause) = outbox.next_due(&now) {
            now = now.after(pause.max(SECOND / 1_000));
            let (due, concluded) = outbox.due(&now);
            prop_assert!(concluded.given_up.is_empty());
            for message in due {
                let concluded = match faults.next().unwrap_or(0) {
                    0 | 1 => {
                        received.push(message.clone());
                        outbox.sent(&message.id, &now)
                    }
                    2 => outbox.failed(&message.id, &retryable(None), &now),
                    _ => {
                        // Killed after the receiver has it, before that was stored.
                        received.push(message);
                        disk.crash();
                        kills += 1;
                        store = disk.open().unwrap();
                        outbox = Outbox::new(limits(), seed);
                        store.load().unwrap().messages.into_values().for_each(|message| outbox.add(message));
                        break;
                    }
                };
                store.commit(&concluded.writes).unwrap();
            }
        }
        prop_assert!(received.len() <= messages.len() + 2 * kills);
        for ((channel, incident), last) in numbers {
            let of = received.iter().filter(|m| m.channel == CHANNELS[channel] && m.incident == Some(IncidentId(incident)));
            let mut order: Vec<u64> = of.map(|message| message.number).collect();
            order.dedup();
            prop_assert_eq!(order, (1..=last).collect::<Vec<_>>());
        }
        let left = store.load().unwrap().messages;
        prop_assert!(left.values().all(|message| message.ended.is_some()), "{:?}", left);
    }
}

#[test]
fn a_channel_that_takes_nothing_is_a_trouble_until_it_takes_something() {
    let mut outbox = outbox(&[("noc", 6_000)]);
    outbox.add(message("noc", None, 1, 0.0));
    let trouble = |outbox: &Outbox| outbox.channels().next().unwrap().trouble;
    let mut now = 0.0;
    for attempt in 1..=3 {
        assert_eq!(trouble(&outbox), None, "after {attempt} attempts");
        while due_ids(&mut outbox, now).is_empty() {
            now += 0.5;
        }
        outbox.failed(&id("noc/-/1"), &retryable(None), &at(now));
    }
    assert_eq!(trouble(&outbox).as_deref(), Some(retryable(None).to_string().as_str()));
    while due_ids(&mut outbox, now).is_empty() {
        now += 0.5;
    }
    outbox.sent(&id("noc/-/1"), &at(now));
    let channel = outbox.channels().next().unwrap();
    assert_eq!((channel.trouble, channel.waiting, channel.delivered, channel.failed), (None, 0, 1, 3));
}

#[test]
fn what_somebody_has_to_decide_does_not_wait_behind_what_is_only_told() {
    let mut outbox = outbox(&[("noc", 6)]);
    for incident in 1..100 {
        outbox.add(message("noc", Some(incident), 1, 0.0));
    }
    outbox.add(Message { topic: Topic::ApprovalAsked, ..message("noc", Some(50), 2, 1.0) });
    assert_eq!(due_ids(&mut outbox, 2.0), ["noc/50/1"], "order is kept within an incident");
    outbox.sent(&id("noc/50/1"), &at(2.0));
    assert_eq!(due_ids(&mut outbox, 20.0), ["noc/50/2"]);
    outbox.sent(&id("noc/50/2"), &at(20.0));
    assert_eq!(due_ids(&mut outbox, 40.0), ["noc/1/1"]);
}
