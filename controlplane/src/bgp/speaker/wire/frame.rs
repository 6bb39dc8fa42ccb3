//! A stream of bytes cut into messages.

use super::{HEADER, LONGEST, Notification, Open};
use crate::bgp::route::Family;

/// What a peer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// OPEN.
    Open(Open),
    /// UPDATE: we import nothing, and look at no more than its outline.
    Update(Update),
    /// NOTIFICATION: the session has ended.
    Notification(Notification),
    /// KEEPALIVE.
    Keepalive,
    /// ROUTE-REFRESH for a family; none for one that we do not speak, or one of the messages around a refresh (RFC 7313).
    RouteRefresh(Option<Family>),
}

/// The outline of an UPDATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// Whatever it announces or withdraws.
    Ignored,
    /// What RFC 7606 has treated as a withdrawal: of what we do not import, so that nothing is to be done.
    Malformed,
}

/// Bytes that have come and are no whole message yet.
#[derive(Debug)]
pub struct Framer {
    bytes: Vec<u8>,
    longest: usize,
}

impl Default for Framer {
    fn default() -> Self {
        Self { bytes: Vec::new(), longest: LONGEST }
    }
}

impl Framer {
    /// From now on messages may be longer.
    pub const fn extend(&mut self, longest: usize) {
        self.longest = longest;
    }

    /// Bytes that have come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// What comes next is a NOTIFICATION, be it right or wrong.
    pub fn is_at_notification(&self) -> bool {
        self.bytes.get(HEADER - 1) == Some(&3)
    }

    /// The next whole message.
    ///
    /// # Errors
    /// What the other side is to be told; the session has ended then.
    pub fn next_message(&mut self) -> Result<Option<Message>, Notification> {
        let Some([marker @ .., length_high, length_low, kind]) = self.bytes.get(..HEADER) else { return Ok(None) };
        let (length_high, length_low, kind) = (*length_high, *length_low, *kind);
        if marker.iter().any(|byte| *byte != 0xff) {
            return Err(Notification::new(1, 1));
        }
        let length = usize::from(u16::from_be_bytes([length_high, length_low]));
        let (least, most) = match kind {
            1 => (29, LONGEST),
            2 => (23, self.longest),
            3 => (21, self.longest),
            4 => (HEADER, HEADER),
            5 => (23, self.longest),
            _ => return Err(Notification { code: 1, subcode: 3, data: vec![kind] }),
        };
        if !(least..=most).contains(&length) {
            return Err(Notification { code: 1, subcode: 2, data: vec![length_high, length_low] });
        }
        let Some(body) = self.bytes.get(HEADER..length) else { return Ok(None) };
        let message = match kind {
            1 => Message::Open(Open::decode(body)?),
            2 => Message::Update(outline(body)?),
            3 => Message::Notification(notification(body)),
            5 => Message::RouteRefresh(refresh(body)),
            _ => Message::Keepalive,
        };
        self.bytes.drain(..length);
        Ok(Some(message))
    }
}

fn notification(body: &[u8]) -> Notification {
    let (code, subcode) = (body.first().copied().unwrap_or(0), body.get(1).copied().unwrap_or(0));
    Notification { code, subcode, data: body.get(2..).unwrap_or_default().to_vec() }
}

fn refresh(body: &[u8]) -> Option<Family> {
    match body {
        // A subtype other than 0 is not a request (RFC 7313); what follows is for route filters (RFC 5291), of no use to us.
        [high, low, 0, safi, ..] => Family::of(u16::from_be_bytes([*high, *low]), *safi),
        _ => None,
    }
}

/// Withdrawn routes, attributes, routes: whether the lengths lead through the message.
///
/// # Errors
/// When even that cannot be told: what follows cannot be trusted then (RFC 4271, section 6.3).
fn outline(body: &[u8]) -> Result<Update, Notification> {
    let wrong = || Notification::new(3, 1);
    let part = |rest: &mut &[u8]| -> Option<Vec<u8>> {
        let (length, after) = rest.split_at_checked(2)?;
        let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let (part, after) = after.split_at_checked(length)?;
        *rest = after;
        Some(part.to_vec())
    };
    let mut rest = body;
    part(&mut rest).ok_or_else(wrong)?;
    let attributes = part(&mut rest).ok_or_else(wrong)?;
    let mut rest = attributes.as_slice();
    while !rest.is_empty() {
        let next = match rest {
            [flags, _, high, low, after @ ..] if flags & 0x10 != 0 => {
                after.get(usize::from(u16::from_be_bytes([*high, *low]))..)
            }
            [flags, _, length, after @ ..] if flags & 0x10 == 0 => after.get(usize::from(*length)..),
            _ => None,
        };
        match next {
            Some(next) => rest = next,
            None => return Ok(Update::Malformed),
        }
    }
    Ok(Update::Ignored)
}
