//! What sockets there are, and what they may be told.

use agent_guard_common::{
    decide::Reason,
    event::Action,
    hook::Hook,
    limits::MAX_MESSAGES,
    socket::{AF_NETLINK, NETLINK_ROUTE, is_route_query, is_source_route_option, may_be_made},
};
use aya_ebpf::{macros::lsm, programs::LsmContext};

use super::lsm_result;
use crate::{
    emit::Enforcement,
    guard::{self, Caller, Target},
    kernel::{offset, read},
};

/// `int socket_create(int family, int type, int protocol, int kern)`
///
/// Also for each end of socketpair(2). `type` has no flags any more. Sockets that the kernel makes for
/// itself, such as the subflows of MPTCP, are its own business. What may be made is told when it is
/// used.
#[lsm(hook = "socket_create")]
fn socket_create(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(4);
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(Hook::SocketCreate, Enforcement::Refuse) else { return 0 };
    let (family, kind, protocol, kern): (i32, i32, i32, i32) =
        (ctx.arg(0), ctx.arg(1), ctx.arg(2), ctx.arg(3));
    if kern != 0 || may_be_made(family, kind, protocol) {
        return 0;
    }
    let target = Target::closed(family as u16, protocol as u16, Reason::Protocol);
    lsm_result(guard::connect(caller, Action::CreateSocket, &target))
}

/// `int socket_setsockopt(struct socket *sock, int level, int optname)`
#[lsm(hook = "socket_setsockopt")]
fn socket_setsockopt(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(3);
    if earlier != 0 {
        return earlier;
    }
    let (level, name): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    if !is_source_route_option(level, name) {
        return 0;
    }
    match Caller::current(Hook::SocketSetsockopt, Enforcement::Refuse) {
        Some(caller) => lsm_result(guard::close_interface(caller, Action::SourceRoute)),
        None => 0,
    }
}

/// `int netlink_send(struct sock *sk, struct sk_buff *skb)`
///
/// Whoever made the socket: it may only ask, and only for interfaces and routes.
#[lsm(hook = "netlink_send")]
fn netlink_send(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(2);
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(Hook::NetlinkSend, Enforcement::Refuse) else { return 0 };
    let (sk, buffer): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    let (protocol, asks) = match read::<u16>(sk, offset!(sock_protocol)) {
        Ok(NETLINK_ROUTE) => (NETLINK_ROUTE, only_asks(buffer)),
        Ok(other) => (other, Err(Reason::Protocol)),
        Err(reason) => (NETLINK_ROUTE, Err(reason)),
    };
    match asks {
        Ok(()) => 0,
        Err(reason) => {
            let target = Target::closed(AF_NETLINK, protocol, reason);
            lsm_result(guard::connect(caller, Action::Send, &target))
        }
    }
}

/// Whether every message in the `struct sk_buff` is a query. It ends where the kernel's own reader
/// does; `struct nlmsghdr` has its length at 0, its type at 4, and the next one aligned to 4.
#[inline(always)]
fn only_asks(buffer: u64) -> Result<(), Reason> {
    const HEADER: u32 = 16;
    let data: u64 = read(buffer, offset!(skb_data))?;
    let len: u32 = read(buffer, offset!(skb_len))?;
    // All of it lies behind `data`: netlink makes no other buffers from what it is sent.
    if read::<u32>(buffer, offset!(skb_data_len))? != 0 {
        return Err(Reason::Failed);
    }
    let mut at: u32 = 0;
    for _ in 0..MAX_MESSAGES {
        let left = len.saturating_sub(at);
        if left < HEADER {
            return Ok(());
        }
        let size: u32 = read(data + u64::from(at), 0)?;
        if size < HEADER || size > left {
            return Ok(());
        }
        if !is_route_query(read(data + u64::from(at), 4)?) {
            return Err(Reason::Protocol);
        }
        at = at.saturating_add((size + 3) & !3);
    }
    Err(Reason::Protocol)
}
