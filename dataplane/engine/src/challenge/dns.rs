//! The answer to a DNS query that says: ask again over TCP (TC, RFC 1035 section 4.1.1; RFC 7766). It is the query without what
//! follows its question but for the EDNS record, whose absence would say that the server knows no EDNS (RFC 6891).

use crate::packet::dns::query_length;

/// Of the header of a message: identification, flags, counts.
const HEADER: usize = 12;
const RESPONSE: u8 = 0x80;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
/// An OPT record without options: root name, type, size, extended code and flags, length.
const OPT: usize = 11;
const OPT_TYPE: [u8; 3] = [0, 0, 41];
/// What fits everywhere (DNS flag day 2020).
const SIZE: [u8; 2] = 1232_u16.to_be_bytes();
const DNSSEC_OK: u8 = 0x80;

/// How long the answer to a query is, at most as long as the query; none if it is no query with one question.
#[inline]
pub(super) fn length(query: &[u8]) -> Option<usize> {
    let question = query_length(query)?;
    Some(question + if has_opt(query, question) { OPT } else { 0 })
}

/// True when the first record behind the question is OPT.
fn has_opt(query: &[u8], question: usize) -> bool {
    let counts = query.get(6..HEADER);
    let opt = query.get(question..question + OPT);
    matches!(counts, Some([0, 0, 0, 0, more0, more1]) if (*more0, *more1) != (0, 0))
        && opt.is_some_and(|opt| opt.starts_with(&OPT_TYPE))
}

/// Turns a query, cut to [`length`], into the answer.
#[inline]
pub(super) fn turn(message: &mut [u8]) {
    let with_opt = query_length(message).is_some_and(|question| question < message.len());
    let Some((header, records)) = message.split_first_chunk_mut::<HEADER>() else { return };
    let [id0, id1, flags, ..] = *header;
    let flags = RESPONSE | TRUNCATED | flags & RECURSION_DESIRED;
    *header = [id0, id1, flags, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(with_opt)];
    if with_opt && let Some(opt) = records.last_chunk_mut::<OPT>() {
        let [.., flags, _, _, _] = *opt;
        let ([t0, t1, t2], [s0, s1]) = (OPT_TYPE, SIZE);
        *opt = [t0, t1, t2, s0, s1, 0, 0, flags & DNSSEC_OK, 0, 0, 0];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\x01\x03www\x07example\0\0\x01\0\x01";
    /// With a cookie option (RFC 7873).
    const EDNS: &[u8] = b"\0\0\x29\x10\0\0\0\x80\0\0\x0c\0\x0a\0\x0812345678";

    #[test]
    fn the_answer_is_the_question_cut_off() {
        let mut plain = QUERY.to_vec();
        plain[11] = 0;
        assert_eq!(length(&plain), Some(plain.len()));
        turn(&mut plain);
        assert_eq!(plain[..12], *b"\x12\x34\x83\0\0\x01\0\0\0\0\0\0");
        assert_eq!(plain[12..], QUERY[12..]);
    }

    #[test]
    fn it_has_edns_if_the_query_has() {
        let mut query = [QUERY, EDNS].concat();
        query.truncate(length(&query).unwrap());
        turn(&mut query);
        assert_eq!(query[..12], *b"\x12\x34\x83\0\0\x01\0\0\0\0\0\x01");
        assert_eq!(query[QUERY.len()..], *b"\0\0\x29\x04\xd0\0\0\x80\0\0\0");
        for end in QUERY.len()..QUERY.len() + OPT {
            let cut = [QUERY, EDNS].concat()[..end].to_vec();
            assert_eq!(length(&cut), Some(QUERY.len()), "a record that is cut is none");
        }
    }

    #[test]
    fn what_is_no_query_has_no_answer() {
        let mut response = QUERY.to_vec();
        response[2] |= RESPONSE;
        assert_eq!(length(&response), None);
        assert_eq!(length(&QUERY[..QUERY.len() - 1]), None);
        assert_eq!(length(b""), None);
    }
}
