//! Signals meant for the command.
//!
//! The guard and the command share a terminal and a process group: what the terminal sends has reached
//! the command already. What a process sends to the guard is passed on, and so is the end of the
//! terminal, of which only the leader of the session is told.

use std::{
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// What is passed on to the command.
const FORWARDED: [libc::c_int; 7] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
];

/// What is only kept from ending or stopping the guard: an events file at the limit of `ulimit -f`, where
/// the write fails all the same and is counted; a command that takes the terminal for itself and has it stop
/// whoever else writes there; and input on a file that is shared with whoever asked for signals of it.
const MUTED: [libc::c_int; 3] = [libc::SIGXFSZ, libc::SIGTTOU, libc::SIGIO];

/// `si_code` of a signal that the kernel itself sent, as the terminal's are.
const SI_KERNEL: i32 = 0x80;

/// The forwarded signals, as a stream. While it exists they do nothing else to this process.
pub struct Signals {
    fd: AsyncFd<OwnedFd>,
    before: Mask,
}

/// The signals that a thread blocks.
#[derive(Clone, Copy)]
pub struct Mask(libc::sigset_t);

impl Mask {
    /// Blocks these signals and no others. Async-signal-safe.
    pub fn apply(&self) -> io::Result<()> {
        // SAFETY: the set was filled by the kernel; the old one is not asked for.
        match unsafe { libc::sigprocmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Signals {
    /// Blocks the signals and starts to collect them. To be called before any thread is started.
    pub fn collect() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigemptyset` initialises the set that the next calls fill and read; a `sigprocmask`
        // that succeeds fills `before`; the descriptor is fresh and owned by nobody else.
        let (fd, before) = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in FORWARDED.into_iter().chain(MUTED) {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr()) < 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            (OwnedFd::from_raw_fd(fd), Mask(before.assume_init()))
        };
        // SAFETY: the descriptor moves into the `AsyncFd` and closes with it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { fd, before })
    }

    /// What was blocked before: what the command is to start with.
    pub fn before(&self) -> Mask {
        self.before
    }

    /// The next signal that reached the guard and not the command.
    pub async fn next(&self) -> io::Result<libc::c_int> {
        loop {
            let info = self.fd.async_io(Interest::READABLE, read).await?;
            let signal = i32::try_from(info.ssi_signo).map_err(io::Error::other)?;
            let is_for_us_alone =
                info.ssi_code != SI_KERNEL || (signal == libc::SIGHUP && leads_session());
            if is_for_us_alone && !MUTED.contains(&signal) {
                return Ok(signal);
            }
        }
    }
}

fn leads_session() -> bool {
    rustix::process::getsid(None).is_ok_and(|leader| leader == rustix::process::getpid())
}

fn read(fd: &OwnedFd) -> io::Result<libc::signalfd_siginfo> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the kernel writes at most `size` bytes into a struct of that size.
    let count = unsafe { libc::read(fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
    match usize::try_from(count) {
        // SAFETY: it was written whole.
        Ok(count) if count == size => Ok(unsafe { info.assume_init() }),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
