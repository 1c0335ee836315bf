//! The system calls that lead out of an agent by a capability for which the kernel asks before it asks any
//! hook of what they do; many have none.

use crate::event::Operation;

/// What such a call is, and takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrivilegedCall {
    /// What it does.
    pub operation: Operation,
    /// The number of the capability without which it fails (`include/uapi/linux/capability.h`). A call may
    /// ask for others and go on without them.
    pub capability: u32,
    /// Whether another hook decides what the call then does.
    pub has_hook: bool,
}

const DAC_READ_SEARCH: u32 = 2;
const SYS_MODULE: u32 = 16;
const SYS_RAWIO: u32 = 17;
const SYS_CHROOT: u32 = 18;
const SYS_PACCT: u32 = 20;
const SYS_ADMIN: u32 = 21;
const SYS_BOOT: u32 = 22;
const SYS_TIME: u32 = 25;
const SYS_TTY_CONFIG: u32 = 26;
const SYSLOG: u32 = 34;

/// The capabilities, as bits, of the calls that no other hook decides: of others nobody needs to look at the
/// call.
pub const UNHOOKED: u64 = 1 << DAC_READ_SEARCH
    | 1 << SYS_MODULE
    | 1 << SYS_RAWIO
    | 1 << SYS_PACCT
    | 1 << SYS_ADMIN
    | 1 << SYS_BOOT
    | 1 << SYS_TIME
    | 1 << SYS_TTY_CONFIG;

/// The call with this number; `compat` is whether the number is one of the 32-bit table. Those of x32 come
/// without their bit. clone(2) and clone3(2) are such calls only where they make a namespace:
/// [`NAMESPACES`].
#[inline(always)]
pub fn privileged_call(compat: bool, number: u32) -> Option<PrivilegedCall> {
    let (operation, capability, has_hook) = match (compat, number) {
        // umount, umount2, pivot_root, move_mount
        (false, 166 | 155) | (true, 22 | 52 | 217) | (_, 429) => {
            (Operation::Mount, SYS_ADMIN, true)
        }
        // open_tree, fsopen, fsconfig, fsmount, fspick, mount_setattr, open_tree_attr
        (_, 428 | 430..=433 | 442 | 467) => (Operation::Mount, SYS_ADMIN, false),
        // unshare, setns, clone, clone3
        (false, 272 | 308 | 56 | 435) | (true, 310 | 346 | 120 | 435) => {
            (Operation::Namespace, SYS_ADMIN, false)
        }
        // chroot
        (false, 161) | (true, 61) => (Operation::Chroot, SYS_CHROOT, true),
        // init_module, finit_module
        (false, 175 | 313) | (true, 128 | 350) => (Operation::Module, SYS_MODULE, true),
        // delete_module
        (false, 176) | (true, 129) => (Operation::Module, SYS_MODULE, false),
        // kexec_load, that of x32, kexec_file_load
        (false, 246 | 528 | 320) | (true, 283) => (Operation::Kexec, SYS_BOOT, true),
        // reboot
        (false, 169) | (true, 88) => (Operation::Kexec, SYS_BOOT, false),
        // open_by_handle_at
        (false, 304) | (true, 342) => (Operation::FileHandle, DAC_READ_SEARCH, false),
        // settimeofday, stime, adjtimex, clock_settime, clock_settime64, clock_adjtime, clock_adjtime64
        (false, 164 | 159 | 227 | 305) | (true, 79 | 25 | 124 | 264 | 404 | 343 | 405) => {
            (Operation::Clock, SYS_TIME, false)
        }
        // sethostname, setdomainname, swapon, swapoff, quotactl
        (false, 170 | 171 | 167 | 168 | 179) | (true, 74 | 121 | 87 | 115 | 131) => {
            (Operation::Host, SYS_ADMIN, false)
        }
        // quotactl_fd
        (_, 443) => (Operation::Host, SYS_ADMIN, false),
        // acct
        (false, 163) | (true, 51) => (Operation::Host, SYS_PACCT, false),
        // iopl, ioperm
        (false, 172 | 173) | (true, 110 | 101) => (Operation::Host, SYS_RAWIO, false),
        // syslog
        (_, 103) => (Operation::KernelLog, SYSLOG, true),
        // vhangup
        (false, 153) | (true, 111) => (Operation::TerminalInput, SYS_TTY_CONFIG, false),
        _ => return None,
    };
    Some(PrivilegedCall { operation, capability, has_hook })
}

/// `CLONE_NEWNS`, `CLONE_NEWCGROUP`, `CLONE_NEWUTS`, `CLONE_NEWIPC`, `CLONE_NEWPID`, `CLONE_NEWNET`. A hook
/// decides on `CLONE_NEWUSER`.
pub const NAMESPACES: u64 =
    0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x2000_0000 | 0x4000_0000;

/// `CLONE_NEWTIME`; to clone(2) it is part of a signal's number.
pub const TIME_NAMESPACE: u64 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_tables_of_calls_are_told_apart() {
        let operation = |compat, number| privileged_call(compat, number).map(|call| call.operation);
        // umount2 of one table is keyctl's neighbour in the other.
        assert_eq!(operation(false, 166), Some(Operation::Mount));
        assert_eq!(operation(true, 166), None);
        assert_eq!(operation(true, 52), Some(Operation::Mount));
        assert_eq!(operation(false, 52), None);
        for compat in [false, true] {
            assert_eq!(operation(compat, 430), Some(Operation::Mount));
            assert_eq!(operation(compat, 431), Some(Operation::Mount));
        }
    }

    #[test]
    fn a_capability_is_looked_at_where_a_call_needs_it_and_nowhere_else() {
        let calls = [false, true]
            .into_iter()
            .flat_map(|compat| (0..1024).filter_map(move |number| privileged_call(compat, number)));
        let needed =
            calls.filter(|call| !call.has_hook).fold(0, |all, call| all | 1 << call.capability);
        assert_eq!(needed, UNHOOKED);
    }

    #[test]
    fn what_everybody_may_do_is_no_such_call() {
        // read, write, open, mmap, execve, exit, connect, openat, prctl
        for number in [0, 1, 2, 9, 59, 60, 42, 257, 157] {
            assert_eq!(privileged_call(false, number), None, "{number}");
        }
    }
}
