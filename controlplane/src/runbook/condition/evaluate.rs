//! What a condition says: true, false, or that it cannot be known (Kleene's three-valued logic).
//!
//! A variable that is not known, a division by zero and whatever else has no value make everything that depends on it
//! unknown; `false && unknown` is false and `true || unknown` is true all the same.

use std::time::Duration;

use super::super::variable::{StageField, Value, Values};
use super::node::{Calculation, Comparison, Node, Search};

/// What a condition said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Something that it asks for is not known, or could not be calculated.
    #[default]
    Unknown,
}

/// What conditions are evaluated on.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Everything but stages.
    pub values: &'a Values,
    /// The stages of the runbook, by position.
    pub stages: &'a [StageView],
}

/// A stage as conditions see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageView {
    /// See [`StageField::State`].
    pub state: &'static str,
    /// See [`StageField::Active`].
    pub active: bool,
    /// See [`StageField::Age`].
    pub age: Duration,
    /// See [`StageField::Failed`].
    pub failed: bool,
    /// See [`StageField::Effective`]; none: unknown.
    pub effective: Option<bool>,
}

impl Verdict {
    /// Of what is known.
    pub const fn of(known: Option<bool>) -> Self {
        match known {
            Some(true) => Self::True,
            Some(false) => Self::False,
            None => Self::Unknown,
        }
    }

    /// Both hold.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::False, _) | (_, Self::False) => Self::False,
            (Self::True, Self::True) => Self::True,
            _ => Self::Unknown,
        }
    }

    /// One holds.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::True, _) | (_, Self::True) => Self::True,
            (Self::False, Self::False) => Self::False,
            _ => Self::Unknown,
        }
    }

    const fn known(self) -> Option<bool> {
        match self {
            Self::True => Some(true),
            Self::False => Some(false),
            Self::Unknown => None,
        }
    }
}

pub(super) fn verdict(node: &Node, context: &Context<'_>) -> Verdict {
    Verdict::of(truth(node, context))
}

fn truth(node: &Node, context: &Context<'_>) -> Option<bool> {
    match value(node, context)? {
        Value::Bool(flag) => Some(flag),
        _ => None,
    }
}

fn number(node: &Node, context: &Context<'_>) -> Option<f64> {
    match value(node, context)? {
        Value::Number(number) => Some(number),
        _ => None,
    }
}

pub(super) fn value(node: &Node, context: &Context<'_>) -> Option<Value> {
    let verdict = |node: &Node| Verdict::of(truth(node, context));
    match node {
        Node::Number(number) => Some(Value::Number(*number)),
        Node::Bool(flag) => Some(Value::Bool(*flag)),
        Node::Text(text) => Some(Value::Text(text.clone())),
        Node::Duration(duration) => Some(Value::Duration(*duration)),
        Node::List(nodes) => {
            let texts = nodes.iter().map(|node| match value(node, context)? {
                Value::Text(text) => Some(text),
                _ => None,
            });
            texts.collect::<Option<Vec<String>>>().map(Value::List)
        }
        Node::Variable(variable) => context.values.get(*variable).cloned(),
        Node::Stage(stage, field) => field_of(context.stages.get(*stage)?, *field),
        Node::Not(operand) => truth(operand, context).map(|flag| Value::Bool(!flag)),
        Node::Negate(operand) => number(operand, context).and_then(|number| finite(-number)),
        Node::And(left, right) => verdict(left).and(verdict(right)).known().map(Value::Bool),
        Node::Or(left, right) => verdict(left).or(verdict(right)).known().map(Value::Bool),
        Node::If(condition, then, otherwise) => {
            let branch = if truth(condition, context)? { then } else { otherwise };
            value(branch, context)
        }
        Node::Compare(comparison, left, right) => {
            compare(*comparison, &value(left, context)?, &value(right, context)?).map(Value::Bool)
        }
        Node::Calculate(calculation, left, right) => {
            calculate(*calculation, &value(left, context)?, &value(right, context)?)
        }
        Node::In(element, list) => match (value(element, context)?, value(list, context)?) {
            (Value::Text(text), Value::List(list)) => Some(Value::Bool(list.contains(&text))),
            _ => None,
        },
        Node::Size(list) => match value(list, context)? {
            // A list is as long as the condition or the table of vectors at most.
            Value::List(list) => u32::try_from(list.len()).ok().map(|size| Value::Number(f64::from(size))),
            _ => None,
        },
        Node::Known(operand) => Some(Value::Bool(value(operand, context).is_some())),
        Node::Search(search, text, part) => match (value(text, context)?, value(part, context)?) {
            (Value::Text(text), Value::Text(part)) => Some(Value::Bool(match search {
                Search::StartsWith => text.starts_with(&part),
                Search::EndsWith => text.ends_with(&part),
                Search::Contains => text.contains(&part),
            })),
            _ => None,
        },
    }
}

pub(super) fn field_of(stage: &StageView, field: StageField) -> Option<Value> {
    match field {
        StageField::State => Some(Value::Text(stage.state.to_owned())),
        StageField::Active => Some(Value::Bool(stage.active)),
        StageField::Age => Some(Value::Duration(stage.age)),
        StageField::Failed => Some(Value::Bool(stage.failed)),
        StageField::Effective => stage.effective.map(Value::Bool),
    }
}

fn compare(comparison: Comparison, left: &Value, right: &Value) -> Option<bool> {
    let order = match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.partial_cmp(right)?,
        (Value::Duration(left), Value::Duration(right)) => left.cmp(right),
        (Value::Text(left), Value::Text(right)) => left.cmp(right),
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        _ => return None,
    };
    Some(match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::NotEqual => order.is_ne(),
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterOrEqual => order.is_ge(),
    })
}

fn calculate(calculation: Calculation, left: &Value, right: &Value) -> Option<Value> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => finite(match calculation {
            Calculation::Add => left + right,
            Calculation::Subtract => left - right,
            Calculation::Multiply => left * right,
            Calculation::Divide => left / right,
            Calculation::Remainder => left % right,
        }),
        (Value::Duration(left), Value::Duration(right)) => match calculation {
            Calculation::Add => left.checked_add(*right).map(Value::Duration),
            // There is no time before none.
            Calculation::Subtract => left.checked_sub(*right).map(Value::Duration),
            _ => None,
        },
        _ => None,
    }
}

fn finite(number: f64) -> Option<Value> {
    number.is_finite().then_some(Value::Number(number))
}
