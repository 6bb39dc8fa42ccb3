//! From the boxes that the dataplane filters by to the rules that routers upstream know.
//!
//! A box speaks of thirty-two pieces of a packet, a FlowSpec rule of a dozen. The rule therefore matches *at least* what the
//! filter matches: whatever a router cannot look at is left out, told, and makes the rule [inexact](Lowered::exact). What may
//! only drop what the filter drops has to look at that.
//!
//! One promise is tested with a packet model: every packet that matches a filter matches one of its rules. It holds for
//! packets that come as they are: of those that come in a tunnel the dataplane looks inside, and a router does not.

mod merge;
mod one;

pub use merge::split;

use levee_api::filter::Rule;
use levee_api::prefix::Prefix;

use crate::ledger::FlowRule;

/// A filter to be lowered.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'f> {
    /// What it matches.
    pub rule: &'f Rule,
    /// It looks at what its packets are in their conversations, which no router knows.
    pub by_role: bool,
    /// What it has matched so far, in any unit: what has matched more comes first.
    pub effect: u64,
}

/// A rule for routers.
#[derive(Clone, Debug, PartialEq)]
pub struct Lowered {
    /// What it matches.
    pub rule: FlowRule,
    /// It matches what its filters match and no more.
    pub exact: bool,
    /// What its filters ask for and routers do not look at, in words.
    pub omitted: Vec<String>,
    /// How much more of header space it matches than the filter that it was made of, in powers of two; of several filters
    /// the largest. Conditions on roles and payload beyond the first sixteen bytes have no size and are not counted.
    pub wider_bits: f64,
    /// Sum of its filters' effects.
    pub effect: u64,
    /// Which of the wanted filters it covers.
    pub filters: Vec<usize>,
}

/// Why a filter has no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeftOut {
    /// No packet to this destination matches it.
    #[error("no packet to {0} can match it")]
    NeverMatches(Prefix),
    /// Only packets out of a tunnel match it.
    #[error("it is about what tunnels carry, which routers do not look into")]
    Tunnelled,
    /// Nothing that routers look at is left of it.
    #[error("routers look at nothing that it asks for: the rule would be everything to the target")]
    Everything,
    /// Others have more effect.
    #[error("there is room for {0} rules, and those that match more come first")]
    Budget(usize),
}

/// So many powers of two, for people.
pub fn times(bits: f64) -> String {
    if bits < 20.0 { format!("{:.3}", bits.exp2()) } else { format!("2^{bits:.0}") }
}

/// What has become of all of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lowering {
    /// The rules, those with the most effect first.
    pub rules: Vec<Lowered>,
    /// The filters without a rule, by their index.
    pub left_out: Vec<(usize, LeftOut)>,
}

/// Rules that match at least what the filters match, as few as can be without matching more, at most `max_rules`.
pub fn lower(wanted: &[Wanted<'_>], destination: Prefix, max_rules: usize) -> Lowering {
    let mut lowering = Lowering::default();
    for (index, filter) in wanted.iter().enumerate() {
        match one::lower(filter, destination) {
            Ok(lowered) => lowering.rules.push(Lowered { filters: vec![index], ..lowered }),
            Err(why) => lowering.left_out.push((index, why)),
        }
    }
    let merged = merge::merge(std::mem::take(&mut lowering.rules));
    for lowered in merged {
        // What was merged into longer lists than routers take is cut into several rules.
        let parts = split(&lowered.rule);
        lowering.rules.extend(parts.into_iter().map(|rule| Lowered { rule, ..lowered.clone() }));
    }
    // Of equal effect the narrower first: it does less harm.
    lowering.rules.sort_by(|a, b| b.effect.cmp(&a.effect).then(a.wider_bits.total_cmp(&b.wider_bits)));
    let cut = lowering.rules.split_off(max_rules.min(lowering.rules.len()));
    let mut without: Vec<usize> = cut.into_iter().flat_map(|lowered| lowered.filters).collect();
    without.sort_unstable();
    without.dedup();
    lowering.left_out.extend(without.into_iter().map(|index| (index, LeftOut::Budget(max_rules))));
    lowering
}

#[cfg(test)]
mod tests;
