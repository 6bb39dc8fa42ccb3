//! What an attack costs its target, who sends it, and what a rule would cost the target's clients.

#[cfg(test)]
#[expect(dead_code, reason = "shared with tests of the engine, which use more of it")]
mod traffic;

use levee_api::filter::{HeaderBox, Rule};
use levee_api::lane::Lane;
use levee_api::prefix::Prefix;
use levee_api::role::RoleSet;
use levee_engine::detect::event::What;
use levee_engine::packet::Direction::Inbound;

use traffic::{SERVER, Site, udp, zone};

/// Seconds of a flood of datagrams that nobody answers, beside clients or without; what was told of it last.
fn flood(site: &mut Site, seconds: u64, with_clients: bool) -> (Option<f64>, Option<u64>) {
    for tick in 0..seconds * 100 {
        if with_clients {
            site.peace();
        }
        for n in 0..40 {
            site.send(Inbound, &udp(SERVER, tick * 40 + n, 9_999, 300));
        }
        site.tick();
    }
    let rates = site.told().into_iter().rev().find_map(|what| match what {
        What::Rates { goodput_ratio, sources, .. } => Some((goodput_ratio, sources)),
        _ => None,
    });
    rates.unwrap_or_default()
}

#[test]
fn goodput_is_as_usual_while_clients_are_served_and_falls_with_them() {
    let mut site = Site::learned(&[zone()]);
    // What is usual takes a minute to know.
    site.again(6_000);
    let (served, sources) = flood(&mut site, 8, true);
    assert!(served.is_some_and(|ratio| (0.7..1.5).contains(&ratio)), "{served:?}");
    assert!(sources.is_some_and(|sources| sources > 1_000), "{sources:?}");
    let (starved, _) = flood(&mut site, 12, false);
    assert!(starved.is_some_and(|ratio| ratio < 0.3), "{starved:?}");
    // Rates are told until it is certain that the attack does not come back: so that it has stopped is known.
    site.again(1_000);
    let last = site.told().into_iter().rev().find_map(|what| match what {
        What::Rates { pps, dropped_pps, goodput_ratio, .. } => Some((pps, dropped_pps, goodput_ratio)),
        _ => None,
    });
    let (pps, dropped_pps, goodput) = last.unwrap_or_default();
    assert!(pps > 0.0 && dropped_pps == 0.0 && goodput.is_some_and(|ratio| ratio > 0.5), "{last:?}");
}

#[test]
fn what_a_rule_would_do_to_clients_is_told_by_samples_of_them() {
    let mut site = Site::learned(&[zone()]);
    let server = Prefix::host(SERVER.into());
    let share = |site: &Site, target: &Prefix, matches: HeaderBox| {
        site.engine.detector.legitimate_share(target, &[(RoleSet::ALL, &Rule::of(matches))])
    };
    let everything = share(&site, &server, HeaderBox::any());
    assert!(everything.share.is_some_and(|share| share > 0.999), "{everything:?}");
    let tcp = share(&site, &server, HeaderBox::any().exact(Lane::Protocol, 6)).share.unwrap();
    let udp = share(&site, &server, HeaderBox::any().exact(Lane::Protocol, 17)).share.unwrap();
    assert!(tcp > 0.0 && udp >= 0.0 && tcp + udp <= 1.001, "{tcp} {udp}");
    let attack = HeaderBox::any().exact(Lane::Protocol, 17).exact(Lane::DstPort, 9_999);
    assert!(share(&site, &server, attack).share.is_some_and(|share| share < 0.001));
    let none: Prefix = "203.0.113.222/32".parse().unwrap();
    assert_eq!(share(&site, &none, HeaderBox::any()).share, None, "nobody has seen it");
    // It is of the time before the attack, also when that has lasted for a while.
    flood(&mut site, 5, true);
    assert!(share(&site, &server, attack).share.is_some_and(|share| share < 0.001));
}
