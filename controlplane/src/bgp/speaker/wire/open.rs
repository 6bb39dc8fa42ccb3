//! OPEN: who speaks, and what both can do.

use std::net::Ipv4Addr;

use super::{AS_TRANS, Notification, message};

/// An OPEN (RFC 4271, section 4.2) with the capabilities that we know (RFC 5492).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The AS, of four bytes where the capability says so.
    pub asn: u32,
    /// Seconds; 0: no keepalives.
    pub hold_time: u16,
    /// BGP identifier.
    pub router_id: Ipv4Addr,
    /// AFI and SAFI of each family (RFC 4760).
    pub families: Vec<(u16, u8)>,
    /// AS numbers of four bytes (RFC 6793).
    pub four_octet: bool,
    /// Routes are told again on request (RFC 2918).
    pub route_refresh: bool,
    /// Messages of up to 65 535 bytes (RFC 8654).
    pub extended_message: bool,
    /// What happens when the session ends (RFC 4724).
    pub graceful_restart: Option<GracefulRestart>,
    /// Several routes for one destination, told apart by a number in front of each (RFC 7911). We never offer it, and read what
    /// routers have agreed on with others.
    pub add_path: Vec<AddPath>,
}

/// What a speaker does with path identifiers in one family (RFC 7911, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddPath {
    /// AFI and SAFI.
    pub family: (u16, u8),
    /// It can read them.
    pub receives: bool,
    /// It would write them.
    pub sends: bool,
}

/// The graceful restart capability (RFC 4724, RFC 8538).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GracefulRestart {
    /// It has just restarted.
    pub restarting: bool,
    /// It keeps routes also after a NOTIFICATION that is no hard reset.
    pub notification: bool,
    /// Seconds that the other side may keep its routes, at most 4095.
    pub time: u16,
    /// AFI, SAFI, and whether it still forwards by them.
    pub families: Vec<(u16, u8, bool)>,
}

/// An OPEN that we do not talk on: what the other side is told.
pub type OpenError = Notification;

impl Open {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut capabilities = Vec::new();
        let mut put = |code: u8, value: &[u8]| {
            capabilities.push(code);
            capabilities.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
            capabilities.extend(value);
        };
        for (afi, safi) in &self.families {
            let [high, low] = afi.to_be_bytes();
            put(1, &[high, low, 0, *safi]);
        }
        if self.route_refresh {
            put(2, &[]);
        }
        if self.extended_message {
            put(6, &[]);
        }
        if let Some(restart) = &self.graceful_restart {
            let flags = u16::from(restart.restarting) << 15 | u16::from(restart.notification) << 14;
            let mut value = (flags | restart.time & 0x0fff).to_be_bytes().to_vec();
            for (afi, safi, forwarding) in &restart.families {
                let [high, low] = afi.to_be_bytes();
                value.extend([high, low, *safi, u8::from(*forwarding) << 7]);
            }
            put(64, &value);
        }
        if self.four_octet {
            put(65, &self.asn.to_be_bytes());
        }
        if !self.add_path.is_empty() {
            let one = |AddPath { family: (afi, safi), receives, sends }: &AddPath| {
                let [high, low] = afi.to_be_bytes();
                [high, low, *safi, u8::from(*receives) | u8::from(*sends) << 1]
            };
            put(69, self.add_path.iter().flat_map(one).collect::<Vec<u8>>().as_slice());
        }
        let mut body = vec![4];
        body.extend(u16::try_from(self.asn).unwrap_or(AS_TRANS).to_be_bytes());
        body.extend(self.hold_time.to_be_bytes());
        body.extend(self.router_id.octets());
        // Four families, five capabilities: never near the 255 bytes that one parameter can hold.
        let length = u8::try_from(capabilities.len()).unwrap_or(u8::MAX);
        body.extend([length.saturating_add(2), 2, length]);
        body.extend(capabilities);
        message(1, &body)
    }

    /// Reads what follows the header.
    ///
    /// # Errors
    /// What the other side is to be told (RFC 4271, section 6.2).
    pub fn decode(body: &[u8]) -> Result<Self, OpenError> {
        let open = Self::read(body)?;
        if open.asn == 0 {
            return Err(Notification::new(2, 2));
        }
        if matches!(open.hold_time, 1 | 2) {
            return Err(Notification::new(2, 6));
        }
        if open.router_id.is_unspecified() {
            return Err(Notification::new(2, 3));
        }
        Ok(open)
    }

    /// The same of somebody else's, whose values are no matter of ours.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(body: &[u8]) -> Result<Self, OpenError> {
        let &[version, as_high, as_low, hold_high, hold_low, a, b, c, d, length, ref rest @ ..] = body else {
            return Err(Notification::new(1, 2));
        };
        if version != 4 {
            return Err(Notification { code: 2, subcode: 1, data: vec![0, 4] });
        }
        let mut open = Self {
            asn: u16::from_be_bytes([as_high, as_low]).into(),
            hold_time: u16::from_be_bytes([hold_high, hold_low]),
            router_id: Ipv4Addr::new(a, b, c, d),
            families: Vec::new(),
            four_octet: false,
            route_refresh: false,
            extended_message: false,
            graceful_restart: None,
            add_path: Vec::new(),
        };
        open.parameters(length, rest).ok_or(Notification::new(2, 0))??;
        if open.families.is_empty() {
            // Who says nothing of families speaks the one that there was before (RFC 4760, section 8).
            open.families.push((1, 1));
        }
        Ok(open)
    }

    /// None when lengths lead beyond the end.
    fn parameters(&mut self, length: u8, rest: &[u8]) -> Option<Result<(), OpenError>> {
        // Lengths of two bytes, said so by a length and a type of 255 (RFC 9072).
        let (mut rest, wide) = match rest {
            [255, high, low, rest @ ..] if length == 255 => {
                (rest.get(..usize::from(u16::from_be_bytes([*high, *low])))?, true)
            }
            _ => (rest.get(..usize::from(length))?, false),
        };
        while let Some((kind, after)) = rest.split_first() {
            let (length, after) = if wide {
                let (length, after) = after.split_at_checked(2)?;
                (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), after)
            } else {
                let (length, after) = after.split_first()?;
                (usize::from(*length), after)
            };
            let (value, after) = after.split_at_checked(length)?;
            if *kind != 2 {
                return Some(Err(Notification::new(2, 4)));
            }
            self.capabilities(value)?;
            rest = after;
        }
        Some(Ok(()))
    }

    fn capabilities(&mut self, mut rest: &[u8]) -> Option<()> {
        while let [code, length, after @ ..] = rest {
            let (value, after) = after.split_at_checked(usize::from(*length))?;
            match (code, value) {
                (1, [high, low, _, safi]) => {
                    let family = (u16::from_be_bytes([*high, *low]), *safi);
                    if !self.families.contains(&family) {
                        self.families.push(family);
                    }
                }
                (2, _) => self.route_refresh = true,
                (6, []) => self.extended_message = true,
                (64, [high, low, families @ ..]) => {
                    let flags = u16::from_be_bytes([*high, *low]);
                    let family = |four: &[u8]| match four {
                        [high, low, safi, flags] => Some((u16::from_be_bytes([*high, *low]), *safi, flags & 0x80 != 0)),
                        _ => None,
                    };
                    self.graceful_restart = Some(GracefulRestart {
                        restarting: flags & 0x8000 != 0,
                        notification: flags & 0x4000 != 0,
                        time: flags & 0x0fff,
                        families: families.chunks_exact(4).filter_map(family).collect(),
                    });
                }
                (65, [a, b, c, d]) => {
                    self.four_octet = true;
                    self.asn = u32::from_be_bytes([*a, *b, *c, *d]);
                }
                (69, families) => self.paths(families),
                // What we do not know, or know in another form, is not there (RFC 5492, section 3).
                _ => {}
            }
            rest = after;
        }
        rest.is_empty().then_some(())
    }

    /// Of a family that is named twice the last counts; what is neither to send nor to receive is not there (RFC 7911, section 4).
    fn paths(&mut self, families: &[u8]) {
        for four in families.chunks_exact(4) {
            let &[high, low, safi, direction @ 1..=3] = four else { continue };
            let family = (u16::from_be_bytes([high, low]), safi);
            self.add_path.retain(|known| known.family != family);
            self.add_path.push(AddPath { family, receives: direction & 1 != 0, sends: direction & 2 != 0 });
        }
    }
}
