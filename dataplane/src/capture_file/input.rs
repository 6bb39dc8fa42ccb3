//! The bytes of a file through one reused buffer, and the numbers in them.

use std::fmt::{self, Debug, Formatter};
use std::io::{self, ErrorKind, Read};

const INITIAL_LEN: usize = 512 * 1024;

/// A forward-only view of a file. The buffer grows only when it is full of bytes that the file really has, so its
/// size follows the file and never a length that the file claims.
pub(super) struct Input {
    source: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    offset: u64,
}

impl Input {
    pub(super) fn new(source: Box<dyn Read + Send>) -> Self {
        Self { source, buffer: vec![0; INITIAL_LEN], start: 0, end: 0, offset: 0 }
    }

    /// Offset in the file of the next byte to be taken.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next `len` bytes without taking them; fewer only where the file ends.
    #[inline]
    pub(super) fn peek(&mut self, len: usize) -> io::Result<&[u8]> {
        if self.end - self.start < len {
            self.fill(len)?;
        }
        Ok(self.buffer.get(self.start..self.end.min(self.start + len)).unwrap_or_default())
    }

    /// Takes the next `len` bytes; fewer only where the file ends.
    #[inline]
    pub(super) fn take(&mut self, len: usize) -> io::Result<&[u8]> {
        if self.end - self.start < len {
            self.fill(len)?;
        }
        let from = self.start;
        let taken = len.min(self.end - from);
        self.start = from + taken;
        self.offset += taken as u64;
        Ok(self.buffer.get(from..self.start).unwrap_or_default())
    }

    fn fill(&mut self, len: usize) -> io::Result<()> {
        while self.end - self.start < len {
            if self.end == self.buffer.len() {
                if self.start == 0 {
                    self.buffer.resize(2 * self.buffer.len(), 0);
                } else {
                    self.buffer.copy_within(self.start..self.end, 0);
                    self.end -= self.start;
                    self.start = 0;
                }
            }
            match self.source.read(self.buffer.get_mut(self.end..).unwrap_or_default()) {
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Debug for Input {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("offset", &self.offset).finish_non_exhaustive()
    }
}

/// In which order a file (pcapng: section) writes the bytes of its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteOrder {
    Little,
    Big,
}

/// Numbers one after the other; `None` when the bytes run out.
pub(super) struct Fields<'a> {
    order: ByteOrder,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(order: ByteOrder, bytes: &'a [u8]) -> Self {
        Self { order, rest: bytes }
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Option<u16> {
        let bytes = self.array()?;
        Some(match self.order {
            ByteOrder::Little => u16::from_le_bytes(bytes),
            ByteOrder::Big => u16::from_be_bytes(bytes),
        })
    }

    #[inline]
    pub(super) fn u32(&mut self) -> Option<u32> {
        let bytes = self.array()?;
        Some(match self.order {
            ByteOrder::Little => u32::from_le_bytes(bytes),
            ByteOrder::Big => u32::from_be_bytes(bytes),
        })
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        let bytes = self.array()?;
        Some(match self.order {
            ByteOrder::Little => i64::from_le_bytes(bytes),
            ByteOrder::Big => i64::from_be_bytes(bytes),
        })
    }

    #[inline]
    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(bytes)
    }

    /// Bytes that are left.
    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_grows_with_the_bytes_present_not_with_those_asked_for() {
        let mut input = Input::new(Box::new(io::repeat(7).take(100)));
        assert_eq!(input.peek(usize::MAX / 2).unwrap(), [7; 100]);
        assert_eq!(input.take(4 << 30).unwrap(), [7; 100]);
        assert_eq!((input.offset(), input.buffer.len()), (100, INITIAL_LEN));

        let mut input = Input::new(Box::new(io::repeat(7).take(3 * INITIAL_LEN as u64)));
        assert_eq!(input.take(4 << 30).unwrap().len(), 3 * INITIAL_LEN);
        assert_eq!(input.buffer.len(), 4 * INITIAL_LEN);
    }
}
