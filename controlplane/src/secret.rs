//! Secrets: read from a file or a systemd credential, never from the configuration, and never shown.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Longer files are something else: keys and tokens are short.
const LONGEST: u64 = 64 << 10;

/// Bytes that nobody sees by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretSource {
    /// A file that only its owner, and perhaps its group, can read.
    File(PathBuf),
    /// A credential that systemd hands over (`LoadCredential=`), by its name in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("cannot read the secret {}: {reason}", path.display())]
    Read {
        /// Where it was looked for.
        path: PathBuf,
        /// Why not.
        reason: io::Error,
    },
    /// Others could have read it.
    #[error("the secret {} can be read by everybody (mode {mode:04o}): chmod 0640 it, or 0600", path.display())]
    Exposed {
        /// Where it is.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Others could have changed it.
    #[error("the secret {} can be changed by others than its owner (mode {mode:04o}): chmod 0640 it, or 0600", path.display())]
    Writable {
        /// Where it is.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// There is nothing in it.
    #[error("the secret {} is empty", .0.display())]
    Empty(PathBuf),
    /// It is no file, or too large for a secret.
    #[error("{} is no file of at most {LONGEST} bytes", .0.display())]
    NotASecret(PathBuf),
    /// systemd was not told to hand anything over.
    #[error("there is no credential {0:?}: $CREDENTIALS_DIRECTORY is not set; add LoadCredential={0}:FILE to the unit")]
    NoCredentials(String),
    /// A name that leads elsewhere.
    #[error("{0:?} is no name of a credential: letters, digits, '-', '_' and '.' are, without a leading '.'")]
    Name(String),
}

impl Secret {
    /// Takes bytes that are secret from now on.
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// To be used, not shown.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As text, if it is.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl SecretSource {
    /// Reads it.
    ///
    /// # Errors
    /// When it is not there, not readable, readable by everybody, empty, or no secret.
    pub fn read(&self) -> Result<Secret, SecretError> {
        self.read_from(std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).as_deref())
    }

    fn read_from(&self, credentials: Option<&Path>) -> Result<Secret, SecretError> {
        match self {
            Self::File(path) => read(path),
            Self::Credential(name) => {
                let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
                if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
                    return Err(SecretError::Name(name.clone()));
                }
                let folder = credentials.ok_or_else(|| SecretError::NoCredentials(name.clone()))?;
                read(&folder.join(name))
            }
        }
    }
}

impl From<&levee_api::config::Secret> for SecretSource {
    fn from(secret: &levee_api::config::Secret) -> Self {
        match secret {
            levee_api::config::Secret::File(path) => Self::File(path.clone()),
            levee_api::config::Secret::Credential(name) => Self::Credential(name.clone()),
        }
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Credential(name) => write!(f, "credential {name}"),
        }
    }
}

fn read(path: &Path) -> Result<Secret, SecretError> {
    let failed = |reason| SecretError::Read { path: path.to_owned(), reason };
    // Not blocking: a pipe that nobody writes to is no secret.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).map_err(failed)?;
    check(path, &file)?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LONGEST {
        return Err(SecretError::NotASecret(path.to_owned()));
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(SecretError::Empty(path.to_owned()));
    }
    Ok(Secret(bytes))
}

/// Permissions of the file that is open, not of what has its name by now.
fn check(path: &Path, file: &File) -> Result<(), SecretError> {
    let found = file.metadata().map_err(|reason| SecretError::Read { path: path.to_owned(), reason })?;
    if !found.is_file() || found.len() > LONGEST {
        return Err(SecretError::NotASecret(path.to_owned()));
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o004 != 0 {
        return Err(SecretError::Exposed { path: path.to_owned(), mode });
    }
    if mode & 0o022 != 0 {
        return Err(SecretError::Writable { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {

    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(folder: &Path, text: &[u8], mode: u32) -> PathBuf {
        let path = folder.join("secret");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_file_is_read_when_nobody_else_can_and_the_error_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o400, 0o640, 0o440] {
            let path = file(folder.path(), b"sesame\n", mode);
            assert_eq!(SecretSource::File(path).read().unwrap().text(), Some("sesame\n"));
        }
        for (text, mode, problem) in [
            (&b"sesame"[..], 0o644, "can be read by everybody (mode 0644): chmod 0640"),
            (b"sesame", 0o660, "can be changed by others"),
            (b"", 0o600, "is empty"),
            (b" \n\t", 0o600, "is empty"),
            (&[7; 65_537], 0o600, "no file of at most"),
        ] {
            let error = SecretSource::File(file(folder.path(), text, mode)).read().unwrap_err().to_string();
            assert!(error.contains(problem) && !error.contains("sesame"), "{error}");
        }
        let error = SecretSource::File(folder.path().to_owned()).read().unwrap_err();
        assert!(error.to_string().contains("no file"), "{error}");
        let error = SecretSource::File(folder.path().join("nothing")).read().unwrap_err();
        assert!(error.to_string().contains("cannot read the secret"), "{error}");
        nix::unistd::mkfifo(&folder.path().join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let error = SecretSource::File(folder.path().join("pipe")).read().unwrap_err();
        assert!(error.to_string().contains("no file"), "{error}");
    }

    #[test]
    fn a_credential_is_a_name_in_the_folder_that_systemd_gives() {
        let folder = tempfile::tempdir().unwrap();
        file(folder.path(), b"sesame", 0o400);
        let read = |name: &str, folder| SecretSource::Credential(name.to_owned()).read_from(folder);
        assert_eq!(read("secret", Some(folder.path())).unwrap().bytes(), b"sesame");
        assert!(matches!(read("secret", None), Err(SecretError::NoCredentials(_))));
        for name in ["", "../secret", ".", "a/b", "a\0b"] {
            assert!(matches!(read(name, Some(folder.path())), Err(SecretError::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new(b"sesame".to_vec());
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "Secret(redacted) Some(Secret(redacted))");
    }
}
