//! A descriptor that arrives is judged as if it had been opened.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    net::{TcpStream, UdpSocket},
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
};

use agent_guard::tier::Tier;

use super::{
    Behaviour, actor, reports,
    ways::{AtLsm, AtTrace, Way, hold_with},
};
use crate::{
    actor::{End, done},
    guard::{Decided, Run, tier},
    passing::serve,
    scratch::Scratch,
    support::Setup,
};

pub const PROMISES: &[Behaviour] = &[
    ("what others send over a socket is judged as if opened", sent),
    ("what is taken from another process is judged as if opened", taken),
    ("what the command is started with is judged as if opened", started_with),
];

const SPEC: &str = r#"
egress:
  rules: [{name: web, effect: allow, to: ["127.0.0.1:{p1}", "127.0.0.1:{p5}"]}]
exec: {default: allow}
listen: {rules: [{effect: allow, on: ["127.0.0.1:{p5}"]}]}
unix: {rules: [{effect: allow, paths: ["{root}/socket"]}]}
files:
  rules:
    - {effect: allow, access: [read], paths: [{system}, "/proc/self/**", "{root}/fixed/**"]}
    - {name: work, effect: allow, paths: ["{root}/open/**"]}
    - {name: secrets, effect: deny, paths: ["{root}/secret/**"]}
"#;

/// What of it tier `trace` has no hooks for.
const DEGRADED: [&str; 2] = ["--allow-degraded", "listen,unix,system"];

fn place() -> Scratch {
    Scratch::with(&[
        Setup::Dir("{root}/secret".to_owned()),
        Setup::Dir("{root}/open".to_owned()),
        Setup::Dir("{root}/fixed".to_owned()),
        Setup::File("{root}/secret/key".to_owned()),
        Setup::File("{root}/open/file".to_owned()),
        Setup::File("{root}/fixed/file".to_owned()),
        Setup::Listen("127.0.0.1:{p0}/tcp".to_owned()),
        Setup::Listen("127.0.0.1:{p1}/tcp".to_owned()),
    ])
}

const SOCKET: &str = "{root}/socket";

/// One thing that is sent, and what comes of it.
const fn receives(what: &'static [&'static str; 4], at_lsm: AtLsm) -> Way {
    Way { words: what, at_lsm, at_trace: AtTrace::Unseen }
}

macro_rules! receives {
    ($what:literal) => {
        receives(&["descriptor", "receive", SOCKET, $what], AtLsm::Allowed)
    };
    ($what:literal by $by:literal) => {
        receives(&["descriptor", "receive", SOCKET, $what], AtLsm::Denied($by))
    };
}

fn sent() {
    let scratch = place();
    serve(&scratch.path("socket"), things(&scratch));
    let ways = [
        receives!("open file"),
        receives!("secret file" by "secrets"),
        receives!("secret directory" by "secrets"),
        receives!("secret path"),
        receives!("fixed file"),
        receives!("fixed file for writing" by "default"),
        receives!("another's environment" by "guarded"),
        receives!("disk" by "guarded"),
        receives!("null" by "default"),
        receives!("pipe"),
        receives!("memfd"),
        receives!("eventfd"),
        receives!("timerfd"),
        receives!("epoll"),
        receives!("signalfd" by "interface"),
        receives!("inotify" by "interface"),
        receives!("map" by "interface"),
        receives!("process" by "interface"),
        receives!("local socket"),
        receives!("socket that goes nowhere yet"),
        receives!("allowed connection"),
        receives!("denied connection" by "default"),
        receives!("denied datagrams" by "default"),
        receives!("packet socket" by "protocol"),
        Way {
            words: &["descriptor", "pass-accepted", "127.0.0.1:{p5}"],
            at_lsm: AtLsm::Allowed,
            at_trace: AtTrace::Unseen,
        },
    ];
    hold_with(&DEGRADED, &scratch, SPEC, &ways);
}

fn things(scratch: &Scratch) -> BTreeMap<&'static str, OwnedFd> {
    let open = |path: &str| OwnedFd::from(File::open(scratch.place.fill(path)).unwrap());
    let port = |number: u16| ("127.0.0.1", scratch.place.first_port + number);
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    datagrams.connect(port(0)).unwrap();
    let path_only = File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(scratch.path("secret/key"))
        .unwrap();
    let writer = File::options().write(true).open(scratch.path("fixed/file")).unwrap();
    let mut signals = std::mem::MaybeUninit::uninit();
    // `union bpf_attr`: an array of one number of four bytes.
    let map: [u32; 18] = std::array::from_fn(|word| *[2, 4, 4, 1].get(word).unwrap_or(&0));
    // SAFETY: numbers, names with their ends, a set that is initialised first, and structs of the size
    // that the kernel takes them for.
    let [memfd, event, timer, poll, signal, inotify, map, socket, packet, process] = unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        [
            libc::memfd_create(c"x".as_ptr(), libc::MFD_CLOEXEC).into(),
            libc::eventfd(0, libc::EFD_CLOEXEC).into(),
            libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC).into(),
            libc::epoll_create1(libc::EPOLL_CLOEXEC).into(),
            libc::signalfd(-1, signals.as_ptr(), libc::SFD_CLOEXEC).into(),
            libc::inotify_init1(libc::IN_CLOEXEC).into(),
            libc::syscall(libc::SYS_bpf, 0, map.as_ptr(), size_of_val(&map)),
            libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0).into(),
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0).into(),
            libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0),
        ]
        .map(fresh)
    };
    BTreeMap::from([
        ("open file", open("{root}/open/file")),
        ("secret file", open("{root}/secret/key")),
        ("secret directory", open("{root}/secret")),
        ("secret path", path_only.into()),
        ("fixed file", open("{root}/fixed/file")),
        ("fixed file for writing", writer.into()),
        ("another's environment", open("/proc/{outside}/environ")),
        ("disk", open("{disk}")),
        ("null", open("/dev/null")),
        ("pipe", io::pipe().unwrap().0.into()),
        ("memfd", memfd),
        ("eventfd", event),
        ("timerfd", timer),
        ("epoll", poll),
        ("signalfd", signal),
        ("inotify", inotify),
        ("process", process),
        ("map", map),
        ("local socket", UnixStream::pair().unwrap().0.into()),
        ("socket that goes nowhere yet", socket),
        ("allowed connection", TcpStream::connect(port(1)).unwrap().into()),
        ("denied connection", TcpStream::connect(port(0)).unwrap().into()),
        ("denied datagrams", datagrams.into()),
        ("packet socket", packet),
    ])
}

fn fresh(descriptor: i64) -> OwnedFd {
    let descriptor = done(descriptor).unwrap();
    // SAFETY: fresh from the kernel.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

fn taken() {
    let scratch = place();
    let file = |path: &str| OwnedFd::from(File::open(scratch.path(path)).unwrap());
    let mut ring = [0_u8; 256];
    // SAFETY: room for `struct io_uring_params`, which has 120 bytes.
    let ring = fresh(unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, ring.as_mut_ptr()) });
    let things = [("secret", file("secret/key")), ("open", file("open/file")), ("ring", ring)];
    serve(&scratch.path("socket"), things.into());
    let fetch = |what, at_lsm, at_trace| Way { words: what, at_lsm, at_trace };
    let ways = [
        fetch(
            &["descriptor", "fetch", "{outside}", SOCKET, "secret"],
            AtLsm::Denied("secrets"),
            AtTrace::Same,
        ),
        fetch(&["descriptor", "fetch", "{outside}", SOCKET, "open"], AtLsm::Allowed, AtTrace::Same),
        fetch(
            &["descriptor", "fetch", "{outside}", SOCKET, "ring"],
            AtLsm::Denied("interface"),
            AtTrace::Closed("detached"),
        ),
    ];
    // Taking anything from processes outside is an operation of its own.
    let spec = format!("{SPEC}system: {{rules: [{{effect: allow, operations: [trace]}}]}}\n");
    hold_with(&DEGRADED, &scratch, &spec, &ways);
}

fn started_with() {
    let scratch = place();
    // From 5 on: the agent's own pipes take the first that are free.
    let redirections = "<{root}/secret/key 2>>{root}/secret/log 5<{root}/open/file 6>/dev/null \
                        7<{root}/fixed/file 8<{root}/secret/key 9>>{root}/fixed/file";
    let words = ["read 0", "write 2", "read 5", "write 6", "read 7", "read 8", "write 9"];
    let words = words.map(|way| format!("descriptor {way}")).join(" -- ");
    let words: Vec<&str> = ["each"].into_iter().chain(words.split(' ')).collect();
    fs::write(scratch.path("secret/log"), "").unwrap();
    let outcome = Run::under(&scratch.place.fill(SPEC))
        .with(&DEGRADED)
        .redirected(&scratch.place.fill(redirections))
        .go(&actor(&scratch, &words));
    outcome.exits(0);
    let ends: Vec<End> = reports(&outcome).iter().map(|report| report.end).collect();
    let written = |file: &str| fs::read_to_string(scratch.path(file)).unwrap().contains("written");
    let denials: Vec<_> = outcome.decided().filter(Decided::is_denial).collect();
    if tier() != Tier::Lsm {
        assert_eq!(ends, [End::Done; 7], "what it was started with stays usable there");
        assert!(written("secret/log") && written("fixed/file"));
        assert!(denials.is_empty());
        return;
    }
    let closed = End::Errno(libc::EBADF);
    let null = End::Errno(libc::ENODATA);
    let done = End::Done;
    assert_eq!(ends, [null, done, done, done, done, closed, closed]);
    assert!(!written("secret/log"), "standard error went to a denied file");
    assert!(!written("fixed/file"), "a file that may only be read was written");
    let told: Vec<_> = denials.iter().map(|event| (event.path().unwrap(), event.by())).collect();
    let at = |file: &str| scratch.path(file).to_str().unwrap().to_owned();
    let (key, log, fixed) = (at("secret/key"), at("secret/log"), at("fixed/file"));
    let due = [(&*key, "secrets"), (&*fixed, "default"), (&*key, "secrets"), (&*log, "secrets")];
    assert_eq!(told, due);
}
