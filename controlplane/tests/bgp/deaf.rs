//! Routers that take nothing, or that are not there, beside one that does.

use std::net::Ipv4Addr;
use std::time::Duration;

use levee_controlplane::bgp::speaker::{PeerSettings, Settings, Speaker};
use levee_controlplane::ledger::MitigationId;

use super::daemon::PATIENCE;
use super::fake::{Fake, UPDATE, listen, open};
use super::world::{ANNOUNCER, addresses, blackhole, peer, until};

const LONG: Duration = Duration::from_secs(600);
/// More than lies between two TCPs when one of them reads nothing.
const ROUTES: u64 = 6_000;

fn named(name: &str, (ours, theirs): (Ipv4Addr, Ipv4Addr)) -> PeerSettings {
    let mut peer = PeerSettings { name: name.to_owned(), ..peer(ours, theirs) };
    peer.policy.max_routes = 10_000;
    peer
}

fn error_of(speaker: &Speaker, name: &str) -> String {
    let of = speaker.peers().into_iter().find(|peer| peer.settings.name == name);
    of.and_then(|peer| peer.status.error).unwrap_or_default()
}

#[tokio::test]
async fn a_router_that_reads_nothing_holds_up_nobody_and_was_told_nothing_of_it() {
    let (deaf, well) = (addresses(), addresses());
    let (deaf_end, well_end) = (listen(deaf.1), listen(well.1));
    let here = Speaker::default();
    let peers = vec![named("deaf", deaf), named("well", well)];
    here.configure(&Settings { peers, ..Settings::default() });
    let mut there = Fake::accept(&deaf_end).await;
    there.establish(&open(deaf.1, false)).await;
    let there = there.deaf();
    let mut router = Fake::accept(&well_end).await;
    router.establish(&open(well.1, false)).await;
    let well_reads = tokio::spawn(async move {
        // What it hears last is the withdrawal of the last one.
        for _ in 0..ROUTES + 6 {
            router.next_of(UPDATE).await;
        }
        router
    });
    for id in 1..=ROUTES {
        let host = Ipv4Addr::from(0xcb00_7100 + u32::try_from(id).unwrap()).to_string();
        here.announce(ANNOUNCER, MitigationId(id), &blackhole(&host), LONG, Duration::ZERO).await.unwrap();
    }
    let last = MitigationId(ROUTES + 1);
    let told = here.announce(ANNOUNCER, last, &blackhole("198.51.100.1"), LONG, LONG).await.unwrap();
    assert_eq!(told.by, ["well"]);
    assert!(told.not[0].1.contains("acknowledged"), "{told:?}");
    let peers = here.peers();
    let told = |name| peers.iter().find(|peer| peer.settings.name == name).unwrap().status.ids.len() as u64;
    assert!(told("deaf") < ROUTES / 2, "{} of {ROUTES}", told("deaf"));
    // The withdrawal is with the one that reads while the other is still waited for.
    let withdrawal = tokio::spawn({
        let here = here.clone();
        async move { here.withdraw(ANNOUNCER, last, LONG).await }
    });
    let _router = well_reads.await.unwrap();
    assert!(!withdrawal.is_finished() || error_of(&here, "deaf").contains("send hold time"));
    until("the end of the session that nothing goes over", || {
        let error = error_of(&here, "deaf");
        if error.contains("send hold time is over") { Ok(()) } else { Err(error) }
    })
    .await;
    let stalls = here.peers().iter().map(|peer| peer.status.stalls).collect::<Vec<_>>();
    assert_eq!(stalls, [1, 0]);
    assert_eq!(withdrawal.await.unwrap(), [], "a session that is lost has taken everything with it");
    // Its own KEEPALIVEs tell it.
    let mut there = there;
    let error = tokio::time::timeout(Duration::from_secs(20), &mut there.says).await.unwrap().unwrap();
    assert!(matches!(error.raw_os_error(), Some(nix::libc::ECONNRESET | nix::libc::EPIPE)), "{error}");
    here.stop().await;
}

#[tokio::test]
async fn a_router_that_never_connects_holds_up_nobody() {
    let (absent, well, gone) = (addresses(), addresses(), addresses());
    let passive = || PeerSettings { passive: true, ..named("absent", absent) };
    let well_end = listen(well.1);
    let here = Speaker::default();
    here.configure(&Settings { peers: vec![passive(), named("well", well)], ..Settings::default() });
    let mut router = Fake::accept(&well_end).await;
    router.establish(&open(well.1, false)).await;
    let reads = tokio::spawn(async move { while router.next().await.is_some() {} });
    let spec = blackhole("203.0.113.9");
    let announced = here.announce(ANNOUNCER, MitigationId(1), &spec, LONG, LONG);
    let told = tokio::time::timeout(PATIENCE, announced).await.unwrap().unwrap();
    assert_eq!((told.by, told.not), (vec!["well".to_owned()], vec![absence("absent")]));
    let withdrawn = here.withdraw(ANNOUNCER, MitigationId(1), LONG);
    assert_eq!(tokio::time::timeout(PATIENCE, withdrawn).await.unwrap(), []);
    here.stop().await;
    reads.await.unwrap();

    // By itself, or beside one that cannot be reached: there is nothing to wait for, right after a start either.
    for beside in [vec![], vec![named("gone", gone)]] {
        let here = Speaker::default();
        let peers = [vec![passive()], beside].concat();
        here.configure(&Settings { peers: peers.clone(), ..Settings::default() });
        let announced = here.announce(ANNOUNCER, MitigationId(1), &spec, LONG, LONG);
        let told = tokio::time::timeout(PATIENCE, announced).await.unwrap().unwrap();
        assert_eq!((told.by, told.not.len()), (vec![], peers.len()));
        assert_eq!(told.not[0], absence("absent"));
        here.stop().await;
    }
}

fn absence(name: &str) -> (String, String) {
    (name.to_owned(), "no connection yet".to_owned())
}
