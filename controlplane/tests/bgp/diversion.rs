//! Diversions as operators have them: Levee says so to a router of ours, which withdraws the prefix from one network, makes its
//! path longer to another, and announces it to the scrubber. `docs/how-to/connect-routers.md` has the same router.

use std::net::Ipv4Addr;

use levee_controlplane::bgp::route::Community;
use levee_controlplane::ledger::Spec;

use super::bird::Bird;
use super::world::{OUR_AS, PORT, addresses, announce, is_established, peer, prefix, speaker, withdraw};

/// What the router looks for.
const DIVERTED: &str = "(64496,911) ~ bgp_community";

/// A network that hears what the router tells it.
fn network(router: Ipv4Addr, at: Ipv4Addr, asn: u32) -> Option<Bird> {
    let config = format!(
        "protocol bgp levee {{ local {at} port {PORT} as {asn}; neighbor {router} as {OUR_AS}; passive on; multihop;\n\
         strict bind yes; ipv4 {{ import all; export none; gateway recursive; }}; }}\n"
    );
    Bird::with(tempfile::tempdir().unwrap(), at, &config)
}

fn neighbor(name: &str, router: Ipv4Addr, at: Ipv4Addr, asn: u32, export: &str) -> String {
    format!(
        "protocol bgp {name} {{ local {router} as {OUR_AS}; neighbor {at} port {PORT} as {asn}; multihop; connect retry time 1;\n\
         connect delay time 0; ipv4 {{ import none; next hop self; export filter {{ {export} }}; }}; }}\n"
    )
}

#[tokio::test]
async fn a_prefix_is_withdrawn_from_one_network_prepended_to_another_and_announced_to_the_scrubber() {
    let ((ours, router), (transit, other), (scrubber, _)) = (addresses(), addresses(), addresses());
    let networks = [(transit, 64_500), (other, 64_501), (scrubber, 64_502)];
    let Some(networks) = networks.map(|(at, asn)| network(router, at, asn)).into_iter().collect::<Option<Vec<_>>>()
    else {
        return;
    };
    let config = [
        "protocol static { ipv4; route 203.0.113.0/24 unreachable; }\n".to_owned(),
        format!(
            "protocol bgp levee {{ local {router} port {PORT} as {OUR_AS}; neighbor {ours} as {OUR_AS}; passive on; multihop;\n\
             strict bind yes; ipv4 {{ import filter {{ preference = 300; accept; }}; export none; gateway recursive; }}; }}\n"
        ),
        neighbor("transit", router, transit, 64_500, &format!("if {DIVERTED} then reject; accept;")),
        neighbor(
            "second",
            router,
            other,
            64_501,
            &format!("if {DIVERTED} then {{ bgp_path.prepend({OUR_AS}); bgp_path.prepend({OUR_AS}); }} accept;"),
        ),
        neighbor("scrubber", router, scrubber, 64_502, &format!("if {DIVERTED} then accept; reject;")),
    ]
    .concat();
    let Some(bird) = Bird::with(tempfile::tempdir().unwrap(), router, &config) else { return };
    bird.is_up().await;

    let mut of_peer = peer(ours, router);
    of_peer.terms.peer_as = OUR_AS;
    of_peer.policy.divert = vec![Community(OUR_AS << 16 | 911)];
    let speaker = speaker(of_peer);
    bird.session().await;
    bird.holds("our half of the session", || is_established(&speaker)).await;

    let [transit, other, scrubber] = &networks[..] else { unreachable!() };
    let (net, once, thrice) = ("203.0.113.0/24", "BGP.as_path: 64496\n", "BGP.as_path: 64496 64496 64496\n");
    for network in [transit, other] {
        network.until("the prefix in quiet times", &[net, once], &[]).await;
    }
    assert!(!scrubber.routes().contains(net));

    announce(&speaker, 1, &Spec::Divert { prefix: prefix(net) }).await;
    transit.until("the withdrawal", &[], &[net]).await;
    other.until("the longer path", &[net, thrice], &[]).await;
    scrubber.until("the prefix at the scrubber", &[net, once], &[]).await;

    withdraw(&speaker, 1).await;
    scrubber.until("the end at the scrubber", &[], &[net]).await;
    for network in [transit, other] {
        network.until("the prefix as before", &[net, once], &[thrice]).await;
    }
}
