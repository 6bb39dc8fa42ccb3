//! FlowSpec rules and actions.

use levee_controlplane::bgp::flowspec::{Component, Nlri, TrafficAction, Version};

use super::damage::{pick, some};
use super::{fuzz, seeds};

#[test]
fn a_damaged_rule_is_read_or_refused_and_what_is_sent_of_it_means_the_same() {
    let rules = seeds::rules();
    let (mut read, mut sent) = (0_u64, 0_u64);
    let damaged = |chance: &mut super::Chance| {
        let mut bytes = pick(chance, &rules).1.clone();
        let elsewhere = &pick(chance, &rules).1;
        some(&mut bytes, elsewhere, chance);
        // Most of the time the length is right, so that what follows is read.
        if !bytes.is_empty() && bytes.len() <= 240 && chance.percent(80) {
            bytes[0] = u8::try_from(bytes.len() - 1).unwrap();
        }
        bytes
    };
    fuzz("rules", damaged, |bytes, _| {
        for version in [Version::V4, Version::V6] {
            let Ok((rule, taken)) = Nlri::decode(version, bytes) else { continue };
            read += 1;
            assert!(taken <= bytes.len() && !rule.to_string().is_empty());
            assert!(rule.components.windows(2).all(|pair| pair[0].kind() < pair[1].kind()), "{rule}");
            let Ok(ours) = rule.encode() else { continue };
            sent += 1;
            assert!(matches!(rule.components.first(), Some(Component::Destination(_))), "{rule}");
            assert_eq!(Nlri::decode(version, &ours), Ok((rule, ours.len())));
        }
        for eight in bytes.as_chunks().0 {
            let action = TrafficAction::decode(*eight);
            assert!(!action.to_string().is_empty());
            // Rates need not be numbers: compared are bytes.
            let again = TrafficAction::decode(action.encode());
            assert_eq!(again.encode(), action.encode());
        }
    });
    assert!(read > 5_000 && sent > 2_000, "damage that nothing is left of finds nothing: {read} read, {sent} sent");
}
