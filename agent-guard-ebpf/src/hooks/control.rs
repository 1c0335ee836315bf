//! What a descriptor is good for beside reading and writing: signals about it, a terminal's input, the
//! flags of its file.

use agent_guard_common::{
    decide::Reason,
    event::Operation,
    hook::Hook,
    mode::{CHARACTER, FORMAT},
};
use aya_ebpf::{macros::lsm, programs::LsmContext};

use super::{metadata, number, operate};
use crate::{
    guard::Tell,
    kernel::{offset, read},
    process, scope,
    terminal::{self, TIOCSPTLCK},
};

/// fcntl(2) commands that have the kernel send signals, and `O_ASYNC`, which starts it.
const F_SETFL: u32 = 4;
const F_SETOWN: u32 = 8;
const F_SETSIG: u32 = 10;
const F_SETOWN_EX: u32 = 15;
const O_ASYNC: u64 = 0o20000;

/// ioctl(2) commands that type into a terminal.
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;
/// ioctl(2) commands that have the kernel send signals.
const FIOASYNC: u32 = 0x5452;
const FIOSETOWN: u32 = 0x8901;
const SIOCSPGRP: u32 = 0x8902;

/// `int file_fcntl(struct file *file, unsigned int cmd, unsigned long arg)`
///
/// The kernel checks who gets such a signal by the user id alone, and asks no hook who sent it. So an agent
/// names itself or nobody, and takes the signal that there is.
#[lsm(hook = "file_fcntl")]
fn file_fcntl(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(3);
    if earlier != 0 {
        return earlier;
    }
    let (file, arg): (u64, u64) = (ctx.arg(0), ctx.arg(2));
    let reaches_out = match ctx.arg(1) {
        F_SETFL => arg & O_ASYNC != 0 && signals_others(file),
        F_SETOWN => arg as i32 != 0 && process::own_id(scope::current() as u64) != Ok(arg as i32),
        F_SETSIG => arg as i32 != 0,
        // Its argument lies in the caller's memory, where it can change after this.
        F_SETOWN_EX => true,
        _ => false,
    };
    if reaches_out { operate(Hook::FileFcntl, Operation::Signal, Tell::All) } else { 0 }
}

/// Whether the owner of a file's signals is not the caller's word: a terminal has its foreground group, of
/// which the guard is one. Devices are told apart by no more than that.
#[inline(always)]
fn signals_others(file: u64) -> bool {
    let mode: Result<u16, Reason> =
        read(file, offset!(file_inode)).and_then(|inode| read(inode, offset!(inode_mode)));
    mode.map_or(true, |mode| mode & FORMAT == CHARACTER)
}

/// `int file_ioctl(struct file *file, unsigned int cmd, unsigned long arg)`
#[lsm(hook = "file_ioctl")]
fn file_ioctl(ctx: LsmContext) -> i32 {
    ioctl(Hook::FileIoctl, &ctx)
}

/// `int file_ioctl_compat(struct file *file, unsigned int cmd, unsigned long arg)`
#[lsm(hook = "file_ioctl_compat")]
fn file_ioctl_compat(ctx: LsmContext) -> i32 {
    ioctl(Hook::FileIoctlCompat, &ctx)
}

/// What the arguments of the others point at lies in the caller's memory.
#[inline(always)]
fn ioctl(hook: Hook, ctx: &LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(3);
    if earlier != 0 {
        return earlier;
    }
    let operation = match ctx.arg(1) {
        TIOCSTI | TIOCLINUX => Operation::TerminalInput,
        FIOSETOWN | SIOCSPGRP => Operation::Signal,
        FIOASYNC if signals_others(ctx.arg(0)) => Operation::Signal,
        TIOCSPTLCK => {
            terminal::unlock_terminal(number(ctx, 0), scope::agent_of(scope::current()).into());
            return 0;
        }
        command => return metadata::ioctl(hook, ctx.arg(0), command),
    };
    operate(hook, operation, Tell::All)
}
