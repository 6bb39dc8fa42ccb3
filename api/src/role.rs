//! The role of a packet: what it is in its conversation. Thresholds, samples and filters are per role.

use std::fmt;
use std::str::FromStr;

macro_rules! roles {
    ($($variant:ident = $index:literal, $name:literal, $doc:literal;)*) => {
        /// What an inbound packet is in its conversation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Role { $(#[doc = $doc] $variant = $index,)* }

        impl Role {
            /// All roles, in order of their index.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant,)*];
            /// How many roles there are.
            pub const COUNT: usize = [$($index,)*].len();

            /// The name used in configuration, reports and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What the role means.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }
        }
    };
}

roles! {
    Syn = 0, "syn", "TCP SYN without ACK";
    OutOfState = 1, "out_of_state", "TCP, not SYN, on a connection on which inside has sent nothing, or nothing that it could acknowledge";
    UnsolicitedSynAck = 2, "unsolicited_syn_ack", "TCP SYN-ACK although nobody inside sent a SYN";
    Request = 3, "request", "first data of the client on a proven connection";
    UdpOpen = 4, "udp_open", "UDP to a served port, tuple not yet answered from inside";
    UdpUnserved = 5, "udp_unserved", "UDP to a port that is not served, unanswered";
    UnsolicitedResponse = 6, "unsolicited_response", "UDP from an amplification port although nobody asked";
    IcmpOther = 7, "icmp_other", "ICMP that is neither an error message nor neighbour discovery";
    LaterFragment = 8, "later_fragment", "later fragment whose first was not seen";
    OtherProtocol = 9, "other_protocol", "neither TCP nor UDP nor ICMP";
    Malformed = 10, "malformed", "impossible flags, lengths or headers: dropped as such, counted here";
    Established = 11, "established", "everything that a conversation explains; never meets a signature";
}

impl Role {
    /// Position in arrays of [`Role::COUNT`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The protocol of all its packets, as IP numbers it; none where they may have several.
    pub const fn protocol(self) -> Option<u8> {
        match self {
            Self::Syn | Self::OutOfState | Self::UnsolicitedSynAck | Self::Request => Some(6),
            Self::UdpOpen | Self::UdpUnserved | Self::UnsolicitedResponse => Some(17),
            Self::IcmpOther | Self::LaterFragment | Self::OtherProtocol | Self::Malformed | Self::Established => None,
        }
    }

    /// The set of this role alone.
    pub const fn set(self) -> RoleSet {
        RoleSet(1 << self as u16)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;
    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

/// A text that names no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a role: one of syn, out_of_state, unsolicited_syn_ack, request, udp_open, udp_unserved, unsolicited_response, icmp_other, later_fragment, other_protocol, malformed, established"
)]
pub struct UnknownRole(pub String);

/// A set of roles, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RoleSet(pub u16);

impl RoleSet {
    /// No role.
    pub const NONE: Self = Self(0);
    /// Every role that signatures may touch: all but [`Role::Established`].
    pub const FILTERABLE: Self = Self((1 << Role::Established as u16) - 1);
    /// Every role.
    pub const ALL: Self = Self((1 << Role::COUNT) - 1);

    /// True when `role` is a member.
    pub const fn contains(self, role: Role) -> bool {
        self.0 & role.set().0 != 0
    }

    /// Both together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This without `role`.
    #[must_use]
    pub const fn without(self, role: Role) -> Self {
        Self(self.0 & !role.set().0)
    }

    /// The protocol of all its packets; none where they may have several.
    pub fn protocol(self) -> Option<u8> {
        let first = self.iter().next()?.protocol();
        first.filter(|_| self.iter().all(|role| role.protocol() == first))
    }

    /// True when there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members, in order.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.contains(*role))
    }
}

impl fmt::Display for RoleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, role) in self.iter().enumerate() {
            write!(f, "{}{role}", if position == 0 { "" } else { "+" })?;
        }
        Ok(())
    }
}
