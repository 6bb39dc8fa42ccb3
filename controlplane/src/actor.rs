//! Who asks for something: recorded with everything that is done.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who or what asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Actor {
    /// A stage of a runbook.
    Runbook {
        /// Name of the runbook.
        runbook: String,
        /// Name of the stage.
        stage: String,
    },
    /// A person, or a program with a person's rights.
    Operator {
        /// As the peer was recognised: a user name of the machine, the subject of a certificate.
        name: String,
        /// What the person may do.
        role: Role,
    },
    /// Levee itself: the reconciler, a deadline, the kill switch.
    Levee {
        /// Which part.
        part: String,
    },
}

/// What somebody may do; each may do what the ones before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Start and end mitigations.
    Operator,
    /// Approve what runbooks ask about.
    Approver,
    /// Change the configuration.
    Admin,
}

impl Role {
    /// All of them, the least first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Operator, Self::Approver, Self::Admin];

    /// As it is written in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::Admin => "admin",
        }
    }
}

impl Actor {
    /// A part of Levee.
    pub fn levee(part: &str) -> Self {
        Self::Levee { part: part.to_owned() }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runbook { runbook, stage } => write!(f, "runbook {runbook}, stage {stage}"),
            Self::Operator { name, role } => write!(f, "{name} ({role})"),
            Self::Levee { part } => write!(f, "levee ({part})"),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
