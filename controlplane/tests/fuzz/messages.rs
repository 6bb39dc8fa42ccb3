//! Messages: what the framer makes of them.

use levee_controlplane::bgp::speaker::wire::{Framer, LONGEST, Message, Notification, Update};

use super::{fuzz, message, seeds};

/// The first message of a stream that comes in two pieces.
fn first(bytes: &[u8], cut: usize) -> Result<Option<Message>, Notification> {
    let mut framer = Framer::default();
    let (one, other) = bytes.split_at(cut);
    framer.push(one);
    if let early @ (Ok(Some(_)) | Err(_)) = framer.next_message() {
        return early;
    }
    framer.push(other);
    framer.next_message()
}

/// Whether an UPDATE says where its parts are (RFC 4271, section 6.3): nothing else may end a session.
pub(crate) fn has_an_outline(body: &[u8]) -> bool {
    let length = |at: usize| Some(usize::from(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?])));
    let attributes = || {
        let withdrawn = length(0)?;
        Some(2 + withdrawn + 2 + length(2 + withdrawn)?)
    };
    attributes().is_some_and(|end| end <= body.len())
}

/// The body of the message that the bytes begin with, when its frame is right.
pub(crate) fn framed(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let length = usize::from(u16::from_be_bytes([*bytes.get(16)?, *bytes.get(17)?]));
    let is_framed = bytes[..16] == [0xff; 16] && (19..=LONGEST).contains(&length);
    bytes.get(..length).filter(|_| is_framed).map(|message| (message[18], &message[19..]))
}

#[test]
fn a_damaged_message_is_read_or_refused_for_what_it_is() {
    let messages = seeds::messages();
    let mut kinds = [0_u64; 6];
    let mut malformed = 0_u64;
    fuzz(
        "messages",
        |chance| message::damaged(&messages, chance),
        |bytes, chance| {
            let read = first(bytes, bytes.len());
            assert_eq!(read, first(bytes, super::damage::below(chance, bytes.len() + 1)), "however it is cut");
            match (framed(bytes), &read) {
                (Some((2, body)), read) if body.len() >= 4 => match read {
                    Ok(Some(Message::Update(update))) => {
                        malformed += u64::from(*update == Update::Malformed);
                        assert!(has_an_outline(body));
                    }
                    Err(wrong) => {
                        assert_eq!((wrong.code, wrong.subcode), (3, 1), "{wrong}");
                        assert!(!has_an_outline(body), "RFC 7606 tolerates it");
                    }
                    other => panic!("{other:?}"),
                },
                (Some((3, body)), read) if body.len() >= 2 => assert!(matches!(read, Ok(Some(_)))),
                _ => {}
            }
            match &read {
                Ok(Some(Message::Open(open))) => {
                    kinds[1] += 1;
                    // What one parameter holds; more than that we never say.
                    let restart = open.graceful_restart.as_ref().map_or(0, |restart| restart.families.len());
                    if open.families.len().max(restart).max(open.add_path.len()) <= 12 {
                        assert_eq!(first(&open.encode(), 0), Ok(Some(Message::Open(open.clone()))));
                    }
                }
                Ok(Some(Message::Update(_))) => kinds[2] += 1,
                Ok(Some(Message::Notification(notification))) => {
                    kinds[3] += 1;
                    assert!(!notification.to_string().is_empty());
                    if notification.data.len() <= 255 {
                        let again = first(&notification.encode(), 0);
                        assert_eq!(again, Ok(Some(Message::Notification(notification.clone()))));
                    }
                }
                Ok(Some(Message::Keepalive)) => kinds[4] += 1,
                Ok(Some(Message::RouteRefresh(_))) => kinds[5] += 1,
                Ok(None) => {}
                Err(wrong) => {
                    kinds[0] += 1;
                    assert!(matches!(wrong.code, 1..=3) && first(&wrong.encode(), 0).is_ok());
                }
            }
        },
    );
    assert!(kinds.iter().all(|count| *count > 50) && malformed > 50, "{kinds:?}, {malformed} malformed");
}
