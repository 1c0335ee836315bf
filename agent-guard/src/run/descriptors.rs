//! What the command inherits. At tier `lsm` a descriptor that arrives with the start is judged as if the
//! command had opened it: by opening it again from inside the agent, so that it is the kernel that decides
//! and tells.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
};

use agent_guard_common::guarded::{Node, is_guarded, is_ptmx};
use rustix::{
    fs::{self, FileType, Mode, OFlags, Stat},
    io::{Errno, FdFlags},
    net::{self, AddressFamily},
    path::DecInt,
    stdio, termios,
};

/// The first descriptor that is not standard input, output or error.
const FIRST_OTHER: RawFd = 3;

/// `s_magic` of pipes; a FIFO has a name, and the file system of that.
const PIPE_MAGIC: u64 = 0x5049_5045;

/// The descriptors that a command is about to inherit.
pub struct Inherited {
    /// Those above 2 that an exec leaves open. The guard's own are not among them.
    others: Vec<RawFd>,
    /// What takes the place of a standard stream that is refused, opened outside of the agent.
    null: File,
}

impl Inherited {
    /// What a child of this process would inherit.
    ///
    /// # Errors
    /// `/proc/self/fd` can not be listed, or `/dev/null` not opened.
    pub fn of_this_process() -> io::Result<Self> {
        let mut others = Vec::new();
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let name = entry?.file_name();
            let number: Option<RawFd> = name.to_str().and_then(|name| name.parse().ok());
            others.extend(number.filter(|number| *number >= FIRST_OTHER && is_inherited(*number)));
        }
        let null = File::options().read(true).write(true).open("/dev/null")?;
        Ok(Self { others, null })
    }

    /// Judges every descriptor; what is refused is closed, a standard stream replaced by `/dev/null`. To be
    /// called in the child, in the agent's cgroup, before anything else is given up. Allocates nothing.
    ///
    /// # Errors
    /// Descriptors could not be closed, or a standard stream not replaced: the command must not start.
    pub fn judge(&self) -> io::Result<()> {
        close_all_at_exec()?;
        let own = own_descriptors();
        for number in &self.others {
            // SAFETY: it was open when the process forked, and nothing in between closes any.
            let descriptor = unsafe { BorrowedFd::borrow_raw(*number) };
            if passes(descriptor, own.as_ref(), Role::Other) {
                rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?;
            }
        }
        let passes = |stream: BorrowedFd<'_>| passes(stream, own.as_ref(), Role::StandardStream);
        if !passes(stdio::stdin()) {
            stdio::dup2_stdin(&self.null)?;
        }
        if !passes(stdio::stdout()) {
            stdio::dup2_stdout(&self.null)?;
        }
        if !passes(stdio::stderr()) {
            stdio::dup2_stderr(&self.null)?;
        }
        Ok(())
    }
}

fn is_inherited(number: RawFd) -> bool {
    // SAFETY: a number that is closed meanwhile, as that of the listing itself, is only an error.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(descriptor).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC))
}

/// Whatever was not listed is closed too.
fn close_all_at_exec() -> io::Result<()> {
    // SAFETY: takes numbers, and closes nothing before the exec.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, FIRST_OTHER, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The directory of this process's own descriptors. As a mere path, which is not judged.
fn own_descriptors() -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::open(c"/proc/self/fd", flags, Mode::empty())
}

/// What a descriptor is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    StandardStream,
    Other,
}

/// Whether the command may keep it. What can not be found out is refused.
fn passes(descriptor: BorrowedFd<'_>, own: Result<&OwnedFd, &Errno>, role: Role) -> bool {
    let (Ok(stat), Ok(flags), Ok(own)) = (fs::fstat(descriptor), fs::fcntl_getfl(descriptor), own)
    else {
        return false;
    };
    // It gives no access, and opening it again is judged.
    if flags.contains(OFlags::PATH) {
        return true;
    }
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo if is_pipe(descriptor) => true,
        // All of somebody's terminal passes through it, and what it is opened again as is another.
        FileType::CharacterDevice if role == Role::Other && is_other_end(&stat) => false,
        FileType::CharacterDevice if termios::isatty(descriptor) || is_harmless(&stat) => true,
        FileType::Socket => role == Role::StandardStream && is_unconnected_or_local(descriptor),
        kind => may_be_opened_again(descriptor, own.as_fd(), flags, kind),
    }
}

fn is_pipe(descriptor: BorrowedFd<'_>) -> bool {
    fs::fstatfs(descriptor).is_ok_and(|system| u64::try_from(system.f_type) == Ok(PIPE_MAGIC))
}

fn is_other_end(stat: &Stat) -> bool {
    let (mode, rdev) = device(stat);
    is_ptmx(mode, rdev)
}

/// Mode and device number, as the kernel has them.
fn device(stat: &Stat) -> (u16, u32) {
    let rdev = fs::major(stat.st_rdev) << 20 | fs::minor(stat.st_rdev);
    (u16::try_from(stat.st_mode & 0xffff).unwrap_or(u16::MAX), rdev)
}

/// A device as harmless as `null`.
fn is_harmless(stat: &Stat) -> bool {
    let (mode, rdev) = device(stat);
    !is_guarded(&Node { magic: 0, mode, rdev }, true)
}

/// Where a socket goes that is not connected yet is judged when it is.
fn is_unconnected_or_local(socket: BorrowedFd<'_>) -> bool {
    match net::sockopt::socket_domain(socket) {
        Ok(AddressFamily::UNIX) => true,
        Ok(AddressFamily::INET | AddressFamily::INET6) => {
            net::getpeername(socket).err() == Some(Errno::NOTCONN)
        }
        _ => false,
    }
}

/// Opens the same file once more, for what this descriptor is good for.
fn may_be_opened_again(
    descriptor: BorrowedFd<'_>,
    own: BorrowedFd<'_>,
    flags: OFlags,
    kind: FileType,
) -> bool {
    let access = match flags & OFlags::RWMODE {
        access @ (OFlags::RDONLY | OFlags::WRONLY) => access,
        _ => OFlags::RDWR,
    };
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match fs::openat(own, DecInt::from_fd(descriptor), flags, Mode::empty()) {
        Ok(_) => true,
        // A FIFO that nobody reads: the guard is asked before that is noticed.
        Err(Errno::NXIO) => kind == FileType::Fifo,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn keeps(descriptor: impl AsFd, role: Role) -> bool {
        let own = own_descriptors();
        passes(descriptor.as_fd(), own.as_ref(), role)
    }

    #[test]
    fn pipes_null_and_what_can_be_opened_again_pass() {
        let (reader, writer) = io::pipe().unwrap();
        let file = tempfile::tempfile().unwrap();
        let null = File::open("/dev/null").unwrap();
        let directory = File::open("/").unwrap();
        for role in [Role::StandardStream, Role::Other] {
            assert!(keeps(&reader, role) && keeps(&writer, role));
            assert!(keeps(&null, role) && keeps(&directory, role));
            assert!(keeps(&file, role), "a file without a name can be opened again too");
        }
    }

    #[test]
    fn a_connection_does_not_pass_and_other_sockets_pass_as_standard_streams_only() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (local, _other) = UnixStream::pair().unwrap();
        assert!(keeps(&listener, Role::StandardStream) && keeps(&local, Role::StandardStream));
        assert!(!keeps(&listener, Role::Other) && !keeps(&local, Role::Other));
        assert!(!keeps(&connected, Role::StandardStream) && !keeps(&connected, Role::Other));
    }

    #[test]
    fn the_other_end_of_a_terminal_passes_as_a_standard_stream_only() {
        let other_end = File::options().read(true).write(true).open("/dev/ptmx").unwrap();
        assert!(keeps(&other_end, Role::StandardStream) && !keeps(&other_end, Role::Other));
    }

    #[test]
    fn what_is_no_file_does_not_pass() {
        // SAFETY: numbers; what comes back is fresh from the kernel.
        let event = unsafe {
            let event = libc::eventfd(0, libc::EFD_CLOEXEC);
            <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(event)
        };
        assert!(!keeps(&event, Role::StandardStream) && !keeps(&event, Role::Other));
    }

    #[test]
    fn what_is_closed_at_exec_is_not_inherited() {
        let file = File::open("/dev/null").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        assert!(!is_inherited(number));
        rustix::io::fcntl_setfd(&file, FdFlags::empty()).unwrap();
        assert!(is_inherited(number));
        assert!(Inherited::of_this_process().unwrap().others.contains(&number));
    }
}
