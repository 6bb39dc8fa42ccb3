//! A daemon while a test needs it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::world::PORT;

/// What waiting for a daemon may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A running program, and its folder. Both are gone when it is dropped.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
    /// Its folder, until it is started again.
    pub(crate) folder: TempDir,
}

/// Where a program is. When it is not there the reason is printed, and the test has nothing to do.
pub(crate) fn find(names: &[&str]) -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/lib/frr", "/usr/local/bin", "/usr/local/sbin"];
    let found = names.iter().flat_map(|name| folders.map(|folder| Path::new(folder).join(name)));
    let found = found.into_iter().find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: {} is not installed; scripts/setup installs it", names.join(" or "));
    }
    found
}

impl Daemon {
    /// Starts a program; what it says goes to a file in its folder.
    pub(crate) fn start(folder: TempDir, program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let log = folder.path().join("log");
        let output = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        Self { child, log, folder }
    }

    /// Starts ExaBGP with a configuration, listening at an address.
    pub(crate) fn exabgp(folder: TempDir, program: &Path, at: Ipv4Addr, config: &str) -> Self {
        let path = folder.path().join("exabgp.conf");
        std::fs::write(&path, config).unwrap();
        let (path, root) = (path.display().to_string(), folder.path().display().to_string());
        let (host, port) = (at.to_string(), PORT.to_string());
        let environment = [
            ("exabgp_daemon_user", "root"),
            ("exabgp_daemon_drop", "false"),
            ("exabgp_tcp_bind", host.as_str()),
            ("exabgp_tcp_port", port.as_str()),
            ("exabgp_api_cli", "false"),
        ];
        Self::start(folder, program, &["--root", &root, &path], &environment)
    }

    /// Ends it at once, as a crash does, and hands its folder back.
    pub(crate) fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks again and again until the answer is as it should be. Daemons tell nobody when they have changed.
    pub(crate) async fn until<T>(&self, what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = match ask() {
                Ok(answer) => return answer,
                Err(answer) => answer,
            };
            assert!(
                Instant::now() < deadline,
                "{what} did not happen within {PATIENCE:?}; the last answer was:\n{answer}\nthe daemon says:\n{}",
                self.said()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program answers.
pub(crate) fn ask(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
