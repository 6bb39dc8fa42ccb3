//! What reflectors answer when somebody asks in the victim's name.
//!
//! Each protocol's response is well-formed enough for its own dissector. Sizes and bytes follow the protocols'
//! specifications and the measurements of US-CERT TA14-017A and Rossow, "Amplification Hell" (NDSS 2014).

use rand::{Rng, RngExt};

use crate::frame;

/// A service that answers more than it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reflector {
    /// ANY responses with TXT records, 800 to 3900 bytes (RFC 1035).
    Dns,
    /// `monlist` responses, mode 7, 440 bytes.
    Ntp,
    /// Search result entries of an LDAP root, 1.5 to 3 kB (RFC 4511).
    Cldap,
    /// `HTTP/1.1 200 OK` announcements (UPnP device architecture).
    Ssdp,
    /// A value sent back in frames of 1400 bytes.
    Memcached,
}

impl Reflector {
    /// The UDP port that the responses come from.
    pub fn port(self) -> u16 {
        match self {
            Self::Dns => 53,
            Self::Ntp => 123,
            Self::Cldap => 389,
            Self::Ssdp => 1900,
            Self::Memcached => 11_211,
        }
    }

    /// Writes the payload of one response.
    pub fn response(self, payload: &mut Vec<u8>, rng: &mut impl Rng) {
        payload.clear();
        match self {
            Self::Dns => dns(payload, rng),
            Self::Ntp => ntp(payload, rng),
            Self::Cldap => cldap(payload, rng),
            Self::Ssdp => ssdp(payload, rng),
            Self::Memcached => memcached(payload, rng),
        }
    }
}

fn dns(payload: &mut Vec<u8>, rng: &mut impl Rng) {
    let records = rng.random_range(3u16..=16);
    payload.extend(rng.random::<[u8; 2]>());
    payload.extend([0x81, 0x80, 0, 1]); // response, recursion desired and available; one question
    payload.extend(records.to_be_bytes());
    payload.extend([0; 4]);
    payload.extend(b"\x07example\x03com\x00\x00\xff\x00\x01");
    for _ in 0..records {
        let text: u8 = rng.random_range(180..=230);
        payload.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0x0e, 0x10]); // name, TXT, IN, one hour
        payload.extend((u16::from(text) + 1).to_be_bytes());
        payload.push(text);
        printable(payload, text, rng);
    }
}

fn ntp(payload: &mut Vec<u8>, rng: &mut impl Rng) {
    payload.extend([0xd7, 0, 3, 0x2a, 0, 6, 0, 72]); // response, more follow; XNTPD, MON_GETLIST_1, 6 items of 72
    random(payload, 6 * 72, rng);
}

fn cldap(payload: &mut Vec<u8>, rng: &mut impl Rng) {
    let mut value = Vec::new();
    let length = rng.random_range(1_400..=2_800);
    random(&mut value, length, rng);
    let values = ber(0x31, &ber(0x04, &value));
    let attribute = ber(0x30, &[b"\x04\x0bcurrentTime", &values[..]].concat());
    let entry = ber(0x64, &[b"\x04\x00", &ber(0x30, &attribute)[..]].concat());
    payload.extend(ber(0x30, &[b"\x02\x01\x07", &entry[..]].concat())); // message 7, search result entry
}

/// Tag, length in the four-byte form that Windows servers use, content.
fn ber(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = frame::low16(content.len()).to_be_bytes();
    [&[tag, 0x84, 0, 0, high, low], content].concat()
}

fn ssdp(payload: &mut Vec<u8>, rng: &mut impl Rng) {
    let [a, b, c, d] = rng.random::<[u8; 4]>();
    let uuid: u32 = rng.random();
    payload.extend(
        format!(
            "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nEXT:\r\nLOCATION: http://{a}.{b}.{c}.{d}:49152/desc.xml\r\n\
             SERVER: Linux/2.6 UPnP/1.0 libupnp/1.6.6\r\nST: upnp:rootdevice\r\n\
             USN: uuid:{uuid:08x}-1dd1-11b2-8f61-0090a9b3c1a7::upnp:rootdevice\r\n\r\n"
        )
        .bytes(),
    );
}

fn memcached(payload: &mut Vec<u8>, rng: &mut impl Rng) {
    let sequence: u16 = rng.random_range(0..700);
    payload.extend(rng.random::<[u8; 2]>());
    payload.extend(sequence.to_be_bytes());
    payload.extend([0x02, 0xbc, 0, 0]); // 700 datagrams in all
    if sequence == 0 {
        payload.extend(b"VALUE a 0 979000\r\n");
    }
    let room = 1_400 - payload.len();
    payload.extend(std::iter::repeat_n(b'a', room));
}

fn printable(payload: &mut Vec<u8>, count: u8, rng: &mut impl Rng) {
    payload.extend((0..count).map(|_| rng.random_range(b'a'..=b'z')));
}

/// Appends random bytes.
pub(crate) fn random(payload: &mut Vec<u8>, count: usize, rng: &mut impl Rng) {
    let start = payload.len();
    payload.resize(start + count, 0);
    if let Some(fresh) = payload.get_mut(start..) {
        rng.fill_bytes(fresh);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn every_response_starts_and_measures_as_its_protocol_does() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut payload = Vec::new();
        for _ in 0..1_000 {
            Reflector::Dns.response(&mut payload, &mut rng);
            assert!(payload[2] & 0x80 != 0 && (500..4_000).contains(&payload.len()));
            Reflector::Ntp.response(&mut payload, &mut rng);
            assert!(payload[0] & 7 == 7 && payload.len() == 440);
            Reflector::Cldap.response(&mut payload, &mut rng);
            assert_eq!(usize::from(u16::from_be_bytes([payload[4], payload[5]])), payload.len() - 6);
            assert_eq!(payload[9], 0x64);
            Reflector::Ssdp.response(&mut payload, &mut rng);
            assert!(payload.starts_with(b"HTTP/1.1 200 OK\r\n") && payload.ends_with(b"\r\n\r\n"));
            Reflector::Memcached.response(&mut payload, &mut rng);
            assert_eq!(payload.len(), 1_400);
        }
    }
}
