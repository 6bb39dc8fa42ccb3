//! `levee-dataplane run` as an operator would run it: a configuration, filters over the contract, counters over the contract.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use levee_api::config::{Config, ConfigError};
use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::{FilterRequest, v1};
use levee_controlplane::dataplane::{Dataplane, DataplaneError, Generation};
use tokio::runtime::Runtime;

use super::{
    Interrupt, Interval, LOOK, MeasureError, Place, Running, START_WITHIN, buffers, hugepages_mib, vdevs, while_doing,
};
use crate::measure::Captures;
use crate::row::Setup;
use crate::site;

const NAME: &str = "levee-dataplane";
/// How often a generation is published in rows about that.
const CHURN: Duration = Duration::from_millis(10);

/// What was seen in an interval.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Rate {
    /// Millions of packets per second that came in.
    pub mpps: f64,
    /// Share of them that was dropped, by reason.
    pub dropped: BTreeMap<String, f64>,
    /// Anomalies that were open at the end: detection should have been at rest.
    pub anomalies: usize,
}

/// A running dataplane.
#[derive(Debug)]
struct Levee {
    runtime: Runtime,
    dataplane: Dataplane,
    // Last: the connection closes first.
    program: Running,
}

/// Runs it on a capture.
///
/// # Errors
/// When it does not run, refuses the policy, or loses count.
pub fn rate(
    setup: Setup,
    captures: &Captures,
    place: &Place,
    interval: Interval,
    interrupt: Interrupt,
) -> Result<Rate, MeasureError> {
    let mut levee = Levee::start(setup, captures, place, interrupt)?;
    levee.await_opened(setup.opened.unwrap_or(0).into(), interrupt)?;
    interrupt.pause(interval.warm_up)?;
    let (before, began) = levee.counters()?;
    if setup.churn {
        levee.churn(setup, interval.length, interrupt)?;
    } else {
        interrupt.pause(interval.length)?;
    }
    let (after, ended) = levee.counters()?;
    levee.program.check()?;
    let packets = after.received.saturating_sub(before.received) as f64;
    let share = |(reason, count): (String, u64)| {
        let dropped = count.saturating_sub(before.dropped.get(&reason).copied().unwrap_or(0));
        (dropped > 0).then(|| (reason, dropped as f64 / packets.max(1.0)))
    };
    Ok(Rate {
        mpps: packets / (ended - began).as_secs_f64() / 1e6,
        dropped: after.dropped.into_iter().filter_map(share).collect(),
        anomalies: levee.anomalies()?,
    })
}

impl Levee {
    fn start(setup: Setup, captures: &Captures, place: &Place, interrupt: Interrupt) -> Result<Self, MeasureError> {
        let folder = captures.outside.parent().unwrap_or(Path::new("."));
        let socket = folder.join("dataplane.sock");
        let text = configuration(setup, captures, place, folder);
        let file = folder.join("levee.toml");
        std::fs::write(&file, &text).map_err(while_doing(file.display().to_string()))?;
        let config = Config::parse("levee.toml", &text).map_err(|error| {
            MeasureError::Skipped(format!("this version has no such key: {:?}", ConfigError::from(error).to_string()))
        })?;
        // What a run before learned and kept has no place in this one.
        let _ = std::fs::remove_dir_all(folder.join("state"));
        let words = ["run".to_owned(), "--config".to_owned(), file.display().to_string()];
        let mut program = Running::start(NAME, &place.programs.join(NAME), &words, &folder.join("levee.log"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(while_doing("starting an async runtime"))?;
        let deadline = Instant::now() + START_WITHIN;
        let mut dataplane = loop {
            match runtime.block_on(Dataplane::connect(&socket)) {
                Ok(dataplane) => break dataplane,
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => {
                    program.check()?;
                    interrupt.pause(LOOK)?;
                }
            }
        };
        let filters = setup.traffic.mitigations.requests(setup.traffic.family);
        if !filters.is_empty() {
            let generation = Generation { zones: &config.zones, protected: &[], filters: &filters };
            runtime.block_on(dataplane.upload(generation))?;
        }
        Ok(Self { runtime, dataplane, program })
    }

    /// Waits until everything has come from inside.
    fn await_opened(&mut self, packets: u64, interrupt: Interrupt) -> Result<(), MeasureError> {
        let deadline = Instant::now() + START_WITHIN;
        while self.counters()?.0.from_inside < packets {
            if Instant::now() > deadline {
                return Err(self.program.failed(format!("took in less than {packets} packets from inside")));
            }
            interrupt.pause(LOOK)?;
        }
        Ok(())
    }

    fn counters(&mut self) -> Result<(Count, Instant), MeasureError> {
        let answer = self.runtime.block_on(self.dataplane.client.counters(contract::CountersRequest {}));
        let at = Instant::now();
        let answer = answer.map_err(|status| call("Counters", status))?.into_inner();
        let mut count = Count::default();
        for wire in answer.wires {
            count.from_inside += wire.outbound.map_or(0, |direction| direction.received);
            let inbound = wire.inbound.unwrap_or_default();
            count.received += inbound.received;
            for (reason, dropped) in inbound.dropped {
                *count.dropped.entry(reason).or_default() += dropped;
            }
        }
        Ok((count, at))
    }

    fn anomalies(&mut self) -> Result<usize, MeasureError> {
        Ok(self.runtime.block_on(self.dataplane.snapshot())?.anomalies.len())
    }

    /// Installs and removes a filter by turns: each is a generation of tables.
    fn churn(&mut self, setup: Setup, length: Duration, interrupt: Interrupt) -> Result<(), MeasureError> {
        // On a host that is no target and at a list that nothing else has.
        let mut filter: FilterRequest = setup.traffic.mitigations.request(setup.traffic.family, 0, 0);
        filter.target.prefix = Some(levee_api::prefix::Prefix::host(site::address(setup.traffic.family, 1)));
        let begin = Instant::now();
        let mut installed: Vec<u64> = Vec::new();
        for turn in 0_u32.. {
            let due = CHURN * turn;
            if due >= length {
                break;
            }
            interrupt.pause(due.saturating_sub(begin.elapsed()))?;
            if installed.is_empty() {
                let request = contract::InstallFiltersRequest {
                    request_id: format!("bench-{turn}"),
                    filters: vec![v1::FilterRequest::from(&filter)],
                };
                let answer = self.runtime.block_on(self.dataplane.client.install_filters(request));
                installed = answer.map_err(|status| call("InstallFilters", status))?.into_inner().ids;
            } else {
                let request =
                    contract::RemoveFiltersRequest { owner: filter.owner.clone(), ids: std::mem::take(&mut installed) };
                let answer = self.runtime.block_on(self.dataplane.client.remove_filters(request));
                answer.map_err(|status| call("RemoveFilters", status))?;
            }
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Count {
    received: u64,
    from_inside: u64,
    dropped: BTreeMap<String, u64>,
}

fn call(call: &'static str, status: tonic::Status) -> DataplaneError {
    DataplaneError::Call { call, status: Box::new(status) }
}

fn configuration(setup: Setup, captures: &Captures, place: &Place, folder: &Path) -> String {
    let packets = setup.traffic.packets;
    let [outside, inside] = vdevs(&captures.outside, setup.workers, captures.inside.as_deref());
    let workers: Vec<String> = place.workers.iter().take(setup.workers.into()).map(usize::to_string).collect();
    let mut text = format!(
        "schema = 1\n\n[appliance]\nname = \"bench\"\nstate_dir = \"{folder}/state\"\nmode = \"enforce\"\n\n\
         [dataplane]\nsocket = \"{folder}/dataplane.sock\"\nworkers = [{workers}]\nmemory = \"{memory}MiB\"\n\
         idle = \"spin\"\nsimd = \"{simd}\"\n\n\
         [[dataplane.wire]]\nname = \"bench\"\noutside = \"{outside}\"\ninside = \"{inside}\"\ncapacity = \"100Gbps\"\n\
         buffers = {buffers}\n",
        folder = folder.display(),
        workers = workers.join(", "),
        memory = hugepages_mib(packets, setup.workers),
        simd = setup.simd.name(),
        buffers = buffers(packets, setup.workers),
    );
    text.push('\n');
    text.push_str(&site::zone_text());
    text
}
