//! What is measured: rates from counters, and the values that conditions ask for. What was not measured is unknown.

use std::collections::BTreeMap;
use std::time::Duration;

use levee_api::config::Config;
use levee_api::grpc::dataplane::v1 as contract;
use levee_api::time::Timestamp;

use super::flow::Flow;
use crate::clock::Now;
use crate::incident::{Effect, Incident, LINK_FULL, Phase, Severity};
use crate::runbook::variable::{Value, Values, Variable};

/// Rates are means of at least this.
const MEAN_OF: Duration = Duration::from_millis(900);
/// A rate that is older is not known.
const FRESH: Duration = Duration::from_secs(5);
/// Full for so long is saturated.
const SATURATED_AFTER: Duration = Duration::from_secs(3);
/// When the utilisation has risen by so much, conditions are asked at once.
const RISEN: f64 = 0.05;

/// Rates from the dataplane's counters.
#[derive(Debug, Default)]
pub(super) struct Meters {
    wires: BTreeMap<String, Wire>,
    zones: BTreeMap<String, Meter>,
    /// Nanoseconds at work, by the number of the worker.
    workers: BTreeMap<u32, Meter>,
}

#[derive(Debug, Default)]
struct Wire {
    flow: Flow,
    capacity_bps: Option<f64>,
    full_since: Option<Now>,
    saturated: Option<bool>,
    /// What was known when conditions were last asked because of it, or the least since.
    asked_at: f64,
    at: Option<Now>,
}

/// The rate of one counter.
#[derive(Debug, Default)]
struct Meter {
    last: Option<(Now, u64)>,
    per_second: Option<(Now, f64)>,
}

impl Meter {
    fn take(&mut self, now: &Now, count: u64) {
        let Some((at, before)) = self.last else {
            self.last = Some((*now, count));
            return;
        };
        let passed = now.since(&at);
        if count < before {
            // Another run of the dataplane.
            *self = Self { last: Some((*now, count)), per_second: None };
        } else if passed >= MEAN_OF {
            let counted = count - before;
            #[expect(clippy::cast_precision_loss, reason = "a rate of 2^53 bytes per second is beyond any link")]
            let rate = counted as f64 / passed.as_secs_f64();
            *self = Self { last: Some((*now, count)), per_second: Some((*now, rate)) };
        }
    }

    fn rate(&self, now: &Now) -> Option<f64> {
        self.per_second.filter(|(at, _)| now.since(at) <= FRESH).map(|(_, rate)| rate)
    }
}

/// Of the uplink, all wires together.
#[derive(Debug, Clone, Copy, Default)]
struct Uplink {
    bps: Option<f64>,
    capacity: Option<f64>,
    utilisation: Option<f64>,
    /// Of the last second.
    mean_utilisation: Option<f64>,
    saturated: Option<bool>,
}

impl Meters {
    /// The dataplane is gone: nothing is known.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Takes in what was counted; true when a wire has become so much fuller that conditions are to be asked at once.
    pub(super) fn take(&mut self, counters: &contract::CountersResponse, config: &Config, now: &Now) -> bool {
        let mut fuller = false;
        let at = counters.at_ns.map_or(now.monotonic, Timestamp);
        for told in &counters.wires {
            let Some(inbound) = &told.inbound else { continue };
            let configured = config.dataplane.wires.iter().find(|wire| wire.name == told.wire);
            let wire = self.wires.entry(told.wire.clone()).or_default();
            #[expect(clippy::cast_precision_loss, reason = "no link carries 2^53 bits per second")]
            let capacity = configured.and_then(|wire| wire.capacity_bps).map(|bps| bps as f64);
            wire.capacity_bps = capacity;
            wire.flow.take(at, inbound.bytes, inbound.lost_before);
            wire.at = Some(*now);
            fuller |= wire.look(now);
        }
        for zone in &counters.zones {
            self.zones.entry(zone.zone.clone()).or_default().take(now, zone.bytes);
        }
        for worker in &counters.workers {
            if let Some(busy_ns) = worker.busy_ns {
                self.workers.entry(worker.worker).or_default().take(now, busy_ns);
            }
        }
        fuller
    }

    fn uplink(&self, now: &Now) -> Uplink {
        let fresh = || self.wires.values().filter(|wire| wire.at.is_some_and(|at| now.since(&at) <= FRESH));
        if fresh().next().is_none() {
            return Uplink::default();
        }
        let sum = |values: Vec<Option<f64>>| values.into_iter().sum::<Option<f64>>();
        let most = |values: Vec<Option<f64>>| values.into_iter().flatten().reduce(f64::max);
        let saturated: Vec<bool> = fresh().filter_map(|wire| wire.saturated).collect();
        Uplink {
            bps: sum(fresh().map(|wire| wire.bps(now)).collect()),
            capacity: sum(fresh().map(|wire| wire.capacity_bps).collect()),
            utilisation: most(fresh().map(|wire| wire.utilisation(now)).collect()),
            mean_utilisation: most(fresh().map(|wire| wire.mean_utilisation(now)).collect()),
            saturated: (!saturated.is_empty()).then(|| saturated.contains(&true)),
        }
    }

    /// Load of the busiest worker.
    fn cpu(&self, now: &Now) -> Option<f64> {
        let loads = self.workers.values().filter_map(|meter| meter.rate(now));
        loads.reduce(f64::max).map(|busy_ns| (busy_ns / 1e9).clamp(0.0, 1.0))
    }

    /// What the severity of an incident depends on.
    pub(super) fn effect(&self, incident: &Incident) -> Effect {
        let newest = self.wires.values().filter_map(|wire| wire.at).max_by_key(|at| at.monotonic);
        let uplink = newest.map_or_else(Uplink::default, |at| self.uplink(&at));
        Effect {
            witnessed: incident.severity >= Severity::Medium,
            goodput_ratio: incident.rates.goodput_ratio,
            uplink_utilisation: uplink.mean_utilisation,
            uplink_saturated: uplink.saturated,
            zone_utilisation: None,
        }
    }

    /// Everything that conditions can ask about an incident, but for its stages.
    pub(super) fn values(&self, incident: &Incident, config: &Config, connected: bool, now: &Now) -> Values {
        let mut values = Values::default();
        // What the dataplane does not tell is not known, and what it told before it went away is no longer.
        if connected {
            let active = matches!(incident.phase, Phase::Attack);
            values.set(Variable::AttackActive, Value::Bool(active));
            values.number(Variable::AttackPps, Some(incident.rates.pps));
            values.number(Variable::AttackBps, Some(incident.rates.bps));
            let ratio = incident.rates.dropped_pps / incident.rates.pps;
            // Where nothing comes any more after an attack has stopped, nothing is dropped; before its rates were told that is not known.
            let has_stopped = !incident.roles.is_empty() && incident.roles.iter().all(|role| role.state != "attack");
            let ratio = if has_stopped && incident.rates.pps == 0.0 { 0.0 } else { ratio };
            values.number(Variable::LocalDroppedRatio, ratio.is_finite().then(|| ratio.clamp(0.0, 1.0)));
            // Bytes that filters drop are not counted by target: only when they drop nothing it is known what passes.
            let residual = (incident.rates.dropped_pps == 0.0).then_some(incident.rates.bps);
            values.number(Variable::LocalResidualBps, residual);
            values.number(Variable::LocalGoodputRatio, incident.rates.goodput_ratio);
            #[expect(clippy::cast_precision_loss, reason = "2^53 sources are more than there are addresses in use")]
            values.number(Variable::AttackSources, incident.rates.sources.map(|sources| sources as f64));
            values.number(Variable::LocalCpu, self.cpu(now));
            let uplink = self.uplink(now);
            values.number(Variable::UplinkBps, uplink.bps);
            values.number(Variable::UplinkCapacity, uplink.capacity);
            values.number(Variable::UplinkUtilisation, uplink.utilisation);
            if let Some(saturated) = uplink.saturated {
                values.set(Variable::UplinkSaturated, Value::Bool(saturated));
            }
        }
        values.set(Variable::AttackAge, Value::Duration(now.since(&incident.opened)));
        let vectors = incident.vectors.iter().map(|vector| vector.vector.clone()).collect();
        values.set(Variable::AttackVectors, Value::List(vectors));
        let severity = match incident.severity {
            Severity::Low => 1.0,
            Severity::Medium => 2.0,
            Severity::High => 3.0,
            Severity::Critical => 4.0,
        };
        values.number(Variable::AttackSeverity, Some(severity));
        let confidence = incident.vectors.iter().map(|vector| vector.confidence).reduce(f64::max);
        values.number(Variable::AttackConfidence, confidence);
        let target = &incident.target;
        if let Some(zone) = config.zones.iter().find(|zone| zone.name == target.zone) {
            values.set(Variable::ZoneMode, Value::Text(zone.mode.to_string()));
            #[expect(clippy::cast_precision_loss, reason = "no link carries 2^53 bits per second")]
            values.number(Variable::ZoneLinkCapacity, zone.link_capacity_bps.map(|bps| bps as f64));
        }
        values.set(Variable::ZoneName, Value::Text(target.zone.clone()));
        if let Some(prefix) = target.prefix {
            values.set(Variable::TargetPrefix, Value::Text(prefix.to_string()));
            values.number(Variable::TargetLength, Some(f64::from(prefix.length())));
            values.set(Variable::TargetIpv6, Value::Bool(!prefix.is_ipv4()));
        }
        let seconds = now.wall.0 / 1_000_000_000;
        let number = |value: u64| Some(f64::from(u32::try_from(value).unwrap_or(u32::MAX)));
        values.number(Variable::NowHour, number(seconds / 3_600 % 24));
        // 1 January 1970 was a Thursday.
        values.number(Variable::NowWeekday, number((seconds / 86_400 + 3) % 7 + 1));
        let maintenance = config.maintenance.iter().any(|window| window.contains(&target.zone, seconds));
        values.set(Variable::NowMaintenance, Value::Bool(maintenance));
        values
    }
}

impl Wire {
    /// What follows from what was counted; true when conditions are to be asked at once.
    fn look(&mut self, now: &Now) -> bool {
        let full = self.of_capacity(self.flow.mean_bps()).map(|mean| mean >= LINK_FULL);
        let is_full = match (full, self.flow.is_losing()) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), _) | (None, Some(false)) => Some(false),
            (None, None) => None,
        };
        self.full_since = if is_full == Some(true) { self.full_since.or(Some(*now)) } else { None };
        let saturated = is_full.map(|_| self.full_since.is_some_and(|since| now.since(&since) >= SATURATED_AFTER));
        let newly = saturated == Some(true) && self.saturated != saturated;
        self.saturated = saturated;
        let utilisation = self.of_capacity(self.flow.bps()).unwrap_or(0.0);
        let risen = utilisation >= self.asked_at + RISEN;
        self.asked_at = if risen { utilisation } else { self.asked_at.min(utilisation) };
        risen || newly
    }

    /// What has been told lately.
    fn fresh(&self, now: &Now) -> Option<&Flow> {
        self.at.filter(|at| now.since(at) <= FRESH).map(|_| &self.flow)
    }

    fn bps(&self, now: &Now) -> Option<f64> {
        self.fresh(now)?.bps()
    }

    fn utilisation(&self, now: &Now) -> Option<f64> {
        self.of_capacity(self.bps(now))
    }

    fn mean_utilisation(&self, now: &Now) -> Option<f64> {
        self.of_capacity(self.fresh(now)?.mean_bps())
    }

    fn of_capacity(&self, bps: Option<f64>) -> Option<f64> {
        Some(bps? / self.capacity_bps.filter(|capacity| *capacity > 0.0)?)
    }
}
