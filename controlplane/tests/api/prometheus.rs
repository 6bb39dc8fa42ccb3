//! Metrics: what `promtool` says of them, and what a real Prometheus makes of them.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::core::Appliance;

/// The body of an answer to GET.
pub(crate) async fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

pub(crate) async fn scrape(address: SocketAddr) -> String {
    get(address, "/metrics").await.unwrap()
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

#[tokio::test]
async fn promtool_has_nothing_to_say_about_the_metrics() {
    if !is_installed("promtool") {
        return println!("skipped: promtool is not installed");
    }
    let appliance = Appliance::start();
    appliance.open(1, "203.0.113.1", 0);
    let text = scrape(appliance.metrics).await;
    let mut promtool = Command::new("promtool");
    let promtool =
        promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && told.is_empty(), "{}\n{text}", String::from_utf8_lossy(&told));
}

#[tokio::test]
async fn no_address_is_a_label() {
    let appliance = Appliance::start();
    appliance.open(1, "203.0.113.1", 0);
    let text = scrape(appliance.metrics).await;
    assert!(text.contains("levee_incidents{state=\"attack\"} 1"), "{text}");
    assert!(!text.contains("203.0.113."), "{text}");
}

#[tokio::test]
async fn only_metrics_are_served_and_only_on_loopback() {
    let appliance = Appliance::without_dataplane();
    assert!(get(appliance.metrics, "/").await.unwrap().contains("there is only /metrics"));
    let outside = levee_controlplane::server::metrics::bind("0.0.0.0:0".parse().unwrap()).await.unwrap_err();
    assert!(outside.to_string().contains("loopback"), "{outside}");
}

/// Ends with its test.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_real_prometheus_scrapes_the_control_plane_and_sees_both_planes() {
    if !is_installed("prometheus") {
        return println!("skipped: prometheus is not installed");
    }
    let appliance = Appliance::start();
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "global: {{ scrape_interval: 250ms, scrape_timeout: 250ms }}\nscrape_configs:\n- job_name: levee\n  static_configs: [ {{ targets: [\"{}\"] }} ]\n",
        appliance.metrics
    );
    std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
    // Free a moment ago; if somebody takes it meanwhile Prometheus says so and the test fails.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let _prometheus = Prometheus(
        Command::new("prometheus")
            .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={port}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap(),
    );
    for (query, expected) in [
        ("levee_dataplane_up", "1"),
        ("levee_zone_dropped_packets_total{zone=\"web\"}", "2"),
        ("levee_driver_operations_total{driver=\"dataplane\",result=\"succeeded\"}", "3"),
        ("levee_notifier_messages_total{notifier=\"noc\",result=\"delivered\"}", "5"),
        ("levee_notifier_messages_waiting{notifier=\"noc\"}", "2"),
    ] {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let path = format!("/api/v1/query?query={}", encoded(query));
            let body = get(port, &path).await.unwrap_or_default();
            let answer: Value = serde_json::from_str(&body).unwrap_or_default();
            if answer["data"]["result"][0]["value"][1] == expected {
                break;
            }
            let log = || std::fs::read_to_string(folder.path().join("log")).unwrap();
            assert!(Instant::now() < deadline, "{query}: {body}\n{}", log());
            // Its next scrape is what is awaited.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn encoded(query: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    query.bytes().map(byte).collect()
}
