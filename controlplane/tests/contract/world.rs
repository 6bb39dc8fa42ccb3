//! A dataplane without a data path: the real service, and behind it a thread that keeps filters in a map.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use levee_api::config::Config;
use levee_api::filter::{Action, Filter, HeaderBox, Origin, Rule, Target};
use levee_api::grpc::FilterRequest;
use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::dataplane::v1::event::What as Told;
use levee_api::lane::Lane;
use levee_api::role::Role;
use levee_api::time::Timestamp;
use levee_api::zone::Zone;
use levee_dataplane::service::{Inlet, Listener, NotInstalled, Outlet, Policy, Request, Service, Snapshot};
use levee_engine::detect::detector::LegitimateShare;
use levee_engine::detect::event::{Event, Phase, What};

/// Two zones, one protected address.
pub(crate) const FILE: &str = r#"
schema = 1
[guardrails]
protected_prefixes = ["203.0.113.1/32"]
max_ttl = "1h"
[[zone]]
name = "web"
prefixes = ["203.0.113.0/24"]
mode = "enforce"
[[zone]]
name = "dns"
prefixes = ["198.51.100.0/24", "2001:db8::/32"]
mode = "enforce"
"#;

/// A file for a socket.
pub(crate) fn file_for(socket: &Path) -> String {
    // What the planes keep, and where the control plane is reached, goes away with the folder of the test.
    let folder = socket.parent().unwrap_or(Path::new("/"));
    format!(
        "{FILE}[dataplane]\nsocket = {:?}\n[controlplane]\nsocket = {:?}\n[appliance]\nname = \"edge-1\"\nstate_dir = {:?}\n",
        socket.display().to_string(),
        folder.join("controlplane.sock").display().to_string(),
        folder.display().to_string()
    )
}

/// A folder with a socket that goes away with it.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("dataplane.sock")
    }

    /// Starts a dataplane here, with the policy of its file.
    pub(crate) fn start(&self) -> World {
        Self::run(Service::start(self.listen(), &self.config()).unwrap())
    }

    /// Starts one with the policy that was in force before a restart.
    pub(crate) fn start_with(&self, policy: Policy) -> World {
        Self::run(Service::start_with(self.listen(), &self.config(), policy).unwrap())
    }

    fn config(&self) -> Config {
        Config::parse("levee.toml", &file_for(&self.socket())).unwrap()
    }

    fn listen(&self) -> Listener {
        Listener::bind(&self.socket()).unwrap()
    }

    fn run((service, inlet, outlet): (Service, Inlet, Outlet)) -> World {
        let outlet = Arc::new(Mutex::new(outlet));
        let steered = Arc::new(Steered { room: AtomicUsize::new(usize::MAX), ..Steered::default() });
        let owner = Owner {
            started: Instant::now(),
            outlet: Arc::clone(&outlet),
            steered: Arc::clone(&steered),
            filters: BTreeMap::new(),
            last_id: 0,
        };
        let thread = std::thread::spawn(move || owner.serve(inlet));
        World { service: Some(service), outlet, steered, thread: Some(thread) }
    }
}

/// A running dataplane.
pub(crate) struct World {
    service: Option<Service>,
    outlet: Arc<Mutex<Outlet>>,
    /// How it behaves, and what it was given.
    pub(crate) steered: Arc<Steered>,
    thread: Option<JoinHandle<()>>,
}

/// What a test decides, and sees.
#[derive(Default)]
pub(crate) struct Steered {
    /// So many policies with zones are refused.
    pub(crate) refuses: AtomicUsize,
    /// So many filters have room.
    pub(crate) room: AtomicUsize,
    /// The zones in force.
    pub(crate) zones: Mutex<Vec<Zone>>,
}

impl World {
    /// A role of a host changes its state.
    pub(crate) fn change(&self, host: &str, to: Phase) {
        let target = Target { zone: "web".into(), prefix: Some(host.parse().unwrap()) };
        let (role, from) = (Role::Syn, Phase::Normal);
        let what = What::Phase { target, role, from, to, rate_pps: 900.0, threshold_pps: 500.0, witness: None };
        self.outlet.lock().unwrap().tell(&Event { at: Timestamp(1), what }, Timestamp(2));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.service.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Owner {
    started: Instant,
    outlet: Arc<Mutex<Outlet>>,
    steered: Arc<Steered>,
    filters: BTreeMap<u64, Filter>,
    last_id: u64,
}

impl Owner {
    fn serve(mut self, mut inlet: Inlet) {
        while let Some(request) = inlet.wait() {
            let now = Timestamp::ZERO + self.started.elapsed();
            match request {
                Request::Replace { policy, reply } if !policy.zones.is_empty() && self.refuses() => {
                    let _ = reply.send(Err(vec!["there is no room for these zones".to_owned()]));
                }
                Request::Replace { policy, reply } => {
                    self.filters.clear();
                    self.steered.zones.lock().unwrap().clone_from(&policy.zones);
                    let (zones, filters) = (policy.zones.len() as u64, policy.filters.len() as u64);
                    self.install(policy.filters, now);
                    let told = contract::PolicyCommitted { generation: policy.generation, zones, filters };
                    self.outlet.lock().unwrap().tell_of(Told::PolicyCommitted(told), now);
                    let _ = reply.send(Ok(()));
                }
                Request::Install { filters, reply }
                    if self.filters.len() + filters.len() > self.steered.room.load(Ordering::SeqCst) =>
                {
                    let _ = reply.send(Err(NotInstalled::NoRoom(vec!["no more are possible".to_owned()])));
                }
                Request::Install { filters, reply } => {
                    let ids = self.install(filters, now);
                    // Every filter that comes or goes moves the sequence number on.
                    self.outlet.lock().unwrap().tell_of(Told::FilterInstalled(Default::default()), now);
                    let _ = reply.send(Ok(ids));
                }
                Request::Renew { owner, ids, ttl, reply } => {
                    let origin = Origin::ControlPlane { owner };
                    let is_owned = |id: &u64| self.filters.get(id).is_some_and(|filter| filter.origin == origin);
                    if ids.iter().all(is_owned) {
                        for filter in ids.iter().filter_map(|id| self.filters.remove(id)).collect::<Vec<_>>() {
                            self.filters.insert(filter.id, Filter { deadline: now + ttl, ..filter });
                        }
                        let _ = reply.send(Ok(()));
                    } else {
                        let _ = reply.send(Err(vec!["a filter has ended".to_owned()]));
                    }
                }
                Request::Remove { owner, ids, reply } => {
                    let origin = Origin::ControlPlane { owner };
                    let before = self.filters.len();
                    self.filters.retain(|id, filter| !(ids.contains(id) && filter.origin == origin));
                    self.outlet.lock().unwrap().tell_of(Told::FilterRemoved(Default::default()), now);
                    let _ = reply.send((before - self.filters.len()) as u64);
                }
                Request::Snapshot { reply } => {
                    let outlet = self.outlet.lock().unwrap();
                    let filters = self.filters.values().map(|filter| (filter.clone(), 0, false)).collect();
                    let (sequence, anomalies) = (outlet.sequence(), outlet.anomalies());
                    let counters = contract::CountersResponse::default();
                    let _ = reply.send(Snapshot { at: now, sequence, anomalies, filters, counters });
                }
                Request::LegitimateShare { filters, reply, .. } => {
                    // As if every filter took a tenth of what is legitimate.
                    let share = Some(filters.len() as f64 / 10.0);
                    let _ = reply.send(LegitimateShare { share, samples: 500 });
                }
                Request::Capture { target, duration, reply } => {
                    let _ = reply.send(match duration {
                        Some(_) => Ok(format!("{}.pcapng", target.zone)),
                        None => Err("captures are switched off".to_owned()),
                    });
                }
                Request::Counters { reply, .. } => {
                    let zone = contract::ZoneCounters { zone: "web".into(), packets: 5, bytes: 300, dropped: 2 };
                    let _ = reply.send(contract::CountersResponse { zones: vec![zone], ..Default::default() });
                }
            }
        }
    }

    fn refuses(&self) -> bool {
        let refuses = &self.steered.refuses;
        refuses.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }

    fn install(&mut self, filters: Vec<FilterRequest>, now: Timestamp) -> Vec<u64> {
        let installed = filters.into_iter().map(|request| {
            let FilterRequest { owner, target, roles, rule, action, ttl, witness } = request;
            self.last_id += 1;
            let (id, deadline, origin) = (self.last_id, now + ttl, Origin::ControlPlane { owner });
            self.filters.insert(id, Filter { id, target, roles, rule, action, deadline, origin, witness });
            id
        });
        installed.collect()
    }
}

/// A filter on a host of the zone `web`.
pub(crate) fn filter(host: &str, ttl: Duration) -> FilterRequest {
    FilterRequest {
        owner: "incident 1".into(),
        target: Target { zone: "web".into(), prefix: Some(host.parse().unwrap()) },
        roles: Role::Syn.set(),
        rule: Rule::of(HeaderBox::any().exact(Lane::Ttl, 64)),
        action: Action::Drop,
        ttl,
        witness: "half-open".into(),
    }
}
