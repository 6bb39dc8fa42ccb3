//! QUIC (RFC 8999, RFC 9000, RFC 9369), as far as counting its packets needs it: which server packets are no answers, and
//! which [`Initial`](is_forged) packets are none.

mod initial;

use levee_api::lane::Lane;

use super::Lanes;

pub use initial::is_forged;

const LONG_HEADER: u8 = 0x80;
const PACKET_TYPE: u8 = 0x30;
/// The shortest datagram that carries a client's Initial.
const MIN_INITIAL: u16 = 1_200;
/// The longest connection ID of versions 1 and 2.
const MAX_CONNECTION_ID: u8 = 20;
/// First byte, version, and the two lengths of connection IDs.
const FIXED: u16 = 7;
/// A version in the list of a Version Negotiation packet.
const VERSION: u16 = 4;
/// The integrity tag at the end of a Retry packet.
const RETRY_TAG: u16 = 16;

const NEGOTIATION: u32 = 0;
const V1: u32 = 1;
const V2: u32 = 0x6b33_43cf;
/// Drafts of version 1: 0xff0000NN.
const DRAFT: u32 = 0xff00_0000;

/// True for what begins like an Initial and is as long as one has to be (RFC 9000 section 14.1).
#[inline]
pub fn may_be_initial(lanes: &Lanes) -> bool {
    lanes.get(Lane::Payload0) >> 14 == 3 && lanes.get(Lane::PayloadLength) >= MIN_INITIAL
}

/// Whether a payload is a Version Negotiation or a Retry packet. `length` is that of the payload on the wire, of which
/// `payload` holds at least the first bytes.
///
/// Told by the bytes alone, since any port may serve QUIC: version and packet type fit, and the lengths add up.
pub(super) fn is_refusal(payload: &[u8], length: u16) -> bool {
    let Some(&[first, v0, v1, v2, v3, destination]) = payload.first_chunk() else { return false };
    let Some(&source) = payload.get(6 + usize::from(destination)) else { return false };
    let Some(rest) = length.checked_sub(FIXED + u16::from(destination) + u16::from(source)) else { return false };
    let version = u32::from_be_bytes([v0, v1, v2, v3]);
    let retry = match version {
        // Echoes the client's connection IDs, whatever their length (RFC 8999 section 6).
        NEGOTIATION => return first & LONG_HEADER != 0 && rest >= VERSION && rest.is_multiple_of(VERSION),
        V1 => 0x30,
        V2 => 0x00,
        _ if version & 0xffff_ff00 == DRAFT => 0x30,
        _ => return false,
    };
    // A token is never empty (RFC 9000 section 17.2.5).
    first & (LONG_HEADER | PACKET_TYPE) == LONG_HEADER | retry
        && destination.max(source) <= MAX_CONNECTION_ID
        && rest > RETRY_TAG
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(payload: &[u8]) -> bool {
        is_refusal(payload, u16::try_from(payload.len()).unwrap())
    }

    /// A long header with connection IDs of 8 bytes.
    fn long(first: u8, version: u32, rest: &[u8]) -> Vec<u8> {
        [&[first][..], &version.to_be_bytes(), &[8], &[0xd1; 8], &[8], &[0x51; 8], rest].concat()
    }

    #[test]
    fn version_negotiation_is_a_refusal() {
        assert!(judge(&long(0x80, NEGOTIATION, &[0, 0, 0, 1, 0x6b, 0x33, 0x43, 0xcf])));
        assert!(!judge(&long(0x80, NEGOTIATION, &[])), "lists no version");
        assert!(!judge(&long(0x80, NEGOTIATION, &[0, 0, 0])), "half a version");
        assert!(!judge(&long(0x40, NEGOTIATION, &[0, 0, 0, 1])), "a short header");
    }

    #[test]
    fn retry_is_a_refusal_in_every_version() {
        let token = [0x70; 40];
        assert!(judge(&long(0xf0, V1, &token)));
        assert!(judge(&long(0xc5, V2, &token)));
        assert!(judge(&long(0xff, 0xff00_001d, &token)));
        assert!(!judge(&long(0xf0, V1, &token[..16])), "no token");
    }

    #[test]
    fn other_packets_of_a_server_are_answers() {
        let rest = [0x70; 40];
        for first in [0xc3, 0xd3, 0xe3] {
            assert!(!judge(&long(first, V1, &rest)));
        }
        for first in [0xd3, 0xe3, 0xf3] {
            assert!(!judge(&long(first, V2, &rest)));
        }
        assert!(!judge(&long(0xf0, 0x5130_3436, &rest)), "another version");
        assert!(!judge(&[0x40; 60]));
    }

    #[test]
    fn lengths_are_those_on_the_wire_and_cuts_are_no_refusal() {
        let negotiation = long(0x80, NEGOTIATION, &[0, 0, 0, 1]);
        assert!(is_refusal(&negotiation[..15], 27));
        for length in 0..15 {
            assert!(!is_refusal(&negotiation[..length], 27));
        }
        let mut endless = negotiation.clone();
        endless[5] = 255;
        assert!(!judge(&endless));
    }
}
