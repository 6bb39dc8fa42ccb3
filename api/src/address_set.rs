//! Address sets: named lists of source addresses, and what happens to packets from them.

use std::path::PathBuf;

use crate::prefix::Prefix;

/// Address sets that there can be: a packet's source class is a mask of 16 bits.
pub const MAX_ADDRESS_SETS: usize = 16;

/// A named set of source addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressSet {
    /// Its name in events, logs and metrics.
    pub name: String,
    /// Files that hold prefixes, read again when they change.
    pub files: Vec<PathBuf>,
    /// How the files are written.
    pub format: ListFormat,
    /// Prefixes in the configuration itself.
    pub prefixes: Vec<Prefix>,
    /// What happens to packets from its addresses.
    pub action: SetAction,
    /// Names of the zones for which it does; empty: all zones.
    pub zones: Vec<String>,
}

/// What happens to packets from the addresses of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SetAction {
    /// Nothing by itself: filters may ask for the set.
    #[default]
    None,
    /// They are dropped, unless their source is also in a set that passes.
    Drop,
    /// They meet neither sets that drop nor filters; what no packet may do and its own limits hold for them too.
    Pass,
}

/// How a file of prefixes is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListFormat {
    /// CSV when the name ends in `.csv`, else lines.
    #[default]
    Auto,
    /// One address, prefix or range a line; also netset, ipset and what `ipset save` writes.
    Lines,
    /// Comma- or tab-separated values.
    Csv(Column),
}

/// Which column of a CSV file holds the addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// By its place, from 1.
    Number(usize),
    /// By its name in the header line.
    Named(String),
}

impl Default for Column {
    fn default() -> Self {
        Self::Number(1)
    }
}
