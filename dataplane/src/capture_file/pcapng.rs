//! pcapng: a sequence of blocks (draft-ietf-opsawg-pcapng). A section header sets the byte order, interface
//! descriptions give link type and clock, packet blocks refer to them; every other block is skipped.

use levee_engine::time::Timestamp;

use super::error::{Fault, Interface as InterfaceName, Misread};
use super::input::{ByteOrder, Fields, Input};
use super::{LinkType, MAX_CAPTURED_LEN, Record};

/// The first four bytes of a file, and of every section: they read the same in both byte orders.
pub(super) const MAGIC: [u8; 4] = *b"\n\r\r\n";

/// Type, length and the length again at the end.
const BLOCK_OVERHEAD: usize = 12;
/// What Wireshark and libpcap accept, far above what any writer makes.
const MAX_BLOCK_LEN: usize = 16 * 1024 * 1024;
/// Interface descriptions are kept, so there must be an end to them; no writer comes near.
const MAX_INTERFACES: usize = 65_536;
/// More of a name is of no use in an error message.
const MAX_NAME_LEN: usize = 64;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// The reader's place in a pcapng file.
#[derive(Debug)]
pub(super) struct Pcapng {
    order: ByteOrder,
    interfaces: Vec<Interface>,
    last_at: Timestamp,
}

#[derive(Debug)]
struct Interface {
    link_type: LinkType,
    name: Option<String>,
    /// Bytes kept of each packet; 0 for all of them.
    snap_len: u32,
    ticks_per_second: u64,
    offset_ns: i128,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    SectionHeader,
    InterfaceDescription,
    /// Obsolete, but found in old files.
    Packet,
    SimplePacket,
    EnhancedPacket,
    Other,
}

/// A block whose length is possible; `len` includes the overhead.
#[derive(Clone, Copy, Debug)]
struct Block {
    kind: Kind,
    offset: u64,
    len: usize,
}

impl Pcapng {
    pub(super) fn open(input: &mut Input) -> Result<Self, Misread> {
        let mut this = Self { order: ByteOrder::Little, interfaces: Vec::new(), last_at: Timestamp::ZERO };
        if let Some(header) = this.block(input)? {
            let body = this.body(header, input)?;
            this.section(body).map_err(|fault| fault.at(header.offset))?;
        }
        Ok(this)
    }

    pub(super) fn next<'a>(&mut self, input: &'a mut Input) -> Result<Option<Record<'a>>, Misread> {
        loop {
            let Some(block) = self.block(input)? else { return Ok(None) };
            let described = match block.kind {
                Kind::EnhancedPacket | Kind::SimplePacket | Kind::Packet => {
                    let body = self.body(block, input)?;
                    return self.packet(block.kind, body).map(Some).map_err(|fault| fault.at(block.offset));
                }
                Kind::SectionHeader => self.body(block, input).map(|body| self.section(body))?,
                Kind::InterfaceDescription => self.body(block, input).map(|body| self.interface(body))?,
                Kind::Other => self.body(block, input).map(|_| Ok(()))?,
            };
            described.map_err(|fault| fault.at(block.offset))?;
        }
    }

    /// Looks at the next block; a section header switches the byte order at once, as its own length depends on it.
    fn block(&mut self, input: &mut Input) -> Result<Option<Block>, Misread> {
        let offset = input.offset();
        let head = input.peek(BLOCK_OVERHEAD).map_err(|error| Fault::Io(error).at(offset))?;
        let Some(head) = head.first_chunk::<BLOCK_OVERHEAD>() else {
            let present = head.len();
            let cut = Fault::Truncated { what: "block header", expected: BLOCK_OVERHEAD, present };
            return if present == 0 { Ok(None) } else { Err(cut.at(offset)) };
        };
        if head.starts_with(&MAGIC) {
            self.order = match head[8..] {
                [0x4d, 0x3c, 0x2b, 0x1a] => ByteOrder::Little,
                [0x1a, 0x2b, 0x3c, 0x4d] => ByteOrder::Big,
                _ => return Err(damaged("a section header has no byte-order magic").at(offset)),
            };
        }
        let mut fields = Fields::new(self.order, head);
        let (kind, len) = (fields.u32().unwrap_or_default(), fields.u32().unwrap_or_default() as usize);
        if len < BLOCK_OVERHEAD || len % 4 != 0 || len > MAX_BLOCK_LEN {
            let claim = format!(
                "a block of type {kind:#x} claims {len} bytes, possible are multiples of 4 from 12 to {MAX_BLOCK_LEN}"
            );
            return Err(Fault::Damaged(claim).at(offset));
        }
        let kind = match kind {
            0x0a0d_0d0a => Kind::SectionHeader,
            1 => Kind::InterfaceDescription,
            2 => Kind::Packet,
            3 => Kind::SimplePacket,
            6 => Kind::EnhancedPacket,
            _ => Kind::Other,
        };
        Ok(Some(Block { kind, offset, len }))
    }

    /// Takes a whole block and returns what is between its overhead.
    fn body<'a>(&self, Block { offset, len, .. }: Block, input: &'a mut Input) -> Result<&'a [u8], Misread> {
        let bytes = input.take(len).map_err(|error| Fault::Io(error).at(offset))?;
        let present = bytes.len();
        let cut = || Fault::Truncated { what: "block", expected: len, present }.at(offset);
        let mut fields = Fields::new(self.order, bytes);
        let _type_and_length = fields.bytes(8);
        let body = fields.bytes(len - BLOCK_OVERHEAD).ok_or_else(cut)?;
        let repeated = fields.u32().ok_or_else(cut)?;
        if repeated as usize == len {
            Ok(body)
        } else {
            let claim = format!("a block of {len} bytes says at its end that it has {repeated}");
            Err(Fault::Damaged(claim).at(offset))
        }
    }

    fn section(&mut self, body: &[u8]) -> Result<(), Fault> {
        let mut fields = Fields::new(self.order, body);
        let _byte_order_magic = fields.u32();
        let Some((major, minor)) = fields.u16().zip(fields.u16()) else {
            return Err(damaged("a section header is too short for its version"));
        };
        // Some writers say 1.2; the draft has readers take it for 1.0.
        if !matches!((major, minor), (1, 0 | 2)) {
            return Err(Fault::Version { format: "pcapng", major, minor });
        }
        self.interfaces.clear();
        Ok(())
    }

    fn interface(&mut self, body: &[u8]) -> Result<(), Fault> {
        let mut fields = Fields::new(self.order, body);
        let (Some(link_type), Some(_reserved), Some(snap_len)) = (fields.u16(), fields.u16(), fields.u32()) else {
            return Err(damaged("an interface description is too short for its fields"));
        };
        if self.interfaces.len() == MAX_INTERFACES {
            return Err(Fault::Damaged(format!("a section describes more than {MAX_INTERFACES} interfaces")));
        }
        let mut interface = Interface {
            link_type: LinkType(link_type),
            name: None,
            snap_len,
            ticks_per_second: 1_000_000,
            offset_ns: 0,
        };
        while fields.len() >= 4 {
            let (code, len) = fields.u16().zip(fields.u16()).unwrap_or_default();
            if code == 0 {
                break;
            }
            let Some(value) = fields.bytes(usize::from(len)) else {
                return Err(damaged("an option of an interface description runs past the block"));
            };
            // Some writers leave out the padding of the last option.
            let _padding = fields.bytes(value.len().next_multiple_of(4) - value.len());
            interface.option(code, Fields::new(self.order, value))?;
        }
        self.interfaces.push(interface);
        Ok(())
    }

    fn packet<'a>(&mut self, kind: Kind, body: &'a [u8]) -> Result<Record<'a>, Fault> {
        let mut fields = Fields::new(self.order, body);
        let short = || damaged("a packet block is too short for its fields");
        let mut number = || fields.u32().ok_or_else(short);
        let (index, ticks, captured_len, wire_len) = match kind {
            Kind::SimplePacket => {
                let wire_len = number()?;
                (0, None, self.interfaces.first().map_or(wire_len, |first| first.kept(wire_len)), wire_len)
            }
            _ => {
                let index = number()?;
                // The obsolete block has 16 bits of index and 16 bits of drop counter there.
                let index = match (kind, self.order) {
                    (Kind::Packet, ByteOrder::Little) => index & 0xffff,
                    (Kind::Packet, ByteOrder::Big) => index >> 16,
                    _ => index,
                };
                let ticks = u64::from(number()?) << 32 | u64::from(number()?);
                (index as usize, Some(ticks), number()?, number()?)
            }
        };
        let Some(interface) = self.interfaces.get(index) else {
            let described = self.interfaces.len();
            return Err(Fault::Damaged(format!(
                "a packet refers to interface {index}, the section describes {described}"
            )));
        };
        let name = || InterfaceName { index, name: interface.name.clone() };
        if interface.link_type != LinkType::ETHERNET {
            return Err(Fault::LinkType { link_type: interface.link_type, interface: Some(name()) });
        }
        let room = fields.len();
        let Some(data) = fields.bytes(captured_len as usize).filter(|_| captured_len <= MAX_CAPTURED_LEN) else {
            return Err(Fault::Damaged(format!(
                "a packet claims {captured_len} captured bytes, its block has room for {room}, the most possible is {MAX_CAPTURED_LEN}"
            )));
        };
        if let Some(ticks) = ticks {
            self.last_at = interface.time(ticks).ok_or_else(|| {
                Fault::Damaged(format!("a packet of {} has a time outside the years 1970 to 2554", name()))
            })?;
        }
        Ok(Record::new(self.last_at, data, wire_len))
    }
}

impl Interface {
    /// Bytes that this interface keeps of a packet; a Simple Packet Block leaves it to the reader to know.
    fn kept(&self, wire_len: u32) -> u32 {
        if self.snap_len == 0 { wire_len } else { wire_len.min(self.snap_len) }
    }

    fn option(&mut self, code: u16, mut value: Fields<'_>) -> Result<(), Fault> {
        const IF_NAME: u16 = 2;
        const IF_TSRESOL: u16 = 9;
        const IF_TSOFFSET: u16 = 14;
        match code {
            IF_NAME => {
                let name = String::from_utf8_lossy(value.bytes(value.len()).unwrap_or_default()).into_owned();
                self.name = Some(name.chars().take(MAX_NAME_LEN).collect());
            }
            IF_TSRESOL => {
                let Some(&[resolution]) = value.bytes(1) else {
                    return Err(damaged("the time resolution of an interface (if_tsresol) is empty"));
                };
                let exponent = u32::from(resolution & 0x7f);
                let ticks =
                    if resolution & 0x80 == 0 { 10_u64.checked_pow(exponent) } else { 1_u64.checked_shl(exponent) };
                self.ticks_per_second = ticks.ok_or_else(|| {
                    Fault::Damaged(format!(
                        "the time resolution of an interface (if_tsresol) is {resolution:#04x}, the finest supported are 10^-19 and 2^-63 s"
                    ))
                })?;
            }
            IF_TSOFFSET => {
                let Some(seconds) = value.i64() else {
                    return Err(damaged("the time offset of an interface (if_tsoffset) has less than 8 bytes"));
                };
                self.offset_ns = i128::from(seconds) * i128::from(NS_PER_SECOND);
            }
            _ => {}
        }
        Ok(())
    }

    /// Ticks of its clock as time since the epoch; `None` when that is negative or does not fit.
    fn time(&self, ticks: u64) -> Option<Timestamp> {
        let since_offset = u128::from(ticks) * u128::from(NS_PER_SECOND) / u128::from(self.ticks_per_second);
        u64::try_from(since_offset.checked_add_signed(self.offset_ns)?).ok().map(Timestamp)
    }
}

fn damaged(what: &str) -> Fault {
    Fault::Damaged(what.to_owned())
}

#[cfg(test)]
#[path = "pcapng_test.rs"]
mod tests;
