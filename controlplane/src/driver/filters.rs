//! The driver for the dataplane's filters, over the contract between the planes.
//!
//! A filter carries the owner tag of its mitigation as its owner. Each operation reads what is in force first: what is
//! there already is renewed, what is missing is installed, what is there and not wanted is removed. So the same operation
//! again, after an answer that was lost or a restart of either side, changes nothing that is right.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::{FilterRequest, v1};
use tokio::sync::Mutex;
use tonic::Code;

use super::{Answer, Capabilities, Driver, DriverError, DriverName, Observed, OperationKey, OwnerTag};
use crate::dataplane::{Dataplane, DataplaneError, Snapshot};
use crate::guardrail::Refusal;
use crate::ledger::{Evidence, FilterSpec, Kind, Spec, StoredFilter};

/// How long one operation may take, the reading included.
const WITHIN: Duration = Duration::from_secs(10);

/// The guardrails, asked once more before anything is sent: for what, and how long.
pub type Guard = Arc<dyn Fn(&Spec, Duration) -> Result<(), Refusal> + Send + Sync>;

/// The dataplane's filters.
pub struct Filters {
    name: DriverName,
    appliance: String,
    /// Tags with an earlier name of the appliance: ours as well.
    former: BTreeSet<OwnerTag>,
    socket: PathBuf,
    guard: Guard,
    /// Made when needed, and anew after an error.
    connection: Mutex<Option<Dataplane>>,
}

impl std::fmt::Debug for Filters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filters")
            .field("appliance", &self.appliance)
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl Filters {
    /// A driver for the dataplane behind a socket, which does not have to be there yet.
    pub fn new(appliance: &str, socket: PathBuf, guard: Guard) -> Self {
        Self {
            name: DriverName::dataplane(),
            appliance: appliance.to_owned(),
            former: BTreeSet::new(),
            socket,
            guard,
            connection: Mutex::new(None),
        }
    }

    /// The same, which also tells of what carries these tags: those of an earlier name of the appliance. Others with that
    /// name may be another appliance's by now.
    #[must_use]
    pub fn with_former(mut self, tags: &BTreeSet<OwnerTag>) -> Self {
        self.former = tags.iter().filter(|tag| tag.appliance != self.appliance).cloned().collect();
        self
    }

    /// Runs an operation on a connection, which is given up when it fails.
    async fn with<T>(
        &self,
        operation: impl AsyncFnOnce(&mut Dataplane) -> Result<T, DriverError>,
    ) -> Result<T, DriverError> {
        let work = async {
            let mut connection = self.connection.lock().await;
            let mut dataplane = match connection.as_ref() {
                Some(dataplane) => dataplane.clone(),
                None => connection.insert(Dataplane::connect(&self.socket).await.map_err(driver_error)?).clone(),
            };
            drop(connection);
            operation(&mut dataplane).await
        };
        let late = DriverError::Retryable { reason: DataplaneError::Late(WITHIN).to_string(), retry_after: None };
        let outcome = tokio::time::timeout(WITHIN, work).await.unwrap_or(Err(late));
        if matches!(outcome, Err(DriverError::Retryable { .. })) {
            *self.connection.lock().await = None;
        }
        outcome
    }

    async fn bring_about(
        &self,
        key: &OperationKey,
        spec: &Spec,
        tag: &OwnerTag,
        remaining: Duration,
    ) -> Result<Evidence, DriverError> {
        let wanted = requests(spec, tag, remaining)?;
        (self.guard)(spec, remaining)?;
        self.with(async |dataplane| {
            let snapshot = dataplane.snapshot().await.map_err(driver_error)?;
            let Plan { right, missing, wrong } = Plan::of(&wanted, owned(&snapshot, tag)?);
            // First what protects, then what does so no longer.
            if !missing.is_empty() {
                let request = contract::InstallFiltersRequest {
                    request_id: request_id(key, &snapshot),
                    filters: missing.iter().map(|request| (*request).into()).collect(),
                };
                dataplane.client.install_filters(request).await.map_err(|status| refused("InstallFilters", status))?;
            }
            if !right.is_empty() {
                let remaining_ns = u64::try_from(remaining.as_nanos()).unwrap_or(u64::MAX);
                let request = contract::RenewFiltersRequest { owner: tag.to_string(), ids: right, remaining_ns };
                // One that has ended since it was read is missing at the next attempt.
                dataplane.client.renew_filters(request).await.map_err(|status| match status.code() {
                    Code::FailedPrecondition => failed("RenewFilters", status),
                    _ => refused("RenewFilters", status),
                })?;
            }
            remove(dataplane, tag, wrong).await?;
            // The dataplane is the receiver: what it says that it has installed is in force.
            Ok(Evidence::Seen)
        })
        .await
    }

    async fn end(&self, tag: &OwnerTag) -> Result<(), DriverError> {
        self.with(async |dataplane| {
            let snapshot = dataplane.snapshot().await.map_err(driver_error)?;
            let ids = owned(&snapshot, tag)?.into_iter().map(|(id, _)| id).collect();
            remove(dataplane, tag, ids).await
        })
        .await
    }

    async fn found(&self) -> Result<Vec<Observed>, DriverError> {
        let snapshot = self.with(async |dataplane| dataplane.snapshot().await.map_err(driver_error)).await?;
        observed(&snapshot, |tag| tag.appliance == self.appliance || self.former.contains(tag))
    }
}

impl Driver for Filters {
    fn name(&self) -> &DriverName {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            kinds: vec![Kind::Filter],
            ipv4: true,
            ipv6: true,
            observe: true,
            expires: true,
            ..Capabilities::default()
        }
    }

    fn apply<'d>(
        &'d self,
        key: &'d OperationKey,
        spec: &'d Spec,
        tag: &'d OwnerTag,
        remaining: Duration,
    ) -> Answer<'d, Evidence> {
        Box::pin(self.bring_about(key, spec, tag, remaining))
    }

    fn withdraw<'d>(&'d self, _: &'d OperationKey, _: &'d Spec, tag: &'d OwnerTag) -> Answer<'d, ()> {
        Box::pin(self.end(tag))
    }

    fn observe(&self) -> Answer<'_, Vec<Observed>> {
        Box::pin(self.found())
    }
}

/// What is to be done about the filters of one mitigation.
struct Plan<'w> {
    /// In force, to be renewed.
    right: Vec<u64>,
    /// To be installed.
    missing: Vec<&'w FilterRequest>,
    /// In force and not wanted, or there twice.
    wrong: Vec<u64>,
}

impl<'w> Plan<'w> {
    fn of(wanted: &'w [FilterRequest], in_force: Vec<(u64, FilterRequest)>) -> Self {
        let mut plan = Self { right: Vec::new(), missing: wanted.iter().collect(), wrong: Vec::new() };
        for (id, found) in in_force {
            match plan.missing.iter().position(|wanted| is_same(wanted, &found)) {
                Some(index) => {
                    plan.missing.swap_remove(index);
                    plan.right.push(id);
                }
                None => plan.wrong.push(id),
            }
        }
        plan
    }
}

/// Whether two filters do the same; how long, and on what evidence, is another question.
fn is_same(a: &FilterRequest, b: &FilterRequest) -> bool {
    a.target == b.target && a.roles == b.roles && a.rule == b.rule && a.action == b.action
}

/// The filters of a mitigation as the dataplane is asked for them.
fn requests(spec: &Spec, tag: &OwnerTag, remaining: Duration) -> Result<Vec<FilterRequest>, DriverError> {
    let Spec::Filter(FilterSpec { target, filters }) = spec else {
        return Err(DriverError::Incapable { what: format!("the dataplane has filters, and no {}", spec.kind()) });
    };
    let permanent = |reason: String| DriverError::Permanent { reason };
    let request = |filter: &StoredFilter| {
        let request = filter.request().map_err(|error| permanent(error.to_string()))?;
        if request.target != *target {
            return Err(permanent(format!("a filter on {} in a mitigation on {target}", request.target)));
        }
        Ok(FilterRequest { owner: tag.to_string(), ttl: remaining, ..request })
    };
    filters.iter().map(request).collect()
}

/// The filters with a tag.
fn owned(snapshot: &Snapshot, tag: &OwnerTag) -> Result<Vec<(u64, FilterRequest)>, DriverError> {
    let tag = tag.to_string();
    let messages = snapshot.filters.iter().filter_map(|filter| Some((filter.id, filter.request.as_ref()?)));
    messages.filter(|(_, request)| request.owner == tag).map(|(id, request)| Ok((id, read(request)?))).collect()
}

/// Everything with a tag of ours, mitigation by mitigation.
fn observed(snapshot: &Snapshot, is_ours: impl Fn(&OwnerTag) -> bool) -> Result<Vec<Observed>, DriverError> {
    let mut found: Vec<Observed> = Vec::new();
    for message in snapshot.filters.iter().filter_map(|filter| filter.request.as_ref()) {
        let Ok(tag) = message.owner.parse::<OwnerTag>() else { continue };
        if !is_ours(&tag) {
            continue;
        }
        let request = read(message)?;
        let (target, left) = (request.target.clone(), request.ttl);
        // Without what differs from one reading to the next.
        let filter = StoredFilter::of(&FilterRequest { ttl: Duration::from_secs(1), ..request });
        match found.iter_mut().find(|observed| observed.id == tag.id) {
            Some(Observed { spec: Spec::Filter(FilterSpec { filters, .. }), remaining, .. }) => {
                filters.push(filter);
                *remaining = remaining.map(|so_far| so_far.min(left));
            }
            _ => found.push(Observed {
                id: tag.id,
                spec: Spec::Filter(FilterSpec { target, filters: vec![filter] }),
                evidence: Evidence::Seen,
                remaining: Some(left),
                taken_bps: None,
            }),
        }
    }
    Ok(found)
}

fn read(message: &v1::FilterRequest) -> Result<FilterRequest, DriverError> {
    // One that is about to end has no time left, which a request must have.
    let message = v1::FilterRequest { remaining_ns: message.remaining_ns.max(1), ..message.clone() };
    FilterRequest::try_from(&message).map_err(|error| driver_error(DataplaneError::Nonsense(error.to_string())))
}

async fn remove(dataplane: &mut Dataplane, tag: &OwnerTag, ids: Vec<u64>) -> Result<(), DriverError> {
    if !ids.is_empty() {
        let request = contract::RemoveFiltersRequest { owner: tag.to_string(), ids };
        dataplane.client.remove_filters(request).await.map_err(|status| failed("RemoveFilters", status))?;
    }
    Ok(())
}

/// The dataplane answers a request that it knows with what it installed then. The sequence number, which every filter that
/// comes or goes moves on, keeps it from answering with filters that have ended since.
fn request_id(key: &OperationKey, snapshot: &Snapshot) -> String {
    format!("{key}/{}", snapshot.header.sequence)
}

fn driver_error(error: DataplaneError) -> DriverError {
    DriverError::Retryable { reason: error.to_string(), retry_after: None }
}

fn failed(call: &'static str, status: tonic::Status) -> DriverError {
    driver_error(DataplaneError::Call { call, status: Box::new(status) })
}

/// A request that breaks a rule of the dataplane would break it again.
fn refused(call: &'static str, status: tonic::Status) -> DriverError {
    match status.code() {
        Code::InvalidArgument | Code::FailedPrecondition | Code::PermissionDenied | Code::OutOfRange => {
            DriverError::Permanent { reason: format!("the dataplane refuses: {}", status.message()) }
        }
        _ => failed(call, status),
    }
}
