//! Measures upstream that operators ask for, read as routers will be told them.

use levee_api::filter::Rule;
use levee_api::grpc::v1;
use levee_api::grpc::v1::flow_action::Kind;
use levee_api::prefix::Prefix;

use super::refusal::Fields;
use crate::bgp::lowering::{LeftOut, Wanted, lower, times};
use crate::bgp::speaker::export::destination;
use crate::driver::DriverName;
use crate::ledger::{Direction, FlowAction, FlowRule, Spec};

/// More parts than these are not counted.
const PARTS: usize = 1_000;

/// The announcer that was named, if one was.
pub(super) fn driver(announcer: &str) -> Option<DriverName> {
    (!announcer.is_empty()).then(|| DriverName(announcer.to_owned()))
}

pub(super) fn flowspec(asked: &v1::FlowSpecMeasure, fields: &mut Fields) -> Option<Spec> {
    let destination_prefix = needed("flowspec.destination", asked.destination.as_ref(), fields);
    let rule = asked.rule.as_ref().map(Rule::try_from).transpose();
    let rule = fields.take("flowspec.rule", rule);
    let action = action(asked.action.as_ref(), fields);
    let rule = lowered(destination_prefix?, rule?.as_ref(), asked.accept_wider);
    let spec = Spec::FlowSpec { rule: fields.take("flowspec.rule", rule)?, action: action? };
    // What cannot be written on the wire is refused before anything is planned.
    fields.take("flowspec", destination(&spec))?;
    Some(spec)
}

pub(super) fn blackhole(asked: &v1::BlackholeMeasure, fields: &mut Fields) -> Option<Spec> {
    let prefix = needed("blackhole.prefix", asked.prefix.as_ref(), fields)?;
    let direction = if asked.source { Direction::Source } else { Direction::Destination };
    Some(Spec::Blackhole { prefix, direction })
}

pub(super) fn divert(asked: &v1::DivertMeasure, fields: &mut Fields) -> Option<Spec> {
    let prefix = needed("divert.prefix", asked.prefix.as_ref(), fields)?;
    Some(Spec::Divert { prefix })
}

fn needed(field: &str, prefix: Option<&v1::Prefix>, fields: &mut Fields) -> Option<Prefix> {
    let prefix = fields.prefix(field, prefix)?;
    fields.take(field, prefix.ok_or("say which prefix it is about"))
}

/// The one rule that it becomes, or why it is none.
fn lowered(to: Prefix, rule: Option<&Rule>, accept_wider: bool) -> Result<FlowRule, String> {
    let Some(rule) = rule else { return Ok(FlowRule::to(to)) };
    let lowering = lower(&[Wanted { rule, by_role: false, effect: 0 }], to, PARTS);
    if let Some((_, why)) = lowering.left_out.first() {
        let help = if *why == LeftOut::Everything { "; leave the match out if that is what you want" } else { "" };
        return Err(format!("{why}{help}"));
    }
    let parts = lowering.rules.len();
    match &lowering.rules[..] {
        [one] if one.exact || accept_wider => Ok(one.rule.clone()),
        [one] => {
            let (wider, without) = (times(one.wider_bits), one.omitted.join(", "));
            Err(format!(
                "routers cannot look at {without}: they would act on more, {}, about {wider} times as much; \
                 accept that it is wider, or match something else",
                one.rule
            ))
        }
        _ => Err(format!(
            "it becomes {parts} rules, because routers take six values in a list; ask for each of them by itself \
             (leveectl flowspec build shows them)"
        )),
    }
}

fn action(asked: Option<&v1::FlowAction>, fields: &mut Fields) -> Option<FlowAction> {
    let action = match asked.and_then(|action| action.kind.as_ref()) {
        Some(Kind::Drop(_)) => Ok(FlowAction::Drop),
        // Less than one is nothing, and says so.
        Some(Kind::LimitBps(0) | Kind::LimitPps(0)) => Err("a limit of nothing is to drop: ask for that".to_owned()),
        Some(Kind::LimitBps(bps)) => Ok(FlowAction::RateLimit { bps: *bps }),
        Some(Kind::LimitPps(pps)) => Ok(FlowAction::RateLimitPackets { pps: *pps }),
        Some(Kind::Redirect(to)) => Ok(FlowAction::Redirect { to: to.clone() }),
        Some(Kind::Mark(dscp)) => match u8::try_from(*dscp) {
            Ok(dscp @ 0..=63) => Ok(FlowAction::Mark { dscp }),
            _ => Err(format!("{dscp} is no code point: there are 64, from 0 to 63")),
        },
        Some(Kind::Sample(_)) => Ok(FlowAction::Sample),
        None => Err("say what is done with what matches".to_owned()),
    };
    fields.take("flowspec.action", action)
}
