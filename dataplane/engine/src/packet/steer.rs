//! Which worker a packet belongs to: a symmetric hash of its two addresses, computed by network cards or here.
//!
//! Everything between two addresses, in both directions and in all fragments, has to meet the memory of one worker. Cards
//! spread packets by the Toeplitz hash; with a key that repeats every 16 bits it no longer depends on which address comes
//! first (Woo and Park, "Scalable TCP session monitoring with symmetric receive-side scaling", 2012), and it becomes a
//! function of one number: the exclusive or of all 16-bit pieces of both addresses. That makes it cheap enough to
//! compute where no card does, and both ways lead to the same worker.
//!
//! The key is public, because cards that cannot be told a secret one must agree. Who chooses sources can send all their
//! packets to one worker; a single source does so without trying. No more than that worker's share of the box is at stake.

/// The key that cards are given, repeated to the length they want.
pub const KEY: [u8; 2] = [0x6d, 0x5a];
/// Entries of a card's table from hash to queue that are told apart: the fewest that cards have. Longer tables repeat.
pub const BUCKETS: usize = 64;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const MPLS: [u16; 2] = [0x8847, 0x8848];
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
/// As many as parsing follows.
const MAX_TAGS: usize = 2;
const MAX_LABELS: usize = 4;

/// The worker among `workers` that a bucket belongs to: what a card's table says at that position.
#[inline(always)]
pub const fn worker_of(bucket: usize, workers: usize) -> usize {
    (bucket % BUCKETS) % workers
}

/// The worker among `workers` (not zero) for the frame that begins with `head`. What is not IP, or too short to tell,
/// belongs to the first.
#[inline]
pub fn worker(head: &[u8], workers: usize) -> usize {
    worker_of(usize::from(bucket(head)), workers)
}

/// The bucket of a frame: the low bits of its hash.
#[inline]
fn bucket(head: &[u8]) -> u8 {
    let pieces = match kind(head, 12) {
        Some(IPV4) => addresses_of_ipv4(head, 14),
        Some(IPV6) => addresses_of_ipv6(head, 14),
        _ => behind_tags(head),
    };
    pieces.map_or(0, toeplitz)
}

/// A frame with tags or labels, or one that is not IP.
#[cold]
fn behind_tags(head: &[u8]) -> Option<u16> {
    let mut at = 12;
    let mut kind_here = kind(head, at)?;
    for _ in 0..MAX_TAGS {
        if TAGS.contains(&kind_here) {
            at += 4;
            kind_here = kind(head, at)?;
        }
    }
    let mut l3 = at + 2;
    if MPLS.contains(&kind_here) {
        let label = |at: usize| head.get(at..)?.first_chunk::<4>();
        let bottom =
            (0..MAX_LABELS).find(|label_number| label(l3 + 4 * label_number).is_some_and(|l| l[2] & 1 != 0))?;
        l3 += 4 * (bottom + 1);
        kind_here = match head.get(l3)? >> 4 {
            4 => IPV4,
            6 => IPV6,
            _ => return None,
        };
    }
    match kind_here {
        IPV4 => addresses_of_ipv4(head, l3),
        IPV6 => addresses_of_ipv6(head, l3),
        _ => None,
    }
}

#[inline(always)]
fn kind(head: &[u8], at: usize) -> Option<u16> {
    head.get(at..)?.first_chunk().map(|octets| u16::from_be_bytes(*octets))
}

/// All pieces of both addresses of an IPv4 header, folded into one.
#[inline(always)]
fn addresses_of_ipv4(head: &[u8], l3: usize) -> Option<u16> {
    let addresses: &[u8; 8] = head.get(l3 + 12..)?.first_chunk()?;
    Some(fold(u64::from_be_bytes(*addresses)))
}

#[inline(always)]
fn addresses_of_ipv6(head: &[u8], l3: usize) -> Option<u16> {
    let addresses: &[u8; 32] = head.get(l3 + 8..)?.first_chunk()?;
    let (words, _) = addresses.as_chunks::<8>();
    Some(fold(words.iter().fold(0, |sum, word| sum ^ u64::from_be_bytes(*word))))
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the upper pieces have been folded into the lowest")]
const fn fold(words: u64) -> u16 {
    let halves = words ^ (words >> 32);
    (halves ^ (halves >> 16)) as u16
}

/// The low bits of the hash of an input whose pieces add up to `pieces`. The hash is linear, so two tables do.
#[inline(always)]
fn toeplitz(pieces: u16) -> u8 {
    let [high, low] = pieces.to_be_bytes();
    let part = |half: usize, octet: u8| PARTS.get(half).and_then(|part| part.get(usize::from(octet))).copied();
    part(0, high).unwrap_or_default() ^ part(1, low).unwrap_or_default()
}

/// The contribution of the first and of the second octet of a piece.
static PARTS: [[u8; 256]; 2] = parts();

#[expect(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "evaluated at compile time")]
const fn parts() -> [[u8; 256]; 2] {
    let key = u16::from_be_bytes(KEY);
    let mut parts = [[0; 256]; 2];
    let mut octet = 0;
    while octet < 256 {
        let mut bit = 0;
        while bit < 8 {
            if octet >> (7 - bit) & 1 == 1 {
                // The key's window at this bit. It is 32 bits long; as the key repeats, both halves are the same.
                parts[0][octet] ^= key.rotate_left(bit) as u8 % BUCKETS as u8;
                parts[1][octet] ^= key.rotate_left(bit + 8) as u8 % BUCKETS as u8;
            }
            bit += 1;
        }
        octet += 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixture::{ethernet, ipv4_packet, ipv6_packet, join, udp};
    use super::*;

    /// The hash as cards compute it: for each bit of the input that is set, the 32 bits of the key from there on.
    fn by_the_book(key: &[u8], input: &[u8]) -> u32 {
        let window = |bit: usize| {
            (0..32).fold(0_u32, |sum, next| sum << 1 | u32::from(key[(bit + next) / 8] >> (7 - (bit + next) % 8) & 1))
        };
        let bits = (0..input.len() * 8).filter(|bit| input[bit / 8] >> (7 - bit % 8) & 1 == 1);
        bits.map(window).fold(0, |sum, window| sum ^ window)
    }

    /// Packets of both versions from one address to another, whole, as a first and as a later fragment.
    fn ipv4(source: [u8; 4], destination: [u8; 4], fragment: u16, rest: &[u8]) -> Vec<u8> {
        let mut packet = ipv4_packet(17, fragment, &[], &udp(1, 2, rest));
        packet[12..16].copy_from_slice(&source);
        packet[16..20].copy_from_slice(&destination);
        packet
    }

    fn ipv6(source: [u8; 16], destination: [u8; 16], protocol: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = ipv6_packet(protocol, &udp(1, 2, rest));
        packet[8..24].copy_from_slice(&source);
        packet[24..40].copy_from_slice(&destination);
        packet
    }

    /// The packet in every kind of frame that parsing follows.
    fn framed(kind: u16, packet: &[u8]) -> Vec<Vec<u8>> {
        let plain = ethernet(kind, packet);
        let tag = |tpid: u16| join(&[&tpid.to_be_bytes(), &[0x20, 0x64]]);
        let tagged = |tags: &[u8]| join(&[&plain[..12], tags, &plain[12..]]);
        let labels = |above: usize| ethernet(0x8847, &join(&[&[0, 1, 0, 64].repeat(above), &[0, 1, 1, 64], packet]));
        vec![
            tagged(&tag(0x8100)),
            tagged(&join(&[&tag(0x88a8), &tag(0x8100)])),
            tagged(&join(&[&tag(0x9100), &tag(0x8100)])),
            labels(0),
            labels(3),
            plain,
        ]
    }

    proptest! {
        #[test]
        fn both_directions_and_all_fragments_in_any_frame_belong_to_one_worker(
            one: [u8; 4], other: [u8; 4], one6: [u8; 16], other6: [u8; 16], rest: Vec<u8>, workers in 1_usize..=16,
        ) {
            let rest = &rest[..rest.len().min(64)];
            for (kind, packets, input) in [
                (
                    0x0800,
                    vec![ipv4(one, other, 0, rest), ipv4(other, one, 0, &[]), ipv4(one, other, 0x2000, rest), ipv4(one, other, 100, &[])],
                    [one, other].concat(),
                ),
                (
                    0x86dd,
                    vec![ipv6(one6, other6, 17, rest), ipv6(other6, one6, 6, &[]), ipv6(one6, other6, 44, rest)],
                    [one6, other6].concat(),
                ),
            ] {
                let bucket = usize::try_from(by_the_book(&KEY.repeat(20), &input)).unwrap() % BUCKETS;
                for frame in packets.iter().flat_map(|packet| framed(kind, packet)) {
                    prop_assert_eq!(worker(&frame, workers), worker_of(bucket, workers));
                }
            }
        }

        #[test]
        fn any_bytes_belong_to_some_worker(bytes: Vec<u8>, workers in 1_usize..=64) {
            prop_assert!(worker(&bytes, workers) < workers);
        }
    }

    #[test]
    fn the_book_is_the_verification_suite_of_receive_side_scaling() {
        #[rustfmt::skip]
        let key = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
            0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
        ];
        assert_eq!(by_the_book(&key, &[66, 9, 149, 187, 161, 142, 100, 80]), 0x323e_8fc2);
    }

    #[test]
    fn random_sources_of_one_target_spread_evenly() {
        for workers in [2, 3, 4, 8, 16] {
            let mut packets = vec![0_u32; workers];
            for number in 0..64_000_u32 {
                let source = number.wrapping_mul(2_654_435_761).to_be_bytes();
                packets[worker(&ethernet(0x0800, &ipv4(source, [192, 0, 2, 1], 0, &[])), workers)] += 1;
            }
            let even = 64_000 / u32::try_from(workers).unwrap();
            // 64 buckets over three workers are 22, 21 and 21.
            assert!(packets.iter().all(|&count| count.abs_diff(even) < even / 16), "{packets:?}");
        }
    }

    #[test]
    fn what_is_not_ip_belongs_to_the_first() {
        let arp = ethernet(0x0806, &[0x45; 46]);
        assert_eq!(worker(&arp, 16), 0);
        assert_eq!(worker(&arp[..13], 16), 0);
        assert_eq!(worker(&ethernet(0x0800, &[0x45; 19]), 16), 0, "cut inside the addresses");
    }
}
