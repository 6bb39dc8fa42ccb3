//! Webhooks: a signed POST of JSON, as the Standard Webhooks specification has it.
//!
//! What a receiver gets, and how it verifies it, is described in `docs/reference/webhooks.md`.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::sync::oneshot;
use ureq::http::{Response, StatusCode, header};
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body, Error};

use super::signature::SigningKey;
use super::{Delivery, DeliveryError, Message, Notifier};
use crate::utc;

/// Of an answer we look at the status, and tell the beginning of the text when it is an error.
const ANSWER_BYTES: u64 = 4 << 10;
/// As much of it as a line of a log has room for.
const TOLD_CHARACTERS: usize = 200;

/// A webhook.
#[derive(Debug, Clone)]
pub struct Webhook {
    name: String,
    request: Arc<Request>,
}

/// Everything that a delivery needs, on a thread of its own.
struct Request {
    /// May be a credential: never shown.
    url: String,
    key: Option<SigningKey>,
    agent: Agent,
    timeout: Duration,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Webhook {
    /// A webhook that answers within `timeout`, or has failed. Without a key messages are not signed.
    ///
    /// Certificates are checked against those that the machine trusts. Redirects are not followed: a receiver that has
    /// moved is configured anew, and a message goes nowhere else than where the operator said.
    pub fn new(name: &str, url: &str, key: Option<SigningKey>, timeout: Duration) -> Self {
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::PlatformVerifier)
            .build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            // Not what an environment variable says: alerts leave the way that the machine's routes say.
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_response_header_size(16 << 10)
            .timeout_global(Some(timeout))
            .user_agent(concat!("levee/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Self { name: name.to_owned(), request: Arc::new(Request { url: url.to_owned(), key, agent, timeout }) }
    }
}

impl Notifier for Webhook {
    fn name(&self) -> &str {
        &self.name
    }

    fn deliver<'n>(&'n self, message: &'n Message) -> Delivery<'n> {
        let (request, body, id) = (Arc::clone(&self.request), body(message), message.id.0.clone());
        let (done, answer) = oneshot::channel();
        // A thread of its own, which nothing waits for at the end: a receiver that hangs holds nobody up.
        let started = std::thread::Builder::new().name("levee-webhook".to_owned()).spawn(move || {
            // Nobody waits any more when the process is about to end; the outbox still has the message.
            let _ = done.send(request.post(&id, &body));
        });
        Box::pin(async move {
            let lost = |reason: String| DeliveryError::Retryable { reason, retry_after: None };
            started.map_err(|error| lost(format!("cannot start a thread: {error}")))?;
            answer.await.unwrap_or_else(|_| Err(lost("the thread of the delivery has ended".to_owned())))
        })
    }
}

/// What is sent, always the same bytes for the same message.
fn body(message: &Message) -> Vec<u8> {
    let body = json!({
        "type": message.topic.name(),
        "timestamp": utc::rfc3339(message.created.wall),
        "data": {
            "incident": message.incident.map(|incident| incident.0),
            "number": message.number,
            "subject": message.subject,
            "text": message.text,
            "details": message.data,
        },
    });
    body.to_string().into_bytes()
}

impl Request {
    fn post(&self, id: &str, body: &[u8]) -> Result<(), DeliveryError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut request = self
            .agent
            .post(&self.url)
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", now.to_string());
        if let Some(key) = &self.key {
            request = request.header("webhook-signature", key.sign(id, now, body));
        }
        match request.send(body) {
            Ok(answer) => judge(answer),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn failed(&self, error: &Error) -> DeliveryError {
        let reason = match error {
            Error::Timeout(_) => format!("no answer within {:?}", self.timeout),
            Error::HostNotFound => "the name of its host cannot be resolved".to_owned(),
            Error::BadUri(_) | Error::Http(_) => {
                return DeliveryError::Permanent { reason: "its URL cannot be used".to_owned() };
            }
            Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => "it refuses connections".to_owned(),
            other => other.to_string(),
        };
        DeliveryError::Retryable { reason, retry_after: None }
    }
}

/// What an answer means: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>,
/// "Webhook response status codes".
fn judge(answer: Response<Body>) -> Result<(), DeliveryError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let retry_after = answer.headers().get(header::RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
    let reason = match told(answer) {
        text if text.is_empty() => format!("it answers {status}"),
        text => format!("it answers {status}: {text}"),
    };
    Err(match status {
        StatusCode::GONE => DeliveryError::Gone { reason },
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            DeliveryError::Retryable { reason, retry_after }
        }
        status if status.is_server_error() => DeliveryError::Retryable { reason, retry_after },
        status if status.is_redirection() => {
            DeliveryError::Permanent { reason: format!("it answers {status}, and redirects are not followed") }
        }
        _ => DeliveryError::Permanent { reason },
    })
}

/// The beginning of an answer, on one line.
fn told(answer: Response<Body>) -> String {
    let text = answer.into_body().with_config().limit(ANSWER_BYTES).lossy_utf8(true).read_to_string();
    let line: String = text.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    let mut characters = line.chars();
    let beginning: String = characters.by_ref().filter(|c| !c.is_control()).take(TOLD_CHARACTERS).collect();
    if characters.next().is_some() { format!("{beginning}…") } else { beginning }
}

/// Seconds, or a date (RFC 9110, section 10.2.3). What is neither is ignored.
fn retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value.trim()).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}
