//! QUIC Initial packets of version 1 (RFC 9000 section 17.2.2): as clients make them, and as floods that only look like it.

use aes::{
    Aes128,
    cipher::{BlockEncrypt, KeyInit},
};
use aes_gcm::{Aes128Gcm, aead::AeadInPlace};
use hkdf::Hkdf;
use rand::{Rng, RngExt};
use sha2::Sha256;

use crate::{amplification::random, conversation::client_hello};

/// Salt of the keys of Initial packets (RFC 9001 section 5.2).
const SALT: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f,
    0x0a,
];
/// Length of a datagram: at least 1200 (RFC 9000 section 14.1), and browsers send a little more.
const DATAGRAM: usize = 1_250;
const TAG: usize = 16;

/// What begins a packet: both connection IDs, no token, the length of the rest, and packet number 0 in one byte.
fn header(rng: &mut impl Rng) -> Vec<u8> {
    let mut header = vec![0xc0, 0, 0, 0, 1, 8];
    header.extend(rng.random::<[u8; 8]>());
    header.push(8);
    header.extend(rng.random::<[u8; 8]>());
    header.push(0);
    let rest = crate::frame::low16(DATAGRAM - header.len() - 2);
    header.extend((0x4000 | rest).to_be_bytes());
    header.push(0);
    header
}

/// A packet whose content is noise.
pub(crate) fn noise(rng: &mut impl Rng) -> Vec<u8> {
    let mut packet = header(rng);
    let rest = DATAGRAM - packet.len();
    random(&mut packet, rest, rng);
    packet
}

/// A packet with a TLS client hello, sealed with the keys that its connection ID gives.
pub(crate) fn initial(rng: &mut impl Rng) -> Vec<u8> {
    let header = header(rng);
    let hello = client_hello(rng);
    // The record header is TLS over TCP's; a CRYPTO frame at offset 0 has the rest (RFC 9000 section 19.6), then padding.
    let hello = hello.get(5..).unwrap_or_default();
    let mut content = vec![6, 0];
    content.extend((0x4000 | crate::frame::low16(hello.len())).to_be_bytes());
    content.extend(hello);
    content.resize(DATAGRAM - header.len() - TAG, 0);
    seal(&header, content).unwrap_or_default()
}

/// Packet protection (RFC 9001 sections 5.3 and 5.4) of a packet whose number is 0 and the last byte of its header.
fn seal(header: &[u8], mut content: Vec<u8>) -> Option<Vec<u8>> {
    let connection_id = header.get(6..14)?;
    let secret: [u8; 32] = expand(&Hkdf::new(Some(&SALT), connection_id), b"tls13 client in")?;
    let client = Hkdf::from_prk(&secret).ok()?;
    let key: [u8; 16] = expand(&client, b"tls13 quic key")?;
    let nonce: [u8; 12] = expand(&client, b"tls13 quic iv")?;
    let mask: [u8; 16] = expand(&client, b"tls13 quic hp")?;
    let tag = Aes128Gcm::new(&key.into()).encrypt_in_place_detached(&nonce.into(), header, &mut content).ok()?;
    // The sample begins where it would behind a packet number of four bytes.
    let mut block = (*content.get(3..)?.first_chunk::<16>()?).into();
    Aes128::new(&mask.into()).encrypt_block(&mut block);
    let mut packet = [header, &content, &tag].concat();
    *packet.first_mut()? ^= block.first()? & 0x0f;
    *packet.get_mut(header.len() - 1)? ^= block.get(1)?;
    Some(packet)
}

/// HKDF-Expand-Label without a context (RFC 8446 section 7.1).
fn expand<const N: usize>(secret: &Hkdf<Sha256>, label: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let [length, label_length] = [u8::try_from(N).ok()?, u8::try_from(label.len()).ok()?];
    secret.expand_multi_info(&[&[0, length, label_length], label, &[0]], &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9001 appendix A.1.
    #[test]
    fn keys_are_those_of_the_example_of_the_rfc() {
        let header = [0xc0, 0, 0, 0, 1, 8, 0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08, 0];
        let secret: [u8; 32] = expand(&Hkdf::new(Some(&SALT), &header[6..14]), b"tls13 client in").unwrap();
        let client = Hkdf::from_prk(&secret).unwrap();
        let key: [u8; 16] = expand(&client, b"tls13 quic key").unwrap();
        assert_eq!(key, 0x1f36_9613_dd76_d546_7730_efcb_e3b1_a22d_u128.to_be_bytes());
        let mask: [u8; 16] = expand(&client, b"tls13 quic hp").unwrap();
        assert_eq!(mask, 0x9f50_449e_04a0_e810_283a_1e99_33ad_edd2_u128.to_be_bytes());
    }

    #[test]
    fn an_initial_has_its_length_and_is_different_each_time() {
        use rand::SeedableRng;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let packets: Vec<_> = (0..10).flat_map(|_| [initial(&mut rng), noise(&mut rng)]).collect();
        assert!(packets.iter().all(|packet| packet.len() == DATAGRAM && packet[0] & 0xf0 == 0xc0));
        assert!(packets.windows(2).all(|pair| pair[0][100..] != pair[1][100..]));
    }
}
