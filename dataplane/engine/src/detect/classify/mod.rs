//! Classification: which vectors an attack consists of, from the samples of an alarmed role.
//!
//! Each sample says one vector; those that at least one in [`MIN_SHARE`] samples say are reported, most likely first.
//! Confidence is the share of the samples that say so, times how clearly they say it: 1 where the payload or an
//! unambiguous header proves it, less where another explanation remains. Evidence tells both, and what the samples of
//! the vector have in common. What an attack is besides its packets is told by [`properties`].

pub mod about;
mod among;
pub mod amplification;
mod course;
mod evidence;
#[cfg(test)]
mod tests;
mod udp;

use levee_api::lane::{Lane, TcpFlags};
use levee_api::role::Role;
use levee_api::vector::Vector;

use crate::detect::classify::among::Among;
use crate::detect::event::Finding;
use crate::sample::Sample;

pub use course::properties;

/// A vector is reported if one in so many samples shows it: what is rarer is likely to be the traffic beside.
const MIN_SHARE: usize = 20;

/// What one sample says: a vector, how clearly (0..=1), and why in words.
type Say = (Vector, f64, &'static str);

/// The vectors that samples of one role show, most likely first; none without samples.
pub fn classify(role: Role, samples: &[Sample]) -> Vec<Finding> {
    let among = Among::of(samples);
    let said: Vec<(Say, &Sample)> = samples.iter().map(|sample| (say(role, sample, &among), sample)).collect();
    let mut findings: Vec<Finding> = Vector::ALL.iter().filter_map(|vector| finding(*vector, &said)).collect();
    // Stable: ties stay in the order of the vectors.
    findings.sort_by(|one, two| two.confidence.total_cmp(&one.confidence));
    findings
}

/// The same of SYNs whose handshakes are completed, on connections that are not used: that is their vector, whatever they look like.
pub fn classify_idle(samples: &[Sample]) -> Vec<Finding> {
    let why = "SYN, and most connections are opened and not used";
    let said: Vec<(Say, &Sample)> =
        samples.iter().map(|sample| ((Vector::TcpConnectionFlood, 0.9, why), sample)).collect();
    finding(Vector::TcpConnectionFlood, &said).into_iter().collect()
}

fn finding(vector: Vector, said: &[(Say, &Sample)]) -> Option<Finding> {
    let of: Vec<&(Say, &Sample)> = said.iter().filter(|((by, ..), _)| *by == vector).collect();
    if of.is_empty() || of.len() * MIN_SHARE < said.len() {
        return None;
    }
    // A vector is as clear as its samples on average, and as present as its share.
    let clarity: f64 = of.iter().map(|((_, clarity, _), _)| clarity).sum();
    let mut reasons: Vec<(&'static str, usize)> = Vec::new();
    for ((_, _, why), _) in &of {
        match reasons.iter_mut().find(|(known, _)| known == why) {
            Some((_, count)) => *count += 1,
            None => reasons.push((why, 1)),
        }
    }
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let samples: Vec<&Sample> = of.iter().map(|(_, sample)| *sample).collect();
    let evidence = reasons
        .into_iter()
        .map(|(why, count)| format!("{why}: {count} of {} samples", said.len()))
        .chain(evidence::shared(&samples))
        .chain(evidence::tools(vector, &samples))
        .collect();
    Some(Finding { vector, confidence: clarity / number(said.len()), evidence })
}

fn say(role: Role, sample: &Sample, among: &Among) -> Say {
    match role {
        Role::Syn if sample.lanes.get(Lane::PayloadLength) > 0 => (Vector::SynFlood, 1.0, "SYN with data"),
        Role::Syn => (Vector::SynFlood, 1.0, "SYN"),
        Role::UnsolicitedSynAck => (Vector::SynAckReflection, 0.95, "SYN-ACK that nobody inside asked for"),
        Role::OutOfState => tcp(sample, among),
        Role::Request => request(sample),
        Role::UdpOpen | Role::UdpUnserved | Role::UnsolicitedResponse => udp::say(role, sample, among),
        Role::IcmpOther => icmp(sample),
        Role::LaterFragment => fragment(sample),
        Role::OtherProtocol => protocol(sample),
        Role::Malformed if sample.lanes.get(Lane::Protocol) == 6 => impossible(sample),
        Role::Malformed => (Vector::MalformedFlood, 0.9, "packet that no stack sends"),
        Role::Established => (Vector::EstablishedFlood, 0.7, "packet inside a proven connection"),
    }
}

fn flags(sample: &Sample) -> TcpFlags {
    TcpFlags::from_bits_truncate(sample.lanes.get(Lane::TcpFlags))
}

/// TCP outside any connection, by what it pretends to be.
fn tcp(sample: &Sample, among: &Among) -> Say {
    const CLARITY: f64 = 0.9;
    let flags = flags(sample);
    // Boxes on the path answer forged requests with block pages and resets, also without a handshake (Bock and others,
    // USENIX Security 2021). A reset alone may come from anywhere.
    if among::is_block_page(sample) {
        return (Vector::TcpMiddleboxReflection, CLARITY, "HTTP response that nobody asked for");
    }
    let from_web = matches!(sample.lanes.get(Lane::SrcPort), 80 | 443);
    if among.block_pages && from_web && flags.intersects(TcpFlags::RST | TcpFlags::FIN) {
        return (Vector::TcpMiddleboxReflection, CLARITY, "end of a connection, from a web port, beside block pages");
    }
    if among.few_connections && among::is_bare_ack(sample) {
        return (Vector::EstablishedFlood, 0.8, "bare ACK, many of which are on the same connections");
    }
    if flags.contains(TcpFlags::SYN | TcpFlags::ACK) {
        (Vector::SynAckReflection, CLARITY, "SYN-ACK outside any connection")
    } else if flags.contains(TcpFlags::RST) {
        (Vector::RstFlood, CLARITY, "RST outside any connection")
    } else if flags.contains(TcpFlags::FIN) {
        (Vector::FinFlood, CLARITY, "FIN outside any connection")
    } else if flags.contains(TcpFlags::PSH) {
        (Vector::PshAckFlood, CLARITY, "data with PSH outside any connection")
    } else if flags.contains(TcpFlags::ACK) && sample.lanes.get(Lane::PayloadLength) > 0 {
        (Vector::AckFlood, CLARITY, "ACK with data outside any connection")
    } else if flags.contains(TcpFlags::ACK) {
        (Vector::AckFlood, CLARITY, "bare ACK outside any connection")
    } else {
        impossible(sample)
    }
}

/// TCP that is dropped as malformed: by its flags, if those are what is wrong.
fn impossible(sample: &Sample) -> Say {
    let flags = flags(sample);
    let all = TcpFlags::FIN | TcpFlags::SYN | TcpFlags::RST | TcpFlags::PSH | TcpFlags::ACK | TcpFlags::URG;
    let both = |one, two| flags.contains(one) && flags.contains(two);
    if !flags.intersects(all) {
        (Vector::NullFlood, 1.0, "no TCP flag at all")
    } else if both(TcpFlags::FIN, TcpFlags::URG)
        || both(TcpFlags::SYN, TcpFlags::FIN)
        || both(TcpFlags::SYN, TcpFlags::RST)
        || !flags.intersects(TcpFlags::ACK | TcpFlags::SYN | TcpFlags::RST)
    {
        (Vector::XmasFlood, 1.0, "TCP flags that contradict each other")
    } else {
        (Vector::MalformedFlood, 0.9, "TCP that no stack sends")
    }
}

/// First data on a proven connection.
fn request(sample: &Sample) -> Say {
    const METHODS: [&[u8]; 9] = [b"GET ", b"POST", b"HEAD", b"PUT ", b"DELE", b"OPTI", b"PATC", b"TRAC", b"PRI "];
    match sample.payload {
        // Handshake record of any version, client hello (RFC 8446 sections 5.1 and 4).
        [0x16, 3, _, _, _, 1, ..] => (Vector::TlsHandshakeFlood, 0.95, "TLS client hello"),
        payload if METHODS.iter().any(|method| payload.starts_with(method)) => {
            (Vector::HttpRequestFlood, 0.95, "HTTP request")
        }
        _ => (Vector::TcpConnectionFlood, 0.6, "connection without a known request"),
    }
}

fn icmp(sample: &Sample) -> Say {
    match (sample.lanes.get(Lane::Protocol), sample.lanes.get(Lane::SrcPort)) {
        (58, 128) => (Vector::Icmpv6Flood, 1.0, "ICMPv6 echo request"),
        (58, 129) => (Vector::Icmpv6Flood, 1.0, "ICMPv6 echo reply: perhaps reflected"),
        (58, _) => (Vector::Icmpv6Flood, 1.0, "ICMPv6"),
        (_, 8) => (Vector::IcmpFlood, 1.0, "echo request"),
        // Whole networks answer a request to their broadcast address (CERT CA-1998-01).
        (_, 0) => (Vector::Smurf, 0.9, "echo reply that nobody asked for"),
        _ => (Vector::IcmpFlood, 1.0, "ICMP"),
    }
}

fn fragment(sample: &Sample) -> Say {
    let (vector, why) = match sample.lanes.get(Lane::Protocol) {
        6 => (Vector::TcpFragment, "later fragment of TCP whose first was not seen"),
        17 => (Vector::UdpFragment, "later fragment of UDP whose first was not seen"),
        1 | 58 => (Vector::UdpFragment, "later fragment of ICMP whose first was not seen"),
        _ => (Vector::UdpFragment, "later fragment whose first was not seen"),
    };
    (vector, 0.9, why)
}

/// By protocol number (IANA).
fn protocol(sample: &Sample) -> Say {
    match sample.lanes.get(Lane::Protocol) {
        2 => (Vector::IgmpFlood, 1.0, "IGMP, which does not cross the internet"),
        47 => (Vector::GreFlood, 1.0, "GRE"),
        50 | 51 => (Vector::EspFlood, 1.0, "ESP or AH"),
        4 | 41 => (Vector::IpipFlood, 1.0, "IP in IP"),
        _ => (Vector::RandomProtocol, 0.9, "unusual IP protocol"),
    }
}

/// A count as a number to divide by.
fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}
