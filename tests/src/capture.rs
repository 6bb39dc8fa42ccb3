//! Writes, and counts what is in, classic pcap files with nanosecond time stamps (draft-ietf-opsawg-pcap), Ethernet.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    path::Path,
};

/// Magic number of files with nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
const SNAPLEN: u32 = 262_144;
const LINKTYPE_ETHERNET: u32 = 1;

/// A capture being written.
#[derive(Debug)]
pub struct Capture<W: Write = BufWriter<File>> {
    out: W,
}

impl Capture {
    /// Creates or replaces a file.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::new(BufWriter::new(File::create(path)?))
    }
}

impl<W: Write> Capture<W> {
    /// Writes the file header.
    pub fn new(mut out: W) -> io::Result<Self> {
        for field in [MAGIC, 4 << 16 | 2, 0, 0, SNAPLEN, LINKTYPE_ETHERNET] {
            out.write_all(&field.to_le_bytes())?;
        }
        Ok(Self { out })
    }

    /// Appends a frame, captured whole.
    ///
    /// The format's seconds have 32 bits: times after 2106 are refused.
    pub fn write(&mut self, unix_ns: u64, frame: &[u8]) -> io::Result<()> {
        let invalid = |_| io::Error::new(io::ErrorKind::InvalidInput, "the pcap format ends in 2106");
        let seconds = u32::try_from(unix_ns / 1_000_000_000).map_err(invalid)?;
        let nanoseconds = (unix_ns % 1_000_000_000) as u32;
        let length = u32::try_from(frame.len()).map_err(invalid)?;
        for field in [seconds, nanoseconds, length, length] {
            self.out.write_all(&field.to_le_bytes())?;
        }
        self.out.write_all(frame)
    }

    /// Writes what is still buffered.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

/// How much is in a capture, as it was on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Packets.
    pub packets: u64,
    /// Their bytes, without FCS.
    pub bytes: u64,
}

impl Size {
    /// Of a capture that a machine of this byte order has written, with nanoseconds.
    pub fn of(path: &Path) -> io::Result<Self> {
        Self::read(BufReader::new(File::open(path)?))
    }

    fn read(mut input: impl Read) -> io::Result<Self> {
        let invalid =
            || io::Error::new(io::ErrorKind::InvalidData, "not a pcap file with nanoseconds, or one cut short");
        let mut header = [0; 24];
        input.read_exact(&mut header)?;
        if header.first_chunk() != Some(&MAGIC.to_le_bytes()) {
            return Err(invalid());
        }
        let mut size = Self::default();
        let mut record = [0; 16];
        loop {
            match input.read(record.get_mut(..1).unwrap_or_default())? {
                0 => return Ok(size),
                _ => input.read_exact(record.get_mut(1..).unwrap_or_default())?,
            }
            let [.., captured, length] = record.as_chunks().0 else { return Err(invalid()) };
            let [captured, length] = [captured, length].map(|field| u64::from(u32::from_le_bytes(*field)));
            if io::copy(&mut input.by_ref().take(captured), &mut io::sink())? < captured {
                return Err(invalid());
            }
            size = Self { packets: size.packets + 1, bytes: size.bytes + length };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_the_format_says() {
        let mut capture = Capture::new(Vec::new()).unwrap();
        capture.write(1_700_000_000_000_000_009, &[1, 2, 3]).unwrap();
        let bytes = capture.finish().unwrap();
        let expected = [
            &[0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0][..],
            &1_700_000_000u32.to_le_bytes(),
            &[9, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3],
        ]
        .concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn what_was_written_is_counted() {
        let mut capture = Capture::new(Vec::new()).unwrap();
        for length in [60, 1500] {
            capture.write(0, &vec![7; length]).unwrap();
        }
        let bytes = capture.finish().unwrap();
        assert_eq!(Size::read(&*bytes).unwrap(), Size { packets: 2, bytes: 1560 });
        assert_eq!(Size::read(&bytes[..24]).unwrap(), Size::default());
        for cut in [3, 30, bytes.len() - 1] {
            assert!(Size::read(&bytes[..cut]).is_err(), "cut after {cut} bytes");
        }
    }

    #[test]
    fn a_time_that_the_format_cannot_hold_is_refused() {
        let mut capture = Capture::new(Vec::new()).unwrap();
        assert!(capture.write(u64::MAX, &[]).is_err());
    }
}
