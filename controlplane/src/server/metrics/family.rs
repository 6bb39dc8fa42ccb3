//! The list of all metrics, and how values get into it. `docs/reference/metrics.md` is generated from it.

use std::collections::BTreeMap;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric as Sample, MetricFamily, MetricType};

/// What a value means over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Only grows, except across a restart.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// With the unit at its end.
    pub name: &'static str,
    /// What its values mean over time.
    pub kind: Type,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it counts or measures.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $constant: Metric =
            Metric { name: $name, kind: Type::$kind, labels: &[$($label),*], help: $help };)*

        /// All of them, as they are listed.
        pub const METRICS: &[Metric] = &[$($constant,)*];
    };
}

metrics! {
    BUILD = Gauge "levee_build_info" ["version"] "Always 1; the version of the control plane.";
    STARTED = Gauge "levee_controlplane_start_time_seconds" [] "When the control plane started, since 1970.";
    DATAPLANE_UP = Gauge "levee_dataplane_up" [] "1 when the dataplane tells its counters, 0 when its metrics are missing.";
    MODE = Gauge "levee_enforcing" ["zone"] "1 when the zone is in mode enforce, 0 in mode monitor; the kill switch counts.";
    KILL_SWITCH = Gauge "levee_kill_switch_engaged" [] "1 when the kill switch is on.";
    TROUBLES = Gauge "levee_troubles" [] "Things that need somebody's attention; leveectl status names them.";
    CONFIRM = Gauge "levee_config_awaits_confirmation" [] "1 when the configuration goes back unless it is confirmed.";
    INCIDENTS = Gauge "levee_incidents" ["state"] "Incidents that are kept, by state.";
    OPEN = Gauge "levee_zone_open_incidents" ["zone"] "Incidents of a zone that are not closed.";
    APPROVALS = Gauge "levee_approvals_waiting" [] "Stages that wait for somebody to decide.";
    MITIGATIONS = Gauge "levee_mitigations" ["kind", "state"] "Mitigations that are kept, by kind and state.";
    IN_VAIN = Gauge "levee_mitigations_without_effect" ["kind"] "Mitigations in force whose receiver was told, and what they should take away still comes.";
    OPERATIONS = Counter "levee_driver_operations_total" ["driver", "result"] "What drivers were asked for: succeeded, failed, refused by a guardrail.";
    MESSAGES = Counter "levee_notifier_messages_total" ["notifier", "result"] "Messages that were delivered or given up, and attempts that failed.";
    WAITING = Gauge "levee_notifier_messages_waiting" ["notifier"] "Messages that were not delivered yet.";
    BGP_UP = Gauge "levee_bgp_session_up" ["peer"] "1 when the session with the peer is established.";
    BGP_ROUTES = Gauge "levee_bgp_routes" ["peer"] "Routes that the peer was told: its TCP has acknowledged them.";
    BGP_WITHHELD = Gauge "levee_bgp_routes_withheld" ["peer"] "Routes that the peer is not told: its session does not carry them, or it has too many.";
    BMP_ROUTERS = Gauge "levee_bmp_routers" [] "Routers that tell by BMP what they have. Missing, like all of BMP, where nobody listens for it.";
    BMP_ROUTES = Gauge "levee_bmp_routes" [] "Routes of ours that routers show, in all their tables.";
    BMP_SESSIONS = Counter "levee_bmp_sessions_total" [] "BMP connections that were taken.";
    BMP_REFUSED = Counter "levee_bmp_sessions_refused_total" [] "BMP connections that were not taken: of strangers, or too many.";
    BMP_ERRORS = Counter "levee_bmp_errors_total" [] "BMP connections that ended because what came was no BMP.";
    BMP_MESSAGES = Counter "levee_bmp_messages_total" [] "BMP messages that were read.";
    BMP_MALFORMED = Counter "levee_bmp_malformed_messages_total" [] "BMP messages that were not right, and passed over.";
    BMP_LEFT_OUT = Counter "levee_bmp_routes_left_out_total" [] "Routes of ours that there was no place for.";
    BGP_SESSIONS = Counter "levee_bgp_sessions_total" ["peer"] "How often the session was established: more than a few are a peer that flaps.";
    BGP_STALLS = Counter "levee_bgp_stalls_total" ["peer"] "How often a session was ended because the peer acknowledged nothing for the send hold time.";
    CALLS = Counter "levee_api_calls_total" ["method", "code"] "Calls of the API by method and gRPC status.";
    RECEIVED = Counter "levee_wire_received_packets_total" ["wire", "direction"] "Packets taken from the port.";
    FORWARDED = Counter "levee_wire_forwarded_packets_total" ["wire", "direction"] "Packets given to the other port.";
    REPLIED = Counter "levee_wire_replied_packets_total" ["wire", "direction"] "Packets answered in place.";
    DROPPED = Counter "levee_wire_dropped_packets_total" ["wire", "direction", "reason"] "Packets dropped, by reason.";
    LOST = Counter "levee_wire_lost_packets_total" ["wire", "direction"] "Packets that the port lost before the dataplane saw them.";
    ZONE_PACKETS = Counter "levee_zone_packets_total" ["zone"] "Packets for the prefixes of a zone.";
    ZONE_BYTES = Counter "levee_zone_bytes_total" ["zone"] "Bytes of those packets.";
    ZONE_DROPPED = Counter "levee_zone_dropped_packets_total" ["zone"] "Packets of those that were dropped.";
    BURST = Gauge "levee_worker_burst_seconds" ["worker", "percentile"] "Time to judge a burst of packets and send what passes.";
    BUSY = Counter "levee_worker_busy_seconds_total" ["worker"] "Time at work; of bursts that could have had more packets only a part.";
    TRANSIT = Gauge "levee_worker_transit_seconds" ["worker", "percentile"] "Time from receiving a packet until the other port has it.";
    LEFT_OUT = Gauge "levee_filters_left_out" [] "Filters that are not in force everywhere that their targets say.";
    SAMPLES_LOST = Counter "levee_samples_lost_total" [] "Copies of headers that detection did not see.";
    NOTICES_LOST = Counter "levee_notices_lost_total" [] "Notices of workers that detection did not see.";
}

/// Values, by metric.
#[derive(Debug, Default)]
pub(super) struct Families(BTreeMap<&'static str, MetricFamily>);

impl Families {
    /// A value. Labels are in the order of the metric's names.
    pub(super) fn put(&mut self, metric: Metric, labels: &[&str], value: f64) {
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        let mut sample = Sample::from_label(metric.labels.iter().zip(labels).map(pair).collect());
        match metric.kind {
            Type::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                sample.set_counter(counter);
            }
            Type::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                sample.set_gauge(gauge);
            }
        }
        let family = self.0.entry(metric.name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(metric.name.to_owned());
            family.set_help(metric.help.to_owned());
            family.set_field_type(match metric.kind {
                Type::Counter => MetricType::COUNTER,
                Type::Gauge => MetricType::GAUGE,
            });
            family
        });
        family.mut_metric().push(sample);
    }

    /// A number of things.
    #[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers; exact up to 2^53")]
    pub(super) fn count(&mut self, metric: Metric, labels: &[&str], value: u64) {
        self.put(metric, labels, value as f64);
    }

    pub(super) fn into_all(self) -> Vec<MetricFamily> {
        self.0.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        for metric in METRICS {
            let Metric { name, kind, help, labels } = metric;
            assert!(name.starts_with("levee_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Type::Counter, "{name}");
            assert!(help.ends_with('.') && !help.contains('\n'), "{name}");
            assert!(labels.iter().all(|label| !["address", "source", "target", "ip"].contains(label)), "{name}");
        }
        let mut names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
    }
}
