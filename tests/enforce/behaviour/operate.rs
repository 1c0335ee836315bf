//! What the daemon shows to those who operate it, and how it bears with those who ask.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{
        net::{UnixDatagram, UnixStream},
        process::CommandExt as _,
    },
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{ALLOW_ALL, Behaviour, DENY_SECRETS, actor, secret_place};
use crate::{
    daemon::Daemon,
    guard::{PATIENCE, Reader, tier, wait},
};

pub const PROMISES: &[Behaviour] = &[
    ("prometheus is told what agents did, and whether the daemon lives and is ready", metrics),
    ("those who hold connections keep nobody of another kind out", connections),
    ("systemd is told that the daemon is ready, lives and stops", manager),
];

/// An address that nobody listens on.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The value of a sample.
fn sample(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.parse().ok()
}

fn metrics() {
    let (mut daemon, scratch) = (Daemon::new(), secret_place());
    let address = free();
    daemon.policy("coding", "/coding", &scratch.place.fill(DENY_SECRETS));
    daemon.configure(&format!("[metrics]\nlisten = '{address}'"));
    daemon.start();
    daemon.make("/coding");
    for probe in ["/livez", "/readyz"] {
        assert!(get(address, probe).starts_with("HTTP/1.1 200"), "{probe}");
    }
    let series = |text: &str, name: &str| {
        let labels =
            format!("agent=\"coding\",cgroup=\"{}/coding\",policy=\"coding\"", daemon.root);
        sample(text, &format!("agent_guard_agent_{name}{{{labels}}}"))
    };
    assert_eq!(series(&get(address, "/metrics"), "denials_total"), Some(0));
    let command = actor(&scratch, &["open", "{root}/secret/key"]);
    daemon.inside("/coding", &command).output().unwrap();
    let text = daemon.until("the denial", || {
        let text = get(address, "/metrics");
        (series(&text, "denials_total")? > 0).then_some(text)
    });
    let labels = format!("agent_guard_build_info{{version=\"0.1.0\",tier=\"{}\"}}", tier().name());
    assert_eq!(sample(&text, &labels), Some(1), "{text}");
    for (name, value) in [
        ("agent_guard_in_force", 1),
        ("agent_guard_canary_stopped", 1),
        ("agent_guard_workloads{state=\"guarded\"}", 1),
        ("agent_guard_policies", 1),
    ] {
        assert_eq!(sample(&text, name), Some(value), "{name}");
    }
    let entries = sample(&text, "agent_guard_map_entries{map=\"STATES\"}").unwrap();
    let room = sample(&text, "agent_guard_map_capacity{map=\"STATES\"}").unwrap();
    assert!(entries > 0 && entries < room, "{entries} of {room}");

    // What a workload came to stays counted when it is gone.
    let of_hooks = |text: &str| -> u64 {
        let denials =
            text.lines().filter(|line| line.starts_with("agent_guard_hook_denials_total{"));
        denials.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    let before = of_hooks(&text);
    assert!(before > 0, "{text}");
    fs::remove_dir(daemon.cgroup("/coding")).unwrap();
    let text = daemon.until("the end of the workload", || {
        let text = get(address, "/metrics");
        series(&text, "denials_total").is_none().then_some(text)
    });
    assert!(of_hooks(&text) >= before, "{text}");

    // Over the control socket there is the same, and who has nothing to say is let go.
    let status = daemon.view(&["status"]);
    assert!(status["maps"].as_array().unwrap().len() > 5, "{status}");
    let mut silent = TcpStream::connect(address).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    silent.read_to_end(&mut Vec::new()).unwrap();
    assert!(get(address, "/livez").starts_with("HTTP/1.1 200"));
}

fn connections() {
    let mut daemon = Daemon::new();
    daemon.policy("coding", "/coding", ALLOW_ALL);
    daemon.start();
    let socket = daemon.path("socket");
    let connect = || {
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        stream
    };
    // Somebody who may not ask holds as many as there are for others.
    let hold = format!(
        "import socket, sys\nheld = []\nfor _ in range(17):\n s = socket.socket(socket.AF_UNIX)\n \
         s.settimeout(2)\n s.connect({:?})\n held.append(s)\nlast = held.pop()\n\
         print(len(last.recv(1)), flush=True)\nsys.stdin.read()",
        socket.display().to_string()
    );
    let mut holder = Command::new("/usr/bin/python3")
        .args(["-c", &hold])
        .uid(65534)
        .gid(65534)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = Reader::of(holder.stdout.take().unwrap());
    said.wait_for_text("0");
    // Administrators are let in as before, up to their own bound.
    let follow = |mut stream: UnixStream| {
        stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n")?;
        let mut start = [0; 12];
        stream.read_exact(&mut start).map(|()| (stream, start))
    };
    let held: Vec<_> = (0..64).map(|_| follow(connect()).unwrap()).collect();
    assert!(held.iter().all(|(_, start)| start == b"HTTP/1.1 200"));
    assert!(follow(connect()).is_err(), "the 65th is let in");
    drop(held);
    daemon.until("a free connection", || daemon.ask(&["status"]).status.success().then_some(()));
    drop(holder.stdin.take());
    holder.wait().unwrap();
}

fn manager() {
    let daemon = Daemon::new();
    let path = daemon.path("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = daemon.command();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "2000000");
    let mut child = command.spawn().unwrap();
    let log = Reader::of(child.stderr.take().unwrap());
    let mut buffer = [0; 256];
    let mut until = |word: &str| {
        let mut told = Vec::new();
        loop {
            let length = notify.recv(&mut buffer).unwrap();
            let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
            let is_it = text.lines().any(|line| line.starts_with(word));
            told.push(text);
            if is_it {
                return told;
            }
        }
    };
    let before = until("READY=1");
    assert!(before.iter().any(|text| text.contains("EXTEND_TIMEOUT_USEC=")), "{before:?}");
    let start = std::time::Instant::now();
    for _ in 0..3 {
        until("WATCHDOG=1");
    }
    assert!(start.elapsed() < Duration::from_secs(6), "less than half as often as is due");
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    let told = until("RELOADING=1");
    assert!(told.last().unwrap().contains("MONOTONIC_USEC="), "{told:?}");
    until("READY=1");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    until("STOPPING=1");
    assert!(wait(child).success());
    drop(log);
}
