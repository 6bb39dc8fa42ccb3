//! Long lists in messages of bounded size.

use prost::Message;

use super::v1;
use crate::zone::Zone;

/// Most bytes of one list in one message: half of what a receiver takes, so that there is room for what is around it.
pub const MAX_PIECE_BYTES: usize = 512 << 10;

/// Cuts a list into pieces of at most [`MAX_PIECE_BYTES`]; an item that is larger is a piece of its own.
pub fn pieces<M: Message>(items: impl IntoIterator<Item = M>) -> Vec<Vec<M>> {
    let mut pieces: Vec<Vec<M>> = Vec::new();
    let mut bytes = usize::MAX;
    for item in items {
        // The tag and the length before each item.
        let length = item.encoded_len() + 8;
        bytes = bytes.saturating_add(length);
        match pieces.last_mut() {
            Some(piece) if bytes <= MAX_PIECE_BYTES => piece.push(item),
            _ => {
                pieces.push(vec![item]);
                bytes = length;
            }
        }
    }
    pieces
}

/// A zone with its first prefixes, and the rest of them.
pub fn zone_in_pieces(zone: &Zone) -> (v1::Zone, Vec<v1::ZonePrefixes>) {
    /// Some 100 KB, so that several fit into a piece.
    const PREFIXES: usize = 4_096;
    let mut message = v1::Zone::from(zone);
    let rest = message.prefixes.split_off(message.prefixes.len().min(PREFIXES));
    let more = rest.chunks(PREFIXES);
    let more = more.map(|prefixes| v1::ZonePrefixes { zone: zone.name.clone(), prefixes: prefixes.to_vec() });
    (message, more.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_small_and_complete() {
        let prefix = |last: u32| v1::Prefix { address: last.to_be_bytes().to_vec(), length: 32 };
        let items: Vec<v1::Prefix> = (0..200_000).map(prefix).collect();
        let cut = pieces(items.clone());
        assert!(cut.len() > 1);
        for piece in &cut {
            let bytes = v1::ZonePrefixes { zone: String::new(), prefixes: piece.clone() }.encoded_len();
            assert!(bytes <= MAX_PIECE_BYTES, "{bytes}");
        }
        assert_eq!(cut.concat(), items);
        assert_eq!(pieces(Vec::<v1::Prefix>::new()), Vec::<Vec<v1::Prefix>>::new());
    }
}
