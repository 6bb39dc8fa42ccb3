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
pub struct Sightings(Arc<Mutex<BTreeMap<IpAddr, (u64, Station)>>>);

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
    fn routers(&self) -> MutexGuard<'_, BTreeMap<IpAddr, (u64, Station)>> {
        // Each message is taken at once: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A router has connected: what it said over an earlier connection counts no more. The number of the connection.
    pub(super) fn connected(&self, router: IpAddr, local_as: u32) -> u64 {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
        let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        self.routers().insert(router, (number, Station::new(local_as)));
        number
    }

    /// Bytes have come over a connection. False when it is not the last one of the router.
    pub(super) fn received(&self, router: IpAddr, number: u64, bytes: &[u8]) -> Result<bool, BmpError> {
        match self.routers().get_mut(&router) {
            Some((current, station)) if *current == number => station.received(bytes).map(|_| true),
            _ => Ok(false),
        }
    }

    /// A connection has ended, and with it everything that was seen over it.
    pub(super) fn lost(&self, router: IpAddr, number: u64) {
        let mut routers = self.routers();
        if routers.get(&router).is_some_and(|(current, _)| *current == number) {
            routers.remove(&router);
        }
    }

    /// The routers that have the route of a measure.
    pub fn of(&self, id: MitigationId, destination: &Destination) -> Vec<Sighting> {
        let routers = self.routers();
        let tables = routers.iter().map(|(address, (_, station))| {
            let router = station.name().map_or_else(|| address.to_string(), str::to_owned);
            Sighting { router, tables: station.tables(id, destination) }
        });
        tables.filter(|sighting| !sighting.tables.is_empty()).collect()
    }

    /// The routers that are connected.
    pub fn views(&self) -> Vec<RouterView> {
        let routers = self.routers();
        let view = |(address, (_, station)): (&IpAddr, &(u64, Station))| RouterView {
            address: *address,
            name: station.name().map(str::to_owned),
            routes: station.count(),
            messages: station.messages,
            malformed: station.malformed,
            left_out: station.left_out,
        };
        routers.iter().map(view).collect()
    }
}
