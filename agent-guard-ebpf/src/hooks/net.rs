//! Connections and datagrams, by the socket calls themselves.

use agent_guard_common::{
    decide::{Endpoint, Reason, Transport},
    event::Action,
    hook::Hook,
};
use aya_ebpf::{macros::lsm, programs::LsmContext};

use super::lsm_result;
use crate::{
    emit::Enforcement,
    guard::{self, Caller, Target},
    kernel::{offset, read},
};

/// `AF_*`
pub const AF_UNSPEC: u16 = 0;
pub const AF_UNIX: u16 = 1;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
pub const AF_NETLINK: u16 = 16;

/// IP protocol numbers; MPTCP is judged as the TCP that it is made of.
const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;
const IPPROTO_MPTCP: u16 = 262;

/// The transport that a rule can name, for a socket's protocol number.
#[inline(always)]
pub fn transport(protocol: u16) -> Result<Transport, Reason> {
    match protocol {
        IPPROTO_TCP | IPPROTO_MPTCP => Ok(Transport::Tcp),
        IPPROTO_UDP => Ok(Transport::Udp),
        _ => Err(Reason::Protocol),
    }
}

/// `int socket_connect(struct socket *sock, struct sockaddr *address, int addrlen)`
///
/// `address` is a kernel pointer. `AF_UNSPEC` dissolves an association and reaches nobody.
#[lsm(hook = "socket_connect")]
fn socket_connect(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(3);
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(Hook::SocketConnect, Enforcement::Refuse) else { return 0 };
    let (socket, address, len): (u64, u64, u32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    match socket_target(socket, address, len) {
        Ok(target) if target.family == AF_UNSPEC => 0,
        Ok(target) => judge(caller, Action::Connect, &target),
        Err(reason) => judge(
            caller,
            Action::Connect,
            &Target { family: 0, protocol: 0, endpoint: Err(reason) },
        ),
    }
}

/// `int socket_sendmsg(struct socket *sock, struct msghdr *msg, int size)`
///
/// Without an address the datagram goes where `connect` was allowed to go. An IPv4 socket takes
/// `AF_UNSPEC` for `AF_INET`; an IPv6 socket takes it for no address.
#[lsm(hook = "socket_sendmsg")]
fn socket_sendmsg(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(3);
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(Hook::SocketSendmsg, Enforcement::Refuse) else { return 0 };
    let (socket, message): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    let target = match named_target(socket, message) {
        Ok(None) => return 0,
        Ok(Some(target)) => target,
        Err(reason) => Target { family: 0, protocol: 0, endpoint: Err(reason) },
    };
    judge(caller, Action::Send, &target)
}

#[inline(always)]
fn named_target(socket: u64, message: u64) -> Result<Option<Target>, Reason> {
    let address: u64 = read(message, offset!(msg_name))?;
    if address == 0 {
        return Ok(None);
    }
    let len: u32 = read(message, offset!(msg_namelen))?;
    let mut target = socket_target(socket, address, len)?;
    if target.family == AF_UNSPEC {
        match socket_family(socket)? {
            AF_INET6 => return Ok(None),
            AF_INET => target.endpoint = v4_endpoint(address, len, target.protocol),
            _ => target.endpoint = Err(Reason::Protocol),
        }
    }
    Ok(Some(target))
}

#[inline(always)]
fn socket_family(socket: u64) -> Result<u16, Reason> {
    let sk: u64 = read(socket, offset!(socket_sk))?;
    read(sk, offset!(sock_family))
}

/// The far end that `address` names on `socket`.
#[inline(always)]
fn socket_target(socket: u64, address: u64, len: u32) -> Result<Target, Reason> {
    let sk: u64 = read(socket, offset!(socket_sk))?;
    let protocol: u16 = read(sk, offset!(sock_protocol))?;
    if len < 2 {
        return Err(Reason::Failed);
    }
    let family: u16 = read(address, 0)?;
    let endpoint = match family {
        AF_INET => v4_endpoint(address, len, protocol),
        AF_INET6 => v6_endpoint(address, len, protocol),
        _ => Err(Reason::Protocol),
    };
    Ok(Target { family, protocol, endpoint })
}

/// `struct sockaddr_in`: port at 2, address at 4.
#[inline(always)]
fn v4_endpoint(address: u64, len: u32, protocol: u16) -> Result<Endpoint, Reason> {
    if len < 8 {
        return Err(Reason::Failed);
    }
    let port: u16 = read(address, 2)?;
    Ok(Endpoint::v4(read(address, 4)?, u16::from_be(port), transport(protocol)?))
}

/// `struct sockaddr_in6`: port at 2, address at 8.
#[inline(always)]
fn v6_endpoint(address: u64, len: u32, protocol: u16) -> Result<Endpoint, Reason> {
    if len < 24 {
        return Err(Reason::Failed);
    }
    let port: u16 = read(address, 2)?;
    Ok(Endpoint::v6(read(address, 8)?, u16::from_be(port), transport(protocol)?))
}

/// Local sockets are left alone here: `AF_UNIX` reaches nothing outside the machine, and netlink
/// answers to the kernel's own capability checks.
#[inline(always)]
fn judge(caller: Caller, action: Action, target: &Target) -> i32 {
    match target.family {
        AF_UNIX | AF_NETLINK => 0,
        _ => lsm_result(guard::connect(caller, action, target)),
    }
}
