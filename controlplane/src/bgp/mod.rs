//! BGP: what Levee says to the routers upstream.
//!
//! [`flowspec`] are rules and actions as they are on the wire (RFC 8955, RFC 8956); [`lowering`] makes them of filters.

pub mod flowspec;
pub mod lowering;
