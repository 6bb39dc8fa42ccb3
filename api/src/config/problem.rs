//! What is wrong with a configuration file, where, and what to do about it.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use miette::{Diagnostic, LabeledSpan, NamedSource, Severity, SourceCode};

/// Why a file did not become a [`Config`](super::Config).
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum ConfigError {
    /// The file could not be read at all.
    #[error("cannot read {}: {reason}", path.display())]
    #[diagnostic(help("give the path of a readable levee.toml"))]
    Read {
        /// The path as it was given.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// The file was read and is not valid.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Invalid(#[from] Invalid),
}

/// All the problems of one file, in the order of their positions.
#[derive(Debug)]
pub struct Invalid {
    source: NamedSource<String>,
    problems: Vec<Problem>,
}

impl Invalid {
    /// The problems, at least one.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The file as it was named by the caller.
    pub fn file(&self) -> &str {
        self.source.name()
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A log has room for one line; the rest comes with `leveectl config check`.
        let (errors, warnings): (Vec<&Problem>, Vec<&Problem>) =
            self.problems.iter().partition(|problem| problem.is_error);
        let Some((first, others)) = errors.split_first() else {
            return write!(f, "{} is not valid", self.file());
        };
        write!(f, "{}:{}:{}: {}", self.file(), first.line, first.column, first.message)?;
        let counted = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        match (others.len(), warnings.len()) {
            (0, 0) => Ok(()),
            (0, warnings) => write!(f, " (and {})", counted(warnings, "warning")),
            (1, 0) => f.write_str(" (and 1 more error)"),
            (more, 0) => write!(f, " (and {more} more errors)"),
            (more, warnings) => {
                write!(f, " (and {} and {})", counted(more, "more error"), counted(warnings, "warning"))
            }
        }
    }
}

impl std::error::Error for Invalid {}

impl Diagnostic for Invalid {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.problems.iter().map(|problem| problem as &dyn Diagnostic)))
    }
}

/// One problem at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
    /// First line of the place, from 1.
    pub line: usize,
    /// First column of the place, in characters from 1.
    pub column: usize,
    /// The place, in bytes of the file.
    pub span: Range<usize>,
    /// A second place that explains the first, such as an earlier use of the same name.
    pub other: Option<(Range<usize>, String)>,
    /// False for a warning, which leaves the file valid.
    pub is_error: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn severity(&self) -> Option<Severity> {
        Some(if self.is_error { Severity::Error } else { Severity::Warning })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.help))
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let here = LabeledSpan::new_primary_with_span(Some("here".to_owned()), self.span.clone());
        let other = self.other.iter().map(|(span, text)| LabeledSpan::new_with_span(Some(text.clone()), span.clone()));
        Some(Box::new(std::iter::once(here).chain(other)))
    }
}

/// What somebody found who understands a part of the file better than this module does, see [`Config::parse_with`].
///
/// [`Config::parse_with`]: super::Config::parse_with
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The place, in bytes of the file.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
    /// False for a warning, which leaves the file valid.
    pub is_error: bool,
}

/// Problems collected while a file is read: reading goes on, so that all are told at once.
pub(super) struct Problems<'t> {
    text: &'t str,
    found: RefCell<Vec<Problem>>,
    /// What no snippet may show.
    hidden: RefCell<Vec<Range<usize>>>,
}

/// What is wrong with a value, before it is known where the value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) help: String,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into() }
    }
}

impl<'t> Problems<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        Self { text, found: RefCell::default(), hidden: RefCell::default() }
    }

    /// The text that is read.
    pub(super) fn text(&self) -> &'t str {
        self.text
    }

    pub(super) fn found(&self, finding: Finding) {
        let Finding { span, message, help, is_error } = finding;
        self.push(span, Fault { message, help }, None, is_error);
    }

    pub(super) fn error(&self, span: Range<usize>, fault: Fault) {
        self.push(span, fault, None, true);
    }

    pub(super) fn conflict(&self, span: Range<usize>, fault: Fault, other: Range<usize>, label: &str) {
        self.push(span, fault, Some((other, label.to_owned())), true);
    }

    pub(super) fn warning(&self, span: Range<usize>, fault: Fault) {
        self.push(span, fault, None, false);
    }

    /// A secret that should not stand here: snippets, which go to logs and tickets, show asterisks instead.
    pub(super) fn hide(&self, span: Range<usize>) {
        self.hidden.borrow_mut().push(span);
    }

    /// The same for a text that is no TOML, where only the looks of a line say what is a secret.
    pub(super) fn hide_what_looks_secret(&self) {
        for (at, word) in self.text.match_indices("secret") {
            let rest = self.text.get(at + word.len()..).unwrap_or_default();
            let Some(value) = rest.trim_start_matches(['"', '\'', ' ', '\t']).strip_prefix('=') else { continue };
            let start = self.text.len() - value.len();
            let ends = |pattern: &str, from: usize| value.get(from..).and_then(|value| value.find(pattern));
            let trimmed = value.trim_start();
            let several = ["\"\"\"", "'''"].into_iter().find(|quotes| trimmed.starts_with(quotes));
            let end = match several {
                Some(quotes) => {
                    let from = value.len() - trimmed.len() + quotes.len();
                    ends(quotes, from).map(|end| from + end + quotes.len())
                }
                None => ends("\n", 0),
            };
            self.hide(start..start + end.unwrap_or(value.len()));
        }
    }

    fn push(&self, span: Range<usize>, fault: Fault, other: Option<(Range<usize>, String)>, is_error: bool) {
        let (line, column) = position(self.text, span.start);
        let Fault { message, help } = fault;
        self.found.borrow_mut().push(Problem { message, help, line, column, span, other, is_error });
    }

    /// The value and its warnings, or all problems. A value that could not be made has left an error behind.
    pub(super) fn conclude<T>(self, file: &str, value: Option<T>) -> Result<(T, Vec<Problem>), Invalid> {
        match value {
            Some(value) if self.found.borrow().iter().all(|problem| !problem.is_error) => {
                Ok((value, self.into_invalid(file).problems))
            }
            _ => Err(self.into_invalid(file)),
        }
    }

    pub(super) fn into_invalid(self, file: &str) -> Invalid {
        let mut problems = self.found.into_inner();
        problems.sort_by_key(|problem| problem.span.start);
        Invalid { source: NamedSource::new(file, masked(self.text, &self.hidden.into_inner())), problems }
    }
}

/// The text with asterisks for what is hidden, and question marks for what a terminal would obey, byte for byte: places stay
/// where they are.
fn masked(text: &str, hidden: &[Range<usize>]) -> String {
    let obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    if hidden.is_empty() && !text.contains(obeyed) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        if c != '\n' && hidden.iter().any(|span| span.contains(&at)) {
            shown.extend(std::iter::repeat_n('*', c.len_utf8()));
        } else if obeyed(c) {
            shown.extend(std::iter::repeat_n('?', c.len_utf8()));
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Line and column, from 1, of a byte of the text; the end of the text for a byte beyond it.
pub(super) fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        assert_eq!(position("a\nbé = 1", 0), (1, 1));
        assert_eq!(position("a\nbé = 1", 2), (2, 1));
        assert_eq!(position("a\nbé = 1", 5), (2, 3));
        assert_eq!(position("a\nb", 99), (2, 2));
    }

    #[test]
    fn the_headline_tells_errors_before_warnings() {
        let told = |errors: usize, warnings: usize| {
            let problems = Problems::of("a = 1\nb = 2\n");
            (0..warnings).for_each(|_| problems.warning(0..1, Fault::new("odd", "")));
            (0..errors).for_each(|_| problems.error(6..7, Fault::new("wrong", "")));
            problems.into_invalid("file").to_string()
        };
        assert_eq!(told(1, 0), "file:2:1: wrong");
        assert_eq!(told(1, 1), "file:2:1: wrong (and 1 warning)");
        assert_eq!(told(2, 0), "file:2:1: wrong (and 1 more error)");
        assert_eq!(told(3, 2), "file:2:1: wrong (and 2 more errors and 2 warnings)");
    }

    #[test]
    fn what_is_hidden_keeps_its_length() {
        assert_eq!(masked("a = \"gehé\"\nb", &[4..7, 7..11]), "a = *******\nb");
        assert_eq!(masked("a\t\u{1b}[2J\u{9b}\n", &[]), "a\t?[2J??\n");
    }
}
