//! Two captures as one stream, by time; the outside first on ties.

use std::path::Path;

use levee_engine::packet::Direction;
use levee_engine::time::Timestamp;

use crate::capture_file::{self, Fault, OpenError, ReadError, Reader, Record};

/// Both inputs.
pub(super) struct Merged {
    outside: Input,
    inside: Option<Input>,
    cut: Option<ReadError>,
}

/// One input with the record that comes next.
struct Input {
    reader: Reader,
    at: Option<Timestamp>,
    data: Vec<u8>,
    wire_len: u32,
}

impl Merged {
    pub(super) fn open(outside: &Path, inside: Option<&Path>) -> Result<Self, OpenError> {
        let inside = inside.map(Input::open).transpose()?;
        Ok(Self { outside: Input::open(outside)?, inside, cut: None })
    }

    /// Time of the first record; reads both inputs up to there.
    pub(super) fn first_at(&mut self) -> Result<Option<Timestamp>, ReadError> {
        self.outside.fetch(&mut self.cut)?;
        let mut first = self.outside.at;
        if let Some(inside) = &mut self.inside {
            inside.fetch(&mut self.cut)?;
            first = first.into_iter().chain(inside.at).min();
        }
        Ok(first)
    }

    /// The next record of either input.
    pub(super) fn next(&mut self) -> Result<Option<(Direction, Record<'_>)>, ReadError> {
        self.outside.fetch(&mut self.cut)?;
        if let Some(inside) = &mut self.inside {
            inside.fetch(&mut self.cut)?;
        }
        let inside_at = self.inside.as_ref().and_then(|inside| inside.at);
        let outside_first = match (self.outside.at, inside_at) {
            (None, None) => return Ok(None),
            (Some(outside), Some(inside)) => outside <= inside,
            (outside, None) => outside.is_some(),
            (None, Some(_)) => false,
        };
        Ok(if outside_first {
            self.outside.take().map(|record| (Direction::Inbound, record))
        } else {
            self.inside.as_mut().and_then(Input::take).map(|record| (Direction::Outbound, record))
        })
    }

    /// The error of an input that ended in the middle of a record.
    pub(super) fn cut(&self) -> Option<&ReadError> {
        self.cut.as_ref()
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.outside.reader.bytes_read() + self.inside.as_ref().map_or(0, |inside| inside.reader.bytes_read())
    }

    pub(super) fn len_hint(&self) -> Option<u64> {
        Some(
            self.outside.reader.len_hint()?
                + self.inside.as_ref().map_or(Some(0), |inside| inside.reader.len_hint())?,
        )
    }
}

impl Input {
    fn open(path: &Path) -> Result<Self, OpenError> {
        Ok(Self { reader: capture_file::open(path)?, at: None, data: Vec::new(), wire_len: 0 })
    }

    /// Makes sure that the next record is at hand, if there is one.
    fn fetch(&mut self, cut: &mut Option<ReadError>) -> Result<(), ReadError> {
        if self.at.is_some() {
            return Ok(());
        }
        match self.reader.next() {
            Ok(Some(record)) => {
                self.at = Some(record.at);
                self.wire_len = record.wire_len;
                self.data.clear();
                self.data.extend_from_slice(record.data);
            }
            Ok(None) => {}
            Err(error) if matches!(error.fault, Fault::Truncated { .. }) => *cut = Some(error),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn take(&mut self) -> Option<Record<'_>> {
        let at = self.at.take()?;
        Some(Record { at, data: &self.data, wire_len: self.wire_len })
    }
}
