//! BIRD 2 at the other end.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use levee_controlplane::bgp::speaker::socket::Protection;
use levee_controlplane::bgp::speaker::{Settings, Speaker};
use levee_controlplane::ledger::{FlowAction, Spec};
use levee_controlplane::secret::Secret;
use tempfile::TempDir;

use super::daemon::{Daemon, find};
use super::world::{
    OUR_AS, PORT, THEIR_AS, addresses, amplification, announce, blackhole, flowspec, is_established, peer, prefix,
    speaker, withdraw,
};

/// A running BIRD.
pub(super) struct Bird {
    daemon: Daemon,
}

impl Bird {
    pub(super) fn start(folder: TempDir, ours: Ipv4Addr, theirs: Ipv4Addr, more: &str) -> Option<Self> {
        let config = format!(
            "flow4 table f4; flow6 table f6;\n\
             protocol bgp levee {{ local {theirs} port {PORT} as {THEIR_AS}; neighbor {ours} as {OUR_AS};\n\
             passive on; multihop; hold time 9; strict bind yes; {more}\n\
             ipv4 {{ import all; export none; gateway recursive; }};\n\
             ipv6 {{ import all; export none; gateway recursive; }};\n\
             flow4 {{ table f4; import all; export none; }};\n\
             flow6 {{ table f6; import all; export none; }}; }}\n"
        );
        Self::with(folder, theirs, &config)
    }

    /// One of another kind, of which the configuration says everything but who it is.
    pub(super) fn with(folder: TempDir, theirs: Ipv4Addr, config: &str) -> Option<Self> {
        let program = find(&["bird"])?;
        let config =
            format!("log stderr all; timeformat log \"%T %s%6f\"; router id {theirs}; protocol device {{}}\n{config}");
        let path = folder.path().join("bird.conf");
        std::fs::write(&path, config).unwrap();
        let (config, control) = (path.display().to_string(), folder.path().join("ctl").display().to_string());
        let daemon = Daemon::start(folder, &program, &["-f", "-c", &config, "-s", &control], &[]);
        Some(Self { daemon })
    }

    /// Until it takes commands, and so connections.
    pub(super) async fn is_up(&self) {
        self.daemon
            .until("BIRD's start", || {
                let text = self.ask("show protocols levee");
                if text.contains("BGP") { Ok(()) } else { Err(text) }
            })
            .await;
    }

    /// Until a session with it is established.
    pub(super) async fn session(&self) {
        self.daemon
            .until("the session", || {
                let text = self.ask("show protocols levee");
                if text.contains("Established") { Ok(()) } else { Err(text) }
            })
            .await;
    }

    /// Until there is no session with it.
    pub(super) async fn no_session(&self) {
        self.holds("the loss of the session", || {
            let text = self.ask("show protocols levee");
            if text.contains("Established") { Err(text) } else { Ok(()) }
        })
        .await;
    }

    /// When it logged a line about a route first, microseconds since the epoch. Its routes are to be debugged.
    pub(super) async fn logged(&self, what: &str) -> u64 {
        let time = |said: &str| {
            let line = said.lines().find(|line| line.contains(what))?;
            line.split_once(" <")?.0.rsplit(' ').next()?.parse().ok()
        };
        self.daemon.until(what, || time(&self.daemon.said()).ok_or_else(|| "not logged".to_owned())).await
    }

    /// Until something holds.
    pub(super) async fn holds(&self, what: &str, ask: impl FnMut() -> Result<(), String>) {
        self.daemon.until(what, ask).await;
    }

    /// Ends it at once.
    pub(super) fn kill(self) -> TempDir {
        self.daemon.kill()
    }

    /// What it says to a command.
    pub(super) fn ask(&self, command: &str) -> String {
        ask(&self.daemon.folder.path().join("ctl"), command).unwrap_or_else(|error| error.to_string())
    }

    pub(super) fn routes(&self) -> String {
        ["master4", "master6", "f4", "f6"].map(|table| self.ask(&format!("show route all table {table}"))).concat()
    }

    /// Until its routes have all of the one and none of the other.
    pub(super) async fn until(&self, what: &str, there: &[&str], gone: &[&str]) {
        self.daemon
            .until(what, || {
                let routes = self.routes();
                let right =
                    there.iter().all(|text| routes.contains(text)) && !gone.iter().any(|text| routes.contains(text));
                if right { Ok(()) } else { Err(routes) }
            })
            .await;
    }
}

fn ask(control: &Path, command: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(control)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    writeln!(stream, "{command}")?;
    let mut text = String::new();
    for line in BufReader::new(stream).lines() {
        let line = line?;
        // The greeting has a code of its own; a code without a dash ends an answer.
        let is_last = line.as_bytes().get(..4).is_some_and(|code| code.iter().all(u8::is_ascii_digit))
            && line.as_bytes().get(4) == Some(&b' ')
            && !line.starts_with("0001");
        text.push_str(&line);
        text.push('\n');
        if is_last {
            break;
        }
    }
    Ok(text)
}

async fn established(bird: &Bird, speaker: &Speaker) {
    bird.daemon.until("the session", || is_established(speaker)).await;
}

#[tokio::test]
async fn routes_of_all_families_are_announced_repeated_changed_and_withdrawn() {
    let (ours, theirs) = addresses();
    let Some(bird) = Bird::start(tempfile::tempdir().unwrap(), ours, theirs, "") else { return };
    let speaker = speaker(peer(ours, theirs));
    established(&bird, &speaker).await;
    let rule = amplification("203.0.113.7");
    let v6 = amplification("2001:db8::7");
    let limit = flowspec(rule.clone(), FlowAction::RateLimit { bps: 1_000_000 });
    let told = announce(&speaker, 1, &limit).await;
    assert_eq!((told.by, told.not), (vec!["upstream".to_owned()], vec![]));
    announce(&speaker, 2, &flowspec(v6, FlowAction::RateLimitPackets { pps: 1000 })).await;
    announce(&speaker, 3, &blackhole("203.0.113.9")).await;
    announce(&speaker, 4, &Spec::Divert { prefix: prefix("2001:db8:a::/48") }).await;
    let rule4 = "flow4 { dst 203.0.113.7/32; proto 17; sport 53,123; }";
    let rule6 = "flow6 { dst 2001:db8::7/128; next header 17; sport 53,123; }";
    let all = [
        rule4,
        "(generic, 0x80060000, 0x47f42400)",
        rule6,
        "(generic, 0x800c0000, 0x447a0000)",
        "203.0.113.9/32",
        "(65535,666)",
        "2001:db8:a::/48",
        "(64496, 0, 3)",
    ];
    bird.until("everything at BIRD", &all, &[]).await;
    // The same again is not sent again.
    let sent = speaker.peers()[0].status.updates_sent;
    announce(&speaker, 1, &limit).await;
    assert_eq!(speaker.peers()[0].status.updates_sent, sent);
    announce(&speaker, 1, &flowspec(rule, FlowAction::Drop)).await;
    bird.until("the other action", &[rule4, "(generic, 0x80060000, 0x0)"], &["0x47f42400"]).await;
    for id in [1, 2, 3, 4] {
        withdraw(&speaker, id).await;
    }
    bird.until("nothing", &[], &[rule4, rule6, "203.0.113.9", "2001:db8:a::"]).await;
    assert!(is_established(&speaker).is_ok(), "through all of it the session held");
}

#[tokio::test]
async fn after_a_restart_of_either_side_everything_is_announced_again() {
    let (ours, theirs) = addresses();
    let Some(bird) = Bird::start(tempfile::tempdir().unwrap(), ours, theirs, "") else { return };
    let first = speaker(peer(ours, theirs));
    established(&bird, &first).await;
    announce(&first, 1, &blackhole("203.0.113.9")).await;
    bird.until("the blackhole", &["203.0.113.9/32"], &[]).await;
    let folder = bird.daemon.kill();
    let bird = Bird::start(folder, ours, theirs, "").unwrap();
    bird.until("the blackhole after BIRD's restart", &["203.0.113.9/32"], &[]).await;
    first.stop().await;
    bird.until("nothing after a clean stop", &[], &["203.0.113.9"]).await;
    let second = speaker(peer(ours, theirs));
    established(&bird, &second).await;
    announce(&second, 1, &blackhole("203.0.113.9")).await;
    bird.until("the blackhole after our restart", &["203.0.113.9/32"], &[]).await;
}

/// A speaker in a runtime of its own, which ends as if it had been killed: without a farewell.
pub(super) fn dies(ours: Ipv4Addr, theirs: Ipv4Addr, retain: Option<u16>, bird: &Bird) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut settings = peer(ours, theirs);
        settings.terms.retain = retain;
        let speaker = speaker(settings);
        established(bird, &speaker).await;
        announce(&speaker, 1, &flowspec(amplification("203.0.113.7"), FlowAction::Drop)).await;
        announce(&speaker, 2, &blackhole("203.0.113.9")).await;
        // End of RIB has to be said, or there is nothing that the peer could keep.
        bird.until("both", &["203.0.113.7/32", "203.0.113.9/32"], &[]).await;
        bird.daemon
            .until("the end of RIB", || {
                let text = bird.ask("show protocols all levee");
                if retain.is_none() || speaker.peers()[0].status.error.is_none() { Ok(()) } else { Err(text) }
            })
            .await;
    });
    runtime.shutdown_background();
}

#[test]
fn without_retention_a_crash_takes_the_routes_along() {
    let (ours, theirs) = addresses();
    let Some(bird) = Bird::start(tempfile::tempdir().unwrap(), ours, theirs, "") else { return };
    dies(ours, theirs, None, &bird);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(bird.until("nothing", &[], &["203.0.113.7/32", "203.0.113.9"]));
}

#[test]
fn with_retention_a_crash_leaves_the_routes_until_the_next_start_says_what_is_wanted() {
    let (ours, theirs) = addresses();
    let Some(bird) = Bird::start(tempfile::tempdir().unwrap(), ours, theirs, "") else { return };
    dies(ours, theirs, Some(60), &bird);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        bird.no_session().await;
        let routes = bird.routes();
        assert!(routes.contains("203.0.113.7/32") && routes.contains("203.0.113.9/32"), "{routes}");
        // Only one of them is wanted after the restart: the other goes when everything has been told.
        let mut settings = peer(ours, theirs);
        settings.terms.retain = Some(60);
        let speaker = speaker(settings);
        established(&bird, &speaker).await;
        announce(&speaker, 2, &blackhole("203.0.113.9")).await;
        bird.until("only the blackhole", &["203.0.113.9/32"], &["203.0.113.7/32"]).await;
        // A clean stop leaves nothing, whatever was agreed upon.
        speaker.stop().await;
        bird.until("nothing", &[], &["203.0.113.9"]).await;
    });
}

#[tokio::test]
async fn a_password_signs_the_session_and_a_wrong_one_is_told() {
    let (ours, theirs) = addresses();
    let folder = tempfile::tempdir().unwrap();
    let Some(bird) = Bird::start(folder, ours, theirs, "password \"sesame\";") else { return };
    let mut settings = peer(ours, theirs);
    settings.protection.password = Some(Secret::new(b"sesame\n".to_vec()));
    let right = speaker(settings.clone());
    established(&bird, &right).await;
    right.stop().await;
    settings.protection.password = Some(Secret::new(b"open".to_vec()));
    let wrong = speaker(settings);
    bird.daemon
        .until("the reason", || {
            let trouble = wrong.peers()[0].status.trouble();
            if trouble.contains("password") { Ok(()) } else { Err(trouble) }
        })
        .await;
}

#[tokio::test]
async fn a_neighbour_that_connects_itself_gets_past_the_hop_limits_of_both_sides() {
    let (ours, theirs) = addresses();
    let more = format!(
        "passive off; neighbor port {PORT}; multihop 1; ttl security on; password \"sesame\";\n\
         connect delay time 1; connect retry time 1; error wait time 1, 2;"
    );
    let Some(bird) = Bird::start(tempfile::tempdir().unwrap(), ours, theirs, &more) else { return };
    let mut settings = peer(ours, theirs);
    settings.passive = true;
    settings.protection = Protection { password: Some(Secret::new(b"sesame".to_vec())), ttl_security: true };
    let here = Speaker::default();
    let listen = vec![(ours, PORT).into()];
    here.configure(&Settings { listen, peers: vec![settings], ..Settings::default() });
    established(&bird, &here).await;
    assert_eq!(announce(&here, 1, &blackhole("203.0.113.9")).await.by, ["upstream"]);
    bird.until("the route", &["203.0.113.9/32"], &[]).await;
    here.stop().await;
}

#[tokio::test]
async fn another_as_than_the_expected_is_told_on_both_sides() {
    let (ours, theirs) = addresses();
    let Some(bird) = Bird::start(tempfile::tempdir().unwrap(), ours, theirs, "") else { return };
    let mut settings = peer(ours, theirs);
    settings.terms.peer_as = 64_511;
    let speaker = speaker(settings);
    bird.daemon
        .until("the reason", || {
            let trouble = speaker.peers()[0].status.trouble();
            if trouble.contains("the peer is in AS 64497, not 64511") { Ok(()) } else { Err(trouble) }
        })
        .await;
}
