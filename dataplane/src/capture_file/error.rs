//! What can be wrong with a capture file. Opening and reading share their faults, because a pcapng file may bring a
//! new version or link type anywhere; the errors around them say which file and where.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::path::PathBuf;

use levee_engine::time::Timestamp;

use super::{LinkType, MAX_CAPTURED_LEN};

/// Why [`open`](super::open) refused a file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", path.display())]
pub struct OpenError {
    /// The file.
    pub path: PathBuf,
    /// What was wrong.
    pub fault: Fault,
}

/// Why [`Reader::next`](super::Reader::next) could not go on.
#[derive(Debug, thiserror::Error)]
#[error("{}: at byte {offset}: {fault}", path.display())]
pub struct ReadError {
    /// The file.
    pub path: PathBuf,
    /// Where the record (pcapng: block) begins that could not be read, in bytes from the start of the file.
    pub offset: u64,
    /// What was wrong.
    pub fault: Fault,
}

/// What is wrong with a capture file.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The operating system refused.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// Not a single byte.
    #[error("is empty: even a capture of no packets has a file header; was the capture ever started?")]
    Empty,
    /// Compressed by a tool that is recognised.
    #[error("is compressed with {0}: decompress it first")]
    Compressed(&'static str),
    /// Neither magic number matches.
    #[error("is not a capture file: it begins with {}, no pcap or pcapng file does; convert it with editcap", start.escape_ascii())]
    NotACapture {
        /// Up to the first four bytes.
        start: Vec<u8>,
    },
    /// A version of the format that was never in use, or not in this millennium.
    #[error("is {format} of version {major}.{minor}, which is not supported: convert it with editcap")]
    Version {
        /// `pcap` or `pcapng`.
        format: &'static str,
        /// Major version in the header.
        major: u16,
        /// Minor version in the header.
        minor: u16,
    },
    /// Packets that do not begin with an Ethernet header.
    #[error(
        "{} of link type {link_type}, only ETHERNET (1) is supported: capture on the Ethernet port itself \
         or convert with tcprewrite --dlt=enet",
        interface.as_ref().map_or("holds packets".to_owned(), |interface| format!("a packet of {interface}"))
    )]
    LinkType {
        /// The link type found.
        link_type: LinkType,
        /// The interface that it belongs to; `None` in classic pcap, where it holds for the whole file.
        interface: Option<Interface>,
    },
    /// The file ends inside a record. Everything before it was read, and may be used.
    #[error(
        "the file ends inside a {what}: {expected} bytes expected, {present} present; \
         the capture was cut short (its writer killed, disk full or transfer interrupted)"
    )]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes that it needs.
        expected: usize,
        /// Bytes that there are.
        present: usize,
    },
    /// The bytes contradict the format, or each other.
    #[error("the file is damaged: {0}")]
    Damaged(String),
}

/// An interface of a pcapng section, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number within the section, from 0: what tshark calls `frame.interface_id`.
    pub index: usize,
    /// Its name, when the file gives one; not to be trusted.
    pub name: Option<String>,
}

impl Display for Interface {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "interface {} ({name:?})", self.index),
            None => write!(f, "interface {}", self.index),
        }
    }
}

/// A fault and the offset in bytes of the record that has it.
#[derive(Debug)]
pub(super) struct Misread {
    pub(super) offset: u64,
    pub(super) fault: Fault,
}

impl Fault {
    pub(super) fn at(self, offset: u64) -> Misread {
        Misread { offset, fault: self }
    }
}

/// Why a capture file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", path.display())]
pub struct WriteError {
    /// The file as it was named to [`Writer::create`](super::Writer::create).
    pub path: PathBuf,
    /// What was wrong.
    pub fault: WriteFault,
}

/// What kept a capture file from being written.
#[derive(Debug, thiserror::Error)]
pub enum WriteFault {
    /// The operating system refused.
    #[error("cannot be written: {0}")]
    Io(#[from] io::Error),
    /// No reader would accept the record.
    #[error("cannot hold a packet of {len} bytes: the most is {MAX_CAPTURED_LEN}")]
    TooLong {
        /// Bytes of the packet.
        len: usize,
    },
    /// pcap counts seconds in 32 bits.
    #[error("cannot hold a packet of {at} s since the epoch: pcap ends in February 2106")]
    TooLate {
        /// When the packet was captured, since the epoch.
        at: Timestamp,
    },
}
