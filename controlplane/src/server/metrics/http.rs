//! The HTTP end: one path, one request for each connection, on loopback.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::Sources;

/// Requests served at once; more wait in the backlog.
const CONNECTIONS: usize = 16;
/// How long a client may take to say what it wants, and to take the answer.
const HEADERS_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Headers of a request; Prometheus sends half a dozen.
const MOST_HEADERS: usize = 32;

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Anybody could read them.
    #[error(
        "{0} is not a loopback address: metrics are served without encryption, so give 127.0.0.1 or [::1] and let a proxy of yours carry them further"
    )]
    NotLoopback(SocketAddr),
    /// The system refused.
    #[error("cannot serve metrics on {address}: {reason}; give another `metrics` in [controlplane]")]
    Io {
        /// The address of the configuration.
        address: SocketAddr,
        /// What the system said.
        reason: io::Error,
    },
}

/// Listens. To be called inside a runtime.
///
/// # Errors
/// When the address is not a loopback address, or is taken.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    if !address.ip().is_loopback() {
        return Err(BindError::NotLoopback(address));
    }
    TcpListener::bind(address).await.map_err(|reason| BindError::Io { address, reason })
}

/// Answers for ever.
pub async fn serve(listener: TcpListener, sources: Sources) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics could not be accepted");
                // Out of descriptors: accepting again at once would fail again at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let sources = sources.clone();
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS_WITHIN)
                .keep_alive(false)
                .max_headers(MOST_HEADERS)
                .serve_connection(TokioIo::new(stream), service_fn(move |request| answer(request, sources.clone())));
            // A client that goes away, or is too slow, asks again.
            let _ = tokio::time::timeout(ANSWER_WITHIN, connection).await;
            drop(place);
        });
    }
}

async fn answer(request: Request<Incoming>, sources: Sources) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match sources.text().await {
            Ok(text) => respond(StatusCode::OK, prometheus::TEXT_FORMAT, text),
            Err(error) => respond(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("{error}\n")),
        },
        (_, "/metrics") => respond(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n"),
        _ => respond(StatusCode::NOT_FOUND, "text/plain", "there is only /metrics\n"),
    };
    Ok(answer)
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
