//! The other side of the tests: this program again, as the agent. A plan comes in on standard input,
//! what became of it goes out on standard output, so that nothing but the plan is opened.

use std::{
    ffi::{CString, OsStr},
    io::{self, Read, Write},
    net::SocketAddr,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr as UnixAddr, UnixDatagram, UnixStream},
        },
    },
};

use serde::{Deserialize, Serialize};

use crate::support::{Act, Call, endpoint_parts, unescape};

/// One action, placeholders filled in.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Step {
    pub act: Act,
    pub from: Option<String>,
    pub call: Call,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Report {
    /// The process that tried.
    pub pid: u32,
    pub end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum End {
    Done,
    Errno(i32),
    Signal(i32),
}

impl End {
    pub fn is_refusal(self) -> bool {
        // EXDEV: for a rename or link between places of which the policy says different things.
        matches!(self, Self::Errno(libc::EACCES | libc::EPERM | libc::EXDEV))
    }
}

/// Tries every step in a process of its own, one after the other.
pub fn follow_plan() {
    let mut plan = String::new();
    io::stdin().read_to_string(&mut plan).unwrap();
    let steps: Vec<Step> = serde_json::from_str(&plan).unwrap();
    let mut out = io::stdout().lock();
    for step in &steps {
        let report = try_in_child(|| step.act.attempt(step.from.as_deref(), step.call));
        writeln!(out, "{}", serde_json::to_string(&report).unwrap()).unwrap();
    }
}

/// Runs `action` in a child. What it returns, or what ended it, comes back.
pub fn try_in_child(action: impl FnOnce() -> io::Result<()>) -> Report {
    let (mut reader, writer) = io::pipe().unwrap();
    // SAFETY: this program has one thread here, so the child may do what it likes.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "{}", io::Error::last_os_error());
    if pid == 0 {
        drop(reader);
        // Closed by an exec that succeeds.
        let mut writer = writer;
        let code = match action() {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        };
        let _ = writer.write_all(&code.to_ne_bytes());
        // SAFETY: ends the process without running what belongs to the parent.
        unsafe { libc::_exit(0) };
    }
    drop(writer);
    let mut said = Vec::new();
    reader.read_to_end(&mut said).unwrap();
    let mut status = 0;
    // SAFETY: the child is ours and nobody else waits for it.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    let end = match <[u8; 4]>::try_from(said.as_slice()).map(i32::from_ne_bytes) {
        _ if libc::WIFSIGNALED(status) => End::Signal(libc::WTERMSIG(status)),
        Ok(0) => End::Done,
        Ok(errno) => End::Errno(errno),
        // Another program, which says no more than how it ended.
        Err(_) => match libc::WEXITSTATUS(status) {
            0 => End::Done,
            _ => End::Errno(libc::EIO),
        },
    };
    Report { pid: u32::try_from(pid).unwrap(), end }
}

impl Act {
    /// Does it.
    pub fn attempt(&self, from: Option<&str>, call: Call) -> io::Result<()> {
        if let Some(from) = from {
            std::env::set_current_dir(from)?;
        }
        let open = |path: &str, flags| open(&unescape(path), flags, call).map(drop);
        match self {
            Self::Read(path) => open(path, libc::O_RDONLY),
            Self::Write(path) => open(path, libc::O_WRONLY),
            Self::ReadWrite(path) => open(path, libc::O_RDWR),
            Self::Create(path) => open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC),
            Self::Truncate(path) => open(path, libc::O_RDONLY | libc::O_TRUNC),
            Self::List(path) => open(path, libc::O_RDONLY | libc::O_DIRECTORY),
            Self::Exec(path) => Err(exec(&unescape(path))),
            Self::Connect(to) => {
                let (socket, addr) = socket_for(to)?;
                with_raw(addr, |raw, len| {
                    // SAFETY: an address and its length.
                    check(unsafe { libc::connect(socket.as_raw_fd(), raw, len) }.into()).map(drop)
                })
            }
            Self::Send(to) => {
                let (socket, addr) = socket_for(to)?;
                with_raw(addr, |raw, len| {
                    // SAFETY: a byte, an address and its length.
                    let sent = unsafe {
                        libc::sendto(socket.as_raw_fd(), b"x".as_ptr().cast(), 1, 0, raw, len)
                    };
                    check(sent as i64).map(drop)
                })
            }
            Self::Listen(on) => {
                let (socket, addr) = socket_for(on)?;
                with_raw(addr, |raw, len| {
                    // SAFETY: an address and its length.
                    check(unsafe { libc::bind(socket.as_raw_fd(), raw, len) }.into()).map(drop)
                })?;
                if on.ends_with("/tcp") {
                    // SAFETY: takes numbers.
                    check(unsafe { libc::listen(socket.as_raw_fd(), 1) }.into())?;
                }
                Ok(())
            }
            Self::ConnectStream(to) => UnixStream::connect_addr(&local(to)).map(drop),
            Self::ConnectDatagram(to) => UnixDatagram::unbound()?.connect_addr(&local(to)),
            Self::SendDatagram(to) => {
                UnixDatagram::unbound()?.send_to_addr(b"x", &local(to)).map(drop)
            }
            Self::ReopenPipe(directory) => {
                let (reader, _writer) = io::pipe()?;
                open(&format!("{directory}/{}", reader.as_raw_fd()), libc::O_RDONLY)
            }
            Self::Nameless(directory) => open(directory, libc::O_WRONLY | libc::O_TMPFILE),
            Self::Name { from, to } => {
                let file = super::actor::open(
                    &unescape(from),
                    libc::O_WRONLY | libc::O_TMPFILE,
                    Call::Openat,
                )?;
                let name = format!("/proc/self/fd/{}", file.as_raw_fd());
                two_paths(&name, to, |from, to| {
                    // SAFETY: two paths with their ends.
                    unsafe {
                        libc::linkat(
                            libc::AT_FDCWD,
                            from,
                            libc::AT_FDCWD,
                            to,
                            libc::AT_SYMLINK_FOLLOW,
                        )
                    }
                })
            }
            Self::Rename { from, to } => two_paths(from, to, |from, to| {
                // SAFETY: whole paths, and numbers.
                unsafe { libc::renameat2(libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) }
            }),
            Self::Exchange { from, to } => two_paths(from, to, |from, to| {
                // SAFETY: whole paths, and numbers.
                unsafe {
                    libc::renameat2(libc::AT_FDCWD, from, libc::AT_FDCWD, to, libc::RENAME_EXCHANGE)
                }
            }),
            Self::HardLink { from, to } => {
                two_paths(from, to, |from, to| {
                    // SAFETY: whole paths, and numbers.
                    unsafe { libc::link(from, to) }
                })
            }
            Self::Mkdir(path) => one_path(path, |path| {
                // SAFETY: whole paths, and numbers.
                unsafe { libc::mkdir(path, 0o700) }
            }),
            Self::Rmdir(path) => one_path(path, |path| {
                // SAFETY: whole paths, and numbers.
                unsafe { libc::rmdir(path) }
            }),
            Self::Remove(path) => one_path(path, |path| {
                // SAFETY: whole paths, and numbers.
                unsafe { libc::unlink(path) }
            }),
            Self::Symlink(path) => {
                one_path(path, |path| {
                    // SAFETY: whole paths, and numbers.
                    unsafe { libc::symlink(c"/nowhere".as_ptr(), path) }
                })
            }
            Self::Fifo(path) => {
                one_path(path, |path| {
                    // SAFETY: whole paths, and numbers.
                    unsafe { libc::mknod(path, libc::S_IFIFO | 0o600, 0) }
                })
            }
            Self::Device(path) => one_path(path, |path| {
                // SAFETY: whole paths, and numbers.
                unsafe { libc::mknod(path, libc::S_IFBLK | 0o600, libc::makedev(7, 0)) }
            }),
            Self::Cut(path) => one_path(path, |path| {
                // SAFETY: whole paths, and numbers.
                unsafe { libc::truncate(path, 3) }
            }),
            Self::Chmod(path) => one_path(path, |path| {
                // SAFETY: whole paths, and numbers.
                unsafe { libc::chmod(path, 0o700) }
            }),
            Self::Chown(path) => one_path(path, |path| {
                // SAFETY: whole paths, and numbers.
                unsafe { libc::chown(path, 1, 1) }
            }),
            Self::Touch(path) => one_path(path, |path| {
                // SAFETY: whole paths, and numbers.
                unsafe { libc::utimensat(libc::AT_FDCWD, path, std::ptr::null(), 0) }
            }),
            Self::SetAcl(path) => one_path(path, |path| {
                // SAFETY: whole paths, and numbers.
                unsafe {
                    libc::setxattr(path, ACL.as_ptr(), LIST.as_ptr().cast(), size_of_val(&LIST), 0)
                }
            }),
            Self::RemoveAcl(path) => {
                one_path(path, |path| {
                    // SAFETY: whole paths, and numbers.
                    unsafe { libc::removexattr(path, ACL.as_ptr()) }
                })
            }
        }
    }
}

/// An access control list that says no more than a mode (`include/uapi/linux/posix_acl_xattr.h`): version 2,
/// then tag and permissions of owner, a named user, group, mask and others.
const ACL: &std::ffi::CStr = c"system.posix_acl_access";
const LIST: [u32; 11] = [
    2,
    0x0006_0001,
    u32::MAX,
    0x0004_0002,
    1,
    0x0004_0004,
    u32::MAX,
    0x0004_0010,
    u32::MAX,
    0x0004_0020,
    u32::MAX,
];

fn one_path(path: &str, call: impl FnOnce(*const libc::c_char) -> i32) -> io::Result<()> {
    let path = CString::new(unescape(path)).unwrap();
    check(call(path.as_ptr()).into()).map(drop)
}

fn two_paths(
    from: &str,
    to: &str,
    call: impl FnOnce(*const libc::c_char, *const libc::c_char) -> i32,
) -> io::Result<()> {
    let (from, to) = (CString::new(unescape(from)).unwrap(), CString::new(unescape(to)).unwrap());
    check(call(from.as_ptr(), to.as_ptr()).into()).map(drop)
}

/// What a call that returns a small number returned, or why it failed.
pub fn done(result: i64) -> io::Result<i32> {
    check(result).map(|result| result as i32)
}

/// The address of a UNIX-domain socket: a path, or `@` and an abstract name, with escapes.
pub fn local(name: &str) -> UnixAddr {
    match name.strip_prefix('@') {
        Some(name) => UnixAddr::from_abstract_name(unescape(name)).unwrap(),
        None => UnixAddr::from_pathname(OsStr::from_bytes(&unescape(name))).unwrap(),
    }
}

pub fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Longest path of one system call that is tried; longer ones are gone to step by step.
const ONE_CALL: usize = 4000;

/// Opens `path` with `flags`, however long it is.
fn open(path: &[u8], flags: i32, call: Call) -> io::Result<OwnedFd> {
    let mut path = path;
    while path.len() > ONE_CALL {
        let end = path[..ONE_CALL].iter().rposition(|byte| *byte == b'/').unwrap();
        let directory = CString::new(&path[..end]).unwrap();
        // SAFETY: a path with its end.
        check(unsafe { libc::chdir(directory.as_ptr()) }.into())?;
        path = &path[end + 1..];
    }
    let path = CString::new(path).unwrap();
    let (flags, mode) = (flags | libc::O_CLOEXEC, 0o600);
    // SAFETY: a path with its end, and for `openat2` the struct that it reads.
    let fd = unsafe {
        match call {
            Call::Open => libc::syscall(libc::SYS_open, path.as_ptr(), flags, mode),
            Call::Openat => {
                libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, mode)
            }
            Call::Openat2 => {
                let mut how: libc::open_how = std::mem::zeroed();
                how.flags = flags as u64;
                how.mode = if flags & libc::O_CREAT != 0 { mode } else { 0 };
                let size = size_of::<libc::open_how>();
                libc::syscall(
                    libc::SYS_openat2,
                    libc::AT_FDCWD,
                    path.as_ptr(),
                    &raw const how,
                    size,
                )
            }
            Call::Creat => libc::syscall(libc::SYS_creat, path.as_ptr(), mode),
        }
    };
    let fd = RawFd::try_from(check(fd)?).unwrap();
    // SAFETY: fresh from the kernel.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn exec(path: &[u8]) -> io::Error {
    let path = CString::new(path).unwrap();
    let (arguments, environment) = ([path.as_ptr(), std::ptr::null()], [std::ptr::null()]);
    // SAFETY: a path, and lists that end with null.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

fn socket_for(to: &str) -> io::Result<(OwnedFd, SocketAddr)> {
    use agent_guard_common::decide::Transport;
    let (addr, transport) = endpoint_parts(to);
    let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = match transport {
        Transport::Tcp => libc::SOCK_STREAM,
        Transport::Udp => libc::SOCK_DGRAM,
    };
    // SAFETY: takes numbers.
    let fd = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) }.into())?;
    // SAFETY: fresh from the kernel.
    Ok((unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).unwrap()) }, addr))
}

/// Acts on an address as the kernel reads it.
pub fn with_raw<T>(
    addr: SocketAddr,
    act: impl FnOnce(*const libc::sockaddr, libc::socklen_t) -> T,
) -> T {
    match addr {
        SocketAddr::V4(addr) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: addr.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(addr.ip().octets()) },
                sin_zero: [0; 8],
            };
            act((&raw const raw).cast(), size_of_val(&raw) as u32)
        }
        SocketAddr::V6(addr) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: addr.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: addr.ip().octets() },
                sin6_scope_id: 0,
            };
            act((&raw const raw).cast(), size_of_val(&raw) as u32)
        }
    }
}
