//! `leveectl runbook`.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use levee_api::grpc::v1;
use levee_api::grpc::v1::runbooks_client::RunbooksClient;

use super::arguments::{Changing, Output};
use super::client::{CallError, Client};
use super::table::Table;
use super::times::{between, length, now};
use super::{json, or_dash, print};

#[derive(Debug, Subcommand)]
pub(super) enum RunbookCommand {
    /// Say whether the runbooks of a file are valid, and how each stage is reached. Needs no server.
    Check(crate::ladder::Arguments),
    /// Say what they would have done about the attacks of a replay, and when. Needs no server.
    Simulate(crate::simulate::Arguments),
    /// The runbooks of the configuration in force.
    List,
    /// The stages of one runbook.
    Show {
        /// Its name.
        name: String,
    },
    /// What waits for somebody to decide, the most urgent first.
    Approvals,
    /// Let a stage that waits be entered.
    Approve(Decision),
    /// Keep a stage that waits from being entered.
    Deny(Decision),
}

#[derive(Debug, Args)]
pub(super) struct Decision {
    /// Number of the incident.
    incident: String,
    /// Name of the stage.
    stage: String,
    /// Why; it is written down.
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    changing: Changing,
}

pub(super) async fn run(client: Client, output: Output, command: RunbookCommand) -> Result<ExitCode, CallError> {
    let mut runbooks = RunbooksClient::new(client.channel());
    let text = match command {
        // These need no server, and have been done before one was looked for.
        RunbookCommand::Check(_) | RunbookCommand::Simulate(_) => String::new(),
        RunbookCommand::List => {
            let answer = runbooks.list(v1::ListRunbooksRequest {}).await?.into_inner();
            match output {
                Output::Json => json::text("ListRunbooksResponse", &answer)?,
                Output::Table => listed(&answer),
            }
        }
        RunbookCommand::Show { name } => {
            let runbook = runbooks.get(v1::GetRunbookRequest { name }).await?.into_inner();
            match output {
                Output::Json => json::text("Runbook", &runbook)?,
                Output::Table => shown(&runbook),
            }
        }
        RunbookCommand::Approvals => {
            let answer = runbooks.list_approvals(v1::ListApprovalsRequest {}).await?.into_inner();
            match output {
                Output::Json => json::text("ListApprovalsResponse", &answer)?,
                Output::Table => waiting(&answer, now()),
            }
        }
        RunbookCommand::Approve(Decision { incident, stage, reason, changing }) => {
            let (request_id, validate_only) = (changing.id(), changing.dry_run);
            let request = v1::ApproveRequest { request_id, validate_only, incident, stage, reason };
            let answer = runbooks.approve(request).await?.into_inner();
            decided(output, "ApproveResponse", &answer, validate_only)?
        }
        RunbookCommand::Deny(Decision { incident, stage, reason, changing }) => {
            let (request_id, validate_only) = (changing.id(), changing.dry_run);
            let request = v1::DenyRequest { request_id, validate_only, incident, stage, reason };
            let answer = runbooks.deny(request).await?.into_inner();
            decided(output, "DenyResponse", &answer, validate_only)?
        }
    };
    Ok(print(&text))
}

fn decided(output: Output, name: &str, answer: &impl prost::Message, dry_run: bool) -> Result<String, CallError> {
    match output {
        Output::Json => json::text(name, answer),
        Output::Table if dry_run => Ok("It would be done.\n".to_owned()),
        Output::Table => Ok("Decided.\n".to_owned()),
    }
}

fn listed(answer: &v1::ListRunbooksResponse) -> String {
    let mut table = Table::new(&["runbook", "stages", "zones"]);
    for runbook in &answer.runbooks {
        let stages: Vec<&str> = runbook.stages.iter().map(|stage| stage.name.as_str()).collect();
        table.row([runbook.name.clone(), stages.join(", "), or_dash(&runbook.zones.join(", ")).to_owned()]);
    }
    table.text("The configuration has no runbooks: the dataplane filters by itself.")
}

fn shown(runbook: &v1::Runbook) -> String {
    let mut text = format!("{}: for {}\n", runbook.name, or_dash(&runbook.zones.join(", ")));
    for stage in &runbook.stages {
        let _ = writeln!(text, "\n  {}", stage.name);
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "    {name:<9}{value}");
        };
        let when = if stage.when.is_empty() { "as long as the attack lasts" } else { &stage.when };
        line("when", when);
        line("for", &format!("{}; left after {} without it", length(stage.for_ns), length(stage.calm_ns)));
        line("does", &format!("{}, for {} at a time", stage.action, length(stage.ttl_ns)));
        line("stays", &format!("at least {}", length(stage.min_hold_ns)));
        if let Some(rule) = &stage.approve {
            let within = length(rule.within_ns);
            line("asks", &format!("{}; after {within}: {}", rule.roles.join(" or "), rule.otherwise));
        }
        if !stage.notify.is_empty() {
            line("tells", &stage.notify.join(", "));
        }
    }
    text
}

fn waiting(answer: &v1::ListApprovalsResponse, now: u64) -> String {
    let mut table = Table::new(&["incident", "stage", "action", "may decide", "waits", "then"]);
    for approval in &answer.approvals {
        let left = between(now, approval.deadline_unix_ns);
        table.row([
            approval.incident.clone(),
            approval.stage.clone(),
            approval.action.clone(),
            approval.roles.join(", "),
            between(approval.asked_unix_ns, now),
            format!("{} in {left}", approval.otherwise),
        ]);
    }
    table.text("Nothing waits for a decision.")
}
