//! BGP: what Levee says to the routers upstream.
//!
//! [`flowspec`] are rules and actions as they are on the wire (RFC 8955, RFC 8956), [`lowering`] makes them of filters, the
//! [`speaker`] tells them to peers, as it is [`configured`], by [`bmp`] routers tell that they have them, and [`render`] shows them in other
//! languages.

pub mod bmp;
pub mod configured;
pub mod flowspec;
pub mod lowering;
pub mod render;
pub mod route;
pub mod speaker;
