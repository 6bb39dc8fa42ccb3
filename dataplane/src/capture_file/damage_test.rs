//! Files that are cut, flipped, or nothing at all. What is expected: the records before the damage, at most one
//! error, and never a panic or more bytes than the file has.

use std::io::Cursor;

use proptest::collection::vec;
use proptest::prelude::*;

use super::fixture::{Packet, packet, read, read_bytes, read_sound, reader, small_pcap, small_pcapng};
use super::{Fault, MAX_CAPTURED_LEN, Writer, open};

/// Reads whatever this is; returns the packets.
fn survives(bytes: &[u8]) -> Vec<Packet> {
    let Ok(reader) = reader(Cursor::new(bytes.to_vec())) else { return Vec::new() };
    let (packets, _) = read(reader);
    let captured: usize = packets.iter().map(|packet| packet.data.len()).sum();
    assert!(captured <= bytes.len());
    for packet in &packets {
        assert!(packet.data.len() <= MAX_CAPTURED_LEN as usize);
        assert!(packet.wire_len as usize >= packet.data.len());
    }
    packets
}

#[test]
fn a_file_cut_anywhere_yields_what_came_before_the_cut() {
    for (bytes, header_len) in [(small_pcap(), 24), (small_pcapng(), 28)] {
        let whole = read_sound(&bytes);
        let mut sound = 0;
        for len in header_len..bytes.len() {
            let (packets, error) = read_bytes(&bytes[..len]);
            assert_eq!(packets, whole[..packets.len()], "cut to {len} bytes");
            match error.map(|error| (error.offset, error.fault)) {
                None => sound += 1,
                Some((offset, Fault::Truncated { expected, present, .. })) => {
                    assert_eq!(offset + present as u64, len as u64);
                    assert!(expected > present);
                }
                Some((_, fault)) => panic!("cut to {len} bytes: {fault}"),
            }
        }
        let boundaries = if header_len == 24 { 3 } else { 9 };
        assert_eq!(sound, boundaries, "a cut between records or blocks cannot be seen");
        for len in 0..header_len {
            assert!(reader(Cursor::new(bytes[..len].to_vec())).is_err(), "cut to {len} bytes");
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): the same damage in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap()
    }
}

#[test]
fn mutations_of_sound_files_never_do_harm() {
    const EDGES: [u32; 10] = [0, 1, 3, 11, 12, 0x7fff_ffff, 0x8000_0000, u32::MAX - 3, u32::MAX, 0x0a0d_0d0a];
    let files = [small_pcap(), small_pcapng()];
    let mut draw = Draw(20_240_917);
    let mut harmed = 0;
    for round in 0..20_000 {
        let whole = &files[round % files.len()];
        let mut bytes = whole.clone();
        for _ in 0..=draw.below(3) {
            let at = draw.below(bytes.len() - 4);
            match draw.below(5) {
                0 => bytes[at] ^= 1 << draw.below(8),
                1 => bytes[at..at + 4].copy_from_slice(&EDGES[draw.below(EDGES.len())].to_le_bytes()),
                2 => bytes[at..at + 4].copy_from_slice(&EDGES[draw.below(EDGES.len())].to_be_bytes()),
                3 => drop(bytes.drain(at..at + draw.below(4) + 1)),
                _ => {
                    let from = draw.below(whole.len() - 4);
                    bytes.splice(at..at, whole[from..from + draw.below(4) + 1].iter().copied());
                }
            }
            bytes.resize(bytes.len().max(8), 0);
        }
        harmed += usize::from(survives(&bytes) != read_sound(whole));
    }
    assert!(harmed > 10_000, "most mutations hit something that matters, not only {harmed}");
}

fn packets() -> impl Strategy<Value = Vec<Packet>> {
    let one = (0..4_294_967_295_999_999_999_u64, vec(any::<u8>(), 0..300), any::<u32>());
    vec(one.prop_map(|(at, data, wire_len)| packet(at, &data, wire_len)), 0..30)
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_do_harm(
        magic in prop::sample::select(vec![
            &b""[..], b"\xd4\xc3\xb2\xa1\x02\0\x04\0", b"\xa1\xb2\x3c\x4d\0\x02\0\x04", b"\x34\xcd\xb2\xa1\x02\0\x04\0",
            b"\n\r\r\n\x1c\0\0\0\x4d\x3c\x2b\x1a\x01\0\0\0", b"\n\r\r\n\0\0\0\x1c\x1a\x2b\x3c\x4d\0\x01\0\0",
        ]),
        rest in vec(prop_oneof![Just(0_u8), Just(1), Just(12), any::<u8>()], 0..400),
    ) {
        survives(&[magic, &rest].concat());
    }

    #[test]
    fn what_is_written_is_read_back_and_written_again_to_the_byte(packets in packets()) {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a.pcap", "b.pcap"].map(|name| folder.path().join(name));
        let mut written = packets;
        for path in &paths {
            let mut writer = Writer::create(path).unwrap();
            for Packet { at, data, wire_len } in &written {
                writer.write(*at, data, *wire_len).unwrap();
            }
            writer.finish().unwrap();
            let (read, error) = read(open(path).unwrap());
            prop_assert!(error.is_none());
            for packet in &mut written {
                packet.wire_len = packet.wire_len.max(u32::try_from(packet.data.len()).unwrap());
            }
            prop_assert_eq!(&read, &written);
        }
        prop_assert_eq!(std::fs::read(&paths[0]).unwrap(), std::fs::read(&paths[1]).unwrap());
    }
}
