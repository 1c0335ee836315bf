//! Sockets: which there are, who made them, and what they may be told. The answers to addresses are in
//! the corpus.

use std::{
    fs,
    io::Write as _,
    net::{TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::{UnixDatagram, UnixStream},
    },
    path::Path,
    process::{Command, Stdio},
};

use agent_guard::tier::Tier;
use rustix::process::Signal;

use super::{
    ALLOW_ALL, Behaviour, actor,
    begin::{mark, never_started},
    reports,
};
use crate::{
    actor::{End, Report},
    guard::{Decided, Outcome, Run, tier},
    scratch::Scratch,
    support::Setup,
};

pub const PROMISES: &[Behaviour] = &[
    ("families and protocols that no rule can name are not to be had", families),
    ("the kernel may be asked for interfaces and routes, and told nothing", netlink),
    ("a connection that was handed in is judged by its far end", handed_in),
    ("what was handed in over UNIX-domain sockets stays usable", handed_in_local),
    ("a listener that was handed in is judged by its address", handed_in_listener),
    ("no socket and no message has a route of its own", source_route),
    ("every form of connecting and sending is judged", forms),
    ("an agent reaches the sockets that it made", own_sockets),
    ("a socket that is bound nowhere listens everywhere", listen_unbound),
    (
        "a policy for sockets runs where they are judged, or where it is told that they are not",
        degraded,
    ),
];

/// What `role` came to inside and outside of an agent under `spec`; nothing where no hook sees it.
fn played(scratch: &Scratch, spec: &str, role: &[&str]) -> Option<(Outcome, Vec<Report>)> {
    let outside = outside(scratch, role);
    if tier() != Tier::Lsm {
        return None;
    }
    let outcome = Run::under(&scratch.place.fill(spec)).go(&actor(scratch, role));
    outcome.exits(0);
    Some((outcome, outside))
}

/// What `role` comes to outside of any agent.
fn outside(scratch: &Scratch, role: &[&str]) -> Vec<Report> {
    let command = actor(scratch, role);
    let outside = Command::new(&command[0]).args(&command[1..]).output().unwrap();
    assert!(outside.status.success(), "{}", String::from_utf8_lossy(&outside.stderr));
    let outside = String::from_utf8(outside.stdout).unwrap();
    outside.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What `role` came to in a process that was moved into an agent under `spec`.
fn moved_in(scratch: &Scratch, spec: &str, role: &[&str]) -> (Outcome, Vec<Report>) {
    let run = Run::under(&scratch.place.fill(spec));
    let (outcome, said) = said_moved_in(scratch, run, role);
    (outcome, said.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// What `role` said in a process that others moved into the agent of `run`, with all that it had open:
/// `run` itself hands no sockets on.
pub fn said_moved_in(scratch: &Scratch, run: Run, role: &[&str]) -> (Outcome, String) {
    let running = run.start(&actor(scratch, &["wait"]));
    running.stdout.wait_for("ready");
    let cgroup = running.events()[0]["unmapped"]["agent_guard"]["agent"]["cgroup"].clone();
    let mut newcomer = Command::new("/bin/sh")
        .args(["-c", "read go; exec \"$@\"", "sh"])
        .args(actor(scratch, role))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let procs = Path::new(cgroup.as_str().unwrap()).join("cgroup.procs");
    fs::write(procs, newcomer.id().to_string()).unwrap();
    newcomer.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let said = newcomer.wait_with_output().unwrap();
    running.signal(Signal::USR1);
    let outcome = running.finish();
    outcome.exits(0);
    (outcome, String::from_utf8(said.stdout).unwrap())
}

/// Fails unless `report` was refused, and told of once, by `by`.
#[track_caller]
fn refused<'a>(outcome: &'a Outcome, report: Report, by: &str) -> Decided<'a> {
    assert_eq!(report.end, End::Errno(libc::EACCES));
    let mut denials: Vec<_> =
        outcome.decided_by(report.pid).into_iter().filter(Decided::is_denial).collect();
    assert_eq!(denials.iter().map(Decided::by).collect::<Vec<_>>(), [by]);
    denials.remove(0)
}

#[track_caller]
fn went_on(outcome: &Outcome, report: Report) {
    assert_eq!(report.end, End::Done);
    assert!(!outcome.decided_by(report.pid).iter().any(Decided::is_denial));
}

const CLOSED: [&str; 18] = [
    "17,3,0", "17,3,768", "17,2,768", "2,3,255", "2,3,6", "10,3,58", "2,2,1", "10,2,58", "2,1,132",
    "2,2,136", "2,6,33", "40,1,0", "44,3,0", "38,5,0", "29,3,1", "16,3,4", "16,3,16", "16,2,15",
];
const OPEN: [&str; 11] = [
    "1,1,0", "1,2,0", "1,5,0", "2,1,0", "2,1,6", "2,1,262", "2,2,17", "10,1,0", "10,2,0", "16,3,0",
    "2,2050,0",
];

fn families() {
    let scratch = Scratch::new();
    let role = [&["socket"][..], &CLOSED, &OPEN].concat();
    let Some((outcome, outside)) = played(&scratch, ALLOW_ALL, &role) else { return };
    let inside = reports(&outcome);
    assert_eq!(inside.len(), CLOSED.len() + OPEN.len());
    for ((numbers, inside), outside) in role[1..].iter().zip(inside).zip(outside) {
        // Where a kernel lacks the family, nothing else is denied by it.
        let is_there = match outside.end {
            End::Done => true,
            End::Errno(
                libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT | libc::EACCES,
            ) => false,
            other => panic!("{numbers}: {other:?} outside"),
        };
        if CLOSED.contains(numbers) {
            let told = refused(&outcome, inside, "protocol");
            assert_eq!(told.hook(), "socket_create", "{numbers}");
            assert_eq!(
                told.event["connection_info"]["protocol_num"].to_string(),
                numbers.rsplit(',').next().unwrap()
            );
        } else {
            assert!(is_there, "{numbers}: {outside:?}");
            assert_eq!(inside.end, End::Done, "{numbers}");
            assert!(outcome.decided_by(inside.pid).is_empty(), "{numbers}");
        }
    }
}

fn netlink() {
    let scratch = Scratch::new();
    let many = |count| ["18"].repeat(count).join("+");
    let (at_bound, beyond) = (many(15), many(16));
    let allowed = ["18", "22", "26", "18+22", &at_bound];
    let denied = ["16", "17", "19", "20", "24", "18+24", "3", "1", &beyond];
    let role = [&["netlink"][..], &allowed, &denied].concat();
    let Some((outcome, outside)) = played(&scratch, ALLOW_ALL, &role) else { return };
    // Sending succeeds; what the kernel thinks of it comes as an answer.
    assert!(outside.iter().all(|report| report.end == End::Done), "{outside:?}");
    let inside = reports(&outcome);
    assert_eq!(inside.len(), allowed.len() + denied.len());
    for report in &inside[..allowed.len()] {
        went_on(&outcome, *report);
    }
    for report in &inside[allowed.len()..] {
        assert_eq!(refused(&outcome, *report, "protocol").hook(), "netlink_send");
    }
}

/// Lets the children of this process have it, by the number that comes back.
pub fn inheritable(socket: impl AsFd) -> String {
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty()).unwrap();
    socket.as_fd().as_raw_fd().to_string()
}

/// Everything is allowed but `{p0}`.
const NOT_THERE: &str = r#"
egress: {rules: [{effect: allow, to: ["*:{p1}"]}, {name: no-port, effect: deny, to: ["127.0.0.1:{p0}"]}]}
exec: {default: allow}
files: {default: allow}
"#;

fn listeners(ports: &[&str]) -> Scratch {
    let listen = |port: &&str| {
        ["tcp", "udp"].map(|protocol| Setup::Listen(format!("127.0.0.1:{{{port}}}/{protocol}")))
    };
    Scratch::with(&ports.iter().flat_map(listen).collect::<Vec<_>>())
}

fn handed_in() {
    let scratch = listeners(&["p0", "p1"]);
    let address = |port: &str| scratch.place.fill(&format!("127.0.0.1:{{{port}}}"));
    let mapped = scratch.place.fill("[::ffff:127.0.0.1]:{p0}");
    let udp = |from: &str, to: &str| {
        let socket = UdpSocket::bind(from).unwrap();
        socket.connect(to).unwrap();
        socket
    };
    let denied = TcpStream::connect(address("p0")).unwrap();
    let allowed = TcpStream::connect(address("p1")).unwrap();
    let datagrams = udp("127.0.0.1:0", &address("p0"));
    let as_v6 = udp("[::]:0", &mapped);
    let fds =
        [inheritable(&denied), inheritable(&datagrams), inheritable(&as_v6), inheritable(&allowed)];
    let fds: Vec<&str> = fds.iter().map(String::as_str).collect();
    let role = [&["send-on"][..], &fds].concat();
    let outside = outside(&scratch, &role);
    assert!(outside.iter().all(|report| report.end == End::Done), "{outside:?}");
    if tier() != Tier::Lsm {
        return;
    }
    let (outcome, inside) = moved_in(&scratch, NOT_THERE, &role);
    assert_eq!(inside.len(), 8);
    for report in &inside[..6] {
        assert_eq!(refused(&outcome, *report, "no-port").hook(), "socket_sendmsg");
    }
    for report in &inside[6..] {
        went_on(&outcome, *report);
    }
}

fn handed_in_local() {
    let scratch = Scratch::new();
    let (stream, _stream_end) = UnixStream::pair().unwrap();
    let (datagrams, _datagrams_end) = UnixDatagram::pair().unwrap();
    let fds = [inheritable(&stream), inheritable(&datagrams)];
    let role = ["send-on", &fds[0], &fds[1]];
    if tier() != Tier::Lsm {
        return;
    }
    let (outcome, inside) = moved_in(&scratch, ALLOW_ALL, &role);
    assert!(!inside.is_empty());
    for report in inside {
        went_on(&outcome, report);
    }
}

fn handed_in_listener() {
    let scratch = Scratch::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let _clients = [TcpStream::connect(address).unwrap(), TcpStream::connect(address).unwrap()];
    let role = ["accept-on", &inheritable(&listener)];
    assert_eq!(outside(&scratch, &role)[0].end, End::Done);
    if tier() != Tier::Lsm {
        return;
    }
    let (outcome, inside) = moved_in(&scratch, ALLOW_ALL, &role);
    let told = refused(&outcome, inside[0], "default");
    assert_eq!((told.hook(), &told.endpoint()["port"]), ("socket_accept", &address.port().into()));

    let allowed =
        format!("{ALLOW_ALL}\nlisten: {{rules: [{{effect: allow, on: [\"{address}\"]}}]}}");
    let (outcome, inside) = moved_in(&scratch, &allowed, &role);
    went_on(&outcome, inside[0]);
}

fn source_route() {
    let scratch = Scratch::new();
    let Some((outcome, outside)) = played(&scratch, ALLOW_ALL, &["source-route"]) else { return };
    assert!(outside.iter().all(|report| report.end == End::Done), "{outside:?}");
    let inside = reports(&outcome);
    assert_eq!(inside.len(), 3);
    for report in inside {
        refused(&outcome, report, "interface");
    }
}

fn forms() {
    let scratch = listeners(&["p0"]);
    let role = ["forms", &scratch.place.fill("127.0.0.1:{p0}")];
    let Some((outcome, outside)) = played(&scratch, NOT_THERE, &role) else { return };
    assert!(outside.iter().all(|report| report.end == End::Done), "{outside:?}");
    let inside = reports(&outcome);
    assert_eq!(inside.len(), 5);
    for report in inside {
        refused(&outcome, report, "no-port");
    }
}

fn own_sockets() {
    let scratch = Scratch::new();
    let role = ["own-sockets", "{root}/own.sock"];
    let spec = "exec: {default: allow}\nfiles: {default: allow}";
    let command = actor(&scratch, &role);
    if tier() != Tier::Lsm {
        return;
    }
    let outcome = Run::under(spec).go(&command);
    outcome.exits(0);
    let inside = reports(&outcome);
    assert_eq!(inside.len(), 3);
    for report in &inside {
        went_on(&outcome, *report);
    }
    let by_name = |report: &Report| {
        let told = outcome.decided_by(report.pid).into_iter().find(|event| event.by() == "own");
        told.unwrap().endpoint()["name"].as_str().unwrap().to_owned()
    };
    assert_eq!(by_name(&inside[0]), scratch.place.fill("{root}/own.sock"));
    assert_eq!(by_name(&inside[1]), format!("@agent-guard-own-{}", inside[1].pid));
}

fn listen_unbound() {
    let scratch = Scratch::new();
    let Some((outcome, outside)) = played(&scratch, ALLOW_ALL, &["listen-unbound"]) else { return };
    assert_eq!(outside[0].end, End::Done);
    let told = refused(&outcome, reports(&outcome)[0], "default");
    assert_eq!((&told.endpoint()["ip"], &told.endpoint()["port"]), (&"0.0.0.0".into(), &0.into()));
}

fn degraded() {
    let scratch = Scratch::new();
    let spec = format!("{ALLOW_ALL}\nlisten: {{default: deny}}\nunix: {{default: allow}}");
    if tier() == Tier::Lsm {
        Run::under(&spec).go(&["/bin/true"]).exits(0);
        return;
    }
    let touch = mark(&scratch);
    let refused = Run::under(&spec).go(&touch);
    never_started(&scratch, &refused, &["a section `listen`", "a section `unix`", "listen,unix`"]);
    let half = Run::under(&spec).with(&["--allow-degraded", "listen"]).go(&touch);
    never_started(&scratch, &half, &["--allow-degraded "]);
    let both = Run::under(&spec).with(&["--allow-degraded", "listen,unix"]).go(&touch);
    both.exits(0);
    for event in &both.events {
        let degraded = event["unmapped"]["agent_guard"]["degraded"].as_array().unwrap();
        assert!(
            ["listen", "unix"].iter().all(|lack| degraded.iter().any(|d| d == lack)),
            "{event}"
        );
    }
}
