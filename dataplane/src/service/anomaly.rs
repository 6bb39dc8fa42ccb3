//! From the detector's events, one per role and change, to anomalies: what an operator calls one attack on one target.

use std::collections::{BTreeMap, HashSet};

use levee_api::filter::Target;
use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::dataplane::v1::event::What as Told;
use levee_api::grpc::filter_in_force;
use levee_api::role::Role;
use levee_api::time::Timestamp;
use levee_engine::detect::event::{Event, Finding, Phase, Removal, What};
use levee_engine::detect::track::Lesson;

/// The anomalies that are open, by target.
#[derive(Debug, Default)]
pub(super) struct Anomalies {
    open: BTreeMap<Target, Open>,
    last_id: u64,
    /// Filters that only count: their end does not say so.
    simulated: HashSet<u64>,
}

#[derive(Debug, Default)]
struct Open {
    id: u64,
    detected_at: Timestamp,
    roles: BTreeMap<Role, contract::RoleStatus>,
    vectors: BTreeMap<Role, Vec<Finding>>,
    pps: f64,
    bps: f64,
    dropped_pps: f64,
    peak_pps: f64,
    peak_bps: f64,
    goodput_ratio: Option<f64>,
    sources: Option<u64>,
}

impl Anomalies {
    /// What the event means for the anomaly of its target, if it means anything.
    pub(super) fn observe(&mut self, event: &Event) -> Option<Told> {
        match &event.what {
            What::Phase { target, role, to: Phase::Normal, .. } => {
                let open = self.open.get_mut(target)?;
                open.roles.remove(role);
                if open.roles.is_empty() {
                    let ended = self.open.remove(target)?;
                    return Some(Told::AnomalyEnded(ended.told(target)));
                }
                Some(Told::AnomalyUpdated(open.told(target)))
            }
            What::Phase { target, role, to, rate_pps, threshold_pps, witness, .. } => {
                let status = role_status(*role, *to, *rate_pps, *threshold_pps, witness.as_deref());
                if let Some(open) = self.open.get_mut(target) {
                    open.roles.insert(*role, status);
                    return Some(Told::AnomalyUpdated(open.told(target)));
                }
                self.last_id += 1;
                let roles = BTreeMap::from([(*role, status)]);
                let open = Open { id: self.last_id, detected_at: event.at, roles, ..Open::default() };
                let told = open.told(target);
                self.open.insert(target.clone(), open);
                Some(Told::AnomalyOpened(told))
            }
            What::Classified { target, role, vectors } => {
                let open = self.open.get_mut(target)?;
                open.vectors.insert(*role, vectors.clone());
                Some(Told::AnomalyUpdated(open.told(target)))
            }
            What::Rates { target, pps, bps, dropped_pps, goodput_ratio, sources } => {
                let open = self.open.get_mut(target)?;
                (open.goodput_ratio, open.sources) = (*goodput_ratio, *sources);
                (open.pps, open.bps, open.dropped_pps) = (*pps, *bps, *dropped_pps);
                // What comes while the attack pauses is no part of it.
                let attack = i32::from(contract::TargetState::Attack);
                if open.roles.values().any(|status| status.state == attack) {
                    (open.peak_pps, open.peak_bps) = (open.peak_pps.max(*pps), open.peak_bps.max(*bps));
                }
                Some(Told::AnomalyUpdated(open.told(target)))
            }
            _ => None,
        }
    }

    /// The event itself as a message; what only anomalies tell has none of its own.
    pub(super) fn translate(&mut self, event: &Event) -> Option<Told> {
        Some(match &event.what {
            What::Phase { target, role, from, to, rate_pps, threshold_pps, witness } => {
                Told::StateChanged(contract::StateChanged {
                    target: Some(target.into()),
                    role: Some(role_status(*role, *to, *rate_pps, *threshold_pps, witness.as_deref())),
                    from: state(*from).into(),
                })
            }
            What::Classified { .. } | What::Rates { .. } => return None,
            What::Merged { host, into, role } => Told::TargetMerged(contract::TargetMerged {
                host: Some(host.into()),
                into: Some(into.into()),
                role: role.name().to_owned(),
            }),
            What::FilterInstalled { filter, simulated, .. } => {
                if *simulated {
                    self.simulated.insert(filter.id);
                }
                Told::FilterInstalled(filter_in_force(filter, 0, *simulated, event.at))
            }
            What::FilterRemoved { filter, why, packets } => Told::FilterRemoved(contract::FilterRemoved {
                filter: Some(filter_in_force(filter, *packets, self.simulated.remove(&filter.id), filter.deadline)),
                reason: removal(*why).into(),
            }),
            What::Learned { target, role, lesson, threshold_pps } => {
                let lesson = match lesson {
                    Lesson::Merged => contract::Lesson::Merged,
                    Lesson::Held => contract::Lesson::Held,
                };
                Told::BaselineChanged(contract::BaselineChanged {
                    target: Some(target.into()),
                    role: role.name().to_owned(),
                    lesson: lesson.into(),
                    threshold_pps: (*threshold_pps).into(),
                })
            }
            What::FilterLeftOut(left_out) => Told::FilterLeftOut(contract::FilterLeftOut {
                filter: left_out.filter,
                first: Some((&left_out.first).into()),
                targets: u64::try_from(left_out.targets).unwrap_or(u64::MAX),
                why: left_out.why.to_string(),
            }),
            What::Visibility { zone, sees_inside } => {
                Told::VisibilityChanged(contract::VisibilityChanged { zone: zone.clone(), sees_inside: *sees_inside })
            }
        })
    }

    pub(super) fn open(&self) -> Vec<contract::Anomaly> {
        self.open.iter().map(|(target, open)| open.told(target)).collect()
    }
}

impl Open {
    fn told(&self, target: &Target) -> contract::Anomaly {
        // What has stopped is no longer what the attack is; when all of it has, it is what the attack was.
        let attacks = |role: &Role| {
            self.roles.get(role).is_some_and(|status| status.state == i32::from(contract::TargetState::Attack))
        };
        let lasts = self.vectors.keys().any(attacks);
        let told = self.vectors.iter().filter(|(role, _)| !lasts || attacks(role));
        let mut vectors: Vec<&Finding> = told.flat_map(|(_, found)| found).collect();
        vectors.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
        contract::Anomaly {
            id: self.id,
            target: Some(target.into()),
            roles: self.roles.values().cloned().collect(),
            vectors: vectors.into_iter().map(vector_finding).collect(),
            pps: self.pps,
            bps: self.bps,
            dropped_pps: self.dropped_pps,
            peak_pps: self.peak_pps,
            peak_bps: self.peak_bps,
            detected_at_ns: self.detected_at.0,
            goodput_ratio: self.goodput_ratio,
            sources: self.sources,
        }
    }
}

fn role_status(role: Role, phase: Phase, rate: f32, threshold: f32, witness: Option<&str>) -> contract::RoleStatus {
    contract::RoleStatus {
        role: role.name().to_owned(),
        state: state(phase).into(),
        rate_pps: rate.into(),
        threshold_pps: threshold.into(),
        witness: witness.unwrap_or_default().to_owned(),
    }
}

fn vector_finding(finding: &Finding) -> contract::VectorFinding {
    contract::VectorFinding {
        vector: finding.vector.name().to_owned(),
        confidence: finding.confidence,
        evidence: finding.evidence.clone(),
    }
}

fn state(phase: Phase) -> contract::TargetState {
    match phase {
        Phase::Normal => contract::TargetState::Normal,
        Phase::Watch => contract::TargetState::Watch,
        Phase::Attack => contract::TargetState::Attack,
        Phase::Hold => contract::TargetState::Hold,
    }
}

fn removal(why: Removal) -> contract::RemovalReason {
    match why {
        Removal::Expired => contract::RemovalReason::Expired,
        Removal::Retired => contract::RemovalReason::Retired,
        Removal::Replaced => contract::RemovalReason::Replaced,
        Removal::Withdrawn => contract::RemovalReason::Withdrawn,
        Removal::PolicyChanged => contract::RemovalReason::PolicyChanged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(role: Role, to: Phase) -> Event {
        let what = What::Phase {
            target: Target { zone: "web".into(), prefix: Some("203.0.113.9".parse().unwrap()) },
            role,
            from: Phase::Normal,
            to,
            rate_pps: 900.0,
            threshold_pps: 500.0,
            witness: (to == Phase::Attack).then(|| "half-open".to_owned()),
        };
        Event { at: Timestamp(7), what }
    }

    #[test]
    fn an_anomaly_lasts_from_the_first_role_above_to_the_last_below_its_threshold() {
        let mut anomalies = Anomalies::default();
        let opened = anomalies.observe(&phase(Role::Syn, Phase::Watch));
        assert!(matches!(opened, Some(Told::AnomalyOpened(contract::Anomaly { id: 1, detected_at_ns: 7, .. }))));
        let Some(Told::AnomalyUpdated(updated)) = anomalies.observe(&phase(Role::Syn, Phase::Attack)) else { panic!() };
        assert_eq!(updated.roles[0].witness, "half-open");
        let Some(Told::AnomalyUpdated(updated)) = anomalies.observe(&phase(Role::UdpOpen, Phase::Watch)) else {
            panic!()
        };
        assert_eq!(updated.roles.len(), 2);
        assert_eq!(anomalies.open().len(), 1);
        assert!(matches!(anomalies.observe(&phase(Role::Syn, Phase::Normal)), Some(Told::AnomalyUpdated(_))));
        assert!(matches!(anomalies.observe(&phase(Role::UdpOpen, Phase::Normal)), Some(Told::AnomalyEnded(_))));
        assert_eq!(anomalies.open(), []);
        assert_eq!(anomalies.observe(&phase(Role::UdpOpen, Phase::Normal)), None);
    }
}
