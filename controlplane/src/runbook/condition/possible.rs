//! What a condition could say when some stages have failed and everything else may be anything: so that a ladder that
//! ends early is noticed by daylight.
//!
//! It errs on one side: what it calls impossible is impossible, what it calls possible may contradict itself.

use std::time::Duration;

use super::super::variable::{StageField, Value, Values};
use super::evaluate::{Context, StageView};
use super::node::Node;

/// What could come out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Possible {
    pub(super) truth: bool,
    pub(super) falsehood: bool,
}

const ANYTHING: Possible = Possible { truth: true, falsehood: true };

/// A value that is the same whatever happens, a value that is never known, or anything.
enum Constant {
    Value(Value),
    Unknown,
    Anything,
}

pub(super) fn possible(node: &Node, failed: &[usize]) -> Possible {
    let of = |node: &Node| possible(node, failed);
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
        _ => match constant(node, failed) {
            Constant::Value(Value::Bool(flag)) => Possible { truth: flag, falsehood: !flag },
            Constant::Value(_) | Constant::Unknown => Possible::default(),
            Constant::Anything => ANYTHING,
        },
    }
}

fn constant(node: &Node, failed: &[usize]) -> Constant {
    let field_of_failed = |stage: &usize, field: &StageField| {
        failed.contains(stage).then(|| match field {
            StageField::State => Some(Value::Text("failed".to_owned())),
            StageField::Active => Some(Value::Bool(false)),
            StageField::Age => Some(Value::Duration(Duration::ZERO)),
            StageField::Failed => Some(Value::Bool(true)),
            StageField::Effective => None,
        })
    };
    let parts: [Option<&Node>; 3] = match node {
        Node::Variable(_) => return Constant::Anything,
        Node::Stage(stage, field) => {
            return match field_of_failed(stage, field) {
                Some(Some(value)) => Constant::Value(value),
                Some(None) => Constant::Unknown,
                None => Constant::Anything,
            };
        }
        Node::Known(operand) => {
            return match constant(operand, failed) {
                Constant::Value(_) => Constant::Value(Value::Bool(true)),
                Constant::Unknown => Constant::Value(Value::Bool(false)),
                Constant::Anything => Constant::Anything,
            };
        }
        Node::Not(_) | Node::And(..) | Node::Or(..) => {
            return match possible(node, failed) {
                Possible { truth: true, falsehood: true } => Constant::Anything,
                Possible { truth: true, falsehood: false } => Constant::Value(Value::Bool(true)),
                Possible { truth: false, falsehood: true } => Constant::Value(Value::Bool(false)),
                Possible { truth: false, falsehood: false } => Constant::Unknown,
            };
        }
        Node::List(nodes) => {
            return if nodes.iter().all(|node| matches!(constant(node, failed), Constant::Value(_))) {
                evaluated(node, failed)
            } else {
                Constant::Anything
            };
        }
        Node::Number(_) | Node::Bool(_) | Node::Text(_) | Node::Duration(_) => [None; 3],
        Node::Negate(operand) | Node::Size(operand) => [Some(operand), None, None],
        Node::Compare(_, left, right)
        | Node::Calculate(_, left, right)
        | Node::In(left, right)
        | Node::Search(_, left, right) => [Some(left), Some(right), None],
        Node::If(condition, then, otherwise) => [Some(condition), Some(then), Some(otherwise)],
    };
    let mut anything = false;
    for part in parts.into_iter().flatten() {
        match constant(part, failed) {
            // One side that is never known makes the whole never known; of a choice only one side may be needed.
            Constant::Unknown if !matches!(node, Node::If(..)) => return Constant::Unknown,
            Constant::Value(_) => {}
            Constant::Unknown | Constant::Anything => anything = true,
        }
    }
    if anything { Constant::Anything } else { evaluated(node, failed) }
}

/// A node that depends on nothing but failed stages.
fn evaluated(node: &Node, failed: &[usize]) -> Constant {
    let view = StageView { state: "failed", active: false, age: Duration::ZERO, failed: true, effective: None };
    let stages = vec![view; failed.iter().max().map_or(0, |last| last + 1)];
    let values = Values::default();
    match super::evaluate::value(node, &Context { values: &values, stages: &stages }) {
        Some(value) => Constant::Value(value),
        None => Constant::Unknown,
    }
}
