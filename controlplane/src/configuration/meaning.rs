//! Whether a key that was written, taken out or changed means anything: a default that is spelled out does not, nor does
//! another way to write the same value.
//!
//! The text is read once more with the other value in the place of the one that it has, padded so that everything else stays
//! where it is. What cannot be told in this way counts as a change.

use std::ops::Range;

use levee_api::config::{Config, ContentHash};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Bytes that are read for one comparison, at most: the control plane waits for it.
const MOST_READ: usize = 8 << 20;

/// Two texts that are compared.
pub(super) struct Meaning<'t> {
    before: Side<'t>,
    after: Side<'t>,
}

struct Side<'t> {
    text: &'t str,
    table: Spanned<DeTable<'t>>,
    config: Config,
}

impl<'t> Meaning<'t> {
    /// None when one of the texts is not valid, or when they are too long to be read once more for each of so many changes.
    pub(super) fn of(before: &'t str, after: &'t str, changes: usize) -> Option<Self> {
        if before.len().max(after.len()).saturating_mul(changes) > MOST_READ {
            return None;
        }
        Some(Self { before: Side::of(before)?, after: Side::of(after)? })
    }

    /// True when the texts mean the same with and without the difference at this place: keys, and names in lists.
    pub(super) fn is_same(&self, path: &[&str]) -> bool {
        let (before, after) = (&self.before, &self.after);
        let same = match (find(before.table.get_ref(), path), find(after.table.get_ref(), path)) {
            (None, Some(found)) => after.with(found.whole, ""),
            (Some(found), None) => before.with(found.whole, ""),
            (Some(old), Some(new)) if old.value.len() <= new.value.len() => {
                before.text.get(old.value).and_then(|value| after.with(new.value, value))
            }
            (Some(old), Some(new)) => after.text.get(new.value).and_then(|value| before.with(old.value, value)),
            (None, None) => None,
        };
        same.unwrap_or(false)
    }
}

impl<'t> Side<'t> {
    fn of(text: &'t str) -> Option<Self> {
        Some(Self { text, table: DeTable::parse(text).ok()?, config: Config::parse("", text).ok()? })
    }

    /// Whether it means the same with a value, not longer, in the place of these bytes.
    fn with(&self, place: Range<usize>, value: &str) -> Option<bool> {
        let padding = " ".repeat(place.len().checked_sub(value.len())?);
        let text = [self.text.get(..place.start)?, value, &padding, self.text.get(place.end..)?].concat();
        Some(bare(Config::parse("", &text).ok()?) == bare(self.config.clone()))
    }
}

/// Without what is about the text.
fn bare(config: Config) -> Config {
    Config { text: "".into(), hash: ContentHash(0), warnings: Vec::new(), ..config }
}

/// Where a key stands.
struct Found {
    /// From the key to the end of its value.
    whole: Range<usize>,
    value: Range<usize>,
}

fn find(table: &DeTable<'_>, path: &[&str]) -> Option<Found> {
    let (wanted, rest) = path.split_first()?;
    let (key, value) = table.iter().find(|(key, _)| key.get_ref().as_ref() == *wanted)?;
    match (value.get_ref(), rest) {
        (_, []) => Some(Found { whole: key.span().start..value.span().end, value: value.span() }),
        (DeValue::Table(inner), rest) => find(inner, rest),
        (DeValue::Array(values), [name, rest @ ..]) => {
            let inner = values.iter().find_map(|value| match value.get_ref() {
                DeValue::Table(inner) => Some(inner).filter(|inner| is_named(inner, name)),
                _ => None,
            })?;
            find(inner, rest)
        }
        _ => None,
    }
}

fn is_named(table: &DeTable<'_>, name: &str) -> bool {
    table.iter().any(|(key, value)| match value.get_ref() {
        DeValue::String(found) => key.get_ref().as_ref() == "name" && found.as_ref() == name,
        _ => false,
    })
}
