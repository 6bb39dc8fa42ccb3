//! Alert channels and the outbox.

mod message;

pub use message::{Message, MessageId};
