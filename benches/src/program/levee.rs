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

pub(crate) const NAME: &str = "levee-dataplane";
/// How often a generation is published in rows about that.
const CHURN: Duration = Duration::from_millis(10);
/// As many of them must be, for the row to show what it says.
const ON_TIME: f64 = 0.9;

/// What was seen in an interval.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Rate {
    /// Millions of packets per second that came in.
    pub mpps: f64,
    /// Share of them that was dropped, by reason.
    pub dropped: BTreeMap<String, f64>,
    /// Anomalies that were open at the end: detection should have been at rest.
    pub anomalies: usize,
    /// Generations of tables that were published per second on request.
    pub generations: f64,
    /// What the bursts of a worker took since it started, in nanoseconds.
    pub burst: Option<Quantiles>,
}

/// Values that so many of the measured ones are at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Quantiles {
    /// Half of them.
    pub p50: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
    /// All.
    pub max: u64,
}

/// A running dataplane.
#[derive(Debug)]
struct Levee {
    runtime: Runtime,
    interrupt: Interrupt,
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
    interrupt.pause(interval.warm_up)?;
    let (before, began) = levee.counters()?;
    let generations = if setup.churn {
        levee.churn(setup, interval.length)?
    } else {
        interrupt.pause(interval.length)?;
        0
    };
    let (after, ended) = levee.counters()?;
    let wanted = interval.length.div_duration_f64(CHURN);
    if setup.churn && f64::from(generations) < wanted * ON_TIME {
        return Err(levee
            .program
            .failed(format!("published {generations} generations where {wanted:.0} were asked for")));
    }
    levee.program.check()?;
    let packets = after.received.saturating_sub(before.received) as f64;
    let share = |(reason, count): (String, u64)| {
        let dropped = count.saturating_sub(before.dropped.get(&reason).copied().unwrap_or(0));
        (dropped > 0).then(|| (reason, dropped as f64 / packets.max(1.0)))
    };
    let seconds = (ended - began).as_secs_f64();
    Ok(Rate {
        mpps: packets / seconds / 1e6,
        dropped: after.dropped.into_iter().filter_map(share).collect(),
        anomalies: levee.anomalies()?,
        generations: f64::from(generations) / seconds,
        burst: after.burst,
    })
}

impl Levee {
    fn start(setup: Setup, captures: &Captures, place: &Place, interrupt: Interrupt) -> Result<Self, MeasureError> {
        let folder = captures.outside.first().and_then(|file| file.parent()).unwrap_or(Path::new("."));
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
            ask(&runtime, interrupt, dataplane.upload(generation))??;
        }
        Ok(Self { runtime, interrupt, dataplane, program })
    }

    fn counters(&mut self) -> Result<(Count, Instant), MeasureError> {
        let request = self.dataplane.client.counters(contract::CountersRequest::default());
        let answer = ask(&self.runtime, self.interrupt, request)?;
        let at = Instant::now();
        let answer = answer.map_err(|status| call("Counters", status))?.into_inner();
        let first = answer.workers.first().and_then(|worker| worker.burst);
        let burst = first.map(|times| Quantiles {
            p50: times.p50_ns,
            p99: times.p99_ns,
            p999: times.p999_ns,
            max: times.max_ns,
        });
        let mut count = Count { burst, ..Count::default() };
        for wire in answer.wires {
            let inbound = wire.inbound.unwrap_or_default();
            count.received += inbound.received;
            for (reason, dropped) in inbound.dropped {
                *count.dropped.entry(reason).or_default() += dropped;
            }
        }
        Ok((count, at))
    }

    fn anomalies(&mut self) -> Result<usize, MeasureError> {
        Ok(ask(&self.runtime, self.interrupt, self.dataplane.snapshot())??.anomalies.len())
    }

    /// Has generations of tables published and returns how many were. Two filters come and go independently: an
    /// answer waits for a tick, so that one alone would be late whenever its client is.
    fn churn(&mut self, setup: Setup, length: Duration) -> Result<u32, MeasureError> {
        let filter = |host| {
            // At a list that nothing else has, and on a host that is no target.
            let mut filter: FilterRequest = setup.traffic.mitigations.request(setup.traffic.family, 0, 0);
            filter.target.prefix = Some(levee_api::prefix::Prefix::host(site::address(setup.traffic.family, host)));
            filter
        };
        let begin = Instant::now();
        let turns = |filter, begin| turns(self.dataplane.clone(), filter, begin, length);
        let both = async { tokio::try_join!(turns(filter(1), begin), turns(filter(2), begin + CHURN)) };
        let (one, other) = ask(&self.runtime, self.interrupt, both)??;
        Ok(one + other)
    }
}

/// Installs and removes a filter by turns, every second [`CHURN`]: each is a generation of tables, in force when the answer
/// comes. Returns how many there were within `length`.
async fn turns(
    mut dataplane: Dataplane,
    filter: FilterRequest,
    begin: Instant,
    length: Duration,
) -> Result<u32, DataplaneError> {
    let mut installed: Vec<u64> = Vec::new();
    for turn in 0_u32.. {
        tokio::time::sleep_until((begin + 2 * CHURN * turn).into()).await;
        if begin.elapsed() >= length {
            return Ok(turn);
        }
        if installed.is_empty() {
            let request = contract::InstallFiltersRequest {
                request_id: format!("bench-{:?}-{turn}", filter.target.prefix),
                filters: vec![v1::FilterRequest::from(&filter)],
            };
            let answer = dataplane.client.install_filters(request).await;
            installed = answer.map_err(|status| call("InstallFilters", status))?.into_inner().ids;
        } else {
            let request =
                contract::RemoveFiltersRequest { owner: filter.owner.clone(), ids: std::mem::take(&mut installed) };
            let answer = dataplane.client.remove_filters(request).await;
            answer.map_err(|status| call("RemoveFilters", status))?;
        }
    }
    Ok(0)
}

#[derive(Debug, Default)]
struct Count {
    received: u64,
    dropped: BTreeMap<String, u64>,
    burst: Option<Quantiles>,
}

/// Waits for an answer, or a signal.
fn ask<T>(runtime: &Runtime, interrupt: Interrupt, answer: impl Future<Output = T>) -> Result<T, MeasureError> {
    runtime.block_on(async {
        tokio::select! {
            answer = answer => Ok(answer),
            () = interrupt.wait() => Err(MeasureError::Interrupted),
        }
    })
}

fn call(call: &'static str, status: tonic::Status) -> DataplaneError {
    DataplaneError::Call { call, status: Box::new(status) }
}

fn configuration(setup: Setup, captures: &Captures, place: &Place, folder: &Path) -> String {
    let packets = setup.traffic.packets;
    let [outside, inside] = vdevs(&captures.outside);
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
    text.push_str(&format!(
        "\n[[address_set]]\nname = \"known\"\nfiles = [\"{}\"]\naction = \"drop\"\n",
        captures.prefixes.display()
    ));
    text
}
