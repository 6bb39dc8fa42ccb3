//! The service Mitigations.

use levee_api::filter::Target;
use levee_api::grpc::FilterRequest;
use levee_api::grpc::v1;
use levee_api::grpc::v1::action::Kind;
use levee_api::grpc::v1::add_mitigation_request::Measure;
use levee_api::grpc::v1::mitigations_server::Mitigations;
use levee_api::prefix::Prefix;
use levee_api::role::{Role, RoleSet};
use tonic::{Request, Response, Status};

use super::fields::{Page, Paged, change};
use super::link::{Handle, Knowledge, Operation, Outcome};
use super::refusal::Fields;
use super::{routes, upstream, view};
use crate::bgp::render::Syntax;
use crate::ledger::{FilterSpec, IncidentId, Mitigation, Spec, StoredFilter};

/// Reads the ledger, and asks the core to change it.
#[derive(Debug, Clone)]
pub(super) struct MitigationService(pub(super) Handle);

/// Which mitigations a client wants to see.
#[derive(Debug, Clone)]
struct Selection {
    incident: Option<IncidentId>,
    states: Vec<v1::MitigationState>,
    prefix: Option<Prefix>,
}

impl Selection {
    fn has(&self, one: &Mitigation) -> bool {
        let state =
            if self.states.is_empty() { !one.has_ended() } else { self.states.contains(&view::state(one.state)) };
        state
            && (self.incident.is_none() || one.incident == self.incident)
            && view::concerns(self.prefix, one.spec.prefix())
    }
}

#[tonic::async_trait]
impl Mitigations for MitigationService {
    async fn list(
        &self,
        request: Request<v1::ListMitigationsRequest>,
    ) -> Result<Response<v1::ListMitigationsResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let page = fields.page(request.page_size, &request.page_token);
        let incident = fields.optional_id("incident", &request.incident).flatten();
        let prefix = fields.prefix("prefix", request.prefix.as_ref()).flatten();
        let states: Vec<_> = request.states().collect();
        if states.contains(&v1::MitigationState::Unspecified) {
            fields.wrong("states", "MITIGATION_STATE_UNSPECIFIED is never valid");
        }
        let page = fields.conclude(page)?;
        let selection = Selection { incident, states, prefix };
        let Paged { entries, next, total } = self.0.query(move |known| listed(known, &selection, page)).await?;
        Ok(Response::new(v1::ListMitigationsResponse { mitigations: entries, next_page_token: next, total }))
    }

    async fn list_routes(
        &self,
        request: Request<v1::ListRoutesRequest>,
    ) -> Result<Response<v1::ListRoutesResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let page = fields.page(request.page_size, &request.page_token);
        let syntax = Syntax::of(&request.syntax);
        if syntax.is_none() {
            fields.wrong("syntax", format!("{:?} is none of {}", request.syntax, Syntax::NAMES.join(", ")));
        }
        let (page, syntax) = fields.conclude(page.zip(syntax))?;
        let rules_only = request.rules_only;
        let Paged { entries, next, total } =
            self.0.query(move |known| routes::listed(known, syntax, rules_only, page)).await?;
        Ok(Response::new(v1::ListRoutesResponse { routes: entries, next_page_token: next, total }))
    }

    async fn add(
        &self,
        request: Request<v1::AddMitigationRequest>,
    ) -> Result<Response<v1::AddMitigationResponse>, Status> {
        let done = change(&self.0, request, added).await?;
        Ok(Response::new(v1::AddMitigationResponse { mitigation: Some(self.told(done).await?) }))
    }

    async fn renew(
        &self,
        request: Request<v1::RenewMitigationRequest>,
    ) -> Result<Response<v1::RenewMitigationResponse>, Status> {
        let done = change(&self.0, request, |request, fields| {
            let (id, ttl) = (fields.id("id", &request.id), fields.ttl("ttl_ns", request.ttl_ns));
            Some(Operation::Renew { id: id?, ttl: ttl? })
        });
        let mitigation = Some(self.told(done.await?).await?);
        Ok(Response::new(v1::RenewMitigationResponse { mitigation }))
    }

    async fn withdraw(
        &self,
        request: Request<v1::WithdrawMitigationRequest>,
    ) -> Result<Response<v1::WithdrawMitigationResponse>, Status> {
        let done = change(&self.0, request, |request, fields| {
            let (id, reason) = (fields.id("id", &request.id), fields.reason(&request.reason));
            Some(Operation::Withdraw { id: id?, reason: reason? })
        });
        let mitigation = Some(self.told(done.await?).await?);
        Ok(Response::new(v1::WithdrawMitigationResponse { mitigation }))
    }
}

impl MitigationService {
    async fn told(&self, done: Outcome) -> Result<v1::Mitigation, Status> {
        match done {
            Outcome::Mitigation { mitigation } => {
                let now = self.0.query(|known| known.now()).await?;
                Ok(view::mitigation(&now, &mitigation))
            }
            other => Err(Status::internal(format!("the core answered {other:?}"))),
        }
    }
}

fn listed(known: &dyn Knowledge, selection: &Selection, page: Page) -> Paged<v1::Mitigation> {
    let now = known.now();
    let selected = known.mitigations().rev().filter(|one| selection.has(one));
    let Paged { entries, next, total } = page.of(selected.map(|one| (one.id.0, one)));
    Paged { entries: entries.into_iter().map(|one| view::mitigation(&now, one)).collect(), next, total }
}

fn added(request: &v1::AddMitigationRequest, fields: &mut Fields) -> Option<Operation> {
    let incident = fields.optional_id("incident", &request.incident);
    let ttl = fields.ttl("ttl_ns", request.ttl_ns);
    let reason = fields.reason(&request.reason);
    let measure = match &request.measure {
        Some(Measure::Filter(filter)) => {
            let filter = filtered(filter, request.ttl_ns, &request.reason, fields);
            filter.map(|(target, filter)| {
                let filters = vec![StoredFilter::of(&filter)];
                (Some(target.zone.clone()), None, Spec::Filter(FilterSpec { target, filters }))
            })
        }
        Some(Measure::Flowspec(rule)) => {
            upstream::flowspec(rule, fields).map(|spec| (None, upstream::driver(&rule.announcer), spec))
        }
        Some(Measure::Blackhole(blackhole)) => {
            let zone = (!blackhole.zone.is_empty()).then(|| blackhole.zone.clone());
            upstream::blackhole(blackhole, fields).map(|spec| (zone, upstream::driver(&blackhole.announcer), spec))
        }
        Some(Measure::Divert(divert)) => {
            upstream::divert(divert, fields).map(|spec| (None, upstream::driver(&divert.via), spec))
        }
        None => {
            fields.wrong("measure", "say what is to be done: a filter, a FlowSpec rule, a diversion or a blackhole");
            None
        }
    };
    let (zone, driver, spec) = measure?;
    let spec = Box::new(spec);
    Some(Operation::Add { incident: incident?, zone, driver, spec, ttl: ttl?, reason: reason? })
}

/// Reads it as the dataplane will: whatever that would refuse is refused here, by the name of the field.
fn filtered(
    filter: &v1::FilterMeasure,
    ttl_ns: u64,
    reason: &str,
    fields: &mut Fields,
) -> Option<(Target, FilterRequest)> {
    let mut roles = filter.roles.clone();
    if roles.is_empty() {
        let challenges = matches!(filter.action.as_ref().map(|action| &action.kind), Some(Some(Kind::Challenge(_))));
        let all = if challenges { Role::Syn.set().union(Role::UdpOpen.set()) } else { RoleSet::FILTERABLE };
        roles = all.iter().map(|role| role.name().to_owned()).collect();
    }
    let request = v1::FilterRequest {
        // The driver fills in the owner's tag and what remains then.
        owner: "operator".to_owned(),
        target: filter.target.clone(),
        roles,
        rule: filter.rule.clone(),
        action: filter.action,
        remaining_ns: ttl_ns.max(1),
        witness: if reason.trim().is_empty() {
            "an operator asked for it".to_owned()
        } else {
            reason.trim().to_owned()
        },
    };
    match FilterRequest::try_from(&request) {
        Ok(request) => Some((request.target.clone(), request)),
        Err(error) => {
            let error = error.within("filter");
            fields.wrong(&error.field, error.problem);
            None
        }
    }
}
