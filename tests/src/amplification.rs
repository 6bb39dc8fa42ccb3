//! What reflectors answer when somebody asks in the victim's name.
//!
//! Each response is well-formed enough for its protocol's dissector to know it. Sizes and bytes follow the protocols'
//! specifications, the measurements of US-CERT TA14-017A and Rossow, "Amplification Hell" (NDSS 2014), and for younger
//! services the reports of those who saw the attacks.

use levee_api::vector::Vector;
use rand::{Rng, RngExt};

use crate::frame;

/// A service that answers more than it was asked.
#[derive(Debug)]
pub struct Reflector {
    /// What an attack through it is called.
    pub vector: Vector,
    /// The UDP port that responses come from; none: a new one for each.
    source_port: Option<u16>,
    response: Response,
}

#[derive(Debug)]
enum Response {
    Dns,
    Ntp,
    Cldap,
    Ssdp,
    Memcached,
    /// First bytes and what fills the rest, up to a length between two.
    Filled(&'static [u8], Fill, usize, usize),
}

#[derive(Clone, Copy, Debug)]
enum Fill {
    Random,
    Text,
    Zero,
}

use Fill::{Random, Text, Zero};
use Response::Filled;

const fn at(port: u16, vector: Vector, response: Response) -> Reflector {
    Reflector { vector, source_port: Some(port), response }
}

/// All of them, one for each vector.
pub const REFLECTORS: &[Reflector] = &[
    at(53, Vector::DnsAmplification, Response::Dns),
    at(123, Vector::NtpAmplification, Response::Ntp),
    at(389, Vector::CldapAmplification, Response::Cldap),
    at(1900, Vector::SsdpAmplification, Response::Ssdp),
    at(11_211, Vector::MemcachedAmplification, Response::Memcached),
    at(19, Vector::ChargenAmplification, Filled(b"", Text, 200, 1_400)),
    at(17, Vector::QotdAmplification, Filled(b"\"", Text, 60, 512)),
    // GetBulk response of SNMPv2 in community public.
    at(161, Vector::SnmpAmplification, Filled(b"\x30\x82\x05\x00\x02\x01\x01\x04\x06public\xa2", Random, 600, 1_400)),
    at(520, Vector::RipAmplification, Filled(b"\x02\x01\x00\x00\x00\x02\x00\x00", Random, 504, 504)),
    at(
        111,
        Vector::PortmapAmplification,
        Filled(b"\x3a\x5c\x11\x02\x00\x00\x00\x01\x00\x00\x00\x00", Random, 400, 500),
    ),
    at(
        137,
        Vector::NetbiosAmplification,
        Filled(b"\x82\x28\x84\x00\x00\x00\x00\x01\x00\x00\x00\x00", Random, 190, 300),
    ),
    at(1434, Vector::MssqlAmplification, Filled(b"\x05\xc8\x01ServerName;", Text, 200, 700)),
    at(5353, Vector::MdnsAmplification, Filled(b"\x00\x00\x84\x00\x00\x01\x00\x06\x00\x00\x00\x00", Random, 100, 600)),
    at(3702, Vector::WsDiscoveryAmplification, Filled(b"<?xml version=\"1.0\"?><soap:Envelope", Text, 600, 1_400)),
    at(5683, Vector::CoapAmplification, Filled(b"\x60\x45\x21\x07\xff", Text, 600, 1_000)),
    at(3283, Vector::ArdAmplification, Filled(b"\x00\x01\x03\xea\x00\x31", Zero, 1_006, 1_006)),
    // Servers answer from a new port; a block at a time, of 512 bytes (RFC 1350).
    Reflector {
        vector: Vector::TftpAmplification,
        source_port: None,
        response: Filled(b"\x00\x03\x00\x01", Random, 516, 516),
    },
    at(3478, Vector::StunAmplification, Filled(b"\x01\x01\x00\x48\x21\x12\xa4\x42", Random, 92, 92)),
    at(1194, Vector::OpenvpnAmplification, Filled(b"\x40", Random, 54, 54)),
    at(1701, Vector::L2tpAmplification, Filled(b"\xc8\x02\x00\x73", Random, 115, 115)),
    at(623, Vector::IpmiAmplification, Filled(b"\x06\x00\xff\x07", Random, 30, 48)),
    at(47_808, Vector::BacnetAmplification, Filled(b"\x81\x0a", Random, 60, 500)),
    at(37_810, Vector::DvrAmplification, Filled(b"\x20\x00\x00\x00DHIP", Text, 700, 850)),
    at(10_001, Vector::UbiquitiAmplification, Filled(b"\x01\x00\x00\x94", Random, 150, 250)),
    at(
        32_414,
        Vector::PlexAmplification,
        Filled(b"HTTP/1.0 200 OK\r\nContent-Type: plex/media-server\r\n", Text, 260, 300),
    ),
    at(427, Vector::SlpAmplification, Filled(b"\x02\x0a\x00", Text, 600, 1_400)),
    at(5093, Vector::SentinelAmplification, Filled(b"\x7a\x00", Random, 1_300, 1_400)),
    at(500, Vector::IsakmpAmplification, Filled(b"", Random, 100, 400)),
    at(27_015, Vector::SteamAmplification, Filled(b"\xff\xff\xff\xff\x49\x11", Text, 100, 1_200)),
    at(27_960, Vector::QuakeAmplification, Filled(b"\xff\xff\xff\xffstatusResponse\n", Text, 200, 1_200)),
    at(33_848, Vector::JenkinsAmplification, Filled(b"<hudson><version>", Text, 140, 230)),
    // Crestron CIP.
    at(41_794, Vector::OtherAmplification, Filled(b"\x15\x00\x00\x00\x01\x84", Zero, 394, 394)),
];

impl Reflector {
    /// A port that a response comes from.
    pub fn port(&self, rng: &mut impl Rng) -> u16 {
        self.source_port.unwrap_or_else(|| crate::address::ephemeral_port(rng))
    }

    /// Writes the payload of one response.
    pub fn response(&self, payload: &mut Vec<u8>, rng: &mut impl Rng) {
        payload.clear();
        match self.response {
            Response::Dns => dns(payload, rng),
            Response::Ntp => ntp(payload, rng),
            Response::Cldap => cldap(payload, rng),
            Response::Ssdp => ssdp(payload, rng),
            Response::Memcached => memcached(payload, rng),
            Filled(head, fill, least, most) => {
                payload.extend(head);
                let rest = rng.random_range(least..=most).saturating_sub(head.len());
                match fill {
                    Random => random(payload, rest, rng),
                    Text => printable(payload, rest, rng),
                    Zero => payload.extend(std::iter::repeat_n(0, rest)),
                }
            }
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
        printable(payload, usize::from(text), rng);
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

fn printable(payload: &mut Vec<u8>, count: usize, rng: &mut impl Rng) {
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

    fn responses(vector: Vector) -> Vec<Vec<u8>> {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let reflector = REFLECTORS.iter().find(|reflector| reflector.vector == vector).unwrap();
        (0..1_000)
            .map(|_| {
                let mut payload = Vec::new();
                reflector.response(&mut payload, &mut rng);
                payload
            })
            .collect()
    }

    #[test]
    fn responses_start_and_measure_as_their_protocols_do() {
        for payload in responses(Vector::DnsAmplification) {
            assert!(payload[2] & 0x80 != 0 && (500..4_000).contains(&payload.len()));
        }
        for payload in responses(Vector::NtpAmplification) {
            assert!(payload[0] & 7 == 7 && payload.len() == 440);
        }
        for payload in responses(Vector::CldapAmplification) {
            assert_eq!(usize::from(u16::from_be_bytes([payload[4], payload[5]])), payload.len() - 6);
            assert_eq!(payload[9], 0x64);
        }
        for payload in responses(Vector::SsdpAmplification) {
            assert!(payload.starts_with(b"HTTP/1.1 200 OK\r\n") && payload.ends_with(b"\r\n\r\n"));
        }
        assert!(responses(Vector::MemcachedAmplification).iter().all(|payload| payload.len() == 1_400));
        assert!(responses(Vector::RipAmplification).iter().all(|payload| payload.len() == 504 && payload[0] == 2));
        assert!(responses(Vector::SlpAmplification).iter().all(|payload| (600..=1_400).contains(&payload.len())));
    }

    #[test]
    fn every_vector_of_amplification_has_one_reflector() {
        for vector in Vector::ALL.iter().filter(|vector| vector.name().ends_with("-amplification")) {
            assert_eq!(REFLECTORS.iter().filter(|reflector| reflector.vector == *vector).count(), 1, "{vector}");
        }
    }
}
