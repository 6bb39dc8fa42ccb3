//! What a speaker is told to be.

use std::net::{IpAddr, SocketAddr};

use super::connection::Terms;
use super::export::Policy;
use super::socket::Protection;
use crate::bgp::bmp::BmpSettings;

/// Who we are, and whom we talk to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where connections are taken; none: we only connect ourselves.
    pub listen: Vec<SocketAddr>,
    /// The peers.
    pub peers: Vec<PeerSettings>,
    /// Where routers tell what they have; none: they do not.
    pub bmp: Option<BmpSettings>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Unique name.
    pub name: String,
    /// The announcer whose routes it is told.
    pub announcer: String,
    /// Its address.
    pub address: SocketAddr,
    /// The address of ours that the session is from; none: the kernel chooses.
    pub local_address: Option<IpAddr>,
    /// It connects, we do not.
    pub passive: bool,
    /// What is agreed upon.
    pub terms: Terms,
    /// How the session is protected.
    pub protection: Protection,
    /// How it wants its routes.
    pub policy: Policy,
}
