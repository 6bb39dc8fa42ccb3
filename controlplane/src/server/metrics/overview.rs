//! What the control plane says of itself.

use std::collections::BTreeMap;

use super::Sources;
use super::family::{
    APPROVALS, BGP_ROUTES, BGP_SESSIONS, BGP_STALLS, BGP_UP, BGP_WITHHELD, BMP_ERRORS, BMP_LEFT_OUT, BMP_MALFORMED,
    BMP_MESSAGES, BMP_REFUSED, BMP_ROUTERS, BMP_ROUTES, BMP_SESSIONS, BUILD, CALLS, CONFIRM, DATAPLANE_UP, Families,
    IN_VAIN, INCIDENTS, KILL_SWITCH, MESSAGES, MITIGATIONS, MODE, OPEN, OPERATIONS, STARTED, TROUBLES, WAITING,
};
use crate::bgp::bmp::Totals;
use crate::bgp::speaker::PeerView;
use crate::ledger::{Kind, State};
use crate::notify::ChannelView;
use crate::server::link::{DriverView, Knowledge};
use crate::server::zones::open_by_zone;
use levee_api::zone::Mode;

const INCIDENT_STATES: [&str; 3] = ["attack", "calm", "closed"];
const STATES: [State; 6] =
    [State::Planned, State::Applying, State::Active, State::Withdrawing, State::Ended, State::Failed];

/// Counted in one go by the loop of the core.
pub(super) struct Overview {
    incidents: BTreeMap<&'static str, u64>,
    open: BTreeMap<String, u64>,
    mitigations: BTreeMap<(Kind, State), u64>,
    in_vain: BTreeMap<Kind, u64>,
    approvals: usize,
    killed: bool,
    troubles: usize,
    on_trial: bool,
    drivers: Vec<DriverView>,
    channels: Vec<ChannelView>,
    peers: Vec<PeerView>,
    bmp: Option<Totals>,
}

impl Overview {
    pub(super) fn of(known: &dyn Knowledge) -> Self {
        let (mut incidents, mut mitigations) = (BTreeMap::new(), BTreeMap::new());
        let mut in_vain = BTreeMap::new();
        for incident in known.incidents() {
            *incidents.entry(incident.phase.name()).or_default() += 1;
        }
        for one in known.mitigations() {
            *mitigations.entry((one.spec.kind(), one.state)).or_default() += 1;
            if one.is_without_effect() {
                *in_vain.entry(one.spec.kind()).or_default() += 1;
            }
        }
        Self {
            incidents,
            open: open_by_zone(known),
            mitigations,
            in_vain,
            approvals: known.approvals().len(),
            killed: known.kill_switch().is_some_and(|switch| switch.engaged),
            troubles: known.troubles().len(),
            on_trial: known.confirm_by().is_some(),
            drivers: known.drivers(),
            channels: known.channels(),
            peers: known.bgp_peers(),
            bmp: known.bmp(),
        }
    }
}

/// Everything has a value from the beginning, zero where nothing has happened: a rate needs a first value.
pub(super) fn tell(families: &mut Families, sources: &Sources, known: &Overview, dataplane: bool) {
    families.put(BUILD, &[env!("CARGO_PKG_VERSION")], 1.0);
    families.put(STARTED, &[], sources.started);
    families.count(DATAPLANE_UP, &[], dataplane.into());
    families.count(KILL_SWITCH, &[], known.killed.into());
    families.count(TROUBLES, &[], known.troubles as u64);
    families.count(CONFIRM, &[], known.on_trial.into());
    families.count(APPROVALS, &[], known.approvals as u64);
    for state in INCIDENT_STATES {
        families.count(INCIDENTS, &[state], known.incidents.get(state).copied().unwrap_or_default());
    }
    for zone in &sources.handle.config().zones {
        let enforcing = zone.mode == Mode::Enforce && !known.killed;
        families.count(MODE, &[&zone.name], enforcing.into());
        families.count(OPEN, &[&zone.name], known.open.get(&zone.name).copied().unwrap_or_default());
    }
    for (kind, state) in Kind::ALL.into_iter().flat_map(|kind| STATES.map(|state| (kind, state))) {
        let count = known.mitigations.get(&(kind, state)).copied().unwrap_or_default();
        families.count(MITIGATIONS, &[kind.name(), state.name()], count);
    }
    for kind in [Kind::FlowSpec, Kind::Divert, Kind::Blackhole] {
        families.count(IN_VAIN, &[kind.name()], known.in_vain.get(&kind).copied().unwrap_or_default());
    }
    for driver in &known.drivers {
        let results = [("succeeded", driver.succeeded), ("failed", driver.failed), ("refused", driver.refused)];
        for (result, count) in results {
            families.count(OPERATIONS, &[&driver.name, result], count);
        }
    }
    for channel in &known.channels {
        let name = channel.name.as_str();
        let results = [("delivered", channel.delivered), ("failed", channel.failed), ("given_up", channel.given_up)];
        for (result, count) in results {
            families.count(MESSAGES, &[name, result], count);
        }
        families.count(WAITING, &[name], channel.waiting as u64);
    }
    for PeerView { settings, status } in &known.peers {
        let peer = settings.name.as_str();
        families.count(BGP_UP, &[peer], status.is_established().into());
        families.count(BGP_ROUTES, &[peer], status.ids.len() as u64);
        families.count(BGP_WITHHELD, &[peer], status.withheld.len() as u64);
        families.count(BGP_SESSIONS, &[peer], status.established);
        families.count(BGP_STALLS, &[peer], status.stalls);
    }
    if let Some(Totals { routers, routes, sessions, refused, errors, messages, malformed, left_out }) = known.bmp {
        let counts = [
            (BMP_ROUTERS, routers),
            (BMP_ROUTES, routes),
            (BMP_SESSIONS, sessions),
            (BMP_REFUSED, refused),
            (BMP_ERRORS, errors),
            (BMP_MESSAGES, messages),
            (BMP_MALFORMED, malformed),
            (BMP_LEFT_OUT, left_out),
        ];
        counts.into_iter().for_each(|(metric, count)| families.count(metric, &[], count));
    }
    for (method, code, count) in sources.calls.all() {
        families.count(CALLS, &[method.trim_start_matches('/'), code], count);
    }
}
