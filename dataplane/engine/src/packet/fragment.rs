//! Fragments of datagrams: what IPv4 and IPv6 have in common about them.

use levee_api::lane::Bits;

use super::tcp;
use crate::verdict::Reason;

/// The longest datagram, in IPv4 with its header, in IPv6 without the fixed one.
const MAX_DATAGRAM: usize = 65_535;

/// What a fragment holds of its datagram, in units of 8 bytes; the end of the last one is rounded up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Its first unit.
    pub start: u16,
    /// One past its last unit; zero in a packet that is no fragment.
    pub end: u16,
    /// Nothing follows it.
    pub last: bool,
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    /// All of it.
    Whole,
    /// Its beginning: it must hold the whole transport header.
    First,
    /// Any other part of it.
    Later,
}

impl Fragment {
    /// Judges a fragment.
    ///
    /// * `units`: the offset field, in units of 8 bytes. * `more`: more fragments follow.
    /// * `before`: bytes of headers that count towards the length of the whole datagram.
    /// * `data`: bytes that this fragment contributes. * `protocol`: of what was fragmented.
    pub(super) fn judge(units: u16, more: bool, before: usize, data: usize, protocol: u8) -> Result<Self, Reason> {
        if units == 0 && !more {
            // Also an atomic fragment of IPv6 (RFC 6946).
            return Ok(Self::Whole);
        }
        let uneven = more && !data.is_multiple_of(8);
        if data == 0 || uneven || before + usize::from(units) * 8 + data > MAX_DATAGRAM {
            return Err(Reason::FragmentLength);
        }
        match units {
            0 => Ok(Self::First),
            1 if protocol == tcp::PROTOCOL => Err(Reason::FragmentOffsetOne),
            _ => Ok(Self::Later),
        }
    }

    /// What a fragment with these fields holds; nothing for a whole datagram. It has been judged: the end fits.
    #[inline(always)]
    pub(super) fn piece(self, units: u16, more: bool, data: usize) -> Piece {
        match self {
            Self::Whole => Piece::default(),
            Self::First | Self::Later => {
                let length = u16::try_from(data.div_ceil(8)).unwrap_or(u16::MAX);
                Piece { start: units, end: units.saturating_add(length), last: !more }
            }
        }
    }

    /// The property of a packet that says so.
    pub(super) fn bits(self) -> Bits {
        match self {
            Self::Whole => Bits::empty(),
            Self::First => Bits::FIRST_FRAGMENT,
            Self::Later => Bits::LATER_FRAGMENT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_zero_without_more_is_no_fragment() {
        assert_eq!(Fragment::judge(0, false, 20, 0, 17), Ok(Fragment::Whole));
    }

    #[test]
    fn the_last_byte_that_fits_fits() {
        assert_eq!(Fragment::judge(8189, false, 20, 3, 17), Ok(Fragment::Later));
        assert_eq!(Fragment::judge(8189, false, 20, 4, 17), Err(Reason::FragmentLength));
    }

    #[test]
    fn only_the_last_fragment_may_be_uneven() {
        assert_eq!(Fragment::judge(2, false, 20, 9, 17), Ok(Fragment::Later));
        assert_eq!(Fragment::judge(2, true, 20, 9, 17), Err(Reason::FragmentLength));
        assert_eq!(Fragment::judge(0, true, 20, 9, 17), Err(Reason::FragmentLength));
    }

    #[test]
    fn an_empty_fragment_is_malformed() {
        assert_eq!(Fragment::judge(0, true, 20, 0, 17), Err(Reason::FragmentLength));
        assert_eq!(Fragment::judge(3, false, 20, 0, 17), Err(Reason::FragmentLength));
    }

    #[test]
    fn offset_one_is_malformed_in_tcp_only() {
        assert_eq!(Fragment::judge(1, true, 20, 8, 6), Err(Reason::FragmentOffsetOne));
        assert_eq!(Fragment::judge(1, true, 20, 8, 17), Ok(Fragment::Later));
    }

    #[test]
    fn a_piece_ends_with_the_unit_that_holds_its_last_byte() {
        let piece = |units, more, data| Fragment::judge(units, more, 20, data, 17).unwrap().piece(units, more, data);
        assert_eq!(piece(0, true, 16), Piece { start: 0, end: 2, last: false });
        assert_eq!(piece(2, false, 9), Piece { start: 2, end: 4, last: true });
        assert_eq!(piece(8189, false, 3), Piece { start: 8189, end: 8190, last: true });
        assert_eq!(piece(0, false, 900), Piece::default());
    }
}
