//! Packet buffers: one pool per wire, all of them allocated at start.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

use thiserror::Error;

use super::Errno;
use super::eal::Eal;

const CACHE_LINE: u32 = 64;
/// What precedes the data of a buffer: `rte_mempool_objhdr`, padded, and `rte_mbuf`.
const BUFFER_HEADER_BYTES: u32 = CACHE_LINE + 128;
/// Buffers that a registered thread keeps to itself. DPDK allows up to 512 and recommends a divisor-free value here;
/// 256 holds four bursts.
const CACHE_BUFFERS: u32 = 256;

/// A pool could not be made.
#[derive(Debug, Error)]
#[error(
    "cannot allocate {count} packet buffers of {room} bytes ({mib} MiB) on NUMA node {socket}: {errno}; raise memory under [dataplane]"
)]
pub struct CreateError {
    count: u32,
    room: u16,
    mib: u64,
    socket: i32,
    errno: Errno,
}

/// How many buffers, and of what size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Buffers in the pool.
    pub count: u32,
    /// Bytes of frame that fit into one buffer, behind DPDK's headroom of 128.
    pub frame_room: u16,
}

impl Shape {
    /// Headroom and frame, stretched so that buffers follow each other at an odd number of cache lines: at a power of
    /// two, the headers of all packets would compete for a few sets of the cache.
    fn data_room(self) -> Option<u16> {
        let room = (dpdk_sys::RTE_PKTMBUF_HEADROOM + u32::from(self.frame_room)).next_multiple_of(CACHE_LINE);
        let lines = (BUFFER_HEADER_BYTES + room) / CACHE_LINE;
        let odd = if lines.is_multiple_of(2) { room + CACHE_LINE } else { room };
        u16::try_from(odd).ok()
    }

    /// Memory that the pool takes, in bytes.
    pub fn bytes(self) -> u64 {
        let room = self.data_room().unwrap_or(u16::MAX);
        u64::from(self.count) * u64::from(BUFFER_HEADER_BYTES + u32::from(room))
    }
}

/// A pool of packet buffers. Clones share it; it is freed when the last one goes.
#[derive(Clone, Debug)]
pub struct Mempool(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    pool: NonNull<dpdk_sys::rte_mempool>,
    _eal: Eal,
}

// SAFETY: DPDK's pools are made for concurrent use; the pointer is only read here.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Mempool {
    /// Allocates a pool called `name` (at most 25 bytes, unique in the process) on a NUMA node.
    pub fn create(eal: &Eal, name: &str, shape: Shape, socket: i32) -> Result<Self, CreateError> {
        let error =
            |errno| CreateError { count: shape.count, room: shape.frame_room, mib: shape.bytes() >> 20, socket, errno };
        let invalid = || error(Errno(nix::errno::Errno::EINVAL as i32));
        let data_room = shape.data_room().ok_or_else(invalid)?;
        let name = CString::new(name).map_err(|_| invalid())?;
        // SAFETY: the name is terminated and copied; DPDK is initialised, as the Eal shows.
        let pool = unsafe {
            dpdk_sys::rte_pktmbuf_pool_create(name.as_ptr(), shape.count, CACHE_BUFFERS, 0, data_room, socket)
        };
        let pool = NonNull::new(pool).ok_or_else(|| error(Errno::last()))?;
        Ok(Self(Arc::new(Pool { pool, _eal: eal.clone() })))
    }

    /// Buffers that are not in the pool: in a queue, a burst, or lost.
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool is alive as long as self is; `size` does not change after creation.
        unsafe { (*self.as_ptr()).size.saturating_sub(dpdk_sys::rte_mempool_avail_count(self.as_ptr())) }
    }

    /// Bytes from one buffer to the next.
    pub fn stride(&self) -> u32 {
        // SAFETY: the pool is alive as long as self is; these fields do not change after creation.
        unsafe {
            let pool = self.as_ptr();
            (*pool).header_size + (*pool).elt_size + (*pool).trailer_size
        }
    }

    pub(super) fn as_ptr(&self) -> *mut dpdk_sys::rte_mempool {
        self.0.pool.as_ptr()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: ports hold the pool until they are closed, so no driver has its buffers any more.
        unsafe { dpdk_sys::rte_mempool_free(self.pool.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_hold_the_frame_and_never_follow_at_a_power_of_two() {
        for frame_room in (60..=60_000).step_by(7) {
            let shape = Shape { count: 1, frame_room };
            let room = shape.data_room().expect("fits 16 bits");
            assert!(u32::from(room) >= dpdk_sys::RTE_PKTMBUF_HEADROOM + u32::from(frame_room));
            assert_eq!(shape.bytes() / u64::from(CACHE_LINE) % 2, 1, "frame of {frame_room} bytes");
        }
        assert_eq!(Shape { count: 1, frame_room: u16::MAX }.data_room(), None);
    }
}
