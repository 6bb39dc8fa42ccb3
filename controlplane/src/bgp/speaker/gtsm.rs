//! Which packets may reach a listener: those of a peer with `ttl_security` only when no router has forwarded them (RFC 5082).
//!
//! `IP_MINTTL` is one number for all who come to a socket, and by the time a connection is accepted its handshake and its
//! first bytes have come. A socket filter looks at each packet of a peer by itself, the first one included, and what is
//! accepted inherits it. So peers with and without `ttl_security` can share a listener.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use nix::libc;

use super::socket::{FROM_NEIGHBOURS, set};

/// Offsets from here on are from the beginning of the IP header (`SKF_NET_OFF` of linux/filter.h).
const NETWORK: u32 = libc::SKF_NET_OFF.cast_unsigned();
const WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const EQUALS: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
/// The whole packet.
const TAKE: u32 = u32::MAX;
const DROP: u32 = 0;

/// From now on, packets of these addresses, which are of the version of the socket, are dropped if a router has forwarded them.
///
/// # Errors
/// What the kernel says, in its words; it has room for about 300 addresses of IPv6, or 800 of IPv4.
pub(super) fn only_neighbours(socket: &impl AsFd, addresses: &[IpAddr]) -> io::Result<()> {
    if addresses.is_empty() {
        return match set(socket, (libc::SOL_SOCKET, libc::SO_DETACH_FILTER), &0_i32) {
            // That what is not there cannot be taken away is no error.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        };
    }
    let mut program = program(addresses);
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let attached = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // The kernel copies the program before it returns.
    set(socket, (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER), &attached)
}

/// Classic BPF: for each address, whether the source is that one, and then whether the hop limit is whole.
fn program(addresses: &[IpAddr]) -> Vec<libc::sock_filter> {
    let mut program = Vec::new();
    for address in addresses {
        let (words, source, hop_limit) = match address {
            IpAddr::V4(address) => (vec![address.to_bits()], 12, 8),
            IpAddr::V6(address) => {
                let words = address.octets();
                let (words, _) = words.as_chunks::<4>();
                (words.iter().map(|word| u32::from_be_bytes(*word)).collect(), 8, 7)
            }
        };
        let judged = [
            one(BYTE, NETWORK + hop_limit, 0),
            one(EQUALS, FROM_NEIGHBOURS.cast_unsigned(), 1),
            one(RETURN, TAKE, 0),
            one(RETURN, DROP, 0),
        ];
        for (at, word) in (0_u32..).zip(&words) {
            let left = words.len() - 1 - usize::try_from(at).unwrap_or_default();
            let over = u8::try_from(left * 2 + judged.len()).unwrap_or(u8::MAX);
            program.extend([one(WORD, NETWORK + source + at * 4, 0), one(EQUALS, *word, over)]);
        }
        program.extend(judged);
    }
    program.push(one(RETURN, TAKE, 0));
    program
}

/// An instruction; where it compares and finds something else, `otherwise` so many are left out.
fn one(code: u32, k: u32, otherwise: u8) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap_or_default(), jt: 0, jf: otherwise, k }
}
