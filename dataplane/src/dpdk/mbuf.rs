//! Bursts of packet buffers. A buffer is owned by exactly one burst, or by DPDK.

use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::NonNull;

use dpdk_sys::rte_mbuf;
use levee_engine::packet::{HEAD_BYTES, Packet};
use rtrb::{Consumer, Producer};

use super::partition::partition;

/// Packets handled together.
pub const BURST: usize = 64;

/// Up to [`BURST`] packets. What is still inside when it goes is freed.
#[derive(Debug)]
pub struct Burst {
    /// The first `len` are mbufs of ours.
    mbufs: [*mut rte_mbuf; BURST],
    len: usize,
}

// SAFETY: the burst owns its mbufs, and pools may be used from any thread.
unsafe impl Send for Burst {}

/// One packet on its way from one thread to another. Freed when dropped.
#[derive(Debug)]
pub struct Mbuf(NonNull<rte_mbuf>);

// SAFETY: an mbuf has one owner, and pools may be used from any thread.
unsafe impl Send for Mbuf {}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: an mbuf of ours, not used again.
        unsafe { dpdk_sys::rte_pktmbuf_free_bulk(&mut self.0.as_ptr(), 1) };
    }
}

/// Room for the packets of a burst, which are written to it before they are read.
#[derive(Debug)]
pub struct Packets<'a>([MaybeUninit<Packet<'a>>; BURST]);

impl Default for Packets<'_> {
    #[inline(always)]
    fn default() -> Self {
        Self([const { MaybeUninit::uninit() }; BURST])
    }
}

/// Room for the heads of packets whose first segment is short, so that a verdict does not depend on segmentation.
#[derive(Debug)]
pub struct HeadScratch(Box<[[u8; HEAD_BYTES]; BURST]>);

impl Default for HeadScratch {
    fn default() -> Self {
        Self(Box::new([[0; HEAD_BYTES]; BURST]))
    }
}

impl Default for Burst {
    fn default() -> Self {
        Self { mbufs: [std::ptr::null_mut(); BURST], len: 0 }
    }
}

impl Burst {
    /// How many packets there are.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Asks for the first two cache lines of every packet (IPv6 headers reach into the second), as far as it has them, to be
    /// there when [`Self::packets`] is read after other work.
    #[inline]
    pub fn prefetch(&self) {
        for &mbuf in self.owned() {
            // SAFETY: an owned mbuf is valid; its address is computed, and prefetching reads nothing.
            let (data, length) = unsafe { (first_byte(mbuf), (*mbuf).data_len) };
            prefetch_line(data);
            // Without a second line the first once more, which costs nothing and needs no branch.
            prefetch_line(if length > 64 { data.wrapping_add(64) } else { data });
        }
    }

    /// The packets as byte slices, written to the front of `packets`.
    #[inline]
    pub fn packets<'a, 'p>(&'a self, scratch: &'a mut HeadScratch, packets: &'p mut Packets<'a>) -> &'p [Packet<'a>] {
        for ((&mbuf, head), packet) in self.owned().iter().zip(scratch.0.iter_mut()).zip(packets.0.iter_mut()) {
            // SAFETY: the mbufs are ours and not written while self is borrowed.
            packet.write(unsafe { read(mbuf, head) });
        }
        let written: *const [MaybeUninit<Packet<'a>>] = packets.0.get(..self.len).unwrap_or_default();
        // SAFETY: as many as there are mbufs have just been written, and MaybeUninit has the layout of what it holds.
        unsafe { &*(written as *const [Packet<'a>]) }
    }

    /// Lets `write` rewrite the frames of the packets whose bit in `which` is set, by their positions; it returns how long each is
    /// from then on, at most as long as it was, or none. Returns the bits of those that were rewritten; a packet of several
    /// segments never is.
    #[inline]
    pub fn rewrite(&mut self, which: u64, write: impl Fn(usize, &mut [u8]) -> Option<usize>) -> u64 {
        let mut rewritten = 0;
        for (position, &mbuf) in self.owned().iter().enumerate().filter(|(position, _)| which >> position & 1 == 1) {
            // SAFETY: an owned mbuf is valid.
            let (data, length, segments) = unsafe { (first_byte(mbuf), (*mbuf).data_len, (*mbuf).nb_segs) };
            if segments != 1 {
                continue;
            }
            // SAFETY: the data_len bytes of a segment are initialised by the driver, and nobody else uses the mbuf.
            let frame = unsafe { std::slice::from_raw_parts_mut(data.cast_mut(), usize::from(length)) };
            let written = write(position, frame).and_then(|written| u16::try_from(written).ok());
            if let Some(written) = written.filter(|written| *written <= length) {
                // SAFETY: an mbuf of ours, of one segment, which has at least so many bytes.
                unsafe {
                    (*mbuf).data_len = written;
                    (*mbuf).pkt_len = written.into();
                }
                rewritten |= 1 << position;
            }
        }
        rewritten
    }

    /// Lets the packets whose bit is set be rewritten on their way: `write` is told the position of each, its bytes with up to `growth` more
    /// behind them, and how many are its own; it returns how many of them it is from then on, or none. Of a packet of several segments
    /// it gets the first, without more behind it, and must not change its length. Returns the bits of those that were rewritten.
    #[inline]
    pub fn translate(
        &mut self,
        which: u64,
        growth: usize,
        write: impl Fn(usize, &mut [u8], usize) -> Option<usize>,
    ) -> u64 {
        let mut rewritten = 0;
        for (position, &mbuf) in self.owned().iter().enumerate().filter(|(position, _)| which >> position & 1 == 1) {
            // SAFETY: an owned mbuf is valid.
            let (data, length, segments) = unsafe { (first_byte(mbuf), (*mbuf).data_len, (*mbuf).nb_segs) };
            // SAFETY: as above.
            let (room, offset) = unsafe { (usize::from((*mbuf).buf_len), usize::from((*mbuf).data_off)) };
            let length = usize::from(length);
            let behind = if segments == 1 { room.saturating_sub(offset + length).min(growth) } else { 0 };
            // SAFETY: the buffer has that much room behind the data of its only segment, and nobody else uses the mbuf.
            unsafe { data.cast_mut().add(length).write_bytes(0, behind) };
            // SAFETY: the bytes of the segment are initialised by the driver, those behind it just now.
            let frame = unsafe { std::slice::from_raw_parts_mut(data.cast_mut(), length + behind) };
            let Some(written) = write(position, frame, length).filter(|written| *written <= length + behind) else {
                continue;
            };
            if written != length {
                let Ok(written) = u16::try_from(written) else { continue };
                if segments != 1 {
                    continue;
                }
                // SAFETY: an mbuf of ours, of one segment, whose buffer has at least so many bytes.
                unsafe {
                    (*mbuf).data_len = written;
                    (*mbuf).pkt_len = written.into();
                }
            }
            rewritten |= 1 << position;
        }
        rewritten
    }

    /// Moves the packets whose bit in `kept` is not set to `rest`, which has none before.
    #[inline]
    pub fn split(&mut self, kept: u64, rest: &mut Self) {
        rest.free();
        let len = self.len;
        self.len = partition(&mut self.mbufs, len, kept, &mut rest.mbufs);
        rest.len = len - self.len;
    }

    /// Takes at most `most` packets from a ring, as far as there is room; returns how many.
    #[inline]
    pub fn take_from(&mut self, ring: &mut Consumer<Mbuf>, most: usize) -> usize {
        let room = BURST.saturating_sub(self.len);
        let Ok(packets) = ring.read_chunk(ring.slots().min(most).min(room)) else { return 0 };
        let taken = packets.len();
        for (slot, mbuf) in self.mbufs.iter_mut().skip(self.len).zip(packets) {
            *slot = ManuallyDrop::new(mbuf).0.as_ptr();
        }
        self.len += taken;
        taken
    }

    /// Puts packets into a ring, from the front, until it is full. The others stay.
    #[inline]
    pub fn put_into(&mut self, ring: &mut Producer<Mbuf>) {
        let Ok(room) = ring.write_chunk_uninit(ring.slots().min(self.len)) else { return };
        let mbufs = self.owned().iter().copied().filter_map(NonNull::new).map(Mbuf);
        let put = room.fill_from_iter(mbufs);
        self.mbufs.copy_within(put..self.len, 0);
        self.len -= put;
    }

    /// Moves the packets from position `first` on to the bursts that `owner` names; those of `own` stay.
    #[inline]
    pub fn share_out(&mut self, first: usize, owner: &[u8; BURST], own: u8, others: &mut [Self]) {
        let mut kept = first.min(self.len);
        for position in first..self.len {
            let (Some(&mbuf), Some(&to)) = (self.mbufs.get(position), owner.get(position)) else { break };
            match others.get_mut(usize::from(to)).filter(|_| to != own) {
                Some(burst) => burst.push(mbuf),
                None => {
                    if let Some(slot) = self.mbufs.get_mut(kept) {
                        *slot = mbuf;
                        kept += 1;
                    }
                }
            }
        }
        self.len = kept;
    }

    /// Moves everything from position `first` on to the end of `rest`.
    #[inline]
    pub fn split_off(&mut self, first: usize, rest: &mut Self) {
        for &mbuf in self.owned().get(first..).unwrap_or_default() {
            rest.push(mbuf);
        }
        self.len = self.len.min(first);
    }

    /// Frees all packets with one call.
    #[inline]
    pub fn free(&mut self) {
        if self.len == 0 {
            return;
        }
        // SAFETY: the first `len` pointers are mbufs owned by this burst, at most BURST; afterwards none is.
        unsafe { dpdk_sys::rte_pktmbuf_free_bulk(self.mbufs.as_mut_ptr(), u32::from(count(self.len))) };
        self.len = 0;
    }

    /// Makes every packet one segment long, for drivers that cannot send more; those that cannot be (no room) go to
    /// `rest`.
    pub(super) fn linearise(&mut self, rest: &mut Self) {
        let mut kept = 0;
        for position in 0..self.len {
            let Some(&mbuf) = self.mbufs.get(position) else { break };
            // SAFETY: an owned mbuf; the function moves bytes between its segments and frees the emptied ones.
            if unsafe { (*mbuf).nb_segs == 1 || dpdk_sys::rte_pktmbuf_linearize(mbuf) == 0 } {
                if let Some(slot) = self.mbufs.get_mut(kept) {
                    *slot = mbuf;
                    kept += 1;
                }
            } else {
                rest.push(mbuf);
            }
        }
        self.len = kept;
    }

    /// Lets `fill` write mbufs that it hands over to the free end of the array and say how many.
    #[inline]
    pub(super) fn fill(&mut self, fill: impl FnOnce(*mut *mut rte_mbuf, u16) -> u16) {
        let Some(free) = self.mbufs.get_mut(self.len..) else { return };
        let room = count(free.len());
        self.len += usize::from(fill(free.as_mut_ptr(), room).min(room));
    }

    /// Lets `take` take over a number of mbufs from the front; the others go to the end of `rest`.
    #[inline]
    pub(super) fn drain(&mut self, rest: &mut Self, take: impl FnOnce(*mut *mut rte_mbuf, u16) -> u16) -> usize {
        let offered = count(self.len);
        let taken = usize::from(take(self.mbufs.as_mut_ptr(), offered).min(offered));
        if taken < self.len {
            self.split_off(taken, rest);
        }
        self.len = 0;
        taken
    }

    #[inline]
    fn push(&mut self, mbuf: *mut rte_mbuf) {
        if self.len == BURST {
            self.free();
        }
        if let Some(slot) = self.mbufs.get_mut(self.len) {
            *slot = mbuf;
            self.len += 1;
        }
    }

    #[inline]
    fn owned(&self) -> &[*mut rte_mbuf] {
        self.mbufs.get(..self.len).unwrap_or_default()
    }
}

impl Drop for Burst {
    fn drop(&mut self) {
        self.free();
    }
}

/// A number of packets in the type that DPDK counts bursts in.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "at most BURST")]
const fn count(packets: usize) -> u16 {
    packets as u16
}

/// The first byte of the frame.
///
/// # Safety
/// `mbuf` is valid.
#[inline]
unsafe fn first_byte(mbuf: *const rte_mbuf) -> *const u8 {
    // SAFETY: valid by the caller's promise; data_off lies within the buffer.
    unsafe { (*mbuf).buf_addr.cast::<u8>().add(usize::from((*mbuf).data_off)).cast_const() }
}

/// The packet in `mbuf`; its head is copied to `scratch` when the first segment holds too little of it.
///
/// # Safety
/// `mbuf` is valid, and it is not written or freed during `'a`.
#[inline]
unsafe fn read<'a>(mbuf: *const rte_mbuf, scratch: &'a mut [u8; HEAD_BYTES]) -> Packet<'a> {
    // SAFETY: valid by the caller's promise.
    let (first, wire_len) = unsafe { (usize::from((*mbuf).data_len), (*mbuf).pkt_len) };
    let whole = usize::try_from(wire_len).unwrap_or(usize::MAX);
    if first >= whole.min(HEAD_BYTES) {
        // SAFETY: the segment's data_len bytes are initialised by the driver and stay as they are during 'a.
        let head = unsafe { std::slice::from_raw_parts(first_byte(mbuf), first) };
        return Packet { head, wire_len };
    }
    let mut filled = 0;
    let mut segment = mbuf;
    while !segment.is_null() && filled < HEAD_BYTES {
        // SAFETY: segments of a valid mbuf are valid and hold data_len bytes each.
        let (bytes, next) = unsafe {
            (std::slice::from_raw_parts(first_byte(segment), usize::from((*segment).data_len)), (*segment).next)
        };
        for (to, from) in scratch.iter_mut().skip(filled).zip(bytes) {
            *to = *from;
        }
        filled = HEAD_BYTES.min(filled + bytes.len());
        segment = next;
    }
    Packet { head: scratch.get(..filled).unwrap_or_default(), wire_len }
}

#[inline]
fn prefetch_line(_address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; no address can make it fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(_address.cast());
    }
}
