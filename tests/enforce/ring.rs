//! A client of io_uring by its bare system calls: one request at a time.

use std::{
    ffi::CString,
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    actor::{done, with_raw},
    passing::ask,
};

// Numbers of `include/uapi/linux/io_uring.h`.
const SETUP_SQPOLL: u32 = 2;
const ENTER_GETEVENTS: u32 = 1;
const ENTER_SQ_WAKEUP: u32 = 2;
const REGISTER_FILES: u32 = 2;
const REGISTER_PERSONALITY: u32 = 9;
const SQE_ASYNC: u8 = 1 << 4;
const SQE_FIXED_FILE: u8 = 1;
const OP_RECVMSG: u8 = 10;
const OP_CONNECT: u8 = 16;
const OP_OPENAT: u8 = 18;
const OP_READ: u8 = 22;
/// Where the two queues and the requests are mapped from.
const QUEUES_AT: libc::off_t = 0;
const REQUESTS_AT: libc::off_t = 0x1000_0000;

/// Does what the words say.
pub fn attempt(words: &[&str]) -> io::Result<()> {
    match words {
        ["open", how, path] => open(How::of(how), path),
        ["connect", how, address] => connect(How::of(how), address.parse().unwrap()),
        ["receive", how, socket, what] => receive(How::of(how), socket, what),
        other => panic!("{other:?}: no such way"),
    }
}

/// Who carries a request out, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// The task that asks.
    Plain,
    /// A worker of the kernel's.
    Worker,
    /// The kernel's thread that polls the queue.
    Poller,
    /// As [`Self::Poller`], and then by a worker.
    PollersWorker,
    /// Under credentials that were registered before.
    Personality,
    /// Into, or of, the ring's own table of files.
    Direct,
}

impl How {
    fn of(word: &str) -> Self {
        match word {
            "plain" => Self::Plain,
            "worker" => Self::Worker,
            "poller" => Self::Poller,
            "pollers-worker" => Self::PollersWorker,
            "personality" => Self::Personality,
            "direct" => Self::Direct,
            other => panic!("{other}: no such way"),
        }
    }
}

fn open(how: How, path: &str) -> io::Result<()> {
    let mut ring = Ring::new(how)?;
    let path = CString::new(path).unwrap();
    let slot = u32::from(how == How::Direct);
    let opened = ring.ask(Request {
        op: OP_OPENAT,
        file: libc::AT_FDCWD,
        address: path.as_ptr() as u64,
        slot,
        ..Request::NONE
    })?;
    if how == How::Direct {
        let mut byte = 0_u8;
        let read = ring.ask(Request {
            op: OP_READ,
            flags: SQE_FIXED_FILE,
            file: 0,
            address: &raw mut byte as u64,
            len: 1,
            ..Request::NONE
        })?;
        assert_eq!(read, 1);
    } else {
        // SAFETY: fresh from the kernel.
        drop(unsafe { OwnedFd::from_raw_fd(opened) });
    }
    Ok(())
}

fn connect(how: How, to: SocketAddr) -> io::Result<()> {
    let mut ring = Ring::new(how)?;
    // SAFETY: numbers; what comes back is fresh from the kernel.
    let socket = unsafe {
        OwnedFd::from_raw_fd(done(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0).into())?)
    };
    if how == How::Direct {
        ring.register_files(&[socket.as_raw_fd()])?;
    }
    let (flags, file) = match how {
        How::Direct => (SQE_FIXED_FILE, 0),
        _ => (0, socket.as_raw_fd()),
    };
    with_raw(to, |raw, len| {
        let request = Request {
            op: OP_CONNECT,
            flags,
            file,
            offset: len.into(),
            address: raw as u64,
            ..Request::NONE
        };
        ring.ask(request).map(drop)
    })
}

/// Asks for a descriptor as [`crate::passing`] does, and receives it through a ring.
fn receive(how: How, socket: &str, what: &str) -> io::Result<()> {
    let mut ring = Ring::new(how)?;
    let stream: UnixStream = ask(socket, what)?;
    let mut byte = [0_u8; 1];
    let mut space = [0_u64; 8];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: zeros are an empty message.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = space.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&space);
    ring.ask(Request {
        op: OP_RECVMSG,
        file: stream.as_raw_fd(),
        address: &raw mut message as u64,
        len: 1,
        ..Request::NONE
    })?;
    // A header of 16 bytes, then the descriptor.
    match message.msg_controllen {
        0..20 => Err(io::Error::from_raw_os_error(libc::EACCES)),
        _ => Ok(()),
    }
}

/// `struct io_uring_params`; offsets of the queues' members in each half of `offsets`.
#[repr(C)]
#[derive(Default)]
struct Parameters {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    sq: [u32; 10],
    cq: [u32; 10],
}

/// `struct io_uring_sqe`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    op: u8,
    flags: u8,
    priority: u16,
    file: i32,
    offset: u64,
    address: u64,
    len: u32,
    op_flags: u32,
    user_data: u64,
    buffer: u16,
    personality: u16,
    slot: u32,
    rest: [u64; 2],
}

impl Request {
    const NONE: Self = Self {
        op: 0,
        flags: 0,
        priority: 0,
        file: -1,
        offset: 0,
        address: 0,
        len: 0,
        op_flags: 0,
        user_data: 0,
        buffer: 0,
        personality: 0,
        slot: 0,
        rest: [0; 2],
    };
}

const _: () = assert!(size_of::<Parameters>() == 120 && size_of::<Request>() == 64);

/// A ring for one request after the other. What it maps goes with its process.
struct Ring {
    ring: OwnedFd,
    how: How,
    personality: u16,
    parameters: Parameters,
    queues: *mut u8,
    requests: *mut Request,
}

impl Ring {
    fn new(how: How) -> io::Result<Self> {
        let polled = matches!(how, How::Poller | How::PollersWorker);
        let flags = if polled { SETUP_SQPOLL } else { 0 };
        let mut parameters = Parameters { flags, sq_thread_idle: 1000, ..Parameters::default() };
        // SAFETY: the struct that the call reads and writes.
        let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, &raw mut parameters) };
        // SAFETY: fresh from the kernel.
        let ring = unsafe { OwnedFd::from_raw_fd(done(ring)?) };
        let of_requests = parameters.sq[6] + parameters.sq_entries * 4;
        let of_answers = parameters.cq[5] + parameters.cq_entries * 16;
        let queues = map(&ring, of_requests.max(of_answers) as usize, QUEUES_AT)?;
        let requests = map(&ring, parameters.sq_entries as usize * 64, REQUESTS_AT)?.cast();
        let mut ring = Self { ring, how, personality: 0, parameters, queues, requests };
        match how {
            How::Direct => ring.register_files(&[-1])?,
            How::Personality => {
                let id = ring.register(REGISTER_PERSONALITY, ptr::null(), 0)?;
                ring.personality = u16::try_from(id).unwrap();
            }
            _ => {}
        }
        Ok(ring)
    }

    /// Puts files into the ring's own table, in place of those that were there.
    fn register_files(&mut self, files: &[i32]) -> io::Result<()> {
        const UNREGISTER_FILES: u32 = 3;
        // There are none at first.
        let _ = self.register(UNREGISTER_FILES, ptr::null(), 0);
        self.register(REGISTER_FILES, files.as_ptr(), files.len()).map(drop)
    }

    fn register(&self, what: u32, data: *const i32, count: usize) -> io::Result<i32> {
        let ring = self.ring.as_raw_fd();
        // SAFETY: `count` numbers at `data`.
        done(unsafe { libc::syscall(libc::SYS_io_uring_register, ring, what, data, count) })
    }

    /// Has one request carried out, and returns what its system call would.
    fn ask(&mut self, request: Request) -> io::Result<i32> {
        let worker = matches!(self.how, How::Worker | How::PollersWorker);
        let flags = request.flags | if worker { SQE_ASYNC } else { 0 };
        let request = Request { flags, personality: self.personality, ..request };
        let [_, tail, mask, ..] = self.parameters.sq;
        let tail = self.shared(tail);
        let at = tail.load(Ordering::Relaxed);
        let place = at & self.shared(mask).load(Ordering::Relaxed);
        // SAFETY: masked to the number of requests, and to that of the array that orders them.
        unsafe {
            self.requests.add(place as usize).write(request);
            let order = self.queues.add(self.parameters.sq[6] as usize).cast::<u32>();
            order.add(place as usize).write(place);
        }
        tail.store(at + 1, Ordering::Release);
        let (ring, flags) = (self.ring.as_raw_fd(), ENTER_GETEVENTS | ENTER_SQ_WAKEUP);
        // SAFETY: numbers, and no signal mask.
        done(unsafe { libc::syscall(libc::SYS_io_uring_enter, ring, 1, 1, flags, 0_usize, 0) })?;
        match self.answer() {
            error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
            result => Ok(result),
        }
    }

    /// Takes the next answer, which has come.
    fn answer(&self) -> i32 {
        let [head, tail, mask, _, _, answers, ..] = self.parameters.cq;
        let head = self.shared(head);
        let at = head.load(Ordering::Relaxed);
        assert_ne!(at, self.shared(tail).load(Ordering::Acquire), "an answer has come");
        let place = at & self.shared(mask).load(Ordering::Relaxed);
        // SAFETY: masked to the number of answers: 8 bytes of ours, the result, and flags.
        let result = unsafe {
            let answer = self.queues.add(answers as usize + place as usize * 16);
            answer.add(8).cast::<i32>().read()
        };
        head.store(at + 1, Ordering::Release);
        result
    }

    /// A number that is shared with the kernel.
    fn shared(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: an offset that the kernel gave, in memory that stays mapped.
        unsafe { AtomicU32::from_ptr(self.queues.add(offset as usize).cast()) }
    }
}

fn map(ring: &OwnedFd, len: usize, from: libc::off_t) -> io::Result<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
    // SAFETY: new memory, wherever there is room.
    let at = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, ring.as_raw_fd(), from) };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at.cast()) }
}
