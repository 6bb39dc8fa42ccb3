//! What one attack on the lab did, measured from outside Levee: by what was sent, what arrived, and what clients saw.
//! Levee's own events are told beside it and decide nothing.

use std::{
    fmt::{self, Write},
    time::Duration,
};

use crate::{events::Happening, http, receive, send, time_bins::ns};

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;

/// An attack counts as dropped from the instant on from which every interval of this length leaks less than
/// [`LEAK_PERCENT`].
const STEP: u64 = 10 * MILLISECOND;
const LEAK_PERCENT: u64 = 5;

/// What must hold: this share of attack packets is dropped once this time has passed ...
const DROPPED_PERCENT: f64 = 99.0;
const DROPPED_AFTER: u64 = 200 * MILLISECOND;
/// ... and this share of client requests succeeds once this time has passed.
const SUCCEEDED_PERCENT: f64 = 99.0;
const SUCCEEDED_AFTER: u64 = SECOND;

/// Some of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// How many of them.
    pub part: u64,
    /// How many there were.
    pub whole: u64,
}

impl Share {
    /// In percent; `None` of nothing.
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub fn percent(self) -> Option<f64> {
        (self.whole > 0).then(|| 100.0 * self.part as f64 / self.whole as f64)
    }
}

/// Figures of one attack.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Attack packets that reached the server, of those sent.
    pub leaked: Share,
    /// The same without the first 200 ms.
    pub leaked_late: Share,
    /// From the first attack packet until the attack was dropped for good; `None`: never.
    pub dropped_after: Option<Duration>,
    /// From the first attack packet to the last.
    pub length: Duration,
    /// Successful client requests by the time they began: before the attack, in its first second, later in it, behind it.
    pub clients: [Share; 4],
}

impl Outcome {
    /// Puts the three measurements together.
    pub fn of(sent: &send::Sent, received: &receive::Report, clients: &http::Report) -> Self {
        let (first, last) = (sent.first_unix_ns, sent.last_unix_ns);
        let arrived = &received.attack.over_time;
        let share =
            |from, to| Share { part: clients.succeeded.between(from, to), whole: clients.begun.between(from, to) };
        let quiet = first + DROPPED_AFTER;
        let late = sent.over_time.between(quiet, u64::MAX);
        Self {
            leaked: Share { part: received.attack.packets, whole: sent.packets },
            // Packets on their way at that moment are late arrivals, yet not among those sent late.
            leaked_late: Share { part: arrived.between(quiet, u64::MAX).min(late), whole: late },
            dropped_after: dropped_after(sent, received),
            length: Duration::from_nanos(last - first),
            clients: [
                share(0, first),
                share(first, first + SUCCEEDED_AFTER),
                share(first + SUCCEEDED_AFTER, last),
                share(last, u64::MAX),
            ],
        }
    }

    /// What was promised and did not hold; empty when all is well.
    pub fn broken_promises(&self) -> Vec<String> {
        let mut broken = Vec::new();
        match self.leaked_late.percent() {
            Some(leaked) if leaked <= 100.0 - DROPPED_PERCENT => {}
            Some(leaked) => broken.push(format!(
                "{:.2} % of the attack was dropped after its first 200 ms, {DROPPED_PERCENT} % was promised",
                100.0 - leaked
            )),
            None => broken.push("no attack packet was sent after the first 200 ms".into()),
        }
        match self.clients[2].percent() {
            Some(succeeded) if succeeded >= SUCCEEDED_PERCENT => {}
            Some(succeeded) => broken.push(format!(
                "{succeeded:.2} % of client requests succeeded after the attack's first second, \
                 {SUCCEEDED_PERCENT} % was promised"
            )),
            None => broken.push("no client request began after the attack's first second".into()),
        }
        broken
    }
}

/// Searches backwards for the last interval that leaks too much. The very last is left out, for it is not a whole one;
/// the very first counts as leaking, for less than an interval cannot be told.
fn dropped_after(sent: &send::Sent, received: &receive::Report) -> Option<Duration> {
    let first = sent.first_unix_ns / STEP * STEP;
    let mut quiet_from = None;
    let mut at = (sent.last_unix_ns / STEP * STEP).saturating_sub(STEP);
    while at > first {
        let leaked = received.attack.over_time.between(at, at + STEP);
        if leaked * 100 > sent.over_time.between(at, at + STEP) * LEAK_PERCENT {
            break;
        }
        quiet_from = Some(at);
        at -= STEP;
    }
    quiet_from.map(|at| Duration::from_nanos(at.saturating_sub(sent.first_unix_ns)))
}

/// Everything about one attack on one screen.
#[derive(Debug)]
pub struct Page<'a> {
    /// Kind of the attack.
    pub kind: &'a str,
    /// What was attacked.
    pub target: &'a str,
    /// What was sent.
    pub sent: &'a send::Sent,
    /// What arrived.
    pub received: &'a receive::Report,
    /// What clients saw.
    pub clients: &'a http::Report,
    /// What Levee said.
    pub happenings: &'a [Happening],
}

/// So many things of Levee's story fit a screen beside the rest.
const MOST_THINGS: usize = 8;

/// The same thing that happened on one or more targets of a kind.
struct Told<'a> {
    first: &'a Happening,
    others: usize,
}

impl Told<'_> {
    fn is(&self, one: &Happening) -> bool {
        self.first.what == one.what && self.first.target.contains('/') == one.target.contains('/')
    }
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Levee: {} on {}", self.first.what, self.first.target)?;
        match self.others {
            0 => {}
            1 => write!(f, " and once more")?,
            more => write!(f, " and {more} times more")?,
        }
        self.first.details.iter().try_for_each(|detail| write!(f, "\n{:22}{detail}", ""))
    }
}

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = Outcome::of(self.sent, self.received, self.clients);
        let seconds = outcome.length.as_secs_f64();
        writeln!(f, "{} on {}: {} packets/s for {seconds:.1} s", self.kind, self.target, grouped(self.sent.rate_pps))?;
        writeln!(f)?;
        self.story(&outcome, f)?;
        writeln!(f)?;
        self.figures(&outcome, f)?;
        writeln!(f)?;
        for broken in outcome.broken_promises() {
            writeln!(f, "  NOT KEPT: {broken}")?;
        }
        if outcome.broken_promises().is_empty() {
            writeln!(
                f,
                "  kept: {DROPPED_PERCENT} % of attack packets dropped after 200 ms, {SUCCEEDED_PERCENT} % of client requests served after 1 s"
            )?;
        }
        Ok(())
    }
}

impl Page<'_> {
    fn story(&self, outcome: &Outcome, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.sent.first_unix_ns;
        let mut lines: Vec<(u64, String)> =
            vec![(0, "first attack packet".into()), (ns(outcome.length), "last attack packet".into())];
        let mut things: Vec<Told<'_>> = Vec::new();
        for one in self.happenings.iter().filter(|one| one.unix_ns >= first) {
            match things.iter_mut().find(|told| told.is(one)) {
                Some(told) => told.others += 1,
                None => things.push(Told { first: one, others: 0 }),
            }
        }
        let left_out = things.len().saturating_sub(MOST_THINGS);
        lines.extend(things.iter().take(MOST_THINGS).map(|told| (told.first.unix_ns - first, told.to_string())));
        if let Some(after) = outcome.dropped_after {
            lines.push((ns(after), "the attack is dropped from here on (measured behind Levee)".into()));
        }
        lines.sort_by_key(|(at, _)| *at);
        for (at, what) in lines {
            writeln!(f, "  {:>9}  {what}", moment(at))?;
        }
        if left_out > 0 {
            writeln!(f, "  {:>9}  Levee: and {left_out} other things", "")?;
        }
        Ok(())
    }

    fn figures(&self, outcome: &Outcome, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let through =
            |share: Share| format!("{} of {} ({})", grouped(share.part), grouped(share.whole), percent(share));
        writeln!(f, "  attack packets that got through   {}", through(outcome.leaked))?;
        writeln!(f, "    of those after the first 200 ms {}", through(outcome.leaked_late))?;
        if let Some(unseen) = Some(self.received.unseen).filter(|unseen| *unseen > 0) {
            writeln!(f, "    (the receiver missed {} packets, which may be of either kind)", grouped(unseen))?;
        }
        let titles = ["before", "first second", "rest of attack", "afterwards"];
        let [row_1, row_2] =
            titles.iter().zip(outcome.clients).fold([String::new(), String::new()], |mut rows, cell| {
                // Writing to a String cannot fail.
                let _ = write!(rows[0], "{:>16}", cell.0);
                let _ = write!(rows[1], "{:>16}", percent(cell.1));
                rows
            });
        writeln!(f, "  client requests     {row_1}")?;
        writeln!(f, "    served            {row_2}")?;
        writeln!(
            f,
            "    answered within {:.1} ms (median), {:.1} ms (99 of 100)",
            milliseconds(self.clients.median_us),
            milliseconds(self.clients.p99_us)
        )?;
        for (cause, count) in &self.clients.failures {
            writeln!(f, "    failed: {} ({cause})", grouped(*count))?;
        }
        Ok(())
    }
}

fn percent(share: Share) -> String {
    share.percent().map_or("-".into(), |percent| format!("{percent:.2} %"))
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of one run are far below 2^52")]
fn milliseconds(us: u64) -> f64 {
    us as f64 / 1_000.0
}

/// A moment of the timeline: milliseconds, later on seconds.
fn moment(ns: u64) -> String {
    if ns < 9_950 * MILLISECOND {
        format!("{} ms", ns / MILLISECOND)
    } else {
        format!("{:.1} s", Duration::from_nanos(ns).as_secs_f64())
    }
}

/// Digits in groups of three, as people read them.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let head = digits.len() % 3;
    let (first, rest) = digits.split_at(head);
    let groups = rest.as_bytes().chunks(3).map(String::from_utf8_lossy);
    let parts: Vec<_> = (!first.is_empty()).then(|| first.into()).into_iter().chain(groups).collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time_bins::TimeBins;

    const START: u64 = 1_700_000_000 * SECOND;

    /// Ten packets a millisecond for two seconds, of which `leak_ms` milliseconds reach the server; twenty requests a
    /// second from one second before to one second behind, failing while `fails` says so.
    fn attack(leak_ms: u64, fails: impl Fn(u64) -> bool) -> (send::Sent, receive::Report, http::Report) {
        let mut sent = send::Sent {
            packets: 20_000,
            bytes: 0,
            behind: 0,
            first_unix_ns: START,
            last_unix_ns: START + 2 * SECOND,
            rate_pps: 10_000,
            over_time: TimeBins::new(10),
        };
        let nothing =
            || receive::Arrivals { packets: 0, first_unix_ns: 0, last_unix_ns: 0, over_time: TimeBins::new(10) };
        let mut received = receive::Report { attack: nothing(), other: nothing(), unseen: 0 };
        for ms in 0..2_000 {
            sent.over_time.add(START + ms * MILLISECOND, 10);
            if ms < leak_ms {
                received.attack.over_time.add(START + ms * MILLISECOND, 10);
                received.attack.packets += 10;
            }
        }
        let mut clients = http::Report {
            begun: TimeBins::new(100),
            succeeded: TimeBins::new(100),
            retried: 0,
            failures: Default::default(),
            median_us: 1_500,
            p99_us: 9_000,
        };
        for tick in 0..80 {
            let at = START - SECOND + tick * 50 * MILLISECOND;
            clients.begun.add(at, 1);
            clients.succeeded.add(at, u64::from(!fails(at)));
        }
        (sent, received, clients)
    }

    #[test]
    fn an_attack_that_leaks_for_40_ms_is_dropped_after_40_ms_and_keeps_the_promises() {
        let (sent, received, clients) = attack(40, |_| false);
        let outcome = Outcome::of(&sent, &received, &clients);
        assert_eq!(outcome.dropped_after, Some(Duration::from_millis(40)));
        assert_eq!(outcome.leaked, Share { part: 400, whole: 20_000 });
        assert_eq!(outcome.leaked_late, Share { part: 0, whole: 18_000 });
        assert_eq!(outcome.clients.map(|share| share.whole), [20, 20, 20, 20]);
        assert!(outcome.broken_promises().is_empty());
    }

    #[test]
    fn an_attack_that_keeps_leaking_and_clients_that_fail_are_told() {
        let (sent, received, clients) = attack(2_000, |at| at >= START);
        let outcome = Outcome::of(&sent, &received, &clients);
        assert_eq!(outcome.dropped_after, None);
        assert_eq!(outcome.broken_promises().len(), 2);
        assert_eq!(outcome.clients[0].percent(), Some(100.0));
        assert_eq!(outcome.clients[2].percent(), Some(0.0));
    }

    #[test]
    fn failures_in_the_first_second_break_no_promise() {
        let (sent, received, clients) = attack(10, |at| (START..START + SECOND).contains(&at));
        let outcome = Outcome::of(&sent, &received, &clients);
        assert_eq!(outcome.clients[1].percent(), Some(0.0));
        assert!(outcome.broken_promises().is_empty());
    }

    #[test]
    fn the_page_tells_the_story_in_order() {
        let (sent, received, clients) = attack(40, |_| false);
        let happening = |ms: u64, what: &str, target: &str| Happening {
            unix_ns: START + ms * MILLISECOND - SECOND,
            what: what.into(),
            target: target.into(),
            details: vec!["because role".into()],
        };
        let happenings = [
            happening(0, "an earlier attack", "203.0.113.10"),
            happening(1_020, "anomaly", "203.0.113.10"),
            happening(1_020, "anomaly", "203.0.113.11"),
            happening(1_030, "anomaly", "203.0.113.0/24"),
        ];
        let page = Page {
            kind: "syn-flood",
            target: "203.0.113.10",
            sent: &sent,
            received: &received,
            clients: &clients,
            happenings: &happenings,
        }
        .to_string();
        let at = |what: &str| page.find(what).unwrap_or_else(|| panic!("`{what}` is missing in\n{page}"));
        let order = [
            "first attack packet",
            "Levee: anomaly on 203.0.113.10 and once more",
            "because role",
            "Levee: anomaly on 203.0.113.0/24\n",
            "dropped from here on",
            "last attack packet",
        ];
        assert!(order.map(at).is_sorted(), "{page}");
        assert!(!page.contains("earlier"));
        assert!(page.contains("400 of 20 000 (2.00 %)"), "{page}");
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!([0, 12, 123, 1_234, 1_234_567].map(grouped), ["0", "12", "123", "1 234", "1 234 567"]);
    }
}
