//! The engine on its own: what it promises whatever happens.

use levee_api::time::Timestamp;

use super::variable::{Value, Values, Variable};
use super::*;
use crate::clock::{BootId, Now, UnixTime};

mod broken;
mod properties;

const HEAD: &str = r#"
schema = 1
[guardrails]
owned_prefixes = ["203.0.113.0/24"]
[[announcer]]
name = "core"
kind = "embedded"
capabilities = ["flowspec", "rate-limit", "blackhole", "ipv6"]
[[scrubber]]
name = "provider"
kind = "dots"
[[zone]]
name = "web"
prefixes = ["203.0.113.0/24"]
"#;

/// The files that come with Levee.
const SHIPPED: [&str; 3] = [
    include_str!("../../../configs/runbook-hosting.toml"),
    include_str!("../../../configs/runbook-game-servers.toml"),
    include_str!("../../../configs/runbook-isp.toml"),
];

fn runbook(text: &str) -> Runbook {
    let (_, runbooks) = Runbooks::parse("test.toml", &format!("{HEAD}{text}")).unwrap_or_else(|e| panic!("{e:?}"));
    runbooks.list()[0].clone()
}

/// All kinds of blindness, an approval, and stages that ask about each other.
fn ladder() -> Runbook {
    runbook(
        r#"
        [[runbook]]
        name = "ladder"
        [[runbook.stage]]
        name = "local"
        action = { filter = {} }
        calm = "4s"
        min_hold = "2s"
        [[runbook.stage]]
        name = "edge"
        when = "uplink.utilisation > 0.7"
        for = "3s"
        action = { flowspec = { announcers = ["core"], prefer = "drop" } }
        ttl = "30s"
        calm = "5s"
        min_hold = "3s"
        [[runbook.stage]]
        name = "scrub"
        when = "uplink.utilisation > 0.9 && (stage.edge.failed || stage.edge.age > duration('5s'))"
        for = "2s"
        action = { divert = { scrubber = "provider" } }
        approve = { roles = ["operator"], within = "20s", otherwise = "skip" }
        calm = "6s"
        min_hold = "8s"
        [[runbook.stage]]
        name = "blackhole"
        when = "uplink.saturated && (stage.scrub.failed || stage.scrub.age > duration('10s'))"
        for = "4s"
        action = { blackhole = { announcers = ["core"] } }
        approve = { roles = ["operator"], within = "10s", otherwise = "proceed" }
        calm = "5s"
        min_hold = "5s"
        [runbook.de_escalate]
        probe = "10s"
        probe_longest = "80s"
        "#,
    )
}

fn at(ms: u64) -> Now {
    let ns = ms * 1_000_000;
    Now { boot: BootId(1), monotonic: Timestamp(ns), wall: UnixTime(ns + 1_700_000_000_000_000_000) }
}

fn values(attack: Option<bool>, utilisation: Option<f64>) -> Values {
    let mut values = Values::default();
    if let Some(attack) = attack {
        values.set(Variable::AttackActive, Value::Bool(attack));
    }
    values.number(Variable::UplinkUtilisation, utilisation);
    if let Some(utilisation) = utilisation {
        values.set(Variable::UplinkSaturated, Value::Bool(utilisation >= 0.95));
    }
    values
}

/// An incident on the test's own clock.
struct Incident<'r> {
    runbook: &'r Runbook,
    progress: Progress,
    ms: u64,
    /// Every command with its time.
    log: Vec<(u64, Command)>,
}

impl<'r> Incident<'r> {
    fn new(runbook: &'r Runbook) -> Self {
        Self { runbook, progress: Progress::new(runbook), ms: 0, log: Vec::new() }
    }

    fn step(&mut self, input: Input<'_>) -> Vec<Command> {
        let commands = self.runbook.step(&mut self.progress, &at(self.ms), input);
        self.log.extend(commands.iter().map(|command| (self.ms, command.clone())));
        commands
    }

    /// A second at a time; every command is obeyed at once, questions are not answered.
    fn seconds(&mut self, count: u64, values: &Values, sights: &[Sight]) {
        for _ in 0..count {
            self.ms += 1_000;
            let commands = self.step(Input::Measured { values, sights });
            self.obey(commands);
        }
    }

    fn obey(&mut self, commands: Vec<Command>) {
        for command in commands {
            let (stage, change, outcome) = match command {
                Command::Enter { stage, change, .. }
                | Command::StepDown { stage, change, .. }
                | Command::StepUp { stage, change, .. } => (stage, change, Outcome::InForce),
                Command::Leave { stage, change } => (stage, change, Outcome::Ended),
                _ => continue,
            };
            self.step(Input::Result { stage, change, outcome });
        }
    }

    fn state(&self, name: &str) -> &'static str {
        self.progress.stages.iter().find(|stage| stage.name == name).unwrap().state.name()
    }

    /// Seconds at which this was told of a stage.
    fn told(&self, name: &str, wanted: News) -> Vec<u64> {
        let stage = self.runbook.stages.iter().position(|stage| stage.name == name).unwrap();
        self.log
            .iter()
            .filter(|(_, command)| *command == Command::Tell { stage, news: wanted })
            .map(|(ms, _)| ms / 1_000)
            .collect()
    }
}

#[test]
fn a_stage_is_entered_after_its_condition_held_and_left_after_it_was_calm() {
    let runbook = ladder();
    let mut incident = Incident::new(&runbook);
    incident.seconds(2, &values(Some(true), Some(0.2)), &[]);
    assert_eq!(incident.told("local", News::Entering), [1], "at once");
    incident.seconds(3, &values(Some(true), Some(0.8)), &[]);
    assert_eq!(incident.state("edge"), "idle", "two seconds between three samples");
    incident.seconds(1, &values(Some(true), Some(0.8)), &[]);
    assert_eq!(incident.told("edge", News::InForce), [6]);
    // A receiver that reports is believed: no probing.
    let calm = [Sight::default(), Sight { effective: Some(true), report: Report::Calm }];
    incident.seconds(6, &values(Some(true), Some(0.1)), &calm);
    assert_eq!(incident.told("edge", News::Left), [12]);
    assert_eq!(incident.state("local"), "active", "the attack goes on");
    incident.seconds(5, &values(Some(false), Some(0.1)), &[]);
    assert_eq!(incident.told("local", News::Left), [17]);
    assert!(incident.progress.is_at_rest());
}

#[test]
fn not_knowing_neither_enters_nor_leaves() {
    let runbook = ladder();
    let mut incident = Incident::new(&runbook);
    incident.seconds(60, &values(None, None), &[]);
    assert_eq!(incident.log, []);
    incident.seconds(10, &values(Some(true), Some(0.8)), &[]);
    let before = incident.log.iter().filter(|(_, command)| command.is_change()).count();
    incident.seconds(600, &values(Some(true), None), &[]);
    incident.seconds(600, &values(None, None), &[]);
    assert_eq!(incident.log.iter().filter(|(_, command)| command.is_change()).count(), before);
    assert_eq!(incident.state("edge"), "active");
    let renewals = incident.log.iter().filter(|(_, command)| matches!(command, Command::Renew { stage: 1, .. }));
    assert_eq!(renewals.count(), 60, "what is kept is renewed every 20 s of its 30 s");
}

#[test]
fn what_is_unknown_for_a_moment_delays_and_does_not_begin_anew() {
    let runbook = ladder();
    let mut incident = Incident::new(&runbook);
    incident.seconds(3, &values(Some(true), Some(0.8)), &[]);
    incident.seconds(1, &values(Some(true), None), &[]);
    incident.seconds(1, &values(Some(true), Some(0.8)), &[]);
    assert_eq!(incident.state("edge"), "idle");
    incident.seconds(1, &values(Some(true), Some(0.8)), &[]);
    assert_eq!(incident.state("edge"), "active", "2 s before the gap and 1 s behind it");
}

#[test]
fn time_in_which_nobody_looked_is_not_counted() {
    let runbook = ladder();
    let mut incident = Incident::new(&runbook);
    incident.seconds(2, &values(Some(true), Some(0.8)), &[]);
    incident.ms += 3_600_000;
    incident.seconds(1, &values(Some(true), Some(0.8)), &[]);
    assert_eq!(incident.state("edge"), "idle");
}

#[test]
fn a_measure_that_hides_the_attack_is_stepped_down_at_growing_intervals() {
    let runbook = ladder();
    let mut incident = Incident::new(&runbook);
    incident.seconds(6, &values(Some(true), Some(0.8)), &[]);
    assert_eq!(incident.state("edge"), "active");
    // While it is in force nothing is seen of the attack, and while it is stepped down everything is.
    for _ in 0..400 {
        let hidden = incident.state("edge") != "probing";
        incident.seconds(1, &values(Some(true), Some(if hidden { 0.1 } else { 0.8 })), &[]);
    }
    let downs = incident.told("edge", News::SteppedDown);
    let gaps: Vec<u64> = downs.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(downs[0] >= 14 && gaps.len() >= 4, "{downs:?}");
    assert!(gaps.windows(2).all(|pair| pair[1] >= pair[0]) && gaps[0] < 30 && *gaps.last().unwrap() >= 80, "{gaps:?}");
    assert_eq!(incident.told("edge", News::SteppedUp).len(), downs.len());
    // The attack ends: the next try finds that, and the stage goes off.
    incident.seconds(200, &values(Some(false), Some(0.1)), &[]);
    assert!(incident.progress.is_at_rest(), "{:?}", incident.progress);
}

#[test]
fn a_receiver_that_reports_the_attack_is_believed_and_not_tried() {
    let runbook = ladder();
    let mut incident = Incident::new(&runbook);
    incident.seconds(6, &values(Some(true), Some(0.8)), &[]);
    let reports = |report| [Sight::default(), Sight { effective: None, report }];
    incident.seconds(300, &values(Some(false), Some(0.1)), &reports(Report::Attack));
    assert_eq!(incident.state("edge"), "active");
    assert!(incident.told("edge", News::SteppedDown).is_empty());
    incident.seconds(10, &values(Some(false), Some(0.1)), &reports(Report::Calm));
    assert_eq!(incident.state("edge"), "idle");
}

#[test]
fn a_diversion_is_never_probed_and_kept_for_longer_each_time() {
    let runbook = ladder();
    let mut incident = Incident::new(&runbook);
    let mut kept = Vec::new();
    let mut entered = 0;
    for _ in 0..2_000 {
        let hidden = matches!(incident.state("scrub"), "active" | "leaving");
        incident.seconds(1, &values(Some(true), Some(if hidden { 0.1 } else { 0.92 })), &[]);
        if incident.state("scrub") == "waiting" {
            let commands = incident.step(Input::Answer { stage: 2, by: "alice", yes: true });
            incident.obey(commands);
        }
        let (entries, left) = (incident.told("scrub", News::InForce), incident.told("scrub", News::Left));
        if left.len() > entered {
            kept.push(left[entered] - entries[entered]);
            entered = left.len();
        }
    }
    assert!(incident.told("scrub", News::SteppedDown).is_empty());
    assert!(kept.len() >= 4 && kept.windows(2).all(|pair| pair[1] >= pair[0]), "{kept:?}");
    assert_eq!((kept[0], kept[1], *kept.last().unwrap()), (8, 16, 64), "{kept:?}");
}

#[test]
fn lower_stages_stay_while_higher_ones_run_and_go_after_them() {
    let runbook = ladder();
    let mut incident = Incident::new(&runbook);
    // The scrubber is denied, so that the blackhole takes over; its question is not answered, so that it proceeds.
    for _ in 0..40 {
        incident.seconds(1, &values(Some(true), Some(0.99)), &[]);
        if incident.state("scrub") == "waiting" {
            incident.step(Input::Answer { stage: 2, by: "alice", yes: false });
        }
    }
    assert_eq!((incident.state("scrub"), incident.state("blackhole")), ("failed", "active"));
    assert_eq!(incident.told("blackhole", News::Unanswered).len(), 1);
    incident.seconds(200, &values(Some(false), Some(0.0)), &[]);
    let left = |name| incident.told(name, News::Left)[0];
    assert!(left("blackhole") < left("edge") && left("edge") < left("local"));
    assert!(incident.progress.is_at_rest());
}

#[test]
fn a_stage_that_fails_is_seen_to_have_failed_and_tried_again_later_and_later() {
    let runbook = ladder();
    let mut incident = Incident::new(&runbook);
    let mut tries = Vec::new();
    for _ in 0..1_500 {
        incident.ms += 1_000;
        let values = values(Some(true), Some(0.8));
        for command in incident.step(Input::Measured { values: &values, sights: &[] }) {
            if let Command::Enter { stage, change, .. } = command {
                let outcome = if stage == 1 { Outcome::Failed(Failure::Error) } else { Outcome::InForce };
                tries.extend((stage == 1).then_some(incident.ms / 1_000));
                incident.step(Input::Result { stage, change, outcome });
            }
        }
        let failed = incident.progress.views(&at(incident.ms))[1].failed;
        assert_eq!(failed, !tries.is_empty());
    }
    let gaps: Vec<u64> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps, [30, 60, 120, 240, 480]);
}

#[test]
fn what_cannot_be_done_is_not_tried_again_before_it_was_calm() {
    for failure in [Failure::Incapable, Failure::Denied, Failure::Harmful] {
        let runbook = ladder();
        let mut incident = Incident::new(&runbook);
        let mut tries = 0;
        let attack = values(Some(true), Some(0.8));
        for second in 0..2_000 {
            incident.ms += 1_000;
            let calm = values(Some(true), Some(0.1));
            let values = if (1_000..1_010).contains(&second) { &calm } else { &attack };
            for command in incident.step(Input::Measured { values, sights: &[] }) {
                if let Command::Enter { stage: 1, change, .. } = command {
                    tries += 1;
                    incident.step(Input::Result { stage: 1, change, outcome: Outcome::Failed(failure) });
                }
            }
        }
        assert_eq!(tries, 2, "{failure:?}");
    }
}

#[test]
fn without_an_answer_the_next_stage_takes_over_and_the_answer_still_counts() {
    let runbook = ladder();
    let mut incident = Incident::new(&runbook);
    let mut asked = None;
    for _ in 0..60 {
        incident.ms += 1_000;
        let values = values(Some(true), Some(0.92));
        for command in incident.step(Input::Measured { values: &values, sights: &[] }) {
            if let Command::Enter { stage: 1, change, .. } = command {
                asked = Some(change);
            }
        }
    }
    assert_eq!(incident.state("edge"), "entering");
    assert!(incident.progress.views(&at(incident.ms))[1].failed);
    assert_eq!(incident.told("scrub", News::Asked).len(), 1);
    incident.step(Input::Result { stage: 1, change: asked.unwrap(), outcome: Outcome::InForce });
    assert_eq!(incident.state("edge"), "active");
    assert!(!incident.progress.views(&at(incident.ms))[1].failed);
}

#[test]
fn two_people_are_two_people() {
    let text = HEAD.replace("owned_prefixes", "two_person = true\nowned_prefixes")
        + "[[runbook]]\nname = \"r\"\n[[runbook.stage]]\nname = \"scrub\"\naction = { divert = { scrubber = \"provider\" } }\n\
           approve = { roles = [\"approver\"], within = \"1h\", otherwise = \"skip\" }\n";
    let (_, runbooks) = Runbooks::parse("test.toml", &text).unwrap();
    let mut incident = Incident::new(&runbooks.list()[0]);
    incident.seconds(1, &values(Some(true), None), &[]);
    incident.step(Input::Answer { stage: 0, by: "alice", yes: true });
    incident.step(Input::Answer { stage: 0, by: "alice", yes: true });
    assert_eq!(incident.state("scrub"), "waiting");
    incident.step(Input::Answer { stage: 0, by: "bob", yes: true });
    assert_eq!(incident.state("scrub"), "entering");
}

#[test]
fn a_yes_is_an_enter_in_the_same_step_only_while_the_condition_holds() {
    let runbook = ladder();
    let mut incident = Incident::new(&runbook);
    let hot = values(Some(true), Some(0.92));
    while incident.state("scrub") != "waiting" {
        incident.seconds(1, &hot, &[]);
    }
    incident.seconds(1, &values(Some(true), Some(0.8)), &[]);
    incident.step(Input::Answer { stage: 2, by: "alice", yes: true });
    assert_eq!(incident.state("scrub"), "idle", "not needed now");
    incident.seconds(1, &hot, &[]);
    assert_eq!(incident.state("scrub"), "active", "and nobody is asked again");
}

#[test]
fn what_an_operator_ends_is_not_entered_again_before_it_was_calm() {
    let runbook = ladder();
    let mut incident = Incident::new(&runbook);
    let hot = values(Some(true), Some(0.8));
    incident.seconds(10, &hot, &[]);
    let commands = incident.step(Input::Bar { stage: 1 });
    assert!(matches!(commands[1], Command::Leave { stage: 1, .. }), "{commands:?}");
    incident.obey(commands);
    incident.seconds(300, &hot, &[]);
    assert_eq!(incident.state("edge"), "idle");
    incident.seconds(10, &values(Some(true), Some(0.1)), &[]);
    incident.seconds(10, &hot, &[]);
    assert_eq!(incident.state("edge"), "active");
}

#[test]
fn what_an_operator_ends_has_failed_for_the_stages_behind_it() {
    let runbook = ladder();
    let mut incident = Incident::new(&runbook);
    let full = values(Some(true), Some(0.99));
    incident.seconds(4, &full, &[]);
    assert_eq!((incident.state("edge"), incident.state("scrub")), ("active", "idle"));
    let commands = incident.step(Input::Bar { stage: 1 });
    assert!(incident.progress.views(&at(incident.ms))[1].failed, "while it is taken back");
    incident.obey(commands);
    incident.seconds(4, &full, &[]);
    assert_eq!((incident.state("edge"), incident.state("scrub")), ("idle", "waiting"));
    incident.seconds(10, &values(Some(true), Some(0.1)), &[]);
    assert!(!incident.progress.views(&at(incident.ms))[1].failed, "it was calm");
}

/// A port that loses packets at a low utilisation, nothing known of what the target sends; everybody says yes.
#[test]
fn shipped_runbooks_climb_to_the_top_when_an_operator_ends_each_stage_in_turn() {
    let mut full = Values::default();
    for (variable, value) in [
        (Variable::AttackActive, Value::Bool(true)),
        (Variable::AttackAge, Value::Duration(std::time::Duration::from_secs(3_600))),
        (Variable::AttackBps, Value::Number(2e9)),
        (Variable::AttackConfidence, Value::Number(0.5)),
        (Variable::AttackSeverity, Value::Number(4.0)),
        (Variable::AttackVectors, Value::List(vec!["udp-random".to_owned()])),
        (Variable::LocalCpu, Value::Number(0.2)),
        (Variable::NowMaintenance, Value::Bool(false)),
        (Variable::TargetLength, Value::Number(32.0)),
        (Variable::UplinkSaturated, Value::Bool(true)),
        (Variable::UplinkUtilisation, Value::Number(0.3)),
    ] {
        full.set(variable, value);
    }
    for text in SHIPPED {
        let (_, runbooks) = Runbooks::parse("shipped.toml", text).unwrap();
        let runbook = &runbooks.list()[0];
        let top = runbook.stages.len() - 1;
        for ended in 0..top {
            let mut incident = Incident::new(runbook);
            for _ in 0..2_400 {
                incident.seconds(1, &full, &[]);
                for (at, stage) in runbook.stages.iter().enumerate() {
                    let input = match incident.state(&stage.name) {
                        "waiting" => ["ann", "bob"].map(|by| Input::Answer { stage: at, by, yes: true }).to_vec(),
                        "active" if at == ended => vec![Input::Bar { stage: at }],
                        _ => continue,
                    };
                    for input in input {
                        let commands = incident.step(input);
                        incident.obey(commands);
                    }
                }
            }
            let (name, ended) = (&runbook.stages[top].name, &runbook.stages[ended].name);
            assert_eq!(incident.state(name), "active", "{}: {ended} was ended", runbook.name);
        }
    }
}

#[test]
fn every_state_is_among_those_that_conditions_know() {
    let since = at(0);
    let states = [
        StageState::Idle,
        StageState::Waiting { since, yes: Vec::new() },
        StageState::Entering { since },
        StageState::Active { since },
        StageState::Probing { since },
        StageState::Leaving { since, harmful: false },
        StageState::Failed { since, failure: Failure::Error },
    ];
    assert_eq!(states.map(|state| state.name()), *super::progress::STATES);
}

#[test]
fn what_does_harm_is_ended_at_once_and_has_failed() {
    let runbook = ladder();
    let mut incident = Incident::new(&runbook);
    incident.seconds(10, &values(Some(true), Some(0.8)), &[]);
    let commands = incident.step(Input::Revert { stage: 1 });
    incident.obey(commands);
    assert_eq!(incident.state("edge"), "failed");
    assert_eq!(incident.told("edge", News::Failed(Failure::Harmful)).len(), 1);
}

#[test]
fn the_end_takes_everything_down_in_order_or_all_at_once() {
    for at_once in [false, true] {
        let runbook = ladder();
        let mut incident = Incident::new(&runbook);
        incident.seconds(10, &values(Some(true), Some(0.8)), &[]);
        let commands = incident.step(Input::End { at_once });
        let leaves = commands.iter().filter(|command| matches!(command, Command::Leave { .. })).count();
        assert_eq!(leaves, if at_once { 2 } else { 1 });
        for command in commands {
            if let Command::Leave { stage, change } = command {
                let more = incident.step(Input::Result { stage, change, outcome: Outcome::Ended });
                incident.obey(more);
            }
        }
        assert!(incident.progress.is_at_rest());
        incident.seconds(100, &values(Some(true), Some(0.99)), &[]);
        assert!(incident.progress.is_at_rest(), "nothing is entered after the end");
    }
}

#[test]
fn a_changed_runbook_keeps_what_it_knows_by_name_and_gives_back_what_it_does_not() {
    let before = ladder();
    let mut incident = Incident::new(&before);
    incident.seconds(10, &values(Some(true), Some(0.8)), &[]);
    let other = runbook(
        "[[runbook]]\nname = \"other\"\n[[runbook.stage]]\nname = \"first\"\naction = { capture = {} }\n\
         [[runbook.stage]]\nname = \"local\"\naction = { filter = {} }",
    );
    let mut progress = incident.progress.clone();
    assert_eq!(progress.adopt(&other), ["edge"]);
    assert_eq!(progress.views(&at(incident.ms)).iter().map(|view| view.state).collect::<Vec<_>>(), ["idle", "active"]);
}

#[test]
fn a_ladder_that_ends_early_is_an_error_where_the_condition_stands() {
    let text = format!(
        "{HEAD}[[runbook]]\nname = \"r\"\n[[runbook.stage]]\nname = \"edge\"\naction = {{ flowspec = {{ announcers = [\"core\"] }} }}\n\
         [[runbook.stage]]\nname = \"last\"\nwhen = \"uplink.saturated && stage.edge.age > duration('10s')\"\n\
         action = {{ blackhole = {{ announcers = [\"core\"] }} }}\n"
    );
    let invalid = Runbooks::parse("test.toml", &text).unwrap_err();
    let problem = invalid.problems().iter().find(|problem| problem.is_error).unwrap();
    assert!(problem.message.contains("stage \"last\" cannot be entered when edge failed"), "{}", problem.message);
    assert!(problem.help.contains("|| stage.edge.failed"), "{}", problem.help);
    assert!(text[problem.span.clone()].starts_with("\"uplink.saturated"));
    let text =
        text.replace("stage.edge.age >", "(stage.edge.failed || known(stage.edge.effective)) || stage.edge.age >");
    Runbooks::parse("test.toml", &text).unwrap();
}

#[test]
fn a_mistake_in_a_condition_is_told_with_line_and_column() {
    let text = format!(
        "{HEAD}[[runbook]]\nname = \"r\"\n[[runbook.stage]]\nname = \"edge\"\naction = {{ filter = {{}} }}\n\
         when = \"\"\"\n  uplink.utilisation > 0.7 ||\n  local.cpuu > 0.9\"\"\"\nfro = \"3s\"\n"
    );
    let invalid = Runbooks::parse("test.toml", &text).unwrap_err();
    let problems: Vec<_> = invalid.problems().iter().filter(|problem| problem.is_error).collect();
    assert_eq!(problems.len(), 2, "{problems:#?}");
    let line = text.lines().position(|line| line.contains("cpuu")).unwrap() + 1;
    assert_eq!((problems[0].line, problems[0].column), (line, 3));
    assert_eq!(&text[problems[0].span.clone()], "local.cpuu");
    assert!(problems[0].help.contains("`local.cpu`"));
    assert!(problems[1].message.contains("unknown key `fro`"));
}

#[test]
fn zones_follow_what_they_name_or_the_built_in_runbook() {
    let (_, none) = Runbooks::parse("test.toml", HEAD).unwrap();
    assert_eq!(none.of_zone(None).stages.len(), 1);
    assert_eq!(none.of_zone(Some("standard")), none.of_zone(None));
    let own = format!(
        "{HEAD}[[runbook]]\nname = \"standard\"\n[[runbook.stage]]\nname = \"a\"\naction = {{ capture = {{}} }}\n"
    );
    let (_, own) = Runbooks::parse("test.toml", &own).unwrap();
    assert_eq!(own.of_zone(Some("standard")).stages[0].name, "a");
    assert_eq!(own.of_zone(None).stages[0].name, "local", "nobody is escalated who did not ask for it");
}

/// Blackholes at the foot of the ladder: they are stepped down to see whether the attack goes on.
fn stepping() -> Runbook {
    runbook(
        r#"
        [[runbook]]
        name = "stepping"
        [[runbook.stage]]
        name = "blackhole"
        when = "uplink.utilisation > 0.7"
        for = "1s"
        action = { blackhole = { announcers = ["core"] } }
        calm = "5s"
        min_hold = "5s"
        [[runbook.stage]]
        name = "last"
        when = "uplink.utilisation > 0.7 && stage.blackhole.failed"
        for = "1s"
        action = { flowspec = { announcers = ["core"], prefer = "drop" } }
        [runbook.de_escalate]
        probe = "10s"
        "#,
    )
}

#[test]
fn a_step_up_that_is_refused_has_failed_for_the_stages_behind_it_and_is_tried_again() {
    let runbook = stepping();
    let mut incident = Incident::new(&runbook);
    let (attack, calm) = (values(Some(true), Some(0.9)), values(Some(false), Some(0.1)));
    incident.seconds(5, &attack, &[]);
    while incident.state("blackhole") != "probing" {
        incident.seconds(1, &calm, &[]);
        assert!(incident.ms < 100_000, "{:?}", incident.progress);
    }
    // The attack goes on, and a guardrail refuses to go up again. Twice.
    let mut refused = Vec::new();
    while refused.len() < 2 {
        incident.ms += 1_000;
        assert!(incident.ms < 1_000_000, "{:?}", incident.progress);
        for command in incident.step(Input::Measured { values: &attack, sights: &[] }) {
            match command {
                Command::StepUp { stage, change, .. } => {
                    refused.push(incident.ms);
                    incident.step(Input::Result { stage, change, outcome: Outcome::Failed(Failure::Refused) });
                    assert_eq!(incident.state("blackhole"), "probing", "the rate limit is what is in force");
                    assert!(incident.progress.views(&at(incident.ms))[0].failed);
                }
                command => incident.obey(vec![command]),
            }
        }
    }
    assert!(refused[1] - refused[0] >= 30_000, "at growing intervals: {refused:?}");
    assert_eq!(incident.state("last"), "active", "the stage behind it takes over");
    // Then it works.
    incident.seconds(120, &attack, &[]);
    assert_eq!(incident.state("blackhole"), "active");
    assert!(!incident.progress.views(&at(incident.ms))[0].failed);
}

#[test]
fn what_was_replaced_by_something_that_failed_has_failed() {
    let runbook = stepping();
    let mut incident = Incident::new(&runbook);
    let attack = values(Some(true), Some(0.9));
    incident.seconds(5, &attack, &[]);
    assert_eq!(incident.state("blackhole"), "active");
    let change = incident.progress.stages[0].change();
    incident.step(Input::Result { stage: 0, change, outcome: Outcome::Gone(Failure::Error) });
    assert_eq!(incident.state("blackhole"), "failed");
    incident.seconds(5, &attack, &[]);
    assert_eq!(incident.state("last"), "active");
    incident.seconds(120, &attack, &[]);
    assert_eq!(incident.state("blackhole"), "active", "and it is tried again");
}

#[test]
fn a_failed_stage_that_needs_approval_since_a_reload_asks_before_it_is_tried_again() {
    let runbook = stepping();
    let mut incident = Incident::new(&runbook);
    let attack = values(Some(true), Some(0.9));
    incident.ms += 1_000;
    for _ in 0..5 {
        incident.ms += 1_000;
        for command in incident.step(Input::Measured { values: &attack, sights: &[] }) {
            if let Command::Enter { stage: 0, change, .. } = command {
                incident.step(Input::Result { stage: 0, change, outcome: Outcome::Failed(Failure::Error) });
            }
        }
    }
    assert_eq!(incident.state("blackhole"), "failed");
    let ask = Ask {
        roles: vec![levee_api::config::ApprovalRole::Operator],
        people: 1,
        within: std::time::Duration::from_secs(3_600),
        otherwise: levee_api::config::Otherwise::Skip,
    };
    let mut changed = runbook.clone();
    changed.stages[0].approve = Some(ask);
    let mut progress = incident.progress;
    progress.adopt(&changed);
    let mut incident = Incident { runbook: &changed, progress, ms: incident.ms, log: Vec::new() };
    incident.seconds(120, &attack, &[]);
    assert_eq!(incident.state("blackhole"), "waiting");
    assert!(!incident.log.iter().any(|(_, command)| matches!(command, Command::Enter { stage: 0, .. })));
    let commands = incident.step(Input::Answer { stage: 0, by: "ann", yes: true });
    incident.obey(commands);
    assert_eq!(incident.state("blackhole"), "active");
}
