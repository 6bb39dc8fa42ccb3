//! What a UDP datagram says: an answer that nobody asked for, a query, a handshake, or bytes.

use levee_api::lane::Lane;
use levee_api::role::Role;
use levee_api::vector::Vector;

use super::{Say, among::Among, amplification};
use crate::sample::{SAMPLE_PAYLOAD, Sample};

/// Payload bytes that are compared: two datagrams that agree in so many are copies of each other.
const COMPARED: usize = 16;
/// Contents that one in so many samples has are constant.
const MIN_REPEATED: usize = 20;

/// Beginnings of payloads that many samples share.
pub(super) struct Repeated(Vec<[u8; COMPARED]>);

impl Repeated {
    pub(super) fn among(samples: &[Sample]) -> Self {
        let mut beginnings: Vec<[u8; COMPARED]> = samples.iter().map(beginning).collect();
        beginnings.sort_unstable();
        let often = |same: &&[[u8; COMPARED]]| same.len() > 1 && same.len() * MIN_REPEATED >= samples.len();
        Self(
            beginnings.chunk_by(|one, two| one == two).filter(often).filter_map(|same| same.first().copied()).collect(),
        )
    }

    fn contains(&self, sample: &Sample) -> bool {
        self.0.binary_search(&beginning(sample)).is_ok()
    }
}

fn beginning(sample: &Sample) -> [u8; COMPARED] {
    sample.payload.first_chunk().copied().unwrap_or_default()
}

/// What a datagram of a UDP role says.
pub(super) fn say(role: Role, sample: &Sample, among: &Among) -> Say {
    if let Some(class) = amplification::answer_of(&sample.lanes) {
        return (class.vector, 0.95, "answer of a service that nobody inside asked");
    }
    if let Some(said) = by_payload(sample, among) {
        return said;
    }
    if role == Role::UnsolicitedResponse
        && let Some(class) = amplification::class_of(sample.lanes.get(Lane::SrcPort))
    {
        return (class.vector, 0.6, "from the port of a service that nobody inside asked, with other content");
    }
    match (sample.lanes.get(Lane::PayloadLength), among.repeated.contains(sample)) {
        (0, _) => (Vector::UdpConstant, 0.8, "no payload"),
        (_, true) => (Vector::UdpConstant, 0.9, "payload that many datagrams share"),
        (_, false) => (Vector::UdpRandom, 0.9, "payload unlike the others"),
    }
}

/// Answers that come from any port, queries and handshakes.
fn by_payload(sample: &Sample, among: &Among) -> Option<Say> {
    let length = sample.lanes.get(Lane::PayloadLength);
    match sample.payload {
        // DATA, block 1, full or last (RFC 1350): servers answer from a new port.
        [0, 3, 0, 1, ..] if (5..=516).contains(&length) => {
            Some((Vector::TftpAmplification, 0.8, "first block of a TFTP transfer"))
        }
        [b'H', b'T', b'T', b'P', b'/', b'1', ..] => Some((Vector::SsdpAmplification, 0.8, "HTTP response in UDP")),
        _ if is_quic_initial(&sample.payload) && length >= 1200 => {
            Some((Vector::QuicInitialFlood, 0.95, "QUIC Initial"))
        }
        _ if is_dns_query(sample) && among.is_random_name(sample) => Some((
            Vector::DnsWaterTorture,
            0.9,
            "DNS query for a name of its own under a domain that others ask for too",
        )),
        _ if is_dns_query(sample) => Some((Vector::DnsQueryFlood, 0.9, "DNS query")),
        _ => None,
    }
}

/// Long header, fixed bit, type Initial, of version 1 (RFC 9000 section 17.2.2) or 2 (RFC 9369 section 3.2).
fn is_quic_initial(payload: &[u8; SAMPLE_PAYLOAD]) -> bool {
    match payload {
        [first, 0, 0, 0, 1, ..] => first & 0xf0 == 0xc0,
        [first, 0x6b, 0x33, 0x43, 0xcf, ..] => first & 0xf0 == 0xd0,
        _ => false,
    }
}

/// To port 53: a standard query with one question and no answers (RFC 1035 section 4.1.1).
fn is_dns_query(sample: &Sample) -> bool {
    let [_, _, flags, _, 0, 1, 0, 0, ..] = sample.payload else { return false };
    sample.lanes.get(Lane::DstPort) == 53 && flags & 0xf8 == 0 && sample.present >= 12
}
