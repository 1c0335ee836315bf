//! What else this program does as the agent. What a role has to say it prints, line by line.

use std::{
    ffi::CString,
    fs,
    io::{self, IsTerminal, Write},
    net::{SocketAddr, UdpSocket},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use agent_guard::mounts::{self, MountTable};

use crate::{
    actor::{End, Report, done, follow_plan, try_in_child},
    code,
    operations::{self, Scene},
    passing,
    queries::perform,
    ring, sockets,
    support::{Act, Call},
    terminals, verifier,
};

/// Plays the role that the arguments name.
pub fn play(arguments: &[String]) {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["plan"] => follow_plan(),
        ["verifier"] => verifier::print_costs(),
        ["descend", secret, endpoint] => descend(secret, endpoint),
        ["when-moved", secret, endpoint] => when_moved(secret, endpoint),
        ["open", path] => say(try_in_child(|| fs::File::open(path).map(drop))),
        ["leave"] => leave(),
        ["operate", outside, directory] => operate(outside, directory),
        ["operate-in", cgroup, outside, directory] => {
            enter(cgroup);
            operate(outside, directory);
        }
        ["make-file-system"] => make_file_system(|| {}),
        ["make-file-system-in", cgroup] => make_file_system(|| enter(cgroup)),
        ["among-own"] => say(try_in_child(operations::among_own)),
        ["clone-into", directory] => {
            say(try_in_child(|| operations::clone_into(Path::new(directory))));
        }
        ["kill-those-in", file] => kill_those_in(Path::new(file)),
        ["crowd", count, secret] => crowd(count.parse().unwrap(), secret),
        ["run-again", sign, programs @ ..] => run_again(Path::new(sign), programs),
        ["wait"] => wait(),
        ["hold-terminal", secret] => hold_terminal(secret),
        ["meet", mine, other, allowed, denied] => meet(mine, other, allowed, denied),
        ["preempt", path, seconds] => preempt(path, seconds.parse().unwrap()),
        ["open-when", name, signs @ ..] => open_when(name, signs),
        ["await-signals", count] => await_signals(count.parse().unwrap()),
        ["terminal"] => terminal(),
        ["keep-trying", secret] => keep_trying(secret),
        ["flood", endpoint, secret, parts @ ..] => flood(endpoint, secret, parts),
        ["alternate", allowed, denied, mounted] => alternate(allowed, denied, mounted),
        ["changes", files @ ..] => changes(files),
        ["each", ways @ ..] => ways.split(|word| *word == "--").for_each(one_way),
        ["io-uring"] => say(try_in_child(io_uring)),
        ["raw-tcp"] => say(try_in_child(raw_tcp)),
        ["packet-in-disguise"] => say(try_in_child(packet_in_disguise)),
        ["share-descriptors"] => say(share_descriptors()),
        ["make-threads"] => say(try_in_child(make_threads)),
        ["open-each", at_once, files @ ..] => open_each(at_once.parse().unwrap(), files),
        ["names", steps @ ..] => perform(steps),
        ["open-as", name, path] => open_as(name, path),
        ["socket", ..] | ["netlink", ..] | ["send-on", ..] | ["accept-on", _] => {
            sockets::play(&arguments)
        }
        ["source-route"] | ["forms", _] | ["own-sockets", _] | ["listen-unbound"] => {
            sockets::play(&arguments)
        }
        other => panic!("{other:?}: no such role"),
    }
}

/// Does all that reaches out, each in a process of its own, and says what became of it.
fn enter(cgroup: &str) {
    fs::write(Path::new(cgroup).join("cgroup.procs"), "0").unwrap();
}

/// Makes a file system that was begun before what is done in between.
fn make_file_system(between: impl FnOnce()) {
    let context = operations::begin_file_system().unwrap();
    between();
    say(try_in_child(|| operations::make_file_system(&context)));
}

fn operate(outside: &str, directory: &str) {
    let scene = Scene { outside: outside.parse().unwrap(), directory: Path::new(directory) };
    for act in operations::ACTS {
        say(try_in_child(|| (act.attempt)(scene)));
    }
}

/// Kills the processes whose ids are in `file`, once it is there.
fn kill_those_in(file: &Path) {
    while !file.exists() {
        std::thread::yield_now();
    }
    for id in fs::read_to_string(file).unwrap().split_whitespace() {
        let id: i32 = id.parse().unwrap();
        say(try_in_child(|| {
            // SAFETY: takes numbers.
            done(unsafe { libc::kill(id, libc::SIGKILL) }.into()).map(drop)
        }));
    }
}

/// Opens from as many processes at once, and says how many could not.
fn crowd(count: usize, secret: &str) {
    let (mut reader, writer) = io::pipe().unwrap();
    for _ in 0..count {
        // SAFETY: one thread, so the child may do what it likes.
        if unsafe { libc::fork() } == 0 {
            let refused = open(secret).is_err();
            let _ = (&writer).write_all(if refused { b"r" } else { b"ESCAPED" });
            // SAFETY: ends the process without running what belongs to the parent.
            unsafe { libc::_exit(0) };
        }
    }
    drop(writer);
    println!("{}", io::read_to_string(&mut reader).unwrap());
}

/// Holds all output; then takes the terminal for a group of its own and has it stop whoever else writes
/// there. Is denied something under each, and goes on when that was told.
fn hold_terminal(secret: &str) {
    let terminal = 0;
    let root = Path::new(secret).parent().unwrap().parent().unwrap();
    let denied_until = |told: &str| {
        try_in_child(|| open(secret));
        while !root.join(told).exists() {
            std::thread::yield_now();
        }
    };
    // SAFETY: a descriptor and a number.
    assert_eq!(unsafe { libc::tcflow(terminal, libc::TCOOFF) }, 0);
    denied_until("told1");
    // SAFETY: numbers, and room for the settings.
    unsafe {
        assert_eq!(libc::tcflow(terminal, libc::TCOON), 0);
        libc::signal(libc::SIGTTOU, libc::SIG_IGN);
        assert_eq!(libc::setpgid(0, 0), 0);
        assert_eq!(libc::tcsetpgrp(terminal, libc::getpid()), 0);
        let mut settings = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(terminal, &mut settings), 0);
        settings.c_lflag |= libc::TOSTOP;
        assert_eq!(libc::tcsetattr(terminal, libc::TCSANOW, &settings), 0);
    }
    denied_until("told2");
}

/// Says that it is there, and waits for SIGUSR1.
fn wait() {
    let set = block(&[libc::SIGUSR1]);
    println!("ready {}", std::process::id());
    wait_for_signal(&set);
}

/// Runs each program; and once more after SIGUSR1, when `sign` can be read.
fn run_again(sign: &Path, programs: &[&str]) {
    let run = |program: &&str| say(try_in_child(|| code::attempt(&["run", program])));
    programs.iter().for_each(run);
    wait();
    while try_in_child(|| fs::read(sign).map(drop)).end != End::Done {
        std::thread::yield_now();
    }
    programs.iter().for_each(run);
}

/// Opens each of these files, those beyond the first `at_once` after a SIGUSR1 each; and ends after another.
fn open_each(at_once: usize, files: &[&str]) {
    let set = block(&[libc::SIGUSR1]);
    for (count, file) in (1..).zip(files) {
        if count > at_once {
            wait_for_signal(&set);
        }
        say(try_in_child(|| open(file)));
        println!("opened {count}");
    }
    wait_for_signal(&set);
}

fn one_way(words: &[&str]) {
    say(try_in_child(|| match words {
        ["code", way @ ..] => code::attempt(way),
        ["descriptor", way @ ..] => passing::attempt(way),
        ["ring", way @ ..] => ring::attempt(way),
        ["terminal", way @ ..] => terminals::attempt(way),
        ["shell", command] => {
            // Standard output is for reports.
            Err(Command::new("/bin/sh").args(["-c", command]).stdout(Stdio::null()).exec())
        }
        other => panic!("{other:?}: no such way"),
    }));
}

pub fn say(report: Report) {
    println!("{}", serde_json::to_string(&report).unwrap());
}

fn open(path: &str) -> io::Result<()> {
    Act::Read(path.to_owned()).attempt(None, Call::Openat)
}

fn connect(endpoint: &str) -> io::Result<()> {
    Act::Connect(endpoint.to_owned()).attempt(None, Call::Openat)
}

/// Opens and connects as a grandchild in a session of its own, whose parent is gone.
fn descend(secret: &str, endpoint: &str) {
    let orphaned = |action: &dyn Fn() -> io::Result<()>| {
        let (mut reader, mut writer) = io::pipe().unwrap();
        try_in_child(|| {
            rustix::process::setsid()?;
            // SAFETY: one thread.
            if unsafe { libc::fork() } == 0 {
                let report = try_in_child(action);
                writeln!(writer, "{}", serde_json::to_string(&report)?)?;
            }
            Ok(())
        });
        drop(writer);
        io::copy(&mut reader, &mut io::stdout()).unwrap();
    };
    orphaned(&|| open(secret));
    orphaned(&|| connect(endpoint));
}

/// Opens and connects once SIGUSR1 tells that it was moved to another cgroup.
fn when_moved(secret: &str, endpoint: &str) {
    let set = block(&[libc::SIGUSR1]);
    println!("ready {}", std::process::id());
    wait_for_signal(&set);
    say(try_in_child(|| open(secret)));
    say(try_in_child(|| connect(endpoint)));
}

/// Moves to the cgroup above.
fn leave() {
    fs::write(own_cgroup().parent().unwrap().join("cgroup.procs"), "0").unwrap();
    println!("left");
}

fn own_cgroup() -> PathBuf {
    let mounts = MountTable::open().unwrap().read().unwrap();
    let places = fs::read_to_string("/proc/self/cgroup").unwrap();
    let place = places.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    // A mount of the tree itself has its root there.
    let whole = mounts::cgroup2(&mounts).unwrap();
    if place.is_empty() { whole.to_owned() } else { whole.join(place) }
}

/// Rounds of opening what is allowed and what is denied, while another agent is known to do the same.
const ROUNDS: usize = 100;

fn meet(mine: &str, other: &str, allowed: &str, denied: &str) {
    fs::create_dir(mine).unwrap();
    // A directory that is looked at, not opened: what the other may open is not the question here.
    while !Path::new(other).exists() {
        std::thread::yield_now();
    }
    for _ in 0..ROUNDS {
        say(try_in_child(|| open(allowed)));
        say(try_in_child(|| open(denied)));
    }
}

/// Blocks `signals` and returns the set.
fn block(signals: &[libc::c_int]) -> libc::sigset_t {
    // SAFETY: a set that is initialised before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        set
    }
}

fn wait_for_signal(set: &libc::sigset_t) -> libc::c_int {
    let mut signal = 0;
    // SAFETY: an initialised set, and room for the answer.
    assert_eq!(unsafe { libc::sigwait(set, &mut signal) }, 0);
    signal
}

fn await_signals(count: usize) {
    let set = block(&[libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1, libc::SIGINT]);
    println!("ready");
    for _ in 0..count {
        println!("got {}", wait_for_signal(&set));
    }
}

/// How often SIGINT came before SIGUSR1 did.
fn terminal() {
    static INTERRUPTS: AtomicU32 = AtomicU32::new(0);
    extern "C" fn count(_: libc::c_int) {
        INTERRUPTS.fetch_add(1, Ordering::Relaxed);
    }
    let set = block(&[libc::SIGUSR1]);
    // SAFETY: the handler only adds to an atomic number.
    unsafe { libc::signal(libc::SIGINT, count as *const () as libc::sighandler_t) };
    let mut out = io::stdout();
    println!(
        "terminal {} {} {}",
        io::stdin().is_terminal(),
        out.is_terminal(),
        io::stderr().is_terminal()
    );
    println!("ready");
    out.flush().unwrap();
    wait_for_signal(&set);
    println!("interrupts {}", INTERRUPTS.load(Ordering::Relaxed));
}

/// Tries until it is killed.
fn keep_trying(secret: &str) {
    for round in 0.. {
        if try_in_child(|| open(secret)).end == End::Done {
            println!("ESCAPED");
        }
        if round == 0 {
            println!("ready {}", std::process::id());
        }
    }
}

/// How often one thread opens at most.
const ENOUGH: u64 = 20_000;

/// Opens the same in two threads, one of which keeps waking up and takes the processor from the other, in the kernel
/// too where that can be preempted. Says how many could be opened, how many were tried, and how often one of the
/// threads was interrupted.
fn preempt(path: &str, seconds: u64) {
    let path = CString::new(path).unwrap();
    let end = Instant::now() + Duration::from_secs(seconds);
    let open_until_end = |pause: Option<Duration>| {
        let (mut opened, mut tried) = (0_u64, 0_u64);
        while Instant::now() < end && tried < ENOUGH {
            pause.map(std::thread::sleep);
            // SAFETY: a path with its end; what is opened is closed.
            unsafe {
                match libc::open(path.as_ptr(), libc::O_RDONLY) {
                    -1 => {}
                    fd => {
                        opened += 1;
                        libc::close(fd);
                    }
                }
            }
            tried += 1;
        }
        (opened, tried)
    };
    // On one processor, where each can only run in place of the other.
    // SAFETY: a set of processors, of this process, which may be moved to where it is.
    unsafe {
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu() as usize, &mut one);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&one), &one), 0);
    }
    let (of_slow, of_fast) = std::thread::scope(|scope| {
        let slow = scope.spawn(|| {
            // SAFETY: numbers; 0 is the calling thread.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
            open_until_end(None)
        });
        let fast = open_until_end(Some(Duration::from_micros(20)));
        (slow.join().unwrap(), fast)
    });
    // SAFETY: room for the answer.
    let usage = unsafe {
        let mut usage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut usage), 0);
        usage
    };
    println!("{} {} {}", of_slow.0 + of_fast.0, of_slow.1 + of_fast.1, usage.ru_nivcsw);
}

/// Opens a terminal as each of the signs comes to be there, by a process that has left the session.
fn open_when(name: &str, signs: &[&str]) {
    println!("ready");
    for sign in signs {
        while !Path::new(sign).exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
        say(try_in_child(|| terminals::attempt(&["read in another session", name])));
    }
}

/// Connects as fast as it goes, for each part once SIGUSR1 comes: `count` times at least, and until `sign` is
/// there. Opens once it comes again.
fn flood(endpoint: &str, secret: &str, parts: &[&str]) {
    let endpoint: SocketAddr = endpoint.parse().unwrap();
    let set = block(&[libc::SIGUSR1]);
    println!("ready {}", std::process::id());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (number, part) in (1..).zip(parts.chunks(2)) {
        let (count, sign): (u64, _) = (part[0].parse().unwrap(), Path::new(part[1]));
        wait_for_signal(&set);
        let (mut tried, mut through) = (0, 0);
        while tried < count || !sign.exists() {
            through += (0..1000).filter(|_| socket.connect(endpoint).is_ok()).count();
            tried += 1000;
            if tried == 1000 {
                println!("flooding");
            }
        }
        println!("part {number} {through} of {tried}");
    }
    wait_for_signal(&set);
    say(try_in_child(|| open(secret)));
}

/// Opens each file in turn, until SIGUSR1 comes, and says of each when another thing came of it than before.
fn changes(files: &[&str]) {
    let set = block(&[libc::SIGUSR1]);
    let mut before = vec![None; files.len()];
    loop {
        for (file, before) in files.iter().zip(&mut before) {
            let end = try_in_child(|| open(file)).end;
            if before.replace(end) != Some(end) {
                println!("{file} {end:?}");
            }
        }
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: an initialised set, no room for details, and a time.
        if unsafe { libc::sigtimedwait(&set, std::ptr::null_mut(), &now) } == libc::SIGUSR1 {
            return;
        }
    }
}

/// Opens in turn what is always allowed, what is always denied, and what lies on a mount that comes
/// and goes, until SIGUSR1 comes. Says what it reads there.
fn alternate(allowed: &str, denied: &str, mounted: &str) {
    let set = block(&[libc::SIGUSR1]);
    let mut seen = String::new();
    loop {
        match try_in_child(|| open(allowed)).end {
            End::Done => {}
            end => println!("ALLOWED FAILED {end:?}"),
        }
        if try_in_child(|| open(denied)).end == End::Done {
            println!("DENIED SUCCEEDED");
        }
        let (mut reader, mut writer) = io::pipe().unwrap();
        try_in_child(|| writer.write_all(&fs::read(mounted)?));
        drop(writer);
        let now = io::read_to_string(&mut reader).unwrap();
        if !now.is_empty() && now != seen {
            println!("seen {now}");
            seen = now;
        }
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: an initialised set, no room for details, and a time.
        if unsafe { libc::sigtimedwait(&set, std::ptr::null_mut(), &now) } == libc::SIGUSR1 {
            return;
        }
    }
}

fn io_uring() -> io::Result<()> {
    let mut parameters = [0_u8; 256];
    // SAFETY: room for `struct io_uring_params`, which has 120 bytes.
    match unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, parameters.as_mut_ptr()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Connects a raw socket that carries the number of TCP.
fn raw_tcp() -> io::Result<()> {
    // SAFETY: plain numbers.
    let socket =
        done(unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP) }.into())?;
    let to = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    };
    // SAFETY: an address with its size.
    done(unsafe { libc::connect(socket, (&raw const to).cast(), size_of_val(&to) as u32) }.into())?;
    Ok(())
}

/// Sends a frame on loopback from a packet socket, to an address that says that it is a local one.
fn packet_in_disguise() -> io::Result<()> {
    let experimental = 0x88b5_u16.to_be();
    // SAFETY: plain numbers.
    let socket =
        unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM, i32::from(experimental)) };
    let socket = done(socket.into())?;
    let to = libc::sockaddr_ll {
        sll_family: libc::AF_UNIX as u16,
        sll_protocol: experimental,
        sll_ifindex: 1,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    let frame = [0_u8; 60];
    // SAFETY: a buffer and an address with their sizes.
    let sent = unsafe {
        libc::sendto(
            socket,
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size_of_val(&to) as u32,
        )
    };
    done(sent as i64)?;
    Ok(())
}

/// Makes a process that shares its descriptors, and says how that one ended.
fn share_descriptors() -> Report {
    // SAFETY: without CLONE_VM it is a fork; the child ends at once.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES | libc::SIGCHLD, 0, 0, 0, 0) };
    if pid == 0 {
        // SAFETY: ends the process without running what belongs to the parent.
        unsafe { libc::_exit(0) };
    }
    let pid = done(pid).unwrap();
    let mut status = 0;
    // SAFETY: the child is ours.
    done(unsafe { libc::waitpid(pid, &mut status, 0) }.into()).unwrap();
    let end =
        if libc::WIFSIGNALED(status) { End::Signal(libc::WTERMSIG(status)) } else { End::Done };
    Report { pid: u32::try_from(pid).unwrap(), end }
}

/// Makes threads in several threads at once, and processes beside them.
fn make_threads() -> io::Result<()> {
    std::thread::scope(|scope| {
        let makers: Vec<_> = (0..4).map(|_| scope.spawn(make_many)).collect();
        makers.into_iter().try_for_each(|maker| maker.join().unwrap())
    })
}

fn make_many() -> io::Result<()> {
    for _ in 0..200 {
        std::thread::Builder::new().spawn(|| ())?.join().unwrap();
        // SAFETY: the child ends at once.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: ends the process without running what belongs to the parent.
            unsafe { libc::_exit(0) };
        }
        let pid = done(pid.into())?;
        let mut status = 0;
        // SAFETY: the child is ours.
        done(unsafe { libc::waitpid(pid, &mut status, 0) }.into())?;
        if status != 0 {
            return Err(io::Error::from_raw_os_error(libc::ECHILD));
        }
    }
    Ok(())
}

/// Opens `path` in a thread that calls itself `name`.
fn open_as(name: &str, path: &str) {
    let name = CString::new(crate::support::unescape(name)).unwrap();
    say(try_in_child(|| {
        // SAFETY: a name with its end.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
        open(path)
    }));
}
