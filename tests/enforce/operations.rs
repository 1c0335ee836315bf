//! What reaches out of an agent without a file or a connection, each by its own system call.

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use libc::{c_long, c_ulong};

/// What the acts are upon: a process outside, and a directory to mount at.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    pub outside: i32,
    pub directory: &'a Path,
}

/// How the kernel refuses the command's own attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// By a hook of tier `lsm`, which tells.
    Hook,
    /// For want of a capability, before any hook is asked; tier `lsm` tells.
    Capability,
    /// As the distribution's settings have it.
    Either,
}

/// What an act is upon.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Upon {
    /// The process outside.
    Process,
    System,
}

/// An act, and how it is judged.
pub struct Act {
    pub name: &'static str,
    /// The operation that it is, as `spec.system` calls it.
    pub operation: &'static str,
    pub refusal: Refusal,
    pub upon: Upon,
    /// How it fails where nobody minds; 0 where it succeeds.
    pub otherwise: &'static [i32],
    pub attempt: fn(Scene<'_>) -> io::Result<()>,
}

macro_rules! acts {
    ($($name:literal: $operation:literal $refusal:ident $upon:ident => $attempt:expr, $otherwise:expr;)*) => {
        /// Every act.
        pub const ACTS: &[Act] = &[$(Act {
            name: $name,
            operation: $operation,
            refusal: Refusal::$refusal,
            upon: Upon::$upon,
            otherwise: $otherwise,
            attempt: $attempt,
        },)*];
    };
}

const SUCCEEDS: &[i32] = &[0];
/// A module or kernel that is none.
const NOT_CODE: &[i32] = &[libc::ENOEXEC];

acts! {
    "kill": "signal" Hook Process => |scene| call(libc::SYS_kill, [scene.outside.into(), 0, 0, 0, 0]), SUCCEEDS;
    "tgkill": "signal" Hook Process => |scene| call(libc::SYS_tgkill, [scene.outside.into(), scene.outside.into(), 0, 0, 0]), SUCCEEDS;
    "pidfd_send_signal": "signal" Hook Process => |scene| {
        let process = pidfd(scene.outside)?;
        call(libc::SYS_pidfd_send_signal, [fd(&process), 0, 0, 0, 0])
    }, SUCCEEDS;
    "F_SETOWN": "signal" Hook System => |scene| with_pipe(|end| fcntl(end, libc::F_SETOWN, scene.outside.into())), SUCCEEDS;
    "F_SETOWN of the group": "signal" Hook System => |_| with_pipe(|end| {
        // SAFETY: takes nothing.
        fcntl(end, libc::F_SETOWN, -c_long::from(unsafe { libc::getpgrp() }))
    }), SUCCEEDS;
    "F_SETOWN_EX": "signal" Hook System => |scene| with_pipe(|end| {
        let owner = [1, scene.outside];
        fcntl(end, F_SETOWN_EX, owner.as_ptr() as c_long)
    }), SUCCEEDS;
    "F_SETSIG": "signal" Hook System => |_| with_pipe(|end| fcntl(end, F_SETSIG, libc::SIGKILL.into())), SUCCEEDS;
    "FIOSETOWN": "signal" Hook System => |scene| {
        let (socket, _other) = std::os::unix::net::UnixStream::pair()?;
        ioctl(socket.as_raw_fd(), FIOSETOWN, (&raw const scene.outside) as c_long)
    }, SUCCEEDS;
    "O_ASYNC on a terminal": "signal" Hook System => |_| with_terminal(|terminal| fcntl(terminal, libc::F_SETFL, libc::O_ASYNC.into())), SUCCEEDS;
    "FIOASYNC on a terminal": "signal" Hook System => |_| with_terminal(|terminal| {
        let on = 1_i32;
        ioctl(terminal, libc::FIOASYNC, (&raw const on) as c_long)
    }), SUCCEEDS;
    "ptrace": "trace" Hook Process => |scene| call(libc::SYS_ptrace, [libc::PTRACE_SEIZE.into(), scene.outside.into(), 0, 0, 0]), SUCCEEDS;
    "kcmp": "trace" Hook Process => |scene| call(libc::SYS_kcmp, [std::process::id().into(), scene.outside.into(), 1, 0, 0]), SUCCEEDS;
    "pidfd_getfd": "trace" Hook Process => |scene| {
        let process = pidfd(scene.outside)?;
        call(libc::SYS_pidfd_getfd, [fd(&process), 0, 0, 0, 0])
    }, SUCCEEDS;
    "process_vm_readv": "trace" Hook Process => |scene| {
        let mut byte = 0_u8;
        let to = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        // Nothing is mapped there; but that is found out last.
        let from = libc::iovec { iov_base: std::ptr::without_provenance_mut(8), iov_len: 1 };
        call(libc::SYS_process_vm_readv, [scene.outside.into(), (&raw const to) as c_long, 1, (&raw const from) as c_long, 1])
    }, &[libc::EFAULT];
    "setns to a process": "trace" Hook Process => |scene| {
        let process = pidfd(scene.outside)?;
        call(libc::SYS_setns, [fd(&process), libc::CLONE_NEWUTS.into(), 0, 0, 0])
    }, SUCCEEDS;
    "prlimit": "tune" Hook Process => |scene| {
        let limit = libc::rlimit { rlim_cur: 0, rlim_max: libc::RLIM_INFINITY };
        call(libc::SYS_prlimit64, [scene.outside.into(), libc::RLIMIT_CORE.into(), (&raw const limit) as c_long, 0, 0])
    }, SUCCEEDS;
    "setpriority": "tune" Capability Process => |scene| call(libc::SYS_setpriority, [0, scene.outside.into(), 19, 0, 0]), SUCCEEDS;
    "sched_setscheduler": "tune" Capability Process => |scene| {
        let parameters = libc::sched_param { sched_priority: 0 };
        call(libc::SYS_sched_setscheduler, [scene.outside.into(), libc::SCHED_BATCH.into(), (&raw const parameters) as c_long, 0, 0])
    }, SUCCEEDS;
    "sched_setaffinity": "tune" Capability Process => |scene| {
        let first = 1_u64;
        call(libc::SYS_sched_setaffinity, [scene.outside.into(), 8, (&raw const first) as c_long, 0, 0])
    }, SUCCEEDS;
    "ioprio_set": "tune" Capability Process => |scene| call(libc::SYS_ioprio_set, [1, scene.outside.into(), 2 << 13 | 7, 0, 0]), SUCCEEDS;
    "mount": "mount" Hook System => |_| mount_private(), SUCCEEDS;
    "umount": "mount" Capability System => |scene| {
        let at = c_string(scene.directory);
        call(libc::SYS_umount2, [at.as_ptr() as c_long, libc::MNT_DETACH.into(), 0, 0, 0])
    }, SUCCEEDS;
    "pivot_root": "mount" Capability System => |_| call(libc::SYS_pivot_root, [c"/".as_ptr() as c_long, c"/".as_ptr() as c_long, 0, 0, 0]), &[libc::EBUSY, libc::EINVAL];
    "move_mount": "mount" Capability System => |scene| {
        let from = c_string(scene.directory);
        let tree = returned(libc::SYS_open_tree, [libc::AT_FDCWD.into(), from.as_ptr() as c_long, 1, 0, 0])?;
        call(libc::SYS_move_mount, [tree, c"".as_ptr() as c_long, libc::AT_FDCWD.into(), from.as_ptr() as c_long, 4])
    }, SUCCEEDS;
    "open_tree": "mount" Capability System => |_| {
        call(libc::SYS_open_tree, [libc::AT_FDCWD.into(), c"/".as_ptr() as c_long, OPEN_TREE_CLONE, 0, 0])
    }, SUCCEEDS;
    "fsopen": "mount" Capability System => |_| call(libc::SYS_fsopen, [c"tmpfs".as_ptr() as c_long, 0, 0, 0, 0]), SUCCEEDS;
    "fsmount": "mount" Capability System => |_| call(libc::SYS_fsmount, [-1, 0, 0, 0, 0]), &[libc::EBADF];
    "fspick": "mount" Capability System => |_| call(libc::SYS_fspick, [libc::AT_FDCWD.into(), c"/proc".as_ptr() as c_long, 0, 0, 0]), SUCCEEDS;
    "mount_setattr": "mount" Capability System => |_| {
        let nothing = [0_u64; 4];
        call(libc::SYS_mount_setattr, [libc::AT_FDCWD.into(), c"/".as_ptr() as c_long, 0, nothing.as_ptr() as c_long, size_of_val(&nothing) as c_long])
    }, SUCCEEDS;
    "chroot": "chroot" Hook System => |_| call(libc::SYS_chroot, [c"/".as_ptr() as c_long, 0, 0, 0, 0]), SUCCEEDS;
    "user namespace": "user-namespace" Hook System => |_| call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0]), SUCCEEDS;
    "bpf": "bpf" Hook System => |_| {
        // BPF_MAP_CREATE of an array: type, bytes of a key, bytes of a value, entries.
        let mut attributes = [0_u32; 32];
        attributes[..4].copy_from_slice(&[2, 4, 4, 1]);
        call(libc::SYS_bpf, [0, attributes.as_ptr() as c_long, size_of_val(&attributes) as c_long, 0, 0])
    }, SUCCEEDS;
    "perf_event_open": "perf" Either System => |_| {
        // A counter of the kernel's own, of this process: type, size, which.
        let mut attributes = [0_u32; 28];
        attributes[..3].copy_from_slice(&[1, 112, 9]);
        call(libc::SYS_perf_event_open, [attributes.as_ptr() as c_long, 0, -1, -1, 0])
    }, SUCCEEDS;
    "init_module": "module" Capability System => |_| {
        let image = [0_u8; 128];
        call(libc::SYS_init_module, [image.as_ptr() as c_long, 128, c"".as_ptr() as c_long, 0, 0])
    }, NOT_CODE;
    "finit_module": "module" Capability System => |_| {
        let file = fs::File::open("/etc/passwd")?;
        call(libc::SYS_finit_module, [file.as_raw_fd().into(), c"".as_ptr() as c_long, 0, 0, 0])
    }, NOT_CODE;
    "kexec_file_load": "kexec" Capability System => |_| {
        let file = fs::File::open("/etc/passwd")?;
        // KEXEC_FILE_NO_INITRAMFS
        call(libc::SYS_kexec_file_load, [file.as_raw_fd().into(), -1, 1, c"".as_ptr() as c_long, 4])
    }, NOT_CODE;
    "kexec_load": "kexec" Capability System => |_| {
        // More segments than there may be.
        call(libc::SYS_kexec_load, [0, 1000, 0, 0, 0])
    }, &[libc::EINVAL, LOCKED_DOWN];
    "reboot": "kexec" Capability System => |_| {
        // Numbers that are none of its own.
        call(libc::SYS_reboot, [0, 0, 0, 0, 0])
    }, &[libc::EINVAL];
    "delete_module": "module" Capability System => |_| call(libc::SYS_delete_module, [c"none".as_ptr() as c_long, 0, 0, 0, 0]), &[libc::ENOENT];
    "unshare": "namespace" Capability System => |_| call(libc::SYS_unshare, [NEWUTS, 0, 0, 0, 0]), SUCCEEDS;
    "unshare by half of a number": "namespace" Capability System => |_| {
        // The kernel goes by the lower one.
        call(libc::SYS_unshare | 1 << 32, [NEWUTS, 0, 0, 0, 0])
    }, SUCCEEDS;
    "setns": "namespace" Capability System => |_| {
        let own = pidfd(std::process::id() as i32)?;
        call(libc::SYS_setns, [fd(&own), NEWUTS, 0, 0, 0])
    }, SUCCEEDS;
    "clone": "namespace" Capability System => |_| end_child(returned(libc::SYS_clone, [NEWUTS | SIGCHLD, 0, 0, 0, 0])?), SUCCEEDS;
    "clone3": "namespace" Capability System => |_| {
        // SAFETY: integers, for which zero is a value.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        (arguments.flags, arguments.exit_signal) = (NEWUTS as u64, SIGCHLD as u64);
        end_child(returned(libc::SYS_clone3, [(&raw const arguments) as c_long, size_of_val(&arguments) as c_long, 0, 0, 0])?)
    }, SUCCEEDS;
    "open_by_handle_at": "file-handle" Capability System => |_| {
        let directory = fs::File::open("/etc")?;
        let mut handle = Handle { bytes: HANDLE_BYTES as u32, kind: 0, id: [0; HANDLE_BYTES] };
        let (at, mut mount) = (directory.as_raw_fd().into(), 0_i32);
        call(libc::SYS_name_to_handle_at, [at, c"passwd".as_ptr() as c_long, (&raw mut handle) as c_long, (&raw mut mount) as c_long, 0])?;
        call(libc::SYS_open_by_handle_at, [at, (&raw const handle) as c_long, libc::O_RDONLY.into(), 0, 0])
    }, SUCCEEDS;
    "adjtimex": "clock" Capability System => |_| {
        // SAFETY: integers, for which zero is a value.
        let mut change: libc::timex = unsafe { std::mem::zeroed() };
        // A tick of no length.
        change.modes = libc::ADJ_TICK;
        call(libc::SYS_adjtimex, [(&raw const change) as c_long, 0, 0, 0, 0])
    }, &[libc::EINVAL];
    "sethostname": "host" Capability System => |_| call(libc::SYS_sethostname, [0, -1, 0, 0, 0]), &[libc::EINVAL];
    "sethostname by a 32-bit call": "host" Capability System => |_| call_32(74, 0, -1), &[libc::EINVAL];
    "swapoff": "host" Capability System => |_| call(libc::SYS_swapoff, [c"/dev/null".as_ptr() as c_long, 0, 0, 0, 0]), &[libc::EINVAL];
    "iopl": "host" Capability System => |_| call(libc::SYS_iopl, [1, 0, 0, 0, 0]), &[0, LOCKED_DOWN];
    "syslog": "kernel-log" Either System => |_| {
        // SYSLOG_ACTION_SIZE_BUFFER
        call(libc::SYS_syslog, [10, 0, 0, 0, 0])
    }, SUCCEEDS;
    "syslog for the console": "kernel-log" Capability System => |_| {
        // SYSLOG_ACTION_CONSOLE_LEVEL, and no level.
        call(libc::SYS_syslog, [8, 0, 0, 0, 0])
    }, &[libc::EINVAL];
    "vhangup": "terminal-input" Capability System => |_| {
        // In a session without a terminal.
        // SAFETY: takes nothing.
        unsafe { libc::setsid() };
        call(libc::SYS_vhangup, [0, 0, 0, 0, 0])
    }, SUCCEEDS;
    "TIOCSTI": "terminal-input" Hook System => |_| with_terminal(|terminal| ioctl(terminal, libc::TIOCSTI, c"x".as_ptr() as c_long)), SUCCEEDS;
}

const OPEN_TREE_CLONE: c_long = 1;
const NEWUTS: c_long = libc::CLONE_NEWUTS as c_long;
const SIGCHLD: c_long = libc::SIGCHLD as c_long;
/// What a kernel says that is locked down, to whoever it is.
const LOCKED_DOWN: i32 = libc::EPERM;

/// `MAX_HANDLE_SZ` (`include/linux/exportfs.h`)
const HANDLE_BYTES: usize = 128;

/// `struct file_handle`
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    id: [u8; HANDLE_BYTES],
}

fn end_child(child: c_long) -> io::Result<()> {
    if child == 0 {
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    Ok(())
}

/// A call with two arguments by the table of 32-bit calls.
fn call_32(number: i32, first: i32, second: i32) -> io::Result<()> {
    let result: i32;
    // SAFETY: `ebx`, which can not be named, is put back; the callers pass no addresses.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {first}",
            "int 0x80",
            "xchg rbx, {first}",
            first = inout(reg) i64::from(first) => _,
            inlateout("eax") number => result,
            in("ecx") second,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// Among an agent's own processes all of this is allowed.
pub fn among_own() -> io::Result<()> {
    // SAFETY: one thread, and the child does no more than wait for its end.
    let child = unsafe { libc::fork() };
    if child == 0 {
        loop {
            // SAFETY: takes nothing.
            unsafe { libc::pause() };
        }
    }
    let scene = Scene { outside: child, directory: Path::new("/") };
    let own =
        ["kill", "pidfd_send_signal", "ptrace", "kcmp", "pidfd_getfd", "prlimit", "setpriority"];
    let done = ACTS.iter().filter(|act| own.contains(&act.name)).try_for_each(|act| {
        (act.attempt)(scene).map_err(|error| {
            eprintln!("{}: {error}", act.name);
            error
        })
    });
    // SAFETY: the child is ours.
    unsafe { libc::kill(child, libc::SIGKILL) };
    done?;
    with_pipe(|end| fcntl(end, libc::F_SETOWN, std::process::id().into()))?;
    with_pipe(|end| fcntl(end, libc::F_SETOWN, 0))?;
    with_pipe(|end| fcntl(end, libc::F_SETFL, libc::O_ASYNC.into()))
}

/// Begins a file system.
pub fn begin_file_system() -> io::Result<OwnedFd> {
    let context = returned(libc::SYS_fsopen, [c"tmpfs".as_ptr() as c_long, 0, 0, 0, 0])?;
    // SAFETY: fresh from the kernel.
    Ok(unsafe { OwnedFd::from_raw_fd(context as i32) })
}

/// Makes a file system that was begun.
pub fn make_file_system(context: &OwnedFd) -> io::Result<()> {
    // FSCONFIG_CMD_CREATE
    call(libc::SYS_fsconfig, [fd(context), 6, 0, 0, 0])
}

/// Starts a child in the cgroup at `directory`, which no open is asked about.
pub fn clone_into(directory: &Path) -> io::Result<()> {
    let path = c_string(directory);
    let directory = returned(
        libc::SYS_openat,
        [
            libc::AT_FDCWD.into(),
            path.as_ptr() as c_long,
            (libc::O_PATH | libc::O_DIRECTORY).into(),
            0,
            0,
        ],
    )?;
    // SAFETY: integers, for which zero is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = 0x2_0000_0000;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = directory as u64;
    let size = size_of_val(&arguments) as c_long;
    let child = returned(libc::SYS_clone3, [(&raw const arguments) as c_long, size, 0, 0, 0])?;
    end_child(child)
}

fn mount_private() -> io::Result<()> {
    let flags = (libc::MS_PRIVATE | libc::MS_REC) as c_long;
    call(libc::SYS_mount, [0, c"/".as_ptr() as c_long, 0, flags, 0])
}

const F_SETSIG: i32 = 10;
const F_SETOWN_EX: i32 = 15;
const FIOSETOWN: c_ulong = 0x8901;

fn call(number: c_long, arguments: [c_long; 5]) -> io::Result<()> {
    returned(number, arguments).map(drop)
}

fn returned(number: c_long, [a, b, c, d, e]: [c_long; 5]) -> io::Result<c_long> {
    // SAFETY: the callers pass numbers, and pointers to what lives until the call is over.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, 0 as c_long) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn pidfd(process: i32) -> io::Result<OwnedFd> {
    let fd = returned(libc::SYS_pidfd_open, [process.into(), 0, 0, 0, 0])?;
    // SAFETY: fresh from the kernel.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn fd(fd: &OwnedFd) -> c_long {
    fd.as_raw_fd().into()
}

fn c_string(path: &Path) -> std::ffi::CString {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn fcntl(fd: i32, command: i32, argument: c_long) -> io::Result<()> {
    call(libc::SYS_fcntl, [fd.into(), command.into(), argument, 0, 0])
}

fn ioctl(fd: i32, command: c_ulong, argument: c_long) -> io::Result<()> {
    call(libc::SYS_ioctl, [fd.into(), command as c_long, argument, 0, 0])
}

fn with_pipe(act: impl FnOnce(i32) -> io::Result<()>) -> io::Result<()> {
    let (reader, _writer) = io::pipe()?;
    act(reader.as_raw_fd())
}

fn with_terminal(act: impl FnOnce(i32) -> io::Result<()>) -> io::Result<()> {
    let (_controller, terminal) = crate::behaviour::open_terminal();
    act(terminal.as_raw_fd())
}
