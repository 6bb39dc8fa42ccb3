//! BGP: what Levee says to the routers upstream.
//!
//! [`flowspec`] are rules and actions as they are on the wire (RFC 8955, RFC 8956).

pub mod flowspec;
