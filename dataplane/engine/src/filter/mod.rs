//! Filters: header boxes compiled to tables that cost the same whatever they hold.
//!
//! * [`table`]: from a destination to its list. * [`list`]: what filters compile to, and the first that applies to a packet.
//! * [`kernel`]: the compare itself, for AVX-512, AVX2 and any CPU. * [`limiter`]: rates. * [`counters`]: what filters did.
//! * [`sources`]: which address sets a source is in.

pub mod counters;
pub mod kernel;
pub mod limiter;
pub mod list;
pub mod sources;
pub mod table;

pub use crate::isa::Isa as Kernel;
pub use counters::FilterCounters;
pub use limiter::Limiters;
pub use list::{Entry, List, ListError};
pub use sources::SourceSets;
pub use table::FilterTable;
