//! Where the daemon's events go: what gets there, and what becomes of the rest.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use super::{ALLOW_ALL, Behaviour};
use crate::{
    daemon::Daemon,
    guard::parse_events,
    receivers::{Collector, Rsyslog, make_certificates},
};

pub const PROMISES: &[Behaviour] = &[
    ("events reach rsyslog over a UNIX-domain socket, TCP and TLS", syslog),
    ("a receiver that was away gets what could be kept, and the rest is counted exactly", away),
    ("a sink that hangs holds nobody up", hanging),
    ("what a daemon that is killed had in memory is counted by the next", killed),
    ("a disk that fills costs events that are counted, and told once there is room", full),
    ("files are rotated by logrotate and by size without a loss", rotated),
    ("a sink that can not be is refused with its line", refused),
];

/// Has an agent open a file so many times.
pub fn open_files(daemon: &Daemon, times: usize) {
    let script = format!("i=0; while [ $i -lt {times} ]; do : < /etc/hostname; i=$((i+1)); done");
    let status = daemon.inside("/coding", &["/bin/sh", "-c", &script]).status().unwrap();
    assert!(status.success());
}

/// Events that the smallest queue holds several times over.
const BATCH: usize = 200;

/// As [`open_files`], but no faster than these sinks, which have spools, put away what presses: what comes faster than
/// the disk takes it is lost, and on a busy machine a burst does.
pub fn open_files_for(daemon: &Daemon, sinks: &[&str], times: usize) {
    for _ in 0..times / BATCH {
        open_files(daemon, BATCH);
        for name in sinks {
            daemon.until("room in the queue", || {
                let sink = sink(daemon, name);
                (count(&sink, "queue_bytes") < count(&sink, "queue_room") / 2).then_some(())
            });
        }
    }
}

/// A daemon with these sinks, and one agent that may do everything.
pub fn start(daemon: &mut Daemon, sinks: &str) {
    daemon.configure(sinks);
    daemon.policy("coding", "/coding", ALLOW_ALL);
    daemon.start();
    daemon.make("/coding");
}

pub fn sink(daemon: &Daemon, name: &str) -> Value {
    let status = daemon.view(&["status"]);
    let sinks = status["sinks"].as_array().unwrap().clone();
    sinks.into_iter().find(|sink| sink["name"] == name).unwrap()
}

pub fn count(sink: &Value, counter: &str) -> u64 {
    sink[counter].as_u64().unwrap_or_else(|| panic!("{counter} in {sink}"))
}

/// Waits until nothing waits any more.
pub fn drained(daemon: &Daemon, name: &str) -> Value {
    daemon.until("the end of the queue", || {
        let sink = sink(daemon, name);
        (count(&sink, "queue_bytes") + count(&sink, "spooled") == 0 && sink["problem"].is_null())
            .then_some(sink)
    })
}

fn is_loss(event: &Value) -> bool {
    event["class_uid"] == 6008
}

/// The events without notices of losses, each once, and how many lines these tell of. Notices that came twice count
/// once.
pub(super) fn account(events: &[Value]) -> (usize, u64) {
    let mut seen = BTreeSet::new();
    let mut lost = 0;
    let mut whole = 0;
    for event in events {
        if seen.insert(event["metadata"]["uid"].as_str().unwrap().to_owned()) {
            match is_loss(event) {
                true => {
                    lost +=
                        event["unmapped"]["agent_guard"]["losses"]["unwritten"].as_u64().unwrap()
                }
                false => whole += 1,
            }
        }
    }
    (whole, lost)
}

pub fn lines_of(path: &Path) -> Vec<Value> {
    parse_events(&fs::read_to_string(path).unwrap())
}

fn syslog() {
    let mut daemon = Daemon::new();
    let at = daemon.path("");
    make_certificates(&at);
    let rsyslog = Rsyslog::start(&at);
    let at = at.display();
    let tls = |name: &str, ca: &str, server: &str| {
        format!(
            "[[sink]]\ntype = 'syslog'\nname = '{name}'\nto = 'tls:127.0.0.1:{}'\n\
             [sink.tls]\nca = '{at}/{ca}.pem'\nserver_name = '{server}'\n\
             certificate = '{at}/client.pem'\nkey = '{at}/client.key'\n",
            rsyslog.tls
        )
    };
    let sinks = [
        format!("[[sink]]\ntype = 'syslog'\nname = 'local'\nto = 'unix:{at}/log'\n"),
        format!(
            "[[sink]]\ntype = 'syslog'\nname = 'tcp'\nto = 'tcp:127.0.0.1:{}'\nfacility = 'audit'\n",
            rsyslog.tcp
        ),
        tls("tls", "ca", "server.example"),
        tls("stranger", "other", "server.example"),
        tls("another", "ca", "other.example"),
    ];
    start(&mut daemon, &sinks.concat());
    daemon.policy(
        "coding",
        "/coding",
        "exec: {default: allow}\nfiles: {default: allow}\negress: {default: deny}",
    );
    daemon.until("the policy", || {
        let told = |event: &Value| event["unmapped"]["agent_guard"]["replaces"].is_string();
        daemon.events().iter().any(told).then_some(())
    });
    let shell = ["/bin/bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9"];
    let _ = daemon.inside("/coding", &shell).output().unwrap();
    for (way, facility) in [("imuxsock", "local4"), ("tcp", "audit"), ("tls", "local4")] {
        let of_way = || {
            let received = rsyslog.received().into_iter();
            received.filter(|(other, ..)| other == way).collect::<Vec<_>>()
        };
        daemon.until("a denial", || {
            of_way().iter().any(|(.., event)| event["class_uid"] == 4001).then_some(())
        });
        let received = of_way();
        // Those of a daemon's own are informational, and every one is there.
        let numbers: Vec<u64> = received
            .iter()
            .map(|(.., event)| event["metadata"]["sequence"].as_u64().unwrap())
            .collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "{way}");
        for (_, priority, time, event) in &received {
            let severity = match event["severity"].as_str().unwrap() {
                "Medium" => "warning",
                "Low" => "notice",
                _ => "info",
            };
            assert_eq!(*priority, format!("{facility}.{severity}"), "{way}");
            // Of a socket of the system's own the receiver takes its own time.
            if way != "imuxsock" {
                let ms = event["time"].as_u64().unwrap();
                let told = format!(".{:03}", ms % 1000);
                assert!(
                    time.contains(told.trim_end_matches('0')) || ms % 1000 == 0,
                    "{time} is not {ms}"
                );
            }
        }
    }
    // Who is not the receiver gets nothing.
    for (name, words) in [("stranger", "UnknownIssuer"), ("another", "not valid for name")] {
        let sink = daemon.until("the refusal", || {
            let sink = sink(&daemon, name);
            sink["problem"].is_string().then_some(sink)
        });
        assert!(sink["problem"].as_str().unwrap().contains(words), "{sink}");
        assert_eq!((count(&sink, "delivered"), count(&sink, "lost")), (0, 0));
        assert!(count(&sink, "spooled") > 0, "{sink}");
    }
}

fn away() {
    let mut daemon = Daemon::new();
    let mut collector = Collector::start();
    let token = daemon.path("token");
    fs::write(&token, "hunter2").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let all = daemon.path("all.jsonl");
    let port = collector.port;
    let sinks = format!(
        "[[sink]]\ntype = 'file'\nname = 'all'\npath = '{}'\nevents = 'all'\n\
         [[sink]]\ntype = 'splunk'\nurl = 'http://127.0.0.1:{port}/large'\ntoken_file = '{}'\nevents = 'all'\nqueue_mib = 1\n\
         [[sink]]\ntype = 'webhook'\nurl = 'http://127.0.0.1:{port}/small'\nevents = 'all'\nqueue_mib = 1\nspool_mib = 1\n",
        all.display(),
        token.display(),
    );
    start(&mut daemon, &sinks);
    open_files(&daemon, 200);
    drained(&daemon, "splunk");
    collector.go_away();
    open_files_for(&daemon, &["splunk"], 3000);
    daemon.until("the spool", || {
        let (large, small) = (sink(&daemon, "splunk"), sink(&daemon, "webhook"));
        assert_eq!(count(&large, "lost"), 0);
        (count(&large, "spooled") >= 3000 && count(&small, "lost") > 0).then_some(())
    });
    // What is kept outlives the daemon.
    daemon.end(Signal::TERM);
    daemon.start();
    assert!(count(&sink(&daemon, "splunk"), "spooled") >= 3000);
    open_files_for(&daemon, &["splunk"], 1000);
    collector.come_back();
    open_files_for(&daemon, &["splunk"], 1000);
    let large = drained(&daemon, "splunk");
    drained(&daemon, "webhook");
    // Another event, and the losses are told before it.
    open_files(&daemon, 1);
    let (large_got, small_got) = daemon.until("the last of it", || {
        drained(&daemon, "all");
        drained(&daemon, "splunk");
        drained(&daemon, "webhook");
        let inner = |event: Value| event["event"].clone();
        let large: Vec<Value> = collector.got("/large").into_iter().map(inner).collect();
        let small = collector.got("/small");
        let written = account(&lines_of(&all)).0;
        let (whole, lost) = account(&small);
        (account(&large).0 == written && whole as u64 + lost >= written as u64)
            .then_some((large, small))
    });
    let written = account(&lines_of(&all));
    assert!(written.0 > 5200 && written.1 == 0, "{written:?}");
    assert_eq!(account(&large_got), (written.0, 0), "nothing is lost that the spool could hold");
    assert_eq!(count(&large, "lost"), 0);
    let (whole, lost) = account(&small_got);
    assert!(lost > 0);
    assert_eq!(whole as u64 + lost, written.0 as u64, "what is lost is counted exactly");
    // In order: the numbers of each run go up, but where a delivery came again.
    let number = |event: &Value| event["metadata"]["sequence"].as_u64().unwrap();
    let run = |event: &Value| {
        event["metadata"]["uid"].as_str().unwrap().split('-').next().unwrap().to_owned()
    };
    let mut seen: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
    for event in &large_got {
        let last = seen.entry(run(event)).or_default();
        assert!(number(event) <= *last + 1, "{} after {last}", number(event));
        *last = (*last).max(number(event));
    }
}

fn hanging() {
    let mut daemon = Daemon::new();
    let path = daemon.path("never-read");
    let _never_read = UnixListener::bind(&path).unwrap();
    let never_answers = TcpListener::bind("127.0.0.1:0").unwrap();
    let sinks = format!(
        "[[sink]]\ntype = 'unix'\npath = '{}'\nevents = 'all'\nqueue_mib = 1\nspool_mib = 0\n\
         [[sink]]\ntype = 'webhook'\nurl = 'http://{}/'\nevents = 'all'\nqueue_mib = 1\n",
        path.display(),
        never_answers.local_addr().unwrap(),
    );
    start(&mut daemon, &sinks);
    open_files_for(&daemon, &["webhook"], 3000);
    daemon.until("a loss", || (count(&sink(&daemon, "unix"), "lost") > 0).then_some(()));
    let webhook = sink(&daemon, "webhook");
    assert_eq!(count(&webhook, "lost"), 0, "what presses goes to disk: {webhook}");
    assert!(count(&webhook, "spooled") > 0, "{webhook}");
    // The others go on.
    let before = daemon.events().len();
    daemon.policy("coding", "/coding", &format!("{ALLOW_ALL}\n# another"));
    daemon.until("the other sink's events", || (daemon.events().len() > before).then_some(()));
    let start = Instant::now();
    let said = daemon.end(Signal::TERM);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(
        said.contains("sink unix: ")
            && said.contains("are lost, of which its stream does not tell"),
        "{said}"
    );
    assert!(!said.contains("sink webhook: 1"), "{said}");
}

fn killed() {
    let mut daemon = Daemon::new();
    let (path, all) = (daemon.path("collector"), daemon.path("all.jsonl"));
    let never_read = UnixListener::bind(&path).unwrap();
    let sinks = format!(
        "[[sink]]\ntype = 'unix'\npath = '{}'\nevents = 'all'\nqueue_mib = 1\nspool_mib = 0\n\
         [[sink]]\ntype = 'file'\nname = 'all'\npath = '{}'\nevents = 'all'\n",
        path.display(),
        all.display(),
    );
    start(&mut daemon, &sinks);
    open_files(&daemon, 300);
    drained(&daemon, "all");
    assert!(count(&sink(&daemon, "unix"), "queue_bytes") > 0);
    daemon.end(Signal::KILL);
    drop(never_read);
    fs::remove_file(&path).unwrap();
    let collector = UnixListener::bind(&path).unwrap();
    let got = std::thread::spawn(move || {
        let mut text = String::new();
        collector.accept().unwrap().0.read_to_string(&mut text).unwrap();
        parse_events(&text)
    });
    daemon.start();
    open_files(&daemon, 100);
    drained(&daemon, "unix");
    drained(&daemon, "all");
    let lost = count(&sink(&daemon, "unix"), "lost");
    let said = daemon.end(Signal::TERM);
    assert!(
        said.contains(&format!("{lost} event(s) were in memory when the last daemon died")),
        "{said}"
    );
    let (whole, told) = account(&got.join().unwrap());
    assert_eq!(told, lost);
    assert_eq!(whole as u64 + told, account(&lines_of(&all)).0 as u64);
}

fn full() {
    let mut daemon = Daemon::new();
    let disk = daemon.path("disk");
    fs::create_dir(&disk).unwrap();
    let options = "size=1m,mode=700";
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(&disk).status();
    assert!(mounted.unwrap().success());
    let ballast = disk.join("ballast");
    fs::File::create(&ballast).unwrap().write_all(&vec![0; 900 << 10]).unwrap();
    // What is spooled lies on it too.
    std::os::unix::fs::symlink(&disk, daemon.path("spool")).unwrap();
    let (small, all) = (disk.join("events.jsonl"), daemon.path("all.jsonl"));
    let mut collector = Collector::start();
    collector.go_away();
    let sinks = format!(
        "[[sink]]\ntype = 'file'\nname = 'small'\npath = '{}'\nevents = 'all'\nqueue_mib = 1\n\
         [[sink]]\ntype = 'file'\nname = 'all'\npath = '{}'\nevents = 'all'\n\
         [[sink]]\ntype = 'webhook'\nurl = 'http://127.0.0.1:{}/'\nevents = 'all'\nqueue_mib = 1\n",
        small.display(),
        all.display(),
        collector.port,
    );
    start(&mut daemon, &sinks);
    open_files(&daemon, 3000);
    daemon.until("the loss", || (count(&sink(&daemon, "webhook"), "lost") > 0).then_some(()));
    let sink_now = daemon.until("the loss", || {
        let sink = sink(&daemon, "small");
        (count(&sink, "lost") > 0).then_some(sink)
    });
    assert!(
        sink_now["problem"].as_str().unwrap().contains("No space left on device"),
        "{sink_now}"
    );
    drained(&daemon, "all");
    let lost = daemon.until("rest", || {
        let (before, after) =
            (count(&sink(&daemon, "small"), "lost"), count(&sink(&daemon, "small"), "lost"));
        (before == after).then_some(after)
    });
    // There is room again for what is in memory, and no more: a file is opened anew, and tried at once.
    fs::remove_file(&ballast).unwrap();
    let larger = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&disk).status();
    assert!(larger.unwrap().success());
    collector.come_back();
    daemon.signal(Signal::HUP);
    drained(&daemon, "small");
    drained(&daemon, "webhook");
    open_files(&daemon, 1);
    daemon.until("the notice", || {
        drained(&daemon, "all");
        drained(&daemon, "small");
        drained(&daemon, "webhook");
        (account(&lines_of(&small)).1 >= lost && account(&collector.got("/")).1 > 0).then_some(())
    });
    let written = account(&lines_of(&all)).0 as u64;
    for events in [lines_of(&small), collector.got("/")] {
        let (whole, told) = account(&events);
        assert_eq!(whole as u64 + told, written);
    }
    daemon.end(Signal::TERM);
    assert!(Command::new("umount").arg("-l").arg(&disk).status().unwrap().success());
}

fn rotated() {
    let mut daemon = Daemon::new();
    let (path, small) = (daemon.path("rotated.jsonl"), daemon.path("small.jsonl"));
    let sinks = format!(
        "[[sink]]\ntype = 'file'\nname = 'rotated'\npath = '{}'\nevents = 'all'\n\
         [[sink]]\ntype = 'file'\nname = 'small'\npath = '{}'\nevents = 'all'\nrotate_mib = 1\nkeep = 20\n",
        path.display(),
        small.display(),
    );
    start(&mut daemon, &sinks);
    let config = daemon.path("logrotate.conf");
    let pid = daemon.pid();
    let text = format!(
        "{} {{\n rotate 9\n nocompress\n nocopytruncate\n postrotate\n kill -HUP {pid}\n endscript\n}}\n",
        path.display()
    );
    fs::write(&config, text).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(daemon.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    for round in 1..=3 {
        open_files(&daemon, 500);
        let output = Command::new("/usr/sbin/logrotate")
            .arg("-f")
            .arg("-s")
            .arg(daemon.path("logrotate.state"))
            .arg(&config)
            .output()
            .expect("logrotate is installed by `cargo xtask setup`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        daemon.until("the new file", || path.exists().then_some(()));
        assert!(daemon.path(&format!("rotated.jsonl.{round}")).exists());
    }
    open_files(&daemon, 500);
    drained(&daemon, "rotated");
    drained(&daemon, "small");
    for name in ["rotated.jsonl", "small.jsonl"] {
        let olds = (1..20).rev().map(|number| daemon.path(&format!("{name}.{number}")));
        let files: Vec<_> = olds.filter(|old| old.exists()).chain([daemon.path(name)]).collect();
        assert!(files.len() >= 3, "{files:?}");
        let numbers = files.iter().flat_map(|file| lines_of(file));
        let numbers: Vec<u64> =
            numbers.map(|event| event["metadata"]["sequence"].as_u64().unwrap()).collect();
        assert!(numbers.len() > 2000, "{name}: {}", numbers.len());
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "{name}");
        assert!(files.iter().all(|file| {
            let kind = file.metadata().unwrap();
            kind.permissions().mode() & 0o777 == 0o600
                && (name != "small.jsonl" || kind.len() <= 1 << 20)
        }));
    }
}

fn refused() {
    let daemon = Daemon::new();
    let at = daemon.path("");
    let at = at.display();
    fs::write(daemon.path("open"), "hunter2").unwrap();
    fs::write(daemon.path("no.pem"), "no certificate").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", daemon.path("link")).unwrap();
    for (sink, words) in [
        ("type = 'tape'".to_owned(), ["line ", "`tape` is no type of sink"]),
        (
            format!("type = 'splunk'\nurl = 'http://127.0.0.1:1'\ntoken_file = '{at}/open'"),
            ["the sink `splunk`", "others can not read"],
        ),
        (
            format!("type = 'webhook'\nurl = 'https://a.example'\ntls = {{ca = '{at}/no.pem'}}"),
            ["the sink `webhook`", "no.pem has no certificate"],
        ),
        (
            format!("type = 'webhook'\nurl = 'https://a.example'\ntoken_file = '{at}/missing'"),
            ["missing", "No such file"],
        ),
        (
            format!("type = 'file'\nname = 'x'\npath = '{at}/link'"),
            ["the sink `x`", "symbolic link"],
        ),
    ] {
        daemon.configure(&format!("[[sink]]\n{sink}\n"));
        let output = daemon.command().output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(
            words.iter().all(|word| said.contains(word)) && !said.contains("hunter2"),
            "{sink}: {said}"
        );
    }
}
