//! The tables of the file, and how a file of an older version becomes one of this version.
//!
//! One table holds everything: what Levee keeps are documents that are read whole at the start and replaced whole, and a
//! second description of their fields as columns could only disagree with the first. Operators look into them with
//! SQLite's JSON operators: `SELECT key, value ->> 'state' FROM record WHERE kind = 'mitigation'`.

use rusqlite::{Connection, TransactionBehavior};

/// Marks the file as ours ("LEVE"): <https://www.sqlite.org/pragma.html#pragma_application_id>.
pub(super) const APPLICATION_ID: i32 = 0x4C45_5645;

/// The steps from an empty file to this version; the number of a version is how many steps it is away. Steps that were
/// released are never changed, only followed by others.
const MIGRATIONS: &[&str] = &[
    // 1: the documents.
    "CREATE TABLE record (
        kind  TEXT NOT NULL,
        key   TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (kind, key)
     ) STRICT;",
];

/// The version that this program reads and writes.
pub(super) const VERSION: usize = MIGRATIONS.len();

/// Why a file cannot be used as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchemaError {
    /// Another program's database, or a later Levee's.
    #[error("it is a database of another program (application id {0:#x})")]
    Foreign(i32),
    /// Made by a version of Levee that knows more.
    #[error("it has schema {found}, and this version of Levee knows {VERSION} at most")]
    Newer {
        /// The version of the file.
        found: usize,
    },
    /// SQLite says no.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// Checks whose file it is, and brings it to this version. Each step is taken whole or not at all.
pub(super) fn bring_up_to_date(connection: &mut Connection) -> Result<(), SchemaError> {
    migrate(connection, MIGRATIONS)
}

/// The version of a file of ours.
pub(super) fn version(connection: &Connection) -> Result<usize, SchemaError> {
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let found = usize::try_from(found).map_err(|_| SchemaError::Foreign(application))?;
    let objects: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    // A file that has just been made says nothing yet.
    let is_new = application == 0 && found == 0 && objects == 0;
    if is_new || application == APPLICATION_ID { Ok(found) } else { Err(SchemaError::Foreign(application)) }
}

fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<(), SchemaError> {
    let found = version(connection)?;
    let Some(missing) = migrations.get(found..) else { return Err(SchemaError::Newer { found }) };
    for (step, sql) in (found + 1..).zip(missing) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", i64::try_from(step).unwrap_or(i64::MAX))?;
        transaction.commit()?;
        if found > 0 {
            tracing::info!("the store has been brought from schema {} to {step}", step - 1);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {

    use super::*;

    fn tables(connection: &Connection) -> Vec<(String, String)> {
        let mut statement = connection.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name").unwrap();
        let rows =
            statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, Option<String>>(1)?.unwrap_or_default())));
        rows.unwrap().map(Result::unwrap).collect()
    }

    fn at_version(version: usize) -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, &MIGRATIONS[..version]).unwrap();
        connection
    }

    #[test]
    fn every_older_version_becomes_this_one() {
        let expected = tables(&at_version(VERSION));
        assert!(!expected.is_empty());
        for older in 0..VERSION {
            let mut connection = at_version(older);
            assert_eq!(version(&connection).unwrap(), older);
            bring_up_to_date(&mut connection).unwrap();
            assert_eq!((tables(&connection), version(&connection).unwrap()), (expected.clone(), VERSION));
            bring_up_to_date(&mut connection).unwrap();
        }
    }

    #[test]
    fn a_step_that_fails_leaves_the_version_before_it_and_its_records() {
        let mut connection = at_version(VERSION);
        connection.execute("INSERT INTO record VALUES ('a', 'b', '1')", []).unwrap();
        let mut steps = MIGRATIONS.to_vec();
        steps.push("CREATE TABLE further (key TEXT); DELETE FROM record; INSERT INTO nothing VALUES (1);");
        assert!(matches!(migrate(&mut connection, &steps).unwrap_err(), SchemaError::Sqlite(_)));
        assert_eq!(version(&connection).unwrap(), VERSION);
        let left: i64 = connection.query_row("SELECT count(*) FROM record", [], |row| row.get(0)).unwrap();
        assert_eq!((left, tables(&connection)), (1, tables(&at_version(VERSION))));
        steps.pop();
        steps.push("CREATE TABLE further (key TEXT);");
        migrate(&mut connection, &steps).unwrap();
        assert_eq!(version(&connection).unwrap(), VERSION + 1);
        // Now the file is a later version's, for this program.
        let error = bring_up_to_date(&mut connection).unwrap_err();
        assert!(matches!(error, SchemaError::Newer { found } if found == VERSION + 1), "{error}");
    }

    #[test]
    fn a_database_of_another_program_is_told_from_a_new_file() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE theirs (x)").unwrap();
        assert!(matches!(bring_up_to_date(&mut connection), Err(SchemaError::Foreign(0))));
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "application_id", 7).unwrap();
        assert!(matches!(bring_up_to_date(&mut connection), Err(SchemaError::Foreign(7))));
        assert_eq!(tables(&connection), []);
    }
}
