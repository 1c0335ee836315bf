//! Connections and datagrams on tier `trace`: programs attached to the agent's own cgroup.

use agent_guard_common::{
    decide::{Endpoint, Transport},
    event::Action,
    hook::Hook,
    socket::{AF_INET, AF_INET6, transport},
};
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{
    emit::Enforcement,
    guard::{self, Caller, Target, Verdict},
    scope,
};

/// Lets the call go on, or fails it with `EPERM`.
const PASS: i32 = 1;
const REFUSE: i32 = 0;

/// `connect(2)` to an IPv4 address.
#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Connect4, Action::Connect, AF_INET, v4)
}

/// `connect(2)` to an IPv6 address.
#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Connect6, Action::Connect, AF_INET6, v6)
}

/// A datagram to an IPv4 address on a socket that is not connected.
#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Sendmsg4, Action::Send, AF_INET, v4)
}

/// A datagram to an IPv6 address on a socket that is not connected.
#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Sendmsg6, Action::Send, AF_INET6, v6)
}

/// A field of the context. Volatile, because the compiler would else share a pointer into the middle of
/// it between reads, which the verifier does not take: each must be at a constant offset of the context
/// itself, with the width of the field.
macro_rules! field {
    ($ctx:ident.$field:ident $([$index:literal])?) => {
        // SAFETY: the kernel passes a valid context.
        unsafe { core::ptr::read_volatile(&raw const (*$ctx.sock_addr).$field $([$index])?) }
    };
}

/// A task without an agent can come by through a socket's cgroup; it is none of ours.
#[inline(always)]
fn judge(
    ctx: &SockAddrContext,
    hook: Hook,
    action: Action,
    family: u16,
    endpoint: fn(&SockAddrContext, u16, Transport) -> Endpoint,
) -> i32 {
    let agent = scope::agent_of_current_cgroup();
    if agent == 0 {
        return PASS;
    }
    let port = u16::from_be(field!(ctx.user_port) as u16);
    let protocol = field!(ctx.protocol) as u16;
    let endpoint = transport(field!(ctx.type_) as u16, protocol)
        .map(|transport| endpoint(ctx, port, transport));
    let caller = Caller { agent, hook, enforcement: Enforcement::Refuse };
    match guard::connect(caller, action, &Target { family, protocol, endpoint }) {
        Verdict::Proceed => PASS,
        Verdict::Stop => REFUSE,
    }
}

#[inline(always)]
fn v4(ctx: &SockAddrContext, port: u16, transport: Transport) -> Endpoint {
    Endpoint::v4(field!(ctx.user_ip4).to_ne_bytes(), port, transport)
}

#[inline(always)]
fn v6(ctx: &SockAddrContext, port: u16, transport: Transport) -> Endpoint {
    let words = [
        field!(ctx.user_ip6[0]),
        field!(ctx.user_ip6[1]),
        field!(ctx.user_ip6[2]),
        field!(ctx.user_ip6[3]),
    ];
    let [a, b, c, d] = words.map(u32::to_ne_bytes);
    let bytes = [
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2],
        d[3],
    ];
    Endpoint::v6(bytes, port, transport)
}
