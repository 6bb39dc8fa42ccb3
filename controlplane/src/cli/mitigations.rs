//! `leveectl mitigations`.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use levee_api::filter::{Action, Per, Rule};
use levee_api::grpc::v1;
use levee_api::grpc::v1::mitigations_client::MitigationsClient;
use levee_api::prefix::Prefix;
use tonic::transport::Channel;

use super::arguments::{Changing, Output};
use super::client::{CallError, Client};
use super::prefix_argument::{duration, prefix, whole};
use super::signature::signature;
use super::table::Table;
use super::times::{length, moment};
use super::upstream::{self, BlackholeArguments, DivertArguments, FlowSpecArguments};
use super::{json, or_dash, print, target};
use crate::clock::nanoseconds;

/// How long is waited for what becomes of a measure.
const MOMENT: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub(super) enum MitigationCommand {
    /// Measures that have not ended, the newest first.
    List {
        /// Also those that have ended.
        #[arg(long)]
        all: bool,
        /// Only those of this incident.
        #[arg(long, default_value = "")]
        incident: String,
        /// Only those whose target covers this address or prefix, or is inside it.
        #[arg(long, value_parser = prefix)]
        target: Option<Prefix>,
        /// So many at most, up to 1000.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Ask for a measure.
    #[command(subcommand)]
    Add(AddCommand),
    /// Move the deadline of a measure.
    Renew {
        /// Its number.
        id: String,
        /// From now until its end, such as 30m.
        #[arg(long, value_parser = duration)]
        ttl: Duration,
        #[command(flatten)]
        changing: Changing,
    },
    /// End a measure before its deadline.
    Withdraw {
        /// Its number.
        id: String,
        /// Why; it is written down.
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        changing: Changing,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum AddCommand {
    /// Install a filter in the dataplane.
    Filter(Box<FilterArguments>),
    /// Have routers upstream act on what matches, by a FlowSpec rule.
    Flowspec(Box<FlowSpecArguments>),
    /// Have the traffic to a prefix go another way.
    Divert(DivertArguments),
    /// Have networks upstream drop everything to an address, or everything from one.
    Blackhole(BlackholeArguments),
}

#[derive(Debug, Args)]
pub(super) struct FilterArguments {
    /// The zone of the target.
    #[arg(long)]
    zone: String,
    /// The address or prefix it is installed on; without it: the whole zone.
    #[arg(long, value_parser = prefix)]
    target: Option<Prefix>,
    /// The roles it applies to; without them: every role that filters may touch.
    #[arg(long = "role")]
    roles: Vec<String>,
    /// What it matches, such as "protocol=udp src_port=53 ip_length=1000-1500"; docs/reference/lanes.md has the words.
    #[arg(long = "match", value_parser = signature, value_name = "SIGNATURE", allow_hyphen_values = true)]
    signature: Rule,
    /// What happens to what matches.
    #[arg(long, value_enum, default_value_t = ActionArgument::Drop)]
    action: ActionArgument,
    /// For --action limit: packets per second that pass.
    #[arg(long, value_parser = whole::<u32>, required_if_eq("action", "limit"))]
    pps: Option<u32>,
    /// For --action limit: what shares the rate; usually all of the target.
    #[arg(long, value_enum)]
    per: Option<PerArgument>,
    /// From now until its end, such as 30m.
    #[arg(long, value_parser = duration, allow_hyphen_values = true)]
    ttl: Duration,
    /// The incident that it belongs to.
    #[arg(long, default_value = "")]
    incident: String,
    /// Why; it is written down.
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    changing: Changing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ActionArgument {
    Drop,
    Limit,
    Pass,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum PerArgument {
    Target,
    Source,
    SourcePrefix,
}

impl MitigationCommand {
    /// What is asked for and would have no effect: who gives a rate wants no drop.
    pub(super) fn contradiction(&self) -> Option<&'static str> {
        let Self::Add(AddCommand::Filter(filter)) = self else { return None };
        let limits = filter.action == ActionArgument::Limit;
        let told = "--pps and --per are of a limit, and this filter is none: write --action limit, or leave them out";
        (!limits && (filter.pps.is_some() || filter.per.is_some())).then_some(told)
    }
}

pub(super) async fn run(client: Client, output: Output, command: MitigationCommand) -> Result<ExitCode, CallError> {
    let mut mitigations = MitigationsClient::new(client.channel());
    match command {
        MitigationCommand::List { all, incident, target, limit } => {
            let every = [
                v1::MitigationState::Planned,
                v1::MitigationState::Applying,
                v1::MitigationState::Active,
                v1::MitigationState::Withdrawing,
                v1::MitigationState::Ended,
                v1::MitigationState::Failed,
            ];
            let states = if all { every.map(i32::from).to_vec() } else { Vec::new() };
            let request = v1::ListMitigationsRequest {
                incident,
                states,
                prefix: target.map(Into::into),
                page_size: limit,
                page_token: String::new(),
            };
            let answer = mitigations.list(request).await?.into_inner();
            let text = match output {
                Output::Json => json::text("ListMitigationsResponse", &answer)?,
                Output::Table => listed(&answer),
            };
            Ok(print(&text))
        }
        MitigationCommand::Add(add) => {
            let request = match add {
                AddCommand::Filter(arguments) => asked(*arguments),
                AddCommand::Flowspec(arguments) => upstream::flowspec(*arguments),
                AddCommand::Divert(arguments) => upstream::divert(arguments),
                AddCommand::Blackhole(arguments) => upstream::blackhole(arguments),
            };
            let dry_run = request.validate_only;
            let mut answer = mitigations.add(request).await?.into_inner();
            if let Some(added) = answer.mitigation.as_mut().filter(|_| !dry_run) {
                become_of(&mut mitigations, added).await?;
            }
            told(output, "AddMitigationResponse", &answer, answer.mitigation.as_ref(), dry_run)
        }
        MitigationCommand::Renew { id, ttl, changing } => {
            let (request_id, validate_only) = (changing.id(), changing.dry_run);
            let request = v1::RenewMitigationRequest { request_id, validate_only, id, ttl_ns: nanoseconds(ttl) };
            let answer = mitigations.renew(request).await?.into_inner();
            told(output, "RenewMitigationResponse", &answer, answer.mitigation.as_ref(), changing.dry_run)
        }
        MitigationCommand::Withdraw { id, reason, changing } => {
            let (request_id, validate_only) = (changing.id(), changing.dry_run);
            let request = v1::WithdrawMitigationRequest { request_id, validate_only, id, reason };
            let answer = mitigations.withdraw(request).await?.into_inner();
            told(output, "WithdrawMitigationResponse", &answer, answer.mitigation.as_ref(), changing.dry_run)
        }
    }
}

/// Waits for a moment until the measure is in force, or is not.
async fn become_of(mitigations: &mut MitigationsClient<Channel>, added: &mut v1::Mitigation) -> Result<(), CallError> {
    let request = v1::ListMitigationsRequest {
        states: (1..=6).collect(),
        prefix: added.target.as_ref().and_then(|target| target.prefix.clone()),
        page_size: 1_000,
        ..Default::default()
    };
    let begun = Instant::now();
    while matches!(added.state(), v1::MitigationState::Planned | v1::MitigationState::Applying)
        && added.error.is_empty()
        && begun.elapsed() < MOMENT
    {
        tokio::time::sleep(MOMENT / 20).await;
        let listed = mitigations.list(request.clone()).await?.into_inner().mitigations;
        if let Some(found) = listed.into_iter().find(|one| one.id == added.id) {
            *added = found;
        }
    }
    Ok(())
}

fn asked(arguments: FilterArguments) -> v1::AddMitigationRequest {
    let action = match arguments.action {
        ActionArgument::Drop => Action::Drop,
        ActionArgument::Pass => Action::Pass,
        ActionArgument::Limit => Action::Limit {
            pps: arguments.pps.unwrap_or_default(),
            per: match arguments.per {
                Some(PerArgument::Target) | None => Per::Target,
                Some(PerArgument::Source) => Per::Source,
                Some(PerArgument::SourcePrefix) => Per::SourcePrefix,
            },
        },
    };
    let filter = v1::FilterMeasure {
        target: Some(v1::Target { zone: arguments.zone, prefix: arguments.target.map(Into::into) }),
        roles: arguments.roles,
        rule: Some((&arguments.signature).into()),
        action: Some(action.into()),
    };
    v1::AddMitigationRequest {
        request_id: arguments.changing.id(),
        validate_only: arguments.changing.dry_run,
        incident: arguments.incident,
        ttl_ns: nanoseconds(arguments.ttl),
        reason: arguments.reason,
        measure: Some(v1::add_mitigation_request::Measure::Filter(filter)),
    }
}

fn told(
    output: Output,
    name: &str,
    answer: &impl prost::Message,
    mitigation: Option<&v1::Mitigation>,
    dry_run: bool,
) -> Result<ExitCode, CallError> {
    let text = match (output, mitigation) {
        (Output::Json, _) => json::text(name, answer)?,
        (Output::Table, Some(one)) if dry_run => {
            let (spec, driver) = (&one.spec, &one.driver);
            let lasts = length(one.deadline_unix_ns.saturating_sub(one.created_unix_ns));
            format!("It would be done: {spec}, by {driver}, for {lasts}.\n")
        }
        (Output::Table, Some(one)) => {
            let ends =
                if one.remaining_ns > 0 { format!(", ends in {}", length(one.remaining_ns)) } else { String::new() };
            let why = if one.error.is_empty() { String::new() } else { format!(": {}", one.error) };
            format!("measure {}: {}{ends}{why}\n", one.id, state(one.state()))
        }
        (Output::Table, None) => "Done.\n".to_owned(),
    };
    let status = print(&text);
    let failed = mitigation.is_some_and(|one| one.state() == v1::MitigationState::Failed);
    Ok(if failed { ExitCode::FAILURE } else { status })
}

fn listed(answer: &v1::ListMitigationsResponse) -> String {
    let mut text = measures(&answer.mitigations);
    if answer.total > answer.mitigations.len() as u64 {
        let _ = writeln!(text, "{} of {}; --limit shows more", answer.mitigations.len(), answer.total);
    }
    text
}

/// A table of measures, each with what went wrong below it.
pub(super) fn measures(measures: &[v1::Mitigation]) -> String {
    let headings = &["id", "kind", "state", "target", "by", "incident", "stage", "evidence", "end", "measure"];
    let mut table = Table::new(headings);
    for one in measures {
        let error = if one.error.is_empty() { String::new() } else { format!(" ({})", one.error) };
        let outcome = if one.outcome.is_empty() { String::new() } else { format!(" {}", one.outcome) };
        table.row([
            one.id.clone(),
            kind(one.kind()).to_owned(),
            format!("{}{outcome}", state(one.state())),
            target(one.target.as_ref()),
            one.driver.clone(),
            or_dash(&one.incident).to_owned(),
            or_dash(&one.stage).to_owned(),
            format!("{}{}", evidence(one.evidence()), in_vain(one)),
            end(one),
            format!("{}{error}", one.spec),
        ]);
    }
    table.text("There is no such measure.")
}

/// That it was told and takes nothing away.
fn in_vain(one: &v1::Mitigation) -> &'static str {
    let without = one.effect.as_ref().is_some_and(|effect| effect.effective == Some(false));
    if without { ", without effect" } else { "" }
}

fn end(one: &v1::Mitigation) -> String {
    match one.ended_unix_ns {
        Some(ended) => moment(ended),
        None => format!("in {}", length(one.remaining_ns)),
    }
}

fn kind(kind: v1::MitigationKind) -> &'static str {
    match kind {
        v1::MitigationKind::Filter => "filter",
        v1::MitigationKind::Flowspec => "flowspec",
        v1::MitigationKind::Divert => "divert",
        v1::MitigationKind::Blackhole => "blackhole",
        v1::MitigationKind::Unspecified => "unknown",
    }
}

fn state(state: v1::MitigationState) -> &'static str {
    match state {
        v1::MitigationState::Planned => "planned",
        v1::MitigationState::Applying => "applying",
        v1::MitigationState::Active => "active",
        v1::MitigationState::Withdrawing => "withdrawing",
        v1::MitigationState::Ended => "ended",
        v1::MitigationState::Failed => "failed",
        v1::MitigationState::Unspecified => "unknown",
    }
}

pub(super) fn evidence(evidence: v1::Evidence) -> &'static str {
    match evidence {
        v1::Evidence::Accepted => "accepted",
        v1::Evidence::Advertised => "advertised",
        v1::Evidence::Seen => "seen",
        v1::Evidence::Effective => "effective",
        v1::Evidence::Unspecified => "-",
    }
}
