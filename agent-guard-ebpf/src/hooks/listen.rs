//! Addresses of this host on which an agent can be reached.

use agent_guard_common::{decide::Reason, event::Action, hook::Hook};
use aya_ebpf::{macros::lsm, programs::LsmContext};

use super::{lsm_result, net::Socket};
use crate::{
    emit::Enforcement,
    guard::{self, Caller, Target},
    kernel::Typed,
};

/// `int socket_bind(struct socket *sock, struct sockaddr *address, int addrlen)`
///
/// A UDP socket takes datagrams as soon as it is bound.
#[lsm(hook = "socket_bind")]
fn socket_bind(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(3);
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(Hook::SocketBind, Enforcement::Refuse) else { return 0 };
    let (socket, address, len): (u64, u64, u32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    let target = Socket::new::<Typed>(socket).and_then(|socket| socket.bind_target(address, len));
    judge(caller, Action::Listen, target)
}

/// `int socket_listen(struct socket *sock, int backlog)`
///
/// A socket that is not bound listens on every address, on a port that the kernel picks: port 0 here.
#[lsm(hook = "socket_listen")]
fn socket_listen(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(2);
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(Hook::SocketListen, Enforcement::Refuse) else { return 0 };
    let socket: u64 = ctx.arg(0);
    judge(caller, Action::Listen, Socket::new::<Typed>(socket).and_then(Socket::own_target))
}

/// `int socket_accept(struct socket *sock, struct socket *newsock)`
///
/// A listener of the agent's own was judged when it began to listen.
#[lsm(hook = "socket_accept")]
fn socket_accept(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(2);
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(Hook::SocketAccept, Enforcement::Refuse) else { return 0 };
    let socket: u64 = ctx.arg(0);
    let target = Socket::new::<Typed>(socket)
        .and_then(|socket| if socket.is_own(caller)? { Ok(None) } else { socket.own_target() });
    judge(caller, Action::Accept, target)
}

#[inline(always)]
fn judge(caller: Caller, action: Action, target: Result<Option<Target>, Reason>) -> i32 {
    match target {
        Ok(None) => 0,
        Ok(Some(target)) => lsm_result(guard::listen(caller, action, &target)),
        Err(reason) => lsm_result(guard::listen(caller, action, &Target::unreadable(reason))),
    }
}
