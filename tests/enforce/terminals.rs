//! Terminals: those of others, and an agent's own.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::{actor::done, guard::PATIENCE};

/// Does what the words say.
pub fn attempt(words: &[&str]) -> io::Result<()> {
    match words {
        ["read", name] => open(name, true, false).map(drop),
        ["write", name] => open(name, false, true)?.write_all(b"x"),
        ["read and write", name] => open(name, true, true).map(drop),
        ["chmod", name] => std::fs::set_permissions(name, PermissionsExt::from_mode(0o620)),
        ["read in another session", name] => {
            rustix::process::setsid()?;
            open(name, true, false).map(drop)
        }
        ["open while others make it", directory] => keep_opening(directory),
        ["own by name"] => own_by_name(),
        ["own by its other end"] => own_by_its_other_end(),
        ["own as the session's"] => own_as_the_sessions(),
        other => panic!("{other:?}: no such way"),
    }
}

/// Not as this process's own terminal, which it would else become where it has none.
fn open(name: impl AsRef<Path>, read: bool, write: bool) -> io::Result<File> {
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    OpenOptions::new().read(read).write(write).custom_flags(flags).open(name)
}

/// The other end of a new terminal, which is still locked.
pub fn locked() -> OwnedFd {
    openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap()
}

/// The name of the terminal that has this other end.
pub fn name(other_end: impl AsFd) -> PathBuf {
    ptsname(other_end, Vec::new()).unwrap().into_string().unwrap().into()
}

/// Lets the terminal that has this other end be opened.
pub fn unlock(other_end: impl AsFd) {
    grantpt(&other_end).unwrap();
    unlockpt(&other_end).unwrap();
}

fn new() -> (OwnedFd, PathBuf) {
    let other_end = locked();
    unlock(&other_end);
    let name = name(&other_end);
    (other_end, name)
}

fn own_by_name() -> io::Result<()> {
    let (other_end, name) = new();
    std::fs::set_permissions(&name, PermissionsExt::from_mode(0o600))?;
    let terminal = open(&name, true, true)?;
    // Again, by its descriptor, and once nobody has the other end any more.
    open(format!("/proc/self/fd/{}", terminal.as_raw_fd()), true, false)?;
    drop(other_end);
    terminal.set_permissions(PermissionsExt::from_mode(0o620))
}

fn own_by_its_other_end() -> io::Result<()> {
    let (other_end, _) = new();
    // SAFETY: a descriptor, and flags; what comes back is fresh from the kernel.
    let terminal = unsafe {
        let flags = libc::O_RDWR | libc::O_NOCTTY;
        OwnedFd::from_raw_fd(done(
            libc::ioctl(other_end.as_raw_fd(), libc::TIOCGPTPEER, flags).into(),
        )?)
    };
    open(format!("/proc/self/fd/{}", terminal.as_raw_fd()), true, true).map(drop)
}

fn own_as_the_sessions() -> io::Result<()> {
    let (other_end, name) = new();
    // Closed before this process has ended it would be the end of its session.
    std::mem::forget(other_end);
    rustix::process::setsid()?;
    let terminal = open(&name, true, true)?;
    rustix::process::ioctl_tiocsctty(&terminal)?;
    open("/dev/tty", true, true)?;
    open(&name, true, true).map(drop)
}

/// Makes a terminal, gives its number back and says so; then tries to open whatever has the number, until told
/// to stop. What was noted of the first must not open another's, at whatever moment.
fn keep_opening(directory: &str) -> io::Result<()> {
    let directory = Path::new(directory);
    let (other_end, own) = new();
    drop(other_end);
    std::fs::write(directory.join("given-back"), own.to_str().unwrap())?;
    let done = directory.join("done");
    let start = std::time::Instant::now();
    while !done.exists() {
        match open(&own, true, true) {
            Ok(_) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => {}
            // Nobody has the number at the moment, or it is locked.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EIO)) => {}
            Err(error) => return Err(error),
        }
        assert!(start.elapsed() < PATIENCE, "nobody says that it is done");
        std::thread::sleep(Duration::from_micros(10));
    }
    Err(io::Error::from_raw_os_error(libc::EACCES))
}
