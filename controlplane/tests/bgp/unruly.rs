//! Routers that begin anew, that flap, and whose last words are wrong.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use levee_controlplane::bgp::speaker::{PeerSettings, Settings, Speaker};
use levee_controlplane::ledger::MitigationId;
use levee_engine::detect::event::Phase;
use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt as _;

use super::daemon::PATIENCE;
use super::dataplane::Place;
use super::fake::{Fake, NOTIFICATION, UPDATE, framed, listen, open};
use super::process::{EDGE, configured, signal, start};
use super::world::{ANNOUNCER, PORT, addresses, announce, blackhole, is_established, peer, until};

const LONG: Duration = Duration::from_secs(600);

/// A speaker that the router connects to.
fn waiting(ours: Ipv4Addr, theirs: Ipv4Addr, retain: Option<u16>) -> Speaker {
    let mut settings = PeerSettings { passive: true, ..peer(ours, theirs) };
    settings.terms.retain = retain;
    let here = Speaker::default();
    let listen = vec![SocketAddr::new(ours.into(), PORT)];
    here.configure(&Settings { listen, peers: vec![settings], ..Settings::default() });
    here.is_restored();
    here
}

/// What comes until the connection ends, which must not be a NOTIFICATION.
async fn ends_without_a_word(mut router: Fake) {
    while let Some((kind, body)) = router.next().await {
        assert_ne!(kind, NOTIFICATION, "{body:?}");
    }
}

#[tokio::test]
async fn a_router_that_restarts_gracefully_while_its_old_session_stands_is_taken_at_once() {
    let (ours, theirs) = addresses();
    let here = waiting(ours, theirs, Some(120));
    let mut before = Fake::connect(theirs, ours).await;
    before.establish(&open(theirs, true)).await;
    until("the session", || is_established(&here)).await;
    assert_eq!(announce(&here, 1, &blackhole("203.0.113.9")).await.by, ["upstream"]);
    // Its power was gone: of the old connection it knows nothing, and nobody has told us.
    let mut after = Fake::connect(theirs, ours).await;
    after.establish(&open(theirs, true)).await;
    // The route, and the end of each of four families.
    for _ in 0..5 {
        after.next_of(UPDATE).await;
    }
    ends_without_a_word(before).await;
    until("the new session", || {
        let status = here.peers()[0].status.clone();
        let told = (status.is_established(), status.established, status.ids.len(), status.retained_until);
        if told == (true, 2, 1, None) { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
    // A connection that says nothing ends nothing.
    let _silent = Fake::connect(theirs, ours).await;
    assert_eq!(announce(&here, 2, &blackhole("203.0.113.10")).await.by, ["upstream"]);
    assert_eq!(here.peers()[0].status.established, 2);
    here.stop().await;
}

#[tokio::test]
async fn without_graceful_restart_a_second_connection_is_refused_and_the_first_one_stays() {
    let (ours, theirs) = addresses();
    // Whether it is us or the router that does not speak of it.
    for (retain, restart) in [(None, true), (Some(120), false)] {
        let here = waiting(ours, theirs, retain);
        let mut first = Fake::connect(theirs, ours).await;
        first.establish(&open(theirs, restart)).await;
        until("the session", || is_established(&here)).await;
        let mut second = Fake::connect(theirs, ours).await;
        second.say(&open(theirs, restart).encode()).await;
        let refusal = loop {
            let (kind, body) = second.next().await.unwrap();
            if kind == NOTIFICATION {
                break body;
            }
        };
        assert_eq!(refusal, [6, 7]);
        assert_eq!(announce(&here, 1, &blackhole("203.0.113.9")).await.by, ["upstream"]);
        first.next_of(UPDATE).await;
        assert_eq!(here.peers()[0].status.established, 1);
        here.stop().await;
    }
}

#[tokio::test]
async fn a_notification_is_not_answered_be_it_right_or_wrong() {
    let (ours, theirs) = addresses();
    let here = waiting(ours, theirs, None);
    let mut short = framed(NOTIFICATION, &[]);
    short.push(0);
    for last in [framed(NOTIFICATION, &[6, 2]), framed(NOTIFICATION, &[6]), short] {
        let mut router = Fake::connect(theirs, ours).await;
        router.establish(&open(theirs, false)).await;
        router.say(&last).await;
        ends_without_a_word(router).await;
    }
    here.stop().await;
}

#[tokio::test]
async fn a_router_that_flaps_fills_no_log_and_is_taken_when_it_has_come_to_rest() {
    let (ours, theirs) = addresses();
    let place = Place::new();
    let _world = place.start();
    let config = configured(&place, ours, theirs, "passive = true", EDGE);
    let listen = format!("[bgp]\nlisten = [\"{ours}:{PORT}\"]");
    let text = std::fs::read_to_string(&config).unwrap().replace("[bgp]", &listen);
    std::fs::write(&config, text).unwrap();
    let _running = start(&place, &config);
    for round in 0..100 {
        let mut router = Fake::connect(theirs, ours).await;
        // Each time for another reason than the time before. Some come in, and some are turned away.
        let said = [open(theirs, false).encode(), framed(NOTIFICATION, &[6, round % 10])].concat();
        let _ = router.stream.write_all(&said).await;
        while router.next().await.is_some() {}
    }
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let mut router = Fake::connect(theirs, ours).await;
        if router.try_establish(&open(theirs, false)).await {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "it is not taken any more");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let log = std::fs::read_to_string(place.folder.path().join("log")).unwrap();
    let lines = log.lines().filter(|line| line.contains("the peer ended the session")).count();
    assert!((3..=10).contains(&lines), "{lines} lines\n{log}");
}

/// The hosts that an UPDATE announces rules for.
fn hosts(update: &[u8]) -> BTreeSet<u8> {
    let destination = |bytes: &[u8]| match bytes {
        [1, 32, 203, 0, 113, host] => Some(*host),
        _ => None,
    };
    update.windows(6).filter_map(destination).collect()
}

#[tokio::test]
async fn after_a_crash_a_router_that_retains_is_told_all_of_the_ledger_before_the_end_of_it() {
    let (ours, theirs) = addresses();
    let end = listen(theirs);
    let place = Place::new();
    let world = place.start();
    let config = configured(&place, ours, theirs, "on_loss = \"retain\"\nretain_for = \"2m\"", EDGE);
    let running = start(&place, &config);
    let mut router = Fake::accept(&end).await;
    router.establish(&open(theirs, true)).await;
    let attacked: BTreeSet<u8> = (10..20).collect();
    for host in &attacked {
        world.change(&format!("203.0.113.{host}"), Phase::Attack);
    }
    let mut told = BTreeSet::new();
    while told != attacked {
        told.extend(hosts(&router.next_of(UPDATE).await));
    }
    // Until the ledger knows that they are in force.
    let ctl = place.folder.path().join("controlplane.sock").display().to_string();
    let listed = || {
        let ctl = ["--socket", &ctl, "mitigations", "list", "-o", "json"];
        super::daemon::ask(std::path::Path::new(env!("CARGO_BIN_EXE_leveectl")), &ctl)
    };
    let reads = tokio::spawn(async move { while router.next().await.is_some() {} });
    until("all of them in force", || {
        let listed = listed();
        if listed.matches("ACTIVE").count() >= attacked.len() { Ok(()) } else { Err(listed) }
    })
    .await;
    signal(&running, Signal::SIGKILL);
    reads.await.unwrap();
    drop(running);
    // The dataplane is gone, too: nobody can say again what is attacked.
    drop(world);
    let _running = start(&place, &config);
    let mut router = Fake::accept(&end).await;
    router.establish(&open(theirs, true)).await;
    let mut again = BTreeSet::new();
    loop {
        let update = router.next_of(UPDATE).await;
        let found = hosts(&update);
        if found.is_empty() {
            break;
        }
        // Of MP_REACH_NLRI: an UPDATE that withdraws has nothing before it.
        assert_ne!(update.get(5), Some(&15), "{update:02x?} withdraws");
        again.extend(found);
    }
    assert_eq!(again, attacked, "what is not told before the end is dropped, and comes again");
}

#[tokio::test]
async fn what_was_kept_is_called_complete_when_everything_is_put_back_and_not_before() {
    let (ours, theirs) = addresses();
    let end = listen(theirs);
    let mut settings = peer(ours, theirs);
    settings.terms.retain = Some(120);
    let here = Speaker::default();
    here.configure(&Settings { peers: vec![settings], ..Settings::default() });
    here.restore(ANNOUNCER, MitigationId(1), &blackhole("203.0.113.1"), LONG).unwrap();
    let mut router = Fake::accept(&end).await;
    router.establish(&open(theirs, true)).await;
    assert!(router.next_of(UPDATE).await.ends_with(&[32, 203, 0, 113, 1]));
    here.restore(ANNOUNCER, MitigationId(2), &blackhole("203.0.113.2"), LONG).unwrap();
    here.is_restored();
    let mut update = router.next_of(UPDATE).await;
    if here.clock() < Duration::from_secs(5) {
        assert!(update.ends_with(&[32, 203, 0, 113, 2]), "{update:02x?}");
        update = router.next_of(UPDATE).await;
        assert_eq!(update, [0, 0, 0, 0], "the end of IPv4");
    } else {
        eprintln!("this machine was too slow: what is complete was told by the clock");
    }
    here.stop().await;
}
