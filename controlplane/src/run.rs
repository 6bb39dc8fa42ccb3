//! `levee-controlplane run`: keeps the dataplane at the policy of the file, and writes down what the dataplane tells.
//!
//! One session per connection: handshake, policy if the dataplane has another, events from where the file of events
//! ends. Whatever goes wrong ends the session, and the next one begins with the same steps: there is no other recovery.

use std::hash::{BuildHasher, RandomState};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use levee_api::config::{Config, ConfigError, ContentHash};
use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::dataplane::v1::event::What;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config_check::INVALID;
use crate::dataplane::{Dataplane, DataplaneError, Generation};
use crate::event_file::EventFile;
use crate::event_line;

/// First pause before trying again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause: an appliance that comes back is found soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT. 0 when told to stop, 78 when the file is not valid, 1 when it cannot start.
pub fn run(config: &Path, events: &str) -> ExitCode {
    let loaded = match Config::load(config) {
        Ok(loaded) => loaded,
        Err(error) => {
            let status = if matches!(error, ConfigError::Invalid(_)) { INVALID } else { 1 };
            // Without a standard error there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{:?}", miette::Report::new(error));
            return ExitCode::from(status);
        }
    };
    warn_of(&loaded);
    let started =
        EventFile::open(events).map_err(|error| format!("cannot write events to {events}: {error}")).and_then(|file| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
            let control = Control { path: config.to_owned(), config: loaded, events: file, committed: None };
            runtime.block_on(control.until_stopped()).map_err(|error| format!("cannot receive signals: {error}"))
        });
    match started {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

struct Control {
    path: PathBuf,
    config: Config,
    events: EventFile,
    /// What we have put in force: of which run, which generation, from which text.
    committed: Option<(String, u64, ContentHash)>,
}

/// What interrupts a session or a pause.
enum Interruption {
    Stop,
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    async fn next(&mut self) -> Interruption {
        tokio::select! {
            _ = self.terminate.recv() => Interruption::Stop,
            _ = self.interrupt.recv() => Interruption::Stop,
            _ = self.hangup.recv() => Interruption::Reload,
        }
    }
}

impl Control {
    async fn until_stopped(mut self) -> std::io::Result<()> {
        let mut signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        };
        let mut pause = FIRST_PAUSE;
        let mut last_told = String::new();
        loop {
            let mut greeted = false;
            let interruption = tokio::select! {
                error = self.session(&mut greeted) => {
                    if greeted {
                        (pause, last_told) = (FIRST_PAUSE, String::new());
                    }
                    // The same trouble every five seconds is told once.
                    let error = error.to_string();
                    if error != last_told {
                        tracing::warn!("{error}; trying again until it works");
                        last_told = error;
                    }
                    let interruption = tokio::time::timeout(jittered(pause), signals.next()).await.ok();
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    interruption
                }
                interruption = signals.next() => Some(interruption),
            };
            match interruption {
                Some(Interruption::Stop) => {
                    tracing::info!("stopping; the dataplane keeps filtering");
                    return Ok(());
                }
                Some(Interruption::Reload) => {
                    self.reload();
                    (pause, last_told) = (FIRST_PAUSE, String::new());
                }
                None => {}
            }
        }
    }

    /// Talks to the dataplane until that ends, and says why it did.
    async fn session(&mut self, greeted: &mut bool) -> DataplaneError {
        match self.talk(greeted).await {
            Ok(()) => DataplaneError::Nonsense("it has ended the stream of events".to_owned()),
            Err(error) => error,
        }
    }

    async fn talk(&mut self, greeted: &mut bool) -> Result<(), DataplaneError> {
        let mut dataplane = Dataplane::connect(&self.config.dataplane.socket).await?;
        *greeted = true;
        let contract::HandshakeResponse { boot_id, appliance, generation, .. } = &dataplane.identity;
        tracing::info!(appliance, boot_id, generation, "connected to the dataplane");
        let wanted = (boot_id.clone(), *generation, self.config.hash);
        if self.committed.as_ref() != Some(&wanted) {
            self.upload(&mut dataplane).await?;
        }
        let (boot_id, after_sequence) = self.events.position().cloned().unwrap_or_default();
        let watch = contract::WatchRequest { boot_id, after_sequence };
        let failed = |status| DataplaneError::Call { call: "Watch", status: Box::new(status) };
        let mut events = dataplane.client.watch(watch).await.map_err(failed)?.into_inner();
        let mut contained = 0;
        while let Some(event) = events.message().await.map_err(failed)? {
            if matches!(event.what, Some(What::Gap(_))) {
                tracing::info!(sequence = event.sequence, "what was before this event is not known: taking a snapshot");
                self.events.write(&[event_line::of_event(&event)]);
                let snapshot = dataplane.snapshot().await?;
                contained = snapshot.header.sequence;
                self.events.write(&event_line::of_snapshot(&snapshot));
            } else if event.sequence > contained {
                self.events.write(&[event_line::of_event(&event)]);
            }
        }
        Ok(())
    }

    async fn upload(&mut self, dataplane: &mut Dataplane) -> Result<(), DataplaneError> {
        let zones = &self.config.zones;
        let protected = &self.config.guardrails.protected_prefixes;
        match dataplane.upload(Generation { zones, protected, filters: &[] }).await {
            Ok(generation) => {
                tracing::info!(generation, zones = zones.len(), "the policy of the file is in force");
                self.committed = Some((dataplane.identity.boot_id.clone(), generation, self.config.hash));
                Ok(())
            }
            Err(error @ DataplaneError::Refused(_)) => {
                // Trying again would be refused again; what the dataplane tells is wanted all the same.
                tracing::error!("{error}");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn reload(&mut self) {
        match Config::load(&self.path) {
            Ok(config) if config.hash == self.config.hash => tracing::info!("the file has not changed"),
            Ok(config) => {
                warn_of(&config);
                tracing::info!(hash = %config.hash, "the file has been read again");
                self.config = config;
            }
            Err(error) => tracing::error!("the file has changed and is not valid, the policy before stays: {error}"),
        }
    }
}

fn warn_of(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!(line = warning.line, column = warning.column, "{}: {}", warning.message, warning.help);
    }
}

/// Between half and all of the pause, so that many control planes do not come at once.
fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    let nanoseconds = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_nanos(RandomState::new().hash_one(nanoseconds) % nanoseconds)
}
