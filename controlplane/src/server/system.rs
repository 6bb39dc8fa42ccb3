//! The service System.

use std::time::Duration;

use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::v1;
use levee_api::grpc::v1::system_server::System;
use levee_api::prefix::Prefix;
use tonic::{Request, Response, Status};

use super::explain::explanation;
use super::fields::{caller, change};
use super::link::{Handle, Knowledge, Operation, Outcome, Refused};
use super::plan;
use super::refusal::Fields;
use super::roles::Needs;
use super::{About, zones};
use crate::actor::Role;
use crate::configuration::{LONGEST_TRIAL, SHORTEST_TRIAL};
use crate::incident::Phase;
use crate::ledger::State;

/// Reads and steers the appliance as a whole.
#[derive(Debug, Clone)]
pub(super) struct SystemService {
    pub(super) handle: Handle,
    pub(super) about: About,
}

#[tonic::async_trait]
impl System for SystemService {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::Status>, Status> {
        let counters = zones::counters(&self.handle).await;
        let identity = self.handle.dataplane().map(|dataplane| dataplane.identity);
        let known = self.handle.query(overview).await?;
        let config = self.handle.config();
        let kill_switch = known.kill_switch;
        let mode = if kill_switch.on { v1::Mode::Monitor } else { v1::Mode::from(config.appliance.mode) };
        let mut troubles = known.troubles;
        // The core says so too, once it has noticed.
        if counters.is_none() && !troubles.iter().any(|trouble| trouble.starts_with("the dataplane does not answer")) {
            troubles.insert(0, "the dataplane does not answer: what it filters now is not known".to_owned());
        }
        troubles.extend(lost(counters.as_ref()));
        Ok(Response::new(v1::Status {
            appliance: config.appliance.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_unix_ns: self.about.started.0,
            mode: mode.into(),
            config: Some(v1::ConfigStatus {
                path: self.about.config.display().to_string(),
                hash: config.hash.to_string(),
                confirm_by_unix_ns: known.confirm_by_unix_ns,
            }),
            dataplane: Some(dataplane(identity, counters)),
            incidents: Some(known.incidents),
            mitigations: Some(known.mitigations),
            kill_switch: Some(kill_switch),
            troubles,
        }))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::Explanation>, Status> {
        let mut fields = Fields::default();
        let prefix = fields.take(
            "prefix",
            request
                .into_inner()
                .prefix
                .as_ref()
                .ok_or("say which address".to_owned())
                .and_then(|prefix| Prefix::try_from(prefix).map_err(|error| error.to_string())),
        );
        let prefix = fields.conclude(prefix)?;
        Ok(Response::new(explanation(&self.handle, prefix).await?))
    }

    async fn diff_config(&self, _: Request<v1::DiffConfigRequest>) -> Result<Response<v1::DiffConfigResponse>, Status> {
        let (path, in_force) = (self.about.config.clone(), self.handle.config());
        let plan = tokio::task::spawn_blocking(move || plan::of_file(&path, &in_force)).await;
        Ok(Response::new(plan.map_err(|error| Status::internal(error.to_string()))?))
    }

    async fn reload_config(
        &self,
        request: Request<v1::ReloadConfigRequest>,
    ) -> Result<Response<v1::ReloadConfigResponse>, Status> {
        let done = change(&self.handle, request, |request, fields| {
            let within = Some(Duration::from_nanos(request.confirm_within_ns)).filter(|within| !within.is_zero());
            if within.is_some_and(|within| !(SHORTEST_TRIAL..=LONGEST_TRIAL).contains(&within)) {
                fields.wrong("confirm_within_ns", "a trial lasts for 10 s to 24 h");
            }
            Some(Operation::Reload { confirm_within: within })
        });
        match done.await? {
            Outcome::Reloaded { changes, hash, confirm_by } => {
                let confirm_by_unix_ns = confirm_by.map(|at| at.wall.0);
                Ok(Response::new(v1::ReloadConfigResponse { changes, hash, confirm_by_unix_ns }))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn confirm_config(
        &self,
        request: Request<v1::ConfirmConfigRequest>,
    ) -> Result<Response<v1::ConfirmConfigResponse>, Status> {
        match change(&self.handle, request, |_, _| Some(Operation::Confirm)).await? {
            Outcome::Confirmed { hash } => Ok(Response::new(v1::ConfirmConfigResponse { hash })),
            other => Err(unexpected(&other)),
        }
    }

    async fn set_kill_switch(
        &self,
        request: Request<v1::SetKillSwitchRequest>,
    ) -> Result<Response<v1::SetKillSwitchResponse>, Status> {
        let caller = caller(&request)?;
        // Stopping everything must be easy; starting again is a decision.
        if !request.get_ref().on && !caller.has(Needs::Role(Role::Admin)) {
            let who = format!("{} has the role {}", caller.name, caller.role);
            return Err(
                Refused::NotAllowed(format!("letting go of the kill switch needs the role admin; {who}")).into()
            );
        }
        let done = change(&self.handle, request, |request, fields| {
            Some(Operation::KillSwitch { on: request.on, reason: fields.reason(&request.reason)? })
        });
        match done.await? {
            Outcome::KillSwitch { state, withdrawing } => {
                let kill_switch = Some(switch(Some(&state)));
                Ok(Response::new(v1::SetKillSwitchResponse { kill_switch, withdrawing }))
            }
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(outcome: &Outcome) -> Status {
    Status::internal(format!("the core answered {outcome:?}"))
}

/// What the core says of itself.
struct Overview {
    incidents: v1::IncidentCounts,
    mitigations: v1::MitigationCounts,
    kill_switch: v1::KillSwitch,
    troubles: Vec<String>,
    confirm_by_unix_ns: Option<u64>,
}

fn overview(known: &dyn Knowledge) -> Overview {
    let mut incidents = v1::IncidentCounts::default();
    for incident in known.incidents() {
        match incident.phase {
            Phase::Attack => incidents.attack += 1,
            Phase::Calm(_) => incidents.calm += 1,
            Phase::Closed { .. } => incidents.closed += 1,
        }
    }
    let mut mitigations = v1::MitigationCounts::default();
    for one in known.mitigations() {
        match one.state {
            State::Planned | State::Applying => mitigations.pending += 1,
            State::Active => mitigations.active += 1,
            State::Withdrawing => mitigations.withdrawing += 1,
            State::Failed => mitigations.failed += 1,
            State::Ended => {}
        }
    }
    Overview {
        incidents,
        mitigations,
        kill_switch: switch(known.kill_switch()),
        troubles: known.troubles(),
        confirm_by_unix_ns: known.confirm_by().map(|at| at.wall.0),
    }
}

fn switch(state: Option<&crate::store::KillSwitch>) -> v1::KillSwitch {
    let Some(state) = state else { return v1::KillSwitch::default() };
    v1::KillSwitch {
        on: state.engaged,
        since_unix_ns: state.engaged.then_some(state.at.wall.0),
        by: state.by.to_string(),
        reason: state.reason.clone(),
    }
}

fn dataplane(
    identity: Option<contract::HandshakeResponse>,
    counters: Option<contract::CountersResponse>,
) -> v1::DataplaneStatus {
    let (Some(identity), Some(counters)) = (identity, counters) else { return v1::DataplaneStatus::default() };
    let direction = |counted: contract::DirectionCounters| v1::WireTraffic {
        received: counted.received,
        forwarded: counted.forwarded,
        replied: counted.replied,
        dropped: counted.dropped,
        lost_before: counted.lost_before,
    };
    let wire = |counted: contract::WireCounters| v1::WireStatus {
        name: counted.wire,
        inbound: counted.inbound.map(direction),
        outbound: counted.outbound.map(direction),
    };
    v1::DataplaneStatus {
        connected: true,
        boot_id: identity.boot_id,
        generation: identity.generation,
        wires: counters.wires.into_iter().map(wire).collect(),
        filters_left_out: counters.shortage.map(|shortage| shortage.filters_left_out).unwrap_or_default(),
    }
}

/// What the dataplane could not hold.
fn lost(counters: Option<&contract::CountersResponse>) -> Option<String> {
    let left_out = counters?.shortage?.filters_left_out;
    (left_out > 0).then(|| {
        format!("{left_out} filters are not in force everywhere that their targets say: the dataplane has no room")
    })
}
