//! The files with what was learned: the newest, and the one before it.

use std::path::{Path, PathBuf};

use levee_engine::detect::snapshot::Learned;

use crate::files::{self, FileError};

/// The newest file of a state directory.
pub fn newest(state: &Path) -> PathBuf {
    state.join("baseline")
}

fn previous(state: &Path) -> PathBuf {
    state.join("baseline.previous")
}

/// Reads what was learned: from the newest file, or from the one before if that cannot be used. None: there is neither.
/// `tell` hears why a file cannot be used, and what follows from it.
pub fn load(state: &Path, mut tell: impl FnMut(String)) -> Option<Learned> {
    let mut fault = None;
    for path in [newest(state), previous(state)] {
        let found = match files::read(&path) {
            Ok(None) => continue,
            Ok(Some(bytes)) => Learned::open(&bytes).map_err(|error| format!("{}: {error}", path.display())),
            Err(error) => Err(error.to_string()),
        };
        match found {
            Ok(learned) => {
                if let Some(fault) = fault {
                    tell(format!("{fault}; {} is used instead", path.display()));
                }
                return Some(learned);
            }
            Err(error) => fault = Some(fault.map_or_else(|| error.clone(), |first| format!("{first}; {error}"))),
        }
    }
    if let Some(fault) = fault {
        tell(format!("{fault}; learning starts over"));
    }
    None
}

/// Writes what was learned, the bytes of a snapshot. What the newest file was is the one before then.
///
/// # Errors
/// When the system refuses.
pub fn save(state: &Path, bytes: &[u8]) -> Result<(), FileError> {
    files::replace_keeping(&newest(state), &previous(state), bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    /// What was learned at a time.
    fn learned(seconds: u64) -> Learned {
        Learned { written: Duration::from_secs(seconds), ..Learned::default() }
    }

    fn loaded(state: &Path) -> (Option<u64>, Vec<String>) {
        let mut told = Vec::new();
        let found = load(state, |what| told.push(what));
        (found.map(|found| found.written.as_secs()), told)
    }

    #[test]
    fn a_newest_file_that_is_damaged_at_any_byte_gives_way_to_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        save(state, &learned(1).to_bytes()).unwrap();
        save(state, &learned(2).to_bytes()).unwrap();
        assert_eq!(loaded(state), (Some(2), vec![]));
        let whole = fs::read(newest(state)).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x40;
            for damaged in [&whole[..at], &changed] {
                fs::write(newest(state), damaged).unwrap();
                let (found, told) = loaded(state);
                assert_eq!(found, Some(1), "at {at}");
                assert!(told.len() == 1 && told[0].ends_with("baseline.previous is used instead"), "{told:?}");
            }
        }
    }

    #[test]
    fn what_a_crash_between_two_renames_leaves_is_read() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), &learned(1).to_bytes()).unwrap();
        fs::rename(newest(folder.path()), previous(folder.path())).unwrap();
        assert_eq!(loaded(folder.path()), (Some(1), vec![]));
    }

    #[test]
    fn two_damaged_files_are_told_and_none_at_all_is_nothing_to_tell() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(loaded(folder.path()), (None, vec![]));
        fs::write(newest(folder.path()), b"LVBL").unwrap();
        fs::write(previous(folder.path()), b"something else").unwrap();
        let (found, told) = loaded(folder.path());
        assert_eq!(found, None);
        assert!(told.len() == 1 && told[0].ends_with("learning starts over"), "{told:?}");
        assert!(told[0].contains("damaged") && told[0].contains("not a file of this kind"), "{told:?}");
    }
}
