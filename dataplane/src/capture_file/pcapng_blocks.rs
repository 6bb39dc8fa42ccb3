//! Writes the blocks of a pcapng file that tells, of each packet, what became of it (draft-ietf-opsawg-pcapng). Always
//! little-endian, one section, times in nanoseconds.

use std::io::{self, Read, Seek};

use levee_engine::packet::Direction;
use levee_engine::time::Timestamp;

use super::LinkType;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
/// Type, length, and the length again.
const OVERHEAD: u32 = 12;
/// The least that any block takes besides its data, and far more than any of ours takes.
const MOST_BLOCK: u32 = 1 << 20;

const OPT_COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
/// Powers of ten: nanoseconds.
const NANOSECONDS: u8 = 9;

/// A packet as it is written.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The interface, counted from zero in the order in which they were described.
    pub interface: u32,
    /// When it arrived, since the epoch.
    pub at: Timestamp,
    /// Which way it went.
    pub direction: Direction,
    /// The bytes that are kept of it.
    pub data: &'a [u8],
    /// Its length on the wire.
    pub wire_len: u32,
    /// What there is to say about it.
    pub comment: &'a str,
}

/// Appends the header that a file begins with.
pub fn section_header(out: &mut Vec<u8>, application: &str, comment: &str) {
    block(out, SECTION_HEADER, |out| {
        out.extend(0x1a2b_3c4d_u32.to_le_bytes());
        out.extend([1, 0, 0, 0]);
        // The length of the section is not known in advance.
        out.extend(u64::MAX.to_le_bytes());
        option(out, SHB_USERAPPL, application.as_bytes());
        option(out, OPT_COMMENT, comment.as_bytes());
        end_of_options(out);
    });
}

/// Appends the description of an interface, all of whose packets are Ethernet frames cut to `snap_len` bytes.
pub fn interface(out: &mut Vec<u8>, name: &str, snap_len: u32) {
    block(out, INTERFACE_DESCRIPTION, |out| {
        out.extend(LinkType::ETHERNET.0.to_le_bytes());
        out.extend([0, 0]);
        out.extend(snap_len.to_le_bytes());
        option(out, IF_NAME, name.as_bytes());
        option(out, IF_TSRESOL, &[NANOSECONDS]);
        end_of_options(out);
    });
}

/// Appends a packet.
pub fn packet(out: &mut Vec<u8>, packet: &Packet<'_>) {
    block(out, ENHANCED_PACKET, |out| {
        let [low0, low1, low2, low3, high @ ..] = packet.at.0.to_le_bytes();
        let captured = u32::try_from(packet.data.len()).unwrap_or(u32::MAX);
        out.extend(packet.interface.to_le_bytes());
        out.extend(high);
        out.extend([low0, low1, low2, low3]);
        out.extend(captured.to_le_bytes());
        out.extend(packet.wire_len.max(captured).to_le_bytes());
        out.extend(packet.data);
        pad(out, packet.data.len());
        let flags: u32 = match packet.direction {
            Direction::Inbound => 1,
            Direction::Outbound => 2,
        };
        option(out, EPB_FLAGS, &flags.to_le_bytes());
        option(out, OPT_COMMENT, packet.comment.as_bytes());
        end_of_options(out);
    });
}

/// How much of a file that these functions wrote is whole blocks, and how many packets those hold: what is left of it after
/// a crash.
///
/// # Errors
/// When it cannot be read.
pub fn sound_part(file: &mut (impl Read + Seek)) -> io::Result<(u64, u64)> {
    let length = file.seek(io::SeekFrom::End(0))?;
    let (mut sound, mut packets) = (0, 0);
    loop {
        file.seek(io::SeekFrom::Start(sound))?;
        let mut head = [0; 8];
        match file.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok((sound, packets)),
            read => read?,
        }
        let [k0, k1, k2, k3, l0, l1, l2, l3] = head;
        let (kind, block) = (u32::from_le_bytes([k0, k1, k2, k3]), u32::from_le_bytes([l0, l1, l2, l3]));
        if !(OVERHEAD..=MOST_BLOCK).contains(&block) || sound + u64::from(block) > length {
            return Ok((sound, packets));
        }
        sound += u64::from(block);
        packets += u64::from(kind == ENHANCED_PACKET);
    }
}

fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let length = u32::try_from(out.len() + 4 - begin).unwrap_or(u32::MAX).to_le_bytes();
    if let Some(place) = out.get_mut(begin + 4..begin + 8) {
        place.copy_from_slice(&length);
    }
    out.extend(length);
}

/// An option of at most 65 535 bytes; longer ones are cut.
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    let value = value.get(..usize::from(length)).unwrap_or(value);
    out.extend(code.to_le_bytes());
    out.extend(length.to_le_bytes());
    out.extend(value);
    pad(out, value.len());
}

fn end_of_options(out: &mut Vec<u8>) {
    out.extend([0; 4]);
}

fn pad(out: &mut Vec<u8>, length: usize) {
    out.extend(std::iter::repeat_n(0, length.next_multiple_of(4) - length));
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::super::fixture::{packet as read_as, read_sound};
    use super::*;

    fn a_packet<'a>(interface: u32, at: u64, data: &'a [u8], comment: &'a str) -> Packet<'a> {
        Packet { interface, at: Timestamp(at), direction: Direction::Outbound, data, wire_len: 1_500, comment }
    }

    fn file(packets: &[Packet<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        section_header(&mut out, "test", "a comment");
        interface(&mut out, "a/inbound", 192);
        interface(&mut out, "a/outbound", 192);
        packets.iter().for_each(|one| packet(&mut out, one));
        out
    }

    #[test]
    fn a_packet_has_exactly_these_bytes() {
        let mut out = Vec::new();
        packet(&mut out, &a_packet(1, 0x0102_0304_0506_0708, b"abcde", "pass"));
        let expected =
            b"\x06\0\0\0\x3c\0\0\0\x01\0\0\0\x04\x03\x02\x01\x08\x07\x06\x05\x05\0\0\0\xdc\x05\0\0abcde\0\0\0\
            \x02\0\x04\0\x02\0\0\0\x01\0\x04\0pass\0\0\0\0\x3c\0\0\0";
        assert_eq!(out, expected);
    }

    #[test]
    fn what_is_left_after_a_crash_is_the_whole_blocks() {
        let (first, both) =
            ([a_packet(0, 1, b"abc", "one")], [a_packet(0, 1, b"abc", "one"), a_packet(1, 2, b"d", "two")]);
        let (without, one, two) = (file(&[]).len(), file(&first).len(), file(&both));
        for cut in 0..=two.len() {
            let (length, packets) = sound_part(&mut Cursor::new(&two[..cut])).unwrap();
            let expected = if cut == two.len() { 2 } else { u64::from(cut >= one) };
            assert_eq!(packets, expected, "cut at {cut}");
            assert!(length <= cut as u64);
            if cut >= without {
                assert_eq!(read_sound(&two[..usize::try_from(length).unwrap()]).len() as u64, packets);
            }
        }
        assert_eq!(sound_part(&mut Cursor::new(b"something that is no capture at all")).unwrap(), (0, 0));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again(
            packets in prop::collection::vec((any::<u64>(), prop::collection::vec(any::<u8>(), 0..200), ".{0,80}"), 0..20)
        ) {
            let written: Vec<Packet<'_>> =
                packets.iter().map(|(at, data, comment)| a_packet(1, *at, data, comment)).collect();
            let expected: Vec<_> = packets.iter().map(|(at, data, _)| read_as(*at, data, 1_500)).collect();
            prop_assert_eq!(read_sound(&file(&written)), expected);
        }
    }
}
