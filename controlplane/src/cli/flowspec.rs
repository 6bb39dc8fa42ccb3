//! `leveectl flowspec`: filters as FlowSpec rules, and what bytes mean. Neither needs a server.

use std::fmt::Write as _;
use std::mem::discriminant;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use levee_api::filter::Rule;
use levee_api::prefix::Prefix;
use serde::Serialize;

use super::prefix_argument::{prefix, whole};
use super::routes::Show;
use super::signature::signature;
use super::{fail, print};
use crate::bgp::flowspec::{Nlri, TrafficAction, Version};
use crate::bgp::lowering::{self, Wanted};
use crate::bgp::render::{Syntax, render};
use crate::guardrail::Guards;
use crate::ledger::{FlowAction, Spec};

/// Filters as rules for routers upstream.
#[derive(Debug, Subcommand)]
pub(super) enum FlowspecCommand {
    /// The rules that routers would be sent for filters, and what they leave out.
    Build(Build),
    /// What the bytes of a rule mean, and whether Levee would send them.
    Parse(Parse),
    /// What is announced to routers, who was told, and who has it.
    Show(Show),
}

#[derive(Debug, Args)]
pub(super) struct Build {
    /// What is attacked: the destination of the rules.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    target: Prefix,
    /// What is to match, in the words in which Levee shows filters; several times for several filters.
    #[arg(long = "match", value_name = "WORDS", required = true, value_parser = signature, allow_hyphen_values = true)]
    matches: Vec<Rule>,
    #[command(flatten)]
    action: ActionArguments,
    /// At most so many rules.
    #[arg(long, value_name = "N", default_value_t = 20)]
    max_rules: usize,
    /// In which language.
    #[arg(long, value_enum, default_value_t = Syntax::Levee)]
    syntax: Syntax,
}

/// What routers do with what matches; without any of them: drop it.
#[derive(Debug, Clone, Args)]
pub(super) struct ActionArguments {
    /// Let so many bits per second pass.
    #[arg(long, value_name = "BPS", value_parser = some, conflicts_with_all = ["limit_pps", "redirect", "mark"])]
    limit_bps: Option<u64>,
    /// Let so many packets per second pass.
    #[arg(long, value_name = "PPS", value_parser = some, conflicts_with_all = ["redirect", "mark"])]
    limit_pps: Option<u64>,
    /// Send it there: a route target such as 64496:100, or an IPv4 address.
    #[arg(long, value_name = "WHERE", conflicts_with = "mark")]
    redirect: Option<String>,
    /// Set this code point.
    #[arg(long, value_name = "DSCP", value_parser = clap::value_parser!(u8).range(0..=63), conflicts_with = "sample")]
    mark: Option<u8>,
    /// Let it pass, and have samples of it collected.
    #[arg(long, conflicts_with_all = ["limit_bps", "limit_pps", "redirect"])]
    sample: bool,
}

fn some(text: &str) -> Result<u64, String> {
    let rate = whole::<u64>(text)?;
    if rate == 0 { Err("a limit of nothing is to drop: say so by no action".to_owned()) } else { Ok(rate) }
}

impl ActionArguments {
    pub(super) fn action(&self) -> FlowAction {
        match (self.limit_bps, self.limit_pps, &self.redirect, self.mark) {
            (Some(bps), ..) => FlowAction::RateLimit { bps },
            (_, Some(pps), ..) => FlowAction::RateLimitPackets { pps },
            (_, _, Some(to), _) => FlowAction::Redirect { to: to.clone() },
            (.., Some(dscp)) => FlowAction::Mark { dscp },
            _ if self.sample => FlowAction::Sample,
            _ => FlowAction::Drop,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Parse {
    /// The bytes of the rule with its length in front, in hexadecimal digits.
    #[arg(value_name = "HEX", value_parser = digits)]
    rule: Digits,
    /// Extended communities, sixteen digits each.
    #[arg(value_name = "COMMUNITY", value_parser = digits)]
    communities: Vec<Digits>,
    /// The rule is for IPv6 (RFC 8956).
    #[arg(long)]
    ipv6: bool,
}

/// Bytes of the command line.
#[derive(Debug, Clone)]
struct Digits(Vec<u8>);

/// One rule, for programs.
#[derive(Debug, Serialize)]
struct Built {
    rule: String,
    exact: bool,
    omitted: Vec<String>,
    wider_bits: f64,
    filters: Vec<usize>,
    /// Why Levee would not announce it.
    refused: Option<String>,
}

#[derive(Debug, Serialize)]
struct BuiltAll {
    rules: Vec<Built>,
    left_out: Vec<(usize, String)>,
}

#[derive(Debug, Serialize)]
struct Parsed {
    rule: String,
    actions: Vec<String>,
    doubts: Vec<String>,
    would_be_sent: bool,
    why_not: Option<String>,
}

pub(super) fn build(arguments: Build, json: bool) -> ExitCode {
    let action = arguments.action.action();
    // What is written first counts most.
    let effect = |index: usize| u64::try_from(arguments.matches.len() - index).unwrap_or(u64::MAX);
    let wanted: Vec<Wanted<'_>> = arguments
        .matches
        .iter()
        .enumerate()
        .map(|(index, rule)| Wanted { rule, by_role: false, effect: effect(index) })
        .collect();
    let lowering = lowering::lower(&wanted, arguments.target, arguments.max_rules);
    let mut built = BuiltAll { rules: Vec::new(), left_out: Vec::new() };
    for (index, lowered) in lowering.rules.into_iter().enumerate() {
        let rule = match render(arguments.syntax, &format!("levee-{}", index + 1), &lowered.rule, &action) {
            Ok(rule) => rule,
            Err(why) => return fail(&format!("{}: {why}", lowered.rule)),
        };
        let lowering::Lowered { exact, omitted, wider_bits, filters, rule: asked, .. } = lowered;
        let spec = Spec::FlowSpec { rule: asked, action: action.clone() };
        let refused = Guards::default().check_shape(&spec).err().map(|refusal| refusal.to_string());
        built.rules.push(Built { rule, exact, omitted, wider_bits, filters, refused });
    }
    built.left_out.extend(lowering.left_out.into_iter().map(|(index, why)| (index, why.to_string())));
    let nothing = built.rules.iter().all(|rule| rule.refused.is_some());
    let status = told(json, &built, || {
        let mut text = String::new();
        for built in &built.rules {
            let _ = writeln!(text, "{}", built.rule);
            if !built.exact {
                let wider = lowering::times(built.wider_bits);
                let _ = writeln!(
                    text,
                    "# wider than its filters, about {wider} times: without {}{}",
                    built.omitted.join(", "),
                    if action == FlowAction::Drop {
                        "; a runbook limits with such a rule, and drops nothing"
                    } else {
                        ""
                    }
                );
            }
            if let Some(why) = &built.refused {
                let _ = writeln!(text, "# Levee would not announce it: {why}");
            }
        }
        for (index, why) in &built.left_out {
            let _ = writeln!(text, "# no rule for match {}: {why}", index + 1);
        }
        text
    });
    if nothing { ExitCode::FAILURE } else { status }
}

pub(super) fn parse(arguments: &Parse, json: bool) -> ExitCode {
    let version = if arguments.ipv6 { Version::V6 } else { Version::V4 };
    let bytes = &arguments.rule.0;
    let rule = match Nlri::decode(version, bytes) {
        Ok((rule, taken)) if taken == bytes.len() => rule,
        Ok((_, taken)) => return fail(&format!("the rule ends after {taken} bytes, and {} were given", bytes.len())),
        Err(error) => return fail(&error.to_string()),
    };
    let mut actions = Vec::new();
    for community in &arguments.communities {
        match <[u8; 8]>::try_from(community.0.as_slice()) {
            Ok(community) => actions.push(TrafficAction::decode(community)),
            Err(_) => return fail("an extended community has sixteen digits"),
        }
    }
    let everywhere = rule.destination().is_some_and(|destination| destination.length() == 0);
    let why_not = rule.encode().err().map(|unfit| unfit.to_string());
    let why_not = why_not.or_else(|| everywhere.then(|| "its destination is everybody".to_owned()));
    let parsed = Parsed {
        rule: rule.to_string(),
        doubts: doubts(&actions),
        actions: actions.iter().map(ToString::to_string).collect(),
        would_be_sent: why_not.is_none(),
        why_not,
    };
    told(json, &parsed, || {
        let mut text = format!("{}\n", parsed.rule);
        for action in &parsed.actions {
            let _ = writeln!(text, "{action}");
        }
        for doubt in &parsed.doubts {
            let _ = writeln!(text, "# {doubt}");
        }
        if let Some(why) = &parsed.why_not {
            let _ = writeln!(text, "# Levee would not send it: {why}");
        }
        text
    })
}

/// What routers may understand in more than one way (RFC 8955, sections 7.1 and 7.7).
fn doubts(actions: &[TrafficAction]) -> Vec<String> {
    let rate = |action: &TrafficAction| match action {
        TrafficAction::RateBytes { rate, .. } | TrafficAction::RatePackets { rate, .. } => Some(*rate),
        _ => None,
    };
    let mut doubts: Vec<String> = Vec::new();
    for rate in actions.iter().filter_map(rate) {
        if rate.is_nan() || rate.is_infinite() {
            doubts.push(format!("a rate of {rate} is no number: what routers make of it is not defined"));
        } else if rate < 0.0 {
            doubts.push(format!("a rate of {rate} is less than nothing: routers take it for 0, and drop"));
        }
    }
    for (index, one) in actions.iter().enumerate() {
        let of_its_kind = |other: &&TrafficAction| discriminant(*other) == discriminant(one);
        let mut before = actions.iter().take(index).filter(of_its_kind);
        if !matches!(one, TrafficAction::Other(_)) && before.any(|other| other != one) {
            doubts.push(format!("{one}: it contradicts another of its kind, and routers choose one of them"));
        }
    }
    doubts
}

fn told(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> ExitCode {
    if !json {
        return print(&text());
    }
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => fail(&error.to_string()),
    }
}

fn digits(text: &str) -> Result<Digits, String> {
    let wrong = || format!("{text:?}: write pairs of hexadecimal digits");
    // As captures and routers show them, too.
    let text: String = text.chars().filter(|char| !matches!(char, ' ' | ':')).collect();
    let text = text.strip_prefix("0x").unwrap_or(&text);
    let is_hex = text.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !is_hex || !text.len().is_multiple_of(2) || text.len() > 2 * 4_098 {
        return Err(wrong());
    }
    let pair = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    text.as_bytes().chunks_exact(2).map(pair).collect::<Option<Vec<u8>>>().map(Digits).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_understood_in_two_ways_is_told() {
        let rate = |rate: f32| TrafficAction::RateBytes { asn: 0, rate };
        assert!(doubts(&[rate(0.0), TrafficAction::Mark { dscp: 8 }]).is_empty());
        assert!(doubts(&[rate(5.0), rate(5.0), TrafficAction::RatePackets { asn: 0, rate: 7.0 }]).is_empty());
        for (actions, word) in [
            (vec![rate(f32::NAN)], "not defined"),
            (vec![rate(f32::INFINITY)], "not defined"),
            (vec![rate(-1.0)], "less than nothing"),
            (vec![rate(0.0), rate(5.0)], "contradicts"),
        ] {
            let [doubt] = &doubts(&actions)[..] else { panic!("{actions:?}") };
            assert!(doubt.contains(word), "{doubt}");
        }
    }

    #[test]
    fn only_pairs_of_digits_are_bytes() {
        for text in ["0x060120cb00714d", "06 01 20 cb 00 71 4d", "06:01:20:cb:00:71:4d"] {
            assert_eq!(digits(text).unwrap().0, [6, 1, 0x20, 0xcb, 0, 0x71, 0x4d]);
        }
        for text in ["6", "0 6 0", "zz", "+1", "é1", &"00".repeat(5_000)] {
            assert!(digits(text).is_err(), "{text}");
        }
    }
}
