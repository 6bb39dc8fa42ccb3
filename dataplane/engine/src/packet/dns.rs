//! DNS over UDP (RFC 1035), as far as counting its packets needs it: which domain a query is for, and which responses are
//! errors.

use super::hash::Hash;

/// Server port.
pub const PORT: u16 = 53;

/// Length of the header.
const HEADER: usize = 12;
const RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const RESPONSE_CODE: u8 = 0x0f;
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 255;
/// Type and class after a question's name.
const TYPE_AND_CLASS: usize = 4;

/// Hash of the last two labels of the name that a query asks for; 0 when the payload is no well-formed query.
///
/// Random subdomains of one domain share it (water torture), whatever the case of their letters: resolvers randomise that.
/// Compression pointers are not followed: no query needs one.
pub fn query_suffix(payload: &[u8]) -> u16 {
    let Some(labels) = suffix(payload) else { return 0 };
    let mut hash = Hash::new();
    for octet in labels {
        // Length octets are below the letters, so that lowering the case leaves them alone.
        hash.add(octet.to_ascii_lowercase());
    }
    hash.finish()
}

/// The last two labels (fewer if the name has fewer) of the first question, with their length octets.
fn suffix(payload: &[u8]) -> Option<&[u8]> {
    let Question { before, end } = question(payload)?;
    payload.get(HEADER..)?.get(before..end)
}

/// The name of a question, as offsets behind the header.
struct Question {
    /// Of its last two labels.
    before: usize,
    /// Of its root.
    end: usize,
}

/// The first question of a query.
fn question(payload: &[u8]) -> Option<Question> {
    #[rustfmt::skip] // rows as in RFC 1035's picture
    let [
        _, _, flags, _,
        questions0, questions1, _, _,
        _, _, _, _,
    ] = *payload.first_chunk::<HEADER>()?;
    if flags & (RESPONSE | OPCODE) != 0 || (questions0, questions1) == (0, 0) {
        return None;
    }
    let name = payload.get(HEADER..)?;
    let (mut before, mut last, mut at) = (0, 0, 0);
    loop {
        let label = usize::from(*name.get(at)?);
        if label == 0 {
            break;
        }
        if label > MAX_LABEL || at + 1 + label >= MAX_NAME {
            return None;
        }
        (before, last) = (last, at);
        at += 1 + label;
    }
    name.get(at..=at + TYPE_AND_CLASS)?;
    Some(Question { before, end: at })
}

/// Length of the header and the question of a well-formed query with one.
pub(crate) fn query_length(payload: &[u8]) -> Option<usize> {
    let question = question(payload)?;
    (payload.get(4..6) == Some(&[0, 1])).then_some(HEADER + question.end + 1 + TYPE_AND_CLASS)
}

/// Whether a payload is a response with an error code.
pub(super) fn is_error(payload: &[u8]) -> bool {
    match payload.first_chunk::<HEADER>() {
        Some([_, _, flags, code, ..]) => flags & RESPONSE != 0 && code & RESPONSE_CODE != 0,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query for type A in class IN; the name as it is on the wire.
    fn query(name: &[u8]) -> Vec<u8> {
        [&[0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0][..], name, &[0, 1, 0, 1]].concat()
    }

    #[test]
    fn subdomains_share_the_hash_of_their_domain_whatever_their_case() {
        let domain = query_suffix(&query(b"\x07example\x03org\0"));
        assert_ne!(domain, 0);
        assert_eq!(query_suffix(&query(b"\x03www\x07example\x03org\0")), domain);
        assert_eq!(query_suffix(&query(b"\x08a9x3k2zz\x01b\x07eXaMplE\x03ORG\0")), domain);
        assert_ne!(query_suffix(&query(b"\x03www\x07example\x03net\0")), domain);
        // The same letters, divided otherwise.
        assert_ne!(query_suffix(&query(b"\x06exampl\x04eorg\0")), domain);
    }

    #[test]
    fn short_names_are_names() {
        let names =
            [query_suffix(&query(b"\0")), query_suffix(&query(b"\x03org\0")), query_suffix(&query(b"\x03net\0"))];
        assert!(names.iter().all(|name| *name != 0));
        assert!(names[0] != names[1] && names[1] != names[2]);
    }

    #[test]
    fn what_is_no_well_formed_query_has_no_suffix() {
        let good = query(b"\x03www\x07example\x03org\0");
        for length in 0..good.len() {
            assert_eq!(query_suffix(&good[..length]), 0, "{length}");
        }
        let changed = |at: usize, value: u8| {
            let mut payload = good.clone();
            payload[at] = value;
            query_suffix(&payload)
        };
        assert_eq!(changed(2, 0x81), 0, "a response");
        assert_eq!(changed(2, 0x28), 0, "an update");
        assert_eq!(changed(5, 0), 0, "no question");
        assert_eq!(changed(12, 0xc0), 0, "a compression pointer");
        assert_eq!(changed(12, 0x40), 0, "a label type that does not exist");
    }

    #[test]
    fn a_query_is_as_long_as_its_header_and_its_question() {
        let query = query(b"\x03www\x07example\x03org\0");
        assert_eq!(query_length(&query), Some(query.len()));
        assert_eq!(query_length(&[&query[..], b"more"].concat()), Some(query.len()));
        assert_eq!(query_length(&query[..query.len() - 1]), None);
        let mut two = query.clone();
        two[5] = 2;
        assert_eq!(query_length(&two), None, "two questions");
    }

    #[test]
    fn names_end_at_255_octets() {
        let name = |last: usize| {
            [[&[49][..], &[b'a'; 49]].concat().repeat(5), vec![u8::try_from(last).unwrap()], vec![b'b'; last], vec![0]]
                .concat()
        };
        assert_eq!(name(3).len(), 255);
        assert_ne!(query_suffix(&query(&name(3))), 0);
        assert_eq!(query_suffix(&query(&name(4))), 0);
    }
}
