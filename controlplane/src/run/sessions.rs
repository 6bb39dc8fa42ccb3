//! BGP sessions that are down, or over which nothing goes, as what needs somebody's attention.

use std::time::Duration;

use crate::bgp::speaker::PeerView;
use crate::bgp::speaker::connection::State;

/// A session that comes back within this is nobody's business.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to say of peers at this time of the speaker's clock.
pub(super) fn down(peers: &[PeerView], clock: Duration) -> Vec<String> {
    let down = peers.iter().filter(|peer| {
        let lasts = clock.saturating_sub(peer.status.since) > PATIENCE;
        lasts && peer.status.state != Some(State::Established)
    });
    let stuck = peers.iter().filter_map(|peer| {
        let lasts = clock.saturating_sub(peer.status.stuck?);
        (lasts > PATIENCE).then(|| {
            format!(
                "{} has acknowledged nothing of what it was sent for {} s: what was announced or withdrawn since may not be there",
                peer.settings.name,
                lasts.as_secs()
            )
        })
    });
    let told = |peer: &PeerView| {
        let why = peer.status.error.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        format!("the BGP session with {} is down{why}: nothing can be announced there", peer.settings.name)
    };
    down.map(told).chain(stuck).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::speaker::Status;

    #[test]
    fn a_session_is_told_when_it_stays_down() {
        let text = "[[zone]]\nname = \"web\"\nprefixes = [\"203.0.113.0/24\"]\n[bgp]\nas = 64496\nrouter_id = \"192.0.2.1\"\n\
                    [[bgp.peer]]\nname = \"core-a\"\naddress = \"192.0.2.2\"\nas = 64497\nannouncer = \"core\"\n\
                    [[announcer]]\nname = \"core\"\nkind = \"embedded\"\ncapabilities = [\"flowspec\"]\n";
        let config = levee_api::config::Config::parse("test.toml", text).unwrap_or_else(|error| panic!("{error:?}"));
        let settings = crate::bgp::configured::settings(&config).0.peers.remove(0);
        let since = Duration::from_secs(100);
        let peer = |state, error: Option<&str>| {
            let error = error.map(str::to_owned);
            PeerView { settings: settings.clone(), status: Status { state, error, since, ..Status::default() } }
        };
        let told = |peer: PeerView, seconds| down(&[peer], Duration::from_secs(seconds));
        assert_eq!(told(peer(Some(State::Established), None), 500), [""; 0]);
        assert_eq!(told(peer(None, None), 105), [""; 0], "it may come back");
        for state in [None, Some(State::OpenSent)] {
            let told = told(peer(state, Some("connection refused")), 111).join(" ");
            assert!(told.contains("core-a is down (connection refused)"), "{told}");
        }
        let mut takes_nothing = peer(Some(State::Established), None);
        takes_nothing.status.stuck = Some(since);
        assert_eq!(down(&[takes_nothing.clone()], Duration::from_secs(110)), [""; 0]);
        let told = down(&[takes_nothing], Duration::from_secs(117)).join(" ");
        assert!(told.contains("core-a has acknowledged nothing of what it was sent for 17 s"), "{told}");
    }
}
