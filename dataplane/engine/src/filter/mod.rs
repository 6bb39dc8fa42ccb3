//! Filters: header boxes compiled to tables that cost the same whatever they hold.
//!
//! * [`list`]: what one target's filters compile to, and the first of them that applies to a packet.
//! * [`kernel`]: the compare itself, for AVX-512, AVX2 and any CPU. * [`limiter`]: rates.

pub mod kernel;
pub mod limiter;
pub mod list;

pub use kernel::Kernel;
pub use limiter::Limiters;
pub use list::{Entry, List, ListError};
