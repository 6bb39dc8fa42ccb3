//! A string of the file that somebody else reads: it remembers where each of its bytes stands, so that a mistake inside
//! of it is told with line and column.

use std::ops::Range;

use super::section::Located;

/// A text with its place in the file. Two are equal when the texts are, wherever they stand.
#[derive(Debug, Clone)]
pub struct Expression {
    text: String,
    span: Range<usize>,
    /// Where runs of bytes begin that stand in the file as they are: position in the text, position in the file.
    runs: Vec<(usize, usize)>,
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl Expression {
    /// A text that stands in no file.
    pub fn unplaced(text: impl Into<String>) -> Self {
        Self { text: text.into(), span: 0..0, runs: Vec::new() }
    }

    /// The string that was found in `file`.
    pub(super) fn found(string: &Located<&str>, file: &str) -> Self {
        let raw = file.get(string.span.clone()).unwrap_or_default();
        let mut runs = runs(raw, string.value);
        runs.iter_mut().for_each(|(_, place)| *place += string.span.start);
        Self { text: string.value.to_owned(), span: string.span.clone(), runs }
    }

    /// What is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where the string stands, quotes included, in bytes of the file.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Where a part of the text stands, in bytes of the file.
    pub fn place(&self, part: Range<usize>) -> Range<usize> {
        let last = part.end.saturating_sub(1).max(part.start);
        match (self.byte(part.start), self.byte(last)) {
            (Some(first), Some(last)) => first..(last + 1).clamp(first, self.span.end.max(first)),
            _ => self.span(),
        }
    }

    fn byte(&self, at: usize) -> Option<usize> {
        let run = self.runs.partition_point(|&(begins, _)| begins <= at).checked_sub(1)?;
        let &(begins, place) = self.runs.get(run)?;
        Some((place + at - begins).min(self.span.end.saturating_sub(1)))
    }
}

/// Walks a string as TOML writes it, beside what it means (toml.io, "String").
fn runs(raw: &str, text: &str) -> Vec<(usize, usize)> {
    let multiline = raw.starts_with("\"\"\"") || raw.starts_with("'''");
    let literal = raw.starts_with('\'');
    let quotes = if multiline { 3 } else { 1 };
    let mut at = quotes;
    if multiline {
        // A line break right behind the quotes is not part of the text.
        let after = raw.get(at..).unwrap_or_default();
        at += if after.starts_with("\r\n") { 2 } else { usize::from(after.starts_with('\n')) };
    }
    let mut found = vec![(0, at)];
    let mut meant = 0;
    while let Some(next) = text.get(meant..).and_then(|rest| rest.chars().next()) {
        let Some(rest) = raw.get(at..) else { break };
        let mut written = rest.chars();
        match written.next() {
            Some('\\') if !literal => {
                let escape = written.next();
                if escape.is_some_and(char::is_whitespace) {
                    // The end of a line that goes on in the next one.
                    at += 1 + rest.get(1..).map_or(0, |blank| blank.len() - blank.trim_start().len());
                } else {
                    at += match escape {
                        Some('x') => 4,
                        Some('u') => 6,
                        Some('U') => 10,
                        _ => 2,
                    };
                    meant += next.len_utf8();
                }
                found.push((meant, at));
            }
            Some('\r') if next == '\n' => {
                at += 1;
                found.push((meant, at));
            }
            Some(same) => {
                at += same.len_utf8();
                meant += next.len_utf8();
            }
            None => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads the string of `key = ...` and says what stands in the file where `part` of it is.
    fn in_file(file: &str, part: &str) -> String {
        let table = toml::de::DeTable::parse(file).unwrap();
        let value = table.get_ref().values().next().unwrap();
        let toml::de::DeValue::String(text) = value.get_ref() else { panic!("a string") };
        let expression = Expression::found(&Located { value: text.as_ref(), span: value.span() }, file);
        let at = expression.text().find(part).unwrap();
        file[expression.place(at..at + part.len())].to_owned()
    }

    #[test]
    fn a_part_of_a_string_stands_where_it_was_written() {
        assert_eq!(in_file("a = \"one two\"", "two"), "two");
        assert_eq!(in_file("a = 'one \\ two'", "two"), "two");
        assert_eq!(in_file("a = \"\\\"one\\\" \\u0041 two\"", "two"), "two");
        assert_eq!(in_file("a = \"x \\u0041 two\"", "A"), "\\");
        assert_eq!(in_file("a = \"\"\"\none \\\n    two\n three\"\"\"", "two"), "two");
        assert_eq!(in_file("a = \"\"\"\none \\\n    two\n three\"\"\"", "three"), "three");
        assert_eq!(in_file("a = '''\r\none\r\ntwo'''", "two"), "two");
        assert_eq!(in_file("a = \"é two\"", "two"), "two");
    }

    #[test]
    fn what_stands_in_no_file_has_no_place_and_does_not_panic() {
        assert_eq!(Expression::unplaced("a").place(0..9), 0..0);
    }

    proptest! {
        #[test]
        fn every_place_is_inside_the_string(text in ".{0,30}", from in 0_usize..40, length in 0_usize..40) {
            let file = format!("a = {}", toml::Value::String(text));
            let table = toml::de::DeTable::parse(&file).unwrap();
            let value = table.get_ref().values().next().unwrap();
            let toml::de::DeValue::String(text) = value.get_ref() else { panic!("a string") };
            let expression = Expression::found(&Located { value: text.as_ref(), span: value.span() }, &file);
            let place = expression.place(from..from + length);
            prop_assert!(value.span().start <= place.start && place.end <= value.span().end && place.start <= place.end);
        }
    }
}
