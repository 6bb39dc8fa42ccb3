//! Capture files.
//!
//! [`open`] reads classic pcap (both byte orders, microseconds and nanoseconds, also the "modified" format of
//! patched libpcaps) and pcapng (both byte orders, any resolution, any number of sections and interfaces), one
//! record at a time out of one reused buffer. [`Writer`] writes classic pcap with nanoseconds, [`pcapng_blocks`] what captures
//! of incidents consist of. Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng.
//!
//! What the reader holds to:
//!
//! * Only Ethernet. A classic file of another link type is refused by [`open`]; in pcapng it is the first *packet*
//!   of another link type that is refused, so that unused interfaces do no harm.
//! * No length is believed before it is compared with the bytes present: a record that claims 4 GiB costs nothing.
//! * A damaged or cut file yields every record before the damage, then one error, then nothing. A file that ends
//!   inside a record is an error of its own, [`Fault::Truncated`]: captures whose writer was killed end like that,
//!   so replay reports it and finishes with what came before; every other fault makes the replay fail.
//! * Records come as they are: time stamps may go backwards, packets may be cut by the snap length, a frame check
//!   sequence at the end of frames stays where it is.

mod error;
mod input;
mod link_type;
mod pcap;
mod pcapng;
pub mod pcapng_blocks;
mod writer;

#[cfg(test)]
mod captures_test;
#[cfg(test)]
mod damage_test;
#[cfg(test)]
mod fixture;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use levee_engine::time::Timestamp;

pub use error::{Fault, Interface, OpenError, ReadError, WriteError, WriteFault};
pub use link_type::LinkType;
pub use writer::Writer;

use error::Misread;
use input::Input;
use pcap::Pcap;
use pcapng::Pcapng;

/// The most bytes of one packet that a record may hold: the largest snap length of libpcap and Wireshark, well
/// above any Ethernet frame. Snap lengths in file headers are not used to judge records: too many are wrong.
pub const MAX_CAPTURED_LEN: u32 = 256 * 1024;

/// One captured Ethernet frame; the bytes live in the reader's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was captured, since the epoch. A pcapng Simple Packet has no time: it takes that of the record
    /// before it, 0 if there is none.
    pub at: Timestamp,
    /// The bytes captured, at most [`MAX_CAPTURED_LEN`], from the destination address on.
    pub data: &'a [u8],
    /// Bytes the frame had on the wire; never less than `data.len()`.
    pub wire_len: u32,
}

impl<'a> Record<'a> {
    /// A file may claim that fewer bytes were on the wire than were captured: the captured ones are proof.
    fn new(at: Timestamp, data: &'a [u8], wire_len: u32) -> Self {
        Self { at, data, wire_len: wire_len.max(u32::try_from(data.len()).unwrap_or(u32::MAX)) }
    }
}

/// Opens a capture file and checks its first header. Pipes work too (`/dev/stdin`).
///
/// # Errors
/// When the file cannot be opened, is empty, compressed or no capture, or has an unsupported version or link type.
pub fn open(path: impl AsRef<Path>) -> Result<Reader, OpenError> {
    let path = path.as_ref();
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
    match opened {
        Ok((metadata, file)) => Reader::new(path, Box::new(file), metadata.is_file().then_some(metadata.len())),
        Err(error) => Err(OpenError { path: path.to_owned(), fault: Fault::Io(error) }),
    }
}

/// Reads the records of one capture file, in file order.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    input: Input,
    format: Format,
    len: Option<u64>,
    ended: bool,
}

#[derive(Debug)]
enum Format {
    Pcap(Pcap),
    Pcapng(Pcapng),
}

impl Reader {
    fn new(path: &Path, source: Box<dyn Read + Send>, len: Option<u64>) -> Result<Self, OpenError> {
        let mut input = Input::new(source);
        match Format::detect(&mut input) {
            Ok(format) => Ok(Self { path: path.to_owned(), input, format, len, ended: false }),
            Err(fault) => Err(OpenError { path: path.to_owned(), fault }),
        }
    }

    /// The next record, `None` at the end of the file and after an error.
    ///
    /// # Errors
    /// When the file is damaged, ends inside a record ([`Fault::Truncated`]), cannot be read, or the next packet
    /// is not Ethernet.
    #[expect(clippy::should_implement_trait, reason = "an Iterator's items cannot borrow the buffer it reuses")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>, ReadError> {
        if self.ended {
            return Ok(None);
        }
        let record = match &mut self.format {
            Format::Pcap(pcap) => pcap.next(&mut self.input),
            Format::Pcapng(pcapng) => pcapng.next(&mut self.input),
        };
        self.ended = !matches!(record, Ok(Some(_)));
        record.map_err(|Misread { offset, fault }| ReadError { path: self.path.clone(), offset, fault })
    }

    /// The file as it was named to [`open`].
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file consumed so far: with [`Self::len_hint`], how far the reading is.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.input.offset()
    }

    /// Bytes the file had when it was opened; unknown for a pipe.
    #[must_use]
    pub fn len_hint(&self) -> Option<u64> {
        self.len
    }
}

impl Format {
    fn detect(input: &mut Input) -> Result<Self, Fault> {
        const COMPRESSED: [(&[u8], &str); 5] = [
            (b"\x1f\x8b", "gzip"),
            (b"\x28\xb5\x2f\xfd", "zstd"),
            (b"\xfd7zX", "xz"),
            (b"BZh", "bzip2"),
            (b"\x04\x22\x4d\x18", "lz4"),
        ];
        let start = input.peek(4)?;
        if let Some((_, format)) = COMPRESSED.iter().find(|(magic, _)| start.starts_with(magic)) {
            return Err(Fault::Compressed(format));
        }
        let Some(&magic) = start.first_chunk() else {
            return Err(if start.is_empty() { Fault::Empty } else { Fault::NotACapture { start: start.to_vec() } });
        };
        if magic == pcapng::MAGIC {
            Ok(Self::Pcapng(Pcapng::open(input).map_err(|misread| misread.fault)?))
        } else if let Some(variant) = pcap::Variant::of(magic) {
            Ok(Self::Pcap(Pcap::open(variant, input)?))
        } else {
            Err(Fault::NotACapture { start: magic.to_vec() })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Cursor};

    use super::fixture::{BOTH, open_error, packet, read, read_sound, reader, small_pcap, small_pcapng};
    use super::*;

    /// Gives one byte at a time, as a slow pipe may, and is interrupted before each.
    struct Trickle(Cursor<Vec<u8>>, bool);

    impl Read for Trickle {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 { Err(io::ErrorKind::Interrupted.into()) } else { self.0.read(&mut buffer[..1]) }
        }
    }

    #[test]
    fn a_slow_pipe_gives_the_same_records_as_a_file() {
        for bytes in [small_pcap(), small_pcapng()] {
            let (packets, error) = read(reader(Trickle(Cursor::new(bytes.clone()), false)).unwrap());
            assert!(error.is_none());
            assert_eq!(packets, read_sound(&bytes));
        }
    }

    #[test]
    fn a_file_is_opened_by_its_magic_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("capture.txt");
        let bytes = small_pcapng();
        std::fs::write(&path, &bytes).unwrap();
        let mut reader = open(&path).unwrap();
        assert_eq!(reader.path(), path);
        assert_eq!(reader.len_hint(), Some(bytes.len() as u64));
        assert_eq!(reader.next().unwrap(), Some(Record { at: Timestamp(1_000_000_005), data: b"abc", wire_len: 3 }));
        assert!(reader.bytes_read() < bytes.len() as u64);
        assert_eq!(read(reader).0.len(), 3);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = open("/nonexistent/capture.pcap").unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/capture.pcap: cannot be read: No such file"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let error = open(folder.path()).unwrap_err();
        assert!(matches!(error.fault, Fault::Io(_)), "{error}");
    }

    #[test]
    fn what_is_no_capture_is_refused_with_what_it_seems_to_be() {
        assert!(open_error(b"").contains("is empty"));
        assert!(open_error(b"\x1f\x8b\x08\0").contains("compressed with gzip"));
        assert!(open_error(b"\x28\xb5\x2f\xfd").contains("compressed with zstd"));
        assert!(open_error(b"<html>").contains("it begins with <htm,"));
        assert!(open_error(b"\xa1\xb2").contains(r"it begins with \xa1\xb2,"));
    }

    #[test]
    fn more_bytes_than_the_buffer_holds_come_through_whole() {
        for e in BOTH {
            let data: Vec<u8> = (0..MAX_CAPTURED_LEN).map(|i| i.to_le_bytes()[i as usize % 3]).collect();
            let mut file = e.pcap_header(0xa1b2_3c4d, 1);
            for second in 0..9 {
                file.extend(e.record(second, 0, &data, 0));
            }
            for (second, read) in read_sound(&file).into_iter().enumerate() {
                assert!(read == packet(second as u64 * 1_000_000_000, &data, MAX_CAPTURED_LEN), "record {second}");
            }
        }
    }
}
