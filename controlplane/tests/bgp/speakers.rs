//! Two speakers of ours with each other: collisions, protection, and what a configuration changes.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use levee_controlplane::bgp::speaker::{PeerSettings, Settings, Speaker};
use levee_controlplane::ledger::{FlowAction, MitigationId};
use levee_controlplane::secret::Secret;

use super::world::{
    ANNOUNCER, PORT, THEIR_AS, addresses, amplification, announce, blackhole, flowspec, is_established, peer, until,
    withdraw,
};

/// The peer as the other side has it.
fn mirrored(settings: &PeerSettings, ours: Ipv4Addr, theirs: Ipv4Addr) -> PeerSettings {
    let mut other = settings.clone();
    other.address = SocketAddr::new(ours.into(), PORT);
    other.local_address = Some(theirs.into());
    std::mem::swap(&mut other.terms.local_as, &mut other.terms.peer_as);
    other.terms.router_id = theirs;
    other.policy.local_as = THEIR_AS;
    other
}

fn listening(on: Ipv4Addr, peer: PeerSettings) -> Speaker {
    let speaker = Speaker::default();
    speaker.configure(&Settings {
        listen: vec![SocketAddr::new(on.into(), PORT)],
        peers: vec![peer],
        ..Settings::default()
    });
    speaker
}

#[tokio::test]
async fn two_who_connect_to_each_other_at_once_keep_one_connection() {
    let (ours, theirs) = addresses();
    let mut settings = peer(ours, theirs);
    settings.protection.password = Some(Secret::new(b"sesame".to_vec()));
    settings.protection.ttl_security = true;
    let here = listening(ours, settings.clone());
    let there = listening(theirs, mirrored(&settings, ours, theirs));
    until("the session", || is_established(&here).and_then(|()| is_established(&there))).await;
    let told = announce(&here, 1, &flowspec(amplification("203.0.113.7"), FlowAction::Drop)).await;
    assert_eq!(told.by, ["upstream"]);
    until("the update", || {
        let heard = there.peers()[0].status.updates_ignored;
        // One rule, and the end of each of four families.
        if heard == 5 { Ok(()) } else { Err(format!("{heard} updates")) }
    })
    .await;
    withdraw(&here, 1).await;
    here.stop().await;
    until("the farewell", || {
        let status = there.peers()[0].status.clone();
        if status.trouble().contains("shut down (6/2)") { Ok(()) } else { Err(status.trouble()) }
    })
    .await;
}

#[tokio::test]
async fn a_changed_peer_begins_anew_and_the_others_do_not_notice() {
    let (ours, theirs) = addresses();
    let (ours2, theirs2) = addresses();
    let passive = |settings: PeerSettings| PeerSettings { passive: true, ..settings };
    let one = PeerSettings { name: "one".to_owned(), ..peer(ours, theirs) };
    let two = PeerSettings { name: "two".to_owned(), ..peer(ours2, theirs2) };
    let there = listening(theirs, passive(mirrored(&one, ours, theirs)));
    let there2 = listening(theirs2, passive(mirrored(&two, ours2, theirs2)));
    let here = Speaker::default();
    here.configure(&Settings { peers: vec![one.clone(), two.clone()], ..Settings::default() });
    until("both sessions", || is_established(&here)).await;
    announce(&here, 1, &blackhole("203.0.113.9")).await;
    let mut changed = two.clone();
    changed.terms.hold_time = 30;
    here.configure(&Settings { peers: vec![one.clone(), changed], ..Settings::default() });
    until("the second session anew", || {
        let established = there2.peers()[0].status.established;
        is_established(&here).and_then(|()| if established == 2 { Ok(()) } else { Err(established.to_string()) })
    })
    .await;
    assert_eq!(there.peers()[0].status.established, 1);
    let told = announce(&here, 1, &blackhole("203.0.113.9")).await;
    assert_eq!(told.by, ["one", "two"], "what was announced before is announced to the new session");
    here.configure(&Settings { peers: vec![one], ..Settings::default() });
    until("the farewell", || {
        let trouble = there2.peers()[0].status.trouble();
        if trouble.contains("not configured any more") { Ok(()) } else { Err(trouble) }
    })
    .await;
}

#[tokio::test]
async fn what_comes_to_its_end_goes_by_itself() {
    let (ours, theirs) = addresses();
    let settings = peer(ours, theirs);
    let there = listening(theirs, PeerSettings { passive: true, ..mirrored(&settings, ours, theirs) });
    let here = Speaker::default();
    here.configure(&Settings { peers: vec![settings], ..Settings::default() });
    until("the session", || is_established(&here)).await;
    let (id, patience) = (MitigationId(1), Duration::from_secs(5));
    let spec = blackhole("203.0.113.9");
    let told = here.announce(ANNOUNCER, id, &spec, Duration::from_millis(300), patience).await.unwrap();
    assert_eq!(told.by, ["upstream"]);
    until("its end", || {
        let left = here.observed(ANNOUNCER);
        let routes = here.peers()[0].status.ids.len();
        if left.is_empty() && routes == 0 { Ok(()) } else { Err(format!("{left:?}, {routes} routes")) }
    })
    .await;
    until("the withdrawal", || {
        let heard = there.peers()[0].status.updates_ignored;
        if heard == 6 { Ok(()) } else { Err(format!("{heard} updates")) }
    })
    .await;
}

#[tokio::test]
async fn a_peer_is_told_no_more_routes_than_it_may_have() {
    let (ours, theirs) = addresses();
    let mut settings = peer(ours, theirs);
    settings.policy.max_routes = 2;
    let _there = listening(theirs, PeerSettings { passive: true, ..mirrored(&settings, ours, theirs) });
    let here = Speaker::default();
    here.configure(&Settings { peers: vec![settings], ..Settings::default() });
    until("the session", || is_established(&here)).await;
    for id in [5, 6] {
        assert_eq!(announce(&here, id, &blackhole(&format!("203.0.113.{id}"))).await.by, ["upstream"]);
    }
    let told = announce(&here, 1, &blackhole("203.0.113.1")).await;
    assert_eq!(told.by, Vec::<String>::new());
    assert!(told.not[0].1.contains("max_routes"), "{told:?}");
    withdraw(&here, 5).await;
    until("its turn", || {
        let told = here.told(ANNOUNCER, MitigationId(1));
        if told.by == ["upstream"] { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_retains_may_have_what_is_not_announced_until_it_was_told_everything() {
    let (ours, theirs) = addresses();
    let mut settings = peer(ours, theirs);
    settings.terms.retain = Some(120);
    let here = Speaker::default();
    here.configure(&Settings { peers: vec![settings.clone()], ..Settings::default() });
    let may_have_it = async |speaker: &Speaker| {
        let left = speaker.withdraw(ANNOUNCER, MitigationId(1), Duration::from_secs(10)).await;
        left.into_iter().map(|(_, why)| why).collect::<Vec<_>>().join(", ")
    };
    // What a process before this one has told it is not known.
    assert!(may_have_it(&here).await.contains("120 s"));
    let there = listening(theirs, PeerSettings { passive: true, ..mirrored(&settings, ours, theirs) });
    until("the session", || is_established(&here)).await;
    assert_eq!(may_have_it(&here).await, "", "it has heard everything");
    announce(&here, 1, &blackhole("203.0.113.9")).await;
    there.stop().await;
    until("the loss", || is_established(&here).map_or(Ok(()), |()| Err("established".to_owned()))).await;
    // Another hold time is another session, and no reason to forget what it has.
    settings.terms.hold_time = 30;
    here.configure(&Settings { peers: vec![settings], ..Settings::default() });
    assert!(may_have_it(&here).await.contains("retain_for"));
}
