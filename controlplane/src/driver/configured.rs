//! The drivers that a configuration speaks of and that this version has.

use std::collections::BTreeSet;
use std::sync::Arc;

use levee_api::config::{AnnouncerKind, BgpPeer, Config};

use super::{Driver, Embedded, Filters, Guard, OwnerTag};
use crate::bgp;
use crate::bgp::speaker::{PeerSettings, Speaker};

/// All drivers. Announcers and scrubbers that this version has no driver for are not among them: what is asked of them
/// is incapable.
///
/// `tags`: what the ledger knows to be in force. Of these, drivers also tell what carries an earlier name of the appliance.
/// `speaker`: the one that runs; none while no control plane does.
pub fn configured(
    config: &Config,
    guard: &Guard,
    tags: &BTreeSet<OwnerTag>,
    speaker: Option<&Speaker>,
) -> Vec<Arc<dyn Driver>> {
    let filters = Filters::new(&config.appliance.name, config.dataplane.socket.clone(), Arc::clone(guard));
    let mut drivers: Vec<Arc<dyn Driver>> = vec![Arc::new(filters.with_former(tags))];
    let peers = || config.bgp.iter().flat_map(|bgp| &bgp.peers);
    let (mut settings, errors) = bgp::configured::settings(config);
    for error in &errors {
        tracing::error!("{error}");
    }
    if let Some(speaker) = speaker {
        settings.peers.extend(errors.iter().filter_map(|error| {
            let configured = peers().find(|peer| peer.name == error.peer())?;
            kept(speaker, configured)
        }));
        speaker.configure(&settings);
    }
    let embedded = config.announcers.iter().filter(|announcer| {
        announcer.kind == AnnouncerKind::Embedded && peers().any(|peer| peer.announcer == announcer.name)
    });
    for announcer in embedded {
        let driver = match speaker {
            Some(speaker) => Embedded::new(announcer, speaker.clone(), Arc::clone(guard)),
            None => {
                // Who is left out and retains nothing has nothing of ours while we do not run.
                let retains = |name: &str| {
                    peers().any(|peer| peer.name == name && peer.announcer == announcer.name && peer.retain.is_some())
                };
                let left_out = errors.iter().filter(|error| retains(error.peer()));
                let left_out = left_out.map(|error| (error.peer().to_owned(), error.to_string())).collect();
                Embedded::one_shot(announcer, &settings, left_out, Arc::clone(guard))
            }
        };
        drivers.push(Arc::new(driver));
    }
    drivers
}

/// A peer as it runs. A password that cannot be read now is no reason to end a session, and with it all that was announced.
fn kept(speaker: &Speaker, configured: &BgpPeer) -> Option<PeerSettings> {
    let same = |known: &PeerSettings| {
        (&known.name, known.address, &known.announcer) == (&configured.name, configured.address, &configured.announcer)
    };
    let known = speaker.peers().into_iter().map(|peer| peer.settings).find(same)?;
    tracing::warn!(peer = %known.name, "it stays as it was until its password can be read");
    Some(known)
}
