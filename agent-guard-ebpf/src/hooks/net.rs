//! Connections and datagrams, by the socket calls themselves.

use agent_guard_common::{
    decide::{DNS_PORT, Endpoint, Reason, Transport},
    event::Action,
    hook::Hook,
};
use aya_ebpf::{macros::lsm, programs::LsmContext};

use super::lsm_result;
use crate::{
    emit::Enforcement,
    guard::{self, Caller, Target},
    kernel::{offset, read},
    scope,
};

/// `AF_*`. Local sockets are left alone here: `AF_UNIX` reaches nothing outside the machine, and
/// netlink answers to the kernel's own capability checks.
const AF_UNSPEC: u16 = 0;
const AF_UNIX: u16 = 1;
const AF_NETLINK: u16 = 16;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;

/// IP protocol numbers; MPTCP is judged as the TCP that it is made of.
const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;
const IPPROTO_MPTCP: u16 = 262;

/// `SOCK_*`
const SOCK_STREAM: u16 = 1;
const SOCK_DGRAM: u16 = 2;

/// The transport that a rule can name, for a socket's type and protocol. A raw socket may carry the
/// number of TCP and has no ports: its type tells it apart.
#[inline(always)]
pub fn transport(kind: u16, protocol: u16) -> Result<Transport, Reason> {
    match (kind, protocol) {
        (SOCK_STREAM, IPPROTO_TCP | IPPROTO_MPTCP) => Ok(Transport::Tcp),
        (SOCK_DGRAM, IPPROTO_UDP) => Ok(Transport::Udp),
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
    judge(
        caller,
        Action::Connect,
        Socket::new(socket).and_then(|socket| socket.connect_target(caller, address, len)),
    )
}

/// `int socket_sendmsg(struct socket *sock, struct msghdr *msg, int size)`
///
/// Without an address the datagram goes where `connect` was allowed to go.
#[lsm(hook = "socket_sendmsg")]
fn socket_sendmsg(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(3);
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(Hook::SocketSendmsg, Enforcement::Refuse) else { return 0 };
    let (socket, message): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    judge(
        caller,
        Action::Send,
        Socket::new(socket).and_then(|socket| socket.send_target(caller, message)),
    )
}

#[inline(always)]
fn judge(caller: Caller, action: Action, target: Result<Option<Target>, Reason>) -> i32 {
    match target {
        Ok(None) => 0,
        Ok(Some(target)) => lsm_result(guard::connect(caller, action, &target)),
        Err(reason) => {
            let endpoint = Err(reason);
            let target = Target { family: AF_UNSPEC, protocol: 0, endpoint, divertible: false };
            lsm_result(guard::connect(caller, action, &target))
        }
    }
}

/// A socket, judged by its own family: the one in an address is the caller's word, and packet sockets
/// never look at it.
#[derive(Clone, Copy)]
struct Socket {
    sk: u64,
    family: u16,
    kind: u16,
    protocol: u16,
}

impl Socket {
    #[inline(always)]
    fn new(socket: u64) -> Result<Self, Reason> {
        let sk: u64 = read(socket, offset!(socket_sk))?;
        Ok(Self {
            sk,
            family: read(sk, offset!(sock_family))?,
            kind: read(socket, offset!(socket_type))?,
            protocol: read(sk, offset!(sock_protocol))?,
        })
    }

    /// Where a connect to `address` leads; `None` where it reaches nobody that is judged here.
    #[inline(always)]
    fn connect_target(
        self,
        caller: Caller,
        address: u64,
        len: u32,
    ) -> Result<Option<Target>, Reason> {
        match self.family {
            AF_UNIX | AF_NETLINK => Ok(None),
            AF_INET | AF_INET6 => match address_family(address, len)? {
                AF_UNSPEC => Ok(None),
                family => Ok(Some(self.target(caller, family, address, len))),
            },
            _ => Ok(Some(self.unknown())),
        }
    }

    /// Where a message leads. An IPv4 socket takes `AF_UNSPEC` for `AF_INET`; an IPv6 socket takes it
    /// for no address.
    #[inline(always)]
    fn send_target(self, caller: Caller, message: u64) -> Result<Option<Target>, Reason> {
        match self.family {
            AF_UNIX | AF_NETLINK => return Ok(None),
            AF_INET | AF_INET6 => {}
            _ => return Ok(Some(self.unknown())),
        }
        let address: u64 = read(message, offset!(msg_name))?;
        if address == 0 {
            return Ok(None);
        }
        let len: u32 = read(message, offset!(msg_namelen))?;
        match (address_family(address, len)?, self.family) {
            (AF_UNSPEC, AF_INET6) => Ok(None),
            (AF_UNSPEC, _) => Ok(Some(self.target(caller, AF_INET, address, len))),
            (family, _) => Ok(Some(self.target(caller, family, address, len))),
        }
    }

    #[inline(always)]
    fn target(self, caller: Caller, family: u16, address: u64, len: u32) -> Target {
        let endpoint = match family {
            AF_INET => v4_endpoint(address, len, transport(self.kind, self.protocol)),
            AF_INET6 => v6_endpoint(address, len, transport(self.kind, self.protocol)),
            _ => Err(Reason::Protocol),
        };
        let divertible = endpoint.is_ok_and(|endpoint| self.divertible(caller, &endpoint));
        Target { family, protocol: self.protocol, endpoint, divertible }
    }

    /// Whether the agent's cgroup program will see this too. It runs by the socket's cgroup, finds the
    /// agent by the task's, and for MPTCP does not run at all.
    #[inline(always)]
    fn divertible(self, caller: Caller, endpoint: &Endpoint) -> bool {
        endpoint.port == DNS_PORT
            && self.protocol != IPPROTO_MPTCP
            && scope::agent_of_current_cgroup() == caller.agent
            && scope::agent_of_socket(self.sk) == Ok(caller.agent)
    }

    #[inline(always)]
    fn unknown(self) -> Target {
        Target {
            family: self.family,
            protocol: self.protocol,
            endpoint: Err(Reason::Protocol),
            divertible: false,
        }
    }
}

#[inline(always)]
fn address_family(address: u64, len: u32) -> Result<u16, Reason> {
    if len < 2 { Err(Reason::Failed) } else { read(address, 0) }
}

/// `struct sockaddr_in`: port at 2, address at 4.
#[inline(always)]
fn v4_endpoint(
    address: u64,
    len: u32,
    transport: Result<Transport, Reason>,
) -> Result<Endpoint, Reason> {
    if len < 8 {
        return Err(Reason::Failed);
    }
    let port: u16 = read(address, 2)?;
    Ok(Endpoint::v4(read(address, 4)?, u16::from_be(port), transport?))
}

/// `struct sockaddr_in6`: port at 2, address at 8.
#[inline(always)]
fn v6_endpoint(
    address: u64,
    len: u32,
    transport: Result<Transport, Reason>,
) -> Result<Endpoint, Reason> {
    if len < 24 {
        return Err(Reason::Failed);
    }
    let port: u16 = read(address, 2)?;
    Ok(Endpoint::v6(read(address, 8)?, u16::from_be(port), transport?))
}
