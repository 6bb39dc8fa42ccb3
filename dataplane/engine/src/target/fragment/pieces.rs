//! Which pieces of a datagram have come, in 16 bytes.

use std::cmp::Ordering;

use crate::packet::Piece;

/// Pieces that are told apart.
pub(super) const PIECES: usize = 4;

/// What is known of a piece; the worst of several counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Met {
    /// It has not come yet.
    New,
    /// It has come before, or may have.
    Known,
    /// Part of it has come before, or it contradicts where the datagram ends.
    Overlap,
}

/// The pieces of one datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces([Run; PIECES]);

impl Pieces {
    pub(super) const NONE: Self = Self([Run::NONE; PIECES]);

    /// What is known of a piece.
    pub(super) fn meet(&self, piece: Piece) -> Met {
        let runs = self.0.iter().filter(|run| run.end() > 0);
        runs.map(|run| run.meet(piece)).max().unwrap_or(Met::New)
    }

    /// Remembers a piece that is new, if there is room.
    pub(super) fn add(&mut self, piece: Piece) -> bool {
        let run = Run::of(piece);
        if let Some(free) = self.0.iter_mut().find(|run| run.end() == 0) {
            *free = run;
            return true;
        }
        let Some(at) = self.0.iter().position(|other| other.touches(run)) else { return false };
        let Some(grown) = self.0.get(at).map(|other| other.joined(run)) else { return false };
        let other_side = self.0.iter().enumerate().position(|(other, run)| other != at && run.touches(grown));
        let joined = other_side.and_then(|other| self.0.get_mut(other)).map(std::mem::take);
        if let Some(slot) = self.0.get_mut(at) {
            *slot = joined.map_or(grown, |other| grown.joined(other));
        }
        true
    }

    /// True when every piece up to the last has come, and has been remembered.
    pub(super) fn are_complete(&self) -> bool {
        let covered: u16 = self.0.iter().map(|run| run.end() - run.start()).sum();
        let whole = self.0.iter().find(|run| run.is_last()).map(|run| run.end());
        whole == Some(covered)
    }
}

/// Adjacent units of a datagram that have come, in one piece or in several.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    /// First unit; offsets have 13 bits.
    start: u16,
    /// One past the last unit: at most 2^13. Zero when nothing has come.
    end: u16,
}

impl Run {
    const NONE: Self = Self { start: 0, end: 0 };
    /// Above the numbers.
    const FLAG: u16 = 1 << 15;

    fn of(piece: Piece) -> Self {
        let last = if piece.last { Self::FLAG } else { 0 };
        Self { start: piece.start & !Self::FLAG, end: piece.end & !Self::FLAG | last }
    }

    fn start(self) -> u16 {
        self.start & !Self::FLAG
    }

    fn end(self) -> u16 {
        self.end & !Self::FLAG
    }

    fn is_last(self) -> bool {
        self.end & Self::FLAG != 0
    }

    /// It came in several pieces, whose borders are not known.
    fn is_joined(self) -> bool {
        self.start & Self::FLAG != 0
    }

    fn meet(self, piece: Piece) -> Met {
        let (start, end) = (self.start(), self.end());
        let contradicts = match piece.end.cmp(&end) {
            Ordering::Less => piece.last,
            Ordering::Equal => piece.last != self.is_last(),
            Ordering::Greater => self.is_last(),
        };
        let is_within = start <= piece.start && piece.end <= end;
        let is_same = (piece.start, piece.end) == (start, end);
        if contradicts {
            Met::Overlap
        } else if piece.end <= start || end <= piece.start {
            Met::New
        } else if is_same || is_within && self.is_joined() {
            Met::Known
        } else {
            Met::Overlap
        }
    }

    fn touches(self, other: Self) -> bool {
        self.end() > 0 && (self.end() == other.start() || other.end() == self.start())
    }

    fn joined(self, other: Self) -> Self {
        let last = (self.end | other.end) & Self::FLAG;
        Self { start: self.start().min(other.start()) | Self::FLAG, end: self.end().max(other.end()) | last }
    }
}
