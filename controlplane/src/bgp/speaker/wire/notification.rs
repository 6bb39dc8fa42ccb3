//! NOTIFICATION: why a session ends.

use std::fmt;

/// Why a session ends, as it is told to the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// What it is about.
    pub data: Vec<u8>,
}

/// Subcodes of Cease (RFC 4486, RFC 8538, RFC 9384).
pub mod cease {
    /// The session is shut down.
    pub const SHUTDOWN: u8 = 2;
    /// There is no such peer in the configuration any more.
    pub const DECONFIGURED: u8 = 3;
    /// The configuration is another one.
    pub const CHANGED: u8 = 6;
    /// The other one of two connections is kept.
    pub const COLLISION: u8 = 7;
    /// The routes are to go at once, also where restarts are graceful.
    pub const HARD_RESET: u8 = 9;
}

impl Notification {
    /// Without data.
    pub const fn new(code: u8, subcode: u8) -> Self {
        Self { code, subcode, data: Vec::new() }
    }

    /// Cease.
    pub const fn cease(subcode: u8) -> Self {
        Self::new(6, subcode)
    }

    /// The same as a hard reset: also a peer that would keep our routes drops them (RFC 8538, section 3.1).
    #[must_use]
    pub fn hard(self) -> Self {
        let mut data = vec![self.code, self.subcode];
        data.extend(self.data);
        Self { code: 6, subcode: cease::HARD_RESET, data }
    }

    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![self.code, self.subcode];
        body.extend(self.data.iter().take(255));
        super::message(3, &body)
    }

    /// What it means.
    pub const fn name(&self) -> &'static str {
        match (self.code, self.subcode) {
            (1, 1) => "messages are not in step",
            (1, 2) => "a message of a wrong length",
            (1, 3) => "a message of an unknown type",
            (1, _) => "a wrong header",
            (2, 1) => "another version of BGP",
            (2, 2) => "not the AS that was expected",
            (2, 3) => "a router id that cannot be",
            (2, 4) => "a parameter that is not known",
            (2, 6) => "a hold time that is not accepted",
            (2, 7) => "a capability is missing",
            (2, 11) => "another role",
            (2, _) => "a wrong OPEN",
            (3, _) => "a wrong UPDATE",
            (4, _) => "nothing was heard within the hold time",
            (5, _) => "a message at the wrong time",
            (6, 1) => "too many routes",
            (6, cease::SHUTDOWN) => "shut down",
            (6, cease::DECONFIGURED) => "not configured any more",
            (6, 4) => "reset by an operator",
            (6, 5) => "the connection is refused",
            (6, cease::CHANGED) => "the configuration has changed",
            (6, cease::COLLISION) => "the other connection is kept",
            (6, 8) => "out of resources",
            (6, cease::HARD_RESET) => "hard reset",
            (6, 10) => "BFD says that the path is down",
            (6, _) => "ended",
            (7, _) => "a wrong ROUTE-REFRESH",
            (8, _) => "nothing could be sent within the send hold time",
            _ => "for a reason that is not known",
        }
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}/{})", self.name(), self.code, self.subcode)?;
        // A shutdown may come with a message for people (RFC 9003).
        let text = match (self.code, self.subcode, self.data.split_first()) {
            (6, 2 | 4, Some((length, text))) => text.get(..usize::from(*length)),
            _ => None,
        };
        match text.and_then(|text| std::str::from_utf8(text).ok()).filter(|text| !text.is_empty()) {
            Some(text) => write!(f, ": {:?}", text.chars().take(128).collect::<String>()),
            None => Ok(()),
        }
    }
}
