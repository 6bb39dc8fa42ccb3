//! `leveectl runbook simulate`: what a runbook would have done about the attacks in the report of a replay, and when.
//!
//! The engine is the one that runs live; the world around it is a model, and a plain one ([`World`] says what it assumes).

mod attack;
mod command;
mod idle;
mod story;
mod world;

pub use attack::{Attack, Report, ReportError};
pub use command::{Arguments, run};
pub use story::{Line, NotEntered, Story};
pub use world::{Assumption, Assumptions, World};

#[cfg(test)]
mod tests;
