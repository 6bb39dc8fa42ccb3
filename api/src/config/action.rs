//! `action` of a runbook's stage: what the control plane does, and with which means.

use std::time::Duration;

use super::general::{name, values};
use super::problem::Fault;
use super::quantity;
use super::runbook::{Approval, approval};
use super::section::{Located, Section, unknown};

/// What a stage does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// What the dataplane's reflex did is kept and refined.
    Filter,
    /// Routers upstream drop, limit, redirect or mark what matches.
    FlowSpec(FlowSpec),
    /// The prefix of the target goes another way.
    Divert(Divert),
    /// The target is given up, or its attackers are, upstream.
    Blackhole(Blackhole),
    /// People are told, nothing else.
    Notify {
        /// Names of notifiers.
        channels: Vec<String>,
    },
    /// Packets are kept.
    Capture {
        /// For how long.
        duration: Duration,
    },
    /// A program is told, and may act.
    Webhook {
        /// Name of a notifier of the kind `webhook`.
        notifier: String,
    },
    /// Somebody has to say yes before the stages that ask for this one.
    WaitForApproval(Approval),
}

/// `flowspec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowSpec {
    /// Names of announcers, at least one.
    pub announcers: Vec<String>,
    /// What routers do with what matches.
    pub prefer: FlowSpecAction,
    /// Rules that the stage may have at once.
    pub max_rules: u16,
    /// Bits per second that pass: of a rate limit, and of what a drop is turned into to see whether the attack goes on.
    pub rate_bps: u64,
}

/// What routers do with packets that match a FlowSpec rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowSpecAction {
    /// A rate limit.
    RateLimit,
    /// They are dropped.
    Drop,
    /// They go where the route target says.
    Redirect {
        /// `ASN:NUMBER` or an address.
        to: String,
    },
    /// They are marked.
    Mark {
        /// 0 to 63.
        dscp: u8,
    },
    /// Samples of them are collected.
    Sample,
}

/// `divert`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divert {
    /// Who takes the traffic.
    pub via: Via,
    /// Length of the IPv4 prefix around the target that is diverted.
    pub ipv4_length: u8,
    /// The same for IPv6.
    pub ipv6_length: u8,
}

/// Who takes traffic over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// A provider.
    Scrubber(String),
    /// Whoever these announce the prefix to.
    Announcers(Vec<String>),
}

/// `blackhole`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blackhole {
    /// Names of announcers, at least one.
    pub announcers: Vec<String>,
    /// Which packets.
    pub direction: BlackholeDirection,
    /// Bits per second that pass while it is tried whether the attack goes on.
    pub rate_bps: u64,
}

/// Which packets a blackhole takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum BlackholeDirection {
    /// Those to the target: it is given up so that the rest is not.
    #[default]
    Destination,
    /// Those from the sources of the attack.
    Source,
}

impl Action {
    /// As it is written in the file.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::FlowSpec(_) => "flowspec",
            Self::Divert(_) => "divert",
            Self::Blackhole(_) => "blackhole",
            Self::Notify { .. } => "notify",
            Self::Capture { .. } => "capture",
            Self::Webhook { .. } => "webhook",
            Self::WaitForApproval(_) => "wait-for-approval",
        }
    }

    /// True when it takes traffic away before we see it.
    pub const fn is_upstream(&self) -> bool {
        matches!(self, Self::FlowSpec(_) | Self::Divert(_) | Self::Blackhole(_))
    }

    /// Names of the announcers that it needs.
    pub fn announcers(&self) -> &[String] {
        match self {
            Self::FlowSpec(FlowSpec { announcers, .. })
            | Self::Blackhole(Blackhole { announcers, .. })
            | Self::Divert(Divert { via: Via::Announcers(announcers), .. }) => announcers,
            _ => &[],
        }
    }
}

const KINDS: &[&str] =
    &["filter", "flowspec", "divert", "blackhole", "notify", "capture", "webhook", "wait-for-approval"];

/// Bits per second of a rate limit that lets something pass.
const LEAST_RATE_BPS: u64 = 100_000;
/// Bits per second of a rate limit whose stage says nothing.
const RATE_BPS: u64 = 10_000_000;
const MAX_RULES: u64 = 1_000;
const CAPTURE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60 * 60);

/// Reads `action` of a stage.
pub(super) fn read(stage: &Section<'_>, key: &'static str) -> Option<Action> {
    let action = stage.table(key, "the action".to_owned())?;
    let mut given = KINDS.iter().copied().filter(|kind| action.has(kind));
    let Some(kind) = given.next() else {
        let first = action.entries().next();
        let fault = match &first {
            Some((word, _)) => unknown("key", word.value, "the action", KINDS),
            None => Fault::new("the action does nothing", "give one, such as: action = { filter = {} }"),
        };
        stage.problems().error(first.map_or_else(|| stage.place(key), |(word, _)| word.span), fault);
        return None;
    };
    if let Some(second) = given.next() {
        let fault = Fault::new(
            format!("a stage does one thing, and this does two: {kind} and {second}"),
            "make a stage of each, one behind the other",
        );
        stage.problems().error(action.place(second), fault);
    }
    let table = action.table(kind, kind.to_owned());
    let read = table.and_then(|table| {
        let read = of_kind(kind, &table);
        table.refuse_unknown();
        read
    });
    action.refuse_unknown();
    read
}

fn of_kind(kind: &str, table: &Section<'_>) -> Option<Action> {
    match kind {
        "filter" => Some(Action::Filter),
        "flowspec" => flowspec(table).map(Action::FlowSpec),
        "divert" => divert(table).map(Action::Divert),
        "blackhole" => {
            let words = &[("destination", BlackholeDirection::Destination), ("source", BlackholeDirection::Source)];
            let (direction, rate_bps) = (table.choice("direction", words).unwrap_or_default(), rate(table));
            Some(Action::Blackhole(Blackhole { announcers: announcers(table)?, direction, rate_bps }))
        }
        "notify" => names(table, "channels", "[\"noc\"]").map(|channels| Action::Notify { channels }),
        "capture" => {
            let duration = table.parsed("duration", capture_duration);
            Some(Action::Capture { duration: duration.map_or(Duration::from_secs(60), |duration| duration.value) })
        }
        "webhook" => {
            let notifier = table.required("notifier", "\"ticket\"", |table, key| table.parsed(key, name));
            notifier.map(|notifier| Action::Webhook { notifier: notifier.value })
        }
        _ => approval(table).map(Action::WaitForApproval),
    }
}

fn flowspec(table: &Section<'_>) -> Option<FlowSpec> {
    #[derive(Clone, Copy, PartialEq)]
    enum Word {
        RateLimit,
        Drop,
        Redirect,
        Mark,
        Sample,
    }
    const WORDS: &[(&str, Word)] = &[
        ("rate-limit", Word::RateLimit),
        ("drop", Word::Drop),
        ("redirect", Word::Redirect),
        ("mark", Word::Mark),
        ("sample", Word::Sample),
    ];
    let announcers = announcers(table);
    let word = table.choice("prefer", WORDS).unwrap_or(Word::RateLimit);
    let redirect = table.parsed("redirect", route_target);
    let dscp = table.integer("dscp", 0..=63).and_then(|dscp| u8::try_from(dscp).ok());
    for (key, needed) in [("redirect", Word::Redirect), ("dscp", Word::Mark)] {
        if table.has(key) && word != needed {
            let fault = Fault::new(
                format!("`{key}` has no effect here"),
                format!("leave it out, or give prefer = {:?}", if key == "dscp" { "mark" } else { "redirect" }),
            );
            table.problems().error(table.place(key), fault);
        }
    }
    let prefer = match word {
        Word::RateLimit => Some(FlowSpecAction::RateLimit),
        Word::Drop => Some(FlowSpecAction::Drop),
        Word::Redirect => table
            .required("redirect", "\"64496:666\"", |_, _| redirect)
            .map(|to| FlowSpecAction::Redirect { to: to.value }),
        Word::Mark => table.required("dscp", "8", |_, _| dscp).map(|dscp| FlowSpecAction::Mark { dscp }),
        Word::Sample => Some(FlowSpecAction::Sample),
    };
    let max_rules = table.integer("max_rules", 1..=MAX_RULES).and_then(|rules| u16::try_from(rules).ok());
    let rate_bps = rate(table);
    Some(FlowSpec { announcers: announcers?, prefer: prefer?, max_rules: max_rules.unwrap_or(20), rate_bps })
}

fn divert(table: &Section<'_>) -> Option<Divert> {
    let length = |key, allowed: std::ops::RangeInclusive<u64>, otherwise: u8| {
        table.integer(key, allowed).and_then(|length| u8::try_from(length).ok()).unwrap_or(otherwise)
    };
    let (ipv4_length, ipv6_length) = (length("ipv4_length", 8..=32, 24), length("ipv6_length", 16..=128, 48));
    let via = match (table.has("scrubber"), table.has("announcers")) {
        (true, false) => table.parsed("scrubber", name).map(|scrubber| Via::Scrubber(scrubber.value)),
        (false, true) => announcers(table).map(Via::Announcers),
        (both, _) => {
            let message = if both { "the diversion has two takers" } else { "the diversion has no taker" };
            let help = "give `scrubber`, or `announcers` that announce the prefix, and not both";
            table.problems().error(table.place("scrubber"), Fault::new(message, help));
            None
        }
    };
    Some(Divert { via: via?, ipv4_length, ipv6_length })
}

fn announcers(table: &Section<'_>) -> Option<Vec<String>> {
    names(table, "announcers", "[\"core-a\"]")
}

fn names(table: &Section<'_>, key: &'static str, example: &str) -> Option<Vec<String>> {
    let given = table.required(key, example, |table, key| table.parsed_list(key, name))?;
    if given.is_empty() && table.list(key).is_some_and(<[_]>::is_empty) {
        let fault = Fault::new(format!("`{key}` is empty"), format!("name at least one: {key} = {example}"));
        table.problems().error(table.place(key), fault);
        return None;
    }
    Some(values(given))
}

fn rate(table: &Section<'_>) -> u64 {
    let rate = table.parsed("rate", |text| match quantity::bit_rate(text)? {
        ..LEAST_RATE_BPS => Err(Fault::new(
            format!("a limit of {text} lets nearly nothing pass: that drops"),
            "give at least \"100kbps\", or say what is meant: prefer = \"drop\"",
        )),
        rate => Ok(rate),
    });
    rate.map_or(RATE_BPS, |Located { value, .. }| value)
}

fn capture_duration(text: &str) -> Result<Duration, Fault> {
    let duration = quantity::duration(text)?;
    if CAPTURE.contains(&duration) {
        return Ok(duration);
    }
    Err(Fault::new(format!("a capture cannot last for {text}"), "give a duration from \"1s\" to \"1h\""))
}

/// Where RFC 8955 and its successors let traffic be redirected to.
fn route_target(text: &str) -> Result<String, Fault> {
    let numbers =
        text.split_once(':').is_some_and(|(high, low)| high.parse::<u32>().is_ok() && low.parse::<u32>().is_ok());
    if numbers || text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("{text:?} is nothing that traffic can be redirected to"),
        "give a route target such as \"64496:666\", or an address",
    ))
}
