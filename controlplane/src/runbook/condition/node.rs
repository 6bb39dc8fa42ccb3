//! A condition as it is evaluated: every name resolved, every type right.

use std::time::Duration;

use super::super::variable::{StageField, Variable};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Number(f64),
    Bool(bool),
    Text(String),
    /// A list that was written down, of strings.
    List(Vec<Node>),
    Duration(Duration),
    Variable(Variable),
    /// A stage by its position.
    Stage(usize, StageField),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    /// If, then, else.
    If(Box<Node>, Box<Node>, Box<Node>),
    Compare(Comparison, Box<Node>, Box<Node>),
    Calculate(Calculation, Box<Node>, Box<Node>),
    /// The string is in the list.
    In(Box<Node>, Box<Node>),
    /// How many strings are in the list.
    Size(Box<Node>),
    /// The value is known.
    Known(Box<Node>),
    Search(Search, Box<Node>, Box<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Of two numbers; the first two also of two durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calculation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Search {
    StartsWith,
    EndsWith,
    Contains,
}

impl Comparison {
    /// The same with its sides exchanged.
    pub(super) const fn mirrored(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            Self::Equal | Self::NotEqual => self,
        }
    }
}

impl Node {
    /// Visits every node.
    pub(super) fn visit(&self, seen: &mut impl FnMut(&Self)) {
        seen(self);
        match self {
            Self::Number(_)
            | Self::Bool(_)
            | Self::Text(_)
            | Self::Duration(_)
            | Self::Variable(_)
            | Self::Stage(..) => {}
            Self::List(nodes) => nodes.iter().for_each(|node| node.visit(seen)),
            Self::Not(node) | Self::Negate(node) | Self::Size(node) | Self::Known(node) => node.visit(seen),
            Self::And(left, right)
            | Self::Or(left, right)
            | Self::Compare(_, left, right)
            | Self::Calculate(_, left, right)
            | Self::In(left, right)
            | Self::Search(_, left, right) => {
                left.visit(seen);
                right.visit(seen);
            }
            Self::If(condition, then, otherwise) => {
                [condition, then, otherwise].into_iter().for_each(|node| node.visit(seen));
            }
        }
    }
}
