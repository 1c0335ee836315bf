//! Descriptors that arrive: over a socket, by pidfd_getfd(2), by a seccomp supervisor, over binder. Each is
//! judged as if the agent had opened it. A refusal leaves the message without the descriptor.

use agent_guard_common::{event::Action, hook::Hook};
use aya_ebpf::{macros::lsm, programs::LsmContext};

use super::{
    file::{held_request, is_path_only},
    lsm_result,
    net::Socket,
};
use crate::{
    emit::Enforcement,
    guard::{self, Ask, Caller, Target, Telling, Verdict},
    kernel::{
        ANONYMOUS_MAGIC, Object, PIDFS_MAGIC, Probed, Reach, SOCKET_MAGIC, Typed, offset, read,
    },
};

/// `int file_receive(struct file *file)`
#[lsm(hook = "file_receive")]
fn file_receive(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(1);
    if earlier != 0 {
        return earlier;
    }
    let Some(caller) = Caller::current(Hook::FileReceive, Enforcement::Refuse) else { return 0 };
    let file: u64 = ctx.arg(0);
    let object = Object::<Typed>::of_file(file);
    // 0 is no file system's, and so is judged as a file that can not be read.
    lsm_result(match object.magic().unwrap_or(0) {
        SOCKET_MAGIC => socket(caller, file),
        ANONYMOUS_MAGIC if is_harmless(&object) => Verdict::Proceed,
        ANONYMOUS_MAGIC | PIDFS_MAGIC => guard::anonymous(caller, &object),
        _ if is_path_only(file) == Ok(true) && !object.is_cgroup() => Verdict::Proceed,
        _ => guard::file(caller, &object, Ask::open(held_request(file), Telling::All)),
    })
}

/// Whether an anonymous inode only counts or waits, by the name that the kernel gave it: no file, process
/// or part of the kernel is reached through it. What is not known is not harmless.
#[inline(always)]
fn is_harmless<R: Reach>(object: &Object<R>) -> bool {
    const EVENT: [u64; 2] = words(b"[eventfd]\0\0\0\0\0\0\0");
    const TIMER: [u64; 2] = words(b"[timerfd]\0\0\0\0\0\0\0");
    const POLL: [u64; 2] = words(b"[eventpoll]\0\0\0\0\0");
    // Up to the NUL.
    object.kernel_name().is_ok_and(|[first, second]| match first {
        first if first == EVENT[0] => second & 0xffff == EVENT[1],
        first if first == TIMER[0] => second & 0xffff == TIMER[1],
        first if first == POLL[0] => second & 0xffff_ffff == POLL[1],
        _ => false,
    })
}

const fn words(name: &[u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *name;
    [u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes([i, j, k, l, m, n, o, p])]
}

/// A socket that the agent made itself passes, and so does one that is not connected yet: where it goes
/// is judged then. One that somebody else connected is judged as if the agent connected it.
#[inline(always)]
fn socket(caller: Caller, file: u64) -> Verdict {
    let socket = read(file, offset!(file_private)).unwrap_or(0);
    // What can not be read is nobody's, and faults below.
    if Socket::new::<Probed>(socket).and_then(|socket| socket.is_own(caller)) == Ok(true) {
        return Verdict::Proceed;
    }
    match receive_socket(socket, u64::from(caller.agent)) {
        0 => Verdict::Proceed,
        _ => Verdict::Stop,
    }
}

/// Judges the `struct socket` that another process made. Returns 0 where the agent may have it.
///
/// A global function for the verifier, with a stack of its own: that of a connection and that of a walk do
/// not fit into one.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn receive_socket(socket: u64, agent: u64) -> u64 {
    let (hook, enforcement) = (Hook::FileReceive, Enforcement::Refuse);
    let caller = Caller { agent: agent as u32, label: None, hook, enforcement };
    let verdict = match Socket::new::<Probed>(socket).and_then(Socket::held_target) {
        Ok(None) => return 0,
        Ok(Some(target)) => guard::connect(caller, Action::Connect, &target),
        Err(reason) => guard::connect(caller, Action::Connect, &Target::unreadable(reason)),
    };
    u64::from(verdict == Verdict::Stop)
}
