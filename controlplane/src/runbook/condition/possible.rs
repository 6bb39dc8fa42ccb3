//! What a condition could say when something is taken for granted and everything else may be anything: so that what can
//! never be entered, or ends a ladder early, is noticed by daylight.
//!
//! It errs on one side: what it calls impossible is impossible, what it calls possible may contradict itself.

use std::time::Duration;

use super::super::variable::{Value, Values, Variable};
use super::evaluate::{Context, StageView, field_of, value};
use super::node::{Calculation, Node};

/// What could come out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Possible {
    pub(super) truth: bool,
    pub(super) falsehood: bool,
}

const ANYTHING: Possible = Possible { truth: true, falsehood: true };

/// What is taken for granted of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Assumed {
    /// Nothing.
    #[default]
    Anything,
    /// It has failed.
    Failed,
    /// It was never entered.
    Idle,
}

/// What is taken for granted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Given<'g> {
    /// Of stages by position; of those behind the last, nothing.
    pub(super) stages: &'g [Assumed],
    /// Of variables: they are as they are here, what is not known included. None: nothing.
    pub(super) values: Option<&'g Values>,
}

/// A value that is the same whatever happens, a value that is never known, or anything.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Constant {
    Value(Value),
    Unknown,
    Anything,
}

pub(super) fn possible(node: &Node, given: Given<'_>) -> Possible {
    let of = |node: &Node| possible(node, given);
    match node {
        Node::Not(operand) => {
            let operand = of(operand);
            Possible { truth: operand.falsehood, falsehood: operand.truth }
        }
        Node::And(left, right) => {
            let (left, right) = (of(left), of(right));
            Possible { truth: left.truth && right.truth, falsehood: left.falsehood || right.falsehood }
        }
        Node::Or(left, right) => {
            let (left, right) = (of(left), of(right));
            Possible { truth: left.truth || right.truth, falsehood: left.falsehood && right.falsehood }
        }
        Node::If(condition, then, otherwise) => {
            let condition = of(condition);
            let then = if condition.truth { of(then) } else { Possible::default() };
            let otherwise = if condition.falsehood { of(otherwise) } else { Possible::default() };
            Possible { truth: then.truth || otherwise.truth, falsehood: then.falsehood || otherwise.falsehood }
        }
        _ => match constant(node, given) {
            Constant::Value(Value::Bool(flag)) => Possible { truth: flag, falsehood: !flag },
            Constant::Value(_) | Constant::Unknown => Possible::default(),
            Constant::Anything => ANYTHING,
        },
    }
}

pub(super) fn constant(node: &Node, given: Given<'_>) -> Constant {
    let known = |value: Option<Value>| value.map_or(Constant::Unknown, Constant::Value);
    let parts: [Option<&Node>; 3] = match node {
        Node::Variable(variable) => {
            return given.values.map_or(Constant::Anything, |values| known(values.get(*variable).cloned()));
        }
        Node::Stage(stage, field) => {
            let assumed = given.stages.get(*stage).copied().unwrap_or_default();
            return view(assumed).map_or(Constant::Anything, |view| known(field_of(&view, *field)));
        }
        Node::Known(operand) => {
            return match constant(operand, given) {
                Constant::Value(_) => Constant::Value(Value::Bool(true)),
                Constant::Unknown => Constant::Value(Value::Bool(false)),
                Constant::Anything => Constant::Anything,
            };
        }
        Node::Not(_) | Node::And(..) | Node::Or(..) => {
            return match possible(node, given) {
                Possible { truth: true, falsehood: true } => Constant::Anything,
                Possible { truth: true, falsehood: false } => Constant::Value(Value::Bool(true)),
                Possible { truth: false, falsehood: true } => Constant::Value(Value::Bool(false)),
                Possible { truth: false, falsehood: false } => Constant::Unknown,
            };
        }
        Node::List(nodes) => {
            return if nodes.iter().all(|node| matches!(constant(node, given), Constant::Value(_))) {
                evaluated(node, given)
            } else {
                Constant::Anything
            };
        }
        Node::Number(_) | Node::Bool(_) | Node::Text(_) | Node::Duration(_) => [None; 3],
        Node::Negate(operand) | Node::Size(operand) => [Some(operand), None, None],
        // Nothing remains of a division by nothing, whatever is divided.
        Node::Calculate(Calculation::Divide | Calculation::Remainder, _, right)
            if matches!(constant(right, given), Constant::Value(Value::Number(0.0))) =>
        {
            return Constant::Unknown;
        }
        Node::Compare(_, left, right)
        | Node::Calculate(_, left, right)
        | Node::In(left, right)
        | Node::Search(_, left, right) => [Some(left), Some(right), None],
        Node::If(condition, then, otherwise) => [Some(condition), Some(then), Some(otherwise)],
    };
    let mut anything = false;
    for part in parts.into_iter().flatten() {
        match constant(part, given) {
            // One side that is never known makes the whole never known; of a choice only one side may be needed.
            Constant::Unknown if !matches!(node, Node::If(..)) => return Constant::Unknown,
            Constant::Value(_) => {}
            Constant::Unknown | Constant::Anything => anything = true,
        }
    }
    if anything { Constant::Anything } else { evaluated(node, given) }
}

/// A variable and what it is compared with or looked for in, when that is written down.
pub(super) fn compared(node: &Node) -> Vec<(Variable, Option<Value>)> {
    let written = |node: &Node| match constant(node, Given::default()) {
        Constant::Value(Value::List(words)) => words.into_iter().map(Value::Text).collect(),
        Constant::Value(value) => vec![value],
        Constant::Unknown | Constant::Anything => Vec::new(),
    };
    let (left, right) = match node {
        Node::Compare(_, left, right) | Node::In(left, right) | Node::Search(_, left, right) => (left, right),
        _ => return Vec::new(),
    };
    match (left.as_ref(), right.as_ref()) {
        (Node::Variable(variable), other) | (other, Node::Variable(variable)) => {
            written(other).into_iter().map(|value| (*variable, Some(value))).collect()
        }
        _ => Vec::new(),
    }
}

/// A stage of which something is taken for granted.
fn view(assumed: Assumed) -> Option<StageView> {
    let of = |state, failed| StageView { state, active: false, age: Duration::ZERO, failed, effective: None };
    match assumed {
        Assumed::Anything => None,
        Assumed::Failed => Some(of("failed", true)),
        Assumed::Idle => Some(of("idle", false)),
    }
}

/// A node that depends on nothing but what is taken for granted.
fn evaluated(node: &Node, given: Given<'_>) -> Constant {
    let idle = StageView { state: "idle", active: false, age: Duration::ZERO, failed: false, effective: None };
    let stages: Vec<StageView> = given.stages.iter().map(|assumed| view(*assumed).unwrap_or(idle)).collect();
    let nothing = Values::default();
    let values = given.values.unwrap_or(&nothing);
    match value(node, &Context { values, stages: &stages }) {
        Some(value) => Constant::Value(value),
        None => Constant::Unknown,
    }
}
