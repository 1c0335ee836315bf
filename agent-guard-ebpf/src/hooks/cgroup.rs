//! Connections and datagrams on tier `trace`: programs attached to the agent's own cgroup.

use agent_guard_common::{decide::Endpoint, event::Action, hook::Hook};
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use super::net::{AF_INET, AF_INET6, transport};
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
    judge(&ctx, Hook::Connect4, Action::Connect, AF_INET)
}

/// `connect(2)` to an IPv6 address.
#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Connect6, Action::Connect, AF_INET6)
}

/// A datagram to an IPv4 address on a socket that is not connected.
#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Sendmsg4, Action::Send, AF_INET)
}

/// A datagram to an IPv6 address on a socket that is not connected.
#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Sendmsg6, Action::Send, AF_INET6)
}

/// A task without an agent can come by through a socket's cgroup; it is none of ours.
#[inline(always)]
fn judge(ctx: &SockAddrContext, hook: Hook, action: Action, family: u16) -> i32 {
    let agent = scope::agent_of_current_cgroup();
    if agent == 0 {
        return PASS;
    }
    // SAFETY: the kernel passes a valid context; each field is read with the width it asks for.
    let (v4, v6, port, protocol, kind) = unsafe {
        let addr = &*ctx.sock_addr;
        let v6 = if family == AF_INET6 { addr.user_ip6 } else { [0; 4] };
        let v4 = if family == AF_INET { addr.user_ip4 } else { 0 };
        (v4, v6, u16::from_be(addr.user_port as u16), addr.protocol as u16, addr.type_ as u16)
    };
    let endpoint = transport(kind, protocol).map(|transport| {
        if family == AF_INET {
            Endpoint::v4(v4.to_ne_bytes(), port, transport)
        } else {
            let [a, b, c, d] = v6.map(u32::to_ne_bytes);
            let bytes = [
                a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
                d[2], d[3],
            ];
            Endpoint::v6(bytes, port, transport)
        }
    });
    let caller = Caller { agent, hook, enforcement: Enforcement::Refuse };
    match guard::connect(caller, action, &Target { family, protocol, endpoint }) {
        Verdict::Proceed => PASS,
        Verdict::Stop => REFUSE,
    }
}
