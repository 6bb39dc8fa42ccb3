//! Sessions without a network: two of them with each other, time that passes, and peers that say anything at all.

use proptest::prelude::*;

use super::*;
use crate::bgp::speaker::wire::cease;

const SECOND: Duration = Duration::from_secs(1);

fn terms(ours: u32, theirs: u32, router_id: u8) -> Terms {
    Terms {
        local_as: ours,
        peer_as: theirs,
        router_id: Ipv4Addr::new(192, 0, 2, router_id),
        hold_time: 90,
        families: Family::ALL.to_vec(),
        retain: None,
    }
}

fn pair(here: Terms, there: Terms) -> (Connection, Connection) {
    (Connection::new(here, false, Duration::ZERO), Connection::new(there, false, Duration::ZERO))
}

/// Hands over what both have to say until nobody has anything more.
fn talk(one: &mut Connection, other: &mut Connection, now: Duration) -> (Vec<Event>, Vec<Event>) {
    let (mut here, mut there) = (Vec::new(), Vec::new());
    while one.wants_to_send() || other.wants_to_send() {
        let bytes = std::mem::take(one.out());
        there.extend(other.received(&bytes, now));
        let bytes = std::mem::take(other.out());
        here.extend(one.received(&bytes, now));
    }
    (here, there)
}

#[test]
fn two_agree_on_what_both_can_do() {
    let here = terms(64_496, 4_200_000_000, 1);
    let there = Terms {
        hold_time: 30,
        families: vec![Family::Ipv4Flowspec, Family::Ipv6Unicast],
        ..terms(4_200_000_000, 64_496, 2)
    };
    let (mut one, mut other) = pair(here, there);
    let (here, there) = talk(&mut one, &mut other, SECOND);
    assert_eq!(here, [Event::Opened, Event::Established]);
    assert_eq!(there, here);
    let negotiated = one.negotiated();
    assert_eq!(negotiated.families, [Family::Ipv6Unicast, Family::Ipv4Flowspec]);
    assert_eq!((negotiated.hold_time, negotiated.four_octet, negotiated.extended_message), (30, true, true));
    assert!(negotiated.retained.is_empty() && !negotiated.hard_reset, "nobody has asked for it");
}

#[test]
fn silence_ends_a_session_and_keepalives_prevent_that() {
    let (mut one, mut other) = pair(terms(64_496, 64_497, 1), terms(64_497, 64_496, 2));
    talk(&mut one, &mut other, Duration::ZERO);
    for second in 1..=300 {
        let now = SECOND * second;
        assert_eq!((one.tick(now), other.tick(now)), (vec![], vec![]));
        assert_eq!(talk(&mut one, &mut other, now), (vec![], vec![]));
    }
    // From now on only one of them is there.
    let silent = 300;
    let mut ended = None;
    for second in 301..=400 {
        if let Some(event) = one.tick(SECOND * second).pop() {
            ended = Some((second - silent, event));
            break;
        }
    }
    let (after, event) = ended.unwrap();
    assert_eq!(event, Event::Closed(Why::Sent(Notification::new(4, 0))));
    assert!((61..=90).contains(&after), "{after} s after the last keepalive was heard");
    assert_eq!(one.deadline(), None);
}

#[test]
fn an_open_that_does_not_come_is_not_waited_for_for_ever() {
    let mut one = Connection::new(terms(64_496, 64_497, 1), false, Duration::ZERO);
    assert_eq!(one.deadline(), Some(OPEN_WITHIN));
    assert!(matches!(one.tick(OPEN_WITHIN)[..], [Event::Closed(_)]));
}

#[test]
fn who_is_not_the_expected_one_is_told_so() {
    for (there, told) in [
        (terms(64_499, 64_496, 2), "in AS 64499, not 64497"),
        (Terms { families: vec![Family::Ipv6Flowspec], ..terms(64_497, 64_496, 2) }, "none of ipv4-unicast"),
    ] {
        let here = Terms { families: vec![Family::Ipv4Unicast], ..terms(64_496, 64_497, 1) };
        let (mut one, mut other) = pair(here, there);
        let (events, _) = talk(&mut one, &mut other, SECOND);
        let [Event::Closed(why)] = events.as_slice() else { panic!("{events:?}") };
        assert!(why.to_string().contains(told), "{why}");
    }
    let (mut one, mut other) = pair(terms(64_496, 64_496, 1), terms(64_496, 64_496, 1));
    let (events, _) = talk(&mut one, &mut other, SECOND);
    assert!(matches!(events[..], [Event::Closed(Why::SameRouterId(_))]), "{events:?}");
}

#[test]
fn a_session_that_is_never_given_up_for_silence_is_ours_to_ask_for() {
    let never = |terms: Terms| Terms { hold_time: 0, ..terms };
    let (mut one, mut other) = pair(terms(64_496, 64_497, 1), never(terms(64_497, 64_496, 2)));
    let (here, there) = talk(&mut one, &mut other, SECOND);
    assert_eq!(here, [Event::Closed(Why::NoHoldTime)]);
    assert_eq!(there.last(), Some(&Event::Closed(Why::Told(Notification::new(2, 6)))));
    let (mut one, mut other) = pair(never(terms(64_496, 64_497, 1)), never(terms(64_497, 64_496, 2)));
    assert_eq!(talk(&mut one, &mut other, SECOND).0, [Event::Opened, Event::Established]);
    assert_eq!((one.negotiated().hold_time, one.deadline()), (0, None));
}

#[test]
fn with_retention_a_farewell_is_a_hard_reset() {
    let retain = |terms: Terms| Terms { retain: Some(120), ..terms };
    let (mut one, mut other) = pair(retain(terms(64_496, 64_497, 1)), retain(terms(64_497, 64_496, 2)));
    talk(&mut one, &mut other, SECOND);
    assert_eq!(one.negotiated().retained, Family::ALL);
    let mut events = Vec::new();
    one.end(Notification::cease(cease::SHUTDOWN), &mut events);
    let (_, there) = talk(&mut one, &mut other, SECOND);
    let hard = Notification::cease(cease::SHUTDOWN).hard();
    assert_eq!(there, [Event::Closed(Why::Told(hard))]);
}

#[test]
fn a_notification_is_never_answered_by_one_however_wrong_it_is() {
    let framed = |marker: u8, length: u16, body: &[u8]| [&[marker; 16], &length.to_be_bytes()[..], &[3], body].concat();
    for (wrong, told) in [
        (framed(0xff, 21, &[6, 2]), "shut down"),
        (framed(0xff, 19, &[]), "a message of a wrong length"),
        (framed(0xff, 20, &[6]), "a message of a wrong length"),
        (framed(0xff, 5_000, &[6, 2]), "cannot be read"),
        (framed(0xfe, 21, &[6, 2]), "messages are not in step"),
        (framed(0xff, 21, &[0, 0]), "a reason that is not known"),
        // What follows is not looked at any more.
        ([framed(0xff, 21, &[6, 2]), vec![0; 40]].concat(), "shut down"),
    ] {
        for established in [false, true] {
            let (mut one, mut other) = pair(terms(64_496, 64_497, 1), terms(64_497, 64_496, 2));
            if established {
                talk(&mut one, &mut other, Duration::ZERO);
                // Something is still to be said, and has nobody to be said to.
                one.tick(Duration::from_secs(30));
                assert!(one.wants_to_send());
            } else {
                one.out().clear();
            }
            // In front of an OPEN a message may not be longer than 4096 bytes, and then it may.
            let longer = established && wrong.get(16..18) == Some(&5_000_u16.to_be_bytes());
            let wrong = if longer { framed(0xff, 20, &[6]) } else { wrong.clone() };
            let events = one.received(&wrong, SECOND * 31);
            let [Event::Closed(why)] = events.as_slice() else { panic!("{events:?}") };
            let told = if longer { "a message of a wrong length" } else { told };
            assert!(why.to_string().contains(told), "{why}, not {told}");
            one.end(Notification::cease(cease::SHUTDOWN), &mut Vec::new());
            one.stalled(SECOND * 60, 1, &mut Vec::new());
            assert_eq!((one.tick(SECOND * 300), one.out().as_slice()), (vec![], &[][..]));
        }
    }
}

#[test]
fn of_two_connections_both_sides_keep_the_same() {
    for (ours, theirs) in [((1, 5), (2, 5)), ((2, 5), (1, 5)), ((7, 1), (7, 2)), ((7, 2), (7, 1))] {
        assert_ne!(keeps_ours(ours, theirs), keeps_ours(theirs, ours));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn no_peer_can_do_more_than_end_its_session(
        established in any::<bool>(),
        said in prop::collection::vec(
            (1_u8..=5, prop::collection::vec(any::<u8>(), 0..60), 0_u8..20, any::<bool>()), 1..12),
    ) {
        let (mut one, mut other) = pair(terms(64_496, 64_497, 1), terms(64_497, 64_496, 2));
        if established {
            talk(&mut one, &mut other, Duration::ZERO);
        }
        let mut now = Duration::ZERO;
        let mut closed = false;
        for (kind, body, seconds, well_formed) in said {
            let length = u16::try_from(19 + body.len()).unwrap();
            let mut message = vec![0xff; 16];
            message.extend(if well_formed { length.to_be_bytes() } else { [u8::try_from(body.len()).unwrap(), kind] });
            message.push(kind);
            message.extend(body);
            let mut events = one.received(&message, now);
            now += SECOND * seconds.into();
            events.extend(one.tick(now));
            prop_assert!(!closed || events.is_empty(), "after the end nothing more happens: {:?}", events);
            let ends = events.iter().filter(|event| matches!(event, Event::Closed(_))).count();
            prop_assert!(ends <= 1);
            closed |= ends == 1;
            prop_assert_eq!(closed, one.state() == State::Closed);
        }
    }
}
