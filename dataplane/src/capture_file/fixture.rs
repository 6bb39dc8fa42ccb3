//! Capture files made byte by byte, for the tests of this module.

use std::io::{Cursor, Read};
use std::path::Path;

use levee_engine::time::Timestamp;

use super::error::{OpenError, ReadError};
use super::input::ByteOrder::{self, Big, Little};
use super::{Reader, Record};

/// A record that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) at: Timestamp,
    pub(super) data: Vec<u8>,
    pub(super) wire_len: u32,
}

pub(super) fn packet(at: u64, data: &[u8], wire_len: u32) -> Packet {
    Packet { at: Timestamp(at), data: data.to_vec(), wire_len }
}

impl From<Record<'_>> for Packet {
    fn from(record: Record<'_>) -> Self {
        packet(record.at.0, record.data, record.wire_len)
    }
}

pub(super) fn reader(source: impl Read + Send + 'static) -> Result<Reader, OpenError> {
    Reader::new(Path::new("test.pcap"), Box::new(source), None)
}

/// All packets up to the end or the first error; checks that nothing follows either.
pub(super) fn read(mut reader: Reader) -> (Vec<Packet>, Option<ReadError>) {
    let mut packets = Vec::new();
    let error = loop {
        match reader.next() {
            Ok(Some(record)) => packets.push(record.into()),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    assert!(matches!(reader.next(), Ok(None)), "the end is the end");
    (packets, error)
}

/// The packets of a file that opens.
pub(super) fn read_bytes(bytes: &[u8]) -> (Vec<Packet>, Option<ReadError>) {
    read(reader(Cursor::new(bytes.to_vec())).unwrap())
}

/// The packets of a file without a fault.
pub(super) fn read_sound(bytes: &[u8]) -> Vec<Packet> {
    let (packets, error) = read_bytes(bytes);
    assert!(error.is_none(), "{error:?}");
    packets
}

/// The error, as people see it, that reading ends with.
pub(super) fn read_error(bytes: &[u8]) -> String {
    read_bytes(bytes).1.expect("an error").to_string()
}

/// The error, as people see it, that opening ends with.
pub(super) fn open_error(bytes: &[u8]) -> String {
    reader(Cursor::new(bytes.to_vec())).expect_err("an error").to_string()
}

/// Numbers in one byte order.
#[derive(Clone, Copy)]
pub(super) struct Encoder(pub(super) ByteOrder);

pub(super) const BOTH: [Encoder; 2] = [Encoder(Little), Encoder(Big)];

impl Encoder {
    pub(super) fn u16(self, number: u16) -> [u8; 2] {
        if self.0 == Little { number.to_le_bytes() } else { number.to_be_bytes() }
    }

    pub(super) fn u32(self, number: u32) -> [u8; 4] {
        if self.0 == Little { number.to_le_bytes() } else { number.to_be_bytes() }
    }

    pub(super) fn u64(self, number: u64) -> [u8; 8] {
        if self.0 == Little { number.to_le_bytes() } else { number.to_be_bytes() }
    }

    pub(super) fn u32s(self, numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|&number| self.u32(number)).collect()
    }

    /// A file header of classic pcap 2.4.
    pub(super) fn pcap_header(self, magic: u32, link_type: u32) -> Vec<u8> {
        [self.u32(magic).to_vec(), self.u16(2).to_vec(), self.u16(4).to_vec(), self.u32s(&[0, 0, 65_535, link_type])]
            .concat()
    }

    /// A record of classic pcap.
    pub(super) fn record(self, seconds: u32, fraction: u32, data: &[u8], wire_len: u32) -> Vec<u8> {
        [self.u32s(&[seconds, fraction, len(data), wire_len]), data.to_vec()].concat()
    }

    /// Any block of pcapng.
    pub(super) fn block(self, kind: u32, body: &[u8]) -> Vec<u8> {
        let body = padded(body);
        let total = len(&body) + 12;
        [&self.u32s(&[kind, total]), &body, self.u32(total).as_slice()].concat()
    }

    pub(super) fn section(self) -> Vec<u8> {
        let body = [&self.u32(0x1a2b_3c4d)[..], &self.u16(1), &self.u16(0), &self.u64(u64::MAX)].concat();
        self.block(0x0a0d_0d0a, &body)
    }

    pub(super) fn interface(self, link_type: u16, snap_len: u32, options: &[(u16, &[u8])]) -> Vec<u8> {
        let head = [&self.u16(link_type)[..], &self.u16(0), &self.u32(snap_len)].concat();
        self.block(1, &[head, self.options(options)].concat())
    }

    pub(super) fn options(self, options: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (code, value) in options {
            bytes.extend(self.u16(*code));
            bytes.extend(self.u16(u16::try_from(value.len()).unwrap()));
            bytes.extend(padded(value));
        }
        if !bytes.is_empty() {
            bytes.extend([0; 4]);
        }
        bytes
    }

    pub(super) fn enhanced(self, interface: u32, ticks: u64, data: &[u8], wire_len: u32) -> Vec<u8> {
        self.block(6, &self.enhanced_body(interface, ticks, data, wire_len))
    }

    pub(super) fn enhanced_body(self, interface: u32, ticks: u64, data: &[u8], wire_len: u32) -> Vec<u8> {
        let (high, low) = halves(ticks);
        [self.u32s(&[interface, high, low, len(data), wire_len]), padded(data)].concat()
    }

    pub(super) fn obsolete(self, interface: u16, drops: u16, ticks: u64, data: &[u8], wire_len: u32) -> Vec<u8> {
        let (high, low) = halves(ticks);
        let numbers = self.u32s(&[high, low, len(data), wire_len]);
        self.block(2, &[&self.u16(interface)[..], &self.u16(drops), &numbers, data].concat())
    }

    pub(super) fn simple(self, wire_len: u32, data: &[u8]) -> Vec<u8> {
        self.block(3, &[&self.u32(wire_len)[..], data].concat())
    }
}

/// A classic file of three packets, one of them empty and one snapped.
pub(super) fn small_pcap() -> Vec<u8> {
    let e = Encoder(Little);
    let header = e.pcap_header(0xa1b2_3c4d, 1);
    [header, e.record(1, 5, b"abc", 3), e.record(1, 6, b"", 0), e.record(2, 0, b"snapped", 1500)].concat()
}

/// A pcapng file that has every kind of block, options, and two sections of different byte order.
pub(super) fn small_pcapng() -> Vec<u8> {
    let (little, big) = (Encoder(Little), Encoder(Big));
    [
        little.section(),
        little.interface(1, 0, &[(2, b"eth0"), (9, &[9])]),
        little.enhanced(0, 1_000_000_005, b"abc", 3),
        little.block(5, &[7; 20]),
        little.simple(6, b"simple"),
        big.section(),
        big.interface(1, 4, &[]),
        big.interface(113, 0, &[]),
        big.obsolete(0, 3, 2_000_000, b"old", 1500),
        big.block(6, &[big.enhanced_body(0, 3_000_000, b"new", 3), big.options(&[(1, b"a comment")])].concat()),
    ]
    .concat()
}

fn halves(ticks: u64) -> (u32, u32) {
    (u32::try_from(ticks >> 32).unwrap(), u32::try_from(ticks & 0xffff_ffff).unwrap())
}

fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap()
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
