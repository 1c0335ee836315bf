//! Whose a terminal is.

use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::OwnedFd,
    os::unix::fs::symlink,
    process::{Child, Command},
    time::{Duration, Instant},
};

use agent_guard::tier::Tier;

use super::{
    Behaviour, actor, open_terminal,
    signals::{lead_session, start_on_terminal},
    ways::{AtLsm, AtTrace, Way, hold_with},
};
use crate::{
    guard::{PATIENCE, Run, tier, wait},
    passing::serve,
    scratch::Scratch,
    terminals::{locked, name, unlock},
};

pub const PROMISES: &[Behaviour] = &[
    ("a terminal of another session is opened by its exact name only", of_others),
    ("an agent's own terminals can be used", own),
    ("the terminal that an agent was started from can be opened again", started_from),
    ("a terminal with the number of one that the agent had is not its own", number_again),
];

/// Every terminal that is not guarded may be opened.
pub const SPEC: &str = r#"
exec: {default: allow}
unix: {rules: [{effect: allow, paths: ["{root}/socket"]}]}
files:
  rules:
    - {effect: allow, access: [read], paths: [{system}, "/proc/self/**"]}
    - {effect: allow, paths: ["/dev/ptmx", "/dev/pts/*", "/dev/tty", "/dev/null", "{root}/**"]}
"#;

/// What of it tier `trace` has no hooks for.
pub const DEGRADED: [&str; 2] = ["--allow-degraded", "listen,unix,system"];

/// A terminal that a session outside of any agent has.
struct Session {
    leader: Child,
    other_end: OwnedFd,
}

impl Session {
    fn new() -> Self {
        let (other_end, terminal) = open_terminal();
        let mut command = Command::new("/bin/sleep");
        command.arg("100000").stdin(terminal);
        lead_session(&mut command);
        Self { leader: command.spawn().unwrap(), other_end }
    }

    fn terminal(&self) -> String {
        name(&self.other_end).to_str().unwrap().to_owned()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.leader.kill();
        let _ = self.leader.wait();
    }
}

const fn way(words: &'static [&'static str; 3], at_lsm: AtLsm, at_trace: AtTrace) -> Way {
    Way { words, at_lsm, at_trace }
}

macro_rules! denied {
    ($what:literal, $name:literal) => {
        way(&["terminal", $what, $name], AtLsm::Denied("guarded"), AtTrace::Same)
    };
}

fn of_others() {
    let scratch = Scratch::new();
    let (session, named) = (Session::new(), Session::new());
    // Made outside, and not yet anybody's.
    let fresh = locked();
    unlock(&fresh);
    for (link, terminal) in [
        ("session", session.terminal()),
        ("named", named.terminal()),
        ("fresh", name(&fresh).to_str().unwrap().to_owned()),
    ] {
        symlink(terminal, scratch.path(link)).unwrap();
    }
    let sent = File::options().read(true).write(true).open(scratch.path("session")).unwrap();
    serve(&scratch.path("socket"), BTreeMap::from([("terminal", OwnedFd::from(sent))]));
    let ways = [
        denied!("read", "{root}/session"),
        denied!("write", "{root}/session"),
        denied!("read and write", "{root}/session"),
        denied!("read in another session", "{root}/session"),
        denied!("read", "{root}/fresh"),
        denied!("write", "{root}/fresh"),
        way(&["terminal", "chmod", "{root}/session"], AtLsm::Denied("guarded"), AtTrace::Unseen),
        Way {
            words: &["descriptor", "receive", "{root}/socket", "terminal"],
            at_lsm: AtLsm::Denied("guarded"),
            at_trace: AtTrace::Unseen,
        },
        way(&["terminal", "read and write", "{root}/named"], AtLsm::Allowed, AtTrace::Same),
        way(&["terminal", "chmod", "{root}/named"], AtLsm::Allowed, AtTrace::Same),
    ];
    let exactly = format!("    - {{effect: allow, paths: [\"{}\"]}}\n", named.terminal());
    hold_with(&DEGRADED, &scratch, &format!("{SPEC}{exactly}"), &ways);
}

fn own() {
    let ways = [
        &["terminal", "own by name"],
        &["terminal", "own by its other end"],
        &["terminal", "own as the session's"],
    ]
    .map(|words| Way { words, at_lsm: AtLsm::Allowed, at_trace: AtTrace::Same });
    hold_with(&DEGRADED, &Scratch::new(), SPEC, &ways);
}

/// By who left the session, too, as the servers of terminal multiplexers and editors do.
fn started_from() {
    let scratch = Scratch::new();
    let events = scratch.path("events");
    let (other_end, terminal) = open_terminal();
    symlink(name(&other_end), scratch.path("terminal")).unwrap();
    let run = Run::under(&scratch.place.fill(SPEC)).with(&DEGRADED).events_to(Some(&events));
    let ways = ["each", "terminal", "read and write", "{root}/terminal", "--"];
    let apart = ["terminal", "read in another session", "{root}/terminal"];
    let command = run.command(&actor(&scratch, &[&ways[..], &apart[..]].concat()));
    let (child, screen) = start_on_terminal(command, other_end, terminal);
    assert_eq!(wait(child).code(), Some(0));
    let said = String::from_utf8(screen.finish()).unwrap();
    assert_eq!(said.matches("\"Done\"").count(), 2, "{said}");
    let told = std::fs::read_to_string(&events).unwrap();
    assert_eq!(told.matches("\"reason\":\"guarded\"").count(), 0, "{told}");
}

/// Neither while it is locked nor at any moment afterwards.
fn number_again() {
    if tier() != Tier::Lsm {
        // What is denied kills, and there is no second attempt.
        return;
    }
    let scratch = Scratch::new();
    let command = ["each", "terminal", "open while others make it", "{root}"];
    let running = Run::under(&scratch.place.fill(SPEC)).start(&actor(&scratch, &command));
    let start = Instant::now();
    let given_back = loop {
        match std::fs::read_to_string(scratch.path("given-back")) {
            Ok(name) if !name.is_empty() => break name,
            _ => assert!(start.elapsed() < PATIENCE, "the agent made no terminal"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    for round in 0..ROUNDS {
        let mut others = Vec::new();
        let found = loop {
            let other_end = locked();
            if name(&other_end).to_str() == Some(&given_back) {
                break other_end;
            }
            others.push(other_end);
            assert!(others.len() < 256, "the number {given_back} did not come again");
        };
        unlock(&found);
        let opened = File::options().read(true).write(true).open(&given_back);
        assert!(opened.is_ok(), "round {round}: outside it can be opened");
        std::thread::sleep(Duration::from_millis(1));
    }
    scratch.file("done", "");
    let outcome = running.finish();
    outcome.exits(0);
    assert!(outcome.text().contains(&format!("\"Errno\":{}", libc::EACCES)), "{}", outcome.text());
    let denials = outcome.decided().filter(|event| event.by() == "guarded").count();
    assert!(denials > 0, "it was tried while the number was another's");
}

/// How often the number is given to another's terminal: each time is a chance to open it too early.
const ROUNDS: u32 = 200;
