//! BGP messages (RFC 4271 and what it has been extended by), as far as a speaker needs them that imports nothing.
//!
//! What comes from a peer is looked at as little as can be: nobody can crash, fill or steer us by what we do not read.

mod frame;
mod notification;
mod open;
mod received;
mod update;

pub use frame::{Framer, Message, Update};
pub use notification::{Notification, cease};
pub use open::{AddPath, GracefulRestart, Open, OpenError};
pub use received::{Path, Received};
pub use update::{Announced, end_of_rib};

/// The number that stands for one of four bytes where there are only two (RFC 6793).
pub const AS_TRANS: u16 = 23_456;
/// Longest message.
pub const LONGEST: usize = 4_096;
/// Longest message between two who speak of it (RFC 8654).
pub const LONGEST_EXTENDED: usize = 65_535;
/// Bytes of a header.
const HEADER: usize = 19;

/// A message with its header.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(HEADER + body.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![0xff; 16];
    bytes.extend(length.to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// A KEEPALIVE.
pub fn keepalive() -> Vec<u8> {
    message(4, &[])
}

#[cfg(test)]
mod tests;
