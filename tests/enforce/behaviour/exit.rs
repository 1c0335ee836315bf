//! Exit codes, and what is left behind.

use std::path::Path;

use agent_guard::tier::Tier;

use super::{ALLOW_ALL, Behaviour, DENY_SECRETS, death::traces, runs, secret_place};
use crate::{
    guard::{Run, tier},
    scratch::Scratch,
};

pub const PROMISES: &[Behaviour] = &[
    ("run exits as its command did", own_code),
    ("run exits with 128 + N for a command that signal N killed", killed),
    ("run exits with 127 where there is no such command", not_found),
    ("run exits with 126 where the command is no program", no_program),
    ("a command that the policy denies never runs", denied_command),
    ("what the command left behind is ended with it", left_behind),
    ("nothing is left in the cgroup tree or in bpffs", nothing_left),
    ("run passes standard input, output and the environment through", passes_through),
    ("run without events works and still tells of denials", without_events),
];

fn own_code() {
    for code in [0, 1, 7, 125, 126, 127, 255] {
        Run::under(ALLOW_ALL).go(&["/bin/sh", "-c", &format!("exit {code}")]).exits(code);
    }
}

fn killed() {
    for (signal, code) in [("TERM", 143), ("KILL", 137), ("SEGV", 139)] {
        Run::under(ALLOW_ALL).go(&["/bin/sh", "-c", &format!("kill -{signal} $$")]).exits(code);
    }
}

fn not_found() {
    for command in ["/no/such/program", "agent-guard-no-such-program"] {
        let outcome = Run::under(ALLOW_ALL).go(&[command]);
        outcome.exits(127);
        assert!(outcome.stderr.contains(command), "{}", outcome.stderr);
    }
}

fn no_program() {
    let scratch = Scratch::new();
    let file = scratch.file("plain", "not a program\n");
    Run::under(ALLOW_ALL).go(&[scratch.place.root.as_path()]).exits(126);
    Run::under(ALLOW_ALL).go(&[file]).exits(126);
}

fn denied_command() {
    let scratch = Scratch::new();
    let marker = scratch.path("ran");
    let script = format!("touch {}", marker.display());
    let spec = "egress: {default: deny}\nexec: {default: deny}\nfiles: {default: allow}";
    let outcome = Run::under(spec).go(&["/bin/sh", "-c", &script]);
    // On `trace` the program that may not run is killed before its first instruction.
    outcome.exits(match tier() {
        Tier::Lsm => 126,
        Tier::Trace => 137,
        Tier::Observe => 0,
    });
    assert_eq!(marker.exists(), tier() == Tier::Observe);
    let denials: Vec<_> = outcome.decided().filter(|event| event.is_denial()).collect();
    if tier() != Tier::Observe {
        assert_eq!(denials.len(), 1);
    }
    assert_eq!(denials[0].access()[0], "exec");
}

fn left_behind() {
    let outcome = Run::under(ALLOW_ALL).go(&[
        "/bin/sh",
        "-c",
        "setsid sleep 100000 & setsid sleep 100000 & echo $!; exit 3",
    ]);
    outcome.exits(3);
    let pid = outcome.text().trim();
    assert!(!runs(pid), "{pid} lives on");
    assert!(outcome.stderr.contains("left processes behind"), "{}", outcome.stderr);
}

fn nothing_left() {
    let outcome = Run::under(ALLOW_ALL).go(&["/bin/true"]);
    outcome.exits(0);
    for trace in traces(&outcome.events) {
        assert!(!trace.exists(), "{}", trace.display());
    }
}

fn passes_through() {
    let outcome = Run::under(ALLOW_ALL).input("in\n").go(&[
        "/bin/sh",
        "-c",
        "read word; echo \"$word out\"; echo \"$0 error\" >&2",
        "a b",
    ]);
    outcome.exits(0);
    assert_eq!(outcome.text(), "in out\n");
    assert!(outcome.stderr.lines().any(|line| line == "a b error"));
}

fn without_events() {
    let scratch = secret_place();
    let key = scratch.path("secret/key");
    let run = Run::under(&scratch.place.fill(DENY_SECRETS)).events_to(None);
    let outcome = run.go(&[Path::new("/bin/cat"), key.as_path()]);
    outcome.exits(match tier() {
        Tier::Lsm => 1,
        Tier::Trace => 137,
        Tier::Observe => 0,
    });
    let told = outcome.stderr.lines().filter(|line| line.contains("secret/key (read)")).count();
    assert_eq!(told, 1, "{}", outcome.stderr);
    let line = outcome.stderr.lines().find(|line| line.contains("secret/key (read)")).unwrap();
    assert!(line.contains("deny rule secrets") && line.contains("policy.yaml:7"), "{line}");
    assert!(line.contains("change that rule"), "{line}");
}
