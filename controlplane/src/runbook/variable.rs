//! What conditions can ask about: one table of names, types and meanings. `docs/reference/runbook-variables.md` is made
//! from it.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use levee_api::config::nearest;
use levee_api::vector::Vector;

/// Types of conditions and what is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// All numbers are doubles.
    Number,
    /// True or false.
    Bool,
    /// A string.
    Text,
    /// A list of strings.
    List,
    /// A time span.
    Duration,
}

/// A known value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Finite.
    Number(f64),
    /// True or false.
    Bool(bool),
    /// A string.
    Text(String),
    /// A list of strings.
    List(Vec<String>),
    /// A time span.
    Duration(Duration),
}

macro_rules! variables {
    ($($variant:ident $name:literal $kind:ident $about:literal;)*) => {
        /// A variable of conditions.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Variable {
            $(#[doc = $about] $variant,)*
        }

        impl Variable {
            /// All of them, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As conditions write it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Its type.
            pub const fn kind(self) -> Type {
                match self { $(Self::$variant => Type::$kind,)* }
            }

            /// What it says, in words.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)* }
            }
        }
    };
}

variables! {
    AttackActive "attack.active" Bool "The dataplane finds the target attacked now. Every condition is false while this is";
    AttackPps "attack.pps" Number "Packets per second towards the target, legitimate ones included";
    AttackBps "attack.bps" Number "Bits per second towards the target";
    AttackAge "attack.age" Duration "Time since the incident was opened";
    AttackVectors "attack.vectors" List "Names of the [vectors](vectors.md) seen so far: `'dns-amplification' in attack.vectors`";
    AttackSeverity "attack.severity" Number "1 low: no witness yet; 2 medium: an attack that the box handles; 3 high: clean traffic suffers or the uplink fills; 4 critical: the uplink is full";
    AttackConfidence "attack.confidence" Number "From 0 to 1: that of the most certain vector";
    AttackSources "attack.sources" Number "Distinct sources that were sampled since the attack began: there are at least so many. Unknown when none was";
    LocalDroppedRatio "local.dropped_ratio" Number "From 0 to 1: share of the packets towards the target that filters drop";
    LocalResidualBps "local.residual_bps" Number "Bits per second that reach the target behind all filters";
    LocalCpu "local.cpu" Number "From 0 to 1: load of the dataplane's busiest worker, estimated from how long it works and how full its bursts are";
    LocalGoodputRatio "local.goodput_ratio" Number "Packets that the target sends now, divided by those of the hour before the attack; 1 is as usual. Answers to the attack count too. Unknown when what it sends does not pass here, or was not seen for a minute";
    UplinkBps "uplink.bps" Number "Bits per second that come in over the wires: the mean of the last second, or what it has not been below for 75 ms if that is more";
    UplinkCapacity "uplink.capacity" Number "Bits per second that the wires carry";
    UplinkUtilisation "uplink.utilisation" Number "`uplink.bps` divided by `uplink.capacity`, of the wire with the highest";
    UplinkSaturated "uplink.saturated" Bool "A mean utilisation of 0.95 or more, or the port's own loss counters rising, for three seconds";
    ZoneName "zone.name" Text "Name of the zone";
    ZoneMode "zone.mode" Text "`'enforce'` or `'monitor'`";
    ZoneLinkCapacity "zone.link_capacity" Number "Bits per second of the link to the zone. Unknown when the configuration does not say";
    TargetPrefix "target.prefix" Text "The attacked prefix, such as `'203.0.113.7/32'`";
    TargetLength "target.length" Number "Its length in bits: 32, or 128 for IPv6, is one host; shorter is carpet bombing";
    TargetIpv6 "target.ipv6" Bool "It is IPv6";
    NowHour "now.hour" Number "Hour of the day in UTC, 0 to 23";
    NowWeekday "now.weekday" Number "Day of the week in UTC, 1 is Monday and 7 Sunday";
    NowMaintenance "now.maintenance" Bool "It is within a window of [[maintenance]](configuration.md#maintenance) for the zone";
}

impl Variable {
    /// From the least to the most that a number can be; none: that is not known.
    pub const fn range(self) -> Option<RangeInclusive<f64>> {
        Some(match self {
            Self::AttackSeverity => 1.0..=4.0,
            Self::AttackConfidence | Self::LocalDroppedRatio | Self::LocalCpu => 0.0..=1.0,
            // Wires may bring more than the `capacity` that is written down, though not many times as much.
            Self::UplinkUtilisation => 0.0..=20.0,
            Self::TargetLength => 0.0..=128.0,
            Self::NowHour => 0.0..=23.0,
            Self::NowWeekday => 1.0..=7.0,
            _ => return None,
        })
    }

    /// The words that it can be, or that can be in it; none: any.
    pub fn words(self) -> Option<Vec<&'static str>> {
        match self {
            Self::AttackVectors => Some(Vector::ALL.iter().map(|vector| vector.name()).collect()),
            Self::ZoneMode => Some(vec!["enforce", "monitor"]),
            _ => None,
        }
    }

    /// Why it can never be this, and what it can be.
    pub fn refuses(self, value: &Value) -> Option<String> {
        let strange = |text: &str| {
            let words = self.words()?;
            let near = nearest(text, &words).map(|near| format!("did you mean {near}?"));
            (!words.contains(&text)).then(|| near.unwrap_or_else(|| format!("known are {}", words.join(", "))))
        };
        match value {
            Value::Number(number) => {
                let range = self.range().filter(|range| !range.contains(number))?;
                Some(format!("it is from {} to {}", range.start(), range.end()))
            }
            Value::Text(text) => strange(text),
            Value::List(texts) => texts.iter().find_map(|text| strange(text)),
            Value::Bool(_) | Value::Duration(_) => None,
        }
    }

    /// True when it may be unknown for long while an attack goes on.
    pub const fn may_be_unknown(self) -> bool {
        matches!(
            self,
            Self::AttackSources
                | Self::LocalGoodputRatio
                | Self::UplinkCapacity
                | Self::UplinkUtilisation
                | Self::ZoneLinkCapacity
        )
    }

    /// True when 1 is all of it.
    pub const fn is_share(self) -> bool {
        matches!(self, Self::AttackConfidence | Self::LocalDroppedRatio | Self::LocalCpu | Self::UplinkUtilisation)
    }
}

macro_rules! fields {
    ($($variant:ident $name:literal $kind:ident $about:literal;)*) => {
        /// What conditions can ask about a stage: `stage.NAME.FIELD`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum StageField {
            $(#[doc = $about] $variant,)*
        }

        impl StageField {
            /// All of them, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As conditions write it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Its type.
            pub const fn kind(self) -> Type {
                match self { $(Self::$variant => Type::$kind,)* }
            }

            /// What it says, in words.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)* }
            }
        }
    };
}

fields! {
    State "state" Text "`'idle'`, `'waiting'` (for an approval), `'entering'`, `'active'`, `'probing'` (stepped down to see whether the attack goes on), `'leaving'`, `'failed'`";
    Active "active" Bool "What it does is in force";
    Age "age" Duration "Time since it came into force; 0 unless it is active";
    Failed "failed" Bool "It was refused by a guardrail, is incapable, was denied or ended by an operator, is in error or has no answer for 30 s";
    Effective "effective" Bool "What it does was seen to help. Unknown before that was measured";
}

impl Type {
    /// For messages and the reference page.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Bool => "bool",
            Self::Text => "string",
            Self::List => "list of strings",
            Self::Duration => "duration",
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Value {
    /// Its type.
    pub const fn kind(&self) -> Type {
        match self {
            Self::Number(_) => Type::Number,
            Self::Bool(_) => Type::Bool,
            Self::Text(_) => Type::Text,
            Self::List(_) => Type::List,
            Self::Duration(_) => Type::Duration,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Bool(flag) => write!(f, "{flag}"),
            Self::Text(text) => write!(f, "'{text}'"),
            Self::List(texts) => write!(f, "{texts:?}"),
            Self::Duration(duration) => write!(f, "{}s", duration.as_secs_f64()),
        }
    }
}

/// The variables as they are at one moment. What was not set is unknown, and decides nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values {
    known: [Option<Value>; Variable::ALL.len()],
}

impl Values {
    /// Makes a variable known. A value that is not of its type, and a number that is none, make it unknown.
    pub fn set(&mut self, variable: Variable, value: Value) {
        let fits = value.kind() == variable.kind() && !matches!(value, Value::Number(number) if !number.is_finite());
        if let Some(place) = self.known.get_mut(variable as usize) {
            *place = fits.then_some(value);
        }
    }

    /// Makes a number known, if there is one.
    pub fn number(&mut self, variable: Variable, number: Option<f64>) {
        match number {
            Some(number) => self.set(variable, Value::Number(number)),
            None => self.forget(variable),
        }
    }

    /// Makes a variable unknown.
    pub fn forget(&mut self, variable: Variable) {
        if let Some(place) = self.known.get_mut(variable as usize) {
            *place = None;
        }
    }

    /// What is known of it.
    pub fn get(&self, variable: Variable) -> Option<&Value> {
        self.known.get(variable as usize)?.as_ref()
    }

    /// What is known, in the order of the table: for the record of a decision.
    pub fn known(&self) -> impl Iterator<Item = (Variable, &Value)> {
        Variable::ALL.iter().filter_map(|variable| Some((*variable, self.get(*variable)?)))
    }
}
