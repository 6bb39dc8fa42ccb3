//! What a stage does, in words.

use levee_api::config::{Action, ApprovalRole, BlackholeDirection, FlowSpecAction, Otherwise, Via};

use super::Stage;
use crate::actor::Role;

/// What a stage does, in words: for plans and for `check`.
pub fn describe(stage: &Stage) -> String {
    let ttl = format!("{} s at a time", stage.ttl.as_secs());
    let what = match &stage.action {
        Action::Filter => format!("filters of the dataplane, {ttl}"),
        Action::FlowSpec(flowspec) => {
            let action = match &flowspec.prefer {
                FlowSpecAction::RateLimit => format!("limit to {} bit/s", flowspec.rate_bps),
                FlowSpecAction::Drop => "drop".to_owned(),
                FlowSpecAction::Redirect { to } => format!("redirect to {to}"),
                FlowSpecAction::Mark { dscp } => format!("mark {dscp}"),
                FlowSpecAction::Sample => "sample".to_owned(),
            };
            format!("flowspec by {}: {action}, {ttl}", flowspec.announcers.join(", "))
        }
        Action::Divert(divert) => match &divert.via {
            Via::Scrubber(scrubber) => format!("divert to {scrubber}, {ttl}"),
            Via::Announcers(announcers) => format!("divert by {}, {ttl}", announcers.join(", ")),
        },
        Action::Blackhole(blackhole) => {
            let direction = match blackhole.direction {
                BlackholeDirection::Destination => "the target",
                BlackholeDirection::Source => "the sources",
            };
            format!("blackhole {direction} by {}, {ttl}", blackhole.announcers.join(", "))
        }
        Action::Notify { channels } => format!("tell {}", channels.join(", ")),
        Action::Capture { duration } => format!("capture {} s", duration.as_secs()),
        Action::Webhook { notifier } => format!("call {notifier}"),
        Action::WaitForApproval(_) => "wait for approval".to_owned(),
    };
    match &stage.approve {
        Some(ask) => {
            let roles: Vec<&str> = ask.roles.iter().map(|role| Role::from(*role).name()).collect();
            let otherwise = match ask.otherwise {
                Otherwise::Proceed => "proceeds",
                Otherwise::Skip => "is skipped",
            };
            let people = if ask.people > 1 { format!(", {} people", ask.people) } else { String::new() };
            format!("{what}; asks {}{people} for {} s, then {otherwise}", roles.join(" or "), ask.within.as_secs())
        }
        None => what,
    }
}

impl From<ApprovalRole> for Role {
    fn from(role: ApprovalRole) -> Self {
        match role {
            ApprovalRole::Operator => Self::Operator,
            ApprovalRole::Approver => Self::Approver,
            ApprovalRole::Admin => Self::Admin,
        }
    }
}
