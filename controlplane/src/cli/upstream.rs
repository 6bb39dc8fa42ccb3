//! `leveectl mitigations add flowspec`, `divert` and `blackhole`: measures upstream, by hand.

use std::time::Duration;

use clap::Args;
use levee_api::filter::Rule;
use levee_api::grpc::v1;
use levee_api::grpc::v1::add_mitigation_request::Measure;
use levee_api::grpc::v1::flow_action::{Drop, Kind, Sample};
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
    #[arg(long = "match", value_name = "SIGNATURE", value_parser = signature, allow_hyphen_values = true)]
    signature: Option<Rule>,
    #[command(flatten)]
    action: ActionArguments,
    /// Also when routers cannot look at all of it, and would act on more than it matches.
    #[arg(long)]
    accept_wider: bool,
    /// Who announces it; without it: the first announcer that can.
    #[arg(long, value_name = "NAME", default_value = "")]
    announcer: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct BlackholeArguments {
    /// Everything to it is dropped by the networks upstream.
    #[arg(long, value_name = "PREFIX", value_parser = prefix, required_unless_present = "source")]
    target: Option<Prefix>,
    /// Instead of a target: everything from it is dropped (RFC 5635), by peers that are asked for that.
    #[arg(long, value_name = "PREFIX", value_parser = prefix, conflicts_with = "target")]
    source: Option<Prefix>,
    /// With --source: the zone that is attacked, when there are several.
    #[arg(long, default_value = "", requires = "source")]
    zone: String,
    /// Who announces it; without it: the first announcer that can.
    #[arg(long, value_name = "NAME", default_value = "")]
    announcer: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct DivertArguments {
    /// What goes another way.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    target: Prefix,
    /// The announcer or the scrubber that it goes by; without it: the first announcer that can.
    #[arg(long, value_name = "NAME", default_value = "")]
    via: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
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
        FlowAction::Sample => Kind::Sample(Sample {}),
    };
    let measure = v1::FlowSpecMeasure {
        destination: Some(arguments.target.into()),
        rule: arguments.signature.as_ref().map(Into::into),
        action: Some(v1::FlowAction { kind: Some(kind) }),
        announcer: arguments.announcer,
        accept_wider: arguments.accept_wider,
    };
    asked(arguments.common, Measure::Flowspec(measure))
}

pub(super) fn blackhole(arguments: BlackholeArguments) -> v1::AddMitigationRequest {
    let BlackholeArguments { target, source, zone, announcer, common } = arguments;
    let prefix = source.or(target).map(Into::into);
    let measure = v1::BlackholeMeasure { prefix, announcer, source: source.is_some(), zone };
    asked(common, Measure::Blackhole(measure))
}

pub(super) fn divert(arguments: DivertArguments) -> v1::AddMitigationRequest {
    let measure = v1::DivertMeasure { prefix: Some(arguments.target.into()), via: arguments.via };
    asked(arguments.common, Measure::Divert(measure))
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
