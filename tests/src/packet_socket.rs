//! Raw frames to and from one interface (AF_PACKET, packet(7)), in batches.

use std::{
    io::{IoSlice, IoSliceMut},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    cmsg_space,
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType,
            bind, recvmmsg, sendmmsg, setsockopt, socket, sockopt,
        },
        time::{TimeSpec, TimeVal},
    },
};

use crate::frame::Mac;

/// Frames per system call.
pub const BATCH: usize = 64;

/// How much of a frame a [`Receiver`] shows: Ethernet, IPv4 and transport headers.
const HEAD: usize = 96;

/// Why an interface cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The name is unknown in this network namespace.
    #[error("no interface `{0}` in this network namespace; `ip link` lists them")]
    NoSuchInterface(String),
    /// AF_PACKET needs a capability.
    #[error("raw sockets on `{0}` need CAP_NET_RAW: run as root or inside the namespace's user")]
    NotPermitted(String),
    /// Any other refusal of the kernel.
    #[error("{action} on `{interface}`: {errno}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// Where.
        interface: String,
        /// The kernel's answer.
        errno: Errno,
    },
}

/// The hardware address of an interface.
pub fn mac(interface: &str) -> Result<Mac, SocketError> {
    link_address(interface)?.addr().ok_or_else(|| SocketError::NoSuchInterface(interface.to_owned()))
}

/// Sends frames as they are.
pub struct Sender {
    interface: String,
    fd: OwnedFd,
    headers: MultiHeaders<()>,
}

impl Sender {
    /// A socket that can send only.
    pub fn open(interface: &str) -> Result<Self, SocketError> {
        let fd = open(interface, None)?;
        Ok(Self { interface: interface.to_owned(), fd, headers: MultiHeaders::preallocate(BATCH, None) })
    }

    /// Sends up to [`BATCH`] frames and says how many the kernel took. It may take fewer when its queue is full.
    pub fn send(&mut self, frames: &[Vec<u8>]) -> Result<usize, SocketError> {
        let slices: Vec<[IoSlice<'_>; 1]> = frames.iter().take(BATCH).map(|f| [IoSlice::new(f)]).collect();
        let sent = sendmmsg(self.fd.as_raw_fd(), &mut self.headers, &slices, [None; BATCH], [], MsgFlags::empty());
        match sent {
            Ok(results) => Ok(results.count()),
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(errno) => Err(kernel("send", &self.interface, errno)),
        }
    }
}

/// A frame as a [`Receiver`] shows it.
#[derive(Debug)]
pub struct Received<'a> {
    /// The first bytes, from the Ethernet header on.
    pub head: &'a [u8],
    /// When the kernel received it, nanoseconds since the epoch.
    pub unix_ns: u64,
}

/// Sees every frame that arrives at an interface, and not what leaves through it.
pub struct Receiver {
    interface: String,
    fd: OwnedFd,
    headers: MultiHeaders<LinkAddr>,
    buffers: Vec<[u8; HEAD]>,
}

impl Receiver {
    /// Opens the socket. What arrives from now on is seen.
    pub fn open(interface: &str) -> Result<Self, SocketError> {
        let fd = open(interface, Some(SockProtocol::EthAll))?;
        let set = |result: nix::Result<()>| result.map_err(|errno| kernel("set options", interface, errno));
        set(setsockopt(&fd, sockopt::ReceiveTimestampns, &true))?;
        set(setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(0, 50_000)))?;
        set(setsockopt(&fd, sockopt::RcvBufForce, &(64 << 20)))?;
        let headers = MultiHeaders::preallocate(BATCH, Some(cmsg_space!(TimeSpec)));
        Ok(Self { interface: interface.to_owned(), fd, headers, buffers: vec![[0; HEAD]; BATCH] })
    }

    /// Waits at most 50 ms for frames and shows what came.
    pub fn receive(&mut self, mut show: impl FnMut(Received<'_>)) -> Result<(), SocketError> {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> = self.buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
        let flags = MsgFlags::MSG_WAITFORONE;
        let received = match recvmmsg(self.fd.as_raw_fd(), &mut self.headers, &mut slices, flags, None) {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(kernel("receive", &self.interface, errno)),
        };
        for message in received {
            if message.address.is_some_and(|address| address.pkttype() == PACKET_OUTGOING) {
                continue;
            }
            let time = message.cmsgs().ok().and_then(|mut all| {
                all.find_map(|one| match one {
                    ControlMessageOwned::ScmTimestampns(time) => Some(time),
                    _ => None,
                })
            });
            let unix_ns = time.map_or(0, |time| crate::time_bins::ns(time.into()));
            for head in message.iovs() {
                show(Received { head, unix_ns });
            }
        }
        Ok(())
    }
}

/// The packet type of frames that this host sends (linux/if_packet.h).
const PACKET_OUTGOING: u8 = 4;

fn open(interface: &str, protocol: Option<SockProtocol>) -> Result<OwnedFd, SocketError> {
    let address = link_address(interface)?;
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(
        |errno| match errno {
            Errno::EPERM | Errno::EACCES => SocketError::NotPermitted(interface.to_owned()),
            errno => kernel("open a raw socket", interface, errno),
        },
    )?;
    bind(fd.as_raw_fd(), &address).map_err(|errno| kernel("bind", interface, errno))?;
    Ok(fd)
}

fn link_address(interface: &str) -> Result<LinkAddr, SocketError> {
    getifaddrs()
        .map_err(|errno| kernel("list interfaces", interface, errno))?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .ok_or_else(|| SocketError::NoSuchInterface(interface.to_owned()))
}

fn kernel(action: &'static str, interface: &str, errno: Errno) -> SocketError {
    SocketError::Kernel { action, interface: interface.to_owned(), errno }
}
