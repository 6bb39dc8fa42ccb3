//! What is valid and probably not meant: comparisons that come out the same whatever happens.

use levee_api::config::nearest;

use super::super::progress::STATES;
use super::super::variable::{StageField, Value, Variable};
use super::node::{Comparison, Node};
use super::possible::{Constant, Given, constant};

/// What is odd, and what to do.
pub(super) type Doubt = (String, String);

/// Of two sides of one type.
pub(super) fn of_comparison(comparison: Comparison, left: &Node, right: &Node) -> Option<Doubt> {
    let (variable, comparison, other) = match (left, right) {
        (Node::Variable(_) | Node::Stage(..), other) => (left, comparison, other),
        (other, Node::Variable(_) | Node::Stage(..)) => (right, comparison.mirrored(), other),
        _ => return None,
    };
    match (variable, constant(other, Given::default())) {
        (Node::Variable(variable), Constant::Value(Value::Number(number))) => {
            out_of_range(*variable, comparison, number)
        }
        (_, Constant::Value(Value::Text(text))) => unknown_word(variable, &text),
        _ => None,
    }
}

/// Of `element in list`.
pub(super) fn of_search(element: &Node, list: &Node) -> Option<Doubt> {
    match (element, list) {
        (Node::Text(text), Node::Variable(_)) => unknown_word(list, text),
        (Node::Variable(_) | Node::Stage(..), Node::List(nodes)) => nodes.iter().find_map(|node| match node {
            Node::Text(text) => unknown_word(element, text),
            _ => None,
        }),
        _ => None,
    }
}

fn unknown_word(variable: &Node, text: &str) -> Option<Doubt> {
    let (what, known) = match variable {
        Node::Variable(variable) => (variable.name(), variable.words()?),
        Node::Stage(_, StageField::State) => ("the state of a stage", STATES.to_vec()),
        _ => return None,
    };
    if known.contains(&text) {
        return None;
    }
    let near = nearest(text, &known).map(|near| format!("did you mean '{near}'? "));
    let help = format!("{}Known are {}", near.unwrap_or_default(), known.join(", "));
    Some((format!("{what} is never {text:?}, nor has it"), help))
}

fn out_of_range(variable: Variable, comparison: Comparison, number: f64) -> Option<Doubt> {
    let range = variable.range()?;
    let (least, most) = (*range.start(), *range.end());
    let within = range.contains(&number);
    let (can_be_true, can_be_false) = match comparison {
        Comparison::Less => (least < number, most >= number),
        Comparison::LessOrEqual => (least <= number, most > number),
        Comparison::Greater => (most > number, least <= number),
        Comparison::GreaterOrEqual => (most >= number, least < number),
        Comparison::Equal => (within, true),
        Comparison::NotEqual => (true, within),
    };
    if can_be_true && can_be_false {
        return None;
    }
    let outcome = if can_be_true { "always" } else { "never" };
    let name = variable.name();
    let help = if variable.is_share() && number > 1.0 {
        format!("{name} is a share: half is 0.5, and 1 is all of it")
    } else {
        format!("{name} is from {least} to {most}")
    };
    Some((format!("this is {outcome} true"), help))
}
