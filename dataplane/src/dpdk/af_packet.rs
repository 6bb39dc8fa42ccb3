//! What `net_af_packet` of DPDK 22.11 leaves undone.
//!
//! It tells DPDK that its longest frame has 1518 bytes, whatever its rings hold, so DPDK refuses a larger MTU before the
//! driver could pass it on to the interface. And it does not ask the kernel how many frames found its ring full.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;

use nix::libc::{
    AF_PACKET, PACKET_STATISTICS, SIOCGIFMTU, SIOCSIFMTU, SOL_PACKET, getsockname, getsockopt, ifreq, sockaddr_ll,
    socklen_t, tpacket_stats,
};
use nix::net::if_::if_nametoindex;

nix::ioctl_readwrite_bad!(get_interface_mtu, SIOCGIFMTU, ifreq);
nix::ioctl_write_ptr_bad!(set_interface_mtu, SIOCSIFMTU, ifreq);

/// Raises the MTU of an interface of this network namespace to at least `mtu` bytes. Never lowers it.
pub(super) fn raise_mtu(interface: &str, mtu: u16) -> io::Result<()> {
    // Any socket reaches the interfaces.
    let socket = UnixDatagram::unbound()?;
    let mut request = request(interface)?;
    // SAFETY: the kernel reads the name and writes the MTU, both within the structure.
    unsafe { get_interface_mtu(socket.as_raw_fd(), &raw mut request) }?;
    // SAFETY: the call above filled this member of the union.
    if unsafe { request.ifr_ifru.ifru_mtu } >= i32::from(mtu) {
        return Ok(());
    }
    request.ifr_ifru.ifru_mtu = i32::from(mtu);
    // SAFETY: the kernel reads name and MTU.
    unsafe { set_interface_mtu(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}

fn request(interface: &str) -> io::Result<ifreq> {
    // SAFETY: numbers and bytes, for which zero is valid.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    // One byte stays zero and ends the name.
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

/// Frames that found the driver's ring full.
#[derive(Debug)]
pub(super) struct RingDrops {
    /// The driver's socket, open until the port is stopped.
    socket: RawFd,
    /// The kernel starts again at zero each time it is asked.
    total: u64,
}

/// The driver has no socket on the interface that could be asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketNotFound;

impl RingDrops {
    /// Finds the socket that the driver has just opened on an interface.
    pub(super) fn of(interface: &str) -> Result<Self, SocketNotFound> {
        let index = if_nametoindex(interface).map_err(|_| SocketNotFound)?;
        let descriptors = std::fs::read_dir("/proc/self/fd").map_err(|_| SocketNotFound)?.flatten();
        let mut sockets = descriptors.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
        let socket = sockets.find(|&socket| packet_interface(socket) == Some(index)).ok_or(SocketNotFound)?;
        Ok(Self { socket, total: 0 })
    }

    /// How many since the port was opened; `None` when the kernel does not say.
    pub(super) fn read(&mut self) -> Option<u64> {
        let mut since_last = tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut size = socklen_t::try_from(size_of::<tpacket_stats>()).ok()?;
        // SAFETY: the kernel writes at most `size` bytes to the structure; on a descriptor that is no such socket it fails.
        let code = unsafe {
            getsockopt(self.socket, SOL_PACKET, PACKET_STATISTICS, (&raw mut since_last).cast(), &raw mut size)
        };
        if code != 0 {
            return None;
        }
        self.total += u64::from(since_last.tp_drops);
        Some(self.total)
    }
}

/// The interface that a packet socket is bound to.
fn packet_interface(socket: RawFd) -> Option<u32> {
    // SAFETY: numbers, for which zero is valid.
    let mut address: sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut size = socklen_t::try_from(size_of::<sockaddr_ll>()).ok()?;
    // SAFETY: the kernel writes at most `size` bytes to the structure; on what is no socket it fails.
    let code = unsafe { getsockname(socket, (&raw mut address).cast(), &raw mut size) };
    if code == 0 && i32::from(address.sll_family) == AF_PACKET { u32::try_from(address.sll_ifindex).ok() } else { None }
}
