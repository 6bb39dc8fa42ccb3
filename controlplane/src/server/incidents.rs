//! The service Incidents.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use levee_api::grpc::v1;
use levee_api::grpc::v1::incidents_server::Incidents;
use levee_api::prefix::Prefix;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::captures::CaptureFolder;
use super::fields::{Page, Paged};
use super::link::{Handle, Knowledge, News, Refused};
use super::refusal::Fields;
use super::view;
use crate::incident::{Incident, TimelineEntry};
use crate::ledger::IncidentId;
use crate::store::StoreError;

/// Changes handed to a client at once.
const BATCH: usize = 64;

/// Reads what the core knows of incidents.
#[derive(Debug, Clone)]
pub(super) struct IncidentService {
    pub(super) handle: Handle,
    pub(super) captures: CaptureFolder,
}

/// Which incidents a client wants to see.
#[derive(Debug, Clone, Default)]
struct Selection {
    zone: String,
    states: Vec<v1::IncidentState>,
    prefix: Option<Prefix>,
}

impl Selection {
    fn has(&self, incident: &Incident) -> bool {
        (self.zone.is_empty() || incident.target.zone == self.zone)
            && (self.states.is_empty() || self.states.contains(&view::phase(&incident.phase)))
            && view::concerns(self.prefix, incident.target.prefix)
    }
}

#[tonic::async_trait]
impl Incidents for IncidentService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::IncidentChange, Status>> + Send>>;

    async fn list(
        &self,
        request: Request<v1::ListIncidentsRequest>,
    ) -> Result<Response<v1::ListIncidentsResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let (page, selection) = selected(&request, &mut fields);
        let page = fields.conclude(page)?;
        let Paged { entries, next, total } = self.handle.query(move |known| listed(known, &selection, page)).await?;
        Ok(Response::new(v1::ListIncidentsResponse { incidents: entries, next_page_token: next, total }))
    }

    async fn get(&self, request: Request<v1::GetIncidentRequest>) -> Result<Response<v1::IncidentStory>, Status> {
        let mut fields = Fields::default();
        let id = fields.id("id", &request.into_inner().id);
        let id = fields.conclude(id)?;
        let mut story = self.handle.query(move |known| story(known, id)).await??;
        if let Some(incident) = &story.incident {
            story.captures = self.captures.of(incident).await;
        }
        Ok(Response::new(story))
    }

    async fn watch(&self, request: Request<v1::WatchIncidentsRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let id = fields.optional_id("id", &request.id);
        let only = fields.conclude(id)?;
        let (sender, receiver) = mpsc::channel(BATCH);
        let watcher = Watcher {
            handle: self.handle.clone(),
            only,
            selection: Selection { zone: request.zone, ..Selection::default() },
            told: BTreeMap::new(),
        };
        // Subscribed before the first look, so that nothing falls between them.
        let news = self.handle.news();
        tokio::spawn(async move {
            let client = sender.clone();
            tokio::select! {
                // Whoever stops hears why; if the client has gone there is nobody to hear it.
                Err(status) = watcher.tell(news, client) => drop(sender.send(Err(status)).await),
                () = sender.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn selected(request: &v1::ListIncidentsRequest, fields: &mut Fields) -> (Option<Page>, Selection) {
    let page = fields.page(request.page_size, &request.page_token);
    let prefix = fields.prefix("prefix", request.prefix.as_ref()).flatten();
    let states: Vec<_> = request.states().collect();
    if states.contains(&v1::IncidentState::Unspecified) {
        fields.wrong("states", "INCIDENT_STATE_UNSPECIFIED is never valid");
    }
    (page, Selection { zone: request.zone.clone(), states, prefix })
}

fn listed(known: &dyn Knowledge, selection: &Selection, page: Page) -> Paged<v1::Incident> {
    let selected = known.incidents().rev().filter(|incident| selection.has(incident));
    let Paged { entries, next, total } = page.of(selected.map(|incident| (incident.id.0, incident)));
    let entries = entries.into_iter().map(|incident| view::incident(known, incident)).collect();
    Paged { entries, next, total }
}

fn story(known: &dyn Knowledge, id: IncidentId) -> Result<v1::IncidentStory, Refused> {
    let unknown = || Refused::NotFound { what: "incident", name: id.to_string() };
    let incident = known.incident(id).ok_or_else(unknown)?;
    let timeline = known.timeline(id).map_err(unreadable)?;
    let measures = known.measures(id);
    let now = known.now();
    Ok(v1::IncidentStory {
        incident: Some(view::incident(known, incident)),
        timeline: timeline.iter().map(view::entry).collect(),
        mitigations: measures.map(|one| view::mitigation(&now, one)).collect(),
        report: known.report(id).unwrap_or_default(),
        captures: Vec::new(),
        entries_left_out: incident.entries_left_out,
    })
}

fn unreadable(error: StoreError) -> Refused {
    Refused::Unavailable(format!("the timeline cannot be read: {error}"))
}

/// Tells one client what changes.
struct Watcher {
    handle: Handle,
    only: Option<IncidentId>,
    selection: Selection,
    /// Of each incident that was told and is not closed: the number of the next entry of its timeline.
    told: BTreeMap<IncidentId, u32>,
}

impl Watcher {
    async fn tell(
        mut self,
        mut news: broadcast::Receiver<Arc<News>>,
        client: mpsc::Sender<Result<v1::IncidentChange, Status>>,
    ) -> Result<(), Status> {
        self.look_at_all(&client).await?;
        loop {
            match news.recv().await {
                Ok(news) => {
                    let changed = news.incidents.iter().copied().filter(|id| self.only.is_none_or(|only| only == *id));
                    self.look_at(changed.collect(), Some(&news.entries), &client).await?;
                }
                Err(RecvError::Lagged(_)) => self.look_at_all(&client).await?,
                Err(RecvError::Closed) => return Err(Status::unavailable("the control plane is stopping")),
            }
        }
    }

    /// Everything that is not closed, and what was told before and may be closed by now.
    async fn look_at_all(&mut self, client: &mpsc::Sender<Result<v1::IncidentChange, Status>>) -> Result<(), Status> {
        let ids = match self.only {
            Some(only) => vec![only],
            None => {
                let open = |known: &dyn Knowledge| -> Vec<IncidentId> {
                    known.incidents().filter(|incident| incident.is_open()).map(|incident| incident.id).collect()
                };
                let mut ids = self.handle.query(open).await?;
                ids.extend(self.told.keys());
                ids.sort_unstable();
                ids.dedup();
                ids
            }
        };
        if let Some(only) = self.only.filter(|only| !self.told.contains_key(only)) {
            let exists = self.handle.query(move |known| known.incident(only).is_some()).await?;
            if !exists {
                return Err(Refused::NotFound { what: "incident", name: only.to_string() }.into());
            }
        }
        for ids in ids.chunks(BATCH) {
            self.look_at(ids.to_vec(), None, client).await?;
        }
        Ok(())
    }

    /// Tells how some incidents are now. Without entries at hand, those that are missing are read from the timeline.
    async fn look_at(
        &mut self,
        ids: Vec<IncidentId>,
        entries: Option<&[TimelineEntry]>,
        client: &mpsc::Sender<Result<v1::IncidentChange, Status>>,
    ) -> Result<(), Status> {
        let (selection, told) = (self.selection.clone(), self.told.clone());
        let at_hand = entries.map(<[TimelineEntry]>::to_vec);
        let changes =
            self.handle.query(move |known| changes(known, &ids, &selection, &told, at_hand.as_deref())).await?;
        for (id, next, is_open, change) in changes.map_err(unreadable)? {
            if is_open {
                self.told.insert(id, next);
            } else {
                self.told.remove(&id);
            }
            if client.send(Ok(change)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

type Told = (IncidentId, u32, bool, v1::IncidentChange);

fn changes(
    known: &dyn Knowledge,
    ids: &[IncidentId],
    selection: &Selection,
    told: &BTreeMap<IncidentId, u32>,
    at_hand: Option<&[TimelineEntry]>,
) -> Result<Vec<Told>, StoreError> {
    let mut changes = Vec::new();
    for id in ids {
        let Some(incident) = known.incident(*id).filter(|incident| selection.has(incident)) else { continue };
        let news: Vec<TimelineEntry> = match (at_hand, told.get(id)) {
            (Some(entries), _) => entries.iter().filter(|entry| entry.incident == *id).cloned().collect(),
            // What was before the first look is the story, not news.
            (None, None) => Vec::new(),
            (None, Some(next)) => known.timeline(*id)?.into_iter().filter(|entry| entry.number >= *next).collect(),
        };
        let is_new = |entry: &&TimelineEntry| told.get(id).is_none_or(|next| entry.number >= *next);
        let news = news.iter().filter(is_new).map(view::entry).collect();
        let change = v1::IncidentChange { incident: Some(view::incident(known, incident)), news };
        changes.push((*id, incident.next_entry, incident.is_open(), change));
    }
    Ok(changes)
}
