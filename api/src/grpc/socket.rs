//! The unix sockets of both planes: who owns them, who may connect, and how many at once.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, User, chown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::UCred;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;

/// The group whose members may connect.
const GROUP: &str = "levee";

/// How long a killed process may take to be gone.
const DYING: Duration = Duration::from_secs(2);

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process answers on it.
    #[error(
        "another instance is running: a process answers on {}. Stop it, or give this one another `socket`",
        .0.display()
    )]
    InUse(PathBuf),
    /// Something that is no socket has that name.
    #[error("{} exists and is no socket: move it away, or give another `socket`", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot make the socket {}: {reason}", path.display())]
    Io {
        /// The path of the configuration.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
}

/// The socket, bound and listening; removed when dropped.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Binds the path for root and the group `levee` (0660), in place of what a dead process left there.
    ///
    /// # Errors
    /// When another instance is alive, or the system refuses.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |reason| BindError::Io { path: path.to_owned(), reason };
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(failed)?;
        // Between looking and binding no other instance may do the same. The lock is on the folder: a file of its own
        // would stay behind.
        let lock = File::open(folder).map_err(failed)?;
        lock.lock().map_err(failed)?;
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
            Ok(_) if is_dead(path) => fs::remove_file(path).map_err(failed)?,
            Ok(_) => return Err(BindError::InUse(path.to_owned())),
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let bound = Self { listener, path: path.to_owned() };
        bound.listener.set_nonblocking(true).map_err(failed)?;
        if let (Some(group), true) = (group(), Uid::effective().is_root()) {
            chown(path, None, Some(group.gid)).map_err(|error| failed(error.into()))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
        Ok(bound)
    }

    /// The same listener for tokio. To be called inside a runtime.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn for_tokio(&self) -> io::Result<tokio::net::UnixListener> {
        tokio::net::UnixListener::from_std(self.listener.try_clone()?)
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Without the privilege to remove it the file stays; the next start finds nobody behind it and replaces it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether nobody serves the socket any more. The system still connects callers to a process that has been killed until it
/// has taken that down, which with gigabytes of memory is a while; then it hangs up on them.
fn is_dead(path: &Path) -> bool {
    let deadline = Instant::now() + DYING;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        match UnixStream::connect(path) {
            Err(error) => return error.kind() == io::ErrorKind::ConnectionRefused,
            // A live service speaks first, or is too busy to.
            Ok(mut stream) => {
                let heard = stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut [0]));
                match heard {
                    Ok(0) => {}
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                    _ => return false,
                }
            }
        }
    }
}

/// Accepts those who may connect, for ever.
#[derive(Debug)]
pub struct Doorkeeper {
    listener: tokio::net::UnixListener,
    places: Arc<Semaphore>,
}

impl Doorkeeper {
    /// Lets in so many at once; more wait in the backlog.
    pub fn at(listener: tokio::net::UnixListener, connections: usize) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(connections)) }
    }

    /// The next connection.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub async fn admit(&self) -> io::Result<Connection> {
        loop {
            let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
            let (stream, _) = self.listener.accept().await?;
            match stream.peer_cred() {
                Ok(peer) if may_connect(&peer) => {
                    let peer = Peer { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() };
                    return Ok(Connection { stream, peer, _place: place });
                }
                Ok(peer) => {
                    tracing::warn!(uid = peer.uid(), gid = peer.gid(), "refused: not root, not of group {GROUP}")
                }
                Err(error) => tracing::warn!(%error, "refused: the peer's credentials are not known"),
            }
        }
    }
}

fn may_connect(peer: &UCred) -> bool {
    let uid = Uid::from_raw(peer.uid());
    uid.is_root() || uid == Uid::effective() || is_member(peer.uid(), peer.gid(), GROUP)
}

/// Whether a user is of a group: by the group that his process has, or by the list of members.
pub fn is_member(uid: u32, gid: u32, group: &str) -> bool {
    let Some(group) = Group::from_name(group).ok().flatten() else { return false };
    let named = || {
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        user.is_some_and(|user| group.mem.contains(&user.name) || user.gid == group.gid)
    };
    group.gid == Gid::from_raw(gid) || named()
}

fn group() -> Option<Group> {
    Group::from_name(GROUP).ok().flatten()
}

/// Who is at the other end, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// User.
    pub uid: u32,
    /// Group of the process.
    pub gid: u32,
    /// Process, if the kernel knows it.
    pub pid: Option<i32>,
}

/// A connection and the place it takes up.
#[derive(Debug)]
pub struct Connection {
    stream: tokio::net::UnixStream,
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, buffer)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_of_a_live_process_is_left_alone_and_that_of_a_dead_one_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/dataplane.sock");
        let first = Listener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path), Err(BindError::InUse(_))));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop(first);
        assert!(!path.exists());
        // As after SIGKILL: the descriptor is closed, the file stays.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        Listener::bind(&path).unwrap();
    }

    #[test]
    fn a_process_that_is_dying_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dataplane.sock");
        let dying = UnixListener::bind(&path).unwrap();
        let end = std::thread::spawn(move || {
            // It still lets a caller in.
            let (_first, _) = dying.accept().unwrap();
        });
        Listener::bind(&path).unwrap();
        end.join().unwrap();
    }

    #[test]
    fn what_is_no_socket_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        fs::write(&path, "keep me").unwrap();
        assert!(matches!(Listener::bind(&path), Err(BindError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "keep me");
    }
}
