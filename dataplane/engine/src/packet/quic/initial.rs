//! Whether a QUIC Initial packet is one: opened with the keys that its own connection ID gives (RFC 9001 section 5.2,
//! RFC 9369 section 3.3).
//!
//! Everybody can derive these keys, so this proves nothing about the sender, but who fills packets with random bytes does not
//! take the trouble: a server cannot use such a packet, and answers it all the same, or not. To open one takes some
//! microseconds, so it is done only for what may be a flood.

use aes::Aes128;
use aes::cipher::{BlockEncrypt, KeyInit};
use aes_gcm::Aes128Gcm;
use aes_gcm::aead::AeadInPlace;
use hkdf::Hkdf;
use sha2::Sha256;

use super::{DRAFT, LONG_HEADER, MAX_CONNECTION_ID, PACKET_TYPE, V1, V2};

/// The longest datagram that is looked at: what an Ethernet carries.
const MAX_DATAGRAM: usize = 1_500;
const KEY: usize = 16;
const NONCE: usize = 12;
const TAG: usize = 16;
/// Bytes that the mask of a header is made of, and where they begin behind the packet number.
const SAMPLE: usize = 16;
const SAMPLE_AT: usize = 4;

/// What differs between versions.
struct Version {
    salt: [u8; 20],
    labels: [&'static [u8]; 3],
    /// The type of an Initial.
    initial: u8,
}

const VERSION_1: Version = Version {
    salt: [
        0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb,
        0x7f, 0x0a,
    ],
    labels: [b"tls13 quic key", b"tls13 quic iv", b"tls13 quic hp"],
    initial: 0x00,
};
const VERSION_2: Version = Version {
    salt: [
        0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb, 0xf9, 0xbd,
        0x2e, 0xd9,
    ],
    labels: [b"tls13 quicv2 key", b"tls13 quicv2 iv", b"tls13 quicv2 hp"],
    initial: 0x10,
};
/// Drafts 29 to 32 (draft-ietf-quic-tls-29 section 5.2), which some clients still speak.
const DRAFT_29: Version = Version {
    salt: [
        0xaf, 0xbf, 0xec, 0x28, 0x99, 0x93, 0xd2, 0x4c, 0x9e, 0x97, 0x86, 0xf1, 0x9c, 0x61, 0x11, 0xe0, 0x43, 0x90,
        0xa8, 0x99,
    ],
    ..VERSION_1
};

/// Keys of a client's Initial packets.
struct Keys {
    key: [u8; KEY],
    iv: [u8; NONCE],
    header: [u8; KEY],
}

impl Keys {
    fn of(version: &Version, connection_id: &[u8]) -> Option<Self> {
        let secret = expand::<32>(&Hkdf::new(Some(&version.salt), connection_id), b"tls13 client in")?;
        let client = Hkdf::from_prk(&secret).ok()?;
        let [key, iv, header] = version.labels;
        Some(Self { key: expand(&client, key)?, iv: expand(&client, iv)?, header: expand(&client, header)? })
    }
}

/// HKDF-Expand-Label without a context (RFC 8446 section 7.1).
fn expand<const N: usize>(secret: &Hkdf<Sha256>, label: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let lengths = [u8::try_from(N).ok()?, u8::try_from(label.len()).ok()?];
    let [length, label_length] = lengths;
    secret.expand_multi_info(&[&[0, length, label_length], label, &[0]], &mut bytes).ok()?;
    Some(bytes)
}

/// Where the parts of an Initial packet are.
struct Parts<'a> {
    version: Version,
    connection_id: &'a [u8],
    /// Offset of the packet number, and of the end of the packet.
    number: usize,
    end: usize,
}

impl<'a> Parts<'a> {
    fn of(datagram: &'a [u8]) -> Option<Self> {
        let mut from = Cursor { bytes: datagram, at: 0 };
        let first = from.byte()?;
        let version = match u32::from_be_bytes(*from.take(4)?.first_chunk()?) {
            V1 => VERSION_1,
            V2 => VERSION_2,
            draft if (DRAFT | 29..=DRAFT | 32).contains(&draft) => DRAFT_29,
            _ => return None,
        };
        if first & (LONG_HEADER | PACKET_TYPE) != LONG_HEADER | version.initial {
            return None;
        }
        let connection_id = from.connection_id()?;
        from.connection_id()?;
        let token = from.number()?;
        from.take(token)?;
        let length = from.number()?;
        Some(Self { version, connection_id, number: from.at, end: from.at.checked_add(length)? })
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..)?.get(..count)?;
        self.at += count;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn connection_id(&mut self) -> Option<&'a [u8]> {
        let length = self.byte().filter(|length| *length <= MAX_CONNECTION_ID)?;
        self.take(length.into())
    }

    /// A number of one to eight bytes (RFC 9000 section 16).
    fn number(&mut self) -> Option<usize> {
        let first = self.byte()?;
        let more = self.take((1 << (first >> 6)) - 1)?;
        more.iter()
            .try_fold(usize::from(first & 0x3f), |number, byte| Some(number.checked_mul(256)? | usize::from(*byte)))
    }
}

/// True when a datagram begins like an Initial of a known version, all of it is here, and its keys do not open it. The keys are
/// those of a client's first packets: of later ones, which carry the server's connection ID, this says nothing.
pub fn is_forged(datagram: &[u8]) -> bool {
    let Some(parts) = Parts::of(datagram) else { return false };
    if datagram.len() > MAX_DATAGRAM || parts.end > datagram.len() {
        return false;
    }
    open(datagram, &parts).is_none()
}

/// Opens a packet: some when that succeeds.
fn open(datagram: &[u8], parts: &Parts<'_>) -> Option<()> {
    let keys = Keys::of(&parts.version, parts.connection_id)?;
    let sample_at = parts.number + SAMPLE_AT;
    let mut mask = aes::Block::clone_from_slice(datagram.get(sample_at..sample_at + SAMPLE)?);
    Aes128::new(&keys.header.into()).encrypt_block(&mut mask);
    let mut packet = [0; MAX_DATAGRAM];
    let packet = packet.get_mut(..parts.end)?;
    packet.copy_from_slice(datagram.get(..parts.end)?);
    let (mask_of_first, mask_of_number) = mask.split_first()?;
    let first = packet.first_mut()?;
    *first ^= mask_of_first & 0x0f;
    let number_length = usize::from(*first & 0x03) + 1;
    let body = parts.number + number_length;
    let mut nonce = keys.iv;
    for ((byte, mask), at) in packet.get_mut(parts.number..body)?.iter_mut().zip(mask_of_number).zip(0..) {
        *byte ^= mask;
        *nonce.get_mut(NONCE - number_length + at)? ^= *byte;
    }
    let (header, sealed) = packet.split_at_mut_checked(body)?;
    let (sealed, tag) = sealed.split_at_mut_checked(sealed.len().checked_sub(TAG)?)?;
    let tag: &[u8; TAG] = tag.first_chunk()?;
    let opened = Aes128Gcm::new(&keys.key.into()).decrypt_in_place_detached(&nonce.into(), header, sealed, tag.into());
    opened.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTION_ID: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn keys_are_those_of_the_specifications() {
        // RFC 9001 appendix A.1.
        let keys = Keys::of(&VERSION_1, &CONNECTION_ID).unwrap();
        assert_eq!(hex(&keys.key), "1f369613dd76d5467730efcbe3b1a22d");
        assert_eq!(hex(&keys.iv), "fa044b2f42a3fd3b46fb255c");
        assert_eq!(hex(&keys.header), "9f50449e04a0e810283a1e9933adedd2");
        // RFC 9369 appendix A.1.
        let keys = Keys::of(&VERSION_2, &CONNECTION_ID).unwrap();
        assert_eq!(hex(&keys.key), "8b1a0bc121284290a29e0971b5cd045d");
        assert_eq!(hex(&keys.iv), "91f73e2351d8fa91660e909f");
        assert_eq!(hex(&keys.header), "45b95e15235d6f45a6b19cbcb0294ba9");
    }

    /// An Initial packet of a client, padded to 1 200 bytes.
    fn initial(version: u32, of: &Version, token: &[u8]) -> Vec<u8> {
        let mut packet = [&[0xc0 | of.initial | 3][..], &version.to_be_bytes(), &[8], &CONNECTION_ID, &[0]].concat();
        packet.push(u8::try_from(token.len()).unwrap());
        packet.extend(token);
        let length = 1_200 - packet.len() - 2;
        packet.extend((0x4000 | u16::try_from(length).unwrap()).to_be_bytes());
        let number = packet.len();
        packet.extend([0, 0, 0, 2]);
        let keys = Keys::of(of, &CONNECTION_ID).unwrap();
        let mut nonce = keys.iv;
        nonce[NONCE - 1] ^= 2;
        let mut body = vec![0; length - 4 - TAG];
        let tag =
            Aes128Gcm::new(&keys.key.into()).encrypt_in_place_detached(&nonce.into(), &packet, &mut body).unwrap();
        packet.extend(body);
        packet.extend(tag);
        let mut mask = aes::Block::clone_from_slice(&packet[number + SAMPLE_AT..number + SAMPLE_AT + SAMPLE]);
        Aes128::new(&keys.header.into()).encrypt_block(&mut mask);
        packet[0] ^= mask[0] & 0x0f;
        (0..4).for_each(|at| packet[number + at] ^= mask[1 + at]);
        packet
    }

    #[test]
    fn real_initials_open_and_changed_ones_do_not() {
        for (version, of) in [(V1, &VERSION_1), (V2, &VERSION_2), (DRAFT | 29, &DRAFT_29)] {
            for token in [&[][..], &[7; 40]] {
                let packet = initial(version, of, token);
                assert_eq!(packet.len(), 1_200);
                assert!(!is_forged(&packet), "{version:#x}");
                for at in [0, 7, 30, 600, 1_199] {
                    let mut changed = packet.clone();
                    changed[at] ^= 1;
                    assert!(is_forged(&changed), "{version:#x}, byte {at}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_whole_initial_is_not_called_forged() {
        let packet = initial(V1, &VERSION_1, &[]);
        for length in 0..packet.len() {
            assert!(!is_forged(&packet[..length]), "{length} bytes of it");
        }
        let with = |at: usize, byte: u8| {
            let mut packet = packet.clone();
            packet[at] = byte;
            packet
        };
        assert!(!is_forged(&with(0, 0x40)), "a short header");
        assert!(!is_forged(&with(0, 0xe0)), "a handshake packet");
        assert!(!is_forged(&with(4, 9)), "an unknown version");
        assert!(!is_forged(&with(5, 21)), "a connection ID that is too long");
        assert!(!is_forged(&vec![0xc3; 1_600]));
    }
}
