//! Reloading, trials, confirmations, and what restarts remember of them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use levee_api::time::Timestamp;

use super::{InForce, ReloadError, Started};
use crate::clock::{BootId, Now, UnixTime};

const MINUTE: Duration = Duration::from_secs(60);

struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        site.write(1);
        site
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("levee.toml")
    }

    /// The file, in one of many versions.
    fn write(&self, version: u8) {
        let text = format!("schema = 1\n[[zone]]\nname = \"web\"\nprefixes = [\"192.0.2.{version}/32\"]\n");
        fs::write(self.path(), text).unwrap();
    }

    fn start(&self, now: &Now) -> (InForce, Started) {
        InForce::start(&self.path(), self.folder.path(), now).unwrap()
    }
}

fn version(in_force: &InForce) -> String {
    in_force.config().zones[0].prefixes[0].address().to_string().rsplit('.').next().unwrap().to_owned()
}

fn at(seconds: u64) -> Now {
    let since = Duration::from_secs(1_000 + seconds);
    Now { boot: BootId(1), ..Now::default() }.after(since)
}

#[test]
fn a_valid_file_is_taken_whole_and_another_one_changes_nothing() {
    let site = Site::new();
    let (mut in_force, started) = site.start(&at(0));
    assert_eq!((started, version(&in_force).as_str()), (Started::File, "1"));
    assert_eq!(in_force.reload(None, &at(1)).unwrap().changes, []);
    site.write(2);
    let plan = in_force.judge(in_force.planner()(), None).unwrap();
    assert_eq!(plan.changes[0].to_string(), "~ zone \"web\": prefixes = [\"192.0.2.1/32\"] -> [\"192.0.2.2/32\"]");
    assert_eq!(version(&in_force), "1", "a plan changes nothing");
    let reloaded = in_force.reload(None, &at(2)).unwrap();
    assert_eq!((reloaded.changes, reloaded.hash, version(&in_force).as_str()), (plan.changes, plan.hash, "2"));
    fs::write(site.path(), "schema = 1\n[[zone]]\nname = 3\n").unwrap();
    assert!(matches!(in_force.reload(None, &at(3)), Err(ReloadError::Config(_))));
    assert!(matches!(in_force.reload(Some(MINUTE), &at(3)), Err(ReloadError::Config(_))));
    assert_eq!((version(&in_force).as_str(), in_force.confirm_by()), ("2", None));
}

#[test]
fn a_start_with_a_file_that_is_no_good_goes_on_with_what_was_in_force_and_says_so() {
    let site = Site::new();
    fs::write(site.path(), "schema = 1\n[[zone]]\nname = 3\n").unwrap();
    assert!(InForce::start(&site.path(), site.folder.path(), &at(0)).is_err(), "nothing was in force yet");
    site.write(1);
    let (mut in_force, _) = site.start(&at(0));
    assert_eq!(in_force.trouble(), None);
    // What is on trial is not what comes back.
    site.write(2);
    in_force.reload(Some(MINUTE), &at(1)).unwrap();
    for damage in ["schema = 1\n[[zone]]\nname = 3\n", "[[["] {
        fs::write(site.path(), damage).unwrap();
        let (in_force, started) = site.start(&at(2));
        assert_eq!((started, version(&in_force).as_str()), (Started::WithoutFile, "1"), "{damage}");
        assert_eq!(in_force.confirm_by(), None);
        assert!(in_force.trouble().unwrap().contains("leveectl config reload"));
    }
    fs::remove_file(site.path()).unwrap();
    let (mut in_force, started) = site.start(&at(3));
    assert_eq!((started, version(&in_force).as_str()), (Started::WithoutFile, "1"));
    in_force.reload(None, &at(4)).unwrap_err();
    assert!(in_force.trouble().unwrap().contains("cannot read"));
    site.write(3);
    in_force.reload(None, &at(5)).unwrap();
    assert_eq!((in_force.trouble(), version(&in_force).as_str()), (None, "3"));
}

#[test]
fn what_config_check_refuses_a_reload_refuses_and_a_secret_that_cannot_be_read_too() {
    let site = Site::new();
    let (mut in_force, _) = site.start(&at(0));
    let valid = fs::read_to_string(site.path()).unwrap();
    let condition = "[[runbook]]\nname = \"own\"\n[[runbook.stage]]\nname = \"first\"\nwhen = \"attack.ppps > 1\"\n\
                     action = { filter = {} }\n";
    fs::write(site.path(), format!("{valid}{condition}")).unwrap();
    let refused = in_force.reload(None, &at(1)).unwrap_err().to_string();
    assert!(refused.contains("attack.ppps"), "{refused}");
    assert!(in_force.judge(in_force.planner()(), None).unwrap_err().to_string().contains("attack.ppps"));
    assert_eq!(site.start(&at(2)).1, Started::WithoutFile);
    let missing = site.folder.path().join("missing");
    let notifier = format!(
        "[[notifier]]\nname = \"noc\"\nkind = \"webhook\"\nurl = \"https://noc.example\"\nsecret = {{ file = {missing:?} }}\n"
    );
    fs::write(site.path(), format!("{valid}{notifier}")).unwrap();
    let refused = in_force.reload(None, &at(3)).unwrap_err().to_string();
    assert!(refused.starts_with("notifier \"noc\": ") && refused.contains("missing"), "{refused}");
    fs::write(&missing, "whsec_c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0\n").unwrap();
    fs::set_permissions(&missing, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    in_force.reload(None, &at(4)).unwrap();
    // What was confirmed once, and a later version refuses, does not come back: the file stays.
    let (mut again, _) = site.start(&at(5));
    site.write(7);
    again.reload(Some(MINUTE), &at(6)).unwrap();
    drop(again);
    let path = site.folder.path().join("configuration.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["confirmed"] = format!("{valid}{condition}").into();
    fs::write(&path, record.to_string()).unwrap();
    assert_eq!(version(&site.start(&at(70)).0), "7");
}

#[test]
fn a_trial_is_kept_when_confirmed_and_taken_back_when_not() {
    let site = Site::new();
    let (mut in_force, _) = site.start(&at(0));
    assert!(matches!(in_force.confirm(), Err(ReloadError::NotOnTrial)));
    site.write(2);
    let reloaded = in_force.reload(Some(MINUTE), &at(0)).unwrap();
    assert_eq!((reloaded.confirm_by, version(&in_force).as_str()), (in_force.confirm_by(), "2"));
    assert_eq!(in_force.expire(&at(59)), None);
    assert_eq!(in_force.confirm().unwrap(), reloaded.hash);
    assert_eq!((in_force.expire(&at(61)), version(&in_force).as_str()), (None, "2"));

    site.write(3);
    in_force.reload(Some(MINUTE), &at(100)).unwrap();
    site.write(4);
    // Another trial, before the first was confirmed: what comes back is what was confirmed.
    in_force.reload(Some(MINUTE), &at(130)).unwrap();
    assert_eq!((in_force.expire(&at(165)), version(&in_force).as_str()), (None, "4"));
    let over = in_force.expire(&at(190)).unwrap();
    assert_eq!(over.changes[0].to_string(), "~ zone \"web\": prefixes = [\"192.0.2.4/32\"] -> [\"192.0.2.2/32\"]");
    assert_eq!(
        (in_force.expire(&at(191)), version(&in_force).as_str(), over.hash),
        (None, "2", in_force.config().hash)
    );
    assert!(matches!(in_force.confirm(), Err(ReloadError::NotOnTrial)));
}

#[test]
fn a_trial_survives_restarts_and_what_was_refused_does_not_come_back_by_itself() {
    let site = Site::new();
    let (mut in_force, _) = site.start(&at(0));
    site.write(2);
    in_force.reload(Some(MINUTE), &at(0)).unwrap();
    drop(in_force);
    let (in_force, started) = site.start(&at(30));
    assert!(matches!(started, Started::OnTrial(until) if until.remaining(&at(30)) == MINUTE / 2));
    assert_eq!(version(&in_force), "2");
    drop(in_force);
    for seconds in [60, 1_000] {
        let (in_force, started) = site.start(&at(seconds));
        assert_eq!((started, version(&in_force).as_str(), in_force.confirm_by()), (Started::Before, "1", None));
    }
    // After a reboot the wall clock says whether its time is over.
    let rebooted = Now { boot: BootId(2), monotonic: Timestamp(5), wall: UnixTime(at(2_000).wall.0) };
    assert_eq!(site.start(&rebooted).1, Started::Before);
    let (mut in_force, _) = site.start(&at(3_000));
    let reloaded = in_force.reload(None, &at(3_000)).unwrap();
    assert_eq!((reloaded.changes.len(), version(&in_force).as_str()), (1, "2"), "asked for, it is taken");
    assert_eq!(site.start(&at(3_001)).1, Started::File);

    site.write(3);
    in_force.reload(Some(MINUTE), &at(4_000)).unwrap();
    drop(in_force);
    site.write(5);
    let (in_force, started) = site.start(&at(5_000));
    assert_eq!((started, version(&in_force).as_str()), (Started::File, "5"), "a file that was never on trial");
}

#[test]
fn a_trial_that_a_restart_would_forget_is_refused_and_a_damaged_record_is_forgotten() {
    let site = Site::new();
    let record = site.folder.path().join("configuration.json");
    let (mut in_force, _) = site.start(&at(0));
    // Also root cannot make a file in the place of a folder.
    fs::create_dir_all(record.with_extension("json.draft")).unwrap();
    site.write(2);
    assert!(matches!(in_force.reload(Some(MINUTE), &at(0)), Err(ReloadError::Record { .. })));
    assert_eq!((version(&in_force).as_str(), in_force.confirm_by()), ("1", None));
    in_force.reload(None, &at(0)).unwrap();
    assert_eq!(version(&in_force), "2");
    fs::remove_dir(record.with_extension("json.draft")).unwrap();
    fs::write(&record, "{\"confirmed\":").unwrap();
    let (in_force, started) = site.start(&at(0));
    assert_eq!((started, version(&in_force).as_str()), (Started::File, "2"));
}

#[test]
fn a_reload_without_a_trial_does_not_confirm_the_one_that_runs() {
    let site = Site::new();
    let (mut in_force, _) = site.start(&at(0));
    site.write(2);
    in_force.reload(Some(MINUTE), &at(0)).unwrap();
    for same_or_another in [2, 3] {
        site.write(same_or_another);
        assert!(matches!(in_force.judge(in_force.planner()(), None), Err(ReloadError::OnTrial)));
        assert!(matches!(in_force.reload(None, &at(1)), Err(ReloadError::OnTrial)));
        assert_eq!((version(&in_force).as_str(), in_force.confirm_by().is_some()), ("2", true));
    }
    // What was confirmed may come back before the time is over.
    site.write(1);
    in_force.reload(None, &at(2)).unwrap();
    assert_eq!((version(&in_force).as_str(), in_force.confirm_by()), ("1", None));
}

#[test]
fn trials_that_follow_one_another_end_a_day_after_the_first_began() {
    let site = Site::new();
    let (mut in_force, _) = site.start(&at(0));
    let hours = |hours: u64| hours * 3_600;
    for (version, begun, left) in [(2, 0, 20), (3, 10, 14), (4, 23, 1)] {
        site.write(version);
        let reloaded = in_force.reload(Some(MINUTE * 60 * 20), &at(hours(begun))).unwrap();
        assert_eq!(reloaded.confirm_by.unwrap().remaining(&at(hours(begun))), MINUTE * 60 * left);
    }
    in_force.expire(&at(hours(24))).unwrap();
    assert_eq!(version(&in_force), "1");
}

#[test]
fn a_record_that_cannot_be_written_leaves_no_draft() {
    let site = Site::new();
    let record = site.folder.path().join("configuration.json");
    // Also root cannot put a file in the place of a folder.
    fs::create_dir_all(record.join("in-the-way")).unwrap();
    let (mut in_force, _) = site.start(&at(0));
    site.write(2);
    in_force.reload(Some(MINUTE), &at(0)).unwrap_err();
    assert!(!record.with_extension("json.draft").exists());
}
