//! Rules that no mitigation may break, whoever asked for it.

mod refusal;

pub use refusal::Refusal;
