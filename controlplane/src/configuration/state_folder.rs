//! Where the control plane's state is, also when the file that says so is no good: there is the text that was in force.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use levee_api::config::{Config, ConfigError};
use toml::de::{DeTable, DeValue};

use super::in_force;
use crate::runbook::Runbooks;

/// The folder of the file. Of a file that is no good: the folder that it names as far as it can be read, or the one that the
/// service manager names (`STATE_DIRECTORY`), if a configuration that speaks of that same folder was in force there.
///
/// # Errors
/// What is wrong with the file, when nothing was in force that could take its place.
pub fn state_folder(path: &Path, of_service: Option<&OsStr>) -> Result<PathBuf, ConfigError> {
    let error = match Runbooks::load(path) {
        Ok((config, _)) => return Ok(of(&config)),
        Err(error) => error,
    };
    last_in_force(path, of_service).map(|config| of(&config)).ok_or(error)
}

/// What was in force when the file was good.
pub fn last_in_force(path: &Path, of_service: Option<&OsStr>) -> Option<Config> {
    // Several folders of one service are separated by colons.
    let named = of_service.and_then(OsStr::to_str).unwrap_or_default().split(':').map(PathBuf::from);
    let usual = levee_api::config::Appliance::default().state_dir.join("controlplane");
    let mut candidates = said_by(path).into_iter().chain(named).chain([usual]);
    candidates.find_map(|folder| in_force::confirmed(path, &folder).filter(|config| of(config) == folder))
}

fn of(config: &Config) -> PathBuf {
    config.appliance.state_dir.join("controlplane")
}

/// What a file with mistakes says, syntax errors included; none when it cannot be read.
fn said_by(path: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(path).ok()?;
    let (table, _) = DeTable::parse_recoverable(&text);
    let said = table.get_ref().get("appliance").and_then(|appliance| match appliance.get_ref() {
        DeValue::Table(appliance) => match appliance.get("state_dir")?.get_ref() {
            DeValue::String(folder) => Some(PathBuf::from(folder.as_ref())),
            _ => None,
        },
        _ => None,
    });
    Some(said.unwrap_or_else(|| levee_api::config::Appliance::default().state_dir).join("controlplane"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Now;
    use crate::configuration::InForce;

    #[test]
    fn a_file_that_is_no_good_has_the_folder_that_its_last_text_was_in_force_in() {
        let place = tempfile::tempdir().unwrap();
        let (path, state) = (place.path().join("levee.toml"), place.path().join("state"));
        let zone = "[[zone]]\nname = \"web\"\nprefixes = [\"192.0.2.0/24\"]\n";
        let good = format!("schema = 1\n[appliance]\nstate_dir = {state:?}\n{zone}");
        let folder = state.join("controlplane");
        let service = Some(folder.as_os_str());
        fs::write(&path, &good).unwrap();
        assert_eq!(state_folder(&path, None).unwrap(), folder);
        let invalid = good.replace("prefixes", "prefxies");
        fs::write(&path, &invalid).unwrap();
        state_folder(&path, service).expect_err("nothing was in force yet");

        fs::write(&path, &good).unwrap();
        InForce::start(&path, &folder, &Now::default()).unwrap();
        for broken in [invalid, format!("{good}[[[\n")] {
            fs::write(&path, broken).unwrap();
            assert_eq!(state_folder(&path, None).unwrap(), folder);
        }
        fs::write(&path, "schema = 1\n[appliance\nstate_dir =").unwrap();
        assert_eq!(state_folder(&path, service).unwrap(), folder);
        fs::remove_file(&path).unwrap();
        assert_eq!(state_folder(&path, service).unwrap(), folder);
        state_folder(&path, None).unwrap_err();
        // Not what was in force for somebody else.
        let other = place.path().join("other/controlplane");
        fs::create_dir_all(&other).unwrap();
        fs::copy(folder.join("configuration.json"), other.join("configuration.json")).unwrap();
        state_folder(&path, Some(other.as_os_str())).unwrap_err();
    }
}
