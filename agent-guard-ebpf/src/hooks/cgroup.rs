//! Connections and datagrams by programs on the agent's own cgroup: judged on tiers `trace` and `observe`;
//! and on `lsm` too, name queries sent to the DNS proxy.

use agent_guard_common::{
    decide::{DNS_PORT, Endpoint, Transport},
    event::Action,
    hook::Hook,
    socket::{AF_INET, AF_INET6, transport},
    table::{Agent, Counter, Diverted},
};
use aya_ebpf::{bindings::bpf_sock, macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{
    emit::Enforcement,
    guard::{self, Caller, Target, Verdict},
    kernel::lsm_judges,
    maps, scope,
};

/// Lets the call go on, or fails it with `EPERM`.
const PASS: i32 = 1;
const REFUSE: i32 = 0;

/// `connect(2)` to an IPv4 address.
#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Connect4, Action::Connect, AF_INET, v4, divert_v4)
}

/// `connect(2)` to an IPv6 address.
#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Connect6, Action::Connect, AF_INET6, v6, divert_v6)
}

/// A datagram to an IPv4 address on a socket that is not connected.
#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Sendmsg4, Action::Send, AF_INET, v4, divert_v4)
}

/// A datagram to an IPv6 address on a socket that is not connected.
#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Sendmsg6, Action::Send, AF_INET6, v6, divert_v6)
}

/// The source of a datagram that was received over IPv4.
#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    restore_v4(&ctx)
}

/// The source of a datagram that was received on an IPv6 socket, IPv4-mapped ones included.
#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    restore_v6(&ctx)
}

/// `getpeername(2)` of an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    restore_v4(&ctx)
}

/// `getpeername(2)` of an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    restore_v6(&ctx)
}

/// A field of the context. Volatile, because the compiler would else share a pointer into the middle of
/// it between accesses, which the verifier does not take: each must be at a constant offset of the context
/// itself, with the width of the field.
macro_rules! field {
    ($ctx:ident.$field:ident $([$index:literal])?) => {
        // SAFETY: the kernel passes a valid context.
        unsafe { core::ptr::read_volatile(&raw const (*$ctx.sock_addr).$field $([$index])?) }
    };
    ($ctx:ident.$field:ident $([$index:literal])? = $value:expr) => {
        // SAFETY: as above; the kernel lets these programs write these fields.
        unsafe { core::ptr::write_volatile(&raw mut (*$ctx.sock_addr).$field $([$index])?, $value) }
    };
}

/// A task without an agent can come by through a socket's cgroup; it is none of ours. But where an LSM
/// program has let name queries through because this one would divert them, and the task has left the
/// agent's cgroup since, they go nowhere.
#[inline(always)]
fn judge(
    ctx: &SockAddrContext,
    hook: Hook,
    action: Action,
    family: u16,
    endpoint: fn(&SockAddrContext, u16, Transport) -> Endpoint,
    divert: fn(&SockAddrContext, &Agent) -> Option<()>,
) -> i32 {
    let port = u16::from_be(field!(ctx.user_port) as u16);
    // An LSM program has judged it, and it goes where it was sent.
    if lsm_judges() && port != DNS_PORT {
        return PASS;
    }
    let id = scope::agent_of_current_cgroup();
    if id == 0 {
        return if lsm_judges() { REFUSE } else { PASS };
    }
    let protocol = field!(ctx.protocol) as u16;
    let endpoint = transport(field!(ctx.type_) as u16, protocol)
        .map(|transport| endpoint(ctx, port, transport));
    let agent = maps::agent(id);
    if family == AF_INET && agent.is_some_and(|agent| is_diverted(ctx, agent)) {
        return PASS;
    }
    let verdict = if lsm_judges() {
        match (agent, &endpoint) {
            (Some(agent), Ok(endpoint)) if guard::diverts(agent, endpoint) => Verdict::Divert,
            _ => Verdict::Proceed,
        }
    } else {
        let caller = Caller { agent: id, label: None, hook, enforcement: Enforcement::Refuse };
        guard::connect(caller, action, &Target { family, protocol, endpoint, divertible: true })
    };
    match (verdict, agent) {
        (Verdict::Proceed, _) => PASS,
        (Verdict::Divert, Some(agent)) if divert(ctx, agent).is_some() => PASS,
        (Verdict::Divert, _) => {
            maps::count(id, hook, Counter::Failed);
            REFUSE
        }
        (Verdict::Stop, _) => REFUSE,
    }
}

#[inline(always)]
fn v4(ctx: &SockAddrContext, port: u16, transport: Transport) -> Endpoint {
    Endpoint::v4(field!(ctx.user_ip4).to_ne_bytes(), port, transport)
}

#[inline(always)]
fn v6(ctx: &SockAddrContext, port: u16, transport: Transport) -> Endpoint {
    let [a, b, c, d] = address_v6(ctx).map(u32::to_ne_bytes);
    let bytes = [
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2],
        d[3],
    ];
    Endpoint::v6(bytes, port, transport)
}

#[inline(always)]
fn address_v6(ctx: &SockAddrContext) -> [u32; 4] {
    [
        field!(ctx.user_ip6[0]),
        field!(ctx.user_ip6[1]),
        field!(ctx.user_ip6[2]),
        field!(ctx.user_ip6[3]),
    ]
}

#[inline(always)]
fn set_address_v6(ctx: &SockAddrContext, [a, b, c, d]: [u32; 4]) {
    field!(ctx.user_ip6[0] = a);
    field!(ctx.user_ip6[1] = b);
    field!(ctx.user_ip6[2] = c);
    field!(ctx.user_ip6[3] = d);
}

/// Words of addresses as they stand in memory: `127.0.0.1`, `::1`, and `::ffff:0:0/96` before the IPv4
/// address in it.
const LOOPBACK_V4: u32 = u32::from_ne_bytes([127, 0, 0, 1]);
const LOOPBACK_V6: [u32; 4] = [0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1])];
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// The IPv4 address in an IPv4-mapped one.
#[inline(always)]
fn mapped([a, b, c, d]: [u32; 4]) -> Option<u32> {
    if a == 0 && b == 0 && c == MAPPED { Some(d) } else { None }
}

/// The context's socket. A 64-bit pointer in a union, read as the other fields are.
#[inline(always)]
fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: the kernel passes a valid context.
    unsafe { core::ptr::read_volatile(&raw const (*ctx.sock_addr).__bindgen_anon_1.sk) }
}

/// Whether a socket that was diverted when it was connected sends to the proxy. An IPv6 socket that is
/// connected to an IPv4-mapped address comes by `sendmsg4` with its peer for every datagram.
#[inline(always)]
fn is_diverted(ctx: &SockAddrContext, agent: &Agent) -> bool {
    field!(ctx.user_ip4) == LOOPBACK_V4
        && field!(ctx.user_port) as u16 == agent.dns_ports[0].to_be()
        // SAFETY: the socket is the context's.
        && unsafe { maps::diverted(socket(ctx)) }.is_some()
}

/// Sends the call to the proxy, and remembers where it was going. `None` where memory ran out.
#[inline(always)]
fn divert_v4(ctx: &SockAddrContext, agent: &Agent) -> Option<()> {
    remember(ctx, agent, |entry| entry.v4 = field!(ctx.user_ip4))?;
    field!(ctx.user_ip4 = LOOPBACK_V4);
    field!(ctx.user_port = u32::from(agent.dns_ports[0].to_be()));
    Some(())
}

/// As [`divert_v4`]; an IPv4-mapped address stays one.
#[inline(always)]
fn divert_v6(ctx: &SockAddrContext, agent: &Agent) -> Option<()> {
    let address = address_v6(ctx);
    if let Some(v4) = mapped(address) {
        remember(ctx, agent, |entry| entry.v4 = v4)?;
        set_address_v6(ctx, [0, 0, MAPPED, LOOPBACK_V4]);
        field!(ctx.user_port = u32::from(agent.dns_ports[0].to_be()));
    } else {
        remember(ctx, agent, |entry| entry.v6 = address)?;
        set_address_v6(ctx, LOOPBACK_V6);
        field!(ctx.user_port = u32::from(agent.dns_ports[1].to_be()));
    }
    Some(())
}

#[inline(always)]
fn remember(ctx: &SockAddrContext, agent: &Agent, set: impl FnOnce(&mut Diverted)) -> Option<()> {
    let proxy_ports = agent.dns_ports.map(u16::to_be);
    let blank = Diverted { v6: [0; 4], v4: 0, proxy_ports };
    // SAFETY: the socket is the context's.
    let entry = unsafe { maps::diverted_or(socket(ctx), blank) }?;
    // SAFETY: socket storage lives as long as its socket. Two threads that send on one socket may mix
    // their addresses; these are for showing only.
    let entry = unsafe { &mut *entry };
    entry.proxy_ports = proxy_ports;
    set(entry);
    Some(())
}

/// Shows the program the name server that it wrote to in place of the proxy. These programs can not
/// refuse.
#[inline(always)]
fn restore_v4(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the socket is the context's, and the entry lives as long.
    if let Some(entry) = unsafe { maps::diverted(socket(ctx)).map(|entry| &*entry) } {
        let port = field!(ctx.user_port) as u16;
        if field!(ctx.user_ip4) == LOOPBACK_V4 && port == entry.proxy_ports[0] && entry.v4 != 0 {
            field!(ctx.user_ip4 = entry.v4);
            field!(ctx.user_port = u32::from(DNS_PORT.to_be()));
        }
    }
    PASS
}

/// As [`restore_v4`].
#[inline(always)]
fn restore_v6(ctx: &SockAddrContext) -> i32 {
    // SAFETY: as in `restore_v4`.
    if let Some(entry) = unsafe { maps::diverted(socket(ctx)).map(|entry| &*entry) } {
        let port = field!(ctx.user_port) as u16;
        let address = address_v6(ctx);
        if mapped(address) == Some(LOOPBACK_V4) && port == entry.proxy_ports[0] {
            set_address_v6(ctx, [0, 0, MAPPED, entry.v4]);
            field!(ctx.user_port = u32::from(DNS_PORT.to_be()));
        } else if address == LOOPBACK_V6 && port == entry.proxy_ports[1] {
            set_address_v6(ctx, entry.v6);
            field!(ctx.user_port = u32::from(DNS_PORT.to_be()));
        }
    }
    PASS
}
