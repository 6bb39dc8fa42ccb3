//! What `net_vhost` leaves undone: its socket stays behind when the process is killed, and it refuses to bind to one that
//! is there.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Removes a socket that nobody listens on. What is in use, or no socket, is left for the driver to refuse.
pub(super) fn remove_stale_socket(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    match UnixStream::connect(path) {
        Err(error) if is_socket && error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_socket_that_nobody_listens_on_is_removed() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let listener = UnixListener::bind(path("live")).expect("a socket");
        drop(UnixListener::bind(path("stale")).expect("a socket"));
        fs::write(path("file"), "").expect("a file");
        for name in ["live", "stale", "file", "absent"] {
            remove_stale_socket(&path(name)).expect("nothing wrong");
        }
        assert!(path("live").exists() && path("file").exists());
        assert!(!path("stale").exists());
        drop(listener);
    }
}
