//! Connections opened in the place of a server: the client has its handshake with us, then we have the same one with the server, in
//! packets that one of the two has sent.
//!
//! ```text
//! client                 here                  server
//!   SYN          ->      (nothing is remembered)
//!                <-      SYN-ACK, a cookie, no window
//!   ACK          ->      becomes         SYN  ->
//!   probe        <-      becomes              <-  SYN-ACK
//!   ACK, data    ->      numbers translated   ->
//! ```
//!
//! Whatever is lost on either side is sent again by that side: the client's ACK by its probes of the closed window, the server's SYN-ACK by
//! the server, and each becomes the same again. Pure decisions; packets are rewritten by [`super::translation`].

use levee_api::lane::TcpFlags;
use levee_api::time::Timestamp;

use super::connections::{Connection, Connections, Slot, State, Windows};
use super::cookie::Offer;
use super::options::{Options, Stamps};
use super::reply::Reply;
use super::services::{Agreed, Services};
use super::translation::{Edit, Numbers, moved};
use crate::target::keyed::Keyed;

/// What one worker does in the place of servers.
#[derive(Debug)]
pub struct Proxy {
    /// What is translated.
    pub connections: Connections,
    /// What servers offer.
    pub services: Services,
    keyed: Keyed,
}

/// What a segment says that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Flags.
    pub flags: TcpFlags,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Window as it is in the header.
    pub window: u16,
    /// Options.
    pub options: Options,
}

/// What becomes of a segment from inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// It passes as it is.
    Passes,
    /// It passes, rewritten.
    Becomes(Edit),
    /// The same, and the connection is open from now on.
    Opens(Edit),
    /// It is of an older connection, of which the server has to be told that it is no more (RFC 9293 section 3.10.7.3).
    Answered(Reply),
}

impl Proxy {
    /// Nothing is known yet. `keyed`: of the worker's tables.
    pub fn new(keyed: &Keyed) -> Self {
        Self { connections: Connections::default(), services: Services::default(), keyed: *keyed }
    }

    /// Key of the service at an address and port.
    #[inline]
    pub fn service(&self, address: u128, port: u16) -> u64 {
        const SERVICE: u64 = 0x7365_7276 << 32;
        self.keyed.prefix(address, SERVICE | u64::from(port))
    }

    /// What a client that offers `said` is told in the place of a service. `clock`: the value of timestamps.
    #[inline]
    pub fn agree(said: &Options, service: &Agreed, clock: u32) -> Options {
        Options {
            mss: said.mss.map(|_| service.mss),
            scale: service.scale.filter(|_| said.scale.is_some()),
            sack: said.sack && service.sack,
            stamps: said.stamps.filter(|_| service.stamps).map(|stamps| Stamps { value: clock, echo: stamps.value }),
        }
    }

    /// What of that a cookie says.
    #[inline]
    pub fn offer(said: &Options, agreed: &Options, least_mss: u16) -> Offer {
        let scale = said.scale.filter(|_| agreed.scale.is_some());
        Offer::of(&Options { mss: said.mss, scale, sack: agreed.sack, stamps: None }, least_mss)
    }

    /// The client has acknowledged a cookie: its segment becomes its SYN. None when there is no room for one more connection, or when
    /// what it was told is not known any more. `offer`, `first`: what the cookie tells, and the client's first number. `known`: it has done so before, and the server has not answered.
    pub fn open(
        &mut self,
        key: u64,
        service: u64,
        known: Option<Slot>,
        segment: &Segment,
        (offer, first): (Offer, u32),
        now: Timestamp,
    ) -> Option<Edit> {
        let said = offer.options();
        let told = match said.scale {
            Some(_) => Some(self.services.offer(service, now)?.scale?),
            None => None,
        };
        let slot = known.or_else(|| self.connections.place(key, now))?;
        let connection = Connection {
            cookie: segment.acknowledgement.wrapping_sub(1),
            stamps: segment.options.stamps.map_or(0, |stamps| stamps.echo),
            windows: Windows { told, client: offer.scale_code(), server: None },
            state: State::USED,
            ..Connection::default()
        };
        self.connections.put(slot, key, connection, now);
        let stamps = segment.options.stamps.map(|stamps| Stamps { value: stamps.value, echo: 0 });
        let window = moved(segment.window, said.scale.and_then(|scale| i8::try_from(scale).ok()).unwrap_or(0));
        Some(Edit::Open { sequence: first, options: Options { stamps, ..said }, window })
    }

    /// What becomes of a segment from outside on a connection that the server has answered; none: nothing.
    #[inline]
    pub fn inbound(&mut self, slot: Slot, key: u64, known: &Connection, flags: TcpFlags, now: Timestamp) -> Edit {
        if flags.contains(TcpFlags::SYN) {
            return Edit::None;
        }
        let state = after(known.state, flags, State::CLIENT_FIN);
        self.connections.put(slot, key, Connection { state, ..*known }, now);
        let scale = Offer::scale_of(known.windows.client).and_then(|scale| i8::try_from(scale).ok());
        Edit::Numbers(Numbers {
            acknowledgement: known.offset,
            echo: known.stamps,
            window: scale.filter(|_| known.windows.is_scaled_for_nobody()).unwrap_or(0),
            ..Numbers::default()
        })
    }

    /// What becomes of a segment from inside. `service`: the key of where it comes from.
    pub fn outbound(
        &mut self,
        slot: Slot,
        key: u64,
        service: u64,
        known: &Connection,
        segment: &Segment,
        now: Timestamp,
    ) -> Outbound {
        let Segment { flags, sequence, .. } = *segment;
        let is_open = known.state.contains(State::OPEN);
        match (flags.contains(TcpFlags::SYN), flags.contains(TcpFlags::ACK)) {
            (true, true) if !is_open => Outbound::Opens(self.answered(slot, key, service, known, segment, now)),
            (true, true) if sequence.wrapping_sub(known.offset) == known.cookie => {
                Outbound::Becomes(probe(known, segment))
            }
            (true, _) => {
                // Another connection between the same ports.
                self.connections.remove(slot);
                Outbound::Passes
            }
            (false, _) if !is_open && flags.contains(TcpFlags::RST) => {
                let state = known.state | State::RESET;
                self.connections.put(slot, key, Connection { state, ..*known }, now);
                Outbound::Becomes(Edit::Refuse { sequence: known.cookie.wrapping_add(1) })
            }
            (false, true) if !is_open => Outbound::Answered(Reply::reset(segment.acknowledgement)),
            (false, false) if !is_open => Outbound::Passes,
            (false, _) => {
                let state = after(known.state, flags, State::SERVER_FIN);
                self.connections.put(slot, key, Connection { state, ..*known }, now);
                Outbound::Becomes(Edit::Numbers(Numbers {
                    sequence: known.offset.wrapping_neg(),
                    value: known.stamps.wrapping_neg(),
                    window: known.windows.to_client(),
                    ..Numbers::default()
                }))
            }
        }
    }

    /// The server has answered.
    fn answered(
        &mut self,
        slot: Slot,
        key: u64,
        service: u64,
        known: &Connection,
        segment: &Segment,
        now: Timestamp,
    ) -> Edit {
        let (told, asked_stamps) = (known.windows.told, known.stamps != 0);
        let asked =
            Options { scale: told, stamps: asked_stamps.then_some(Stamps { value: 0, echo: 0 }), ..Options::default() };
        self.services.learn(service, &segment.options, Some(&asked), now);
        let stamps = segment.options.stamps.filter(|_| asked_stamps);
        let open = Connection {
            offset: segment.sequence.wrapping_sub(known.cookie),
            stamps: stamps.map_or(0, |stamps| stamps.value.wrapping_sub(known.stamps)),
            windows: Windows { server: segment.options.scale.filter(|_| told.is_some()), ..known.windows },
            state: known.state | State::OPEN,
            ..*known
        };
        self.connections.put(slot, key, open, now);
        probe(&open, segment)
    }
}

/// What the SYN-ACK of a server becomes.
fn probe(open: &Connection, segment: &Segment) -> Edit {
    let server = segment.options.scale.and_then(|scale| i8::try_from(scale).ok()).unwrap_or(0);
    let told = u8::try_from(server - open.windows.to_client()).unwrap_or(0);
    Edit::Probe { sequence: open.cookie, stamps: (open.stamps != 0).then_some(open.stamps), scale: told }
}

/// What has happened after a segment with these flags from the side whose FIN is `fin`.
fn after(state: State, flags: TcpFlags, fin: State) -> State {
    let closes = if flags.contains(TcpFlags::FIN) { fin } else { State::empty() };
    let state = state.difference(State::RESET) | closes;
    if flags.contains(TcpFlags::RST) { state | State::RESET } else { state }
}
