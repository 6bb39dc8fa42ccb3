//! The bytes of a frame, read only where they are known to be.

use super::{HEAD_BYTES, Packet};
use crate::verdict::Reason;

/// The head of a frame that parsing may look at, and where the frame ends on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    head: &'a [u8],
    /// Length of the frame on the wire.
    pub(super) wire_end: usize,
}

impl<'a> Frame<'a> {
    pub(super) fn new(packet: &Packet<'a>) -> Self {
        // A length on the wire below the bytes present is a mistake of whoever wrote the capture.
        let wire_end = usize::try_from(packet.wire_len).unwrap_or(usize::MAX).max(packet.head.len());
        Self { head: packet.head.get(..HEAD_BYTES).unwrap_or(packet.head), wire_end }
    }

    /// The `N` bytes at an offset, if they are present.
    #[inline(always)]
    pub(super) fn array<const N: usize>(&self, at: usize) -> Option<&'a [u8; N]> {
        self.head.get(at..)?.first_chunk()
    }

    /// The `N` bytes of a header at an offset in a packet that ends at `end` on the wire: `missing` when the packet is too
    /// short for it, [`Reason::Truncated`] when the packet is not but the head is.
    #[inline(always)]
    pub(super) fn header<const N: usize>(&self, at: usize, end: usize, missing: Reason) -> Result<&'a [u8; N], Reason> {
        if at + N > end { Err(missing) } else { self.array(at).ok_or(Reason::Truncated) }
    }

    /// The same for headers whose length they say themselves: the bytes from `at` to `to`.
    #[inline(always)]
    pub(super) fn range(&self, at: usize, to: usize, end: usize, missing: Reason) -> Result<&'a [u8], Reason> {
        if to > end { Err(missing) } else { self.head.get(at..to).ok_or(Reason::Truncated) }
    }

    /// What is present of the bytes from `at` to `to`.
    #[inline(always)]
    pub(super) fn present(&self, at: usize, to: usize) -> &'a [u8] {
        self.head.get(at..self.clip(to)).unwrap_or_default()
    }

    /// The version field of an IP header.
    #[inline(always)]
    pub(super) fn version(&self, at: usize) -> Option<u8> {
        self.head.get(at).map(|octet| octet >> 4)
    }

    /// An offset on the wire as an offset in the head.
    #[inline(always)]
    pub(super) fn clip(&self, offset: usize) -> usize {
        offset.min(self.head.len())
    }
}

/// An offset within the head; none is larger than [`HEAD_BYTES`].
#[inline(always)]
pub(super) fn offset(bytes: usize) -> u16 {
    saturated(bytes)
}

/// A length in a lane.
#[inline(always)]
pub(super) fn saturated(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}
