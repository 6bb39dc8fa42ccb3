//! The driver of embedded announcers, from a configuration file to BIRD.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use levee_api::config::Config;
use levee_controlplane::bgp::speaker::Speaker;
use levee_controlplane::driver::{Driver, DriverError, Guard, OperationKey, OwnerTag, configured};
use levee_controlplane::guardrail::Guards;
use levee_controlplane::ledger::{Direction, Evidence, FlowAction, MitigationId, Spec};

use super::bird::Bird;
use super::world::{OUR_AS, PORT, THEIR_AS, addresses, amplification, blackhole, flowspec, prefix};

pub(super) fn config(ours: Ipv4Addr, theirs: Ipv4Addr, more: &str) -> Config {
    let text = format!(
        "schema = 1\n[guardrails]\nowned_prefixes = [\"203.0.113.0/24\"]\nprotected_prefixes = [\"203.0.113.1\"]\n\
         [[zone]]\nname = \"web\"\nprefixes = [\"203.0.113.0/24\"]\n\
         [[announcer]]\nname = \"core\"\nkind = \"embedded\"\n\
         [bgp]\nas = {OUR_AS}\nrouter_id = \"{ours}\"\n\
         [[bgp.peer]]\nname = \"upstream\"\nannouncer = \"core\"\naddress = \"{theirs}\"\nport = {PORT}\nas = {THEIR_AS}\n\
         local_address = \"{ours}\"\nhold_time = \"9s\"\n{more}\n"
    );
    Config::parse("levee.toml", &text).unwrap_or_else(|invalid| panic!("{:#?}", invalid.problems()))
}

pub(super) fn driver(config: &Config, speaker: Option<&Speaker>) -> Arc<dyn Driver> {
    let guards = Guards::new(config, []);
    let guard: Guard = Arc::new(move |spec, remaining| {
        guards.check_spec(spec)?;
        guards.check_ttl(remaining)
    });
    configured(config, &guard, &BTreeSet::new(), speaker).into_iter().find(|driver| driver.name().0 == "core").unwrap()
}

fn tag(id: u64) -> OwnerTag {
    OwnerTag { appliance: "levee".to_owned(), id: MitigationId(id) }
}

pub(super) async fn apply(driver: &Arc<dyn Driver>, id: u64, spec: &Spec) -> Result<Evidence, DriverError> {
    driver.apply(&OperationKey(format!("apply-{id}")), spec, &tag(id), Duration::from_secs(300)).await
}

pub(super) async fn withdraw(driver: &Arc<dyn Driver>, id: u64, spec: &Spec) -> Result<(), DriverError> {
    driver.withdraw(&OperationKey(format!("withdraw-{id}")), spec, &tag(id)).await
}

#[tokio::test]
async fn measures_are_in_force_when_a_peer_was_told_and_guardrails_hold_to_the_last() {
    let (ours, theirs) = addresses();
    let Some(bird) = Bird::start(tempfile::tempdir().unwrap(), ours, theirs, "") else { return };
    bird.is_up().await;
    let config = config(ours, theirs, "");
    let speaker = Speaker::default();
    let core = driver(&config, Some(&speaker));
    let limit = flowspec(amplification("203.0.113.7"), FlowAction::RateLimit { bps: 1_000_000 });
    assert_eq!(apply(&core, 1, &limit).await, Ok(Evidence::Advertised), "right after the start");
    assert_eq!(apply(&core, 2, &blackhole("203.0.113.9")).await, Ok(Evidence::Advertised));
    bird.until("both", &["203.0.113.7/32", "203.0.113.9/32", "(65535,65281)"], &[]).await;
    let observed = core.observe().await.unwrap();
    assert_eq!(
        observed.iter().map(|one| (one.id.0, one.spec.clone())).collect::<Vec<_>>(),
        [(1, limit.clone()), (2, blackhole("203.0.113.9"))]
    );
    assert!(observed.iter().all(|one| one.remaining.is_some_and(|left| left > Duration::from_secs(200))));
    for (refused, told) in [
        (blackhole("203.0.113.1"), "protected_prefixes"),
        (blackhole("198.51.100.1"), "owned_prefixes"),
        (flowspec(amplification("203.0.113.1"), FlowAction::RateLimit { bps: 1 }), "protected_prefixes"),
    ] {
        match apply(&core, 3, &refused).await {
            Err(DriverError::Refused(refusal)) => assert_eq!(refusal.guardrail, told),
            other => panic!("{refused}: {other:?}"),
        }
    }
    let redirect = flowspec(amplification("203.0.113.7"), FlowAction::Redirect { to: "64496:1".to_owned() });
    assert!(matches!(apply(&core, 4, &redirect).await, Err(DriverError::Incapable { .. })));
    let source = Spec::Blackhole { prefix: prefix("198.51.100.1"), direction: Direction::Source };
    assert!(matches!(apply(&core, 5, &source).await, Err(DriverError::Incapable { .. })));
    assert_eq!(withdraw(&core, 1, &limit).await, Ok(()));
    assert_eq!(withdraw(&core, 1, &limit).await, Ok(()), "what is not in force is no error");
    bird.until("the rest", &["203.0.113.9/32"], &["203.0.113.7/32"]).await;
    // The same file again, as after a reload: nothing is begun anew.
    let again = driver(&config, Some(&speaker));
    assert_eq!(again.observe().await.unwrap().len(), 1);
    assert_eq!(speaker.peers()[0].status.established, 1);
    speaker.stop().await;
    bird.until("nothing", &[], &["203.0.113.9"]).await;
}

/// As when a blackhole is stepped down to a rule that another stage has asked for already.
#[tokio::test]
async fn measures_that_ask_for_the_same_are_in_force_together_and_one_that_does_something_else_takes_their_place() {
    let (ours, theirs) = addresses();
    let Some(bird) = Bird::start(tempfile::tempdir().unwrap(), ours, theirs, "") else { return };
    bird.is_up().await;
    let speaker = Speaker::default();
    let core = driver(&config(ours, theirs, ""), Some(&speaker));
    let rule = || amplification("203.0.113.7");
    let limit = flowspec(rule(), FlowAction::RateLimit { bps: 1_000_000 });
    let drop = flowspec(rule(), FlowAction::Drop);
    let in_force = async || core.observe().await.unwrap().iter().map(|one| one.id.0).collect::<Vec<_>>();
    for id in [1, 2] {
        assert_eq!(apply(&core, id, &limit).await, Ok(Evidence::Advertised));
    }
    assert_eq!(in_force().await, [1, 2]);
    assert_eq!(apply(&core, 3, &drop).await, Ok(Evidence::Advertised));
    assert_eq!(in_force().await, [3]);
    match apply(&core, 1, &limit).await {
        Err(DriverError::Retryable { reason, .. }) => {
            assert!(reason.contains("upstream: measure 3, which does something else, has its place"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    bird.until("the drop", &["(generic, 0x80060000, 0x0)"], &[]).await;
    assert_eq!(withdraw(&core, 3, &drop).await, Ok(()));
    assert_eq!(in_force().await, [1, 2]);
    assert_eq!(withdraw(&core, 2, &limit).await, Ok(()));
    assert_eq!(in_force().await, [1]);
    bird.until("the limit", &["(generic, 0x80060000, 0x47f42400)"], &["(generic, 0x80060000, 0x0)"]).await;
    speaker.stop().await;
}

#[tokio::test]
async fn without_a_session_a_measure_fails_with_the_reason_and_is_announced_when_there_is_one() {
    let (ours, theirs) = addresses();
    if super::daemon::find(&["bird"]).is_none() {
        return;
    }
    let config = config(ours, theirs, "");
    let speaker = Speaker::default();
    let core = driver(&config, Some(&speaker));
    let spec = blackhole("203.0.113.9");
    match apply(&core, 1, &spec).await {
        Err(DriverError::Retryable { reason, .. }) => assert!(reason.contains("cannot connect"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(core.observe().await, Ok(Vec::new()), "what nobody was told is not in force");
    let bird = Bird::start(tempfile::tempdir().unwrap(), ours, theirs, "").unwrap();
    bird.until("the blackhole", &["203.0.113.9/32"], &[]).await;
    assert_eq!(apply(&core, 1, &spec).await, Ok(Evidence::Advertised));
    speaker.stop().await;
}

#[test]
fn what_a_dead_control_plane_left_behind_is_let_go_of_without_one() {
    let (ours, theirs) = addresses();
    let Some(bird) = Bird::start(tempfile::tempdir().unwrap(), ours, theirs, "") else { return };
    super::bird::dies(ours, theirs, Some(600), &bird);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        bird.until("what was left", &["203.0.113.9/32"], &[]).await;
        let config = config(ours, theirs, "on_loss = \"retain\"\nretain_for = \"10m\"");
        let one_shot = driver(&config, None);
        let spec = blackhole("203.0.113.9");
        assert_eq!(one_shot.end_unnamed().await, Ok(()), "also when no ledger names anything");
        bird.until("nothing", &[], &["203.0.113.9", "203.0.113.7/32"]).await;
        let folder = bird.kill();
        assert_eq!(withdraw(&one_shot, 2, &spec).await, Ok(()), "once is enough: no session is opened again");
        match withdraw(&driver(&config, None), 2, &spec).await {
            Err(DriverError::Retryable { reason, .. }) => assert!(reason.contains("600 s"), "{reason}"),
            other => panic!("{other:?}"),
        }
        drop(folder);
    });
}

#[tokio::test]
async fn a_peer_whose_password_is_missing_may_have_what_it_retains_and_keeps_its_session() {
    let (ours, theirs) = addresses();
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "sesame").unwrap();
    let retains = "on_loss = \"retain\"\nretain_for = \"10m\"";
    let config = config(ours, theirs, &format!("password = {{ file = {:?} }}\n{retains}", key.path()));
    let speaker = Speaker::default();
    driver(&config, Some(&speaker));
    let before = speaker.peers()[0].settings.clone();
    drop(key);
    driver(&config, Some(&speaker));
    assert_eq!(speaker.peers()[0].settings, before, "what runs is not ended for a password that cannot be read");
    let one_shot = driver(&config, None);
    for answer in [one_shot.end_unnamed().await, withdraw(&one_shot, 1, &blackhole("203.0.113.9")).await] {
        match answer {
            Err(DriverError::Retryable { reason, .. }) => {
                assert!(reason.contains("cannot read the secret"), "{reason}")
            }
            other => panic!("{other:?}"),
        }
    }
    speaker.stop().await;
}
