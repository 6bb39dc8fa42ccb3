//! `levee-controlplane sweep` and `withdraw-all` as processes, against the dataplane's real service.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use levee_controlplane::actor::Actor;
use levee_controlplane::clock::{Deadline, Now};
use levee_controlplane::driver::{Driver, DriverName, Filters, OperationKey, OwnerTag};
use levee_controlplane::ledger::{FilterSpec, Mitigation, MitigationId, Outcome, Spec, State, StoredFilter};
use levee_controlplane::store::{SqliteStore, Store, Write};
use levee_controlplane::system_clock::SystemClock;

use crate::world::{Place, file_for, filter};

const HOUR: Duration = Duration::from_secs(3_600);

fn spec(id: u64) -> Spec {
    let request = filter(&format!("203.0.113.{}", 10 + id), HOUR);
    Spec::Filter(FilterSpec { target: request.target.clone(), filters: vec![StoredFilter::of(&request)] })
}

fn mitigation(id: u64, created: Now, ttl: Duration) -> Mitigation {
    Mitigation {
        id: MitigationId(id),
        driver: DriverName::dataplane(),
        spec: spec(id),
        zone: "web".into(),
        incident: None,
        stage: None,
        asked_by: Actor::levee("test"),
        reason: "because".into(),
        created,
        begun: None,
        deadline: Deadline::after(&created, ttl),
        renewals: 0,
        state: State::Active,
        since: created,
        outcome: None,
        evidence: None,
        touched: true,
        failures: 0,
        retry_at: None,
        error: None,
        appliance: None,
        effect: None,
        unproven: false,
    }
}

struct Site {
    place: Place,
    driver: Filters,
}

impl Site {
    fn new() -> Self {
        let place = Place::new();
        let text = file_for(&place.socket());
        std::fs::write(place.folder.path().join("levee.toml"), text).unwrap();
        let driver = Filters::new("edge-1", place.socket(), Arc::new(|_, _| Ok(())));
        Self { place, driver }
    }

    fn state(&self) -> PathBuf {
        self.place.folder.path().join("controlplane")
    }

    fn store(&self) -> SqliteStore {
        SqliteStore::open(&self.state(), SystemTime::now()).unwrap().0
    }

    /// Puts filters in force, of these mitigations.
    async fn apply(&self, ids: &[u64]) {
        for id in ids {
            let tag = OwnerTag { appliance: "edge-1".into(), id: MitigationId(*id) };
            self.driver.apply(&OperationKey(format!("{id}/apply")), &spec(*id), &tag, HOUR).await.unwrap();
        }
    }

    async fn in_force(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self.driver.observe().await.unwrap().into_iter().map(|found| found.id.0).collect();
        ids.sort_unstable();
        ids
    }

    /// Runs a one-shot: its exit status and what it says.
    fn run(&self, what: &str) -> (i32, String) {
        let file = self.place.folder.path().join("levee.toml");
        let mut command = Command::new(env!("CARGO_BIN_EXE_levee-controlplane"));
        let output = command.arg(what).arg("--config").arg(file).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}

#[tokio::test]
async fn a_sweep_ends_what_is_past_its_deadline_and_leaves_the_rest_to_a_running_control_plane() {
    let site = Site::new();
    let _world = site.place.start();
    let now = SystemClock::new().unwrap().now();
    site.apply(&[7, 8]).await;
    let mut store = site.store();
    let ledger = [mitigation(7, now, Duration::from_nanos(1)), mitigation(8, now, HOUR)];
    store.commit(&ledger.map(Write::PutMitigation)).unwrap();
    let (status, told) = site.run("sweep");
    assert!(status == 0 && told.contains("nothing to do") && told.contains("in use by process"), "{status} {told}");
    assert_eq!(site.in_force().await, [7, 8]);
    drop(store);
    let (status, told) = site.run("sweep");
    assert!(status == 0 && told.contains("mitigation 7 has been withdrawn"), "{status} {told}");
    assert_eq!(site.in_force().await, [8]);
    let ledger = site.store().load().unwrap().mitigations;
    assert_eq!(ledger[&MitigationId(7)].outcome, Some(Outcome::Expired));
    assert_eq!(ledger[&MitigationId(8)].state, State::Active);
}

#[tokio::test]
async fn withdraw_all_ends_everything_with_our_tag_also_when_the_store_is_damaged() {
    let site = Site::new();
    let now = SystemClock::new().unwrap().now();
    site.store().commit(&[Write::PutMitigation(mitigation(7, now, HOUR))]).unwrap();
    let (status, told) = site.run("withdraw-all");
    assert!(status == 1 && told.contains("mitigation 7") && told.contains("may be in force"), "{status} {told}");

    let _world = site.place.start();
    site.apply(&[7, 9]).await;
    let running = site.store();
    let (status, told) = site.run("withdraw-all");
    assert!(status == 1 && told.contains("kill-switch") && told.contains("in use by process"), "{status} {told}");
    drop(running);
    let (status, told) = site.run("withdraw-all");
    assert!(status == 0 && told.contains("mitigation 9 has been withdrawn"), "{status} {told}");
    assert_eq!(site.in_force().await, [0; 0]);
    let contents = site.store().load().unwrap();
    assert!(contents.kill_switch.unwrap().engaged && contents.mitigations[&MitigationId(7)].has_ended());

    site.apply(&[7, 9]).await;
    std::fs::write(site.state().join("store.sqlite"), "nonsense ".repeat(1_000)).unwrap();
    let (status, told) = site.run("withdraw-all");
    assert!(status == 0 && told.contains("is damaged"), "{status} {told}");
    assert_eq!(site.in_force().await, [0; 0]);
    assert!(site.store().load().unwrap().kill_switch.unwrap().engaged);
}

/// Who the service runs as in this test.
const SERVICE: u32 = 65_534;

/// A program that another user may run, wherever it was built.
fn for_everybody(program: &str, folder: &Path) -> PathBuf {
    let copy = folder.join(Path::new(program).file_name().unwrap());
    std::fs::copy(program, &copy).unwrap();
    copy
}

#[test]
fn what_root_does_with_the_store_leaves_it_to_the_user_of_the_service() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: two users need root");
        return;
    }
    let site = Site::new();
    let folder = site.place.folder.path();
    std::fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    let program = for_everybody(env!("CARGO_BIN_EXE_levee-controlplane"), folder);
    std::fs::create_dir(site.state()).unwrap();
    chown(site.state(), Some(SERVICE), Some(SERVICE)).unwrap();
    // Opens the store as the service does, and writes to it.
    let service_opens = |after: &str| {
        let mut command = Command::new(&program);
        command.arg("sweep").arg("--config").arg(folder.join("levee.toml")).uid(SERVICE).gid(SERVICE);
        let output = command.output().unwrap();
        assert!(output.status.success(), "after {after}: {}", String::from_utf8_lossy(&output.stderr));
        for entry in std::fs::read_dir(site.state()).unwrap().flatten() {
            let found = entry.metadata().unwrap();
            assert_eq!((found.uid(), found.gid()), (SERVICE, SERVICE), "after {after}: {:?}", entry.path());
        }
    };
    service_opens("the first start");
    let copy = folder.join("copy.sqlite");
    let store = |arguments: [&str; 2]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveectl"));
        let output = command.args(["store", arguments[0], "--state-dir"]).arg(folder).arg(arguments[1]);
        let output = output.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    store(["backup", copy.to_str().unwrap()]);
    store(["restore", copy.to_str().unwrap()]);
    service_opens("a restore");
    std::fs::write(site.state().join("store.sqlite"), "nonsense ".repeat(1_000)).unwrap();
    site.run("withdraw-all");
    service_opens("withdraw-all with a damaged store");
    for entry in std::fs::read_dir(site.state()).unwrap().flatten() {
        std::fs::remove_file(entry.path()).unwrap();
    }
    site.run("withdraw-all");
    service_opens("withdraw-all with nothing there");
}

#[test]
fn a_configuration_that_is_not_valid_is_status_78() {
    let site = Site::new();
    std::fs::write(site.place.folder.path().join("levee.toml"), "schema = 1\ncolour = 3\n").unwrap();
    for what in ["sweep", "withdraw-all"] {
        let (status, told) = site.run(what);
        assert!(status == 78 && told.contains("colour"), "{status} {told}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_good_stops_neither_of_them() {
    let site = Site::new();
    let _world = site.place.start();
    site.apply(&[1]).await;
    let config = site.place.folder.path().join("levee.toml");
    let now = SystemClock::new().unwrap().now();
    site.store().commit(&[Write::PutMitigation(mitigation(1, now, HOUR))]).unwrap();
    levee_controlplane::configuration::InForce::start(&config, &site.state(), &now).unwrap();
    std::fs::write(&config, file_for(&site.place.socket()).replace("prefixes", "prefxies")).unwrap();
    for one_shot in ["sweep", "withdraw-all"] {
        let (status, told) = site.run(one_shot);
        assert!(status == 0 && told.contains("what was in force before the file"), "{status} {told}");
    }
    assert_eq!(site.in_force().await, [0; 0]);
}
