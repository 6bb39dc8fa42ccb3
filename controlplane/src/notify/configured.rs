//! The channels that a configuration speaks of.

use std::sync::Arc;

use levee_api::config::{Config, NotifierKind};

use super::{ChannelLimits, Log, NoKey, Notifier, SigningKey, Webhook};
use crate::secret::{SecretError, SecretSource};

/// Why a channel cannot be used. The others can.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Its secret cannot be read.
    #[error("notifier {name:?}: {reason}")]
    Secret {
        /// Name of the channel.
        name: String,
        /// Why not.
        reason: SecretError,
    },
    /// Its secret is something else.
    #[error("notifier {name:?}: {reason}")]
    Key {
        /// Name of the channel.
        name: String,
        /// What is wrong.
        reason: NoKey,
    },
}

/// What the channels of a configuration take.
pub fn limits(config: &Config) -> Vec<(String, ChannelLimits)> {
    let limits = |notifier: &levee_api::config::Notifier| ChannelLimits { max_per_minute: notifier.max_per_minute };
    config.notifiers.iter().map(|notifier| (notifier.name.clone(), limits(notifier))).collect()
}

/// All channels, or why one cannot be used: without the secret that it is to have, nothing is sent unsigned.
pub fn configured(config: &Config) -> Vec<Result<Arc<dyn Notifier>, ChannelError>> {
    config.notifiers.iter().map(channel).collect()
}

fn channel(notifier: &levee_api::config::Notifier) -> Result<Arc<dyn Notifier>, ChannelError> {
    let name = &notifier.name;
    match &notifier.kind {
        NotifierKind::Log => Ok(Arc::new(Log::new(name))),
        NotifierKind::Webhook { url, secret, timeout } => {
            let key = match secret {
                None => None,
                Some(place) => {
                    let secret = SecretSource::from(place).read();
                    let secret = secret.map_err(|reason| ChannelError::Secret { name: name.clone(), reason })?;
                    let key = SigningKey::parse(&secret);
                    Some(key.map_err(|reason| ChannelError::Key { name: name.clone(), reason })?)
                }
            };
            Ok(Arc::new(Webhook::new(name, url, key, *timeout)))
        }
    }
}

#[cfg(test)]
mod tests {

    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn each_channel_is_made_and_one_without_its_secret_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        let text = format!(
            "schema = 1\n[[zone]]\nname = \"web\"\nprefixes = [\"192.0.2.0/24\"]\n\
             [[notifier]]\nname = \"journal\"\nkind = \"log\"\nmax_per_minute = 7\n\
             [[notifier]]\nname = \"noc\"\nkind = \"webhook\"\nurl = \"https://alerts.example/levee\"\n\
             secret = {{ file = \"{}\" }}\n",
            key.display()
        );
        let config = Config::parse("levee.toml", &text).unwrap();
        assert_eq!(limits(&config)[0], ("journal".to_owned(), ChannelLimits { max_per_minute: 7 }));
        let errors = || -> Vec<String> {
            configured(&config).into_iter().filter_map(|channel| Some(channel.err()?.to_string())).collect()
        };
        assert!(errors()[0].contains("notifier \"noc\": cannot read the secret"), "{:?}", errors());
        std::fs::write(&key, "sesame").unwrap();
        std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        assert!(errors()[0].contains("whsec_"), "{:?}", errors());
        std::fs::write(&key, "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\n").unwrap();
        let channels: Vec<_> = configured(&config).into_iter().map(Result::unwrap).collect();
        assert_eq!(channels.iter().map(|channel| channel.name()).collect::<Vec<_>>(), ["journal", "noc"]);
    }
}
