//! `levee-controlplane sweep` and `withdraw-all`: one-shots that end mitigations while no control plane runs.
//!
//! Both take the store's lock, so that neither works beside a running control plane. `sweep`, from a timer, ends what is
//! past its deadline, by the ledger alone: it promises that the end of a measure does not depend on a process being alive.
//! `withdraw-all` ends everything, by the ledger and by our owner tag, and engages the kill switch, so that a control plane
//! that is started afterwards starts nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use levee_api::config::{Config, ConfigError};

use crate::actor::Actor;
use crate::clock::Now;
use crate::config_check::INVALID;
use crate::configuration::last_in_force;
use crate::driver::{Driver, DriverName, Guard, OperationKey, OwnerTag, configured};
use crate::ledger::{Mitigation, MitigationId, Outcome, Spec, State, past_end};
use crate::store::{Contents, KillSwitch, SqliteStore, Store, StoreError, Write};
use crate::system_clock::SystemClock;

/// How the key of an operation begins that one of these asks for.
const KEY: &str = "one-shot/withdraw";

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Ended, and the driver says so.
    pub withdrawn: Vec<MitigationId>,
    /// May be in force still, and why, in words.
    pub left: Vec<String>,
}

/// Ends what is past its deadline. 0 when nothing of that is left, 1 when something is, 78 for a bad configuration.
pub fn sweep(config: &Path) -> ExitCode {
    conclude(with_config(config, |config, runtime, now| {
        let drivers = configured(config, &no_guard(), &BTreeSet::new(), None);
        let mut store = match SqliteStore::open(&config.appliance.state_dir.join("controlplane"), SystemTime::now()) {
            Ok((store, _)) => store,
            // Who runs ends its mitigations itself.
            Err(StoreError::Locked(by)) => {
                tracing::info!("nothing to do: {by}, which ends mitigations itself");
                return Ok(Report::default());
            }
            Err(error) => return Err(error.to_string()),
        };
        let contents = store.load().map_err(|error| error.to_string())?;
        Ok(runtime.block_on(sweep_with(&mut store, &contents, &config.appliance.name, &drivers, now)))
    }))
}

/// Ends everything. 0 when nothing of ours is left, 1 when something may be, 78 for a bad configuration.
pub fn withdraw_all(config: &Path) -> ExitCode {
    conclude(with_config(config, |config, runtime, now| {
        let drivers = configured(config, &no_guard(), &BTreeSet::new(), None);
        let mut store = match SqliteStore::open(&config.appliance.state_dir.join("controlplane"), SystemTime::now()) {
            Ok((store, _)) => Some(store),
            Err(StoreError::Locked(by)) => {
                return Err(format!(
                    "{by}: it would begin again what is withdrawn; use leveectl kill-switch, or end it first, with \
                     SIGKILL if it hangs"
                ));
            }
            Err(error) => {
                tracing::error!("{error}; going by owner tags alone");
                None
            }
        };
        let contents = match store.as_mut().map(Store::load) {
            Some(Ok(contents)) => contents,
            Some(Err(error)) => {
                tracing::error!("{error}; going by owner tags alone");
                Contents::default()
            }
            None => Contents::default(),
        };
        let store = store.as_mut().map(|store| store as &mut dyn Store);
        Ok(runtime.block_on(withdraw_all_with(store, &contents, &config.appliance.name, &drivers, now)))
    }))
}

/// Withdrawing is never refused.
fn no_guard() -> Guard {
    Arc::new(|_, _| Ok(()))
}

fn with_config(
    path: &Path,
    work: impl FnOnce(&Config, &tokio::runtime::Runtime, &Now) -> Result<Report, String>,
) -> Result<Result<Report, String>, ConfigError> {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => match last_in_force(path, std::env::var_os("STATE_DIRECTORY").as_deref()) {
            Some(config) => {
                tracing::warn!("going by what was in force before the file, which is no good: {error}");
                config
            }
            None => return Err(error),
        },
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let started = runtime.and_then(|runtime| Ok((runtime, SystemClock::new()?)));
    Ok(started
        .map_err(|error| format!("cannot start: {error}"))
        .and_then(|(runtime, clock)| work(&config, &runtime, &clock.now())))
}

fn conclude(outcome: Result<Result<Report, String>, ConfigError>) -> ExitCode {
    match outcome {
        Ok(Ok(report)) => {
            for id in &report.withdrawn {
                tracing::info!("mitigation {id} has been withdrawn");
            }
            for left in &report.left {
                tracing::error!("{left}");
            }
            if report.left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Ok(Err(error)) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
        Err(error) => {
            let status = if matches!(error, ConfigError::Invalid(_)) { INVALID } else { 1 };
            // Without a standard error there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{:?}", miette::Report::new(error));
            ExitCode::from(status)
        }
    }
}

/// The work of [`sweep`].
pub async fn sweep_with(
    store: &mut dyn Store,
    contents: &Contents,
    appliance: &str,
    drivers: &[Arc<dyn Driver>],
    now: &Now,
) -> Report {
    let mut report = Report::default();
    let past: Vec<&Mitigation> = past_end(contents.mitigations.values(), now).collect();
    for mitigation in &past {
        let all_at_once = |driver: &&Arc<dyn Driver>| driver.name() == &mitigation.driver && driver.ends_only_all();
        let wanted = contents.mitigations.values().find(|other| {
            other.driver == mitigation.driver && other.may_be_in_force() && past.iter().all(|past| past.id != other.id)
        });
        if let Some(wanted) = wanted
            && drivers.iter().any(|driver| all_at_once(&driver))
        {
            report.left.push(format!(
                "mitigation {} ({}) is past its end and may be in force: peers of {} retain it, and can only let go of \
                 everything, with mitigation {} that is wanted still; start the control plane, or use withdraw-all",
                mitigation.id, mitigation.spec, mitigation.driver, wanted.id
            ));
            continue;
        }
        let outcome = mitigation.outcome.unwrap_or(Outcome::Expired);
        end(Some(&mut *store), mitigation, appliance, drivers, outcome, now, &mut report).await;
    }
    report
}

/// The work of [`withdraw_all`].
pub async fn withdraw_all_with(
    mut store: Option<&mut dyn Store>,
    contents: &Contents,
    appliance: &str,
    drivers: &[Arc<dyn Driver>],
    now: &Now,
) -> Report {
    let mut report = Report::default();
    let engaged = KillSwitch {
        engaged: true,
        by: Actor::levee("withdraw-all"),
        at: *now,
        reason: "levee-controlplane withdraw-all".to_owned(),
    };
    match store.as_mut().map(|store| store.commit(&[Write::PutKillSwitch(engaged)])) {
        Some(Ok(())) => {}
        Some(Err(error)) => report.left.push(format!(
            "the kill switch could not be written down ({error}): a control plane that is started begins again"
        )),
        None => report
            .left
            .push("without a store the kill switch is not written down: keep the control plane stopped".into()),
    }
    for mitigation in contents.mitigations.values() {
        if !mitigation.has_ended() {
            let store = store.as_mut().map(|store| &mut **store as &mut dyn Store);
            end(store, mitigation, appliance, drivers, Outcome::Killed, now, &mut report).await;
        }
    }
    // What the ledger does not know, and what a driver has said to have withdrawn.
    for driver in drivers {
        if let Err(error) = driver.end_unnamed().await {
            report.left.push(format!("something of {} that nobody has named: {error}", driver.name()));
        }
        if !driver.capabilities().observe {
            continue;
        }
        match driver.observe().await {
            Ok(found) => {
                for observed in found {
                    let known = contents.mitigations.get(&observed.id);
                    let of_today = || OwnerTag { appliance: appliance.to_owned(), id: observed.id };
                    let tag = known.map_or_else(of_today, |known| known.tag(appliance));
                    match withdraw(driver.as_ref(), tag, &observed.spec).await {
                        Ok(()) if report.withdrawn.contains(&observed.id) => {}
                        Ok(()) => report.withdrawn.push(observed.id),
                        Err(error) => {
                            report.left.push(format!("{} {} may be in force: {error}", driver.name(), observed.spec))
                        }
                    }
                }
            }
            Err(error) => report.left.push(format!("{} does not say what is in force: {error}", driver.name())),
        }
    }
    report
}

async fn end(
    store: Option<&mut dyn Store>,
    mitigation: &Mitigation,
    appliance: &str,
    drivers: &[Arc<dyn Driver>],
    outcome: Outcome,
    now: &Now,
    report: &mut Report,
) {
    let by_name: BTreeMap<&DriverName, &Arc<dyn Driver>> =
        drivers.iter().map(|driver| (driver.name(), driver)).collect();
    let left = |reason: String| format!("mitigation {} ({}) may be in force: {reason}", mitigation.id, mitigation.spec);
    // What was never attempted needs nobody to end it.
    if mitigation.touched {
        let Some(driver) = by_name.get(&mitigation.driver) else {
            report.left.push(left(format!("there is no driver {:?} in the configuration", mitigation.driver.0)));
            return;
        };
        if let Err(error) = withdraw(driver.as_ref(), mitigation.tag(appliance), &mitigation.spec).await {
            report.left.push(left(error));
            return;
        }
    }
    report.withdrawn.push(mitigation.id);
    let ended = Mitigation {
        state: State::Ended,
        since: *now,
        outcome: Some(mitigation.outcome.unwrap_or(outcome)),
        retry_at: None,
        ..mitigation.clone()
    };
    // What cannot be written down is withdrawn once more at the next start, which changes nothing.
    if let Some(Err(error)) = store.map(|store| store.commit(&[Write::PutMitigation(ended)])) {
        tracing::warn!("that mitigation {} has ended could not be written down: {error}", mitigation.id);
    }
}

async fn withdraw(driver: &dyn Driver, tag: OwnerTag, spec: &Spec) -> Result<(), String> {
    let key = OperationKey(format!("{KEY}/{}", tag.id));
    driver.withdraw(&key, spec, &tag).await.map_err(|error| error.to_string())
}
