//! What people write who think of another language, or of the file's other values, where the parser stumbles over it.

use super::Mistake;

/// Operators of other languages, and ours.
const PAIRS: &[(&str, &str)] = &[("=>", ">="), ("=<", "<="), ("<>", "!="), ("=!", "!=")];
const TIMES: &[&str] = &["ms", "s", "m", "h", "sec", "min", "seconds", "minutes", "hours"];

/// `at` is where the parser stumbled, and `told` what it said.
pub(super) fn at(text: &str, at: usize, told: &str) -> Option<Mistake> {
    let (before, rest) = (text.get(..at)?.trim_end(), text.get(at..)?);
    let word = rest.split(|c: char| !is_word(c)).next().unwrap_or_default();
    too_large(rest, at, told)
        .or_else(|| unit(text, before, at..at + word.len()))
        .or_else(|| percent(before, rest))
        .or_else(|| operator(text, at))
        .or_else(|| not(before))
        .or_else(|| method(word, at))
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn too_large(rest: &str, at: usize, told: &str) -> Option<Mistake> {
    if !(told.contains("int literal") || told.contains("double literal")) {
        return None;
    }
    let end = rest.find(|c: char| !(is_word(c) || c == '.')).unwrap_or(rest.len());
    let help = "numbers are doubles: write 1e9, 0.5 or 1000000, at most 1e308";
    Some(Mistake::new(at..at + end.max(1), "this number cannot be held", help))
}

/// `10Gbps`, `5m`, `1_000`: the parser stumbles behind the digits.
fn unit(text: &str, before: &str, word: std::ops::Range<usize>) -> Option<Mistake> {
    let number = before.rsplit(|c: char| !(is_word(c) || c == '.')).next()?;
    if !number.starts_with(|c: char| c.is_ascii_digit()) || word.is_empty() {
        return None;
    }
    let whole = before.len() - number.len()..word.end;
    let message = format!("`{}` is no number", text.get(whole.clone())?);
    let unit = text.get(word)?;
    let help = if TIMES.contains(&unit) {
        let letters = if unit == "ms" { 2 } else { 1 };
        format!("write a duration as duration('{number}{}')", unit.get(..letters)?)
    } else {
        "numbers have neither units nor underscores: write 10e9 for 10 Gbit/s, 1000000 or 1e6 for a million".to_owned()
    };
    Some(Mistake::new(whole, message, help))
}

fn percent(before: &str, rest: &str) -> Option<Mistake> {
    let share = before.strip_suffix('%').filter(|_| rest.trim().is_empty())?;
    let at = share.len();
    Some(Mistake::new(at..at + 1, "`%` is the remainder of a division", "shares are from 0 to 1: 70 % is 0.7"))
}

fn operator(text: &str, at: usize) -> Option<Mistake> {
    let pair = |at: usize| text.get(at..at + 2);
    let wrong = |at: usize, wrong: &str, meant: &str| {
        Mistake::new(at..at + wrong.len(), format!("`{wrong}` is no operator"), format!("write {meant}"))
    };
    for begin in [at, at.saturating_sub(1)] {
        if let Some((found, meant)) = PAIRS.iter().find(|(known, _)| pair(begin) == Some(known)) {
            return Some(wrong(begin, found, meant));
        }
    }
    let single = [("&", "&&"), ("|", "||")].into_iter().find(|(sign, _)| text.get(at..at + 1) == Some(sign));
    single.filter(|(_, double)| pair(at) != Some(double)).map(|(sign, double)| wrong(at, sign, double))
}

/// The parser takes it for a name, and stumbles over what follows.
fn not(before: &str) -> Option<Mistake> {
    let at = before.strip_suffix("not").filter(|before| !before.ends_with(is_word))?.len();
    Some(Mistake::new(at..at + 3, "`not` is no operator", "write !"))
}

fn method(word: &str, at: usize) -> Option<Mistake> {
    if !["contains", "startsWith", "endsWith"].contains(&word) {
        return None;
    }
    let help =
        format!("it is called on a string: zone.name.{word}('web'); of a list ask: 'syn-flood' in attack.vectors");
    Some(Mistake::new(at..at + word.len(), format!("`{word}` is no operator"), help))
}
