//! What rules would have done to legitimate traffic: asked before somebody upstream, who cannot tell it from the attack, drops by
//! them.

use levee_api::filter::Rule;
use levee_api::prefix::Prefix;
use levee_api::role::{Role, RoleSet};

use crate::detect::detector::Detector;
use crate::detect::zone::ZoneState;
use crate::sample::Sample;
use crate::target::plan::destination_address;

/// Fewer samples of a target say nothing about a share of a few per cent.
const ENOUGH: u32 = 100;
/// Samples of a role that are looked at: a tick has to go on.
const MOST: usize = 1024;
/// Roles without samples may be this part of the traffic: of more than that nothing is known.
const UNSAMPLED: f64 = 0.1;

/// What rules would have hit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LegitimateShare {
    /// Part of the packets that the target received during its last minute of peace, from 0 to 1; none: not known.
    pub share: Option<f64>,
    /// Samples that say so.
    pub samples: u32,
}

/// Samples of one kind, and how many of them rules hit.
#[derive(Clone, Copy, Default)]
struct Hits {
    all: u32,
    hit: u32,
}

impl Detector {
    /// Which part of a target's legitimate traffic at least one of the rules would have hit, each with the roles that it is for.
    ///
    /// How much of its traffic was of which role is what was counted during its last minute of peace; what packets of a role
    /// look like is told by the samples that signatures are checked against, of this target.
    pub fn legitimate_share(&self, target: &Prefix, rules: &[(RoleSet, &Rule)]) -> LegitimateShare {
        let node = self.nodes.find(target).and_then(|id| self.nodes.get(id));
        let Some((node, zone)) = node.and_then(|node| Some((node, self.zones.get(usize::from(node.zone))?))) else {
            return LegitimateShare::default();
        };
        let peace = &node.peace;
        let counted: f32 = Role::ALL.into_iter().map(|role| peace.role(role)).sum();
        let of_role = Role::ALL.into_iter().filter(|role| *role != Role::Established);
        let of_role = of_role.map(|role| (peace.role(role), hits(zone, role, false, target, rules)));
        // What conversations explain has no role of its own among the samples: all examples of it stand for all of it.
        let explained = Role::ALL.into_iter().map(|role| hits(zone, role, true, target, rules));
        let explained =
            explained.fold(Hits::default(), |sum, more| Hits { all: sum.all + more.all, hit: sum.hit + more.hit });
        let parts = of_role.chain([((peace.packets - counted).max(0.0), explained)]);
        let (mut packets, mut unknown, mut hit, mut samples) = (0.0, 0.0, 0.0, 0);
        for (count, Hits { all, hit: of_them }) in parts.map(|(count, hits)| (f64::from(count), hits)) {
            packets += count;
            samples += all;
            if all == 0 {
                unknown += count;
            } else {
                hit += count * f64::from(of_them) / f64::from(all);
            }
        }
        let is_known = samples >= ENOUGH && packets > 0.0 && unknown <= UNSAMPLED * packets;
        LegitimateShare { share: is_known.then(|| (hit / (packets - unknown)).clamp(0.0, 1.0)), samples }
    }
}

fn hits(zone: &ZoneState, role: Role, explained: bool, target: &Prefix, rules: &[(RoleSet, &Rule)]) -> Hits {
    let reservoirs = if explained { &zone.explained } else { &zone.reservoirs };
    let samples = reservoirs.get(role.index()).into_iter().flat_map(|reservoir| reservoir.samples());
    let samples = samples.filter(|sample| target.contains(destination_address(&sample.lanes))).take(MOST);
    let is = if explained { Role::Established } else { role };
    samples.fold(Hits::default(), |sum, sample| Hits {
        all: sum.all + 1,
        hit: sum.hit + u32::from(rules.iter().any(|(roles, rule)| roles.contains(is) && selects(rule, sample))),
    })
}

fn selects(rule: &Rule, sample: &Sample) -> bool {
    let payload = sample.payload.get(..usize::from(sample.present)).unwrap_or_default();
    rule.contains(&sample.lanes.0, payload)
}
