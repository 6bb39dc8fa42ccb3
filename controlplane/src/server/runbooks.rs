//! The service Runbooks.

use levee_api::config::{Action, ApprovalRole, Config, Otherwise, Runbook, Stage};
use levee_api::grpc::v1;
use levee_api::grpc::v1::runbooks_server::Runbooks;
use tonic::{Request, Response, Status};

use super::fields::change;
use super::link::{ApprovalView, Handle, Knowledge, Operation, Refused};
use super::refusal::Fields;
use crate::clock::nanoseconds;

/// Reads the runbooks of the configuration in force, and hands decisions to the core.
#[derive(Debug, Clone)]
pub(super) struct RunbookService(pub(super) Handle);

#[tonic::async_trait]
impl Runbooks for RunbookService {
    async fn list(&self, _: Request<v1::ListRunbooksRequest>) -> Result<Response<v1::ListRunbooksResponse>, Status> {
        let config = self.0.config();
        let runbooks = config.runbooks.iter().map(|one| told(one, &config)).collect();
        Ok(Response::new(v1::ListRunbooksResponse { runbooks }))
    }

    async fn get(&self, request: Request<v1::GetRunbookRequest>) -> Result<Response<v1::Runbook>, Status> {
        let (config, name) = (self.0.config(), request.into_inner().name);
        let found = config.runbooks.iter().find(|one| one.name == name);
        Ok(Response::new(told(found.ok_or(Refused::NotFound { what: "runbook", name })?, &config)))
    }

    async fn list_approvals(
        &self,
        _: Request<v1::ListApprovalsRequest>,
    ) -> Result<Response<v1::ListApprovalsResponse>, Status> {
        let config = self.0.config();
        let mut waiting = self.0.query(waiting).await?;
        waiting.sort_by_key(|(approval, _)| approval.until.wall);
        let approvals = waiting.into_iter().map(|(approval, runbook)| asked(approval, runbook.as_deref(), &config));
        Ok(Response::new(v1::ListApprovalsResponse { approvals: approvals.collect() }))
    }

    async fn approve(&self, request: Request<v1::ApproveRequest>) -> Result<Response<v1::ApproveResponse>, Status> {
        change(&self.0, request, |request, fields| {
            decision(fields, &request.incident, &request.stage, &request.reason, true)
        })
        .await?;
        Ok(Response::new(v1::ApproveResponse {}))
    }

    async fn deny(&self, request: Request<v1::DenyRequest>) -> Result<Response<v1::DenyResponse>, Status> {
        change(&self.0, request, |request, fields| {
            decision(fields, &request.incident, &request.stage, &request.reason, false)
        })
        .await?;
        Ok(Response::new(v1::DenyResponse {}))
    }
}

fn decision(fields: &mut Fields, incident: &str, stage: &str, reason: &str, approve: bool) -> Option<Operation> {
    let incident = fields.id("incident", incident);
    if stage.is_empty() {
        fields.wrong("stage", "say which stage");
    }
    let reason = fields.reason(reason);
    Some(Operation::Decide { incident: incident?, stage: stage.to_owned(), approve, reason: reason? })
}

/// What waits, with the name of its runbook.
fn waiting(known: &dyn Knowledge) -> Vec<(ApprovalView, Option<String>)> {
    let runbook = |approval: &ApprovalView| known.incident(approval.incident)?.runbook.clone();
    known.approvals().into_iter().map(|approval| (runbook(&approval), approval)).map(|(of, one)| (one, of)).collect()
}

fn asked(approval: ApprovalView, runbook: Option<&str>, config: &Config) -> v1::Approval {
    let runbook = config.runbooks.iter().find(|one| Some(one.name.as_str()) == runbook);
    let stage = runbook.and_then(|runbook| runbook.stages.iter().find(|stage| stage.name == approval.stage));
    let rule = stage.and_then(|stage| stage.approve.as_ref()).map(rule).unwrap_or_default();
    v1::Approval {
        incident: approval.incident.to_string(),
        action: stage.map(|stage| action(&stage.action)).unwrap_or_default(),
        stage: approval.stage,
        roles: rule.roles,
        asked_unix_ns: approval.asked.wall.0,
        deadline_unix_ns: approval.until.wall.0,
        otherwise: rule.otherwise,
    }
}

fn told(runbook: &Runbook, config: &Config) -> v1::Runbook {
    let uses = |name: Option<&String>| name.is_some_and(|name| *name == runbook.name);
    v1::Runbook {
        name: runbook.name.clone(),
        stages: runbook.stages.iter().map(stage).collect(),
        zones: config.zones.iter().filter(|zone| uses(zone.runbook.as_ref())).map(|zone| zone.name.clone()).collect(),
    }
}

fn stage(stage: &Stage) -> v1::Stage {
    v1::Stage {
        name: stage.name.clone(),
        when: stage.when.as_ref().map(|when| when.text().to_owned()).unwrap_or_default(),
        for_ns: nanoseconds(stage.hold),
        action: action(&stage.action),
        ttl_ns: nanoseconds(stage.ttl),
        calm_ns: nanoseconds(stage.calm),
        min_hold_ns: nanoseconds(stage.min_hold),
        notify: stage.notify.clone(),
        approve: stage.approve.as_ref().map(rule),
    }
}

fn rule(approval: &levee_api::config::Approval) -> v1::ApprovalRule {
    let roles = approval.roles.iter().map(|role| match role {
        ApprovalRole::Operator => "operator".to_owned(),
        ApprovalRole::Approver => "approver".to_owned(),
        ApprovalRole::Admin => "admin".to_owned(),
    });
    let otherwise = match approval.otherwise {
        Otherwise::Proceed => "proceed",
        Otherwise::Skip => "skip",
    };
    v1::ApprovalRule {
        roles: roles.collect(),
        within_ns: nanoseconds(approval.within),
        otherwise: otherwise.to_owned(),
    }
}

/// `flowspec core-a, core-b`.
fn action(action: &Action) -> String {
    let announcers = action.announcers();
    if announcers.is_empty() {
        action.name().to_owned()
    } else {
        format!("{} {}", action.name(), announcers.join(", "))
    }
}
