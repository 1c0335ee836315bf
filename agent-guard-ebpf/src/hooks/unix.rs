//! UNIX-domain sockets, by who is at the other end.

use agent_guard_common::hook::Hook;
use aya_ebpf::{macros::lsm, programs::LsmContext};

use super::lsm_result;
use crate::{
    emit::Enforcement,
    guard::Caller,
    kernel::{offset, read},
    local,
};

/// `int unix_stream_connect(struct sock *sock, struct sock *other, struct sock *newsk)`
///
/// Streams and sequenced packets; `other` is the listener, by whatever name or link it was found.
#[lsm(hook = "unix_stream_connect")]
fn unix_stream_connect(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(3);
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(Hook::UnixStreamConnect, Enforcement::Refuse) else {
        return 0;
    };
    lsm_result(local::connect(caller, ctx.arg(1)))
}

/// `int unix_may_send(struct socket *sock, struct socket *other)`
///
/// Datagrams: at connect, and for each one that is sent. Where the two are connected already, that
/// was judged then, or done by whoever handed the socket in.
#[lsm(hook = "unix_may_send")]
fn unix_may_send(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(2);
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(Hook::UnixMaySend, Enforcement::Refuse) else { return 0 };
    let (socket, other): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    let sk: u64 = read(socket, offset!(socket_sk)).unwrap_or(0);
    // 0 can not be read, and so is denied.
    let other: u64 = read(other, offset!(socket_sk)).unwrap_or(0);
    if other != 0 && read(sk, offset!(unix_peer)) == Ok(other) {
        return 0;
    }
    lsm_result(local::connect(caller, other))
}
