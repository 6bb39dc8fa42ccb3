//! Packets of connections that were opened in the place of a server, rewritten in their own frames on their way through.

use levee_api::lane::TcpFlags;

use super::header::{self, Change, IPV4, IPV6, TCP, TCP_PROTOCOL};
use super::options::{self, Options, Stamps, kind};
use super::reply::Way;
use crate::packet::Layers;

/// How many bytes longer than it was a packet may become: an acknowledgement without options that becomes a SYN with all of them.
pub const GROWTH: usize = 4 * options::ROWS;
/// Shorter frames than this (without FCS) are filled up on their way anyway.
const SHORTEST_FRAME: usize = 60;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// It stays as it is.
    None,
    /// The client's acknowledgement of a cookie becomes its SYN again.
    Open {
        /// Its sequence number.
        sequence: u32,
        /// What it offered.
        options: Options,
        /// Its window in bytes.
        window: u16,
    },
    /// The server's SYN-ACK becomes a segment that the client has to acknowledge, and that opens the window: a byte that
    /// it already has, in the place of the SYN, as keep-alives have it (RFC 9293 section 3.8.4).
    Probe {
        /// The sequence number of the SYN-ACK that the client got.
        sequence: u32,
        /// What is taken from the server's timestamps; none: the client has none.
        stamps: Option<u32>,
        /// The scale that the client was told.
        scale: u8,
    },
    /// The server's refusal has a number that the client takes.
    Refuse {
        /// The sequence number.
        sequence: u32,
    },
    /// Numbers of one side are counted from where the other's begin.
    Numbers(Numbers),
    /// The same for the sequence number that an ICMP error quotes.
    Quote {
        /// What is added to it.
        sequence: u32,
    },
}

/// What is added to numbers, modulo 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// To sequence numbers.
    pub sequence: u32,
    /// To acknowledgements, selective ones too.
    pub acknowledgement: u32,
    /// To the sender's timestamp.
    pub value: u32,
    /// To the echo of the other side's.
    pub echo: u32,
    /// By how many bits windows are moved to the left.
    pub window: i8,
}

/// Offsets in a TCP header.
mod at {
    pub(super) const SEQUENCE: usize = 4;
    pub(super) const ACKNOWLEDGEMENT: usize = 8;
    pub(super) const FLAGS: usize = 12;
    pub(super) const CHECKSUM: usize = 16;
    pub(super) const OPTIONS: usize = 20;
}

impl Edit {
    /// Rewrites a frame of so many bytes, behind which [`GROWTH`] bytes may be used; returns how long it is then. None when it cannot be
    /// rewritten; then it is to be dropped. `layers`: of the frame.
    #[inline]
    pub fn write(&self, frame: &mut [u8], length: usize, layers: &Layers) -> Option<usize> {
        match *self {
            Self::None => Some(length),
            Self::Numbers(numbers) => numbers.write(frame, layers).map(|()| length),
            Self::Refuse { sequence } => {
                let by = sequence.wrapping_sub(row(frame, usize::from(layers.l4) + at::SEQUENCE)?);
                Numbers { sequence: by, ..Numbers::default() }.write(frame, layers).map(|()| length)
            }
            Self::Quote { sequence } => quote(frame, layers, sequence).map(|()| length),
            Self::Open { sequence, options, window } => {
                let segment = Segment { sequence, acknowledgement: 0, flags: TcpFlags::SYN, window, options, zeros: 0 };
                segment.write(frame, length, layers)
            }
            Self::Probe { sequence, stamps, scale } => {
                let l4 = usize::from(layers.l4);
                let acknowledgement = row(frame, l4 + at::ACKNOWLEDGEMENT)?;
                let said = Options::read(frame.get(l4 + at::OPTIONS..usize::from(layers.payload))?);
                let stamps = stamps.and_then(|ahead| {
                    let Stamps { value, echo } = said.stamps?;
                    Some(Stamps { value: value.wrapping_sub(ahead), echo })
                });
                let window = moved(window(frame, l4)?, -i8::try_from(scale).unwrap_or(0));
                let options = Options { stamps, ..Options::default() };
                let segment = Segment { sequence, acknowledgement, flags: TcpFlags::ACK, window, options, zeros: 1 };
                segment.write(frame, length, layers)
            }
        }
    }
}

/// A segment in the place of another one of the same connection and direction.
struct Segment {
    sequence: u32,
    acknowledgement: u32,
    flags: TcpFlags,
    window: u16,
    options: Options,
    zeros: usize,
}

impl Segment {
    fn write(self, frame: &mut [u8], length: usize, layers: &Layers) -> Option<usize> {
        if Way::back(frame, layers) != Way::Open {
            return None;
        }
        let Self { sequence, acknowledgement, flags, window, options, zeros } = self;
        let (l3, l4) = (usize::from(layers.l3), usize::from(layers.l4));
        let [ports] = header::rows(frame.get(l4..)?);
        let is_v4 = frame.get(l3)? >> 4 == 4;
        let options = options.rows();
        let content = TCP + 4 * options.1 + zeros;
        let ip_end = l3 + if is_v4 { IPV4 } else { IPV6 };
        let end = ip_end + content;
        let length = end.max(length.min(SHORTEST_FRAME));
        frame.get_mut(end..length)?.fill(0);
        let (ip, tcp) = frame.get_mut(l3..end)?.split_at_mut_checked(ip_end - l3)?;
        let addresses = if is_v4 {
            let rows = header::ipv4_again(header::rows(ip), content);
            header::put(&rows, ip);
            let [.., source, destination] = rows;
            header::sum(&[source, destination])
        } else {
            let [first, second, addresses @ ..]: [u32; 10] = header::rows(ip);
            let [_, _, next @ ..] = second.to_be_bytes();
            let [protocol, hops] = next;
            debug_assert_eq!(protocol, TCP_PROTOCOL);
            header::put(&[first, header::ipv6_again(content, protocol, hops)], ip);
            header::sum(&addresses)
        };
        let (rows, used) = header::tcp_with(addresses, ports, sequence, acknowledgement, flags, window, options, zeros);
        let (headers, data) = tcp.split_at_mut_checked(4 * used)?;
        header::put(rows.get(..used)?, headers);
        data.fill(0);
        Some(length)
    }
}

impl Numbers {
    fn write(self, frame: &mut [u8], layers: &Layers) -> Option<()> {
        let (l4, payload) = (usize::from(layers.l4), usize::from(layers.payload));
        let segment = frame.get_mut(l4..)?;
        let mut change = Change::default();
        let flags = TcpFlags::from_bits_truncate(u16::from(*segment.get(at::FLAGS + 1)?));
        add(segment, at::SEQUENCE, self.sequence, &mut change)?;
        if flags.contains(TcpFlags::ACK) {
            add(segment, at::ACKNOWLEDGEMENT, self.acknowledgement, &mut change)?;
        }
        if self.window != 0 && !flags.contains(TcpFlags::SYN) {
            let old = row(segment, at::FLAGS)?;
            let new = old & 0xffff_0000 | u32::from(moved(window(segment, 0)?, self.window));
            segment.get_mut(at::FLAGS..)?.first_chunk_mut().map(|bytes| *bytes = new.to_be_bytes())?;
            change.replace(old, new, false);
        }
        let end = payload.saturating_sub(l4);
        if end > at::OPTIONS {
            self.options(segment, end, &mut change)?;
        }
        put_checksum(segment, at::CHECKSUM, change)
    }

    /// Timestamps and selective acknowledgements.
    fn options(self, segment: &mut [u8], end: usize, change: &mut Change) -> Option<()> {
        // Where what has to be changed begins, and what is added to it: up to four blocks, or three and timestamps.
        let (mut places, mut found) = ([(0, 0); 10], 0);
        let mut put = |at: usize, by: u32| {
            if let Some(place) = places.get_mut(found) {
                *place = (at, by);
                found += 1;
            }
        };
        for (at, kind, value) in options::each(segment.get(at::OPTIONS..end)?) {
            let at = at + at::OPTIONS;
            match kind {
                kind::STAMPS if value.len() == 8 => {
                    put(at, self.value);
                    // Zero says that there is none yet.
                    put(at + 4, self.echo);
                }
                kind::SACK => {
                    for edge in 0..value.len() / 4 {
                        put(at + 4 * edge, self.acknowledgement);
                    }
                }
                _ => {}
            }
        }
        for (at, by) in places.into_iter().take(found) {
            add(segment, at, by, change)?;
        }
        Some(())
    }
}

/// Adds to the row at an offset.
#[inline]
fn add(bytes: &mut [u8], at: usize, by: u32, change: &mut Change) -> Option<()> {
    if by == 0 {
        return Some(());
    }
    let place = bytes.get_mut(at..)?.first_chunk_mut()?;
    let old = u32::from_be_bytes(*place);
    let new = old.wrapping_add(by);
    *place = new.to_be_bytes();
    change.replace(old, new, !at.is_multiple_of(2));
    Some(())
}

#[inline]
fn put_checksum(bytes: &mut [u8], at: usize, change: Change) -> Option<()> {
    let place = bytes.get_mut(at..)?.first_chunk_mut()?;
    *place = change.checksum(u16::from_be_bytes(*place)).to_be_bytes();
    Some(())
}

/// Translates the sequence number in the quote of an ICMP error: routers quote at least the eight bytes in which it is.
fn quote(frame: &mut [u8], layers: &Layers, by: u32) -> Option<()> {
    const CHECKSUM: usize = 2;
    let (l4, quoted) = (usize::from(layers.l4), usize::from(layers.payload));
    let first = *frame.get(quoted)?;
    let transport = match first >> 4 {
        4 => quoted + 4 * usize::from(first & 0x0f),
        6 if *frame.get(quoted + 6)? == TCP_PROTOCOL => quoted + IPV6,
        _ => return None,
    };
    let message = frame.get_mut(l4..)?;
    let mut change = Change::default();
    add(message, (transport + at::SEQUENCE).checked_sub(l4)?, by, &mut change)?;
    put_checksum(message, CHECKSUM, change)
}

fn row(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The window of a segment.
fn window(bytes: &[u8], l4: usize) -> Option<u16> {
    row(bytes, l4 + at::FLAGS).and_then(|row| u16::try_from(row & 0xffff).ok())
}

/// A window in another unit: not larger than can be said, and not closed unless it is.
pub(super) fn moved(window: u16, by: i8) -> u16 {
    let bits = u32::from(by.unsigned_abs());
    let wide =
        if by >= 0 { u32::from(window) << bits.min(16) } else { u32::from(window).checked_shr(bits).unwrap_or(0) };
    u16::try_from(wide).unwrap_or(u16::MAX).max(u16::from(window > 0))
}

#[cfg(test)]
#[path = "translation_tests.rs"]
mod tests;
