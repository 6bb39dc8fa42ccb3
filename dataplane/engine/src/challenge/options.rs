//! The TCP options that a handshake agrees on: maximum segment size, window scale (RFC 7323), selective acknowledgements
//! (RFC 2018) and timestamps (RFC 7323).

use super::header;

/// What a SYN or a SYN-ACK offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size in bytes.
    pub mss: Option<u16>,
    /// Windows are counted in units of 2^scale bytes.
    pub scale: Option<u8>,
    /// Selective acknowledgements are understood.
    pub sack: bool,
    /// Timestamps.
    pub stamps: Option<Stamps>,
}

/// Timestamps of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamps {
    /// The sender's clock.
    pub value: u32,
    /// The other side's, as it came last.
    pub echo: u32,
}

/// Rows of 32 bits that options take at most.
pub(super) const ROWS: usize = 5;
/// RFC 7323 section 2.3: a larger scale counts as this.
pub const MOST_SCALE: u8 = 14;

/// Kinds of options.
pub(super) mod kind {
    pub(in crate::challenge) const END: u8 = 0;
    pub(in crate::challenge) const NOTHING: u8 = 1;
    pub(in crate::challenge) const MSS: u8 = 2;
    pub(in crate::challenge) const SCALE: u8 = 3;
    pub(in crate::challenge) const SACK_PERMITTED: u8 = 4;
    pub(in crate::challenge) const SACK: u8 = 5;
    pub(in crate::challenge) const STAMPS: u8 = 8;
}

impl Options {
    /// Those in the option field of a header. What is cut off or has an impossible length ends the list.
    pub fn read(field: &[u8]) -> Self {
        let mut options = Self::default();
        for (_, kind, value) in each(field) {
            match (kind, value) {
                (kind::MSS, [high, low]) => options.mss = Some(u16::from_be_bytes([*high, *low])),
                (kind::SCALE, [scale]) => options.scale = Some((*scale).min(MOST_SCALE)),
                (kind::SACK_PERMITTED, []) => options.sack = true,
                (kind::STAMPS, value) if value.len() == 8 => {
                    let [value, echo] = header::rows(value);
                    options.stamps = Some(Stamps { value, echo });
                }
                _ => {}
            }
        }
        options
    }

    /// As rows, and how many of them are used. Never more than these options take in any SYN that offers them.
    pub(super) fn rows(&self) -> ([u32; ROWS], usize) {
        const SACK_PERMITTED: u32 = 0x0402_0000;
        const TWO_NOTHINGS: u32 = 0x0101_0000;
        let (mut rows, mut used) = ([0; ROWS], 0);
        let mut put = |row: u32| {
            if let Some(place) = rows.get_mut(used) {
                *place = row;
                used += 1;
            }
        };
        if let Some(mss) = self.mss {
            put(u32::from_be_bytes([kind::MSS, 4, 0, 0]) | u32::from(mss));
        }
        let before = if self.sack { SACK_PERMITTED } else { TWO_NOTHINGS };
        if let Some(Stamps { value, echo }) = self.stamps {
            put(before | u32::from_be_bytes([0, 0, kind::STAMPS, 10]));
            put(value);
            put(echo);
        } else if self.sack {
            put(TWO_NOTHINGS | SACK_PERMITTED >> 16);
        }
        if let Some(scale) = self.scale {
            put(u32::from_be_bytes([kind::NOTHING, kind::SCALE, 3, scale]));
        }
        (rows, used)
    }
}

/// Options of a field one after the other: the offset of its value, kind and value.
pub(super) fn each(field: &[u8]) -> impl Iterator<Item = (usize, u8, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            match *field.get(at..)? {
                [kind::END, ..] => return None,
                [kind::NOTHING, ..] => at += 1,
                [kind, length, ..] if length >= 2 => {
                    let from = at + 2;
                    let value = field.get(from..at + usize::from(length))?;
                    at += usize::from(length);
                    return Some((from, kind, value));
                }
                _ => return None,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(options: &Options) -> Vec<u8> {
        let (rows, used) = options.rows();
        rows.iter().take(used).flat_map(|row| row.to_be_bytes()).collect()
    }

    fn any_options() -> impl Strategy<Value = Options> {
        let stamps = any::<(u32, u32)>().prop_map(|(value, echo)| Stamps { value, echo });
        let parts =
            (prop::option::of(any::<u16>()), prop::option::of(0..=MOST_SCALE), any::<bool>(), prop::option::of(stamps));
        parts.prop_map(|(mss, scale, sack, stamps)| Options { mss, scale, sack, stamps })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(options in any_options()) {
            prop_assert_eq!(Options::read(&written(&options)), options);
        }

        #[test]
        fn no_field_that_offers_the_same_is_shorter(options in any_options()) {
            let least = 4 * usize::from(options.mss.is_some())
                + 3 * usize::from(options.scale.is_some())
                + 2 * usize::from(options.sack)
                + 10 * usize::from(options.stamps.is_some());
            prop_assert!(written(&options).len() <= least.next_multiple_of(4));
        }

        #[test]
        fn any_bytes_can_be_read(field in prop::collection::vec(any::<u8>(), 0..40)) {
            let options = Options::read(&field);
            prop_assert!(options.scale.is_none_or(|scale| scale <= MOST_SCALE));
            prop_assert!(each(&field).all(|(at, _, value)| at + value.len() <= field.len()));
        }
    }

    #[test]
    fn options_as_clients_send_them_are_read() {
        let linux = [2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 7];
        let stamps = Some(Stamps { value: 7, echo: 0 });
        assert_eq!(Options::read(&linux), Options { mss: Some(1460), scale: Some(7), sack: true, stamps });
        let windows = [2, 4, 0x05, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2];
        assert_eq!(Options::read(&windows), Options { mss: Some(1460), scale: Some(8), sack: true, stamps: None });
        assert_eq!(Options::read(&[0, 2, 4, 5, 0xb4]), Options::default(), "nothing after the end");
    }
}
