//! What may be so while an attack goes on: the values that tell conditions apart, in all combinations.
//!
//! Numbers are taken at, between, below and above those that the conditions compare them with, lists with and without what
//! is looked for. That is a search for examples, not a proof that there is none.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::condition::Condition;
use super::variable::{Type, Value, Values, Variable};

/// Most combinations that are looked at.
const MOST: usize = 4_096;
/// A step through more combinations than that: a prime, so that it meets all of them in the end.
const STRIDE: usize = 1_000_003;
/// An attack that goes on gets older than any condition waits.
const LONG: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Variables, each with what it may be; none: it is not known.
pub(super) struct Worlds {
    choices: Vec<(Variable, Vec<Option<Value>>)>,
}

/// One of them.
pub(super) struct World {
    pub(super) values: Values,
    told: Vec<(Variable, Option<Value>)>,
}

impl Worlds {
    /// Those that make a difference to conditions.
    pub(super) fn of<'c>(conditions: impl Iterator<Item = &'c Condition>) -> Self {
        let mut compared: BTreeMap<Variable, Vec<Value>> = BTreeMap::new();
        for condition in conditions {
            for (variable, value) in condition.compared() {
                compared.entry(variable).or_default().extend(value);
            }
        }
        let choices = compared.into_iter().map(|(variable, with)| (variable, choices(variable, with)));
        Self { choices: choices.collect() }
    }

    /// At most so many of them, from all over.
    pub(super) fn iter(&self, most: usize) -> impl Iterator<Item = World> {
        let all = self.choices.iter().fold(1_usize, |all, (_, choices)| all.saturating_mul(choices.len()));
        let most = most.min(MOST);
        let step = if all > most { STRIDE } else { 1 };
        let numbers = (0..all.min(most)).map(move |number| number.wrapping_mul(step) % all);
        numbers.map(|number| self.world(number)).filter(World::is_possible)
    }

    fn world(&self, number: usize) -> World {
        let mut world = World { values: Values::default(), told: Vec::new() };
        world.values.set(Variable::AttackActive, Value::Bool(true));
        let mut rest = number;
        for (variable, choices) in &self.choices {
            let choice = choices.get(rest % choices.len().max(1)).cloned().flatten();
            rest /= choices.len().max(1);
            if let Some(value) = &choice {
                world.values.set(*variable, value.clone());
            }
            world.told.push((*variable, choice));
        }
        world
    }
}

impl World {
    /// A link with a utilisation of that much is a full one.
    fn is_possible(&self) -> bool {
        let full = matches!(self.values.get(Variable::UplinkUtilisation), Some(Value::Number(share)) if *share >= 0.95);
        !(full && self.values.get(Variable::UplinkSaturated) == Some(&Value::Bool(false)))
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What only grows says nothing.
        let told = self.told.iter().filter(|(variable, _)| *variable != Variable::AttackAge);
        for (at, (variable, value)) in told.enumerate() {
            let and = if at > 0 { ", " } else { "" };
            match value {
                Some(value) => write!(f, "{and}{} is {value}", variable.name())?,
                None => write!(f, "{and}{} is not known", variable.name())?,
            }
        }
        Ok(())
    }
}

/// The likely ones first.
fn choices(variable: Variable, with: Vec<Value>) -> Vec<Option<Value>> {
    let mut choices: Vec<Option<Value>> = match variable.kind() {
        Type::Bool if variable == Variable::AttackActive => vec![Some(Value::Bool(true))],
        Type::Bool => [true, false].map(Value::Bool).map(Some).into(),
        Type::Duration => vec![Some(Value::Duration(LONG))],
        Type::Number => numbers(variable, &with).into_iter().map(Value::Number).map(Some).collect(),
        Type::Text => {
            let other = Value::Text("another".to_owned());
            with.into_iter().chain([other]).map(Some).collect()
        }
        Type::List => {
            let words: Vec<String> = with
                .into_iter()
                .filter_map(|value| match value {
                    Value::Text(word) => Some(word),
                    _ => None,
                })
                .collect();
            let each = words.iter().map(|word| vec![word.clone()]).collect::<Vec<_>>();
            each.into_iter().chain([words, Vec::new()]).map(Value::List).map(Some).collect()
        }
    };
    choices.dedup();
    if variable.may_be_unknown() {
        choices.push(None);
    }
    choices
}

/// Below, at, between and above what a number is compared with.
fn numbers(variable: Variable, with: &[Value]) -> Vec<f64> {
    let mut marks: Vec<f64> = with
        .iter()
        .filter_map(|value| match value {
            Value::Number(number) => Some(*number),
            _ => None,
        })
        .collect();
    marks.sort_by(f64::total_cmp);
    marks.dedup();
    let range = variable.range().unwrap_or(0.0..=f64::MAX);
    let (Some(least), Some(most)) = (marks.first().copied(), marks.last().copied()) else {
        return vec![*range.start(), range.end().min(1e9)];
    };
    let between = marks.windows(2).filter_map(|pair| match pair {
        [low, high] => Some(low.midpoint(*high)),
        _ => None,
    });
    let above = if variable.is_share() && most < 1.0 { most.midpoint(1.0) } else { most * 2.0 + 1.0 };
    let mut numbers = vec![above.min(*range.end()), (least / 2.0).max(*range.start()), *range.start()];
    numbers.extend(between.chain(marks.iter().copied()).filter(|number| range.contains(number)));
    numbers
}
