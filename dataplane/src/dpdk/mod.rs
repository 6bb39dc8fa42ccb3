//! Safe wrappers around libdpdk: the only caller of `dpdk-sys`.
//!
//! Ownership carries DPDK's rules. [`eal::Eal`] is the environment; every [`mempool::Mempool`] and [`port::Port`] holds
//! it, so it cannot be cleaned up under them. A port becomes a [`port::StartedPort`] with queues by starting it, and
//! cannot be stopped while a queue is out. An mbuf is in exactly one [`mbuf::Burst`], which frees what it still holds.
//! Queue handles can be sent to the thread that polls them, and used by no other at the same time.
#![allow(unsafe_code, reason = "this module is the boundary to libdpdk; each block says why it holds")]

mod af_packet;
pub mod clock;
pub mod eal;
pub mod mbuf;
pub mod mempool;
mod partition;
pub mod port;
pub mod port_info;
pub mod port_name;
pub mod thread;
mod vhost;

use std::ffi::{CStr, c_char, c_int};
use std::fmt;

/// What DPDK returned instead of success: an errno value, shown as text and number.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct Errno(c_int);

impl Errno {
    /// The code of a function that returns `-errno`.
    pub(crate) fn from_return(code: c_int) -> Self {
        Self(code.saturating_neg())
    }

    /// The code of a function that returns null or -1 and sets `rte_errno`.
    pub(crate) fn last() -> Self {
        // SAFETY: reads the calling thread's own error variable.
        Self(unsafe { dpdk_sys::levee_errno() })
    }

    /// The errno value, positive.
    pub const fn code(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 1 {
            // Most drivers return -1 for everything, which is also what the system calls EPERM.
            return f.write_str("refused without a reason, or not permitted (-1)");
        }
        // SAFETY: rte_strerror returns a string in static or thread-local storage, which is copied out at once.
        let text = unsafe { text(dpdk_sys::rte_strerror(self.0)) };
        write!(f, "{} (errno {})", text.unwrap_or_default(), self.0)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Turns a `0 or -errno` return code into a result.
pub(crate) fn check(code: c_int) -> Result<(), Errno> {
    if code < 0 { Err(Errno::from_return(code)) } else { Ok(()) }
}

/// Copies a C string; `None` for null.
///
/// # Safety
/// `string` is null or points to a terminated string that is not written meanwhile.
unsafe fn text(string: *const c_char) -> Option<String> {
    // SAFETY: not null, and terminated by the caller's promise.
    (!string.is_null()).then(|| unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned())
}

/// The version of the libdpdk that was loaded, for example `DPDK 22.11.11`.
pub fn version() -> String {
    // SAFETY: returns a static string.
    unsafe { text(dpdk_sys::rte_version()) }.unwrap_or_default()
}
