//! What `net_af_packet` of DPDK 22.11 leaves undone.
//!
//! It tells DPDK that its longest frame has 1518 bytes, whatever its rings hold, so DPDK refuses a larger MTU before the
//! driver could pass it on to the interface. It does not ask the kernel how many frames found its ring full. And it has
//! the kernel put fragments together before it sees them, so that they reach us as packets longer than any frame: cut off,
//! or too long to be sent on. A wire passes fragments.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;

use nix::libc::{
    AF_PACKET, BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, PACKET_FANOUT, PACKET_FANOUT_HASH,
    PACKET_STATISTICS, SECCOMP_FILTER_FLAG_SPEC_ALLOW, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_SET_MODE_FILTER,
    SIOCGIFMTU, SIOCSIFMTU, SOL_PACKET, SYS_seccomp, SYS_setsockopt, getsockname, getsockopt, ifreq, setsockopt,
    sock_filter, sock_fprog, sockaddr_ll, socklen_t, syscall, tpacket_stats,
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

/// Runs `work`, which opens a port, on a thread that cannot join a fanout group: that is where the driver asks for fragments
/// to be put together. [`spread`] does the rest of what a group is for.
pub(super) fn without_fanout<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| {
            if let Err(error) = skip_fanout() {
                tracing::warn!("fragments do not pass as they came, the kernel puts them together: {error}");
            }
            work()
        });
        opened.join().map_err(|_| io::Error::other("the driver has panicked"))
    })
}

/// From now on the calling thread's requests to join a fanout group do nothing and succeed.
fn skip_fanout() -> io::Result<()> {
    // Offsets within struct seccomp_data of linux/seccomp.h: the number of the call and the low halves of its arguments.
    const NUMBER: u32 = 0;
    const LOW: u32 = if cfg!(target_endian = "little") { 0 } else { 4 };
    const LEVEL: u32 = 16 + 8 + LOW;
    const OPTION: u32 = 16 + 2 * 8 + LOW;
    let number = u32::try_from(SYS_setsockopt).map_err(io::Error::other)?;
    let load = |offset| instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0);
    let unless_go_on = |value, skip| instruction(BPF_JMP | BPF_JEQ | BPF_K, value, skip);
    let result = |value| instruction(BPF_RET | BPF_K, value, 0);
    let mut program = [
        load(NUMBER),
        unless_go_on(number, 5),
        load(LEVEL),
        unless_go_on(SOL_PACKET.cast_unsigned(), 3),
        load(OPTION),
        unless_go_on(PACKET_FANOUT.cast_unsigned(), 1),
        // Error number 0: the caller sees success.
        result(SECCOMP_RET_ERRNO),
        result(SECCOMP_RET_ALLOW),
    ];
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = sock_fprog { len: length, filter: program.as_mut_ptr() };
    // The kernel wants this of who may not administrate the system; it ends with the thread.
    nix::sys::prctl::set_no_new_privs()?;
    // SAFETY: the kernel copies the program, which lives until the end of this function.
    let code =
        unsafe { syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &raw const program) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One instruction; `skip`: how many to jump over when a comparison fails.
fn instruction(code: u32, value: u32, skip: u8) -> sock_filter {
    // Codes have 16 bits, in constants of 32.
    sock_filter { code: u16::try_from(code).unwrap_or(0), jt: 0, jf: skip, k: value }
}

/// Has the sockets that the driver has just opened on an interface, one for each of `qpairs=`, share its packets. The kernel
/// spreads them by addresses and ports; of fragments, only the first have ports.
pub(super) fn spread(interface: &str) -> io::Result<()> {
    let index = if_nametoindex(interface)?;
    let sockets = sockets_on(index)?;
    if sockets.len() < 2 {
        return Ok(());
    }
    // A group's number has 16 bits; another process's on the same interface should have another one.
    let group = (std::process::id() ^ index) & 0xffff;
    let option = group | PACKET_FANOUT_HASH << 16;
    let size = socklen_t::try_from(size_of_val(&option)).map_err(io::Error::other)?;
    for socket in sockets {
        // SAFETY: the kernel reads the number.
        if unsafe { setsockopt(socket, SOL_PACKET, PACKET_FANOUT, (&raw const option).cast(), size) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Frames that found the driver's rings full.
#[derive(Debug)]
pub(super) struct RingDrops {
    /// The driver's sockets, open until the port is stopped.
    sockets: Vec<RawFd>,
    /// The kernel starts again at zero each time it is asked.
    total: u64,
}

/// The driver has no socket on the interface that could be asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketNotFound;

impl RingDrops {
    /// Finds the sockets that the driver has just opened on an interface.
    pub(super) fn of(interface: &str) -> Result<Self, SocketNotFound> {
        let index = if_nametoindex(interface).map_err(|_| SocketNotFound)?;
        let sockets = sockets_on(index).map_err(|_| SocketNotFound)?;
        if sockets.is_empty() { Err(SocketNotFound) } else { Ok(Self { sockets, total: 0 }) }
    }

    /// How many since the port was opened; `None` when the kernel does not say.
    pub(super) fn read(&mut self) -> Option<u64> {
        let mut size = socklen_t::try_from(size_of::<tpacket_stats>()).ok()?;
        for &socket in &self.sockets {
            let mut since_last = tpacket_stats { tp_packets: 0, tp_drops: 0 };
            // SAFETY: the kernel writes at most `size` bytes to the structure; on a descriptor that is no such socket it
            // fails.
            let code = unsafe {
                getsockopt(socket, SOL_PACKET, PACKET_STATISTICS, (&raw mut since_last).cast(), &raw mut size)
            };
            if code != 0 {
                return None;
            }
            self.total += u64::from(since_last.tp_drops);
        }
        Some(self.total)
    }
}

/// This process's packet sockets on an interface.
fn sockets_on(interface: u32) -> io::Result<Vec<RawFd>> {
    let descriptors = std::fs::read_dir("/proc/self/fd")?.flatten();
    let numbers = descriptors.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    Ok(numbers.filter(|&socket| packet_interface(socket) == Some(interface)).collect())
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
