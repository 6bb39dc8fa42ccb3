//! Sockets with what BGP asks of them: MD5 signatures (RFC 2385), and the hop limit that nobody from afar can have (RFC 5082).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::Duration;

use nix::libc;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::secret::Secret;

/// How a session is protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// The key of TCP's MD5 signatures.
    pub password: Option<Secret>,
    /// The peer is a neighbour: only packets that no router has forwarded are taken.
    pub ttl_security: bool,
}

/// Longest key of a signature in bytes.
pub const LONGEST_PASSWORD: usize = 80;

/// `struct tcp_md5sig` of linux/tcp.h.
#[derive(Clone, Copy)]
#[repr(C)]
struct Signature {
    address: [u8; 128],
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: i32,
    key: [u8; LONGEST_PASSWORD],
}

/// Room for what is written and not acknowledged, in bytes; the kernel doubles it for its own needs. A thousand rules are
/// twice as much.
const SEND_BUFFER: i32 = 64 << 10;
/// Of these, what may wait to be sent at all, in bytes.
const UNSENT: i32 = 16 << 10;
/// Sent with, and asked for: nobody who is not on the same link can have it.
pub(super) const FROM_NEIGHBOURS: i32 = 255;

/// Connects to a peer.
///
/// # Errors
/// What the kernel says, in its words.
pub async fn connect(from: Option<IpAddr>, to: SocketAddr, protection: &Protection) -> io::Result<TcpStream> {
    let socket = socket(to.ip())?;
    if let Some(from) = from {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    protect(&socket, to.ip(), protection)?;
    hold_little(&socket)?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Listens. `prepare` tells the socket which peers have to [`sign`], before anybody can connect.
///
/// # Errors
/// What the kernel says, in its words.
pub fn listen(on: SocketAddr, prepare: impl FnOnce(&TcpSocket)) -> io::Result<TcpListener> {
    let socket = socket(on.ip())?;
    socket.set_reuseaddr(true)?;
    if on.is_ipv6() {
        // Keys and hop limits are those of one version: a connection of the other would have neither.
        set(&socket, (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY), &1_i32)?;
    }
    socket.bind(on)?;
    // Our half of the handshake comes from here, and a peer that looks at hop limits looks at it too.
    set_hop_limit(&socket, on.ip())?;
    prepare(&socket);
    socket.listen(64)
}

/// What protects a session, on a connection that came in.
///
/// # Errors
/// What the kernel says, in its words.
pub fn accepted(stream: &TcpStream, protection: &Protection) -> io::Result<()> {
    stream.set_nodelay(true)?;
    hold_little(stream)?;
    let peer = stream.peer_addr()?.ip();
    if protection.password.is_some() {
        // It may have been opened before the listener knew of the password: from here on it is asked for.
        sign(stream, peer, protection.password.as_ref())?;
    }
    if protection.ttl_security { only_neighbours(stream, peer) } else { Ok(()) }
}

/// What waits to be sent waits here rather than in the kernel, where nothing of it can be changed any more.
fn hold_little(socket: &impl AsFd) -> io::Result<()> {
    set(socket, (libc::SOL_SOCKET, libc::SO_SNDBUF), &SEND_BUFFER)?;
    set(socket, (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT), &UNSENT)
}

/// A connection over which nothing is acknowledged for so long is given up by the kernel, too, also after we have closed it.
///
/// # Errors
/// What the kernel says, in its words.
pub fn give_up_after(stream: &TcpStream, time: Duration) -> io::Result<()> {
    let milliseconds = i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
    set(stream, (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT), &milliseconds)
}

/// When it is closed, what is still to be sent is thrown away, and the peer's TCP told at once that the connection is over.
///
/// # Errors
/// What the kernel says, in its words.
pub fn break_off(stream: &TcpStream) -> io::Result<()> {
    set(stream, (libc::SOL_SOCKET, libc::SO_LINGER), &libc::linger { l_onoff: 1, l_linger: 0 })
}

/// Bytes that were written and that the peer's TCP has not acknowledged yet.
///
/// # Errors
/// What the kernel says, in its words.
#[expect(unsafe_code, reason = "neither the standard library nor nix has this")]
pub fn outstanding(stream: &TcpStream) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, which has the number of TIOCOUTQ, writes one int where the pointer points, which lives as long.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, std::ptr::from_mut(&mut bytes)) };
    nix::errno::Errno::result(result)?;
    usize::try_from(bytes).map_err(io::Error::other)
}

/// Finds out within a minute that the other side is gone, also when neither says anything.
///
/// # Errors
/// What the kernel says, in its words.
pub fn notice_silence(stream: &TcpStream) -> io::Result<()> {
    set(stream, (libc::SOL_SOCKET, libc::SO_KEEPALIVE), &1_i32)?;
    set(stream, (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE), &30_i32)?;
    set(stream, (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL), &10_i32)?;
    set(stream, (libc::IPPROTO_TCP, libc::TCP_KEEPCNT), &3_i32)
}

/// From now on, packets of this address have to be signed with this key; none: they must not be signed.
///
/// # Errors
/// What the kernel says, in its words.
pub fn sign(socket: &impl AsFd, peer: IpAddr, key: Option<&Secret>) -> io::Result<()> {
    let mut signature = Signature {
        address: [0; 128],
        flags: 0,
        prefix_length: 0,
        key_length: 0,
        interface: 0,
        key: [0; LONGEST_PASSWORD],
    };
    let (family, at, octets) = match peer {
        IpAddr::V4(address) => (libc::AF_INET, 4, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, 8, address.octets().to_vec()),
    };
    let family = u16::try_from(family).unwrap_or_default().to_ne_bytes();
    let put = |place: &mut [u8], at: usize, bytes: &[u8]| {
        place.iter_mut().skip(at).zip(bytes).for_each(|(place, byte)| *place = *byte);
    };
    put(&mut signature.address, 0, &family);
    put(&mut signature.address, at, &octets);
    if let Some(key) = key.map(trimmed) {
        signature.key_length = u16::try_from(key.len()).unwrap_or(u16::MAX);
        put(&mut signature.key, 0, key);
    }
    match set(socket, (libc::IPPROTO_TCP, libc::TCP_MD5SIG), &signature) {
        // That what is not there cannot be taken away is no error.
        Err(error) if key.is_none() && error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// A password in a file ends with the line, which is no part of it.
pub fn trimmed(key: &Secret) -> &[u8] {
    key.bytes().trim_ascii_end()
}

fn socket(peer: IpAddr) -> io::Result<TcpSocket> {
    if peer.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

fn protect(socket: &TcpSocket, peer: IpAddr, protection: &Protection) -> io::Result<()> {
    if protection.password.is_some() {
        sign(socket, peer, protection.password.as_ref())?;
    }
    if protection.ttl_security { only_neighbours(socket, peer) } else { Ok(()) }
}

fn only_neighbours(socket: &impl AsFd, peer: IpAddr) -> io::Result<()> {
    set_hop_limit(socket, peer)?;
    if peer.is_ipv4() {
        set(socket, (libc::IPPROTO_IP, libc::IP_MINTTL), &FROM_NEIGHBOURS)
    } else {
        set(socket, (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT), &FROM_NEIGHBOURS)
    }
}

fn set_hop_limit(socket: &impl AsFd, address: IpAddr) -> io::Result<()> {
    if address.is_ipv4() {
        set(socket, (libc::IPPROTO_IP, libc::IP_TTL), &FROM_NEIGHBOURS)
    } else {
        set(socket, (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS), &FROM_NEIGHBOURS)
    }
}

/// Sets an option that is a plain value.
#[expect(unsafe_code, reason = "neither the standard library nor nix has these options")]
pub(super) fn set<T: Copy>(socket: &impl AsFd, (level, option): (i32, i32), value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let pointer = std::ptr::from_ref(value).cast();
    // SAFETY: pointer and length are those of `value`, which lives until the kernel has copied it.
    let result = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, pointer, length) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};

    use super::*;

    #[tokio::test]
    async fn who_listens_on_ipv6_takes_no_connections_of_ipv4() {
        let Ok(listener) = listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0), |_| {}) else {
            return; // This machine has no IPv6.
        };
        let port = listener.local_addr().unwrap().port();
        assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, port)).is_ok());
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    }
}
