//! A refusal that explains itself.

use serde::{Deserialize, Serialize};

/// What a guardrail said no to: the same words in the API, the timeline and the metrics.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[error("guardrail {guardrail}: {text} ({value}; limit: {limit})")]
pub struct Refusal {
    /// Name of the guardrail, as in the configuration where it has a key there.
    pub guardrail: String,
    /// What was asked for.
    pub value: String,
    /// What is allowed.
    pub limit: String,
    /// What is wrong and what to do, in words.
    pub text: String,
}
