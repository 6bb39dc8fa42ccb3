//! What the newest samples of a role at a target say for or against an attack.

use std::net::IpAddr;
use std::time::Duration;

use levee_api::lane::{Bits, Lane};
use levee_api::prefix::Prefix;
use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::detect::detector::Detector;
use crate::detect::detector::answer::LEAST_PPS;
use crate::detect::detector::task::{MOST_SAMPLES, SAMPLE_WINDOW};
use crate::detect::followed;
use crate::detect::node::{Node, Peace};
use crate::detect::sources::Overrun;
use crate::detect::threshold::Bounds;
use crate::detect::track::{Track, is_own_witness};
use crate::detect::window::as_f32;
use crate::detect::witness::{self, Forged, Glance, Seen, Sizes, Witness};
use crate::detect::zone::ZoneState;
use crate::packet::icmp::is_echo_reply;
use crate::reflex;
use crate::sample::Sample;
use crate::target::plan::{destination_address, source_address};

/// A zone that was observed for less says nothing about what is rare in it.
const ENOUGH_OBSERVED: Duration = Duration::from_secs(10);
/// Fewer legitimate samples than this say nothing about their length.
const ENOUGH_LENGTHS: usize = 20;

impl Detector {
    /// Looks for a witness of a role at a target. `passed`: of what filters let pass.
    pub(super) fn witness(&self, node: &Node, role: Role, passed: bool, now: Timestamp) -> Option<Witness> {
        let zone = self.zones.get(usize::from(node.zone))?;
        let most =
            self.plan.zone(node.zone).map_or(f32::MAX, |of| Bounds::of(of, role, zone.observed, node.scale).floor);
        let rate = node.track(role).map_or(0.0, |track| if passed { track.residual_smooth } else { track.rate_smooth });
        let window = if passed { node.window.passed() } else { node.window };
        let services = if role == Role::UdpOpen { self.services_at(node, now) } else { Vec::new() };
        let seen = Seen {
            window: &window,
            followed: node.followed.as_ref().map(|followed| followed.counts(now)).unwrap_or_default(),
            glance: glance(zone, role, &node.prefix, passed, now),
            passed,
            excess: rate / most.max(self.threshold_of(node, role)).max(1.0),
            usual_segments: usual_segments(zone, node),
            services: &services,
            overrun: Overrun::default(),
            is_rare: is_rare(zone, &node.peace, node.track(role), role),
            usual: &node.usual,
            habits: &zone.habits,
            sees_inside: zone.sees_inside && zone.sight.is_heard(),
        };
        witness::look(role, &seen)
    }
}

/// True when a target had next to nothing of a role in peace. Where only one direction is seen there is hardly ever peace among
/// segments, which are all out of state: there it is what was learned of the role itself.
pub(super) fn is_rare(zone: &ZoneState, peace: &Peace, track: Option<&Track>, role: Role) -> bool {
    let is_quiet = || track.is_none_or(|track| track.baseline.largest < LEAST_PPS);
    reflex::is_rare(role, peace, &zone.peace)
        || (zone.is_one_way && zone.observed >= ENOUGH_OBSERVED && is_own_witness(role) && is_quiet())
}

/// True for roles whose samples can tell something, as far as the zone sees.
pub(super) fn is_telling(zone: &ZoneState, role: Role) -> bool {
    match role {
        Role::UdpOpen | Role::IcmpOther | Role::UdpUnserved => true,
        Role::OutOfState | Role::UnsolicitedResponse => !zone.sees_inside,
        _ => false,
    }
}

/// Looks through the newest samples of a role at a target. `passed`: senders whose first packet a filter dropped do not count.
pub(super) fn glance(zone: &ZoneState, role: Role, prefix: &Prefix, passed: bool, now: Timestamp) -> Glance {
    if !is_telling(zone, role) {
        return Glance::default();
    }
    let returns = zone.returns.get(role.index()).and_then(Option::as_deref);
    let returns = returns.map(|returns| returns.counts(prefix, passed, now)).unwrap_or_default();
    let newest = || newest(zone, role, prefix, now).filter(|sample| sample.passed);
    match role {
        Role::UdpOpen => {
            let is_forged = |sample: &Sample| sample.lanes.bits().contains(Bits::QUIC_FORGED);
            Glance { forged: count(newest(), is_forged), returns, ..Glance::default() }
        }
        Role::IcmpOther => {
            Glance { unasked: count(newest(), |s| is_echo_reply(&s.lanes)), returns, ..Glance::default() }
        }
        Role::UnsolicitedResponse => {
            let legitimate = zone.reservoirs.get(role.index()).map_or(&[][..], |reservoir| reservoir.samples());
            let usual = (legitimate.len() >= ENOUGH_LENGTHS).then(|| sizes(legitimate.iter()).now);
            Glance { sizes: Sizes { usual, ..sizes(newest()) }, ..Glance::default() }
        }
        _ => Glance { returns, ..Glance::default() },
    }
}

/// Segments that a target has at least in the time in which others have to follow an opening, where all of them are out of state.
pub(super) fn usual_segments(zone: &ZoneState, node: &Node) -> f32 {
    let track = node.track(Role::OutOfState).filter(|_| zone.is_one_way);
    track.map_or(0.0, |track| track.baseline.rates.quantile(0.1) * track.baseline.factor * followed::SPAN.as_secs_f32())
}

fn newest<'a>(zone: &'a ZoneState, role: Role, prefix: &'a Prefix, now: Timestamp) -> impl Iterator<Item = &'a Sample> {
    let recent = zone.recent.get(role.index());
    recent
        .into_iter()
        .flat_map(|recent| recent.iter().rev())
        .take_while(move |sample| now.since(sample.at) <= SAMPLE_WINDOW)
        .take(MOST_SAMPLES)
        .filter(|sample| prefix.contains(destination_address(&sample.lanes)))
}

fn count<'a>(samples: impl Iterator<Item = &'a Sample>, is: impl Fn(&Sample) -> bool) -> Forged {
    samples.fold(Forged::default(), |Forged { count, unroutable, of }, sample| Forged {
        count: count + u32::from(is(sample)),
        unroutable: unroutable + u32::from(is_unroutable(source_address(&sample.lanes))),
        of: of + 1,
    })
}

fn sizes<'a>(samples: impl Iterator<Item = &'a Sample>) -> Sizes {
    let (of, bytes) =
        samples.fold((0_u32, 0_u32), |(of, sum), sample| (of + 1, sum + u32::from(sample.lanes.get(Lane::IpLength))));
    Sizes { now: as_f32(bytes) / as_f32(of.max(1)), of, usual: None }
}

/// True for addresses that are nobody's on the internet (RFC 6890): this host, loopback, link-local, multicast, reserved.
fn is_unroutable(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first == 0 || first >= 224 || v4.is_loopback() || v4.is_link_local()
        }
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local(),
    }
}
