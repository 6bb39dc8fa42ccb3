//! Baselines as JSON: what `export` prints and `import` takes. Without samples of traffic, which are nobody else's business.

use std::collections::HashMap;
use std::time::Duration;

use levee_api::prefix::Prefix;
use levee_api::role::Role;
use levee_engine::detect::growth::{self, Drift};
use levee_engine::detect::habits::Habits;
use levee_engine::detect::histogram::Histogram;
use levee_engine::detect::hours::Hours;
use levee_engine::detect::snapshot::{Learned, TargetRecord, ZoneRecord};
use levee_engine::detect::threshold::{Baseline, Levels};
use serde::{Deserialize, Serialize};

/// Version of the fields.
const FORMAT: u32 = 1;

/// All baselines that were exported.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exchange {
    format: u32,
    written_unix_ms: u64,
    zones: Vec<ZoneExchange>,
    targets: Vec<TargetExchange>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ZoneExchange {
    name: String,
    observed_s: u64,
    /// Datagrams, answers, continued, requests, seconds, repeats, handshakes; those at the end may be missing.
    habits: Vec<f32>,
    /// Port, answers, continued.
    #[serde(default)]
    services: Vec<(u16, f32, f32)>,
    largest_pps: Vec<f32>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetExchange {
    zone: String,
    target: String,
    half_open: f32,
    unanswered: f32,
    /// Exports of versions that did not know it lack it.
    #[serde(default)]
    heaviest_pps: f32,
    roles: Vec<RoleExchange>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleExchange {
    role: String,
    largest_pps: f32,
    q999_pps: Option<f32>,
    q9999_pps: Option<f32>,
    silence: f32,
    first: usize,
    weights: Vec<f32>,
    drift_seconds: f32,
    drift_days: u8,
    drift_weeks_pps: [f32; 4],
    drift_sum: f32,
    is_seasonal: bool,
    factor: f32,
    hours: Option<Vec<u8>>,
}

/// Why JSON says nothing that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// It is no JSON, or has other fields.
    #[error("not what `baseline export` prints: {0}")]
    Syntax(#[from] serde_json::Error),
    /// Another version printed it.
    #[error("its format {0} is not known to this version of Levee, which reads {FORMAT}")]
    Format(u32),
    /// A value is impossible.
    #[error("{0} cannot be")]
    Impossible(String),
}

impl Exchange {
    pub(super) fn of(learned: &Learned) -> Self {
        let zone_of = |target: &TargetRecord| {
            let zone = usize::try_from(target.zone).ok().and_then(|zone| learned.zones.get(zone));
            zone.map(|zone| zone.name.clone()).unwrap_or_default()
        };
        Self {
            format: FORMAT,
            written_unix_ms: u64::try_from(learned.written.as_millis()).unwrap_or(u64::MAX),
            zones: learned.zones.iter().map(ZoneExchange::of).collect(),
            targets: learned.targets.iter().map(|target| TargetExchange::of(target, zone_of(target))).collect(),
        }
    }

    pub(super) fn to_json(&self) -> String {
        // Numbers, texts and lists of them always have a JSON.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    pub(super) fn from_json(text: &str) -> Result<Self, ExchangeError> {
        let exchange: Self = serde_json::from_str(text)?;
        if exchange.format == FORMAT { Ok(exchange) } else { Err(ExchangeError::Format(exchange.format)) }
    }

    pub(super) fn into_learned(self) -> Result<Learned, ExchangeError> {
        let zones: Vec<ZoneRecord> = self.zones.into_iter().map(ZoneExchange::into_record).collect::<Result<_, _>>()?;
        let numbers: HashMap<&str, u32> = zones.iter().map(|zone| zone.name.as_str()).zip(0..).collect();
        let targets = self.targets.into_iter().map(|target| {
            let zone = numbers.get(target.zone.as_str());
            let zone = *zone.ok_or_else(|| impossible("a target in the zone", &target.zone))?;
            target.into_record(zone)
        });
        let targets = targets.collect::<Result<_, _>>()?;
        Ok(Learned { written: Duration::from_millis(self.written_unix_ms), zones, targets })
    }
}

impl ZoneExchange {
    fn of(zone: &ZoneRecord) -> Self {
        Self {
            name: zone.name.clone(),
            observed_s: zone.observed.as_secs(),
            habits: zone.habits.sums().to_vec(),
            services: zone.services.iter().map(|(port, [answers, continued])| (*port, *answers, *continued)).collect(),
            largest_pps: zone.largest.to_vec(),
        }
    }

    fn into_record(self) -> Result<ZoneRecord, ExchangeError> {
        let mut habits = Habits::default().sums();
        habits.iter_mut().zip(self.habits).for_each(|(sum, told)| *sum = told);
        let mut record = ZoneRecord {
            name: self.name,
            observed: Duration::from_secs(self.observed_s),
            habits: Habits::from_sums(possible("habits", habits)?),
            ..ZoneRecord::default()
        };
        for (port, answers, continued) in self.services {
            record.services.push((port, possible("services", [answers, continued])?));
        }
        for (largest, pps) in record.largest.iter_mut().zip(self.largest_pps) {
            [*largest] = possible("largest_pps", [pps])?;
        }
        Ok(record)
    }
}

impl TargetExchange {
    fn of(target: &TargetRecord, zone: String) -> Self {
        Self {
            zone,
            target: target.prefix.to_string(),
            half_open: target.half_open,
            unanswered: target.unanswered,
            heaviest_pps: target.heaviest,
            roles: target.baselines.iter().map(|(role, baseline)| RoleExchange::of(*role, baseline)).collect(),
        }
    }

    fn into_record(self, zone: u32) -> Result<TargetRecord, ExchangeError> {
        let prefix: Prefix = self.target.parse().map_err(|_| impossible("target", &self.target))?;
        let usual = [self.half_open, self.unanswered, self.heaviest_pps];
        let [half_open, unanswered, heaviest] = possible("half_open, unanswered or heaviest_pps", usual)?;
        let baselines = self.roles.into_iter().map(RoleExchange::into_baseline).collect::<Result<_, _>>()?;
        Ok(TargetRecord { zone, prefix, half_open, unanswered, heaviest, baselines })
    }
}

impl RoleExchange {
    fn of(role: Role, baseline: &Baseline) -> Self {
        let (silence, first, weights) = baseline.rates.parts();
        Self {
            role: role.name().to_owned(),
            largest_pps: baseline.largest,
            q999_pps: baseline.levels.map(|levels| levels.q999),
            q9999_pps: baseline.levels.map(|levels| levels.q9999),
            silence,
            first,
            weights: weights.to_vec(),
            drift_seconds: baseline.drift.seconds,
            drift_days: baseline.drift.days,
            drift_weeks_pps: baseline.drift.weeks,
            drift_sum: baseline.drift.sum,
            is_seasonal: baseline.is_seasonal,
            factor: baseline.factor,
            hours: baseline.hours.as_ref().map(|hours| hours.0.to_vec()),
        }
    }

    fn into_baseline(self) -> Result<(Role, Baseline), ExchangeError> {
        let role: Role = self.role.parse().map_err(|_| impossible("role", &self.role))?;
        let [largest, factor] = possible("largest_pps or factor", [self.largest_pps, self.factor])?;
        if factor == 0.0 {
            return Err(impossible("factor", "0"));
        }
        let [seconds, sum] = possible("drift", [self.drift_seconds, self.drift_sum])?;
        if self.drift_days >= growth::WEEK_DAYS {
            return Err(impossible("drift_days", &self.drift_days.to_string()));
        }
        let levels = match (self.q999_pps, self.q9999_pps) {
            (Some(q999), Some(q9999)) => {
                let [q999, q9999] = possible("quantiles", [q999, q9999])?;
                Some(Levels { q999, q9999 })
            }
            _ => None,
        };
        let hours = self.hours.map(|codes| {
            let codes =
                codes.try_into().map_err(|codes: Vec<u8>| impossible("hours of a week", &codes.len().to_string()))?;
            Ok::<_, ExchangeError>(Box::new(Hours(codes)))
        });
        let baseline = Baseline {
            largest,
            rates: Histogram::from_parts(self.silence, self.first, self.weights)
                .ok_or_else(|| impossible("weights of", role.name()))?,
            levels,
            drift: Drift {
                seconds,
                days: self.drift_days,
                weeks: possible("drift_weeks_pps", self.drift_weeks_pps)?,
                sum,
            },
            hours: hours.transpose()?,
            is_seasonal: self.is_seasonal,
            factor,
            ..Baseline::default()
        };
        Ok((role, baseline))
    }
}

/// Takes over what was imported: targets replace those of the same name, and zones all but their samples.
pub(super) fn merge(learned: &mut Learned, imported: Learned) {
    if learned.zones.is_empty() {
        learned.written = imported.written;
    }
    let mut numbers = Vec::new();
    for zone in imported.zones {
        let known = learned.zones.iter_mut().zip(0_u32..).find(|(known, _)| known.name == zone.name);
        numbers.push(match known {
            Some((known, number)) => {
                let reservoirs = std::mem::take(&mut known.reservoirs);
                *known = ZoneRecord { reservoirs, ..zone };
                number
            }
            None => {
                learned.zones.push(zone);
                u32::try_from(learned.zones.len() - 1).unwrap_or(u32::MAX)
            }
        });
    }
    let known = |target: &TargetRecord| (target.zone, target.prefix);
    let mut places: HashMap<(u32, Prefix), usize> = learned.targets.iter().map(known).zip(0..).collect();
    for target in imported.targets {
        let Some(zone) = usize::try_from(target.zone).ok().and_then(|zone| numbers.get(zone)) else { continue };
        let target = TargetRecord { zone: *zone, ..target };
        let place = *places.entry(known(&target)).or_insert(learned.targets.len());
        match learned.targets.get_mut(place) {
            Some(known) => *known = target,
            None => learned.targets.push(target),
        }
    }
    // Hosts bring their prefixes with them when they are restored.
    learned.targets.sort_by_key(|target| (!target.prefix.is_host(), target.zone, target.prefix));
}

fn impossible(what: &str, value: &str) -> ExchangeError {
    ExchangeError::Impossible(format!("{what} {value:?}"))
}

/// Rates and weights are finite and not negative.
fn possible<const N: usize>(what: &str, values: [f32; N]) -> Result<[f32; N], ExchangeError> {
    match values.into_iter().find(|value| !value.is_finite() || *value < 0.0) {
        None => Ok(values),
        Some(value) => Err(impossible(what, &value.to_string())),
    }
}
