//! The speaker that a configuration asks for.

use levee_api::config::{AnnouncerKind, BgpCommunity, BgpFamily, BgpPeer, Config};

use super::bmp::BmpSettings;
use super::route::{Community, Family, LargeCommunity};
use super::speaker::connection::Terms;
use super::speaker::export::Policy;
use super::speaker::socket::{LONGEST_PASSWORD, Protection, trimmed};
use super::speaker::{PeerSettings, Settings};
use crate::secret::{SecretError, SecretSource};

/// Why a peer cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Its password is not there.
    #[error("no session with peer {peer:?}: {source}")]
    Password {
        /// Which.
        peer: String,
        /// Why not.
        source: SecretError,
    },
    /// Its password does not fit.
    #[error(
        "no session with peer {peer:?}: its password has {bytes} bytes, and TCP MD5 has room for {LONGEST_PASSWORD}"
    )]
    LongPassword {
        /// Which.
        peer: String,
        /// How long it is.
        bytes: usize,
    },
}

impl PeerError {
    /// Which peer it is about.
    pub fn peer(&self) -> &str {
        match self {
            Self::Password { peer, .. } | Self::LongPassword { peer, .. } => peer,
        }
    }
}

/// What the speaker is told to be; a peer that cannot be protected as it should be is left out, and told.
pub fn settings(config: &Config) -> (Settings, Vec<PeerError>) {
    let Some(bgp) = &config.bgp else { return (Settings::default(), Vec::new()) };
    let bmp = bgp.bmp.as_ref().map(|bmp| BmpSettings {
        listen: bmp.listen.clone(),
        routers: bmp.routers.iter().copied().collect(),
        local_as: bgp.asn,
    });
    let mut settings = Settings { listen: bgp.listen.clone(), peers: Vec::new(), bmp };
    let mut errors = Vec::new();
    for peer in &bgp.peers {
        match protection(peer) {
            Ok(protection) => settings.peers.push(one(peer, protection, config, bgp.asn, bgp.router_id)),
            Err(error) => errors.push(error),
        }
    }
    (settings, errors)
}

/// How the session with a peer is protected.
///
/// # Errors
/// When it has a password that cannot be read, or used.
pub fn protection(peer: &BgpPeer) -> Result<Protection, PeerError> {
    let password = match &peer.password {
        None => None,
        Some(secret) => {
            let secret = SecretSource::from(secret)
                .read()
                .map_err(|source| PeerError::Password { peer: peer.name.clone(), source })?;
            let bytes = trimmed(&secret).len();
            if bytes > LONGEST_PASSWORD {
                return Err(PeerError::LongPassword { peer: peer.name.clone(), bytes });
            }
            Some(secret)
        }
    };
    Ok(Protection { password, ttl_security: peer.ttl_security })
}

fn one(
    peer: &BgpPeer,
    protection: Protection,
    config: &Config,
    local_as: u32,
    router_id: std::net::Ipv4Addr,
) -> PeerSettings {
    let announcer = config
        .announcers
        .iter()
        .find(|announcer| announcer.kind == AnnouncerKind::Embedded && announcer.name == peer.announcer);
    let next_hop = |ipv4: bool| {
        let mut all = announcer.into_iter().flat_map(|announcer| &announcer.next_hops);
        all.find(|address| address.is_ipv4() == ipv4).copied()
    };
    let family = |family: &BgpFamily| match family {
        BgpFamily::Ipv4Unicast => Family::Ipv4Unicast,
        BgpFamily::Ipv6Unicast => Family::Ipv6Unicast,
        BgpFamily::Ipv4Flowspec => Family::Ipv4Flowspec,
        BgpFamily::Ipv6Flowspec => Family::Ipv6Flowspec,
    };
    let (blackhole, blackhole_large) = communities(&peer.blackhole_communities);
    let (source_blackhole, source_blackhole_large) = communities(&peer.source_blackhole_communities);
    let (divert, divert_large) = communities(&peer.divert_communities);
    PeerSettings {
        name: peer.name.clone(),
        announcer: peer.announcer.clone(),
        address: peer.address,
        local_address: peer.local_address,
        passive: peer.passive,
        terms: Terms {
            local_as,
            peer_as: peer.asn,
            router_id,
            hold_time: u16::try_from(peer.hold_time.as_secs()).unwrap_or(u16::MAX),
            families: peer.families.iter().map(family).collect(),
            retain: peer.retain.and_then(|time| u16::try_from(time.as_secs()).ok()),
        },
        protection,
        policy: Policy {
            local_as,
            blackhole,
            blackhole_large,
            source_blackhole,
            source_blackhole_large,
            divert,
            divert_large,
            no_export: peer.no_export,
            prepend: peer.prepend,
            next_hop_ipv4: next_hop(true),
            next_hop_ipv6: next_hop(false),
            max_routes: usize::try_from(peer.max_routes).unwrap_or(usize::MAX),
        },
    }
}

fn communities(all: &[BgpCommunity]) -> (Vec<Community>, Vec<LargeCommunity>) {
    let standard = all.iter().filter_map(|community| match community {
        BgpCommunity::Standard(number) => Some(Community(*number)),
        BgpCommunity::Large(_) => None,
    });
    let large = all.iter().filter_map(|community| match community {
        BgpCommunity::Large(numbers) => Some(LargeCommunity(*numbers)),
        BgpCommunity::Standard(_) => None,
    });
    (standard.collect(), large.collect())
}
