//! The MTU of a network interface of the kernel, for drivers that ride on one.
//!
//! `net_af_packet` of DPDK 22.11 tells DPDK that its longest frame has 1518 bytes, whatever its rings hold, so DPDK
//! refuses a larger MTU before the driver could pass it on. It is set here.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

use nix::libc::{SIOCGIFMTU, SIOCSIFMTU, ifreq};

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
