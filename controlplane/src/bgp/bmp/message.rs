//! Messages of BMP: their frames, and what they say as far as we look at it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bgp::route::Family;
use crate::bgp::speaker::wire::Open;

/// Longest message that is taken: two OPENs of the longest kind with everything around them.
pub const LONGEST_BMP: usize = 144 << 10;
/// Version, length and type.
const COMMON: usize = 6;
/// What stands before everything that is of one peer (RFC 7854, section 4.2).
const PER_PEER: usize = 42;

/// What a router says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Its names, as it gives them.
    Initiation {
        /// TLV 2.
        name: Option<String>,
    },
    /// A session of the router with a peer of it began. In these families its routes have path identifiers.
    PeerUp(Monitored, Vec<Family>),
    /// One ended, and with it everything that was told over it.
    PeerDown(Monitored),
    /// An UPDATE that a peer of the router has sent: what follows the header of BGP.
    Routes(Monitored, Table, Vec<u8>),
    /// What we do not look at: statistics, routes that are mirrored, what the router tells others.
    Other,
    /// It says no more.
    Termination,
}

/// A session of the router, as it names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monitored {
    /// What tells apart peers with the same address.
    pub distinguisher: u64,
    /// The peer's address; of the router's own table 0.0.0.0.
    pub address: IpAddr,
}

/// Which of the router's tables a route is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// What has come, before the import policy.
    BeforePolicy,
    /// What the import policy has let through.
    AfterPolicy,
    /// What is in use (RFC 9069).
    InUse,
}

/// Why bytes are no BMP: what follows cannot be found any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BmpError {
    /// Another version than 3.
    #[error("version {0} of BMP is not spoken, only 3")]
    Version(u8),
    /// A length that cannot be.
    #[error("a message of {0} bytes cannot be")]
    Length(u32),
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BeforePolicy => "received",
            Self::AfterPolicy => "accepted",
            Self::InUse => "in use",
        })
    }
}

/// A message in its frame.
pub(super) struct Frame<'b> {
    pub(super) kind: u8,
    pub(super) body: &'b [u8],
    /// With its header.
    pub(super) length: usize,
}

/// The first message of what has come; none: it is not whole.
///
/// # Errors
/// When the stream is not BMP.
pub(super) fn cut(bytes: &[u8]) -> Result<Option<Frame<'_>>, BmpError> {
    let Some(&version) = bytes.first() else { return Ok(None) };
    if version != 3 {
        return Err(BmpError::Version(version));
    }
    let Some(&[_, a, b, c, d, kind]) = bytes.get(..COMMON) else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]);
    let whole = usize::try_from(length).unwrap_or(usize::MAX);
    if !(COMMON..=LONGEST_BMP).contains(&whole) {
        return Err(BmpError::Length(length));
    }
    Ok(bytes.get(COMMON..whole).map(|body| Frame { kind, body, length: whole }))
}

/// What a message says; none when it is not right, and then it is as if it had not come.
pub(super) fn read(kind: u8, body: &[u8]) -> Option<Said> {
    match kind {
        0 => {
            let (peer, table, rest) = per_peer(body)?;
            let Some(table) = table else { return Some(Said::Other) };
            let (update, []) = bgp(rest, 2)? else { return None };
            Some(Said::Routes(peer, table, update.to_vec()))
        }
        2 => per_peer(body).map(|(peer, ..)| Said::PeerDown(peer)),
        3 => {
            let (peer, _, rest) = per_peer(body)?;
            Some(Said::PeerUp(peer, with_ids(rest)?))
        }
        4 => Some(Said::Initiation { name: name(body) }),
        5 => Some(Said::Termination),
        1 | 6 => Some(Said::Other),
        _ => None,
    }
}

/// The peer, the table, and what follows. No table: that of what the router tells others (RFC 8671), or one that we do not
/// know.
fn per_peer(body: &[u8]) -> Option<(Monitored, Option<Table>, &[u8])> {
    let (header, rest) = body.split_at_checked(PER_PEER)?;
    let (&kind, &flags) = (header.first()?, header.get(1)?);
    let distinguisher = u64::from_be_bytes(header.get(2..10)?.try_into().ok()?);
    let octets: [u8; 16] = header.get(10..26)?.try_into().ok()?;
    let [.., a, b, c, d] = octets;
    let own = kind == 3;
    let address = if flags & 0x80 != 0 && !own {
        IpAddr::V6(Ipv6Addr::from(octets))
    } else {
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    let table = match (kind, flags & 0x10 != 0, flags & 0x40 != 0) {
        (3, ..) => Some(Table::InUse),
        (0..=2, false, false) => Some(Table::BeforePolicy),
        (0..=2, false, true) => Some(Table::AfterPolicy),
        _ => None,
    };
    Some((Monitored { distinguisher, address }, table, rest))
}

/// The families in which the peer writes path identifiers: it would, and the router reads them. Of the router's own table both
/// OPENs are made up to say what it tells (RFC 9069, section 4.4).
fn with_ids(body: &[u8]) -> Option<Vec<Family>> {
    // The router's address, and the ports of both (RFC 7854, section 4.10).
    let (_, opens) = body.split_at_checked(20)?;
    let (sent, rest) = bgp(opens, 1)?;
    let (received, _) = bgp(rest, 1)?;
    let (sent, received) = (Open::read(sent).ok()?, Open::read(received).ok()?);
    let writes = received.add_path.iter().filter(|theirs| theirs.sends);
    let agreed = writes.filter(|theirs| sent.add_path.iter().any(|ours| ours.family == theirs.family && ours.receives));
    Some(agreed.filter_map(|one| Family::of(one.family.0, one.family.1)).collect())
}

/// The body of a message of BGP of that kind, and what follows it.
fn bgp(bytes: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    let (header, _) = bytes.split_at_checked(19)?;
    let &[high, low, of_kind] = header.get(16..)? else { return None };
    let (message, rest) = bytes.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    let is_right = header.get(..16)? == [0xff; 16] && of_kind == kind;
    message.get(19..).filter(|_| is_right).map(|body| (body, rest))
}

fn name(mut body: &[u8]) -> Option<String> {
    while let [a, b, c, d, rest @ ..] = body {
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*c, *d])))?;
        if (*a, *b) == (0, 2) {
            // Shown to people: no more of it than a name can be, and nothing that moves their cursor.
            let text = String::from_utf8_lossy(value);
            return Some(text.chars().filter(|character| !character.is_control()).take(64).collect());
        }
        body = rest;
    }
    None
}
