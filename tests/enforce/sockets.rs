//! Roles that are about sockets: see `roles`.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener, UnixStream},
    },
};

use crate::{
    actor::{done, try_in_child},
    roles::say,
};

/// Plays the role that the arguments name.
pub fn play(arguments: &[&str]) {
    match *arguments {
        // Each `FAMILY,TYPE,PROTOCOL` in a process of its own.
        ["socket", ref numbers @ ..] => {
            for numbers in numbers {
                let numbers: Vec<i32> = numbers.split(',').map(|n| n.parse().unwrap()).collect();
                say(try_in_child(|| socket(numbers[0], numbers[1], numbers[2]).map(drop)));
            }
        }
        // Each `TYPE+TYPE…` as one datagram.
        ["netlink", ref datagrams @ ..] => {
            for types in datagrams {
                let types: Vec<u16> = types.split('+').map(|n| n.parse().unwrap()).collect();
                say(try_in_child(|| netlink(&types)));
            }
        }
        // On each of these descriptors: send, then write.
        ["send-on", ref descriptors @ ..] => {
            for fd in descriptors {
                let fd: RawFd = fd.parse().unwrap();
                say(try_in_child(|| send(fd)));
                // SAFETY: a byte and its length.
                let write = || done(unsafe { libc::write(fd, b"x".as_ptr().cast(), 1) } as i64);
                say(try_in_child(|| write().map(drop)));
            }
        }
        ["accept-on", fd] => {
            let fd: RawFd = fd.parse().unwrap();
            say(try_in_child(|| {
                // SAFETY: nobody is to be told the address.
                done(
                    unsafe { libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), 0) }
                        .into(),
                )
                .map(drop)
            }));
        }
        ["source-route"] => {
            say(try_in_child(route_of_a_socket));
            say(try_in_child(route_of_an_ipv6_socket));
            say(try_in_child(route_of_a_message));
        }
        ["forms", endpoint] => forms(endpoint.parse().unwrap()),
        ["own-sockets", path] => own_sockets(path),
        ["listen-unbound"] => say(try_in_child(|| {
            let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
            // SAFETY: takes numbers.
            done(unsafe { libc::listen(socket.as_raw_fd(), 1) }.into()).map(drop)
        })),
        ref other => panic!("{other:?}: no such role"),
    }
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers.
    let fd = done(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) }.into())?;
    // SAFETY: fresh from the kernel.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn send(fd: RawFd) -> io::Result<()> {
    // SAFETY: a byte and its length.
    let sent = unsafe { libc::send(fd, b"x".as_ptr().cast(), 1, libc::MSG_NOSIGNAL) };
    done(sent as i64).map(drop)
}

/// Requests of these types in one datagram, each with room for any header behind its own.
fn netlink(types: &[u16]) -> io::Result<()> {
    let socket = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    let request = |kind: &u16| {
        let flags = libc::NLM_F_REQUEST as u16;
        let header = [32_u32.to_ne_bytes(), [0; 4], 1_u32.to_ne_bytes(), [0; 4]];
        let mut bytes = [header.concat(), vec![0; 16]].concat();
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes
    };
    let bytes: Vec<u8> = types.iter().flat_map(request).collect();
    // SAFETY: bytes and their length.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    done(sent as i64).map(drop)
}

/// A strict source route over 8.8.8.8, and the end of the options.
const ROUTE: [u8; 8] = [0x89, 7, 4, 8, 8, 8, 8, 0];

fn route_of_a_socket() -> io::Result<()> {
    let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    set_option(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &ROUTE)
}

/// A routing header may be taken off where there is none, which is enough to see that it is let through.
fn route_of_an_ipv6_socket() -> io::Result<()> {
    let socket = socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)?;
    set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &[])
}

fn set_option(socket: &OwnedFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let (value, len) = (value.as_ptr().cast(), value.len() as u32);
    // SAFETY: a value and its length.
    done(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, len) }.into()).map(drop)
}

fn route_of_a_message() -> io::Result<()> {
    let listener = UdpSocket::bind("127.0.0.1:0")?;
    let SocketAddr::V4(to) = listener.local_addr()? else { panic!("IPv4") };
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: integers and pointers, for which zero is a value.
    let (mut message, mut control): (libc::msghdr, [u64; 4]) = unsafe { std::mem::zeroed() };
    let mut name = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    };
    // A route of one no-operation: nothing that loopback would refuse.
    let mut part = libc::iovec { iov_base: (&raw mut control).cast(), iov_len: 1 };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = size_of_val(&name) as u32;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    control[0] = 16 + 4;
    control[1] = u64::from(libc::IP_RETOPTS as u32) << 32;
    control[2] = 0x01;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = 24;
    // SAFETY: a message whose parts are alive.
    done(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) } as i64).map(drop)
}

/// Ways to reach `to`, a port that listens over TCP and UDP, other than connect and sendto.
fn forms(to: SocketAddr) {
    let SocketAddr::V4(to) = to else { panic!("IPv4") };
    let address = |family: i32| libc::sockaddr_in {
        sin_family: family as u16,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    };
    let size = size_of::<libc::sockaddr_in>() as u32;
    let sendto = |socket: &OwnedFd, name: libc::sockaddr_in, flags| {
        let (fd, byte, name) = (socket.as_raw_fd(), b"x".as_ptr().cast(), &raw const name);
        // SAFETY: a byte, an address and its length.
        done(unsafe { libc::sendto(fd, byte, 1, flags, name.cast(), size) } as i64).map(drop)
    };
    let connect = |socket: &OwnedFd, name: libc::sockaddr_in| {
        let name = &raw const name;
        // SAFETY: an address and its length.
        done(unsafe { libc::connect(socket.as_raw_fd(), name.cast(), size) }.into()).map(drop)
    };
    say(try_in_child(|| {
        let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        sendto(&socket, address(libc::AF_INET), libc::MSG_FASTOPEN)
    }));
    say(try_in_child(|| {
        let socket = socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)?;
        connect(&socket, address(libc::AF_INET))
    }));
    say(try_in_child(|| {
        let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        sendto(&socket, address(libc::AF_UNSPEC), 0)
    }));
    say(try_in_child(|| {
        let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        connect(&socket, libc::sockaddr_in { sin_port: 0, ..address(libc::AF_UNSPEC) })?;
        connect(&socket, address(libc::AF_INET))
    }));
    say(try_in_child(|| {
        let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        let mut name = address(libc::AF_INET);
        let mut part = libc::iovec { iov_base: (&raw mut name).cast(), iov_len: 1 };
        // SAFETY: integers and pointers, for which zero is a value.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        message.msg_hdr.msg_name = (&raw mut name).cast();
        message.msg_hdr.msg_namelen = size;
        message.msg_hdr.msg_iov = &raw mut part;
        message.msg_hdr.msg_iovlen = 1;
        let mut messages = [message; 2];
        // SAFETY: messages whose parts are alive.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), 2, 0) };
        done(sent.into()).map(drop)
    }));
}

/// Sockets that this process makes, reached by path, by name and as a pair.
fn own_sockets(path: &str) {
    say(try_in_child(|| {
        let _listener = UnixListener::bind(path)?;
        UnixStream::connect(path).map(drop)
    }));
    say(try_in_child(|| {
        let name = UnixAddr::from_abstract_name(format!("agent-guard-own-{}", std::process::id()))?;
        let _listener = UnixListener::bind_addr(&name)?;
        UnixStream::connect_addr(&name).map(drop)
    }));
    say(try_in_child(|| {
        let (one, _other) = UnixDatagram::pair()?;
        one.send(b"x").map(drop)
    }));
}
