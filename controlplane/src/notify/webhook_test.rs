//! Webhooks against a real server on loopback, which checks signatures, fails, lags, redirects and says too much.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::{DeliveryError, Log, Message, MessageId, Notifier, SigningKey, Topic, Webhook};
use crate::clock::{Now, UnixTime};
use crate::ledger::IncidentId;
use crate::secret::Secret;

const KEY: [u8; 32] = [0x5e; 32];
const PATIENCE: Duration = Duration::from_secs(20);

/// What the server got.
#[derive(Debug)]
struct Received {
    head: Vec<String>,
    body: Vec<u8>,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        let value = self.head.iter().filter_map(|line| line.split_once(':'));
        value.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next().unwrap_or("")
    }

    /// As a receiver verifies it: not with our code.
    fn verify(&self) {
        let mut mac = Hmac::<Sha256>::new_from_slice(&KEY).unwrap();
        mac.update(format!("{}.{}.", self.header("webhook-id"), self.header("webhook-timestamp")).as_bytes());
        mac.update(&self.body);
        let signature = self.header("webhook-signature").strip_prefix("v1,").unwrap();
        mac.verify_slice(&STANDARD.decode(signature).unwrap()).unwrap();
        let sent: u64 = self.header("webhook-timestamp").parse().unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert!(sent.abs_diff(now) < 60);
    }
}

/// Serves one request on loopback with an answer, and hands over what it got.
fn serve(answer: impl FnOnce(&mut TcpStream) + Send + 'static) -> (String, mpsc::Receiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook?key=sesame", listener.local_addr().unwrap());
    let (got, received) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        let mut received = Received { head, body: Vec::new() };
        received.body.resize(received.header("content-length").parse().unwrap(), 0);
        reader.read_exact(&mut received.body).unwrap();
        got.send(received).unwrap();
        answer(&mut stream);
    });
    (url, received)
}

fn answer(text: &str) -> impl FnOnce(&mut TcpStream) + Send + 'static {
    let text = text.to_owned();
    move |stream| stream.write_all(text.as_bytes()).unwrap()
}

fn message() -> Message {
    Message {
        id: MessageId("7-noc-3".into()),
        channel: "noc".into(),
        incident: Some(IncidentId(7)),
        number: 3,
        topic: Topic::StageEntered,
        created: Now { wall: UnixTime(1_700_000_000_000_000_000), ..Now::default() },
        subject: "192.0.2.7: stage edge entered".into(),
        text: "zwei Zeilen\nmit ü".into(),
        data: json!({ "stage": "edge" }),
        failures: 0,
        retry_at: None,
        error: None,
        ended: None,
    }
}

async fn deliver_to(url: &str, timeout: Duration) -> Result<(), DeliveryError> {
    let secret = Secret::new(format!("whsec_{}", STANDARD.encode(KEY)).into_bytes());
    let webhook = Webhook::new("noc", url, Some(SigningKey::parse(&secret).unwrap()), timeout);
    let delivery = tokio::time::timeout(PATIENCE, async { webhook.deliver(&message()).await });
    let outcome = delivery.await.unwrap();
    assert!(!format!("{outcome:?} {webhook:?}").contains("sesame"), "the address may be a credential");
    outcome
}

async fn deliver(reply: &str) -> Result<(), DeliveryError> {
    let (url, received) = serve(answer(reply));
    let outcome = deliver_to(&url, PATIENCE).await;
    received.recv_timeout(PATIENCE).unwrap().verify();
    outcome
}

#[tokio::test]
async fn a_message_arrives_signed_and_as_described() {
    let (url, received) = serve(answer("HTTP/1.1 204 No Content\r\n\r\n"));
    deliver_to(&url, PATIENCE).await.unwrap();
    let received = received.recv_timeout(PATIENCE).unwrap();
    received.verify();
    assert_eq!(received.head[0], "POST /hook?key=sesame HTTP/1.1");
    assert_eq!(received.header("webhook-id"), "7-noc-3");
    assert_eq!(received.header("content-type"), "application/json");
    assert!(received.header("user-agent").starts_with("levee/"));
    let body: Value = serde_json::from_slice(&received.body).unwrap();
    assert_eq!(
        body,
        json!({
            "type": "stage.entered",
            "timestamp": "2023-11-14T22:13:20.000Z",
            "data": {
                "incident": 7,
                "number": 3,
                "subject": "192.0.2.7: stage edge entered",
                "text": "zwei Zeilen\nmit ü",
                "details": { "stage": "edge" },
            },
        })
    );
}

#[tokio::test]
async fn without_a_key_nothing_is_signed() {
    let (url, received) = serve(answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    Webhook::new("noc", &url, None, PATIENCE).deliver(&message()).await.unwrap();
    let received = received.recv_timeout(PATIENCE).unwrap();
    assert_eq!((received.header("webhook-signature"), received.header("webhook-id")), ("", "7-noc-3"));
}

#[tokio::test]
async fn each_answer_means_what_the_specification_says() {
    #[derive(Debug, PartialEq)]
    enum Means {
        Later(Option<u64>),
        Never,
        Gone,
    }
    for (reply, means) in [
        ("429 Too Many Requests\r\nRetry-After: 17", Means::Later(Some(17))),
        ("503 Service Unavailable\r\nretry-after: 5", Means::Later(Some(5))),
        ("503 Service Unavailable\r\nretry-after: Fri, 31 Dec 1999 23:59:59 GMT", Means::Later(Some(0))),
        ("503 Service Unavailable\r\nretry-after: soon", Means::Later(None)),
        ("500 Internal Server Error", Means::Later(None)),
        ("408 Request Timeout", Means::Later(None)),
        ("400 Bad Request", Means::Never),
        ("401 Unauthorized", Means::Never),
        ("404 Not Found", Means::Never),
        ("410 Gone", Means::Gone),
        ("302 Found\r\nLocation: http://127.0.0.1:9/elsewhere", Means::Never),
        ("307 Temporary Redirect\r\nLocation: /elsewhere", Means::Never),
    ] {
        let error = deliver(&format!("HTTP/1.1 {reply}\r\nContent-Length: 9\r\n\r\nnot\r\nnow\0")).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&reply[..3]), "{text}");
        assert!(text.contains("not now") || reply.starts_with('3'), "{text}");
        let found = match error {
            DeliveryError::Retryable { retry_after, .. } => Means::Later(retry_after.map(|after| after.as_secs())),
            DeliveryError::Permanent { .. } => Means::Never,
            DeliveryError::Gone { .. } => Means::Gone,
        };
        assert_eq!(found, means, "{reply}");
    }
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_hangs_up_or_talks_nonsense_is_tried_again() {
    let (release, held) = mpsc::channel::<()>();
    let (url, _received) = serve(move |_| {
        let _ = held.recv();
    });
    let started = Instant::now();
    let error = deliver_to(&url, Duration::from_millis(300)).await.unwrap_err();
    assert!(
        matches!(&error, DeliveryError::Retryable { reason, .. } if reason.contains("no answer within 300ms")),
        "{error}"
    );
    assert!(started.elapsed() < PATIENCE);
    drop(release);

    for reply in ["", "HTTP/1.1 200", "no HTTP at all\r\n\r\n"] {
        let error = deliver(reply).await.unwrap_err();
        assert!(matches!(&error, DeliveryError::Retryable { .. }), "{reply:?}: {error:?}");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = deliver_to(&format!("http://{nobody}/?key=sesame"), PATIENCE).await.unwrap_err();
    assert!(
        matches!(&error, DeliveryError::Retryable { reason, .. } if reason.contains("refuses connections")),
        "{error}"
    );
    let error = deliver_to("https://nowhere.invalid/?key=sesame", PATIENCE).await.unwrap_err();
    assert!(matches!(&error, DeliveryError::Retryable { .. }), "{error}");
}

#[tokio::test]
async fn an_answer_without_end_is_neither_kept_nor_waited_for() {
    let endless = |status: &'static str| {
        move |stream: &mut TcpStream| {
            let head = format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n");
            let mut failed = stream.write_all(head.as_bytes()).is_err();
            while !failed {
                failed = stream.write_all(b"1000\r\n").is_err()
                    || stream.write_all(&[b'x'; 4_096]).is_err()
                    || stream.write_all(b"\r\n").is_err();
            }
        }
    };
    let (url, _received) = serve(endless("200 OK"));
    deliver_to(&url, PATIENCE).await.unwrap();
    let (url, _received) = serve(endless("500 Internal Server Error"));
    let error = deliver_to(&url, PATIENCE).await.unwrap_err();
    assert!(error.to_string().len() < 400, "{error}");
    let (url, _received) = serve(|stream: &mut TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"X-Long: 0123456789012345678901234567890123456789\r\n").is_ok() {}
    });
    assert!(matches!(deliver_to(&url, PATIENCE).await, Err(DeliveryError::Retryable { .. })));
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_gets_nothing_in_the_clear() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = [0; 6];
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        hello
    });
    let error = deliver_to(&format!("https://{address}/?key=sesame"), PATIENCE).await.unwrap_err();
    assert!(matches!(error, DeliveryError::Retryable { .. }), "{error}");
    let hello = server.join().unwrap();
    assert_eq!((hello[0], hello[5]), (22, 1), "a TLS handshake begins, and no message in the clear");
}

#[tokio::test]
async fn the_log_takes_everything() {
    let log = Log::new("journal");
    assert_eq!(log.name(), "journal");
    log.deliver(&message()).await.unwrap();
}
