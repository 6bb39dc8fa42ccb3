//! What a rule can say.

use std::fmt;
use std::net::IpAddr;

use levee_api::prefix::Prefix;

/// A rule: a packet matches when all components do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Nlri {
    /// Of which version of IP.
    pub version: Version,
    /// In ascending order of their types, each type at most once.
    pub components: Vec<Component>,
}

/// The version of IP, which is the address family of the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// AFI 1.
    V4,
    /// AFI 2.
    V6,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Component {
    /// Type 1.
    Destination(AddressPattern),
    /// Type 2.
    Source(AddressPattern),
    /// Types whose values are compared as numbers.
    Numeric(Numeric, Vec<NumericValue>),
    /// Types whose values are compared as sets of bits.
    Bits(Bitmask, Vec<BitsValue>),
}

/// Bits of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressPattern {
    /// Bits before `offset` and from `length` on are zero.
    pub address: IpAddr,
    /// First bit that counts; always 0 in IPv4.
    pub offset: u8,
    /// First bit that no longer counts.
    pub length: u8,
}

macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $code:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $(#[doc = concat!("Type ", $code, ": ", $text, ".")] $variant = $code,)* }

        impl $name {
            /// The type of a number.
            pub const fn of(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }

            /// The number of the type.
            pub const fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)* }
            }

            /// What it compares, in words.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

kinds! {
    /// Types whose values are numbers.
    Numeric {
        Protocol = 3, "protocol";
        Port = 4, "port";
        DestinationPort = 5, "destination-port";
        SourcePort = 6, "source-port";
        IcmpType = 7, "icmp-type";
        IcmpCode = 8, "icmp-code";
        Length = 10, "packet-length";
        Dscp = 11, "dscp";
        FlowLabel = 13, "flow-label";
    }
}

kinds! {
    /// Types whose values are sets of bits.
    Bitmask {
        TcpFlags = 9, "tcp-flags";
        Fragment = 12, "fragment";
    }
}

/// The types of components, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub u8);

/// One comparison of a list: groups that `and` ties together, any of which suffices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NumericValue {
    /// Together with the comparison before it.
    pub and: bool,
    /// True for smaller numbers.
    pub less: bool,
    /// True for larger numbers.
    pub greater: bool,
    /// True for the same number.
    pub equal: bool,
    /// What is compared with.
    pub value: u64,
}

/// One comparison of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BitsValue {
    /// Together with the comparison before it.
    pub and: bool,
    /// The other way round.
    pub not: bool,
    /// All of the bits have to be set, not any.
    pub all: bool,
    /// Which bits.
    pub value: u64,
}

impl Bitmask {
    /// Don't fragment, of [`Bitmask::Fragment`]. Not in IPv6.
    pub const DONT_FRAGMENT: u64 = 1;
    /// A fragment that is not the first.
    pub const IS_FRAGMENT: u64 = 2;
    /// The first of several.
    pub const FIRST_FRAGMENT: u64 = 4;
    /// The last of several.
    pub const LAST_FRAGMENT: u64 = 8;
}

impl Version {
    /// The version of a prefix.
    pub fn of(prefix: &Prefix) -> Self {
        if prefix.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Bits of an address.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl Component {
    /// Its type.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Destination(_) => Kind(1),
            Self::Source(_) => Kind(2),
            Self::Numeric(kind, _) => Kind(kind.code()),
            Self::Bits(kind, _) => Kind(kind.code()),
        }
    }
}

impl Nlri {
    /// What packets are sent to, when the rule says that by a prefix.
    pub fn destination(&self) -> Option<Prefix> {
        self.components.iter().find_map(|component| match component {
            Component::Destination(pattern) => pattern.prefix(),
            _ => None,
        })
    }
}

impl AddressPattern {
    /// The prefix that it is; none when it does not begin with the first bit.
    pub fn prefix(&self) -> Option<Prefix> {
        (self.offset == 0).then(|| Prefix::containing(self.address, self.length))
    }
}

impl From<Prefix> for AddressPattern {
    fn from(prefix: Prefix) -> Self {
        Self { address: prefix.address(), offset: 0, length: prefix.length() }
    }
}

impl NumericValue {
    /// Equal.
    pub const fn exactly(value: u64) -> Self {
        Self { and: false, less: false, greater: false, equal: true, value }
    }

    /// Equal or greater.
    pub const fn at_least(value: u64) -> Self {
        Self { and: false, less: false, greater: true, equal: true, value }
    }

    /// And equal or less.
    pub const fn and_at_most(value: u64) -> Self {
        Self { and: true, less: true, greater: false, equal: true, value }
    }

    /// `>=`, `!=` and so on; `false` and `true` for the comparisons that are always one of them.
    pub const fn sign(&self) -> &'static str {
        match (self.less, self.greater, self.equal) {
            (false, false, false) => "false",
            (false, false, true) => "=",
            (false, true, false) => ">",
            (false, true, true) => ">=",
            (true, false, false) => "<",
            (true, false, true) => "<=",
            (true, true, false) => "!=",
            (true, true, true) => "true",
        }
    }
}

impl Kind {
    /// What it compares, in words.
    pub const fn name(self) -> &'static str {
        match (Numeric::of(self.0), Bitmask::of(self.0), self.0) {
            (Some(kind), ..) => kind.name(),
            (None, Some(kind), _) => kind.name(),
            (None, None, 1) => "destination",
            (None, None, 2) => "source",
            _ => "unknown",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for AddressPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)?;
        if self.offset == 0 { Ok(()) } else { write!(f, " from bit {}", self.offset) }
    }
}

impl fmt::Display for Nlri {
    /// `destination 203.0.113.7/32 protocol =17 source-port =53 =123`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, component) in self.components.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { " " }, component.kind())?;
            match component {
                Component::Destination(pattern) | Component::Source(pattern) => write!(f, " {pattern}")?,
                Component::Numeric(_, values) => {
                    for value in values {
                        write!(f, "{}{}{}", if value.and { "&" } else { " " }, value.sign(), value.value)?;
                    }
                }
                Component::Bits(_, values) => {
                    for value in values {
                        let (and, not) = (if value.and { "&" } else { " " }, if value.not { "!" } else { "" });
                        write!(f, "{and}{not}{}{:#x}", if value.all { "=" } else { "" }, value.value)?;
                    }
                }
            }
        }
        Ok(())
    }
}
