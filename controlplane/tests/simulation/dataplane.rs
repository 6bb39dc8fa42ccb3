//! A dataplane: attacks that it sees unless they are taken away upstream, events that get lost and repeated, restarts.

use std::collections::{BTreeMap, VecDeque};

use levee_api::filter::{Action, HeaderBox, Rule, Target};
use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::dataplane::v1::event::What;
use levee_api::grpc::v1;
use levee_api::lane::Lane;
use levee_api::role::RoleSet;
use levee_controlplane::dataplane::Snapshot;

use crate::chance::Chance;

/// Events that are kept for those who come back.
const KEPT: usize = 40;

#[derive(Debug)]
pub(crate) struct Dataplane {
    boots: u64,
    sequence: u64,
    next_anomaly: u64,
    /// Ids of open anomalies, by target.
    open: BTreeMap<Target, u64>,
    kept: VecDeque<contract::Event>,
    /// What a connection has not delivered yet.
    pub(crate) outbox: VecDeque<contract::Event>,
    pub(crate) bytes: u64,
    goodput: Option<f64>,
}

impl Dataplane {
    pub(crate) fn new() -> Self {
        Self {
            boots: 1,
            sequence: 0,
            next_anomaly: 1,
            open: BTreeMap::new(),
            kept: VecDeque::new(),
            outbox: VecDeque::new(),
            bytes: 0,
            goodput: None,
        }
    }

    pub(crate) fn boot_id(&self) -> String {
        format!("run-{}", self.boots)
    }

    pub(crate) fn restart(&mut self) {
        let boots = self.boots + 1;
        *self = Self { boots, ..Self::new() };
    }

    /// What is attacked now, with bits per second that arrive.
    /// `goodput`: the share of clean traffic that is answered.
    pub(crate) fn see(&mut self, attacks: &BTreeMap<Target, f64>, goodput: Option<f64>) {
        self.goodput = goodput;
        for (target, bps) in attacks {
            match self.open.get(target).copied() {
                Some(id) => self.tell(What::AnomalyUpdated(anomaly(id, target, *bps, goodput))),
                None => {
                    let id = self.next_anomaly;
                    self.next_anomaly += 1;
                    self.open.insert(target.clone(), id);
                    self.tell(What::AnomalyOpened(anomaly(id, target, *bps, goodput)));
                    // Of every other attack the reflex learns what tells it from the rest.
                    if id.is_multiple_of(2) {
                        self.tell(What::FilterInstalled(filter(id, target)));
                    }
                }
            }
        }
        let ended: Vec<(Target, u64)> = self
            .open
            .iter()
            .filter(|(target, _)| !attacks.contains_key(target))
            .map(|(t, id)| (t.clone(), *id))
            .collect();
        for (target, id) in ended {
            self.open.remove(&target);
            self.tell(What::AnomalyEnded(anomaly(id, &target, 0.0, goodput)));
        }
    }

    /// A host that is part of an attack on the prefix around it.
    pub(crate) fn merge(&mut self, host: &Target, into: &Target) {
        self.tell(What::TargetMerged(contract::TargetMerged {
            host: Some(host.into()),
            into: Some(into.into()),
            role: "udp_open".to_owned(),
        }));
    }

    fn tell(&mut self, what: What) {
        self.sequence += 1;
        let event = contract::Event {
            boot_id: self.boot_id(),
            sequence: self.sequence,
            time_unix_ns: 0,
            monotonic_ns: 0,
            what: Some(what),
        };
        self.kept.push_back(event.clone());
        if self.kept.len() > KEPT {
            self.kept.pop_front();
        }
        self.outbox.push_back(event);
    }

    /// What a new connection gets first.
    pub(crate) fn watch(&mut self, boot_id: &str, after: u64) {
        let first = self.kept.front().map_or(self.sequence + 1, |event| event.sequence);
        self.outbox.clear();
        if boot_id == self.boot_id() && after + 1 >= first {
            self.outbox.extend(self.kept.iter().filter(|event| event.sequence > after).cloned());
            return;
        }
        self.outbox.push_back(contract::Event {
            boot_id: self.boot_id(),
            sequence: self.sequence,
            time_unix_ns: 0,
            monotonic_ns: 0,
            what: Some(What::Gap(contract::Gap { reason: "too long ago".to_owned() })),
        });
    }

    /// Some of what waits, now and then twice.
    pub(crate) fn deliver(&mut self, chance: &mut Chance, repeats: u64) -> Vec<contract::Event> {
        let mut events: Vec<contract::Event> = self.outbox.drain(..).collect();
        if chance.percent(repeats) {
            let again: Vec<contract::Event> = self.kept.iter().rev().take(5).rev().cloned().collect();
            events.extend(again);
        }
        events
    }

    pub(crate) fn snapshot(&self, attacks: &BTreeMap<Target, f64>) -> Snapshot {
        let bps = |target| attacks.get(target).copied().unwrap_or(0.0);
        let anomalies = self.open.iter().map(|(target, id)| anomaly(*id, target, bps(target), self.goodput));
        Snapshot {
            header: contract::SnapshotHeader {
                boot_id: self.boot_id(),
                sequence: self.sequence,
                generation: 1,
                config_hash: String::new(),
            },
            anomalies: anomalies.collect(),
            filters: self
                .open
                .iter()
                .filter(|(_, id)| id.is_multiple_of(2))
                .map(|(target, id)| filter(*id, target))
                .collect(),
            counters: self.counters(),
            ..Snapshot::default()
        }
    }

    pub(crate) fn counters(&self) -> contract::CountersResponse {
        let inbound =
            contract::DirectionCounters { bytes: Some(self.bytes), lost_before: Some(0), ..Default::default() };
        contract::CountersResponse {
            wires: vec![contract::WireCounters { wire: "uplink".to_owned(), inbound: Some(inbound), outbound: None }],
            ..Default::default()
        }
    }
}

fn anomaly(id: u64, target: &Target, bps: f64, goodput_ratio: Option<f64>) -> contract::Anomaly {
    contract::Anomaly {
        id,
        target: Some(target.into()),
        roles: vec![contract::RoleStatus {
            role: "udp_open".to_owned(),
            state: contract::TargetState::Attack.into(),
            rate_pps: bps / 8_000.0,
            threshold_pps: 1_000.0,
            witness: "unanswered".to_owned(),
        }],
        vectors: vec![contract::VectorFinding {
            vector: "udp-random".to_owned(),
            confidence: 0.9,
            evidence: vec!["payloads vary".to_owned()],
        }],
        pps: bps / 8_000.0,
        bps,
        dropped_pps: bps / 9_000.0,
        peak_pps: bps / 8_000.0,
        peak_bps: bps,
        detected_at_ns: 0,
        goodput_ratio,
        sources: None,
    }
}

/// What the reflex has installed against an attack: packets of one service.
fn filter(id: u64, target: &Target) -> v1::Filter {
    let rule = Rule::of(HeaderBox::any().exact(Lane::Protocol, 17).exact(Lane::DstPort, 53));
    let request = v1::FilterRequest {
        owner: String::new(),
        target: Some(target.into()),
        roles: RoleSet::ALL.iter().map(|role| role.name().to_owned()).collect(),
        rule: Some((&rule).into()),
        action: Some(Action::Drop.into()),
        remaining_ns: 60_000_000_000,
        witness: "unanswered".to_owned(),
    };
    v1::Filter { id, request: Some(request), r#match: "udp dst_port 53".to_owned(), hits: 1_000, simulated: false }
}
