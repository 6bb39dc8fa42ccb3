//! From text to the syntax tree of the crate `cel`, and from its errors to messages for people.

use std::ops::Range;
use std::panic::resume_unwind;
use std::thread;

use cel::common::ast::{IdedExpr, SourceInfo};
use cel::parser::{ParseError, ParseErrors, Parser};
use levee_api::config::MAX_CONDITION_BYTES;

use super::{Mistake, slip};

/// Brackets within brackets. The parser calls itself about ten times for each.
const MAX_NESTING: usize = 16;

/// What the generated parser takes for a condition of the greatest length and depth, several times over: with 4 MiB all of
/// them can be read in a build without optimisation.
const STACK_BYTES: usize = 16 << 20;

/// The tree, and where its nodes stand.
pub(super) struct Read {
    pub(super) root: IdedExpr,
    places: SourceInfo,
    text: String,
}

impl Read {
    /// Where a node stands, in bytes of the text. Of an operator it is the operator, of a call its bracket, of a field the dot.
    pub(super) fn place(&self, id: u64) -> Range<usize> {
        let end = self.text.len();
        let (start, stop) = self.places.offset_for(id).unwrap_or_default();
        let start = usize::try_from(start).unwrap_or(end).min(end);
        let stop = usize::try_from(stop).unwrap_or(end).saturating_add(1).min(end);
        start..stop.max(start)
    }

    /// The end of the word that begins at or behind a byte.
    pub(super) fn end_of_word(&self, at: usize) -> usize {
        let rest = self.text.get(at..).unwrap_or_default();
        let begin = rest.find(|c: char| c.is_ascii_alphanumeric() || c == '_').unwrap_or(rest.len());
        let word = rest.get(begin..).unwrap_or_default();
        at + begin + word.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(word.len())
    }

    /// The beginning of the word that ends before a byte.
    pub(super) fn start_of_word(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or_default().trim_end();
        before.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |place| place + 1)
    }
}

/// Runs on a stack that is deep enough for the parser, wherever it is called from.
pub(super) fn with_room<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Vec<Mistake>> + Send + 'static,
) -> Result<T, Vec<Mistake>> {
    match thread::Builder::new().name("condition".to_owned()).stack_size(STACK_BYTES).spawn(work) {
        Ok(running) => running.join().unwrap_or_else(|panic| resume_unwind(panic)),
        Err(error) => Err(vec![Mistake::new(
            0..0,
            format!("there is no memory to read the condition: {error}"),
            "try again when the machine has memory to spare",
        )]),
    }
}

pub(super) fn read(text: &str) -> Result<Read, Mistake> {
    refuse_early(text)?;
    match Parser::default().parse_with_source_info(text) {
        Ok((root, places)) => Ok(Read { root, places, text: text.to_owned() }),
        Err(ParseErrors { errors }) => Err(first_of(text, &errors)),
    }
}

/// What the parser would not survive or tell badly. Plain characters also make its columns our bytes.
fn refuse_early(text: &str) -> Result<(), Mistake> {
    if text.len() > MAX_CONDITION_BYTES {
        return Err(Mistake::new(
            0..text.len(),
            format!("the condition has {} bytes", text.len()),
            format!("at most {MAX_CONDITION_BYTES} are allowed"),
        ));
    }
    if text.trim().is_empty() {
        let help = "leave `when` out to enter the stage as soon as there is an attack";
        return Err(Mistake::new(0..text.len(), "the condition is empty", help));
    }
    let plain = |c: char| c.is_ascii_graphic() || c.is_ascii_whitespace();
    if let Some((at, strange)) = text.char_indices().find(|(_, c)| !plain(*c)) {
        let message = format!("{strange:?} cannot stand in a condition");
        return Err(Mistake::new(at..at + strange.len_utf8(), message, "use plain letters, digits and signs"));
    }
    let mut open = 0_usize;
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(begun), _) if begun == c => quote = None,
            (None, '(' | '[' | '{') => open += 1,
            (None, ')' | ']' | '}') => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MAX_NESTING {
            let message = format!("more than {MAX_NESTING} brackets within each other");
            return Err(Mistake::new(at..at + 1, message, "write the condition flatter, or make two stages of it"));
        }
    }
    Ok(())
}

/// The first error; what follows it was guessed.
fn first_of(text: &str, errors: &[ParseError]) -> Mistake {
    const HELP: &str = "a condition is a CEL expression such as: uplink.utilisation > 0.7 && !stage.edge.failed";
    let Some(error) = errors.first() else {
        return Mistake::new(0..text.len(), "this is not a condition", HELP);
    };
    let at = offset(text, error.pos);
    let told = error.msg.strip_prefix("Syntax error: ").unwrap_or(&error.msg);
    let told = told.split(" expecting ").next().unwrap_or(told);
    let rest = text.get(at..).unwrap_or_default();
    let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len()).max(1);
    let place = at..(at + length).min(text.len());
    if let Some(slip) = slip::at(text, at, told) {
        return slip;
    }
    if told.contains("<EOF>") && rest.trim().is_empty() {
        return Mistake::new(place, "the condition ends too early", HELP);
    }
    if rest.starts_with('=') {
        return Mistake::new(place, "`=` is no operator", "compare with ==");
    }
    if told.contains("Recursion limit") {
        return Mistake::new(place, "the condition is too deep", "write it flatter, or make two stages of it");
    }
    if rest.starts_with(['\'', '"']) {
        return Mistake::new(place, "a string that is not ended, or not valid", "close it with the same quote");
    }
    for (word, operator) in [("and", "&&"), ("or", "||"), ("not", "!")] {
        if text.get(place.clone()).is_some_and(|found| found.eq_ignore_ascii_case(word)) {
            return Mistake::new(place, format!("`{word}` is no operator"), format!("write {operator}"));
        }
    }
    if told.starts_with("mismatched") || told.starts_with("extraneous") || told.starts_with("token recognition") {
        let found = text.get(place.clone()).unwrap_or_default();
        return Mistake::new(place.clone(), format!("`{found}` is not expected here"), HELP);
    }
    Mistake::new(place, told, HELP)
}

/// The byte of a line and a column, both from 1.
fn offset(text: &str, (line, column): (isize, isize)) -> usize {
    let line = usize::try_from(line).unwrap_or(1).max(1);
    let column = usize::try_from(column).unwrap_or(1).max(1);
    let before: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    (before + column - 1).min(text.len())
}
