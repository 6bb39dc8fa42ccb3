//! Conditions: CEL expressions, checked against the table of variables when they are read, evaluated without surprises
//! afterwards.
//!
//! The crate `cel` reads the text. Its own evaluator checks nothing ahead of time and does not know what it means not to
//! know; so what it read is turned into a tree of our own, in which every name, type and argument has been checked, and
//! that tree is what is evaluated: no loops, at most as many steps as the text has operators, and three outcomes.

mod check;
mod doubt;
mod evaluate;
mod node;
mod parse;
mod possible;
mod slip;

use std::ops::Range;

use super::variable::{StageField, Value, Values, Variable};

pub use evaluate::{Context, StageView, Verdict};
pub use possible::Assumed;

/// A condition that was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    root: node::Node,
    doubts: Vec<Mistake>,
}

/// What is wrong with a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where, in bytes of the condition.
    pub at: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

impl Mistake {
    fn new(at: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { at, message: message.into(), help: help.into() }
    }
}

impl Condition {
    /// Reads and checks a text; `stages` are the names that `stage.NAME` may speak of.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of the text.
    pub fn parse(text: &str, stages: &[&str]) -> Result<Self, Vec<Mistake>> {
        let text = text.to_owned();
        let stages: Vec<String> = stages.iter().map(|name| (*name).to_owned()).collect();
        parse::with_room(move || {
            let read = parse::read(&text).map_err(|mistake| vec![mistake])?;
            check::check(&read, &stages)
        })
        .map(|(root, doubts)| Self { root, doubts })
    }

    /// In the place of one that cannot be read: it is neither true nor false, whatever happens, so that its stage is not
    /// entered.
    pub fn never_known() -> Self {
        let (one, zero) = (node::Node::Number(1.0), node::Node::Number(0.0));
        let nothing = node::Node::Calculate(node::Calculation::Divide, Box::new(one), Box::new(zero.clone()));
        let root = node::Node::Compare(node::Comparison::Greater, Box::new(nothing), Box::new(zero));
        Self { root, doubts: Vec::new() }
    }

    /// What is valid and probably not meant, in the order of the text.
    pub fn doubts(&self) -> &[Mistake] {
        &self.doubts
    }

    /// The stages that it speaks of, by position, sorted.
    pub fn stages(&self) -> Vec<usize> {
        let mut found = Vec::new();
        self.root.visit(&mut |node| {
            if let node::Node::Stage(stage, _) = node {
                found.push(*stage);
            }
        });
        found.sort_unstable();
        found.dedup();
        found
    }

    /// How many parts it has, each of which is looked at when it is evaluated.
    pub fn size(&self) -> usize {
        let mut size = 0_usize;
        self.root.visit(&mut |_| size = size.saturating_add(1));
        size
    }

    /// True when it asks for this field of this stage.
    pub fn reads(&self, stage: usize, field: StageField) -> bool {
        let mut found = false;
        self.root.visit(&mut |node| found |= *node == node::Node::Stage(stage, field));
        found
    }

    /// The variables that it asks for, in the order of their table.
    pub fn variables(&self) -> Vec<Variable> {
        let mut found = Vec::new();
        self.root.visit(&mut |node| {
            if let node::Node::Variable(variable) = node {
                found.push(*variable);
            }
        });
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The variables that it asks for, each with what it is compared with, if that is written down.
    pub fn compared(&self) -> Vec<(Variable, Option<Value>)> {
        let mut found: Vec<_> = self.variables().into_iter().map(|variable| (variable, None)).collect();
        self.root.visit(&mut |node| found.extend(possible::compared(node)));
        found
    }

    /// False when it cannot hold, whatever everything else is, while this is so: of stages, by position, and of variables if
    /// they are given.
    pub fn can_hold(&self, stages: &[Assumed], values: Option<&Values>) -> bool {
        possible::possible(&self.root, possible::Given { stages, values }).truth
    }

    /// What it says now.
    pub fn evaluate(&self, context: &Context<'_>) -> Verdict {
        evaluate::verdict(&self.root, context)
    }
}

#[cfg(test)]
mod tests;
