//! BMP (RFC 7854): what routers say that they were told, by which a route counts as seen.
//!
//! A router connects, and copies to us what its peers announce to it. Of that only what carries our owner tag is kept: a
//! [`station`] is fed bytes and knows which of our routes the router has, before and after its import policy, and in use.
//! [`listener`] takes the connections. Nobody is told anything: BMP goes one way.

mod listener;
mod message;
mod sightings;
mod station;

pub use listener::Listener;
pub use message::{BmpError, LONGEST_BMP, Monitored, Said, Table};
pub use sightings::{RouterView, Sighting, Sightings, Totals};
pub use station::{MAX_ROUTES, Station};

/// Where BMP is listened for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BmpSettings {
    /// Addresses of ours.
    pub listen: Vec<std::net::SocketAddr>,
    /// The routers that may connect.
    pub routers: std::collections::BTreeSet<std::net::IpAddr>,
    /// Our AS, which our owner tag begins with.
    pub local_as: u32,
}
