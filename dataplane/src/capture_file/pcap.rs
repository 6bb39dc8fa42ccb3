//! Classic pcap: one file header, then records of a fixed header and a packet (draft-ietf-opsawg-pcap).

use levee_engine::time::Timestamp;

use super::error::{Fault, Misread};
use super::input::{ByteOrder, Fields, Input};
use super::{LinkType, MAX_CAPTURED_LEN, Record};

const FILE_HEADER_LEN: usize = 24;
const RECORD_HEADER_LEN: usize = 16;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// What the magic number says about the records that follow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variant {
    order: ByteOrder,
    ns_per_fraction: i64,
    record_header_len: usize,
}

impl Variant {
    pub(super) fn of(magic: [u8; 4]) -> Option<Self> {
        let (order, number) = match magic[0] {
            0xa1 => (ByteOrder::Big, u32::from_be_bytes(magic)),
            _ => (ByteOrder::Little, u32::from_le_bytes(magic)),
        };
        let (ns_per_fraction, record_header_len) = match number {
            0xa1b2_c3d4 => (1000, RECORD_HEADER_LEN),
            0xa1b2_3c4d => (1, RECORD_HEADER_LEN),
            // "Modified" by Alexey Kuznetsov's patches: interface index, protocol and packet type follow the lengths.
            0xa1b2_cd34 => (1000, RECORD_HEADER_LEN + 8),
            _ => return None,
        };
        Some(Self { order, ns_per_fraction, record_header_len })
    }
}

/// The reader's place in a classic file.
#[derive(Debug)]
pub(super) struct Pcap {
    variant: Variant,
}

impl Pcap {
    pub(super) fn open(variant: Variant, input: &mut Input) -> Result<Self, Fault> {
        let header = input.take(FILE_HEADER_LEN)?;
        let present = header.len();
        let cut = || Fault::Truncated { what: "pcap file header", expected: FILE_HEADER_LEN, present };
        let mut fields = Fields::new(variant.order, header.get(4..).unwrap_or_default());
        let (major, minor) = fields.u16().zip(fields.u16()).ok_or_else(cut)?;
        let _zone_accuracy_and_snap_length = fields.bytes(12).ok_or_else(cut)?;
        let link_type = fields.u32().ok_or_else(cut)?;
        // Before 2.4 the two lengths of a record were the other way round; after it there has been nothing.
        if (major, minor) != (2, 4) {
            return Err(Fault::Version { format: "pcap", major, minor });
        }
        // The upper half tells the length of the frame check sequence.
        let link_type = LinkType(u16::try_from(link_type & 0xffff).unwrap_or_default());
        if link_type != LinkType::ETHERNET {
            return Err(Fault::LinkType { link_type, interface: None });
        }
        Ok(Self { variant })
    }

    #[inline]
    pub(super) fn next<'a>(&mut self, input: &'a mut Input) -> Result<Option<Record<'a>>, Misread> {
        let offset = input.offset();
        let Variant { order, ns_per_fraction, record_header_len } = self.variant;
        let header = input.peek(record_header_len).map_err(|error| Fault::Io(error).at(offset))?;
        let present = header.len();
        if present == 0 {
            return Ok(None);
        }
        let cut = |expected, present| Fault::Truncated { what: "packet record", expected, present }.at(offset);
        let mut fields = Fields::new(order, header);
        let mut number = || fields.u32().ok_or_else(|| cut(record_header_len, present));
        let (seconds, fraction, captured_len, wire_len) = (number()?, number()?, number()?, number()?);

        if captured_len > MAX_CAPTURED_LEN {
            let claim =
                format!("a record claims {captured_len} captured bytes, the most possible is {MAX_CAPTURED_LEN}");
            return Err(Fault::Damaged(claim).at(offset));
        }
        let len = record_header_len + captured_len as usize;
        let record = input.take(len).map_err(|error| Fault::Io(error).at(offset))?;
        match record.get(record_header_len..len) {
            Some(data) => {
                // Tools that shift time write fractions below zero; unsigned, such a record would be an hour away.
                let fraction_ns = i64::from(fraction.cast_signed()) * ns_per_fraction;
                let at = (u64::from(seconds) * NS_PER_SECOND).saturating_add_signed(fraction_ns);
                Ok(Some(Record::new(Timestamp(at), data, wire_len)))
            }
            None => Err(cut(len, record.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{BOTH, Encoder, open_error, packet, read_bytes, read_error, read_sound};
    use super::*;

    const MICROSECONDS: u32 = 0xa1b2_c3d4;
    const NANOSECONDS: u32 = 0xa1b2_3c4d;
    const MODIFIED: u32 = 0xa1b2_cd34;

    fn file(e: Encoder, magic: u32, records: &[Vec<u8>]) -> Vec<u8> {
        [e.pcap_header(magic, 1), records.concat()].concat()
    }

    #[test]
    fn a_file_as_tcpdump_writes_it_is_read() {
        let bytes = b"\xd4\xc3\xb2\xa1\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\x04\0\x01\0\0\0\
            \x39\x30\0\0\x40\xe2\x01\0\x06\0\0\0\x3c\0\0\0\x02\0\x4c\x45\0\x01";
        assert_eq!(read_sound(bytes), [packet(12_345_123_456_000, &[2, 0, 0x4c, 0x45, 0, 1], 60)]);
    }

    #[test]
    fn every_byte_order_and_resolution_gives_the_same_nanoseconds() {
        for e in BOTH {
            let micro = file(e, MICROSECONDS, &[e.record(7, 8, b"abc", 9)]);
            assert_eq!(read_sound(&micro), [packet(7_000_008_000, b"abc", 9)]);
            let nano = file(e, NANOSECONDS, &[e.record(7, 8000, b"abc", 9)]);
            assert_eq!(read_sound(&nano), [packet(7_000_008_000, b"abc", 9)]);
        }
    }

    #[test]
    fn the_longer_record_headers_of_the_modified_format_are_skipped() {
        for e in BOTH {
            let head = [e.u32s(&[7, 8, 3, 60]), vec![0xee; 8]].concat();
            let bytes = file(e, MODIFIED, &[head.clone(), b"abc".to_vec(), head, b"def".to_vec()]);
            assert_eq!(read_sound(&bytes), [packet(7_000_008_000, b"abc", 60), packet(7_000_008_000, b"def", 60)]);
        }
    }

    #[test]
    fn a_capture_of_no_packets_is_sound() {
        assert_eq!(read_sound(&file(BOTH[0], MICROSECONDS, &[])), []);
    }

    #[test]
    fn time_may_go_backwards_and_past_2038() {
        let e = BOTH[0];
        let bytes = file(e, NANOSECONDS, &[e.record(u32::MAX, 0, b"a", 1), e.record(1, 0, b"b", 1)]);
        assert_eq!(read_sound(&bytes), [packet(4_294_967_295_000_000_000, b"a", 1), packet(1_000_000_000, b"b", 1)]);
    }

    #[test]
    fn a_fraction_may_be_negative_but_no_time_is_before_1970() {
        let e = BOTH[0];
        let bytes = file(e, MICROSECONDS, &[e.record(3, u32::MAX, b"a", 1), e.record(0, u32::MAX, b"b", 1)]);
        assert_eq!(read_sound(&bytes), [packet(2_999_999_000, b"a", 1), packet(0, b"b", 1)]);
    }

    #[test]
    fn fewer_bytes_on_the_wire_than_captured_are_taken_as_captured() {
        let e = BOTH[0];
        assert_eq!(read_sound(&file(e, NANOSECONDS, &[e.record(0, 0, b"abcd", 2)])), [packet(0, b"abcd", 4)]);
    }

    #[test]
    fn another_link_type_is_refused_by_name() {
        for e in BOTH {
            let error = open_error(&e.pcap_header(MICROSECONDS, 113));
            assert!(error.contains("holds packets of link type LINUX_SLL (113), only ETHERNET (1)"), "{error}");
        }
    }

    #[test]
    fn the_length_of_the_frame_check_sequence_is_not_taken_for_a_link_type() {
        let e = BOTH[0];
        assert_eq!(read_sound(&e.pcap_header(MICROSECONDS, 0x2400_0001)), []);
    }

    #[test]
    fn versions_with_another_record_layout_are_refused() {
        let mut bytes = BOTH[0].pcap_header(MICROSECONDS, 1);
        bytes[6] = 3;
        assert!(open_error(&bytes).contains("is pcap of version 2.3"));
    }

    #[test]
    fn a_cut_file_header_is_refused_with_what_is_missing() {
        let error = open_error(&BOTH[0].pcap_header(MICROSECONDS, 1)[..20]);
        assert!(error.contains("ends inside a pcap file header: 24 bytes expected, 20 present"), "{error}");
    }

    #[test]
    fn a_record_of_4_gib_is_damage_even_when_it_is_the_last() {
        let e = BOTH[0];
        let bytes = file(e, MICROSECONDS, &[e.record(1, 0, b"ok", 2), e.u32s(&[2, 0, u32::MAX, u32::MAX])]);
        let (packets, error) = read_bytes(&bytes);
        assert_eq!(packets, [packet(1_000_000_000, b"ok", 2)]);
        let error = error.unwrap();
        assert!(matches!(error.fault, Fault::Damaged(_)), "{error}");
        assert!(
            error.to_string().starts_with("test.pcap: at byte 42: the file is damaged: a record claims 4294967295")
        );
    }

    #[test]
    fn a_file_cut_inside_a_record_says_where_and_by_how_much() {
        let e = BOTH[0];
        let bytes = file(e, MICROSECONDS, &[e.record(1, 0, b"ok", 2), e.record(2, 0, b"is cut", 6)]);
        let error = read_error(&bytes[..bytes.len() - 2]);
        assert!(
            error.contains("at byte 42: the file ends inside a packet record: 22 bytes expected, 20 present"),
            "{error}"
        );
    }
}
