//! What a mitigation is, in terms that every driver understands and that can be stored.

use std::fmt;

use levee_api::filter::Target;
use levee_api::grpc::{FieldError, FilterRequest, v1};
use levee_api::prefix::Prefix;
use levee_api::role::RoleSet;
use prost::Message as _;
use serde::{Deserialize, Serialize};

/// A measure, without who carries it out and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spec {
    /// Filters of the dataplane, all or none.
    Filter(FilterSpec),
    /// One FlowSpec rule (RFC 8955, RFC 8956).
    FlowSpec {
        /// What it matches.
        rule: FlowRule,
        /// What routers do with what matches.
        action: FlowAction,
    },
    /// A prefix goes through a scrubbing provider, or is announced in another way.
    Divert {
        /// What is diverted.
        prefix: Prefix,
    },
    /// A prefix is dropped by the networks upstream (RFC 7999, RFC 5635).
    Blackhole {
        /// What is dropped.
        prefix: Prefix,
        /// Packets to it, or from it.
        direction: Direction,
    },
}

/// The kinds of [`Spec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// [`Spec::Filter`].
    Filter,
    /// [`Spec::FlowSpec`].
    FlowSpec,
    /// [`Spec::Divert`].
    Divert,
    /// [`Spec::Blackhole`].
    Blackhole,
}

/// Filters of the dataplane on one target.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FilterSpec {
    /// What they are installed on.
    pub target: Target,
    /// At least one.
    pub filters: Vec<StoredFilter>,
}

/// One filter as it is stored: the message of the contract, and what people read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoredFilter {
    /// A `levee.v1.FilterRequest`, encoded, in hexadecimal digits. Its owner and its end are the driver's to fill in.
    message: String,
    /// Roles, rule and action as people read them.
    pub rendered: String,
}

/// Inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// The lowest that matches.
    pub first: u16,
    /// The highest that matches.
    pub last: u16,
}

/// What a FlowSpec rule matches: all conditions hold, an empty list is no condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FlowRule {
    /// Always there: guardrails bound it.
    pub destination: Prefix,
    /// Where packets come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Prefix>,
    /// IP protocols.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<u8>,
    /// Source ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ports: Vec<PortRange>,
    /// Destination ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destination_ports: Vec<PortRange>,
    /// ICMP types, of a rule for ICMP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub icmp_types: Vec<PortRange>,
    /// ICMP codes, of a rule for ICMP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub icmp_codes: Vec<PortRange>,
    /// IP total lengths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lengths: Vec<PortRange>,
    /// Differentiated services code points, 0 to 63.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dscps: Vec<PortRange>,
    /// TCP flags: `flags & mask == value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<(u16, u16)>,
    /// True: only later fragments; false: no later fragments; none: both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub later_fragment: Option<bool>,
}

/// What routers do with packets that match a FlowSpec rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowAction {
    /// traffic-rate 0.
    Drop,
    /// traffic-rate-bytes.
    RateLimit {
        /// Bits per second that pass.
        bps: u64,
    },
    /// traffic-rate-packets.
    RateLimitPackets {
        /// Packets per second that pass.
        pps: u64,
    },
    /// Into a VRF or to an address.
    Redirect {
        /// A route target, or an address.
        to: String,
    },
    /// traffic-marking.
    Mark {
        /// 0..=63.
        dscp: u8,
    },
    /// traffic-action: packets are sampled, and further rules are looked at.
    Sample,
}

impl FlowAction {
    /// True when everything that matches gets to where it was sent.
    pub const fn lets_all_pass(&self) -> bool {
        matches!(self, Self::Mark { .. } | Self::Sample)
    }

    /// True when that is so, and known: packets and bits cannot be compared.
    pub const fn lets_pass_no_more_than(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Drop, _) => true,
            (Self::RateLimit { bps }, Self::RateLimit { bps: most }) => *bps <= *most,
            (Self::RateLimitPackets { pps }, Self::RateLimitPackets { pps: most }) => *pps <= *most,
            _ => false,
        }
    }
}

/// Which packets of a prefix a blackhole takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Packets to it.
    Destination,
    /// Packets from it.
    Source,
}

/// A stored filter that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFilter {
    /// Not the digits of a message.
    #[error("the stored filter {0:?} is no message of the contract")]
    Encoding(String),
    /// A message that the contract does not allow.
    #[error("the stored filter is not valid: {0}")]
    Field(#[from] FieldError),
}

impl Spec {
    /// Of which kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Filter(_) => Kind::Filter,
            Self::FlowSpec { .. } => Kind::FlowSpec,
            Self::Divert { .. } => Kind::Divert,
            Self::Blackhole { .. } => Kind::Blackhole,
        }
    }

    /// The prefix that it acts on; none for filters on a whole zone.
    pub const fn prefix(&self) -> Option<Prefix> {
        match self {
            Self::Filter(filter) => filter.target.prefix,
            Self::FlowSpec { rule, .. } => Some(rule.destination),
            Self::Divert { prefix } | Self::Blackhole { prefix, .. } => Some(*prefix),
        }
    }
}

impl FlowRule {
    /// Everything to a destination.
    pub const fn to(destination: Prefix) -> Self {
        Self {
            destination,
            source: None,
            protocols: Vec::new(),
            source_ports: Vec::new(),
            destination_ports: Vec::new(),
            icmp_types: Vec::new(),
            icmp_codes: Vec::new(),
            lengths: Vec::new(),
            dscps: Vec::new(),
            tcp_flags: None,
            later_fragment: None,
        }
    }
}

impl StoredFilter {
    /// To be stored.
    pub fn of(request: &FilterRequest) -> Self {
        let roles = match request.roles {
            RoleSet::FILTERABLE => "all roles".to_owned(),
            roles => roles.to_string(),
        };
        let rendered = format!("{roles} {}: {}", request.rule, request.action);
        let message = v1::FilterRequest::from(request).encode_to_vec();
        let message = message.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { message, rendered }
    }

    /// As it was.
    ///
    /// # Errors
    /// When it was stored by something else, or damaged.
    pub fn request(&self) -> Result<FilterRequest, BadFilter> {
        let wrong = || BadFilter::Encoding(self.message.clone());
        let digits = self.message.as_bytes();
        if !digits.len().is_multiple_of(2) {
            return Err(wrong());
        }
        let pairs = digits.chunks_exact(2).map(|pair| std::str::from_utf8(pair).ok());
        let bytes: Option<Vec<u8>> = pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect();
        let message = v1::FilterRequest::decode(bytes.ok_or_else(wrong)?.as_slice()).map_err(|_| wrong())?;
        Ok(FilterRequest::try_from(&message)?)
    }
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Filter, Self::FlowSpec, Self::Divert, Self::Blackhole];

    /// As it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::FlowSpec => "flowspec",
            Self::Divert => "divert",
            Self::Blackhole => "blackhole",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl fmt::Display for FlowRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, name: &str, values: &[T]) -> fmt::Result {
            if values.is_empty() {
                return Ok(());
            }
            let values: Vec<String> = values.iter().map(ToString::to_string).collect();
            write!(f, " {name} {}", values.join(","))
        }
        write!(f, "to {}", self.destination)?;
        if let Some(source) = self.source {
            write!(f, " from {source}")?;
        }
        list(f, "protocol", &self.protocols)?;
        list(f, "source port", &self.source_ports)?;
        list(f, "destination port", &self.destination_ports)?;
        list(f, "icmp type", &self.icmp_types)?;
        list(f, "icmp code", &self.icmp_codes)?;
        list(f, "length", &self.lengths)?;
        list(f, "dscp", &self.dscps)?;
        if let Some((mask, value)) = self.tcp_flags {
            write!(f, " tcp flags & {mask:#x} == {value:#x}")?;
        }
        match self.later_fragment {
            Some(true) => f.write_str(" later fragments"),
            Some(false) => f.write_str(" no later fragments"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for FlowAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop => f.write_str("drop"),
            Self::RateLimit { bps } => write!(f, "limit {bps} bps"),
            Self::RateLimitPackets { pps } => write!(f, "limit {pps} pps"),
            Self::Redirect { to } => write!(f, "redirect to {to}"),
            Self::Mark { dscp } => write!(f, "mark {dscp}"),
            Self::Sample => f.write_str("sample"),
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(FilterSpec { target, filters }) => {
                write!(f, "filter on {target}:")?;
                filters.iter().try_for_each(|filter| write!(f, " [{}]", filter.rendered))
            }
            Self::FlowSpec { rule, action } => write!(f, "flowspec {rule}: {action}"),
            Self::Divert { prefix } => write!(f, "divert {prefix}"),
            Self::Blackhole { prefix, direction: Direction::Destination } => write!(f, "blackhole to {prefix}"),
            Self::Blackhole { prefix, direction: Direction::Source } => write!(f, "blackhole from {prefix}"),
        }
    }
}
