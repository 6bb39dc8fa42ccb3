//! Conversions between messages and vocabulary.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::v1;
use crate::filter::{Action, Constraint, Filter, HeaderBox, Masked, Origin, Pattern, Per, Rule, Target};
use crate::lane::Lane;
use crate::prefix::Prefix;
use crate::role::{Role, RoleSet};
use crate::time::Timestamp;
use crate::zone::{Challenge, Mode, Service, Visibility, Zone};

/// A filter as it is asked for: all but what the dataplane decides (id, deadline).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FilterRequest {
    /// Who asks, opaque to the dataplane.
    pub owner: String,
    /// What it is to be installed on.
    pub target: Target,
    /// The roles it applies to, at least one.
    pub roles: RoleSet,
    /// The signature.
    pub rule: Rule,
    /// What happens to what matches.
    pub action: Action,
    /// Time until its end, more than zero.
    pub ttl: Duration,
    /// The evidence that allows it, in words.
    pub witness: String,
}

/// A field of a message that says what it must not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct FieldError {
    /// Path of the field from the outermost message: `zones[3].prefixes[0]`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl FieldError {
    /// A problem of a field.
    pub fn new(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self { field: field.into(), problem: problem.to_string() }
    }

    /// The same problem, seen from the message around.
    #[must_use]
    pub fn within(self, outer: impl fmt::Display) -> Self {
        Self { field: format!("{outer}.{}", self.field), ..self }
    }
}

/// A filter in force, with the time that remains to it.
pub fn filter_in_force(filter: &Filter, hits: u64, simulated: bool, now: Timestamp) -> v1::Filter {
    let owner = match &filter.origin {
        Origin::Reflex => String::new(),
        Origin::ControlPlane { owner } => owner.clone(),
    };
    v1::Filter {
        id: filter.id,
        request: Some(v1::FilterRequest {
            owner,
            target: Some((&filter.target).into()),
            roles: role_names(filter.roles),
            rule: Some((&filter.rule).into()),
            action: Some(filter.action.into()),
            remaining_ns: nanoseconds(filter.deadline.since(now)),
            witness: filter.witness.clone(),
        }),
        r#match: filter.rule.to_string(),
        hits,
        simulated,
    }
}

impl From<Prefix> for v1::Prefix {
    fn from(prefix: Prefix) -> Self {
        let address = match prefix.address() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        Self { address, length: prefix.length().into() }
    }
}

impl TryFrom<&v1::Prefix> for Prefix {
    type Error = FieldError;

    fn try_from(message: &v1::Prefix) -> Result<Self, FieldError> {
        let bytes = message.address.as_slice();
        let address = match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
            (Ok(octets), _) => IpAddr::from(octets),
            (_, Ok(octets)) => IpAddr::from(octets),
            _ => return Err(FieldError::new("address", format!("{} bytes are no address: 4 or 16 are", bytes.len()))),
        };
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match u8::try_from(message.length) {
            Ok(length) if length <= most => length,
            _ => return Err(FieldError::new("length", format!("{} is more than {most} bits", message.length))),
        };
        let prefix = Self::containing(address, length);
        if prefix.address() != address {
            return Err(FieldError::new("address", format!("{address} has bits set after {length}: meant {prefix}?")));
        }
        Ok(prefix)
    }
}

impl From<Mode> for v1::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Monitor => Self::Monitor,
            Mode::Enforce => Self::Enforce,
        }
    }
}

impl From<&Zone> for v1::Zone {
    fn from(zone: &Zone) -> Self {
        Self {
            name: zone.name.clone(),
            prefixes: zone.prefixes.iter().copied().map(Into::into).collect(),
            mode: v1::Mode::from(zone.mode).into(),
            services: zone.services.iter().map(Into::into).collect(),
            services_complete: zone.services_complete,
            challenge_dns: zone.challenge_dns,
            visibility: match zone.visibility {
                Visibility::Auto => v1::Visibility::Auto,
                Visibility::Both => v1::Visibility::Both,
                Visibility::Inbound => v1::Visibility::Inbound,
            }
            .into(),
            link_capacity_bps: zone.link_capacity_bps,
            floors: zone.floors.iter().map(|&(role, pps)| v1::Floor { role: role.name().to_owned(), pps }).collect(),
            runbook: zone.runbook.clone(),
            challenge: match zone.challenge {
                Challenge::Off => v1::Challenge::Off,
                Challenge::Reset => v1::Challenge::Reset,
                Challenge::SafeReset => v1::Challenge::SafeReset,
                Challenge::Proxy => v1::Challenge::Proxy,
            }
            .into(),
        }
    }
}

impl TryFrom<&v1::Zone> for Zone {
    type Error = FieldError;

    fn try_from(message: &v1::Zone) -> Result<Self, FieldError> {
        let prefixes = each("prefixes", &message.prefixes, Prefix::try_from)?;
        if prefixes.is_empty() {
            return Err(FieldError::new("prefixes", "the zone protects nothing"));
        }
        Ok(Self {
            name: word("name", &message.name)?,
            prefixes,
            mode: match message.mode() {
                v1::Mode::Monitor => Mode::Monitor,
                v1::Mode::Enforce => Mode::Enforce,
                v1::Mode::Unspecified => return Err(FieldError::new("mode", "neither monitor nor enforce")),
            },
            services: each("services", &message.services, Service::try_from)?,
            services_complete: message.services_complete,
            challenge_dns: message.challenge_dns,
            visibility: match message.visibility() {
                v1::Visibility::Auto => Visibility::Auto,
                v1::Visibility::Both => Visibility::Both,
                v1::Visibility::Inbound => Visibility::Inbound,
                v1::Visibility::Unspecified => {
                    return Err(FieldError::new("visibility", "neither auto nor both nor inbound"));
                }
            },
            challenge: match message.challenge() {
                v1::Challenge::Off => Challenge::Off,
                v1::Challenge::Reset => Challenge::Reset,
                v1::Challenge::SafeReset => Challenge::SafeReset,
                v1::Challenge::Proxy if message.visibility() == v1::Visibility::Inbound => {
                    return Err(FieldError::new("challenge", "proxy needs both directions, and visibility is inbound"));
                }
                v1::Challenge::Proxy => Challenge::Proxy,
                v1::Challenge::Unspecified => {
                    return Err(FieldError::new("challenge", "neither off nor reset nor safe_reset nor proxy"));
                }
            },
            link_capacity_bps: match message.link_capacity_bps {
                Some(0) => return Err(FieldError::new("link_capacity_bps", "a link of no capacity carries nothing")),
                capacity => capacity,
            },
            floors: each("floors", &message.floors, |floor| {
                let role = role(&floor.role)?;
                if floor.pps == 0 {
                    return Err(FieldError::new("pps", "a floor of zero always alarms"));
                }
                Ok((role, floor.pps))
            })?,
            runbook: message.runbook.as_deref().map(|runbook| word("runbook", runbook)).transpose()?,
        })
    }
}

impl From<&Service> for v1::Service {
    fn from(service: &Service) -> Self {
        let range = |&(first, last): &(u16, u16)| v1::PortRange { first: first.into(), last: last.into() };
        Self { protocol: service.protocol.into(), ports: service.ports.iter().map(range).collect() }
    }
}

impl TryFrom<&v1::Service> for Service {
    type Error = FieldError;

    fn try_from(message: &v1::Service) -> Result<Self, FieldError> {
        let protocol = u8::try_from(message.protocol)
            .map_err(|_| FieldError::new("protocol", format!("{} is no IP protocol", message.protocol)))?;
        let ports = each("ports", &message.ports, |range| {
            let (first, last) = (sixteen_bits("first", range.first)?, sixteen_bits("last", range.last)?);
            if (1..=last).contains(&first) {
                Ok((first, last))
            } else {
                Err(FieldError::new("first", format!("{first}-{last} is no range of ports")))
            }
        })?;
        Ok(Self { protocol, ports })
    }
}

impl From<&HeaderBox> for v1::HeaderBox {
    fn from(shape: &HeaderBox) -> Self {
        let constraint = |constraint| {
            let (lane, condition) = match constraint {
                Constraint::Range { lane, lo, hi } => {
                    (lane, v1::constraint::Condition::Range(v1::Range { lo: lo.into(), hi: hi.into() }))
                }
                Constraint::Mask { lane, masked: Masked { mask, value } } => {
                    (lane, v1::constraint::Condition::Masked(v1::Masked { mask: mask.into(), value: value.into() }))
                }
            };
            v1::Constraint { lane: lane.name().to_owned(), condition: Some(condition) }
        };
        Self { constraints: shape.constraints().map(constraint).collect() }
    }
}

impl TryFrom<&v1::HeaderBox> for HeaderBox {
    type Error = FieldError;

    fn try_from(message: &v1::HeaderBox) -> Result<Self, FieldError> {
        let mut seen = Vec::new();
        let constraints = each("constraints", &message.constraints, |message| {
            let lane = Lane::named(&message.lane)
                .ok_or_else(|| FieldError::new("lane", format!("{:?} is no lane", message.lane)))?;
            if seen.contains(&lane) {
                return Err(FieldError::new("lane", format!("{lane} is constrained twice")));
            }
            seen.push(lane);
            constraint(lane, message.condition.as_ref())
        })?;
        Ok(Self::of(constraints))
    }
}

/// A condition that some value meets: a box that matches nothing is a mistake of whoever made it.
fn constraint(lane: Lane, condition: Option<&v1::constraint::Condition>) -> Result<Constraint, FieldError> {
    match condition {
        Some(v1::constraint::Condition::Range(v1::Range { lo, hi })) if !lane.is_bits() => {
            let (lo, hi) = (sixteen_bits("range.lo", *lo)?, sixteen_bits("range.hi", *hi)?);
            if lo > hi {
                return Err(FieldError::new("range", format!("{lo}-{hi} holds no value")));
            }
            Ok(Constraint::Range { lane, lo, hi })
        }
        Some(v1::constraint::Condition::Masked(v1::Masked { mask, value })) if lane.is_bits() => {
            let masked =
                Masked { mask: sixteen_bits("masked.mask", *mask)?, value: sixteen_bits("masked.value", *value)? };
            if masked.is_empty() {
                return Err(FieldError::new("masked", "the value has bits outside the mask: nothing matches"));
            }
            Ok(Constraint::Mask { lane, masked })
        }
        Some(_) if lane.is_bits() => Err(FieldError::new("condition", format!("{lane} is a bit field: use a mask"))),
        Some(_) => Err(FieldError::new("condition", format!("{lane} is a number: use a range"))),
        None => Err(FieldError::new("condition", "there is none")),
    }
}

impl From<&Rule> for v1::Rule {
    fn from(rule: &Rule) -> Self {
        let pattern = rule.pattern.map(|Pattern { offset, length, bytes, mask }| {
            let cut = |bytes: [u8; 16]| bytes.into_iter().take(length.into()).collect();
            v1::Pattern { offset: offset.into(), value: cut(bytes), mask: cut(mask) }
        });
        Self { matches: Some((&rule.matches).into()), pattern, except: rule.except.iter().map(Into::into).collect() }
    }
}

impl TryFrom<&v1::Rule> for Rule {
    type Error = FieldError;

    fn try_from(message: &v1::Rule) -> Result<Self, FieldError> {
        /// More than signature extraction ever makes; the data path has a bounded list of them.
        const MOST_EXCEPTIONS: usize = 16;
        if message.except.len() > MOST_EXCEPTIONS {
            let problem = format!("{} exceptions are more than {MOST_EXCEPTIONS}", message.except.len());
            return Err(FieldError::new("except", problem));
        }
        Ok(Self {
            matches: present("matches", message.matches.as_ref(), HeaderBox::try_from)?,
            pattern: message
                .pattern
                .as_ref()
                .map(|pattern| Pattern::try_from(pattern).map_err(|error| error.within("pattern")))
                .transpose()?,
            except: each("except", &message.except, HeaderBox::try_from)?,
        })
    }
}

impl TryFrom<&v1::Pattern> for Pattern {
    type Error = FieldError;

    fn try_from(message: &v1::Pattern) -> Result<Self, FieldError> {
        let count = message.value.len();
        if message.mask.len() != count {
            return Err(FieldError::new("mask", format!("{} bytes for {count} bytes of value", message.mask.len())));
        }
        let sixteen = |from: &[u8]| {
            let mut bytes = [0; 16];
            bytes.get_mut(..count).map(|start| start.copy_from_slice(from)).map(|()| bytes)
        };
        match (u8::try_from(count), sixteen(&message.value), sixteen(&message.mask)) {
            (Ok(length @ 1..), Some(bytes), Some(mask)) => {
                Ok(Self { offset: sixteen_bits("offset", message.offset)?, length, bytes, mask })
            }
            _ => Err(FieldError::new("value", format!("{count} bytes: 1 to 16 can be compared"))),
        }
    }
}

impl From<Action> for v1::Action {
    fn from(action: Action) -> Self {
        Self {
            kind: Some(match action {
                Action::Pass => v1::action::Kind::Pass(v1::action::Pass {}),
                Action::Drop => v1::action::Kind::Drop(v1::action::Drop {}),
                Action::Limit { pps, per } => {
                    v1::action::Kind::Limit(v1::action::Limit { pps, per: v1::Per::from(per).into() })
                }
                Action::Challenge { above_pps } => v1::action::Kind::Challenge(v1::action::Challenge { above_pps }),
                Action::BlockSource { after } => {
                    v1::action::Kind::BlockSource(v1::action::BlockSource { after: after.into() })
                }
            }),
        }
    }
}

impl TryFrom<&v1::Action> for Action {
    type Error = FieldError;

    fn try_from(message: &v1::Action) -> Result<Self, FieldError> {
        match message.kind {
            Some(v1::action::Kind::Pass(_)) => Ok(Self::Pass),
            Some(v1::action::Kind::Drop(_)) => Ok(Self::Drop),
            Some(v1::action::Kind::Limit(v1::action::Limit { pps, per })) => {
                let per =
                    v1::Per::try_from(per).map_err(|_| FieldError::new("limit.per", format!("{per} is unknown")))?;
                Ok(Self::Limit { pps, per: per.into() })
            }
            Some(v1::action::Kind::Challenge(v1::action::Challenge { above_pps })) => Ok(Self::Challenge { above_pps }),
            Some(v1::action::Kind::BlockSource(v1::action::BlockSource { after })) => u8::try_from(after)
                .map(|after| Self::BlockSource { after })
                .map_err(|_| FieldError::new("block_source.after", format!("{after} is not within 0..=255"))),
            None => Err(FieldError::new("kind", "there is none")),
        }
    }
}

impl From<Per> for v1::Per {
    fn from(per: Per) -> Self {
        match per {
            Per::Target => Self::Target,
            Per::Source => Self::Source,
            Per::SourcePrefix => Self::SourcePrefix,
        }
    }
}

impl From<v1::Per> for Per {
    fn from(per: v1::Per) -> Self {
        match per {
            v1::Per::Target => Self::Target,
            v1::Per::Source => Self::Source,
            v1::Per::SourcePrefix => Self::SourcePrefix,
        }
    }
}

impl From<&Target> for v1::Target {
    fn from(target: &Target) -> Self {
        Self { zone: target.zone.clone(), prefix: target.prefix.map(Into::into) }
    }
}

impl TryFrom<&v1::Target> for Target {
    type Error = FieldError;

    fn try_from(message: &v1::Target) -> Result<Self, FieldError> {
        let prefix = message.prefix.as_ref().map(Prefix::try_from).transpose();
        Ok(Self { zone: word("zone", &message.zone)?, prefix: prefix.map_err(|error| error.within("prefix"))? })
    }
}

impl From<&FilterRequest> for v1::FilterRequest {
    fn from(request: &FilterRequest) -> Self {
        Self {
            owner: request.owner.clone(),
            target: Some((&request.target).into()),
            roles: role_names(request.roles),
            rule: Some((&request.rule).into()),
            action: Some(request.action.into()),
            remaining_ns: nanoseconds(request.ttl),
            witness: request.witness.clone(),
        }
    }
}

impl TryFrom<&v1::FilterRequest> for FilterRequest {
    type Error = FieldError;

    fn try_from(message: &v1::FilterRequest) -> Result<Self, FieldError> {
        /// A sentence, not a document: every event carries it.
        const LONGEST_WITNESS: usize = 1_024;
        if message.witness.len() > LONGEST_WITNESS {
            return Err(FieldError::new("witness", format!("longer than {LONGEST_WITNESS} bytes")));
        }
        let roles = each("roles", &message.roles, |name| role(name))?;
        if roles.is_empty() {
            return Err(FieldError::new("roles", "a filter without roles applies to nothing"));
        }
        if message.remaining_ns == 0 {
            return Err(FieldError::new("remaining_ns", "no time remains"));
        }
        let roles = roles.into_iter().fold(RoleSet::NONE, |roles, role| roles.union(role.set()));
        let action = present("action", message.action.as_ref(), Action::try_from)?;
        let challenged = Role::Syn.set().union(Role::UdpOpen.set());
        if matches!(action, Action::Challenge { .. }) && roles.union(challenged) != challenged {
            return Err(FieldError::new("roles", "only the roles syn and udp_open can be challenged"));
        }
        Ok(Self {
            owner: word("owner", &message.owner)?,
            target: present("target", message.target.as_ref(), Target::try_from)?,
            roles,
            rule: present("rule", message.rule.as_ref(), Rule::try_from)?,
            action,
            ttl: Duration::from_nanos(message.remaining_ns),
            witness: message.witness.clone(),
        })
    }
}

fn role_names(roles: RoleSet) -> Vec<String> {
    roles.iter().map(|role| role.name().to_owned()).collect()
}

fn role(name: &str) -> Result<Role, FieldError> {
    name.parse().map_err(|error| FieldError::new("role", error))
}

/// A name: the same rule as in the configuration file.
fn word(field: &str, text: &str) -> Result<String, FieldError> {
    const LONGEST: usize = 64;
    if !(1..=LONGEST).contains(&text.chars().count()) || text.trim() != text || text.contains(char::is_control) {
        let problem = format!("{text:?} is no name of 1 to {LONGEST} characters without line breaks and outer blanks");
        return Err(FieldError::new(field, problem));
    }
    Ok(text.to_owned())
}

fn sixteen_bits(field: &str, value: u32) -> Result<u16, FieldError> {
    u16::try_from(value).map_err(|_| FieldError::new(field, format!("{value} is more than 65535")))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Converts a list; the error names the position.
fn each<'m, M, T>(
    field: &str,
    messages: &'m [M],
    mut convert: impl FnMut(&'m M) -> Result<T, FieldError>,
) -> Result<Vec<T>, FieldError> {
    let convert = |(index, message)| convert(message).map_err(|error| error.within(format_args!("{field}[{index}]")));
    messages.iter().enumerate().map(convert).collect()
}

/// Converts a message that has to be there.
fn present<'m, M, T>(
    field: &str,
    message: Option<&'m M>,
    convert: impl FnOnce(&'m M) -> Result<T, FieldError>,
) -> Result<T, FieldError> {
    let message = message.ok_or_else(|| FieldError::new(field, "it is missing"))?;
    convert(message).map_err(|error| error.within(field))
}
