//! `[[notifier]]`: alert channels. Secrets are named here and stand elsewhere.

use std::collections::HashMap;
use std::net::IpAddr;
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
    // One that is wrong is there all the same: stages that name it are not wrong besides.
    let wrong = NotifierKind::Webhook { url: String::new(), secret: None, timeout: TIMEOUT };
    Some(Notifier { name: name?.value, kind: kind.unwrap_or(wrong), max_per_minute: max_per_minute.unwrap_or(30) })
}

fn webhook(table: &Section<'_>) -> Option<NotifierKind> {
    if table.string("url").is_some_and(|text| authority(text.value).is_some_and(|authority| authority.contains('@'))) {
        table.problems().hide(table.place("url"));
    }
    let url = table.required("url", "\"https://alerts.example/levee\"", |table, key| table.parsed(key, url));
    if let Some(url) = url.as_ref().filter(|url| url.value.starts_with("http://") && !is_loopback(&url.value)) {
        let fault = Fault::new(
            "messages to this URL can be read and changed on their way",
            "write https://; http:// is for a program on this machine",
        );
        table.problems().warning(url.span.clone(), fault);
    }
    let timeout = table.parsed("timeout", |text| match duration(text)? {
        given if (Duration::from_secs(1)..=Duration::from_secs(60)).contains(&given) => Ok(given),
        _ => Err(Fault::new(format!("a webhook cannot wait for {text}"), "give \"1s\" to \"60s\"")),
    });
    let secret = if table.has("secret") { Some(secret(table, "secret")?) } else { None };
    Some(NotifierKind::Webhook { url: url?.value, secret, timeout: timeout.map_or(TIMEOUT, |timeout| timeout.value) })
}

/// Reads `{ file = "..." }` or `{ credential = "..." }`; a secret in the file itself is refused.
pub(super) fn secret(table: &Section<'_>, key: &'static str) -> Option<Secret> {
    const HELP: &str = "put it into a file that only Levee's user can read, and write { file = \"/etc/levee/webhook.key\" }, \
                        or { credential = \"NAME\" } for one that systemd hands over";
    if table.is_string(key) {
        let fault = Fault::new("a secret must not stand in this file: everybody who can read it would know it", HELP);
        table.problems().hide(table.place(key));
        table.problems().error(table.place(key), fault);
        return None;
    }
    let Some(place) = table.table(key, "secret".to_owned()) else {
        // Whatever it is, a digit of it is one too many.
        table.problems().hide(table.place(key));
        return None;
    };
    for (_, value) in place.entries().filter(|(key, _)| !matches!(key.value, "file" | "credential")) {
        table.problems().hide(value.span());
    }
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

/// What stands between the scheme and the path.
fn authority(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    rest.split(['/', '?', '#']).next()
}

fn is_loopback(url: &str) -> bool {
    let authority = authority(url).unwrap_or_default();
    // Without the port; the colons of an IPv6 address stand in brackets.
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn url(text: &str) -> Result<String, Fault> {
    match authority(text) {
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
