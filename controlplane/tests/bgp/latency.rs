//! How long it takes from what the dataplane tells to the rule in the router's table, through the whole control plane: the core,
//! its store on a disk, the speaker, TCP and BIRD, by BIRD's own log.

use std::time::{SystemTime, UNIX_EPOCH};

use levee_engine::detect::event::Phase;

use super::bird::Bird;
use super::dataplane::Place;
use super::process::{EDGE, configured, start};
use super::world::addresses;

/// Attacks, one after the other, whose rules all stay.
const ATTACKS: usize = 200;

#[tokio::test]
async fn the_time_from_an_event_to_the_rule_in_the_routers_table_is_told() {
    let (ours, theirs) = addresses();
    let Some(bird) = Bird::start(tempfile::tempdir().unwrap(), ours, theirs, "debug { routes };") else { return };
    bird.is_up().await;
    let place = Place::new();
    let world = place.start();
    let config = configured(&place, ours, theirs, "max_routes = 1000", EDGE);
    let text = std::fs::read_to_string(&config).unwrap();
    let room = "[guardrails]\nmax_flowspec_rules = 1000\nmax_changes_per_minute = 10000\n";
    std::fs::write(&config, text.replace("[guardrails]\n", room)).unwrap();
    let _running = start(&place, &config);
    bird.session().await;
    let mut times = Vec::new();
    for host in 10..10 + ATTACKS {
        let added = format!("added [best] flow4 {{ dst 203.0.113.{host}/32;");
        let told = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        world.change(&format!("203.0.113.{host}"), Phase::Attack);
        let at = bird.logged(&added).await;
        times.push(at as f64 / 1e3 - told.as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1];
    let slowest = times[times.len() - 1];
    println!(
        "from an event of the dataplane to the rule in BIRD's table, {ATTACKS} rules: p50 {:.1} ms, p99 {:.1} ms, at most {slowest:.1} ms",
        at(50),
        at(99)
    );
}
