//! Shipped runbooks whose conditions are broken somewhere: each is told where it stands.

use proptest::prelude::*;

use super::*;

/// What is wrong, and how the text at the place of the first error begins.
const WRONG: &[(&str, &str)] = &[
    ("uplink.saturated && attack.ppps > 1", "attack.ppps"),
    ("uplink.saturated || stage.nowhere.failed", "stage.nowhere.failed"),
    ("uplink.saturated && attack.pps / 0 > 1", "attack.pps / 0"),
    ("uplink.saturated && 'a' > 1", "'a' > 1"),
    ("uplink.saturated && attack.vectors.exists(v, true)", "exists"),
    ("uplink.saturated && && true", "&"),
    ("false", "false"),
];

#[test]
fn every_condition_that_is_shipped_wrong_in_every_way_is_told_where_it_stands() {
    let files = SHIPPED.into_iter().chain([include_str!("../../../../configs/levee.toml")]);
    for text in files {
        let mut conditions = 0;
        for (at, key) in text.match_indices("\nwhen = \"") {
            conditions += 1;
            let begin = at + key.len() - 1;
            let quote = if text[begin..].starts_with("\"\"\"") { "\"\"\"" } else { "\"" };
            let end = begin + quote.len() + text[begin + quote.len()..].find(quote).unwrap() + quote.len();
            for (wrong, place) in WRONG {
                for written in [format!("\"{wrong}\""), format!("\"\"\"\n    {wrong}\"\"\"")] {
                    let changed = format!("{}{written}{}", &text[..begin], &text[end..]);
                    let invalid = Runbooks::parse("levee.toml", &changed).unwrap_err();
                    let errors: Vec<_> = invalid.problems().iter().filter(|problem| problem.is_error).collect();
                    let here = begin..begin + written.len();
                    for error in &errors {
                        assert!(here.start <= error.span.start && error.span.end <= here.end, "{wrong}: {error:?}");
                        let line = changed[..error.span.start].matches('\n').count() + 1;
                        assert_eq!(error.line, line, "{wrong}: {error:?}");
                    }
                    let first = &changed[errors[0].span.clone()];
                    assert!(first.starts_with(place), "{wrong}: at {first:?}, not {place:?}");
                }
            }
        }
        assert!(conditions > 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_shipped_runbook_with_a_broken_condition_is_valid_or_told_with_its_place(
        which in 0_usize..3,
        condition in any::<prop::sample::Index>(),
        from in any::<prop::sample::Index>(),
        length in 0_usize..12,
        with in prop_oneof!["[a-z.()&|!<>=' 0-9+*/%-]{0,8}", Just("\\u00e9".to_owned()), Just("stage.x.failed".to_owned())],
    ) {
        let text = SHIPPED[which];
        let begins: Vec<usize> = text.match_indices("when = \"").map(|(at, found)| at + found.len()).collect();
        let begin = begins[condition.index(begins.len())];
        let line_end = begin + text[begin..].find("\n[[").unwrap_or(0);
        let from = begin + from.index((line_end - begin).max(1));
        let to = (from + length).min(text.len());
        let broken = format!("{}{with}{}", &text[..from], &text[to..]);
        if let Err(invalid) = Runbooks::parse("levee.toml", &broken) {
            for problem in invalid.problems() {
                prop_assert!(problem.span.end <= broken.len().max(1) && problem.span.start <= problem.span.end);
                prop_assert!(problem.line >= 1 && !problem.message.is_empty() && !problem.help.is_empty());
            }
        }
    }
}
