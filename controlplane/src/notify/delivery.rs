//! What delivers a message: one small trait for every kind of channel.

use std::pin::Pin;
use std::time::Duration;

use super::Message;

/// The answer to come.
pub type Delivery<'n> = Pin<Box<dyn Future<Output = Result<(), DeliveryError>> + Send + 'n>>;

/// A channel. It sends one message when told and does not try again by itself: the outbox does, after what
/// [`DeliveryError`] says.
pub trait Notifier: Send + Sync {
    /// As in the configuration.
    fn name(&self) -> &str;

    /// Sends a message; done when the receiver has taken it.
    fn deliver<'n>(&'n self, message: &'n Message) -> Delivery<'n>;
}

/// Why a message was not taken. The texts carry no address of a channel: many are credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// It may work later. Whether the receiver has the message is not known: it knows it again by its id.
    #[error("{reason}")]
    Retryable {
        /// What happened.
        reason: String,
        /// Not before so long, if the receiver said so.
        retry_after: Option<Duration>,
    },
    /// The receiver will not take this message.
    #[error("{reason}")]
    Permanent {
        /// What happened.
        reason: String,
    },
    /// The receiver takes no messages any more.
    #[error("{reason}")]
    Gone {
        /// What happened.
        reason: String,
    },
}
