//! Headers of answers, in rows of 32 bits as in the pictures of their RFCs: summed and written by the row.
//!
//! Always inlined: rows that go through memory between functions are written one by one and read four at a time, for which a CPU waits
//! (a third of what an answer cost).

use levee_api::lane::TcpFlags;

use super::options;

pub(super) const IPV4: usize = 20;
pub(super) const IPV6: usize = 40;
pub(super) const TCP: usize = 20;
pub(super) const UDP: usize = 8;
pub(super) const TCP_PROTOCOL: u8 = 6;
pub(super) const UDP_PROTOCOL: u8 = 17;
/// As hosts send it (RFC 1700's recommendation, and what Linux does).
const TTL: u8 = 64;

/// An IPv4 header without options (RFC 791). `content`: length of what follows.
#[inline(always)]
pub(super) fn ipv4(source: u32, destination: u32, protocol: u8, content: usize) -> [u32; 5] {
    const VERSION_AND_LENGTH: u32 = 0x4500_0000;
    const DO_NOT_FRAGMENT: u32 = 0x4000;
    let first = VERSION_AND_LENGTH | u32::from(length(IPV4 + content));
    let third = u32::from(TTL) << 24 | u32::from(protocol) << 16;
    let check = checksum(sum(&[first, DO_NOT_FRAGMENT, third, source, destination]));
    [first, DO_NOT_FRAGMENT, third | u32::from(check), source, destination]
}

/// The same header again, for other content and without options; everything else stays.
#[inline]
pub(super) fn ipv4_again([first, second, third, source, destination]: [u32; 5], content: usize) -> [u32; 5] {
    const TYPE_OF_SERVICE: u32 = 0x00ff_0000;
    let first = 0x4500_0000 | first & TYPE_OF_SERVICE | u32::from(length(IPV4 + content));
    let third = third & 0xffff_0000;
    let check = checksum(sum(&[first, second, third, source, destination]));
    [first, second, third | u32::from(check), source, destination]
}

/// The second row of an IPv6 header for other content.
#[inline]
pub(super) fn ipv6_again(content: usize, protocol: u8, hops: u8) -> u32 {
    u32::from(length(content)) << 16 | u32::from(protocol) << 8 | u32::from(hops)
}

/// An IPv6 header up to the addresses (RFC 8200).
#[inline(always)]
pub(super) fn ipv6(protocol: u8, content: usize) -> [u32; 2] {
    const VERSION: u32 = 0x6000_0000;
    [VERSION, u32::from(length(content)) << 16 | u32::from(protocol) << 8 | u32::from(TTL)]
}

/// A TCP header without options (RFC 9293). `addresses`: their sum.
#[inline(always)]
pub(super) fn tcp(
    addresses: u64,
    ports: u32,
    sequence: u32,
    acknowledgement: u32,
    flags: TcpFlags,
    window: u16,
) -> [u32; 5] {
    const OFFSET: u32 = 5 << 28;
    let fourth = OFFSET | u32::from(flags.bits()) << 16 | u32::from(window);
    let pseudo = addresses + u64::from(TCP_PROTOCOL) + TCP as u64;
    let check = checksum(pseudo + sum(&[ports, sequence, acknowledgement, fourth]));
    [ports, sequence, acknowledgement, fourth, u32::from(check) << 16]
}

/// A segment with options, and how many of its rows are used. `zeros`: so many bytes of data, all of them zero.
#[inline]
#[expect(clippy::too_many_arguments, reason = "the fields of the header")]
pub(super) fn tcp_with(
    addresses: u64,
    ports: u32,
    sequence: u32,
    acknowledgement: u32,
    flags: TcpFlags,
    window: u16,
    (options, used): ([u32; options::ROWS], usize),
    zeros: usize,
) -> ([u32; 5 + options::ROWS], usize) {
    let used = 5 + used.min(options::ROWS);
    let offset = u32::from(length(used)) << 28;
    let fourth = offset | u32::from(flags.bits()) << 16 | u32::from(window);
    let pseudo = addresses + u64::from(TCP_PROTOCOL) + u64::from(length(used * 4 + zeros));
    let check = checksum(pseudo + sum(&[ports, sequence, acknowledgement, fourth]) + sum(&options));
    let mut rows = [0; 5 + options::ROWS];
    let header = [ports, sequence, acknowledgement, fourth, u32::from(check) << 16];
    rows.iter_mut().zip(header.into_iter().chain(options)).for_each(|(row, value)| *row = value);
    (rows, used)
}

/// What changes in something that has a checksum (RFC 1624).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Change(u64);

impl Change {
    /// A row becomes another one. `odd`: it begins at an odd offset.
    #[inline]
    pub(super) fn replace(&mut self, old: u32, new: u32, odd: bool) {
        let change = folded(u64::from(!old) + u64::from(new));
        self.0 += u64::from(if odd { change.swap_bytes() } else { change });
    }

    /// The checksum behind it.
    #[inline]
    pub(super) fn checksum(self, old: u16) -> u16 {
        checksum(u64::from(!old) + self.0)
    }
}

/// A UDP header (RFC 768) before a message.
#[inline]
pub(super) fn udp(addresses: u64, ports: u32, message: &[u8]) -> [u32; 2] {
    let length = length(UDP + message.len());
    let (rows, rest) = message.as_chunks::<4>();
    let mut last = [0; 4];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    let message: u64 = rows.iter().chain([&last]).map(|row| u64::from(u32::from_be_bytes(*row))).sum();
    let pseudo = addresses + u64::from(UDP_PROTOCOL) + u64::from(length);
    // Zero would say that there is no checksum.
    let check = match checksum(pseudo + sum(&[ports, u32::from(length) << 16]) + message) {
        0 => u16::MAX,
        check => check,
    };
    [ports, u32::from(length) << 16 | u32::from(check)]
}

/// The sum of rows, which is that of their halves as far as a checksum is concerned: 2^16 is 1 modulo 2^16 - 1.
#[inline(always)]
pub(super) fn sum(rows: &[u32]) -> u64 {
    rows.iter().map(|row| u64::from(*row)).sum()
}

/// The rows at the beginning of some bytes, zero behind their end.
#[inline(always)]
pub(super) fn rows<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let mut rows = [0; N];
    for (row, bytes) in rows.iter_mut().zip(bytes.as_chunks().0) {
        *row = u32::from_be_bytes(*bytes);
    }
    rows
}

/// Writes rows to the beginning of some bytes.
#[inline(always)]
pub(super) fn put(rows: &[u32], bytes: &mut [u8]) {
    for (bytes, row) in bytes.as_chunks_mut().0.iter_mut().zip(rows) {
        *bytes = row.to_be_bytes();
    }
}

/// The checksum of a sum (RFC 1071).
#[inline(always)]
fn checksum(sum: u64) -> u16 {
    !folded(sum)
}

/// A sum modulo 2^16 - 1, not zero unless it is.
#[inline(always)]
fn folded(sum: u64) -> u16 {
    let fold = |sum: u64, bits: u32| (sum & ((1 << bits) - 1)) + (sum >> bits);
    let folded = fold(fold(fold(sum, 32), 16), 16);
    u16::try_from(fold(folded, 16)).unwrap_or(0)
}

#[inline]
fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}
