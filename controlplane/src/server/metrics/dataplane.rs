//! What the dataplane says, with the names of section 8 of the design.

use levee_api::grpc::dataplane::v1::{CountersResponse, DirectionCounters, Quantiles};

use super::family::{
    BURST, BUSY, DROPPED, FORWARDED, Families, LEFT_OUT, LOST, Metric, NOTICES_LOST, RECEIVED, REPLIED, SAMPLES_LOST,
    TRANSIT, ZONE_BYTES, ZONE_DROPPED, ZONE_PACKETS,
};

pub(super) fn tell(families: &mut Families, counters: &CountersResponse) {
    for wire in &counters.wires {
        for (direction, counted) in [("inbound", &wire.inbound), ("outbound", &wire.outbound)] {
            if let Some(counted) = counted {
                tell_direction(families, &wire.wire, direction, counted);
            }
        }
    }
    for zone in &counters.zones {
        families.count(ZONE_PACKETS, &[&zone.zone], zone.packets);
        families.count(ZONE_BYTES, &[&zone.zone], zone.bytes);
        families.count(ZONE_DROPPED, &[&zone.zone], zone.dropped);
    }
    for worker in &counters.workers {
        let name = worker.worker.to_string();
        tell_times(families, BURST, &name, worker.burst);
        tell_times(families, TRANSIT, &name, worker.transit);
        if let Some(busy_ns) = worker.busy_ns {
            families.put(BUSY, &[&name], std::time::Duration::from_nanos(busy_ns).as_secs_f64());
        }
    }
    let shortage = counters.shortage.unwrap_or_default();
    families.count(LEFT_OUT, &[], shortage.filters_left_out);
    families.count(SAMPLES_LOST, &[], shortage.samples_lost);
    families.count(NOTICES_LOST, &[], shortage.notices_lost);
}

fn tell_direction(families: &mut Families, wire: &str, direction: &str, counted: &DirectionCounters) {
    let labels = [wire, direction];
    families.count(RECEIVED, &labels, counted.received);
    families.count(FORWARDED, &labels, counted.forwarded);
    families.count(REPLIED, &labels, counted.replied);
    if let Some(lost) = counted.lost_before {
        families.count(LOST, &labels, lost);
    }
    for (reason, count) in &counted.dropped {
        families.count(DROPPED, &[wire, direction, reason], *count);
    }
}

/// Not a summary in the sense of Prometheus: sums and counts of the times are not known.
fn tell_times(families: &mut Families, metric: Metric, worker: &str, times: Option<Quantiles>) {
    let Some(Quantiles { p50_ns, p99_ns, p999_ns, max_ns }) = times else { return };
    for (percentile, nanoseconds) in [("50", p50_ns), ("99", p99_ns), ("99.9", p999_ns), ("100", max_ns)] {
        families.put(metric, &[worker, percentile], std::time::Duration::from_nanos(nanoseconds).as_secs_f64());
    }
}
