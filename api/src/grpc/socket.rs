//! The unix sockets of both planes: who owns them, who may connect, and how many at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use nix::unistd::{Group, Uid, chown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use super::identity::Identities;
pub use super::identity::Identity;

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
///
/// Nobody can keep the others out: a peer who says nothing is hung up on, an ordinary user has a part of the places, and a
/// part of them is left for root and the user of this process.
#[derive(Debug)]
pub struct Doorkeeper {
    listener: tokio::net::UnixListener,
    places: Arc<Places>,
    identities: Identities,
    /// Who was told that he has too many.
    told: Mutex<BTreeSet<u32>>,
    greeting_within: Duration,
}

/// How long a peer may take to say the first thing: the preface of HTTP/2 (RFC 9113, section 3.4).
const GREETING_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of that.
const PREFACE: usize = 24;

/// Connections at once.
#[derive(Debug)]
struct Places {
    most: usize,
    taken: Mutex<BTreeMap<u32, usize>>,
}

impl Places {
    /// Who may do everything anyway has all places, others a quarter of them each, and three together.
    fn take(self: &Arc<Self>, uid: u32) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let of_user = taken.entry(uid).or_default();
        let (most, most_of_user) = if is_privileged(uid) {
            (self.most, self.most)
        } else {
            (self.most - self.most / 4, (self.most / 4).max(1))
        };
        if all >= most || *of_user >= most_of_user {
            return None;
        }
        *of_user += 1;
        Some(Place { of: Arc::clone(self), uid })
    }
}

/// One place, given back when dropped.
#[derive(Debug)]
struct Place {
    of: Arc<Places>,
    uid: u32,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_user) = taken.get_mut(&self.uid) {
            *of_user -= 1;
            if *of_user == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

impl Doorkeeper {
    /// Lets in so many at once; more are hung up on.
    pub fn at(listener: tokio::net::UnixListener, connections: usize) -> Self {
        let places = Arc::new(Places { most: connections, taken: Mutex::default() });
        Self {
            listener,
            places,
            identities: Identities::default(),
            told: Mutex::default(),
            greeting_within: GREETING_WITHIN,
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub async fn admit(&self) -> io::Result<Connection> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let peer = match stream.peer_cred() {
                Ok(peer) => peer,
                Err(error) => {
                    tracing::warn!(%error, "refused: the peer's credentials are not known");
                    continue;
                }
            };
            let (uid, gid) = (peer.uid(), peer.gid());
            // The places first: they cost nothing to look at.
            let Some(place) = self.places.take(uid) else {
                if self.tell_once(uid) {
                    tracing::warn!(uid, "refused: there are too many connections of this user, or of all");
                }
                continue;
            };
            self.forget_told(uid);
            let identity = self.identities.of(uid, gid).await;
            if is_privileged(uid) || identity.groups.contains(GROUP) {
                let peer = Peer { uid, gid, pid: peer.pid(), identity };
                let silent = Some(Silent { deadline: Box::pin(tokio::time::sleep(self.greeting_within)), heard: 0 });
                return Ok(Connection { stream, peer, silent, _place: place });
            }
            tracing::warn!(uid, gid, "refused: not root, not of group {GROUP}");
        }
    }

    fn tell_once(&self, uid: u32) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(uid)
    }

    fn forget_told(&self, uid: u32) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
    }
}

fn is_privileged(uid: u32) -> bool {
    uid == 0 || uid == Uid::effective().as_raw()
}

fn group() -> Option<Group> {
    Group::from_name(GROUP).ok().flatten()
}

/// Who is at the other end, as the kernel says, and as the machine calls him.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// User.
    pub uid: u32,
    /// Group of the process.
    pub gid: u32,
    /// Process, if the kernel knows it.
    pub pid: Option<i32>,
    /// His names.
    pub identity: Arc<Identity>,
}

/// A connection and the place it takes up.
#[derive(Debug)]
pub struct Connection {
    stream: tokio::net::UnixStream,
    peer: Peer,
    /// Until the peer has said the first thing.
    silent: Option<Silent>,
    _place: Place,
}

#[derive(Debug)]
struct Silent {
    deadline: Pin<Box<tokio::time::Sleep>>,
    heard: usize,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut connection.stream).poll_read(context, buffer);
        let Some(silent) = &mut connection.silent else { return read };
        silent.heard += buffer.filled().len() - before;
        if silent.heard >= PREFACE {
            connection.silent = None;
        } else if read.is_pending() && silent.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
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

    #[test]
    fn a_user_has_a_part_of_the_places_and_root_always_finds_one() {
        let places = Arc::new(Places { most: 64, taken: Mutex::default() });
        let mut held = Vec::new();
        for uid in 1_000..1_010 {
            let of_user: Vec<Place> = std::iter::from_fn(|| places.take(uid)).collect();
            assert!(of_user.len() <= 16, "{}", of_user.len());
            held.extend(of_user);
        }
        assert_eq!(held.len(), 48, "together they have three quarters");
        let root: Vec<Place> = std::iter::from_fn(|| places.take(0)).collect();
        assert_eq!(root.len(), 16);
        held.truncate(40);
        assert!(places.take(2_000).is_none(), "root's count too");
        drop(root);
        assert!(places.take(2_000).is_some());
    }

    #[tokio::test]
    async fn who_connects_and_says_nothing_is_hung_up_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/api.sock");
        let listener = Listener::bind(&path).unwrap();
        let short = Duration::from_millis(200);
        let doorkeeper = Doorkeeper { greeting_within: short, ..Doorkeeper::at(listener.for_tokio().unwrap(), 4) };
        for said in ["", "PRI * HTTP/2.0"] {
            let client = tokio::net::UnixStream::connect(&path);
            let (client, connection) = tokio::join!(client, doorkeeper.admit());
            let (mut client, mut connection) = (client.unwrap(), connection.unwrap());
            tokio::io::AsyncWriteExt::write_all(&mut client, said.as_bytes()).await.unwrap();
            let mut heard = Vec::new();
            let error = tokio::io::AsyncReadExt::read_to_end(&mut connection, &mut heard).await.unwrap_err();
            assert_eq!((error.kind(), heard.as_slice()), (io::ErrorKind::TimedOut, said.as_bytes()));
        }
        // Who has greeted may think as long as he likes.
        let (client, connection) = tokio::join!(tokio::net::UnixStream::connect(&path), doorkeeper.admit());
        let (mut client, mut connection) = (client.unwrap(), connection.unwrap());
        tokio::io::AsyncWriteExt::write_all(&mut client, &[b'x'; PREFACE]).await.unwrap();
        tokio::io::AsyncReadExt::read_exact(&mut connection, &mut [0; PREFACE]).await.unwrap();
        let later = tokio::time::timeout(short * 5, tokio::io::AsyncReadExt::read_u8(&mut connection)).await;
        assert!(later.is_err(), "{later:?}");
    }
}
