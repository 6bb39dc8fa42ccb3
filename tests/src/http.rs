//! A real HTTP client that measures: connections begin at a steady rate whatever the server does, so that a stalled
//! server cannot slow its own measurement down.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::time_bins::{TimeBins, unix_ns};

/// What to ask, and how often.
#[derive(Clone, Debug)]
pub struct Load {
    /// Server.
    pub server: SocketAddr,
    /// Client addresses, taken in turn; empty: the system's choice.
    pub sources: Vec<IpAddr>,
    /// New connections a second.
    pub connections_per_s: u32,
    /// Requests on one connection, one after the other.
    pub requests: u32,
    /// How long.
    pub duration: Duration,
    /// A connection that is reset before its first answer is opened again so often.
    pub retries: u32,
    /// A request must be answered in full within this time, the first one together with its handshake.
    pub patience: Duration,
}

/// What came of it. Requests are counted at the time they began.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Requests begun, per 100 ms.
    pub begun: TimeBins,
    /// Of these, those answered in full and in time.
    pub succeeded: TimeBins,
    /// Connections that were opened again.
    pub retried: u64,
    /// The others by cause.
    pub failures: BTreeMap<String, u64>,
    /// Median time of the successful ones in microseconds.
    pub median_us: u64,
    /// The 99th percentile in microseconds.
    pub p99_us: u64,
}

#[derive(Debug)]
struct Tally {
    report: Report,
    latencies_us: Vec<u64>,
}

/// Runs the load to its end, or until `stop` is set, and waits for the last answers.
pub fn run(load: &Load, stop: &AtomicBool) -> io::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tally = tokio::task::LocalSet::new().block_on(&runtime, clients(load, stop));
    let mut tally = tally.take();
    tally.latencies_us.sort_unstable();
    let quantile = |percent: usize| {
        let last = tally.latencies_us.len().saturating_sub(1);
        tally.latencies_us.get(last * percent / 100).copied().unwrap_or(0)
    };
    let (median_us, p99_us) = (quantile(50), quantile(99));
    Ok(Report { median_us, p99_us, ..tally.report })
}

async fn clients(load: &Load, stop: &AtomicBool) -> Rc<RefCell<Tally>> {
    let tally = Rc::new(RefCell::new(Tally::default()));
    let mut ticks = interval(Duration::from_secs(1) / load.connections_per_s.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let start = Instant::now();
    let mut sources = load.sources.iter().copied().cycle();
    let mut open = tokio::task::JoinSet::new();
    while start.elapsed() < load.duration && !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        open.spawn_local(connection(load.clone(), sources.next(), Rc::clone(&tally)));
        while open.try_join_next().is_some() {}
    }
    while open.join_next().await.is_some() {}
    tally
}

/// One connection with its requests. When one fails, so do those that would have followed.
async fn connection(load: Load, source: Option<IpAddr>, tally: Rc<RefCell<Tally>>) {
    let (mut stream, mut retries) = (None, load.retries);
    for done in 0..load.requests {
        let (began, clock) = (unix_ns(), Instant::now());
        let outcome = loop {
            let left = load.patience.saturating_sub(clock.elapsed());
            match timeout(left, request(&load, source, &mut stream)).await {
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset && done == 0 && retries > 0 => {
                    (stream, retries) = (None, retries - 1);
                    tally.borrow_mut().report.retried += 1;
                }
                Ok(outcome) => break outcome,
                Err(_) => break Err(io::ErrorKind::TimedOut.into()),
            }
        };
        let mut tally = tally.borrow_mut();
        match outcome {
            Ok(()) => tally.success(began, clock.elapsed()),
            Err(error) => return tally.failure(began, u64::from(load.requests - done), &error),
        }
    }
}

async fn request(load: &Load, source: Option<IpAddr>, stream: &mut Option<TcpStream>) -> io::Result<()> {
    let stream = match stream {
        Some(open) => open,
        None => {
            let socket = if load.server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if let Some(source) = source {
                socket.bind((source, 0).into())?;
            }
            let open = socket.connect(load.server).await?;
            open.set_nodelay(true)?;
            stream.insert(open)
        }
    };
    let text = format!("GET / HTTP/1.1\r\nHost: {}\r\nUser-Agent: levee-traffic\r\n\r\n", load.server);
    stream.write_all(text.as_bytes()).await?;
    let mut answer = Vec::new();
    while complete(&answer)?.is_none() {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Whether a response with status 200 and a length is there in full; an error if it is anything else.
fn complete(answer: &[u8]) -> io::Result<Option<()>> {
    const MOST: usize = 1 << 20;
    let invalid = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if answer.len() > MOST { invalid("endless header") } else { Ok(None) };
    };
    let text = String::from_utf8_lossy(answer.get(..head).unwrap_or_default());
    if text.split_whitespace().nth(1) != Some("200") {
        return invalid("status is not 200");
    }
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    match length {
        Some(length) if length <= MOST => Ok((answer.len() >= head + 4 + length).then_some(())),
        _ => invalid("no usable Content-Length"),
    }
}

impl Default for Tally {
    fn default() -> Self {
        let report = Report {
            begun: TimeBins::new(100),
            succeeded: TimeBins::new(100),
            retried: 0,
            failures: BTreeMap::new(),
            median_us: 0,
            p99_us: 0,
        };
        Self { report, latencies_us: Vec::new() }
    }
}

impl Tally {
    fn success(&mut self, began_unix_ns: u64, took: Duration) {
        self.report.begun.add(began_unix_ns, 1);
        self.report.succeeded.add(began_unix_ns, 1);
        self.latencies_us.push(crate::time_bins::ns(took) / 1_000);
    }

    fn failure(&mut self, began_unix_ns: u64, requests: u64, error: &io::Error) {
        self.report.begun.add(began_unix_ns, requests);
        *self.report.failures.entry(error.to_string()).or_default() += requests;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Ipv4Addr, TcpListener},
    };

    use super::*;

    /// Answers every request on every connection with `response`.
    fn server(response: &'static str) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut buffer = [0; 1024];
                    while matches!(stream.read(&mut buffer), Ok(1..)) {
                        if stream.write_all(response.as_bytes()).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        address
    }

    fn load(server: SocketAddr) -> Load {
        Load {
            server,
            sources: vec![Ipv4Addr::LOCALHOST.into(), Ipv4Addr::new(127, 0, 0, 2).into()],
            connections_per_s: 50,
            requests: 2,
            retries: 0,
            duration: Duration::from_millis(500),
            patience: Duration::from_secs(5),
        }
    }

    #[test]
    fn answered_requests_succeed() {
        let server = server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let report = run(&load(server), &AtomicBool::new(false)).unwrap();
        assert!(report.begun.total() > 0);
        assert_eq!((report.begun.total(), &report.failures), (report.succeeded.total(), &BTreeMap::new()));
    }

    #[test]
    fn a_wrong_status_and_a_closed_port_are_failures() {
        let server = server("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
        let closed = {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.local_addr().unwrap()
        };
        for server in [server, closed] {
            let report = run(&load(server), &AtomicBool::new(false)).unwrap();
            assert!(report.begun.total() > 0);
            assert_eq!(report.succeeded.total(), 0);
            assert_eq!(report.failures.values().sum::<u64>(), report.begun.total());
        }
    }

    #[test]
    fn a_connection_that_is_reset_is_opened_again_as_often_as_allowed() {
        // Closed with data unread, a connection is reset.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                stream.unwrap().peek(&mut [0; 16]).unwrap();
            }
        });
        let report = run(&Load { retries: 3, ..load(server) }, &AtomicBool::new(false)).unwrap();
        let connections = report.begun.total() / 2;
        assert!(connections > 0);
        assert_eq!((report.succeeded.total(), report.retried), (0, 3 * connections));
    }

    #[test]
    fn a_response_is_complete_when_its_length_says_so() {
        assert!(complete(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab").unwrap().is_none());
        assert!(complete(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc").unwrap().is_some());
        assert!(complete(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(complete(b"garbage\r\n\r\n").is_err());
    }
}
