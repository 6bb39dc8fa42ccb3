//! A change of what the control plane has in force, of any size: done in parts between ticks, each about a millisecond long,
//! and seen by the workers at once, when all of it is there. What can be refused is refused before the first part.

use std::sync::Arc;

use levee_api::grpc::FilterRequest;
use levee_api::time::Timestamp;
use levee_engine::detect::measures::InstallError;
use levee_engine::engine::Engine;
use levee_engine::target::plan::Plan;

use crate::in_force;
use crate::service::{NotInstalled, Policy, Refusal, Reply};

/// Filters that one part ends or installs.
const PART: usize = 256;

/// A change under way.
pub struct Change {
    ending: Vec<u64>,
    installing: Vec<FilterRequest>,
    plan: Option<Arc<Plan>>,
    installed: Vec<u64>,
    ended: usize,
    refused: Option<InstallError>,
    /// Who is told when it is done.
    pub done: Done,
}

/// What the change was asked for.
pub enum Done {
    /// Another policy.
    Replaced(Policy, Reply<Result<(), Refusal>>),
    /// Further filters.
    Installed(Reply<Result<Vec<u64>, NotInstalled>>),
    /// An end of filters.
    Removed(Reply<u64>),
    /// An end of all filters, for nobody who waits.
    Stopped,
}

impl Change {
    /// Begins to end some filters, to install others and to put zones in force.
    ///
    /// # Errors
    /// When there is no room for the filters; then nothing changes, and `done` comes back.
    pub fn begin(
        engine: &mut Engine,
        ending: Vec<u64>,
        installing: Vec<FilterRequest>,
        plan: Option<Arc<Plan>>,
        done: Done,
    ) -> Result<Self, (InstallError, Done)> {
        if let Err(full) = engine.detector.measures.reserve(installing.len(), ending.len()) {
            return Err((full, done));
        }
        engine.hold();
        Ok(Self { ending, installing, plan, installed: Vec::new(), ended: 0, refused: None, done })
    }

    /// Does the next part; true when it was the last.
    pub fn go_on(&mut self, engine: &mut Engine, now: Timestamp) -> bool {
        if !self.ending.is_empty() {
            let rest = self.ending.len().saturating_sub(PART);
            self.ended += engine.detector.measures.withdraw(self.ending.drain(rest..));
            return false;
        }
        let next = self.installing.iter().skip(self.installed.len()).take(PART);
        for request in next.clone() {
            match engine.detector.measures.install_external(in_force::filter_of(request, now)) {
                Ok(id) => self.installed.push(id),
                Err(full) => {
                    // Room was kept for it: this cannot be, and is not hidden.
                    self.refused = Some(full);
                    self.installing.clear();
                    self.plan = None;
                    self.ending = std::mem::take(&mut self.installed);
                    return false;
                }
            }
        }
        if next.len() > 0 && self.installed.len() < self.installing.len() || engine.catch_up(now) {
            return false;
        }
        if let Some(plan) = self.plan.take() {
            engine.replan(plan, now);
        }
        engine.release(now);
        true
    }

    /// What the filters that were installed are called, in order, or why they were not.
    pub fn result(&mut self) -> Result<Vec<u64>, Refusal> {
        match self.refused.take() {
            Some(full) => Err(vec![full.to_string()]),
            None => Ok(std::mem::take(&mut self.installed)),
        }
    }

    /// How many filters it ended.
    pub fn ended(&self) -> u64 {
        u64::try_from(self.ended).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use levee_api::filter::{Action, HeaderBox, Rule, Target};
    use levee_api::role::RoleSet;
    use levee_api::zone::{Challenge, Mode, Visibility, Zone};
    use levee_engine::engine::Settings;
    use levee_engine::isa::Isa;
    use levee_engine::packet::{Direction, Packet};
    use levee_engine::pipeline::Pipeline;
    use levee_engine::tables::OnFailure;
    use levee_engine::verdict::Verdict;
    use tokio::sync::oneshot;

    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000_000);
    const HOSTS: u16 = 3_000;

    fn site(filters: u32) -> (Engine, Pipeline) {
        let zone = Zone {
            name: "lab".to_owned(),
            prefixes: vec!["198.18.0.0/16".parse().unwrap()],
            mode: Mode::Enforce,
            services: Vec::new(),
            services_complete: false,
            visibility: Visibility::Auto,
            challenge: Challenge::default(),
            challenge_dns: false,
            link_capacity_bps: None,
            floors: Vec::new(),
            runbook: None,
        };
        let settings = Settings {
            workers: NonZeroU32::MIN,
            conversations: 1 << 10,
            hosts: 1 << 6,
            filters,
            secret: (3, 4),
            ceiling: Mode::Enforce,
            too_deep: OnFailure::Pass,
            evicted: OnFailure::Pass,
            spare_slots: 0,
            learn_only: false,
            isa: Isa::detect(),
        };
        let (engine, mut paths) = Engine::build(&[zone], &[], settings, NOW).unwrap();
        (engine, paths.remove(0))
    }

    /// Everything to each of the hosts is dropped.
    fn filters() -> Vec<FilterRequest> {
        let filter = |host: u16| {
            let [high, low] = host.to_be_bytes();
            FilterRequest {
                owner: "incident 7".to_owned(),
                target: Target {
                    zone: "lab".to_owned(),
                    prefix: Some(format!("198.18.{high}.{low}/32").parse().unwrap()),
                },
                roles: RoleSet::FILTERABLE,
                rule: Rule::of(HeaderBox::any()),
                action: Action::Drop,
                ttl: Duration::from_secs(60),
                witness: String::new(),
            }
        };
        (0..HOSTS).map(filter).collect()
    }

    fn is_dropped(path: &mut Pipeline, host: u16) -> bool {
        let mut frame =
            vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 46, 0, 1, 0x40, 0, 57, 17, 0, 0, 192, 0, 2, 1];
        frame.extend([198, 18]);
        frame.extend(host.to_be_bytes());
        frame.extend([0x9c, 0x40, 0x01, 0xbb, 0, 26, 0, 0]);
        frame.resize(60, 0xab);
        let mut verdicts = [Verdict::Forward];
        path.burst(0, Direction::Inbound, &[Packet { head: &frame, wire_len: 60 }], NOW, &mut verdicts);
        verdicts != [Verdict::Forward]
    }

    fn begin(engine: &mut Engine, ending: Vec<u64>, installing: Vec<FilterRequest>) -> Option<Change> {
        let done = Done::Installed(oneshot::channel().0);
        Change::begin(engine, ending, installing, None, done).ok()
    }

    /// Does all of it, with ticks between its parts; returns how many parts there were in which a host was treated as before.
    fn finish(change: &mut Change, engine: &mut Engine, path: &mut Pipeline, before: bool) -> usize {
        let mut parts = 0;
        while !change.go_on(engine, NOW) {
            engine.tick(NOW);
            for host in [0, HOSTS / 2, HOSTS - 1] {
                assert_eq!(is_dropped(path, host), before, "host {host} after {parts} parts");
            }
            parts += 1;
        }
        parts
    }

    #[test]
    fn workers_see_a_large_change_at_once_when_it_is_complete() {
        let (mut engine, mut path) = site(1 << 13);
        let mut change = begin(&mut engine, Vec::new(), filters()).unwrap();
        assert!(finish(&mut change, &mut engine, &mut path, false) > 10);
        let ids = change.result().unwrap();
        assert!((0..HOSTS).all(|host| is_dropped(&mut path, host)));

        let mut change = begin(&mut engine, ids, Vec::new()).unwrap();
        assert!(finish(&mut change, &mut engine, &mut path, true) > 10);
        assert_eq!(change.ended(), u64::from(HOSTS));
        assert!(!(0..HOSTS).any(|host| is_dropped(&mut path, host)));
    }

    #[test]
    fn a_change_that_has_no_room_changes_nothing() {
        let (mut engine, mut path) = site(u32::from(HOSTS) - 1);
        assert!(begin(&mut engine, Vec::new(), filters()).is_none());
        engine.tick(NOW);
        assert!(!is_dropped(&mut path, 0));
        let mut change = begin(&mut engine, Vec::new(), filters().split_off(1)).unwrap();
        finish(&mut change, &mut engine, &mut path, false);
        assert!(is_dropped(&mut path, 1) && !is_dropped(&mut path, 0));
    }
}
