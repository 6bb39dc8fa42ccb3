//! `leveectl mitigations add flowspec` and `blackhole`: measures upstream, by hand.

use std::time::Duration;

use clap::Args;
use levee_api::filter::Rule;
use levee_api::grpc::v1;
use levee_api::grpc::v1::add_mitigation_request::Measure;
use levee_api::grpc::v1::flow_action::{Drop, Kind};
use levee_api::prefix::Prefix;

use super::arguments::Changing;
use super::flowspec::ActionArguments;
use super::prefix_argument::{duration, prefix};
use super::signature::signature;
use crate::clock::nanoseconds;
use crate::ledger::FlowAction;

#[derive(Debug, Args)]
pub(super) struct FlowSpecArguments {
    /// Whom it is about: the destination of the rule.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    target: Prefix,
    /// What it matches, such as "protocol=udp src_port=53"; without it: everything to the target. docs/reference/lanes.md has
    /// the words, and `leveectl flowspec build` shows what routers make of them.
    #[arg(long = "match", value_name = "SIGNATURE", value_parser = signature)]
    signature: Option<Rule>,
    #[command(flatten)]
    action: ActionArguments,
    /// Also when routers cannot look at all of it, and would act on more than it matches.
    #[arg(long)]
    accept_wider: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct BlackholeArguments {
    /// Everything to it is dropped by the networks upstream.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    target: Prefix,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// Who announces it; without it: the first announcer that can.
    #[arg(long, value_name = "NAME", default_value = "")]
    announcer: String,
    /// From now until its end, such as 30m.
    #[arg(long, value_parser = duration)]
    ttl: Duration,
    /// The incident that it belongs to.
    #[arg(long, default_value = "")]
    incident: String,
    /// Why; it is written down.
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    changing: Changing,
}

pub(super) fn flowspec(arguments: FlowSpecArguments) -> v1::AddMitigationRequest {
    let kind = match arguments.action.action() {
        FlowAction::Drop => Kind::Drop(Drop {}),
        FlowAction::RateLimit { bps } => Kind::LimitBps(bps),
        FlowAction::RateLimitPackets { pps } => Kind::LimitPps(pps),
        FlowAction::Redirect { to } => Kind::Redirect(to),
        FlowAction::Mark { dscp } => Kind::Mark(dscp.into()),
    };
    let measure = v1::FlowSpecMeasure {
        destination: Some(arguments.target.into()),
        rule: arguments.signature.as_ref().map(Into::into),
        action: Some(v1::FlowAction { kind: Some(kind) }),
        announcer: arguments.common.announcer.clone(),
        accept_wider: arguments.accept_wider,
    };
    asked(arguments.common, Measure::Flowspec(measure))
}

pub(super) fn blackhole(arguments: BlackholeArguments) -> v1::AddMitigationRequest {
    let prefix = Some(arguments.target.into());
    let measure = v1::BlackholeMeasure { prefix, announcer: arguments.common.announcer.clone() };
    asked(arguments.common, Measure::Blackhole(measure))
}

fn asked(common: Common, measure: Measure) -> v1::AddMitigationRequest {
    v1::AddMitigationRequest {
        request_id: common.changing.id(),
        validate_only: common.changing.dry_run,
        incident: common.incident,
        ttl_ns: nanoseconds(common.ttl),
        reason: common.reason,
        measure: Some(measure),
    }
}
