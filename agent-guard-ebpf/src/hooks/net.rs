//! Connections and datagrams, by the socket calls themselves.

use agent_guard_common::{
    decide::{DNS_PORT, Endpoint, Reason},
    event::Action,
    hook::Hook,
    limits::MAX_MESSAGES,
    socket::{
        AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, AF_UNSPEC, IPPROTO_MPTCP, SOCK_STREAM,
        is_source_route_message, transport,
    },
};
use aya_ebpf::{macros::lsm, programs::LsmContext};

use super::lsm_result;
use crate::{
    emit::Enforcement,
    guard::{self, Caller, Target},
    kernel::{Reach, Reads, Typed, checked, offset, read},
    maps,
    scope::{self, is_within},
};

/// `struct sockaddr_in` and `sockaddr_in6`: the port, and the address with the least length that holds
/// it.
const PORT: u32 = 2;
const V4_ADDR: u32 = 4;
const V4_LEN: u32 = 8;
const V6_ADDR: u32 = 8;
const V6_LEN: u32 = 24;

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
        Socket::new::<Typed>(socket).and_then(|socket| socket.connect_target(caller, address, len)),
    )
}

/// `int socket_sendmsg(struct socket *sock, struct msghdr *msg, int size)`
///
/// Without an address the message goes where `connect` was allowed to go, or, on a socket that the
/// agent was given, to a peer that is judged here.
#[lsm(hook = "socket_sendmsg")]
fn socket_sendmsg(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(3);
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(Hook::SocketSendmsg, Enforcement::Refuse) else { return 0 };
    let (socket, message): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    let socket = Socket::new::<Typed>(socket);
    if socket.is_ok_and(|socket| socket.is_internet() && routes_by_itself(message)) {
        return lsm_result(guard::close_interface(caller, Action::SourceRoute));
    }
    judge(caller, Action::Send, socket.and_then(|socket| socket.send_target(caller, message)))
}

#[inline(always)]
fn judge(caller: Caller, action: Action, target: Result<Option<Target>, Reason>) -> i32 {
    match target {
        Ok(None) => 0,
        Ok(Some(target)) => lsm_result(guard::connect(caller, action, &target)),
        Err(reason) => lsm_result(guard::connect(caller, action, &Target::unreadable(reason))),
    }
}

/// Whether a control message gives this one a source route. Control messages are in kernel memory by
/// now. What can not be read, or is too much to read, counts as one.
#[inline(always)]
fn routes_by_itself(message: u64) -> bool {
    find_source_route(message).unwrap_or(true)
}

/// `struct cmsghdr`: length at 0, level at 8, type at 12, and the next one aligned to 8.
#[inline(always)]
fn find_source_route(message: u64) -> Result<bool, Reason> {
    const HEADER: u64 = 16;
    let control: u64 = read(message, offset!(msg_control))?;
    let len: u64 = read(message, offset!(msg_controllen))?;
    let mut at = 0;
    for _ in 0..MAX_MESSAGES {
        if at + HEADER > len || control == 0 {
            return Ok(false);
        }
        let size: u64 = read(control + at, 0)?;
        // The kernel refuses the whole of it.
        if size < HEADER || size > len - at {
            return Ok(false);
        }
        if is_source_route_message(read(control + at, 8)?, read(control + at, 12)?) {
            return Ok(true);
        }
        at += (size + 7) & !7;
    }
    Ok(true)
}

/// A socket, judged by its own family: the one in an address is the caller's word, and packet sockets
/// never look at it.
#[derive(Clone, Copy)]
pub struct Socket {
    sk: u64,
    family: u16,
    kind: u16,
    protocol: u16,
}

impl Socket {
    #[inline(always)]
    pub fn new<R: Reach>(socket: u64) -> Result<Self, Reason> {
        let sk: u64 = R::member(socket, offset!(socket_sk))?;
        if sk == 0 {
            return Err(Reason::Failed);
        }
        let sk = checked(sk);
        Ok(Self {
            sk,
            family: R::member(sk, offset!(sock_family))?,
            kind: R::member(socket, offset!(socket_type))?,
            protocol: R::member(sk, offset!(sock_protocol))?,
        })
    }

    #[inline(always)]
    fn is_internet(self) -> bool {
        matches!(self.family, AF_INET | AF_INET6)
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
            AF_UNIX | AF_NETLINK => return Ok(None),
            AF_INET | AF_INET6 => {}
            _ => return Ok(Some(self.unknown())),
        }
        let mut reads = Reads { fault: None };
        let address = Address::given(&mut reads, address, len);
        self.called_end(&reads, caller, &address)
    }

    /// Where a message leads. An IPv4 socket takes `AF_UNSPEC` for `AF_INET`; an IPv6 socket takes it
    /// for no address. A connected TCP socket takes no address at all, whatever it is given.
    #[inline(always)]
    fn send_target(self, caller: Caller, message: u64) -> Result<Option<Target>, Reason> {
        match self.family {
            AF_UNIX | AF_NETLINK => return Ok(None),
            AF_INET | AF_INET6 => {}
            _ => return Ok(Some(self.unknown())),
        }
        let mut reads = Reads { fault: None };
        let peer = self.foreign_peer(&mut reads, caller);
        let name: u64 = reads.get(message, offset!(msg_name));
        let len: u32 = reads.get(message, offset!(msg_namelen));
        let mut address = Address::NOWHERE;
        if name != 0 {
            address = Address::given(&mut reads, name, len);
            if address.family == AF_UNSPEC && self.family == AF_INET {
                address.family = AF_INET;
            }
        }
        if self.kind == SOCK_STREAM && peer.family != AF_UNSPEC || address.family == AF_UNSPEC {
            address = peer;
        }
        self.called_end(&reads, caller, &address)
    }

    /// Where a socket leads that somebody else made and hands over; `None` where it is not connected, or
    /// leads nowhere that is judged here.
    #[inline(always)]
    pub fn held_target(self) -> Result<Option<Target>, Reason> {
        match self.family {
            AF_UNIX => return Ok(None),
            AF_INET | AF_INET6 => {}
            _ => return Ok(Some(self.unknown())),
        }
        let mut reads = Reads { fault: None };
        let peer = self.peer(&mut reads);
        self.far_end(&reads, &peer)
    }

    /// As [`Self::far_end`], of a call that says where it goes.
    #[inline(always)]
    fn called_end(
        self,
        reads: &Reads,
        caller: Caller,
        address: &Address,
    ) -> Result<Option<Target>, Reason> {
        let Some(target) = self.far_end(reads, address)? else { return Ok(None) };
        let divertible = address.port == DNS_PORT && self.is_divertible(caller);
        Ok(Some(Target { divertible, ..target }))
    }

    #[inline(always)]
    fn far_end(self, reads: &Reads, address: &Address) -> Result<Option<Target>, Reason> {
        if let Some(reason) = reads.fault {
            return Err(reason);
        }
        if address.family == AF_UNSPEC {
            return Ok(None);
        }
        let endpoint =
            transport(self.kind, self.protocol).and_then(|transport| match address.family {
                AF_INET => Ok(Endpoint::v4(v4_bytes(address.v4), address.port, transport)),
                AF_INET6 => Ok(Endpoint::v6(v6_bytes(address.v6), address.port, transport)),
                _ => Err(Reason::Protocol),
            });
        let (family, protocol) = (address.family, self.protocol);
        Ok(Some(Target { family, protocol, endpoint, divertible: false }))
    }

    /// Whether the agent's cgroup program will see this too. It runs by the socket's cgroup, finds the
    /// agent by the task's, and for MPTCP does not run at all. A socket that somebody else has connected
    /// is not of the agent's cgroup.
    #[inline(always)]
    fn is_divertible(self, caller: Caller) -> bool {
        self.protocol != IPPROTO_MPTCP
            && scope::agent_of_current_cgroup() == caller.agent
            && scope::agent_of_socket(self.sk) == Ok(caller.agent)
    }

    /// Whether a process of the agent made it: of that, connect and bind have been judged.
    #[inline(always)]
    pub fn is_own(self, caller: Caller) -> Result<bool, Reason> {
        let agent = maps::agent(caller.agent).ok_or(Reason::NoPolicy)?;
        is_within(read(self.sk, offset!(sock_cgroup))?, agent.cgroup)
    }

    /// The far end of a socket that the agent did not make, where it is connected.
    #[inline(always)]
    fn foreign_peer(self, reads: &mut Reads, caller: Caller) -> Address {
        match self.is_own(caller) {
            Ok(true) => return Address::NOWHERE,
            Ok(false) => {}
            Err(reason) => reads.fault = Some(reason),
        }
        self.peer(reads)
    }

    /// The far end, where it is connected.
    #[inline(always)]
    fn peer(self, reads: &mut Reads) -> Address {
        let port: u16 = reads.get(self.sk, offset!(sock_peer_port));
        let mut peer = Address { port: u16::from_be(port), ..Address::NOWHERE };
        match self.family {
            AF_INET => peer.v4 = reads.get(self.sk, offset!(sock_peer_v4)),
            _ => peer.v6 = reads.get(self.sk, offset!(sock_peer_v6)),
        }
        if peer.port != 0 || peer.v4 != 0 || peer.v6 != [0; 2] {
            peer.family = self.family;
        }
        peer
    }

    /// The address of its own that it is bound to; `None` where it is no internet socket and may be.
    #[inline(always)]
    pub fn own_target(self) -> Result<Option<Target>, Reason> {
        let mut reads = Reads { fault: None };
        let port = reads.get(self.sk, offset!(sock_own_port));
        let mut own = Address { family: self.family, port, ..Address::NOWHERE };
        match self.family {
            AF_UNIX | AF_NETLINK => return Ok(None),
            AF_INET => own.v4 = reads.get(self.sk, offset!(sock_own_v4)),
            AF_INET6 => own.v6 = reads.get(self.sk, offset!(sock_own_v6)),
            _ => return Ok(Some(self.unknown())),
        }
        self.own_end(&reads, &own)
    }

    /// The address that it is being bound to; `None` where binding opens nothing: a TCP socket is
    /// judged when it listens, and port 0 is whichever the kernel gives. An IPv4 socket takes
    /// `AF_UNSPEC` for `AF_INET`.
    #[inline(always)]
    pub fn bind_target(self, address: u64, len: u32) -> Result<Option<Target>, Reason> {
        match (self.family, self.kind) {
            (AF_UNIX | AF_NETLINK, _) | (AF_INET | AF_INET6, SOCK_STREAM) => return Ok(None),
            (AF_INET | AF_INET6, _) => {}
            _ => return Ok(Some(self.unknown())),
        }
        let mut reads = Reads { fault: None };
        let own = Address::given(&mut reads, address, len);
        if own.port == 0 && reads.fault.is_none() {
            return Ok(None);
        }
        self.own_end(&reads, &own)
    }

    #[inline(always)]
    fn own_end(self, reads: &Reads, own: &Address) -> Result<Option<Target>, Reason> {
        if let Some(reason) = reads.fault {
            return Err(reason);
        }
        let endpoint = transport(self.kind, self.protocol).and_then(|transport| match own.family {
            AF_INET | AF_UNSPEC => Ok(Endpoint::own_v4(v4_bytes(own.v4), own.port, transport)),
            AF_INET6 => Ok(Endpoint::own_v6(v6_bytes(own.v6), own.port, transport)),
            _ => Err(Reason::Protocol),
        });
        let divertible = false;
        Ok(Some(Target { family: self.family, protocol: self.protocol, endpoint, divertible }))
    }

    #[inline(always)]
    fn unknown(self) -> Target {
        Target::closed(self.family, self.protocol, Reason::Protocol)
    }
}

/// An address before anybody says what it stands for. As [`crate::kernel::Object`], every member has a
/// value on every path.
#[derive(Clone, Copy)]
struct Address {
    /// `AF_UNSPEC` for none.
    family: u16,
    /// In host byte order.
    port: u16,
    v4: u32,
    v6: [u64; 2],
}

impl Address {
    const NOWHERE: Self = Self { family: AF_UNSPEC, port: 0, v4: 0, v6: [0; 2] };

    /// What a caller gave as `struct sockaddr`, in kernel memory by now; one that is cut off is a
    /// fault. `AF_UNSPEC` may stand for IPv4.
    #[inline(always)]
    fn given(reads: &mut Reads, address: u64, len: u32) -> Self {
        let mut given = Self::NOWHERE;
        if len < 2 {
            reads.fault = Some(Reason::Failed);
            return given;
        }
        // With the port and the IPv4 address, where there is one.
        let word: u64 =
            if len < V4_LEN { reads.get::<u16>(address, 0).into() } else { reads.get(address, 0) };
        given.family = word as u16;
        let holds = match given.family {
            AF_INET => V4_LEN,
            AF_INET6 => V6_LEN,
            _ => 2,
        };
        if len < holds {
            reads.fault = Some(Reason::Failed);
            return given;
        }
        if len >= V4_LEN {
            given.port = u16::from_be((word >> (8 * PORT)) as u16);
            given.v4 = (word >> (8 * V4_ADDR)) as u32;
        }
        if len >= V6_LEN {
            given.v6 = reads.get(address, V6_ADDR);
        }
        given
    }
}

#[inline(always)]
fn v4_bytes(addr: u32) -> [u8; 4] {
    addr.to_ne_bytes()
}

#[inline(always)]
fn v6_bytes(addr: [u64; 2]) -> [u8; 16] {
    let [[a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]] = addr.map(u64::to_ne_bytes);
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}
