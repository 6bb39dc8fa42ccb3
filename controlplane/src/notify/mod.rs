//! Alert channels and the outbox.
//!
//! A message says what is happening, what Levee does about it, and what it needs. It is stored together with what it tells
//! of, and goes through the [`Outbox`], which decides when; a [`Notifier`] only sends.

mod configured;
mod delivery;
mod log;
mod message;
mod outbox;
mod signature;
mod webhook;

#[cfg(test)]
mod outbox_test;
#[cfg(test)]
mod webhook_test;

pub use configured::{ChannelError, configured, limits};
pub use delivery::{Delivery, DeliveryError, Notifier};
pub use log::Log;
pub use message::{Ended, How, Message, MessageId, Topic};
pub use outbox::{ChannelLimits, ChannelView, Concluded, Outbox};
pub use signature::{NoKey, SigningKey};
pub use webhook::Webhook;
