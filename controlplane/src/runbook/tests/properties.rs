//! What holds whatever happens to an incident, and in whatever order.

use proptest::prelude::*;

use super::*;

/// Anything that can happen to an incident.
#[derive(Clone, Debug)]
enum Happening {
    Measured { after_ms: u64, attack: Option<bool>, utilisation: Option<f64>, report: Report },
    Answered { stage: usize, yes: bool, by: &'static str },
    Resolved { stage: usize, outcome: Outcome },
    Repeated { stage: usize, outcome: Outcome },
    Restarted,
}

fn happening() -> impl Strategy<Value = Happening> {
    let outcome = prop_oneof![
        4 => Just(Outcome::InForce),
        1 => Just(Outcome::Failed(Failure::Error)),
        1 => Just(Outcome::Failed(Failure::Refused)),
        1 => Just(Outcome::Failed(Failure::Incapable)),
        2 => Just(Outcome::Ended),
    ];
    let report = prop_oneof![4 => Just(Report::None), 1 => Just(Report::Attack), 1 => Just(Report::Calm)];
    prop_oneof![
        12 => (0_u64..4_000, prop::option::weighted(0.9, prop::bool::weighted(0.8)), prop::option::weighted(0.9, 0.0..1.1), report)
            .prop_map(|(after_ms, attack, utilisation, report)| Happening::Measured { after_ms, attack, utilisation, report }),
        1 => (0_usize..5, any::<bool>(), prop::sample::select(vec!["alice", "bob"]))
            .prop_map(|(stage, yes, by)| Happening::Answered { stage, yes, by }),
        6 => (0_usize..4, outcome.clone()).prop_map(|(stage, outcome)| Happening::Resolved { stage, outcome }),
        1 => (0_usize..4, outcome).prop_map(|(stage, outcome)| Happening::Repeated { stage, outcome }),
        1 => Just(Happening::Restarted),
    ]
}

impl Incident<'_> {
    /// What is measured is measured some times, or no condition would ever hold for long.
    fn happen(&mut self, happening: &Happening, times: usize) {
        match happening {
            Happening::Measured { after_ms, attack, utilisation, report } => {
                let sights = [Sight { effective: *attack, report: *report }; 4];
                for _ in 0..times {
                    self.ms += after_ms;
                    self.step(Input::Measured { values: &values(*attack, *utilisation), sights: &sights });
                }
            }
            Happening::Answered { stage, yes, by } => {
                self.step(Input::Answer { stage: *stage, by, yes: *yes });
            }
            Happening::Resolved { stage, outcome } => {
                let change = self.progress.stages[*stage].change;
                self.step(Input::Result { stage: *stage, change, outcome: *outcome });
            }
            Happening::Repeated { stage, outcome } => {
                let change = self.progress.stages[*stage].change.saturating_sub(1);
                self.step(Input::Result { stage: *stage, change, outcome: *outcome });
            }
            Happening::Restarted => {
                let stored = serde_json::to_string(&self.progress).unwrap();
                let loaded: Progress = serde_json::from_str(&stored).unwrap();
                assert_eq!(loaded, self.progress);
                self.progress = loaded;
            }
        }
    }
}

fn live<'r>(runbook: &'r Runbook, happenings: &[Happening]) -> Incident<'r> {
    let mut incident = Incident::new(runbook);
    happenings.iter().for_each(|happening| incident.happen(happening, 6));
    incident
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_stage_changes_at_most_once_in_its_pace(happenings in prop::collection::vec(happening(), 0..120)) {
        let runbook = ladder();
        let incident = live(&runbook, &happenings);
        for (position, stage) in runbook.stages.iter().enumerate() {
            let pace = u64::try_from(stage.pace().as_millis()).unwrap();
            let of_stage: Vec<&(u64, Command)> =
                incident.log.iter().filter(|(_, command)| command.stage() == position).collect();
            let mut last: Option<u64> = None;
            for (index, (ms, command)) in of_stage.iter().enumerate() {
                if !command.is_change() {
                    continue;
                }
                // An attempt that failed changed nothing.
                let failed = matches!(command, Command::Enter { .. })
                    && of_stage[index + 1..]
                        .iter()
                        .find_map(|(_, next)| match next {
                            Command::Tell { news: News::Failed(_), .. } => Some(true),
                            Command::Tell { news: News::InForce, .. } => Some(false),
                            next if next.is_change() => Some(false),
                            _ => None,
                        })
                        .unwrap_or(false);
                if failed {
                    continue;
                }
                prop_assert!(
                    last.is_none_or(|last| ms - last >= pace),
                    "{}: {command:?} at {ms}, the change before at {last:?}, pace {pace}", stage.name
                );
                last = Some(*ms);
            }
        }
    }

    #[test]
    fn no_stage_is_left_while_a_higher_one_may_be_in_force(happenings in prop::collection::vec(happening(), 0..120)) {
        let runbook = ladder();
        let mut incident = Incident::new(&runbook);
        for happening in &happenings {
            for _ in 0..6 {
                let before: Vec<bool> =
                    incident.progress.stages.iter().map(|stage| stage.state.may_be_in_force()).collect();
                let known = incident.log.len();
                incident.happen(happening, 1);
                for (_, command) in &incident.log[known..] {
                    if let Command::Leave { stage, .. } = command {
                        prop_assert!(!before[stage + 1..].contains(&true), "{command:?} with {before:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn changes_are_numbered_and_no_number_comes_twice(happenings in prop::collection::vec(happening(), 0..120)) {
        let runbook = ladder();
        let incident = live(&runbook, &happenings);
        let numbers: Vec<u32> = incident.log.iter().filter_map(|(_, command)| match command {
            Command::Enter { change, .. }
            | Command::StepDown { change, .. }
            | Command::StepUp { change, .. }
            | Command::Leave { change, .. }
            | Command::Ask { change, .. } => Some(*change),
            _ => None,
        }).collect();
        prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    }

    #[test]
    fn once_the_attack_is_over_everything_comes_down(happenings in prop::collection::vec(happening(), 0..120)) {
        let runbook = ladder();
        let mut incident = live(&runbook, &happenings);
        for _ in 0..4 {
            // Whatever was lost on the way is answered when the reconciler looks.
            for stage in 0..4 {
                let (change, leaving) = {
                    let stage = &incident.progress.stages[stage];
                    (stage.change, matches!(stage.state, StageState::Leaving { .. }))
                };
                let outcome = if leaving { Outcome::Ended } else { Outcome::InForce };
                incident.step(Input::Result { stage, change, outcome });
            }
            incident.seconds(200, &values(Some(false), Some(0.0)), &[]);
        }
        prop_assert!(incident.progress.is_at_rest(), "{:#?}", incident.progress);
        prop_assert!(incident.progress.views(&at(incident.ms)).iter().all(|view| !view.failed), "it was calm: all is forgotten");
    }

    #[test]
    fn the_same_happenings_lead_to_the_same_commands(happenings in prop::collection::vec(happening(), 0..60)) {
        let runbook = ladder();
        prop_assert_eq!(live(&runbook, &happenings).log, live(&runbook, &happenings).log);
    }
}
