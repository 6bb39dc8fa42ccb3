//! Giving up root: once the ports run, nothing that a packet could reach may do more than it needs.
//!
//! Capabilities and `no_new_privs` belong to threads. Threads started later inherit them from the main thread; DPDK's
//! interrupt thread exists already and is asked to give up its own. A change of user, which the C library makes in all
//! threads at once, covers what drivers have started besides.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use caps::{CapSet, Capability};
use nix::unistd::{User, chown, setgroups, setresgid, setresuid};
use thiserror::Error;

use crate::dpdk::eal::{Eal, InterruptThreadError};

/// Who the dataplane becomes if this user exists.
const USER: &str = "levee";
const INTERRUPT_THREAD_DEADLINE: Duration = Duration::from_secs(2);

/// Why privileges could not be dropped. The process must not go on.
#[derive(Debug, Error)]
pub enum PrivilegeError {
    /// The capability sets of a thread.
    #[error("cannot give up capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    /// Changing the user.
    #[error("cannot become user {USER}: {0}")]
    User(nix::errno::Errno),
    /// `no_new_privs`.
    #[error("cannot set no_new_privs: {0}")]
    NoNewPrivileges(nix::errno::Errno),
    /// The thread that DPDK started.
    #[error(transparent)]
    InterruptThread(#[from] InterruptThreadError),
}

/// Changes to user `levee` if it exists, and gives up every capability.
///
/// Measured with system call traces: `net_af_packet`, `net_tap`, `net_pcap`, `net_vhost`, `net_virtio_user` and
/// `net_null` need none to receive, to send, or to close. `net_af_xdp` would need `CAP_SYS_ADMIN` to take its program
/// off the interface when it closes: that stays behind, passing packets on, until `ip link set dev IF xdp off`.
pub fn drop_privileges(eal: &Eal) -> Result<(), PrivilegeError> {
    drop_bounding_set()?;
    become_user()?;
    confine_this_thread()?;
    eal.on_interrupt_thread(confine_this_thread, INTERRUPT_THREAD_DEADLINE)??;
    for thread in privileged_threads() {
        tracing::warn!(
            "thread {thread}, started by a driver, keeps root's capabilities: create a user {USER} for the dataplane to run as"
        );
    }
    Ok(())
}

/// Makes a directory that the dataplane can still write to after it has given up root. Without it nothing survives a restart,
/// which is told and no reason not to run.
pub fn make_own(folder: &Path) {
    let made = DirBuilder::new().recursive(true).mode(0o750).create(folder);
    let owned = made.and_then(|()| match User::from_name(USER)? {
        Some(user) if nix::unistd::geteuid().is_root() => Ok(chown(folder, Some(user.uid), Some(user.gid))?),
        _ => Ok(()),
    });
    if let Err(error) = owned {
        tracing::warn!(
            "cannot keep state in {}: {error}; what is learned does not survive a restart",
            folder.display()
        );
    }
}

/// What a later `execve` could get at most. Needs a capability itself, so it goes first.
fn drop_bounding_set() -> Result<(), PrivilegeError> {
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        caps::clear(None, CapSet::Bounding)?;
    }
    Ok(())
}

fn become_user() -> Result<(), PrivilegeError> {
    let user = User::from_name(USER).map_err(PrivilegeError::User)?;
    let Some(user) = user.filter(|_| nix::unistd::geteuid().is_root()) else {
        tracing::info!("running on as user {}: there is no user {USER}, or this is not root", nix::unistd::geteuid());
        return Ok(());
    };
    setgroups(&[user.gid]).map_err(PrivilegeError::User)?;
    setresgid(user.gid, user.gid, user.gid).map_err(PrivilegeError::User)?;
    setresuid(user.uid, user.uid, user.uid).map_err(PrivilegeError::User)
}

fn confine_this_thread() -> Result<(), PrivilegeError> {
    nix::sys::prctl::set_no_new_privs().map_err(PrivilegeError::NoNewPrivileges)?;
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set)?;
    }
    Ok(())
}

/// Names of threads that have a capability left.
fn privileged_threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks
        .filter_map(|task| {
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let effective = u64::from_str_radix(field("CapEff:")?, 16).ok()?;
            (effective != 0).then(|| field("Name:").unwrap_or("?").to_owned())
        })
        .collect()
}
