//! Fragments of datagrams: what IPv4 and IPv6 have in common about them.

use levee_api::lane::Bits;

use super::tcp;
use crate::verdict::Reason;

/// The longest datagram, in IPv4 with its header, in IPv6 without the fixed one.
const MAX_DATAGRAM: usize = 65_535;

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
}
