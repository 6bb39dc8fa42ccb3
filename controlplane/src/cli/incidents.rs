//! `leveectl incidents`.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use levee_api::grpc::v1;
use levee_api::grpc::v1::incidents_client::IncidentsClient;
use levee_api::prefix::Prefix;

use super::arguments::Output;
use super::client::{CallError, Client};
use super::mitigations::measures;
use super::prefix_argument::prefix;
use super::table::Table;
use super::times::{between, clock, moment, now};
use super::{json, or_dash, print, target};
use crate::figures;

#[derive(Debug, Subcommand)]
pub(super) enum IncidentCommand {
    /// Incidents that are not closed, the newest first.
    List {
        /// Also those that are closed.
        #[arg(long)]
        all: bool,
        /// Only those in this state.
        #[arg(long, value_enum, conflicts_with = "all")]
        state: Option<StateArgument>,
        /// Only those of this zone.
        #[arg(long, default_value = "")]
        zone: String,
        /// Only those whose target covers this address or prefix, or is inside it.
        #[arg(long, value_parser = prefix)]
        target: Option<Prefix>,
        /// So many at most.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// The story of one incident: what happened when, what was done, what came of it.
    Show {
        /// Its number.
        id: String,
    },
    /// Print incidents and what happens in them, until interrupted.
    Watch {
        /// Only this incident, until it is closed.
        #[arg(long, default_value = "")]
        incident: String,
        /// Only those of this zone.
        #[arg(long, default_value = "")]
        zone: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum StateArgument {
    Attack,
    Calm,
    Closed,
}

impl From<StateArgument> for v1::IncidentState {
    fn from(state: StateArgument) -> Self {
        match state {
            StateArgument::Attack => Self::Attack,
            StateArgument::Calm => Self::Calm,
            StateArgument::Closed => Self::Closed,
        }
    }
}

pub(super) async fn run(client: Client, output: Output, command: IncidentCommand) -> Result<ExitCode, CallError> {
    let mut incidents = IncidentsClient::new(client.channel());
    match command {
        IncidentCommand::List { all, state, zone, target, limit } => {
            let states = match (all, state) {
                (true, _) => Vec::new(),
                (false, Some(state)) => vec![state.into()],
                (false, None) => vec![v1::IncidentState::Attack, v1::IncidentState::Calm],
            };
            let states = states.into_iter().map(i32::from).collect();
            let mut request =
                v1::ListIncidentsRequest { zone, states, prefix: target.map(Into::into), ..Default::default() };
            let mut answer = v1::ListIncidentsResponse::default();
            loop {
                let left = limit.saturating_sub(u32::try_from(answer.incidents.len()).unwrap_or(u32::MAX));
                request.page_size = left.min(1000);
                let page = incidents.list(request.clone()).await?.into_inner();
                answer.incidents.extend(page.incidents);
                (answer.total, answer.next_page_token) = (page.total, page.next_page_token);
                request.page_token.clone_from(&answer.next_page_token);
                if answer.next_page_token.is_empty() || answer.incidents.len() >= usize::try_from(limit).unwrap_or(0) {
                    break;
                }
            }
            let text = match output {
                Output::Json => json::text("ListIncidentsResponse", &answer)?,
                Output::Table => listed(&answer, now()),
            };
            Ok(print(&text))
        }
        IncidentCommand::Show { id } => {
            let story = incidents.get(v1::GetIncidentRequest { id }).await?.into_inner();
            let text = match output {
                Output::Json => json::text("IncidentStory", &story)?,
                Output::Table => told(&story, now()),
            };
            Ok(print(&text))
        }
        IncidentCommand::Watch { incident, zone } => watch(incidents, output, incident, zone).await,
    }
}

async fn watch(
    mut incidents: IncidentsClient<tonic::transport::Channel>,
    output: Output,
    id: String,
    zone: String,
) -> Result<ExitCode, CallError> {
    let until_closed = !id.is_empty();
    let mut changes = incidents.watch(v1::WatchIncidentsRequest { zone, id }).await?.into_inner();
    while let Some(change) = changes.message().await? {
        let text = match output {
            Output::Json => format!("{}\n", json::of("IncidentChange", &change)?),
            Output::Table => news(&change),
        };
        let status = print(&text);
        let is_closed = change.incident.is_some_and(|incident| incident.state() == v1::IncidentState::Closed);
        if status != ExitCode::SUCCESS || (until_closed && is_closed) {
            return Ok(status);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One line for each thing that happened, or one for the incident when nothing is told of it yet.
fn news(change: &v1::IncidentChange) -> String {
    let incident = change.incident.clone().unwrap_or_default();
    let head = format!("incident {}, {}", incident.id, target(incident.target.as_ref()));
    if change.news.is_empty() {
        let (state, severity) = (state(incident.state()), severity(incident.severity()));
        return format!(
            "{}  {head}: {state}, severity {severity}, {}\n",
            clock(now()),
            rates(incident.current.as_ref())
        );
    }
    let lines =
        change.news.iter().map(|entry| format!("{}  {head}: {}\n", clock(entry.time_unix_ns), plain(&entry.text)));
    lines.collect()
}

fn listed(answer: &v1::ListIncidentsResponse, now: u64) -> String {
    let mut table =
        Table::new(&["id", "state", "severity", "target", "zone", "attack", ">now", ">peak", "opened", "stages"]);
    for incident in &answer.incidents {
        let zone = incident.target.as_ref().map(|target| target.zone.clone()).unwrap_or_default();
        let rate = |rates: Option<&v1::Rates>| rates.map_or_else(|| "-".to_owned(), |rates| figures::pps(rates.pps));
        table.row([
            incident.id.clone(),
            state(incident.state()).to_owned(),
            severity(incident.severity()).to_owned(),
            target(incident.target.as_ref()),
            zone,
            or_dash(&vectors(incident)).to_owned(),
            rate(incident.current.as_ref()),
            rate(incident.peak.as_ref()),
            format!("{} ago", between(incident.opened_unix_ns, now)),
            stages(incident),
        ]);
    }
    let mut text = table.text("There is no such incident.");
    if answer.total > answer.incidents.len() as u64 {
        let _ = writeln!(text, "{} of {}; --limit shows more", answer.incidents.len(), answer.total);
    }
    text
}

/// The most confident kind of attack, and how many more.
fn vectors(incident: &v1::Incident) -> String {
    match incident.vectors.as_slice() {
        [] => String::new(),
        [one] => one.vector.clone(),
        [first, more @ ..] => format!("{} +{}", first.vector, more.len()),
    }
}

/// The stages that were entered.
fn stages(incident: &v1::Incident) -> String {
    let Some(runbook) = &incident.runbook else { return "-".to_owned() };
    let entered = runbook.stages.iter().filter(|stage| stage.since_unix_ns.is_some());
    let entered: Vec<String> = entered.map(|stage| format!("{} {}", stage.stage, stage.state)).collect();
    let waits = if incident.needs_decision { " (waits for a decision)" } else { "" };
    format!("{}{waits}", or_dash(&entered.join(", ")))
}

pub(super) fn told(story: &v1::IncidentStory, now: u64) -> String {
    let incident = story.incident.clone().unwrap_or_default();
    let zone = incident.target.as_ref().map(|target| target.zone.clone()).unwrap_or_default();
    let mut text = format!(
        "Incident {}: {} in zone {zone}, {}, severity {}\n\n",
        incident.id,
        target(incident.target.as_ref()),
        state(incident.state()),
        severity(incident.severity())
    );
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<10}{value}");
    };
    let opened = incident.opened_unix_ns;
    line("opened", &format!("{} UTC", moment(opened)));
    match (incident.closed_unix_ns, incident.calm_unix_ns) {
        (Some(closed), _) => line("closed", &format!("{} UTC, after {}", moment(closed), between(opened, closed))),
        (None, Some(calm)) => line("calm", &format!("for {}, after {}", between(calm, now), between(opened, calm))),
        (None, None) => line("lasts", &between(opened, now)),
    }
    for vector in &incident.vectors {
        let after = between(opened, vector.first_seen_unix_ns);
        line("attack", &format!("{} ({:.0} %), seen after {after}", vector.vector, vector.confidence * 100.0));
        for evidence in &vector.evidence {
            line("", &format!("  {}", plain(evidence)));
        }
    }
    if incident.current.is_some() {
        line("now", &rates(incident.current.as_ref()));
    }
    line("peak", &rates(incident.peak.as_ref()));
    if incident.hosts > 0 {
        line("hosts", &format!("{} of the prefix were attacked", incident.hosts));
    }
    if !incident.merged_into.is_empty() {
        line("merged", &format!("into incident {}", incident.merged_into));
    }
    if let Some(runbook) = &incident.runbook {
        for (position, stage) in runbook.stages.iter().enumerate() {
            let name = if position == 0 { "runbook" } else { "" };
            let of = if position == 0 { &runbook.runbook } else { "" };
            let since =
                stage.since_unix_ns.map(|since| format!(" after {}", between(opened, since))).unwrap_or_default();
            let why = if stage.reason.is_empty() { String::new() } else { format!(": {}", plain(&stage.reason)) };
            let width = runbook.runbook.chars().count();
            line(name, &format!("{of:<width$}  {} {}{since}{why}", stage.stage, stage.state));
        }
    }
    for capture in &story.captures {
        line("capture", capture);
    }
    text.push_str("\nTimeline (UTC)\n");
    for entry in &story.timeline {
        let after = format!("+{}", between(opened, entry.time_unix_ns));
        let actor = if entry.actor.is_empty() { String::new() } else { format!(" [{}]", plain(&entry.actor)) };
        let _ = writeln!(
            text,
            "  {}  {after:<13} {:<12}  {}{actor}",
            clock(entry.time_unix_ns),
            entry.kind,
            plain(&entry.text)
        );
    }
    if story.entries_left_out > 0 {
        let _ = writeln!(text, "  and {} more, for which there was no room", story.entries_left_out);
    }
    text.push_str("\nMeasures\n");
    if story.mitigations.is_empty() {
        text.push_str("  none beside the dataplane's own filters, which the timeline names\n");
    } else {
        text.push_str(&indented(&measures(&story.mitigations)));
    }
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn rates(rates: Option<&v1::Rates>) -> String {
    let Some(rates) = rates else { return "unknown".to_owned() };
    let dropped = rates.dropped_pps.map(|dropped| format!(", {} dropped", figures::pps(dropped))).unwrap_or_default();
    let goodput = rates.goodput_ratio.map(|ratio| format!(", goodput {:.0} %", ratio * 100.0)).unwrap_or_default();
    let sources = rates.sources.map(|sources| format!(", at least {sources} sources")).unwrap_or_default();
    format!("{}, {}{dropped}{goodput}{sources}", figures::pps(rates.pps), figures::bps(rates.bps))
}

fn state(state: v1::IncidentState) -> &'static str {
    match state {
        v1::IncidentState::Attack => "attack",
        v1::IncidentState::Calm => "calm",
        v1::IncidentState::Closed => "closed",
        v1::IncidentState::Unspecified => "unknown",
    }
}

fn severity(severity: v1::Severity) -> &'static str {
    match severity {
        v1::Severity::Low => "low",
        v1::Severity::Medium => "medium",
        v1::Severity::High => "high",
        v1::Severity::Critical => "critical",
        v1::Severity::Unspecified => "unknown",
    }
}

/// Without what would move the cursor.
fn plain(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}

#[cfg(test)]
#[path = "incidents_test.rs"]
mod tests;
