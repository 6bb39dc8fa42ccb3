//! `[[notifier]]`: alert channels. Secrets are named here and stand elsewhere.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::general::{absolute_path, name};
use super::problem::Fault;
use super::runbook::{duration, once};
use super::section::Section;

/// An alert channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notifier {
    /// Unique name.
    pub name: String,
    /// How it reaches people.
    pub kind: NotifierKind,
    /// Messages per minute at most; more wait.
    pub max_per_minute: u32,
}

/// How an alert channel reaches people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotifierKind {
    /// A line in the control plane's log.
    Log,
    /// A signed POST (standardwebhooks.com).
    Webhook {
        /// Where to.
        url: String,
        /// The key of the signature; none: not signed.
        secret: Option<Secret>,
        /// How long an answer may take.
        timeout: Duration,
    },
}

/// Where a secret stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// In a file that only its owner can read.
    File(PathBuf),
    /// A credential that systemd hands over (systemd.exec(5), `LoadCredential=`).
    Credential(String),
}

const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn read(file: &Section<'_>) -> Vec<Notifier> {
    let mut names = HashMap::new();
    file.tables("notifier").into_iter().filter_map(|table| notifier(table, &mut names)).collect()
}

fn notifier(mut table: Section<'_>, names: &mut HashMap<String, Range<usize>>) -> Option<Notifier> {
    #[derive(Clone, Copy)]
    enum Word {
        Log,
        Webhook,
    }
    let name = table.required("name", "\"noc\"", |table, key| table.parsed(key, name));
    if let Some(name) = &name {
        table.rename(format!("notifier {:?}", name.value));
        once("notifiers", name, names, table.problems());
    }
    let words = &[("log", Word::Log), ("webhook", Word::Webhook)];
    let kind = table.required("kind", "\"log\"", |table, key| table.choice(key, words));
    let kind = match kind {
        Some(Word::Webhook) => webhook(&table),
        Some(Word::Log) => Some(NotifierKind::Log),
        None => {
            // Not to be told as unknown keys besides: which are known depends on the kind.
            for key in ["url", "secret", "timeout"] {
                table.has(key);
            }
            None
        }
    };
    let max_per_minute = table.integer("max_per_minute", 1..=6_000).and_then(|number| u32::try_from(number).ok());
    table.refuse_unknown();
    Some(Notifier { name: name?.value, kind: kind?, max_per_minute: max_per_minute.unwrap_or(30) })
}

fn webhook(table: &Section<'_>) -> Option<NotifierKind> {
    let url = table.required("url", "\"https://alerts.example/levee\"", |table, key| table.parsed(key, url));
    let timeout = table.parsed("timeout", |text| match duration(text)? {
        given if (Duration::from_secs(1)..=Duration::from_secs(60)).contains(&given) => Ok(given),
        _ => Err(Fault::new(format!("a webhook cannot wait for {text}"), "give \"1s\" to \"60s\"")),
    });
    let secret = if table.has("secret") { Some(secret(table, "secret")?) } else { None };
    Some(NotifierKind::Webhook { url: url?.value, secret, timeout: timeout.map_or(TIMEOUT, |timeout| timeout.value) })
}

/// Reads `{ file = "..." }` or `{ credential = "..." }`; a secret in the file itself is refused.
fn secret(table: &Section<'_>, key: &'static str) -> Option<Secret> {
    const HELP: &str = "put it into a file that only Levee's user can read, and write { file = \"/etc/levee/webhook.key\" }, \
                        or { credential = \"NAME\" } for one that systemd hands over";
    if table.is_string(key) {
        let fault = Fault::new("a secret must not stand in this file: everybody who can read it would know it", HELP);
        table.problems().error(table.place(key), fault);
        return None;
    }
    let place = table.table(key, "secret".to_owned())?;
    let (file, credential) = (place.parsed("file", absolute_path), place.parsed("credential", credential));
    let secret = match (place.has("file"), place.has("credential")) {
        (true, false) => file.map(|path| Secret::File(path.value)),
        (false, true) => credential.map(|name| Secret::Credential(name.value)),
        _ => {
            table.problems().error(table.place(key), Fault::new("the secret has not one place", HELP));
            None
        }
    };
    place.refuse_unknown();
    secret
}

/// A credential is a file name for systemd.
fn credential(text: &str) -> Result<String, Fault> {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if plain && (1..=255).contains(&text.len()) && !text.starts_with('.') {
        return Ok(text.to_owned());
    }
    Err(Fault::new(format!("{text:?} cannot be a credential"), "use letters, digits, dots, dashes and underscores"))
}

fn url(text: &str) -> Result<String, Fault> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let authority = host.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    match authority {
        Some(authority) if authority.contains('@') => Err(Fault::new(
            "an URL with a password in it",
            "a secret must not stand in this file: leave out what is before @",
        )),
        Some(authority) if !authority.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control()) => {
            Ok(text.to_owned())
        }
        _ => Err(Fault::new(
            format!("{text:?} is no URL of a webhook"),
            "write one such as \"https://alerts.example/levee\"",
        )),
    }
}
