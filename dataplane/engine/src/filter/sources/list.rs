//! Lists of addresses as feeds publish them: bytes to ranges, or the first line that is wrong.
//!
//! A list is taken whole or refused whole: what cannot be read may be anything, also the half of a download or the error
//! page of a proxy.

use std::net::IpAddr;

use levee_api::address_set::{Column, ListFormat};
use levee_api::prefix::{Prefix, PrefixError};

use super::{MAX_RANGES, Ranges};

/// A line that is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct ListFault {
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub fault: LineFault,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    /// Neither an address nor a prefix nor a range.
    #[error(
        "{0:?} is not an address, a prefix or a range: write such as 203.0.113.7, 203.0.113.0/24 or \
         203.0.113.7-203.0.113.9, and comments behind # or ;"
    )]
    Syntax(String),
    /// Bits after the prefix length are set.
    #[error("{0}")]
    HostBits(PrefixError),
    /// A range from one address to a smaller one, or to one of the other version.
    #[error("{0:?} does not end after it begins: give the smaller address first, and both of the same IP version")]
    Range(String),
    /// Every address.
    #[error(
        "{0:?} is every address: a list that holds it is damaged; to speak of everything use a filter without a set"
    )]
    Everything(String),
    /// Something behind the address.
    #[error("{0:?} follows the address: put comments behind # or ;, or read the file with format = \"csv\"")]
    More(String),
    /// Too few columns.
    #[error("it has {found} columns, and column {wanted} is asked for: change `column`, or is the file cut off?")]
    Columns {
        /// How many there are.
        found: usize,
        /// Which is wanted, from 1.
        wanted: usize,
    },
    /// No such column.
    #[error("the header has no column {0:?}: change `column` to one of its names, or to a number from 1")]
    NoColumn(String),
    /// A quote without an end.
    #[error("a quoted value does not end on this line")]
    Quote,
    /// Too many entries.
    #[error("more than {MAX_RANGES} entries: use a shorter list")]
    TooLong,
}

/// The ranges in a list; `name` is the file's, for [`ListFormat::Auto`].
///
/// # Errors
/// The first line that is wrong.
pub fn parse(bytes: &[u8], format: &ListFormat, name: &str) -> Result<Ranges, ListFault> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    match format {
        ListFormat::Csv(column) => csv(bytes, column),
        ListFormat::Auto if name.to_ascii_lowercase().ends_with(".csv") => csv(bytes, &Column::default()),
        ListFormat::Auto | ListFormat::Lines => lines(bytes),
    }
}

/// The lines of a text, numbered from 1, without what ends them and without blanks around; CR LF is an end too.
fn numbered(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    (1..).zip(bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii))
}

fn lines(bytes: &[u8]) -> Result<Ranges, ListFault> {
    let mut ranges = Ranges::default();
    for (line, text) in numbered(bytes) {
        let text = text.split(|byte| matches!(byte, b'#' | b';')).next().unwrap_or_default();
        let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let added = match words.next() {
            // What `ipset save` writes: the kind of a set, then `add NAME ENTRY` with options.
            None | Some(b"create") => Ok(()),
            Some(b"add") => {
                words.nth(1).map_or_else(|| Err(LineFault::Syntax(shown(text))), |entry| add(entry, &mut ranges))
            }
            Some(entry) => match (words.next(), words.next()) {
                (None, _) => add(entry, &mut ranges),
                // A range with blanks around its dash.
                (Some(b"-"), Some(last)) if words.next().is_none() => add(&[entry, b"-", last].concat(), &mut ranges),
                (Some(more), _) => Err(LineFault::More(shown(more))),
            },
        };
        added.map_err(|fault| ListFault { line, fault })?;
    }
    Ok(ranges)
}

fn csv(bytes: &[u8], column: &Column) -> Result<Ranges, ListFault> {
    let mut ranges = Ranges::default();
    let mut wanted = match column {
        Column::Number(number) => Some(number.saturating_sub(1)),
        Column::Named(_) => None,
    };
    let mut is_first = true;
    for (line, text) in numbered(bytes) {
        let at = |fault| ListFault { line, fault };
        if text.is_empty() || matches!(text.first(), Some(b'#' | b';')) {
            // Some feeds put their header into the last comment.
            if let (None, Column::Named(name)) = (wanted, column) {
                let header = fields(text.trim_ascii_start().get(1..).unwrap_or_default()).unwrap_or_default();
                wanted = position(&header, name);
            }
            continue;
        }
        let values = fields(text).map_err(at)?;
        let Some(index) = wanted else {
            let Column::Named(name) = column else { continue };
            wanted = Some(position(&values, name).ok_or_else(|| at(LineFault::NoColumn(name.clone())))?);
            is_first = false;
            continue;
        };
        let Some(value) = values.get(index) else {
            return Err(at(LineFault::Columns { found: values.len(), wanted: index + 1 }));
        };
        match add(value.trim_ascii(), &mut ranges) {
            // A header names its columns.
            Err(LineFault::Syntax(_)) if is_first && !value.iter().any(u8::is_ascii_digit) => {}
            added => added.map_err(at)?,
        }
        is_first = false;
    }
    Ok(ranges)
}

fn position(header: &[Vec<u8>], name: &str) -> Option<usize> {
    header.iter().position(|value| value.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
}

/// The values of a line (RFC 4180, but for line breaks in quotes).
fn fields(text: &[u8]) -> Result<Vec<Vec<u8>>, LineFault> {
    let separator = if text.contains(&b',') { b',' } else { b'\t' };
    let (mut values, mut value, mut quoted) = (Vec::new(), Vec::new(), false);
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' if quoted && bytes.peek() == Some(&b'"') => {
                bytes.next();
                value.push(b'"');
            }
            b'"' if quoted => quoted = false,
            b'"' if value.trim_ascii().is_empty() => quoted = true,
            _ if byte == separator && !quoted => values.push(std::mem::take(&mut value)),
            _ => value.push(byte),
        }
    }
    if quoted {
        return Err(LineFault::Quote);
    }
    values.push(value);
    Ok(values)
}

/// Adds an address, a prefix or a range.
fn add(entry: &[u8], ranges: &mut Ranges) -> Result<(), LineFault> {
    if ranges.len() >= MAX_RANGES {
        return Err(LineFault::TooLong);
    }
    let text = std::str::from_utf8(entry).map_err(|_| LineFault::Syntax(shown(entry)))?;
    if let Some((first, last)) = text.split_once('-') {
        let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| LineFault::Syntax(shown(entry)));
        let (first, last) = (address(first)?, address(last)?);
        if first.is_unspecified() && matches!(last, IpAddr::V4(last) if last.is_broadcast()) {
            return Err(LineFault::Everything(shown(entry)));
        }
        return if ranges.add_range(first, last) { Ok(()) } else { Err(LineFault::Range(shown(entry))) };
    }
    let prefix: Prefix = text.parse().map_err(|error| match error {
        PrefixError::Syntax(_) => LineFault::Syntax(shown(entry)),
        PrefixError::HostBits { .. } => LineFault::HostBits(error),
    })?;
    if prefix.length() == 0 {
        return Err(LineFault::Everything(shown(entry)));
    }
    ranges.add(prefix);
    Ok(())
}

/// A piece of a line for a message: not all of a line that may be a whole web page.
fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 60;
    let text = String::from_utf8_lossy(bytes);
    if text.chars().count() > MOST { text.chars().take(MOST).chain(['…']).collect() } else { text.into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(entries: &[&str]) -> Ranges {
        let mut ranges = Ranges::default();
        entries.iter().for_each(|entry| add(entry.as_bytes(), &mut ranges).unwrap());
        ranges
    }

    fn csv_by(column: Column, text: &str) -> Result<Ranges, ListFault> {
        parse(text.as_bytes(), &ListFormat::Csv(column), "feed")
    }

    fn fault(text: &str) -> (usize, String) {
        let error = parse(text.as_bytes(), &ListFormat::Lines, "feed").unwrap_err();
        (error.line, error.to_string())
    }

    #[test]
    fn lists_have_comments_blank_lines_and_any_line_end() {
        let text = "\u{feff}# a list\r\n\r\n192.0.2.0/24 ; SBL1\r\n198.51.100.7\t# one host\n; end\n2001:db8::/32\n\
                    203.0.113.5-203.0.113.9\n203.0.113.1 - 203.0.113.2\n  2001:db8:1::1";
        let expected = ranges(&[
            "192.0.2.0/24",
            "198.51.100.7",
            "2001:db8::/32",
            "203.0.113.5-203.0.113.9",
            "203.0.113.1-203.0.113.2",
            "2001:db8:1::1",
        ]);
        assert_eq!(parse(text.as_bytes(), &ListFormat::Auto, "feed.netset").unwrap(), expected);
    }

    #[test]
    fn saved_ipsets_are_lists() {
        let text =
            "create feed hash:net family inet hashsize 1024\nadd feed 192.0.2.0/24 timeout 300\nadd feed 203.0.113.4\n";
        let expected = ranges(&["192.0.2.0/24", "203.0.113.4"]);
        assert_eq!(parse(text.as_bytes(), &ListFormat::Lines, "feed").unwrap(), expected);
    }

    #[test]
    fn a_wrong_line_is_named_and_explained() {
        let (line, text) = fault("# x\n192.0.2.0/24\n192.0.2.9/24\n");
        assert_eq!(line, 3);
        assert!(text.contains("did you mean 192.0.2.0/24"), "{text}");
        assert!(fault("<html>").1.contains("is not an address"));
        assert!(fault("192.0.2.1 192.0.2.2").1.contains("follows the address"));
        assert!(fault("192.0.2.9-192.0.2.1").1.contains("smaller address first"));
        assert!(fault("192.0.2.9-2001:db8::1").1.contains("same IP version"));
        assert!(fault("0.0.0.0/0").1.contains("every address"));
        assert!(fault("192.0.2.1\n\n\u{1f4a5}").1.starts_with("line 3"));
    }

    #[test]
    fn a_column_is_found_by_number_or_name() {
        let text = "# (c)\r\n\"first_seen\",\"dst_ip\",port\r\n\"2026-01-01, 10:00\",\"192.0.2.7\",443\r\nx, 2001:db8::1 ,80\r\n";
        let expected = ranges(&["192.0.2.7", "2001:db8::1"]);
        assert_eq!(csv_by(Column::Number(2), text).unwrap(), expected);
        assert_eq!(csv_by(Column::Named("DST_IP".to_owned()), text).unwrap(), expected);
        let error = csv_by(Column::Named("address".to_owned()), text).unwrap_err();
        assert!(error.to_string().starts_with("line 2: the header has no column \"address\""), "{error}");
        let in_comment = text.replacen('\"', "#\"", 1);
        assert_eq!(csv_by(Column::Named("dst_ip".to_owned()), &in_comment).unwrap(), expected);
    }

    #[test]
    fn tabs_separate_too_and_a_file_name_says_what_is_in_it() {
        let tabs = ranges(&["192.0.2.0/24"]);
        assert_eq!(csv_by(Column::Number(2), "AS64496\t192.0.2.0/24\n").unwrap(), tabs);
        assert_eq!(parse(b"network,country\n192.0.2.0/24,XX\n", &ListFormat::Auto, "GEO.CSV").unwrap(), tabs);
    }

    #[test]
    fn a_csv_line_that_is_cut_off_is_refused() {
        let error = csv_by(Column::Number(2), "ip,x\n1,192.0.2.1\n2\n").unwrap_err();
        assert_eq!((error.line, error.fault), (3, LineFault::Columns { found: 1, wanted: 2 }));
        assert_eq!(csv_by(Column::Number(1), "\"192.0.2.1\n").unwrap_err().fault, LineFault::Quote);
        assert!(csv_by(Column::Number(1), "192.0.2.1\nnonsense\n").is_err(), "only the first line can be a header");
    }
}
