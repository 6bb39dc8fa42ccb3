//! Reading one table of the file.
//!
//! Every key that is asked for is a known key, and every key left over at the end is an error that names the nearest
//! known one: the schema is what the reading code asks for, written down once. Values come with their place in the
//! file. A missing or wrong value leaves its error in [`Problems`] and reads as `None`, so that reading goes on.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Fault, Problems};

/// A value and the bytes of the file it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// One table.
pub(super) struct Section<'t> {
    /// How messages name it: `[dataplane]`, `zone "web"`.
    title: String,
    span: Range<usize>,
    table: &'t DeTable<'t>,
    known: RefCell<Vec<&'static str>>,
    problems: &'t Problems<'t>,
}

impl<'t> Section<'t> {
    pub(super) fn new(title: String, table: &'t Spanned<DeTable<'t>>, problems: &'t Problems<'t>) -> Self {
        Self::at(title, table.span(), table.get_ref(), problems)
    }

    fn at(title: String, span: Range<usize>, table: &'t DeTable<'t>, problems: &'t Problems<'t>) -> Self {
        Self { title, span, table, known: RefCell::default(), problems }
    }

    pub(super) fn problems(&self) -> &'t Problems<'t> {
        self.problems
    }

    pub(super) fn has(&self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// Where the value of a key stands, or the table if the key is not there.
    pub(super) fn place(&self, key: &'static str) -> Range<usize> {
        self.value(key).map_or_else(|| self.span.clone(), Spanned::span)
    }

    pub(super) fn is_integer(&self, key: &'static str) -> bool {
        self.value(key).is_some_and(|value| value.get_ref().is_integer())
    }

    pub(super) fn is_string(&self, key: &'static str) -> bool {
        self.value(key).is_some_and(|value| value.get_ref().is_str())
    }

    /// Names the table by what was found in it.
    pub(super) fn rename(&mut self, title: String) {
        self.title = title;
    }

    /// The value of a key that has to be there; `read` is what reads it when it is.
    pub(super) fn required<T>(
        &self,
        key: &'static str,
        example: &str,
        read: impl FnOnce(&Self, &'static str) -> Option<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.problems.error(
                self.span.clone(),
                Fault::new(format!("{} has no `{key}`", self.title), format!("add a line such as: {key} = {example}")),
            );
            return None;
        }
        read(self, key)
    }

    pub(super) fn string(&self, key: &'static str) -> Option<Located<&'t str>> {
        self.value(key).and_then(|value| self.as_string(key, value))
    }

    /// A string that means something.
    pub(super) fn parsed<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<Located<T>> {
        self.string(key).and_then(|text| self.parse(&text, parse))
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.parsed(key, |text| choose(key, text, words)).map(|located| located.value)
    }

    pub(super) fn boolean(&self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            _ => self.wrong_kind(key, value, "true or false"),
        }
    }

    pub(super) fn integer(&self, key: &'static str, allowed: RangeInclusive<u64>) -> Option<u64> {
        self.value(key).and_then(|value| self.as_integer(key, value, allowed)).map(|located| located.value)
    }

    /// A number with decimals, written as one (`0.05`) or as a whole number.
    pub(super) fn fraction(&self, key: &'static str, allowed: RangeInclusive<f64>) -> Option<f64> {
        let value = self.value(key)?;
        let text = match value.get_ref() {
            DeValue::Float(number) => number.as_str(),
            DeValue::Integer(number) => number.as_str(),
            _ => return self.wrong_kind(key, value, "a number such as 0.05"),
        };
        // Not a number is in no range.
        match text.parse::<f64>() {
            Ok(number) if allowed.contains(&number) => Some(number),
            _ => self.refuse(
                value.span(),
                Fault::new(
                    format!("`{key}` is out of range"),
                    format!("give a number from {} to {}", allowed.start(), allowed.end()),
                ),
            ),
        }
    }

    /// A list of strings that each mean something. A faulty one is left out (and told).
    pub(super) fn parsed_list<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Fault>,
    ) -> Option<Vec<Located<T>>> {
        let values = self.list(key)?;
        Some(
            values
                .iter()
                .filter_map(|value| self.as_string(key, value))
                .filter_map(|text| self.parse(&text, &parse))
                .collect(),
        )
    }

    pub(super) fn list(&self, key: &'static str) -> Option<&'t [Spanned<DeValue<'t>>]> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Array(values) => Some(values),
            _ => self.wrong_kind(key, value, "a list"),
        }
    }

    /// A table below this one.
    pub(super) fn table(&self, key: &'static str, title: String) -> Option<Section<'t>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Self::at(title, value.span(), table, self.problems)),
            DeValue::Array(_) => self.refuse(
                value.span(),
                Fault::new(
                    format!("{title} is given more than once"),
                    format!("write one {title} with single brackets"),
                ),
            ),
            _ => self.wrong_kind(key, value, "a table"),
        }
    }

    /// A list of tables below this one: `[[key]]`, or inline `key = [{ ... }]`.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Section<'t>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let values = match value.get_ref() {
            DeValue::Array(values) => values,
            DeValue::Table(_) => {
                let fault = Fault::new(
                    format!("`{key}` is a list of tables"),
                    format!("there may be several: write the header as [[...{key}]], with double brackets"),
                );
                self.problems.error(value.span(), fault);
                return Vec::new();
            }
            _ => return self.wrong_kind(key, value, "a list of tables").unwrap_or_default(),
        };
        let mut sections = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            match value.get_ref() {
                DeValue::Table(table) => {
                    let title = format!("{key} {}", index + 1);
                    sections.push(Self::at(title, value.span(), table, self.problems));
                }
                _ => {
                    self.wrong_kind::<()>(key, value, "a table");
                }
            }
        }
        sections
    }

    /// The keys and values of a table whose keys are data, each to be checked by the caller.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Located<&'t str>, &'t Spanned<DeValue<'t>>)> {
        self.table.iter().map(|(key, value)| (Located { value: key.get_ref().as_ref(), span: key.span() }, value))
    }

    /// The last step of reading: keys nobody has asked for are errors.
    pub(super) fn refuse_unknown(&self) {
        let known = self.known.borrow();
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                self.problems.error(key.span(), unknown("key", name, &self.title, &known));
            }
        }
    }

    pub(super) fn as_string(&self, key: &str, value: &'t Spanned<DeValue<'t>>) -> Option<Located<&'t str>> {
        match value.get_ref() {
            DeValue::String(text) => Some(Located { value: text.as_ref(), span: value.span() }),
            _ => self.wrong_kind(key, value, "a string in quotes"),
        }
    }

    pub(super) fn as_integer(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        allowed: RangeInclusive<u64>,
    ) -> Option<Located<u64>> {
        let DeValue::Integer(integer) = value.get_ref() else { return self.wrong_kind(key, value, "a whole number") };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if allowed.contains(&number) => Some(Located { value: number, span: value.span() }),
            _ => self.refuse(
                value.span(),
                Fault::new(
                    format!("`{key}` is out of range"),
                    format!("give a number from {} to {}", allowed.start(), allowed.end()),
                ),
            ),
        }
    }

    pub(super) fn parse<T>(
        &self,
        text: &Located<&str>,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<Located<T>> {
        match parse(text.value) {
            Ok(value) => Some(Located { value, span: text.span.clone() }),
            Err(fault) => self.refuse(text.span.clone(), fault),
        }
    }

    fn value(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
        self.table.get(key)
    }

    pub(super) fn wrong_kind<T>(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) -> Option<T> {
        let found = value.get_ref().type_str();
        self.refuse(
            value.span(),
            Fault::new(
                format!("`{key}` of {} cannot be a value of type {found}", self.title),
                format!("give {wanted}"),
            ),
        )
    }

    fn refuse<T>(&self, span: Range<usize>, fault: Fault) -> Option<T> {
        self.problems.error(span, fault);
        None
    }
}

/// Finds the word among those allowed.
pub(super) fn choose<T: Copy>(what: &str, text: &str, words: &[(&str, T)]) -> Result<T, Fault> {
    let names: Vec<&str> = words.iter().map(|&(word, _)| word).collect();
    words
        .iter()
        .find(|&&(word, _)| word == text)
        .map(|&(_, value)| value)
        .ok_or_else(|| unknown("value", text, &format!("`{what}`"), &names))
}

/// The fault of a word that is not among the known ones.
pub(super) fn unknown(what: &str, word: &str, place: &str, known: &[&str]) -> Fault {
    let all = known.join(", ");
    let help = match nearest(word, known) {
        Some(near) => format!("did you mean `{near}`? Known here: {all}"),
        None => format!("known here: {all}"),
    };
    let preposition = if what == "key" { "in" } else { "for" };
    Fault::new(format!("unknown {what} `{word}` {preposition} {place}"), help)
}

/// The known word that was probably meant, if one is near enough: one slip away, or with much the same beginning.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase();
    let similarity = |candidate: &str| match strsim::damerau_levenshtein(&word, candidate) {
        0 | 1 => 1.0,
        _ => strsim::jaro_winkler(&word, candidate),
    };
    known
        .iter()
        .map(|&candidate| (similarity(&candidate.to_lowercase()), candidate))
        .filter(|&(similarity, _)| similarity >= 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near() {
        assert_eq!(nearest("prefix", &["name", "prefixes", "mode"]), Some("prefixes"));
        assert_eq!(nearest("capcity", &["capacity", "mtu"]), Some("capacity"));
        assert_eq!(nearest("tpc", &["udp", "tcp"]), Some("tcp"));
        assert_eq!(nearest("zzz", &["capacity", "mtu"]), None);
    }
}
