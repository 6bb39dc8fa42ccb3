//! How common something is among legitimate packets when nothing is known about this network: the stand-in for a
//! reservoir that is empty or too small to speak, and the order among rules that the reservoir cannot tell apart.
//!
//! The numbers are orders of magnitude of what stacks send by themselves, rounded against us. Where an application
//! decides (payload, sizes of datagrams, ports of UDP clients) a whole population may look alike, so that next to nothing
//! can be concluded and the numbers say so.

use levee_api::filter::Pattern;
use levee_api::role::Role;

use super::features::Kind;

/// Aspects that vary independently of each other; within one, conditions follow from each other (a stack that sends no
/// options sends no MSS either), so that only the rarest counts.
const ASPECTS: usize = 4;

/// The estimated share of legitimate packets that satisfy a conjunction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Natural([f64; ASPECTS]);

impl Natural {
    /// Of no condition: everything.
    pub(super) const ALL: Self = Self([1.0; ASPECTS]);

    /// Of one condition.
    pub(super) fn of(role: Role, kind: Kind, value: u64) -> Self {
        let mut natural = Self::ALL;
        if let Some(share) = natural.0.get_mut(aspect(role, kind)) {
            *share = share_of(role, kind, value);
        }
        natural
    }

    /// Of one condition on the payload of ICMP.
    pub(super) fn of_echo(kind: Kind, value: u64, pattern: Option<&Pattern>) -> Self {
        let role = Role::IcmpOther;
        let mut natural = Self::of(role, kind, value);
        let odd = pattern.is_some_and(|pattern| !is_of_a_ping(pattern));
        if let Some(share) = natural.0.get_mut(aspect(role, kind)).filter(|_| odd) {
            *share = 0.01;
        }
        natural
    }

    /// Of both.
    pub(super) fn and(self, other: Self) -> Self {
        let mut both = self;
        for (share, other) in both.0.iter_mut().zip(other.0) {
            *share = share.min(other);
        }
        both
    }

    /// The share, 0..=1.
    pub(super) fn share(self) -> f64 {
        self.0.iter().product()
    }
}

fn is_tcp(role: Role) -> bool {
    matches!(role, Role::Syn | Role::OutOfState | Role::UnsolicitedSynAck | Role::Request)
}

/// 0: stack, 1: application, 2: path, 3: source port.
fn aspect(role: Role, kind: Kind) -> usize {
    match kind {
        Kind::Length | Kind::LengthRange if role == Role::Syn => 0,
        Kind::Options
        | Kind::Window
        | Kind::WindowRange
        | Kind::Mss
        | Kind::Ident
        | Kind::TcpFlags
        | Kind::AckZero
        | Kind::SequenceLowZero
        | Kind::Urgent
        | Kind::DontFragment
        | Kind::IpOptions => 0,
        Kind::PayloadBytes
        | Kind::DnsSuffix
        | Kind::Forged
        | Kind::PayloadByte
        | Kind::PayloadByteRange
        | Kind::PayloadLength
        | Kind::Length
        | Kind::LengthRange
        | Kind::DestinationPort
        | Kind::Protocol
        | Kind::Fragment
        | Kind::IcmpType
        | Kind::IcmpCode => 1,
        Kind::Ttl | Kind::TtlRange | Kind::TrafficClass | Kind::Version | Kind::SourcePrefix | Kind::SourceClass => 2,
        Kind::SourcePort | Kind::SourcePortRange | Kind::EqualPorts => 3,
    }
}

fn share_of(role: Role, kind: Kind, value: u64) -> f64 {
    let syn = role == Role::Syn;
    let tcp = is_tcp(role);
    match kind {
        // Every stack in use sends an MSS (RFC 9293 section 3.7.1) and most send more; tools often send none.
        Kind::Options | Kind::Mss if syn && value == 0 => 0.005,
        Kind::Options => 0.6,
        Kind::Mss if matches!(value, 1300..=1460 | 8960) => 0.7,
        Kind::Mss => 0.1,
        // Initial windows are a few multiples of the MSS or 64 KiB; hping's default is 512, Mirai's SYN has 0.
        Kind::Window if syn && value <= 1024 => 0.005,
        Kind::Window if syn && matches!(value, 64_240 | 65_535 | 29_200 | 14_600 | 8_192 | 5_840 | 32_120) => 0.6,
        Kind::Window => 0.1,
        Kind::WindowRange => 0.8,
        Kind::Ident if value == 0 => 0.5,
        Kind::Ident => 0.001,
        // ECN setup (RFC 3168) is the only other thing that a real SYN carries.
        Kind::TcpFlags if syn && value != 0 && value != 2 && value != 0xc2 => 0.002,
        // Clients make packets that their servers can open.
        Kind::Forged if value == 1 => 0.001,
        Kind::SequenceLowZero | Kind::Urgent | Kind::IpOptions if value == 1 => 0.005,
        Kind::AckZero if syn && value == 0 => 0.005,
        // 40 and 44 bytes: no options, or only the MSS.
        Kind::Length if syn && matches!(value, 40 | 44) => 0.01,
        Kind::Length if syn => 0.6,
        // What ping sends by default on Linux, Windows and macOS, IPv4 and IPv6, and what tracers send.
        Kind::Length | Kind::PayloadLength
            if role == Role::IcmpOther && matches!(value, 32 | 36 | 56 | 60 | 64 | 80 | 84 | 92 | 104 | 1500) =>
        {
            0.6
        }
        Kind::Length | Kind::PayloadLength if role == Role::IcmpOther => 0.02,
        Kind::PayloadBytes if role == Role::IcmpOther => 0.6,
        // An echo request has come as far as its sender is away.
        Kind::Ttl if role == Role::IcmpOther => 0.7,
        // Nobody asked: an answer of one size, or with this content, is no accident.
        Kind::Length | Kind::PayloadLength | Kind::PayloadBytes if role == Role::UnsolicitedResponse => 0.05,
        Kind::DnsSuffix | Kind::PayloadBytes | Kind::Length | Kind::PayloadLength => 0.3,
        Kind::SourcePort if role == Role::UnsolicitedResponse => 0.02,
        Kind::EqualPorts if value == 0 => 1.0,
        Kind::SourcePort | Kind::EqualPorts if tcp => 0.002,
        // UDP clients of games, telephones, VPNs and clocks send from their service's own port.
        Kind::SourcePort | Kind::EqualPorts => 0.3,
        Kind::Ttl => 0.1,
        Kind::SourcePrefix => 0.3,
        _ => 1.0,
    }
}

/// True for payload bytes as ping programs send them, each in its place: a time (seconds since 1970, in either byte order) and behind
/// it each byte's own offset, letters from a to w again and again, or zeros.
fn is_of_a_ping(pattern: &Pattern) -> bool {
    const YEARS_2020_TO_2040: std::ops::Range<u8> = 0x5e..0x84;
    let wanted = || (pattern.offset..).zip(&pattern.bytes).take(usize::from(pattern.length));
    let all = |is: fn(u16) -> u16| wanted().all(|(at, byte)| u16::from(*byte) == is(at) & 0xff);
    let seconds = || pattern.bytes.iter().take(4);
    let [first, .., fourth] = pattern.bytes.first_chunk::<4>().copied().unwrap_or_default();
    let is_time = pattern.offset == 0 && (YEARS_2020_TO_2040.contains(&first) || YEARS_2020_TO_2040.contains(&fourth));
    let rest_is_zero = wanted().skip(seconds().len()).all(|(_, byte)| *byte == 0);
    all(|at| at) || all(|_| 0) || all(|at| u16::from(b'a') + at % 23) || is_time && rest_is_zero
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_from_each_other_is_counted_once() {
        let bare = Natural::of(Role::Syn, Kind::Options, 0);
        let no_mss = Natural::of(Role::Syn, Kind::Mss, 0);
        assert!((bare.and(no_mss).share() - 0.005).abs() < 1e-12);
        let ttl = Natural::of(Role::Syn, Kind::Ttl, 250);
        assert!((bare.and(ttl).share() - 0.0005).abs() < 1e-12, "the path is independent of the stack");
        assert!((Natural::ALL.and(ttl).share() - 0.1).abs() < 1e-12);
    }

    #[test]
    fn what_ping_programs_send_is_natural_and_what_tools_repeat_is_not() {
        let of = |offset: u16, wanted: &[u8]| {
            let mut bytes = [0; 16];
            bytes.iter_mut().zip(wanted).for_each(|(byte, wanted)| *byte = *wanted);
            is_of_a_ping(&Pattern { offset, length: u8::try_from(wanted.len()).unwrap(), bytes, mask: [0xff; 16] })
        };
        assert!(of(0, b"abcdefgh") && of(16, b"qrstuvwa") && of(8, &[0; 8]));
        assert!(of(16, &[16, 17, 18, 19, 20, 21, 22, 23]) && of(0, &[0x77, 0x21, 0x54, 0x68, 0, 0, 0, 0]));
        assert!(!of(16, b"abcdefgh") && !of(0, &[0x55; 8]) && !of(8, &[0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4]));
    }
}
