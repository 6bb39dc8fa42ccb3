//! Targets as a tree: hosts, and the prefixes of a zone that contain them.
//!
//! Every node is judged alike. A prefix counts what its members do not already answer for: traffic of a member that is
//! alarmed by itself stays with that member, until so many members are alarmed that the prefix is the target (carpet
//! bombing, also host after host).

use std::collections::HashMap;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use levee_api::prefix::Prefix;
use levee_api::role::{Role, RoleSet};
use levee_api::time::Timestamp;

use crate::detect::distinct::Distinct;
use crate::detect::event::Phase;
use crate::detect::followed::Followed;
use crate::detect::late::Late;
use crate::detect::track::Track;
use crate::detect::window::{Window, as_f32};
use crate::detect::witness::Usual;
use crate::isa::prefetch_whole;
use crate::target::counters::{COUNTED_ROLES, Totals};

/// Prefix levels that are summed, longest first.
const LEVELS_V4: [u8; 4] = [24, 22, 20, 16];
const LEVELS_V6: [u8; 4] = [64, 56, 48, 32];
/// This many members alarmed within [`CARPET_MEMORY`] make the prefix the target.
const CARPET_MEMBERS: usize = 4;
const CARPET_MEMORY: Duration = Duration::from_secs(10);
/// Most nodes; beyond that new hosts count for their prefix only.
const MAX_NODES: usize = 1 << 19;
/// A host without traffic for this long is forgotten, if nothing was learned that matters.
const IDLE: Duration = Duration::from_secs(600);

/// Index of a node.
pub type NodeId = u32;

/// One target.
#[derive(Debug)]
pub struct Node {
    /// The host or prefix.
    pub prefix: Prefix,
    /// Index of its zone.
    pub zone: u16,
    /// How many times a host's floor its own floor is.
    pub scale: f32,
    /// 0 for hosts, growing towards wider prefixes.
    pub depth: u8,
    /// The next wider prefix.
    pub parent: Option<NodeId>,
    /// Per role that was ever seen; what is inside conversations only where there is much of it.
    pub tracks: [Option<Box<Track>>; Role::COUNT],
    /// What witnesses look at.
    pub window: Window,
    /// The same, tick by tick, while it is hot.
    pub followed: Option<Box<Followed>>,
    /// What is usual for them.
    pub usual: Usual,
    /// Packets inside conversations, and since when: of hosts, for [`Usual::heaviest`].
    pub established: (f32, Timestamp),
    /// Of [`Usual::heaviest`], what may become usual.
    pub late_heaviest: Late<f32>,
    /// What may become usual, if no alarm follows.
    pub late: Late<Pending>,
    /// What arrived in the current tick.
    pub delta: Totals,
    /// Number of the tick in which it last had traffic.
    pub touched: u64,
    /// The same as a time.
    pub last_traffic: Timestamp,
    /// What passed in peace over the last minute.
    pub peace: Peace,
    /// Packets and bytes and drops since the last report of rates.
    pub since_report: Load,
    /// Packets per second that it sends while it is attacked, smoothed over some seconds.
    pub sending: Option<f32>,
    /// Who attacks it.
    pub sources: Option<Box<Distinct>>,
    /// Its computed slot, if it is a host that has one.
    pub slot: Option<u32>,
    /// It is on the list of those that are looked at without traffic.
    pub hot: bool,
    /// Workers know that it is alarmed.
    pub marked: bool,
    /// Its roles that were out of their normal state when the last tick ended, so that its members need not look at each.
    pub phases: Phases,
    /// Its roles that a prefix around it decided about when it was last looked at.
    pub covered: RoleSet,
    /// Members that were alarmed lately, per role.
    alarmed: Option<Box<Alarmed>>,
}

/// What waits for an answer: the most that was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pending {
    /// SYNs without a handshake.
    pub half_open: f32,
    /// Datagrams without an answer.
    pub unanswered: f32,
}

impl Pending {
    /// The larger of both.
    pub fn most(&mut self, other: &Self) {
        self.half_open = self.half_open.max(other.half_open);
        self.unanswered = self.unanswered.max(other.unanswered);
    }
}

/// Roles by state, but for the normal one.
#[derive(Clone, Copy, Debug)]
pub struct Phases {
    /// In WATCH.
    pub watch: RoleSet,
    /// In ATTACK.
    pub attack: RoleSet,
    /// In HOLD.
    pub hold: RoleSet,
}

impl Default for Phases {
    fn default() -> Self {
        Self { watch: RoleSet::NONE, attack: RoleSet::NONE, hold: RoleSet::NONE }
    }
}

/// Members that were alarmed and when, the newest last, per role.
type Alarmed = [VecDeque<(NodeId, Timestamp)>; Role::COUNT];

/// Sums for reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Dropped by filters.
    pub dropped: u64,
    /// Packets from inside.
    pub outbound: u64,
}

impl Load {
    /// Adds a tick.
    pub fn add(&mut self, delta: &Totals) {
        self.packets += u64::from(delta.packets);
        self.bytes += u64::from(delta.bytes);
        self.outbound += u64::from(delta.outbound);
        self.dropped += delta.dropped.iter().chain([&delta.blocked]).map(|dropped| u64::from(*dropped)).sum::<u64>();
    }
}

/// How much of a target's traffic each role was in peace, over about a minute. Counts enter two seconds late, so that the
/// first moments of an attack are not taken for peace.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peace {
    /// Packets.
    pub packets: f32,
    /// Packets per role.
    pub roles: [f32; COUNTED_ROLES],
    /// Packets from inside and seconds of peace, over about an hour.
    outbound: (f32, f32),
    slots: [Slot; 2],
    since: Timestamp,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    packets: f32,
    roles: [f32; COUNTED_ROLES],
    outbound: f32,
    seconds: f32,
    disturbed: bool,
}

const PEACE_SLOT: Duration = Duration::from_secs(1);
const PEACE_MEMORY_S: f32 = 60.0;
const OUTBOUND_MEMORY_S: f32 = 3_600.0;
/// What a target usually sends is not known from less time and fewer packets.
const ENOUGH_OUTBOUND: (f32, f32) = (200.0, 60.0);

impl Peace {
    /// Adds a tick. `calm`: no role of the target is alarmed.
    pub fn add(&mut self, delta: &Totals, calm: bool, now: Timestamp) {
        let elapsed = now.since(self.since);
        if elapsed >= PEACE_SLOT {
            let [older, newer] = self.slots;
            // An alarm in the slot after it disturbs a slot too: the attack may have begun before it was noticed.
            if !older.disturbed && !newer.disturbed && calm {
                let keep = (-elapsed.as_secs_f32() / PEACE_MEMORY_S).exp();
                self.packets = self.packets * keep + older.packets;
                for (sum, more) in self.roles.iter_mut().zip(&older.roles) {
                    *sum = *sum * keep + more;
                }
                let keep = (-older.seconds / OUTBOUND_MEMORY_S).exp();
                let (packets, seconds) = self.outbound;
                self.outbound = (packets * keep + older.outbound, seconds * keep + older.seconds);
            }
            self.slots = [Slot { seconds: elapsed.as_secs_f32(), ..newer }, Slot::default()];
            self.since = now;
        }
        let [_, newest] = &mut self.slots;
        newest.disturbed |= !calm;
        newest.packets += as_f32(delta.packets);
        newest.outbound += as_f32(delta.outbound);
        for (sum, more) in newest.roles.iter_mut().zip(&delta.roles) {
            *sum += as_f32(*more);
        }
    }

    /// Packets per second that are usually sent from inside; none: not known.
    pub fn outbound_pps(&self) -> Option<f32> {
        let ((packets, seconds), (enough, long)) = (self.outbound, ENOUGH_OUTBOUND);
        (packets >= enough && seconds >= long).then(|| packets / seconds)
    }

    /// Packets of a role.
    pub fn role(&self, role: Role) -> f32 {
        self.roles.get(role.index()).copied().unwrap_or(0.0)
    }
}

impl Node {
    /// The track of a role, if it was ever seen.
    pub fn track(&self, role: Role) -> Option<&Track> {
        self.tracks.get(role.index())?.as_deref()
    }

    /// The track of a role, if it was ever seen.
    pub fn track_mut(&mut self, role: Role) -> Option<&mut Track> {
        self.tracks.get_mut(role.index())?.as_deref_mut()
    }

    /// State of a role.
    pub fn phase(&self, role: Role) -> Phase {
        self.track(role).map_or(Phase::Normal, |track| track.phase)
    }

    /// True when no role is out of its normal state.
    pub fn is_calm(&self) -> bool {
        self.tracks.iter().flatten().all(|track| track.phase == Phase::Normal)
    }

    /// True when what conversations do not explain is in peace, or waits for an attack to come back.
    pub fn is_peaceful(&self) -> bool {
        let unexplained = self.tracks.iter().take(COUNTED_ROLES).flatten();
        unexplained.into_iter().all(|track| matches!(track.phase, Phase::Normal | Phase::Hold))
    }

    /// True when it needs no attention while it has no traffic.
    pub fn is_idle(&self) -> bool {
        self.tracks.iter().flatten().all(|track| track.is_idle())
    }

    /// The same, and what it receives needs none either as long as prefixes around it decide about it.
    pub fn is_quiet(&self) -> bool {
        let tracks = Role::ALL.into_iter().zip(&self.tracks);
        tracks
            .filter_map(|(role, track)| Some((role, track.as_ref()?)))
            .all(|(role, track)| track.is_idle() || (track.phase == Phase::Normal && self.covered.contains(role)))
    }

    /// Notes which roles are out of their normal state.
    pub fn note_phases(&mut self) {
        self.phases = Phases::default();
        for (role, track) in Role::ALL.into_iter().zip(&self.tracks) {
            let of = match track.as_ref().map_or(Phase::Normal, |track| track.phase) {
                Phase::Normal => continue,
                Phase::Watch => &mut self.phases.watch,
                Phase::Attack => &mut self.phases.attack,
                Phase::Hold => &mut self.phases.hold,
            };
            *of = of.union(role.set());
        }
    }

    /// Takes over all that is known of the same target under another plan.
    pub fn take_over(&mut self, old: Self) {
        self.tracks = old.tracks;
        (self.window, self.usual, self.late, self.peace) = (old.window, old.usual, old.late, old.peace);
        self.late_heaviest = old.late_heaviest;
        (self.since_report, self.last_traffic) = (old.since_report, old.last_traffic);
    }

    /// Notes that a member is alarmed.
    pub fn member_alarmed(&mut self, member: NodeId, role: Role, now: Timestamp) {
        let Some(members) = self.alarmed.get_or_insert_default().get_mut(role.index()) else { return };
        members.retain(|(known, at)| *known != member && now.since(*at) < CARPET_MEMORY);
        members.push_back((member, now));
        if members.len() > 2 * CARPET_MEMBERS {
            members.pop_front();
        }
    }

    /// True when so many members are alarmed that the prefix itself is the target.
    pub fn is_carpet(&self, role: Role) -> bool {
        let members = self.alarmed.as_ref().and_then(|alarmed| alarmed.get(role.index()));
        members.is_some_and(|members| members.len() >= CARPET_MEMBERS)
    }
}

/// All targets.
#[derive(Debug, Default)]
pub struct Nodes {
    all: Vec<Option<Node>>,
    free: Vec<NodeId>,
    index: HashMap<Prefix, NodeId>,
}

impl Nodes {
    /// Asks for a node.
    pub(in crate::detect) fn prefetch(&self, id: NodeId) {
        // Whether there is one is for later: to know it is to wait for it.
        if let Some(node) = usize::try_from(id).ok().and_then(|at| self.all.get(at)) {
            prefetch_whole(node);
        }
    }

    /// Asks for the tracks of a node, which has been asked for before.
    pub(in crate::detect) fn prefetch_tracks(&self, id: NodeId) {
        let tracks = self.get(id).into_iter().flat_map(|node| node.tracks.iter().flatten());
        tracks.for_each(|track| prefetch_whole(&**track));
    }

    /// A node.
    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.all.get(usize::try_from(id).ok()?)?.as_ref()
    }

    /// A node.
    pub fn get_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.all.get_mut(usize::try_from(id).ok()?)?.as_mut()
    }

    /// The node of a prefix.
    pub fn find(&self, prefix: &Prefix) -> Option<NodeId> {
        self.index.get(prefix).copied()
    }

    /// All nodes with their index.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.all.iter().enumerate().filter_map(|(id, node)| Some((NodeId::try_from(id).ok()?, node.as_ref()?)))
    }

    /// All targets by themselves.
    pub fn into_nodes(self) -> Vec<Node> {
        self.all.into_iter().flatten().collect()
    }

    /// The node of a host, made with its prefixes if it is new; when there is no room, the narrowest prefix's.
    pub fn host(&mut self, address: IpAddr, zone: u16, zone_prefix: Prefix, now: Timestamp) -> Option<NodeId> {
        let host = Prefix::host(address);
        if let Some(known) = self.find(&host) {
            return Some(known);
        }
        let parent = self.prefixes(address, zone, zone_prefix, now);
        self.node(host, zone, 0, 1.0, parent, now).or(parent)
    }

    /// The node of the narrowest prefix around a host, made with the others if it is new.
    pub fn prefixes(&mut self, address: IpAddr, zone: u16, zone_prefix: Prefix, now: Timestamp) -> Option<NodeId> {
        let mut parent = None;
        for (above, (length, scale)) in levels(zone_prefix).into_iter().enumerate().rev() {
            let depth = u8::try_from(above + 1).unwrap_or(u8::MAX);
            parent = self.node(Prefix::containing(address, length), zone, depth, scale, parent, now).or(parent);
        }
        parent
    }

    fn node(
        &mut self,
        prefix: Prefix,
        zone: u16,
        depth: u8,
        scale: f32,
        parent: Option<NodeId>,
        now: Timestamp,
    ) -> Option<NodeId> {
        if let Some(known) = self.find(&prefix) {
            return Some(known);
        }
        if self.index.len() >= MAX_NODES {
            return None;
        }
        let node = Node {
            prefix,
            zone,
            scale,
            depth,
            parent,
            tracks: Default::default(),
            window: Window { updated: now, ..Window::default() },
            followed: None,
            usual: Usual::default(),
            established: (0.0, now),
            late_heaviest: Late::default(),
            late: Late::default(),
            delta: Totals::default(),
            touched: 0,
            last_traffic: now,
            peace: Peace { since: now, ..Peace::default() },
            since_report: Load::default(),
            sending: None,
            sources: None,
            slot: None,
            hot: false,
            marked: false,
            phases: Phases::default(),
            covered: RoleSet::NONE,
            alarmed: Default::default(),
        };
        let id = match self.free.pop() {
            Some(id) => {
                *self.all.get_mut(usize::try_from(id).ok()?)? = Some(node);
                id
            }
            None => {
                self.all.push(Some(node));
                NodeId::try_from(self.all.len() - 1).ok()?
            }
        };
        self.index.insert(prefix, id);
        Some(id)
    }

    /// The node of a whole prefix of a zone, above its hosts where it is one of their levels.
    pub fn aggregate(&mut self, prefix: Prefix, zone: u16, now: Timestamp) -> Option<NodeId> {
        let above = levels(prefix).iter().position(|(length, _)| *length == prefix.length()).unwrap_or(LEVELS_V4.len());
        self.node(prefix, zone, u8::try_from(above + 1).unwrap_or(u8::MAX), scale(prefix, prefix), None, now)
    }

    /// Forgets a host that has been idle for long; its counters are read anew if it comes back.
    pub fn forget_if_idle(&mut self, id: NodeId, now: Timestamp) -> bool {
        let forget = self.get(id).is_some_and(|node| {
            node.depth == 0
                && !node.prefix.is_ipv4()
                && node.is_idle()
                && now.since(node.last_traffic) > IDLE
                && node.tracks.iter().flatten().all(|track| track.baseline.largest < 10.0)
        });
        if forget && let Some(entry) = usize::try_from(id).ok().and_then(|at| self.all.get_mut(at)) {
            if let Some(node) = entry.take() {
                self.index.remove(&node.prefix);
            }
            self.free.push(id);
        }
        forget
    }

    /// Highest index in use plus one.
    pub fn end(&self) -> NodeId {
        NodeId::try_from(self.all.len()).unwrap_or(NodeId::MAX)
    }
}

/// How many times that of a host the floor of a target is, within a prefix of its zone.
pub fn scale(target: Prefix, zone_prefix: Prefix) -> f32 {
    let level = levels(zone_prefix).into_iter().find(|(length, _)| *length == target.length());
    level.map_or(if target.is_host() { 1.0 } else { WIDEST }, |(_, scale)| scale)
}

/// Of prefixes wider than all levels.
const WIDEST: f32 = 8.0;

/// The prefix lengths above a host of a zone prefix, with their scale of floors, longest first.
fn levels(zone_prefix: Prefix) -> Vec<(u8, f32)> {
    let lengths = if zone_prefix.is_ipv4() { LEVELS_V4 } else { LEVELS_V6 };
    let mut levels: Vec<(u8, f32)> = Vec::new();
    for (length, scale) in lengths.into_iter().zip([2.0, 3.0, 4.0, WIDEST]) {
        let length = length.max(zone_prefix.length());
        if levels.last().is_none_or(|(last, _)| length < *last) {
            levels.push((length, scale));
        }
    }
    levels.retain(|(length, _)| *length < if zone_prefix.is_ipv4() { 32 } else { 128 });
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(prefix: &str) -> Vec<u8> {
        levels(prefix.parse().unwrap()).into_iter().map(|(length, _)| length).collect()
    }

    #[test]
    fn levels_stay_inside_the_zone() {
        assert_eq!(lengths("203.0.113.0/24"), [24]);
        assert_eq!(lengths("203.0.113.64/26"), [26]);
        assert_eq!(lengths("203.0.113.1/32"), [0_u8; 0]);
        assert_eq!(lengths("198.18.0.0/15"), [24, 22, 20, 16]);
        assert_eq!(lengths("198.18.4.0/23"), [24, 23]);
        assert_eq!(lengths("2001:db8::/48"), [64, 56, 48]);
    }

    #[test]
    fn a_host_hangs_below_its_prefixes() {
        let mut nodes = Nodes::default();
        let zone: Prefix = "198.18.0.0/15".parse().unwrap();
        let host = nodes.host("198.18.16.9".parse().unwrap(), 0, zone, Timestamp::ZERO).unwrap();
        let mut chain = Vec::new();
        let mut at = Some(host);
        while let Some(id) = at {
            let node = nodes.get(id).unwrap();
            chain.push(node.prefix.to_string());
            at = node.parent;
        }
        assert_eq!(chain, ["198.18.16.9/32", "198.18.16.0/24", "198.18.16.0/22", "198.18.16.0/20", "198.18.0.0/16"]);
        assert_eq!(nodes.host("198.18.16.9".parse().unwrap(), 0, zone, Timestamp::ZERO), Some(host));
    }

    #[test]
    fn the_first_moments_of_an_attack_are_not_peace() {
        let mut peace = Peace::default();
        let mut now = Timestamp::ZERO;
        let mut tick = |packets: u32, acks: u32, calm: bool, peace: &mut Peace| {
            now = now + Duration::from_millis(10);
            let mut delta = Totals { packets, ..Totals::default() };
            delta.roles[Role::OutOfState.index()] = acks;
            peace.add(&delta, calm, now);
        };
        for _ in 0..1_000 {
            tick(10, 0, true, &mut peace);
        }
        for _ in 0..5 {
            tick(20, 10, true, &mut peace);
        }
        for _ in 0..500 {
            tick(300, 290, false, &mut peace);
        }
        assert!(peace.packets > 5_000.0);
        assert_eq!(peace.role(Role::OutOfState), 0.0);
    }
}
