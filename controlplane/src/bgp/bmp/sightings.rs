//! Which routers have a route of ours, over all their connections.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::message::{BmpError, Table};
use super::station::Station;
use crate::bgp::route::Destination;
use crate::ledger::MitigationId;

/// What the routers that are connected say. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Sightings(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    routers: BTreeMap<IpAddr, (u64, Station)>,
    /// Of connections that have ended.
    ended: Totals,
}

/// What was counted since the listener began, over all connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Routers that are connected.
    pub routers: u64,
    /// Routes with our tag that they show, in all their tables.
    pub routes: u64,
    /// Connections that were taken.
    pub sessions: u64,
    /// Connections that were not: of strangers, or too many.
    pub refused: u64,
    /// Connections that ended because what came was no BMP.
    pub errors: u64,
    /// Messages that were read.
    pub messages: u64,
    /// Messages that were not right, and passed over.
    pub malformed: u64,
    /// Routes of ours that there was no place for.
    pub left_out: u64,
}

impl Totals {
    fn add(&mut self, station: &Station) {
        self.messages = self.messages.saturating_add(station.messages);
        self.malformed = self.malformed.saturating_add(station.malformed);
        self.left_out = self.left_out.saturating_add(station.left_out);
    }
}

/// A router that has a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Its name, or its address.
    pub router: String,
    /// In which of its tables, at least one.
    pub tables: Vec<Table>,
}

/// A router that is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterView {
    /// Where it connects from.
    pub address: IpAddr,
    /// Its name, as it gives it.
    pub name: Option<String>,
    /// Routes with our tag, in all its tables.
    pub routes: usize,
    /// Messages that were read.
    pub messages: u64,
    /// Messages that were not right, and passed over.
    pub malformed: u64,
    /// Routes of ours that there was no place for.
    pub left_out: u64,
}

impl Sightings {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Each message is taken at once: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A router has connected: what it said over an earlier connection counts no more. The number of the connection.
    pub(super) fn connected(&self, router: IpAddr, local_as: u32) -> u64 {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
        let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.inner();
        inner.ended.sessions = inner.ended.sessions.saturating_add(1);
        if let Some((_, before)) = inner.routers.insert(router, (number, Station::new(local_as))) {
            inner.ended.add(&before);
        }
        number
    }

    /// A connection was not taken.
    pub(super) fn refused(&self) {
        let mut inner = self.inner();
        inner.ended.refused = inner.ended.refused.saturating_add(1);
    }

    /// Bytes have come over a connection. False when it is not the last one of the router.
    pub(super) fn received(&self, router: IpAddr, number: u64, bytes: &[u8]) -> Result<bool, BmpError> {
        let mut inner = self.inner();
        let read = match inner.routers.get_mut(&router) {
            Some((current, station)) if *current == number => station.received(bytes).map(|_| true),
            _ => Ok(false),
        };
        inner.ended.errors = inner.ended.errors.saturating_add(read.is_err().into());
        read
    }

    /// A connection has ended, and with it everything that was seen over it.
    pub(super) fn lost(&self, router: IpAddr, number: u64) {
        let mut inner = self.inner();
        if inner.routers.get(&router).is_some_and(|(current, _)| *current == number)
            && let Some((_, station)) = inner.routers.remove(&router)
        {
            inner.ended.add(&station);
        }
    }

    /// What was counted since the listener began.
    pub fn totals(&self) -> Totals {
        let inner = self.inner();
        let mut totals = inner.ended;
        for (_, station) in inner.routers.values() {
            totals.add(station);
            totals.routes = totals.routes.saturating_add(station.count() as u64);
        }
        Totals { routers: inner.routers.len() as u64, ..totals }
    }

    /// The routers that have the route of a measure.
    pub fn of(&self, id: MitigationId, destination: &Destination) -> Vec<Sighting> {
        let inner = self.inner();
        let tables = inner.routers.iter().map(|(address, (_, station))| {
            let router = station.name().map_or_else(|| address.to_string(), str::to_owned);
            Sighting { router, tables: station.tables(id, destination) }
        });
        tables.filter(|sighting| !sighting.tables.is_empty()).collect()
    }

    /// The routers that are connected.
    pub fn views(&self) -> Vec<RouterView> {
        let inner = self.inner();
        let view = |(address, (_, station)): (&IpAddr, &(u64, Station))| RouterView {
            address: *address,
            name: station.name().map(str::to_owned),
            routes: station.count(),
            messages: station.messages,
            malformed: station.malformed,
            left_out: station.left_out,
        };
        inner.routers.iter().map(view).collect()
    }
}
