//! Damage to bytes whose structure is not known.

use super::chance::Chance;

/// Values at which lengths and numbers turn over.
const EDGES: [u8; 9] = [0, 1, 2, 0x0f, 0x10, 0x7f, 0x80, 0xf0, 0xff];

/// Any index below `end`, which is not 0.
pub(crate) fn below(chance: &mut Chance, end: usize) -> usize {
    usize::try_from(chance.next() % end as u64).unwrap()
}

/// Any of them.
pub(crate) fn pick<'a, T>(chance: &mut Chance, all: &'a [T]) -> &'a T {
    &all[below(chance, all.len())]
}

/// A place and a length within so many bytes.
fn stretch(chance: &mut Chance, bytes: usize) -> std::ops::Range<usize> {
    let from = below(chance, bytes + 1);
    let length = below(chance, (bytes - from).min(40) + 1);
    from..from + length
}

/// Damages bytes in one way: a flip, an edge, a cut, something put in, said twice, or taken from elsewhere.
pub(crate) fn once(bytes: &mut Vec<u8>, elsewhere: &[u8], chance: &mut Chance) {
    let length = bytes.len();
    match chance.between(0, 8) {
        0 | 1 if length > 0 => bytes[below(chance, length)] ^= 1 << below(chance, 8),
        2 | 3 if length > 0 => bytes[below(chance, length)] = *pick(chance, &EDGES),
        4 if length > 1 => {
            let at = below(chance, length - 1);
            let value = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let lie = [value.wrapping_add(1), value.wrapping_sub(1), 0, u16::MAX, 0xf0f0][below(chance, 5)];
            bytes[at..at + 2].copy_from_slice(&lie.to_be_bytes());
        }
        5 => bytes.truncate(below(chance, length + 1)),
        6 => drop(bytes.drain(stretch(chance, length))),
        7 => {
            let again = bytes[stretch(chance, length)].to_vec();
            let at = below(chance, length + 1);
            bytes.splice(at..at, again);
        }
        _ => {
            let (from, at) = (stretch(chance, elsewhere.len()), stretch(chance, length));
            bytes.splice(at, elsewhere[from].iter().copied());
        }
    }
}

/// Damages bytes one to four times.
pub(crate) fn some(bytes: &mut Vec<u8>, elsewhere: &[u8], chance: &mut Chance) {
    for _ in 0..chance.between(1, 4) {
        once(bytes, elsewhere, chance);
    }
}
