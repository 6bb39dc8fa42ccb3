//! What each block means, on files made byte by byte.

use super::super::fixture::{
    BOTH, Encoder, Packet, open_error, packet, read_bytes, read_error, read_sound, small_pcapng,
};
use super::*;

const MILLI: u64 = 1_000_000;

/// A file of one section with one Ethernet interface.
fn file(e: Encoder, options: &[(u16, &[u8])], blocks: &[Vec<u8>]) -> Vec<u8> {
    [e.section(), e.interface(1, 0, options), blocks.concat()].concat()
}

fn at_of(options: &[(u16, &[u8])], ticks: u64) -> u64 {
    let e = BOTH[0];
    read_sound(&file(e, options, &[e.enhanced(0, ticks, b"x", 1)]))[0].at.0
}

#[test]
fn a_file_as_dumpcap_writes_it_is_read() {
    let bytes = b"\x0a\x0d\x0d\x0a\x1c\0\0\0\x4d\x3c\x2b\x1a\x01\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\x1c\0\0\0\
        \x01\0\0\0\x20\0\0\0\x01\0\0\0\0\0\x04\0\x09\0\x01\0\x09\0\0\0\0\0\0\0\x20\0\0\0\
        \x06\0\0\0\x28\0\0\0\0\0\0\0\x01\0\0\0\x02\0\0\0\x06\0\0\0\x3c\0\0\0\x02\0\x4c\x45\0\x01\0\0\x28\0\0\0";
    assert_eq!(read_sound(bytes), [packet(4_294_967_298, &[2, 0, 0x4c, 0x45, 0, 1], 60)]);
}

#[test]
fn every_block_is_read_or_skipped_and_sections_may_change_the_byte_order() {
    let expected: [Packet; 4] = [
        packet(1_000_000_005, b"abc", 3),
        packet(1_000_000_005, b"simple", 6),
        packet(2_000 * MILLI, b"old", 1500),
        packet(3_000 * MILLI, b"new", 3),
    ];
    assert_eq!(read_sound(&small_pcapng()), expected);
}

#[test]
fn both_byte_orders_read_the_same() {
    for e in BOTH {
        let bytes = file(e, &[], &[e.enhanced(0, 7_000_008, b"abc", 9), e.obsolete(0, 65_535, 1 << 40, b"", 1)]);
        assert_eq!(read_sound(&bytes), [packet(7_000_008_000, b"abc", 9), packet((1 << 40) * 1000, b"", 1)]);
    }
}

#[test]
fn time_has_the_resolution_of_its_interface() {
    assert_eq!(at_of(&[], 5), 5_000, "microseconds unless told otherwise");
    assert_eq!(at_of(&[(9, &[0])], 5), 5_000 * MILLI);
    assert_eq!(at_of(&[(9, &[3])], 5), 5 * MILLI);
    assert_eq!(at_of(&[(9, &[9])], 5), 5);
    assert_eq!(at_of(&[(9, &[12])], 5_999), 5);
    assert_eq!(at_of(&[(9, &[19])], u64::MAX), 1_844_674_407);
    assert_eq!(at_of(&[(9, &[0x8a])], 1536), 1_500 * MILLI, "2^-10 s");
    assert_eq!(at_of(&[(9, &[0xbf])], 1 << 62), 500 * MILLI, "2^-63 s");
}

#[test]
fn time_is_shifted_by_the_offset_of_its_interface() {
    for e in BOTH {
        let options: [(u16, &[u8]); 1] = [(14, &e.u64(1_700_000_000))];
        let bytes = file(e, &options, &[e.enhanced(0, 1, b"x", 1)]);
        assert_eq!(read_sound(&bytes)[0].at.0, 1_700_000_000_000_001_000);
        let options: [(u16, &[u8]); 1] = [(14, &e.u64(2_u64.wrapping_neg()))];
        let bytes = file(e, &options, &[e.enhanced(0, 2_000_001, b"x", 1)]);
        assert_eq!(read_sound(&bytes)[0].at.0, 1_000, "a negative offset");
    }
}

#[test]
fn time_that_does_not_fit_is_damage() {
    let e = BOTH[0];
    let before_1970: [(u16, &[u8]); 2] = [(2, b"eth0"), (14, &e.u64(2_u64.wrapping_neg()))];
    let error = read_error(&file(e, &before_1970, &[e.enhanced(0, 1_999_999, b"x", 1)]));
    assert!(error.contains(r#"a packet of interface 0 ("eth0") has a time outside the years 1970 to 2554"#), "{error}");
    assert!(read_error(&file(e, &[], &[e.enhanced(0, u64::MAX, b"x", 1)])).contains("has a time outside"));
}

#[test]
fn a_resolution_that_cannot_be_computed_with_is_damage() {
    let e = BOTH[0];
    for resolution in [20, 127, 0xc0, 0xff] {
        let error = read_error(&file(e, &[(9, &[resolution])], &[]));
        assert!(error.contains(&format!("(if_tsresol) is {resolution:#04x}")), "{error}");
    }
    assert!(read_error(&file(e, &[(9, &[])], &[])).contains("(if_tsresol) is empty"));
    assert!(read_error(&file(e, &[(14, &[0; 4])], &[])).contains("(if_tsoffset) has less than 8 bytes"));
}

#[test]
fn each_interface_has_its_own_clock_and_a_section_begins_without_any() {
    let e = BOTH[0];
    let first = [
        file(e, &[(9, &[3])], &[e.interface(1, 0, &[(9, &[9])])]),
        e.enhanced(1, 4, b"b", 1),
        e.enhanced(0, 4, b"a", 1),
    ]
    .concat();
    assert_eq!(read_sound(&first), [packet(4, b"b", 1), packet(4 * MILLI, b"a", 1)]);
    let error = read_error(&[first, e.section(), e.enhanced(0, 4, b"c", 1)].concat());
    assert!(error.contains("a packet refers to interface 0, the section describes 0"), "{error}");
}

#[test]
fn a_simple_packet_has_what_its_interface_keeps_and_the_time_before_it() {
    let e = BOTH[0];
    let interface = [e.section(), e.interface(1, 4, &[])].concat();
    let bytes = [interface, e.simple(3, b"abc"), e.enhanced(0, 1, b"x", 1), e.simple(1500, b"abcd")].concat();
    assert_eq!(read_sound(&bytes), [packet(0, b"abc", 3), packet(1000, b"x", 1), packet(1000, b"abcd", 1500)]);
}

#[test]
fn an_interface_that_is_not_ethernet_matters_only_when_it_has_packets() {
    let e = BOTH[0];
    let wireless = e.interface(127, 0, &[(2, b"wlan0\x1b[31m")]);
    let bytes = file(e, &[], &[wireless, e.enhanced(0, 1, b"x", 1)]);
    assert_eq!(read_sound(&bytes).len(), 1);
    let (packets, error) = read_bytes(&[bytes, e.enhanced(1, 1, b"y", 1)].concat());
    assert_eq!(packets.len(), 1);
    let error = error.unwrap().to_string();
    let expected =
        r#"a packet of interface 1 ("wlan0\u{1b}[31m") of link type IEEE802_11_RADIOTAP (127), only ETHERNET"#;
    assert!(error.contains(expected), "{error}");
}

#[test]
fn options_end_at_their_end_mark_or_with_the_block() {
    let e = BOTH[0];
    let head = [&e.u16(1)[..], &e.u16(0), &e.u32(0)].concat();
    let without_end = [&head[..], &e.u16(9), &e.u16(1), &[3, 0, 0, 0]].concat();
    let bytes = [e.section(), e.block(1, &without_end), e.enhanced(0, 1, b"x", 1)].concat();
    assert_eq!(read_sound(&bytes), [packet(MILLI, b"x", 1)]);
    let behind_the_end = [&head[..], &e.u32(0), &e.u16(9), &e.u16(1), &[3, 0, 0, 0]].concat();
    let bytes = [e.section(), e.block(1, &behind_the_end), e.enhanced(0, 1, b"x", 1)].concat();
    assert_eq!(read_sound(&bytes), [packet(1000, b"x", 1)], "microseconds, as no resolution was read");
    let too_long = [&head[..], &e.u16(2), &e.u16(5), &[b'e', 0, 0, 0]].concat();
    let error = read_error(&[e.section(), e.block(1, &too_long)].concat());
    assert!(
        error.contains("at byte 28: the file is damaged: an option of an interface description runs past"),
        "{error}"
    );
}

#[test]
fn lengths_that_contradict_the_block_are_damage() {
    let e = BOTH[0];
    let sound = e.enhanced(0, 1, b"abcd", 4);
    for (at, claim, expected) in [
        (4, 8, "claims 8 bytes"),
        (4, 37, "claims 37 bytes"),
        (4, u32::MAX - 3, "claims 4294967292 bytes"),
        (20, 5, "a packet claims 5 captured bytes, its block has room for 4"),
        (20, u32::MAX, "a packet claims 4294967295 captured bytes"),
        (32, 40, "a block of 36 bytes says at its end that it has 40"),
    ] {
        let mut block = sound.clone();
        block[at..at + 4].copy_from_slice(&e.u32(claim));
        let error = read_error(&file(e, &[], &[block]));
        assert!(error.contains("at byte 48: the file is damaged: ") && error.contains(expected), "{error}");
    }
    for (kind, body_len) in [(1, 4), (2, 16), (3, 0), (6, 16)] {
        let error = read_error(&file(e, &[], &[e.block(kind, &vec![0; body_len])]));
        assert!(error.contains("too short for its fields"), "{error}");
    }
    let too_long = vec![0; MAX_CAPTURED_LEN as usize + 4];
    assert!(read_error(&file(e, &[], &[e.enhanced(0, 1, &too_long, 1)])).contains("the most possible is 262144"));
}

#[test]
fn a_section_that_is_not_understood_is_refused_wherever_it_is() {
    let e = BOTH[0];
    let mut section = e.section();
    section[12] = 2;
    assert!(open_error(&section).contains("is pcapng of version 2.0"));
    let error = read_error(&file(e, &[], &[section.clone()]));
    assert!(error.contains("at byte 48: is pcapng of version 2.0"), "{error}");
    section[8] = 0;
    assert!(open_error(&section).contains("no byte-order magic"));
    assert!(open_error(&e.section()[..11]).contains("ends inside a block header: 12 bytes expected, 11 present"));
    assert!(open_error(&e.section()[..20]).contains("ends inside a block: 28 bytes expected, 20 present"));
}

#[test]
fn interfaces_have_an_end() {
    let e = BOTH[0];
    let mut bytes = e.section();
    bytes.extend(e.interface(1, 0, &[]).repeat(MAX_INTERFACES));
    assert_eq!(read_sound(&bytes), []);
    bytes.extend(e.interface(1, 0, &[]));
    assert!(read_error(&bytes).contains("a section describes more than 65536 interfaces"));
}
