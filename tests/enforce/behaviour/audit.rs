//! The tamper-evident log of the daemon.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::PathBuf,
    process::{Command, Output},
};

use rustix::process::Signal;
use serde_json::Value;

use super::{
    Behaviour,
    sinks::{account, count, drained, open_files, sink, start},
};
use crate::{
    daemon::Daemon,
    guard::{parse_events, program},
};

pub const PROMISES: &[Behaviour] = &[
    ("an audit log goes on where the daemon was killed, and shows what is changed", killed),
    ("a full disk costs an audit log records that are counted, and that is a record", full),
    ("a key of an audit log follows another at SIGHUP, and by nothing else", followed),
];

/// The configuration of a log below `directory`.
fn log(daemon: &Daemon, directory: &str, more: &str) -> String {
    let (path, key) = (daemon.path(directory), daemon.path("audit.key"));
    format!(
        "[[sink]]\ntype = 'audit'\npath = '{}'\nkey = '{}'\nevents = 'all'\n{more}\n",
        path.display(),
        key.display()
    )
}

fn audit(arguments: &[&str]) -> Output {
    Command::new(program()).arg("audit").args(arguments).output().unwrap()
}

/// What `audit verify` says of the log in `directory`, and whether it is intact.
fn verified(daemon: &Daemon, directory: &str, options: &[&str]) -> (bool, Value) {
    let path = daemon.path(directory);
    let path = path.to_str().unwrap();
    let output = audit(&[&["verify", path, "-o", "json"], options].concat());
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.success(), report)
}

/// Waits until all that is in the log is signed.
fn signed(daemon: &Daemon, directory: &str) -> Value {
    daemon.until("a checkpoint", || {
        let (intact, report) = verified(daemon, directory, &[]);
        assert!(intact, "{report}");
        (report["signed_up_to"] == report["last"]).then_some(report)
    })
}

fn file(daemon: &Daemon, directory: &str) -> PathBuf {
    daemon.path(directory).join("audit-000001.jsonl")
}

fn killed() {
    let mut daemon = Daemon::new();
    let config = log(&daemon, "log", "checkpoint_seconds = 1\ncheckpoint_records = 40");
    start(&mut daemon, &config);
    open_files(&daemon, 100);
    drained(&daemon, "audit");
    // A checkpoint comes when it is time, although no line does.
    let report = signed(&daemon, "log");
    assert!(report["checkpoints"].as_u64().unwrap() >= 4, "{report}");
    let log = daemon.path("log");
    let head = audit(&["head", log.to_str().unwrap()]).stdout;
    fs::write(daemon.path("kept"), head).unwrap();
    daemon.end(Signal::KILL);
    let mut torn = OpenOptions::new().append(true).open(file(&daemon, "log")).unwrap();
    torn.write_all(b"{\"time\":17").unwrap();

    daemon.start();
    open_files(&daemon, 100);
    drained(&daemon, "audit");
    daemon.end(Signal::TERM);
    let (public, kept) = (daemon.path("audit.key.pub"), daemon.path("kept"));
    let known = ["--key", public.to_str().unwrap(), "--expect", kept.to_str().unwrap()];
    let (intact, report) = verified(&daemon, "log", &known);
    assert!(intact && report["trusted"] == true, "{report}");
    assert_eq!(report["signed_up_to"], report["last"]);
    assert_eq!(report["notes"].as_array().unwrap().len(), 1, "{report}");

    let whole = fs::read(file(&daemon, "log")).unwrap();
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    fs::write(file(&daemon, "log"), [&lines[..20], &lines[21..]].concat().concat()).unwrap();
    let (intact, report) = verified(&daemon, "log", &known);
    assert!(!intact);
    let finding = &report["findings"][0];
    assert_eq!((&finding["kind"], &finding["line"]), (&"missing".into(), &21.into()));
}

fn full() {
    let mut daemon = Daemon::new();
    let disk = daemon.path("disk");
    fs::create_dir(&disk).unwrap();
    let mount = |options: &[&str]| {
        let status = Command::new("mount").args(options).arg(&disk).status();
        assert!(status.unwrap().success());
    };
    mount(&["-t", "tmpfs", "-o", "size=1m,mode=700", "none"]);
    let all = daemon.path("all.jsonl");
    let config = format!(
        "{}[[sink]]\ntype = 'file'\nname = 'all'\npath = '{}'\nevents = 'all'\n",
        log(&daemon, "disk", "queue_mib = 1"),
        all.display()
    );
    start(&mut daemon, &config);
    open_files(&daemon, 3000);
    let lost = daemon.until("the loss", || {
        let sink = sink(&daemon, "audit");
        (count(&sink, "lost") > 0).then_some(sink)
    });
    assert!(lost["problem"].as_str().unwrap().contains("No space left on device"), "{lost}");
    drained(&daemon, "all");
    mount(&["-o", "remount,size=64m"]);
    daemon.signal(Signal::HUP);
    drained(&daemon, "audit");
    open_files(&daemon, 1);
    let lost = daemon.until("rest", || {
        drained(&daemon, "all");
        let (one, other) = (sink(&daemon, "audit"), sink(&daemon, "audit"));
        (count(&one, "lost") == count(&other, "lost")).then(|| count(&one, "lost"))
    });
    let events = || {
        let text = fs::read_to_string(file(&daemon, "disk")).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let is_checkpoint = |event: &Value| event["class_uid"] == 1008;
        parse_events(whole).into_iter().filter(|event| !is_checkpoint(event)).collect::<Vec<_>>()
    };
    daemon.until("the record of the loss", || {
        drained(&daemon, "audit");
        (account(&events()).1 >= lost).then_some(())
    });
    let (whole, told) = account(&events());
    let due = account(&parse_events(&fs::read_to_string(&all).unwrap())).0;
    assert_eq!(whole as u64 + told, due as u64);
    daemon.end(Signal::TERM);
    // Nothing of the chain was lost: what was not written was never a record.
    let (intact, report) = verified(&daemon, "disk", &[]);
    assert!(intact && report["notes"].as_array().unwrap().is_empty(), "{report}");
    assert_eq!(report["signed_up_to"], report["last"]);
    assert!(Command::new("umount").arg("-l").arg(&disk).status().unwrap().success());
}

fn followed() {
    let mut daemon = Daemon::new();
    let config = log(&daemon, "log", "");
    start(&mut daemon, &config);
    let key = daemon.path("audit.key");
    let drawn = audit(&["keygen", "--next", key.to_str().unwrap()]);
    let next = String::from_utf8(drawn.stdout).unwrap().trim().to_owned();
    daemon.signal(Signal::HUP);
    let public = daemon.path("audit.key.pub");
    daemon.until("the successor", || {
        let (_, report) = verified(&daemon, "log", &["--key", public.to_str().unwrap()]);
        (!daemon.path("audit.key.next").exists() && report["trusted"] == true).then_some(())
    });
    open_files(&daemon, 10);
    drained(&daemon, "audit");
    daemon.end(Signal::TERM);
    let (intact, report) = verified(&daemon, "log", &["--key", &next]);
    assert!(intact, "{report}");
    assert_eq!(report["keys"].as_array().unwrap().len(), 2);
    assert_eq!(report["keys"][1], next.as_str());

    // Another key in its place is no successor.
    fs::remove_file(&key).unwrap();
    fs::remove_file(&public).unwrap();
    assert!(audit(&["keygen", key.to_str().unwrap()]).status.success());
    let output = daemon.command().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("sink `audit`") && said.contains(&next), "{said}");
    assert!(said.contains("goes on with"), "{said}");
}
