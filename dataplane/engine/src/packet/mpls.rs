//! MPLS label stacks (RFC 3032), up to four labels.

use super::ethernet::{Content, Link};
use super::frame::Frame;
use crate::verdict::Reason;

/// Label (20 bits), traffic class (3), bottom of stack (1), TTL (8).
const LABEL: usize = 4;
/// More labels than these are not followed.
const MAX_LABELS: usize = 4;
const BOTTOM_OF_STACK: u8 = 0x01;

/// Finds what is below the labels that begin at an offset.
pub(super) fn parse(frame: &Frame<'_>, mut l3: usize) -> Result<Link, Reason> {
    for _ in 0..MAX_LABELS {
        let Some([_, _, entry, _]) = frame.array::<LABEL>(l3) else { return Err(Reason::Truncated) };
        l3 += LABEL;
        if entry & BOTTOM_OF_STACK != 0 {
            return Ok(Link { content: Content::Labelled, l3 });
        }
    }
    Ok(Link { content: Content::TooDeep, l3 })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{ethernet, ipv4_packet, ipv6_packet, join, read, read_snapped, udp};
    use super::super::{Kind, Lanes};
    use crate::verdict::Reason;

    /// Label 16 and up, not the last one, TTL 64.
    const LABEL: [u8; 4] = [0x00, 0x01, 0x00, 0x40];
    const BOTTOM: [u8; 4] = [0x00, 0x01, 0x01, 0x40];

    fn labelled(above: usize, content: &[u8]) -> Vec<u8> {
        ethernet(0x8847, &join(&[&LABEL.repeat(above), &BOTTOM, content]))
    }

    #[test]
    fn up_to_four_labels_are_followed_to_ip() {
        let packets =
            [(ipv4_packet(17, 0, &[], &udp(7, 9, b"x")), 0x0800), (ipv6_packet(17, &udp(7, 9, b"x")), 0x86dd)];
        for (packet, kind) in packets {
            let plain = read(&ethernet(kind, &packet));
            for above in 0..4 {
                let read = read(&labelled(above, &packet));
                assert_eq!((read.layers.kind, read.lanes), (Kind::Udp, plain.lanes));
                assert_eq!(read.payload(), b"x");
            }
            assert_eq!(read(&labelled(4, &packet)).layers.kind, Kind::TooDeep);
        }
    }

    #[test]
    fn a_pseudowire_is_not_ip() {
        let control_word = labelled(0, &[0; 64]);
        assert_eq!(read(&control_word).layers.kind, Kind::Other);
        // Without a control word it begins with an Ethernet address, here one that looks like a version.
        for address in [[0x44, 0x01, 0x00, 0x28], [0x48, 0x01, 0x02, 0x03], [0x6c, 0x01, 0x02, 0x03]] {
            let read = read(&labelled(0, &[&address, &[0x05; 64][..]].concat()));
            assert_eq!((read.layers.kind, read.lanes), (Kind::Other, Lanes::default()));
        }
    }

    #[test]
    fn a_label_that_is_cut_is_truncated() {
        let truncated = Kind::Malformed { reason: Reason::Truncated, addressed: false };
        let frame = labelled(2, &ipv4_packet(17, 0, &[], &udp(7, 9, b"x")));
        for snap in 14..=26 {
            assert_eq!(read_snapped(&frame, snap).layers.kind, truncated);
        }
    }
}
