//! The channel that is always there: the log, which systemd's journal keeps.

use super::{Delivery, Message, Notifier};

/// Writes messages to the log.
#[derive(Debug, Clone)]
pub struct Log {
    name: String,
}

impl Log {
    /// Under the name of the configuration.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }
}

impl Notifier for Log {
    fn name(&self) -> &str {
        &self.name
    }

    fn deliver<'n>(&'n self, message: &'n Message) -> Delivery<'n> {
        let incident = message.incident.map(|incident| incident.0);
        tracing::warn!(id = %message.id, incident, "{}: {}", message.subject, message.text.replace('\n', " "));
        Box::pin(std::future::ready(Ok(())))
    }
}
