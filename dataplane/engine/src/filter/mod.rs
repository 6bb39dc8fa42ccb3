//! Filters: header boxes compiled to tables that cost the same whatever they hold.
//!
//! * [`table`]: from a destination to its list. * [`builder`]: what keeps the table, change by change. * [`list`]: what filters
//!   compile to, and the first that applies to a packet. * [`paged`]: arrays that generations share.
//! * [`kernel`]: the compare itself, for AVX-512, AVX2 and any CPU. * [`limiter`]: rates. * [`shares`]: whose part of a rate is
//!   how large. * [`counters`]: what filters did.
//! * [`sources`]: which address sets a source is in.
//! * [`source_limiter`]: rates per source.

pub mod builder;
pub mod counters;
pub mod kernel;
pub mod limiter;
pub mod list;
mod paged;
mod prefixes;
pub mod shares;
pub mod source_limiter;
pub mod sources;
pub mod table;

pub use builder::{Rank, TableBuilder};
pub use counters::FilterCounters;
pub use limiter::Limiters;
pub use list::{Compiled, Entry, List, ListError, ListRef};
pub use source_limiter::SourceLimiters;
pub use sources::SourceSets;
pub use table::{FilterTable, ListId};
