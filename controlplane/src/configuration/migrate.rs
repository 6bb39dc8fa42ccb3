//! Files of older schemas become files of this one, step by step, comments and layout included.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use levee_api::config::{Config, Invalid, MAX_FILE_BYTES, SCHEMA};
use levee_api::regular_file;
use toml::Table;

use crate::config_check::INVALID;

/// One step: from the schema with its index to the next. It gets a text that is TOML, and leaves alone what it does not
/// have to change.
type Step = fn(&str) -> String;

/// The steps, the first from schema 0: a file of before schemas had numbers.
const STEPS: &[Step] = &[number_the_schema];

/// What became of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The schema that it had.
    pub from: u64,
    /// The text in this schema; the same when there was nothing to do.
    pub text: String,
}

/// Why a text stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// Not TOML.
    #[error("it is not TOML, so that its schema is not known: {0}")]
    Syntax(String),
    /// Not a number of a schema.
    #[error("schema is not a whole number from 0: write schema = {SCHEMA}")]
    Schema,
    /// Of a later version.
    #[error("it has schema {0}, and this version of Levee knows {SCHEMA} at most")]
    Newer(u64),
    /// The result is not valid, as the file was not.
    #[error("what the file would become is not valid; mend it first: {0}")]
    Invalid(#[from] Invalid),
}

/// Brings a text to this schema and checks the result.
///
/// # Errors
/// When it is not TOML, of a later schema, or not valid otherwise.
pub fn migrate_text(name: &str, text: &str) -> Result<Migrated, MigrateError> {
    let migrated = through(STEPS, text)?;
    Config::parse(name, &migrated.text)?;
    Ok(migrated)
}

fn through(steps: &[Step], text: &str) -> Result<Migrated, MigrateError> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| MigrateError::Syntax(error.to_string()))?;
    let from = match table.get("schema") {
        None => 0,
        Some(schema) => {
            schema.as_integer().and_then(|schema| u64::try_from(schema).ok()).ok_or(MigrateError::Schema)?
        }
    };
    let first = usize::try_from(from).map_err(|_| MigrateError::Newer(from))?;
    let missing = steps.get(first..).ok_or(MigrateError::Newer(from))?;
    Ok(Migrated { from, text: missing.iter().fold(text.to_owned(), |text, step| step(&text)) })
}

/// 0 to 1: the file says its schema, behind the comments that it begins with.
fn number_the_schema(text: &str) -> String {
    // What schema 0 called so says nothing any more.
    let lines: Vec<&str> = text.lines().collect();
    let is_zero = |line: &&&str| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_once('=').is_some_and(|(key, value)| key.trim() == "schema" && value.trim() == "0")
    };
    let before_tables = lines.iter().take_while(|line| !line.trim_start().starts_with('[')).count();
    let mut migrated = String::with_capacity(text.len() + 16);
    if let Some(at) = lines.iter().take(before_tables).position(|line| is_zero(&line)) {
        for (index, line) in lines.iter().enumerate() {
            // A line that says 0 says 1 instead, its comment included.
            let line = if index == at { line.replacen('0', "1", 1) } else { (*line).to_owned() };
            let _ = writeln!(migrated, "{line}");
        }
        return migrated;
    }
    let heading = lines.iter().take_while(|line| line.trim_start().starts_with('#')).count();
    for line in lines.iter().take(heading) {
        let _ = writeln!(migrated, "{line}");
    }
    let _ = writeln!(migrated, "schema = 1");
    for line in lines.iter().skip(heading) {
        let _ = writeln!(migrated, "{line}");
    }
    migrated
}

/// `leveectl config migrate FILE`: prints the text in this schema, or writes it with `--write`, keeping the old one beside
/// it. 0 when that is done or there is nothing to do, 1 when it cannot be read or written, 78 when it is not valid.
pub fn migrate(path: &Path, write: bool) -> ExitCode {
    let failed = |status: u8, error: &dyn std::fmt::Display| {
        // Without a standard error there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "{}: {error}", path.display());
        ExitCode::from(status)
    };
    let text = match regular_file::read(path, MAX_FILE_BYTES).map(String::from_utf8) {
        Ok(Ok(text)) => text,
        Ok(Err(_)) => return failed(INVALID, &"it is no text: a configuration is TOML, in UTF-8"),
        Err(error) => return failed(1, &error),
    };
    let migrated = match migrate_text(&path.display().to_string(), &text) {
        Ok(migrated) => migrated,
        Err(error) => return failed(INVALID, &error),
    };
    if !write {
        // A reader that has gone away has seen enough.
        let _ = std::io::stdout().write_all(migrated.text.as_bytes());
        return ExitCode::SUCCESS;
    }
    if migrated.text == text {
        let _ = writeln!(std::io::stderr(), "{}: it has schema {SCHEMA} already", path.display());
        return ExitCode::SUCCESS;
    }
    match replace(path, &migrated) {
        Ok(kept) => {
            let _ = writeln!(
                std::io::stderr(),
                "{}: now schema {SCHEMA}; the old text is {}",
                path.display(),
                kept.display()
            );
            ExitCode::SUCCESS
        }
        Err(error) => failed(1, &error),
    }
}

/// Whenever a crash comes, the file is the old one or the new one.
fn replace(path: &Path, migrated: &Migrated) -> std::io::Result<PathBuf> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let (kept, draft) = (beside(&format!(".schema-{}", migrated.from)), beside(".draft"));
    // Copies have the permissions of the file.
    std::fs::copy(path, &kept)?;
    std::fs::copy(path, &draft)?;
    std::fs::write(&draft, &migrated.text)?;
    std::fs::File::open(&draft)?.sync_all()?;
    std::fs::rename(&draft, path)?;
    Ok(kept)
}

#[cfg(test)]
mod tests {

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const OLD: &str = "# Our site.\n#\n\n[[zone]] # the first\nname = \"web\"\nprefixes = [\"203.0.113.0/24\"]\n";

    #[test]
    fn a_file_without_a_schema_gets_its_number_and_keeps_everything_else() {
        let migrated = migrate_text("levee.toml", OLD).unwrap();
        assert_eq!(migrated.from, 0);
        assert_eq!(migrated.text, OLD.replace("#\n\n", "#\nschema = 1\n\n"));
        let again = migrate_text("levee.toml", &migrated.text).unwrap();
        assert_eq!(again, Migrated { from: 1, text: migrated.text });
        let zero = OLD.replace("#\n\n", "#\nschema=0 # soon 1\n\n");
        assert_eq!(migrate_text("levee.toml", &zero).unwrap().text, zero.replace("=0", "=1"));
    }

    #[test]
    fn what_cannot_be_migrated_is_told_and_stays() {
        let cases = [
            ("schema = 2\n", "has schema 2"),
            ("schema = \"1\"\n", "not a whole number"),
            ("schema = -1\n", "not a whole number"),
            ("[zone\n", "not TOML"),
            ("colour = 3\n", "mend it first"),
        ];
        for (text, reason) in cases {
            let error = migrate_text("levee.toml", text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn steps_follow_each_other_from_every_older_schema() {
        let steps: [Step; 3] =
            [number_the_schema, |text| text.replace("= 1", "= 2"), |text| text.replace("= 2", "= 3")];
        for (text, from) in [("", 0), ("schema = 1\n", 1), ("schema = 2\n", 2), ("schema = 3\n", 3)] {
            assert_eq!(through(&steps, text).unwrap(), Migrated { from, text: "schema = 3\n".to_owned() });
        }
        assert!(matches!(through(&steps, "schema = 4"), Err(MigrateError::Newer(4))));
    }

    #[test]
    fn a_file_is_replaced_with_its_permissions_and_the_old_one_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("levee.toml");
        std::fs::write(&path, OLD).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(migrate(&path, true), ExitCode::SUCCESS);
        assert!(std::fs::read_to_string(&path).unwrap().contains("schema = 1\n"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_to_string(folder.path().join("levee.toml.schema-0")).unwrap(), OLD);
        assert_eq!(migrate(&path, true), ExitCode::SUCCESS);
        std::fs::write(&path, "schema = 9\n").unwrap();
        assert_eq!(migrate(&path, true), ExitCode::from(78));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "schema = 9\n");
        assert_eq!(migrate(&folder.path().join("nothing"), true), ExitCode::from(1));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
