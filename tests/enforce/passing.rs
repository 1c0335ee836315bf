//! Descriptors that an agent does not open: it is sent them, takes them, or is started with them.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::Arc,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::actor::done;

/// Does what the words say.
pub fn attempt(words: &[&str]) -> io::Result<()> {
    match words {
        ["receive", socket, what] => {
            let socket = ask(socket, what)?;
            receive(&socket).map(drop)
        }
        ["fetch", process, socket, what] => {
            let mut number = String::new();
            ask(socket, &format!("number of {what}"))?.read_to_string(&mut number)?;
            fetch(process.parse().unwrap(), number.parse().unwrap())
        }
        ["pass-accepted", address] => pass_accepted(address),
        ["read", number] => read_some(number.parse().unwrap()),
        ["write", number] => write_some(number.parse().unwrap()),
        other => panic!("{other:?}: no such way"),
    }
}

/// Tells a server at `socket` what is wanted.
pub fn ask(socket: &str, what: &str) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(what.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    Ok(stream)
}

/// The descriptor that comes with the next message. That none does is a refusal.
fn receive(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    assert_eq!(message.bytes, 1, "the message itself arrives");
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.ok_or_else(|| io::Error::from_raw_os_error(libc::EACCES))
}

fn send(socket: &UnixStream, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(socket, &[IoSlice::new(b"x")], &mut control, SendFlags::empty())?;
    Ok(())
}

fn fetch(process: u32, number: RawFd) -> io::Result<()> {
    // SAFETY: numbers; what comes back is fresh from the kernel.
    unsafe {
        let process = done(libc::syscall(libc::SYS_pidfd_open, process, 0))?;
        let process = OwnedFd::from_raw_fd(process);
        let fetched = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0);
        drop(OwnedFd::from_raw_fd(done(fetched)?));
    }
    Ok(())
}

/// Accepts a connection and hands it to itself, as a server does to its workers.
fn pass_accepted(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let _client = TcpStream::connect(address)?;
    let (accepted, _) = listener.accept()?;
    let (one, other) = UnixStream::pair()?;
    send(&one, accepted.as_fd())?;
    receive(&other).map(drop)
}

fn read_some(number: RawFd) -> io::Result<()> {
    let mut byte = 0_u8;
    // SAFETY: room for a byte.
    match done(unsafe { libc::read(number, (&raw mut byte).cast(), 1) } as i64)? {
        0 => Err(io::Error::from_raw_os_error(libc::ENODATA)),
        _ => Ok(()),
    }
}

fn write_some(number: RawFd) -> io::Result<()> {
    let text = b"written";
    // SAFETY: bytes and their number.
    done(unsafe { libc::write(number, text.as_ptr().cast(), text.len()) } as i64).map(drop)
}

/// Sends whoever connects to `at` what it asks for by name, or tells the number that it has here.
pub fn serve(at: &Path, things: BTreeMap<&'static str, OwnedFd>) {
    let listener = UnixListener::bind(at).unwrap();
    let things = Arc::new(things);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // Who went away does not want it.
            let _ = stream.and_then(|stream| answer(stream, &things));
        }
    });
}

fn answer(mut stream: UnixStream, things: &BTreeMap<&'static str, OwnedFd>) -> io::Result<()> {
    let mut what = String::new();
    stream.read_to_string(&mut what)?;
    match what.strip_prefix("number of ") {
        Some(what) => stream.write_all(things[what].as_raw_fd().to_string().as_bytes()),
        None => send(&stream, things[what.as_str()].as_fd()),
    }
}
