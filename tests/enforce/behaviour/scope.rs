//! Who is an agent.

use std::{
    fs,
    path::{Path, PathBuf},
};

use agent_guard::tier::Tier;
use rustix::process::{Pid, Signal, kill_process};

use super::{
    ALLOW_ALL, Behaviour, DENY_SECRETS, actor, is_denied_connect, is_denied_open, reports,
    secret_place,
};
use crate::{
    actor::{End, Report},
    guard::{Decided, Outcome, Run, tier},
    scratch::Scratch,
};

pub const PROMISES: &[Behaviour] = &[
    ("orphans and sessions of their own stay confined", orphans),
    ("cgroups below the agent's stay confined", child_cgroups),
    ("whoever is moved out of the cgroup stays confined, where processes are labelled", moved_away),
    ("an agent can not leave its cgroup, whatever else it may", leavers),
    ("two agents at once keep to their own policies", two_agents),
    ("io_uring is closed where the tier can not judge it", io_uring),
    ("a raw socket is not to be had, whatever protocol it names", raw_tcp),
    ("a packet socket is not to be had, whatever its address says", packet),
    ("no other process shares an agent's descriptors, where it would keep a denied file", shared),
    ("a process makes threads and processes in all its threads at once", threads),
    ("whoever is not in an agent is not judged", outsiders),
];

fn orphans() {
    let scratch = secret_place();
    let command = actor(&scratch, &["descend", "{root}/secret/key", "127.0.0.1:{p0}/tcp"]);
    let outcome = Run::under(&scratch.place.fill(DENY_SECRETS)).go(&command);
    outcome.exits(0);
    are_confined(&outcome, &reports(&outcome));
}

#[track_caller]
fn are_confined(outcome: &Outcome, reports: &[Report]) {
    let [opened, connected] = reports else { panic!("{reports:?}") };
    assert!(is_denied_open(opened.end), "{opened:?}");
    assert!(is_denied_connect(connected.end), "{connected:?}");
    for (report, by) in [(opened, "secrets"), (connected, "no-port")] {
        let events = outcome.decided_by(report.pid);
        let denials: Vec<_> = events.iter().filter(|event| event.is_denial()).collect();
        assert_eq!((denials.len(), denials[0].by()), (1, by));
    }
}

fn child_cgroups() {
    let scratch = secret_place();
    let outcome = moved(&scratch, |cgroup| {
        let below = cgroup.join("below").join("deeper");
        fs::create_dir_all(&below).unwrap();
        below
    });
    are_confined(&outcome, &reports(&outcome)[..]);
    assert!(!outcome.cgroup().exists());
}

/// An agent that was moved to the cgroup that `to` makes of its own.
fn moved(scratch: &Scratch, to: impl FnOnce(&Path) -> PathBuf) -> Outcome {
    let role = ["when-moved", "{root}/secret/key", "127.0.0.1:{p0}/tcp"];
    let running = Run::under(&scratch.place.fill(DENY_SECRETS)).start(&actor(scratch, &role));
    let pid = running.stdout.wait_for("ready");
    let cgroup = running.events()[0]["unmapped"]["agent_guard"]["agent"]["cgroup"].clone();
    fs::write(to(Path::new(cgroup.as_str().unwrap())).join("cgroup.procs"), &pid).unwrap();
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    kill_process(pid, Signal::USR1).unwrap();
    let mut outcome = running.finish();
    outcome.exits(0);
    // The line that told of being ready.
    let line = outcome.text().find('\n').unwrap();
    outcome.stdout.drain(..=line);
    outcome
}

fn moved_away() {
    let scratch = secret_place();
    let outcome = moved(&scratch, |cgroup| cgroup.parent().unwrap().to_owned());
    match tier() {
        Tier::Lsm => are_confined(&outcome, &reports(&outcome)),
        // There a child is known by its cgroup alone: the tree is closed to agents, and who moves
        // one out lets it go.
        Tier::Trace | Tier::Observe => {
            assert!(reports(&outcome).iter().all(|report| report.end == End::Done));
        }
    }
}

fn leavers() {
    let scratch = Scratch::new();
    let outcome = Run::under(ALLOW_ALL).go(&actor(&scratch, &["leave"]));
    match tier() {
        // The actor gives up.
        Tier::Lsm => assert_eq!(outcome.code(), 101),
        Tier::Trace => assert_eq!(outcome.code(), 137),
        Tier::Observe => assert_eq!(outcome.code(), 0),
    }
    assert_eq!(outcome.text() == "left\n", tier() == Tier::Observe);
    let denial = outcome.decided().find(Decided::is_denial).unwrap();
    assert!(denial.path().unwrap().ends_with("/cgroup.procs"));
    assert_eq!(denial.by(), "guarded");
}

fn two_agents() {
    let scratch = Scratch::new();
    scratch.file("one/f", "1");
    scratch.file("two/f", "2");
    std::fs::create_dir(scratch.path("met")).unwrap();
    let start = |mine: &str, other: &str| {
        let spec = ALLOW_ALL.replace("files: {default: allow}", "")
            + "files: {default: allow, rules: [{name: other, effect: deny, paths: [\"{root}/OTHER/**\"]}]}";
        let spec = scratch.place.fill(&spec).replace("OTHER", other);
        let words = [
            "meet".to_owned(),
            format!("{{root}}/met/{mine}"),
            format!("{{root}}/met/{other}"),
            format!("{{root}}/{mine}/f"),
            format!("{{root}}/{other}/f"),
        ];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Run::under(&spec).start(&actor(&scratch, &words))
    };
    let (one, two) = (start("one", "two"), start("two", "one"));
    for outcome in [one.finish(), two.finish()] {
        outcome.exits(0);
        for pair in reports(&outcome).chunks(2) {
            assert_eq!(pair[0].end, End::Done);
            assert!(is_denied_open(pair[1].end), "{:?}", pair[1]);
            assert_eq!(outcome.decided_by(pair[1].pid)[0].by(), "other");
        }
    }
}

fn io_uring() {
    let scratch = Scratch::new();
    let command = actor(&scratch, &["io-uring"]);
    let outside = std::process::Command::new(&command[0]).args(&command[1..]).output().unwrap();
    let outside = String::from_utf8(outside.stdout).unwrap();
    let outcome = Run::under(ALLOW_ALL).go(&command);
    outcome.exits(0);
    let inside = reports(&outcome)[0];
    let events = outcome.decided_by(inside.pid);
    match tier() {
        _ if !outside.contains("Done") => assert_ne!(inside.end, End::Done, "closed to all"),
        Tier::Trace => {
            assert_eq!(inside.end, End::Signal(libc::SIGKILL));
            assert_eq!((events.len(), events[0].by()), (1, "interface"));
        }
        // Its opens and connects pass the hooks of `lsm`.
        Tier::Lsm | Tier::Observe => assert_eq!(inside.end, End::Done),
    }
}

fn raw_tcp() {
    is_refused("raw-tcp");
}

fn packet() {
    is_refused("packet-in-disguise");
}

/// What `role` does works outside, and inside fails: the capability is withheld on every tier.
#[track_caller]
fn is_refused(role: &str) {
    let scratch = Scratch::new();
    let command = actor(&scratch, &[role]);
    let outside = std::process::Command::new(&command[0]).args(&command[1..]).output().unwrap();
    let outside: Report = serde_json::from_slice(&outside.stdout).unwrap();
    assert_eq!(outside.end, End::Done, "the control");
    let policy = ALLOW_ALL
        .replace("egress: {default: allow}", "egress: {rules: [{effect: allow, to: [\"*\"]}]}");
    let outcome = Run::under(&policy).go(&command);
    outcome.exits(0);
    let inside = reports(&outcome)[0];
    assert!(inside.end.is_refusal(), "{inside:?}");
}

fn shared() {
    let scratch = Scratch::new();
    let outcome = Run::under(ALLOW_ALL).go(&actor(&scratch, &["share-descriptors"]));
    outcome.exits(0);
    let inside = reports(&outcome)[0];
    match tier() {
        Tier::Trace => assert_eq!(inside.end, End::Signal(libc::SIGKILL)),
        // No descriptor of a denied file comes to be there, or none is denied.
        Tier::Lsm | Tier::Observe => assert_eq!(inside.end, End::Done),
    }
}

fn threads() {
    let scratch = Scratch::new();
    let outcome = Run::under(ALLOW_ALL).go(&actor(&scratch, &["make-threads"]));
    outcome.exits(0);
    assert_eq!(reports(&outcome)[0].end, End::Done);
}

fn outsiders() {
    let scratch = secret_place();
    let running = Run::under(&scratch.place.fill(DENY_SECRETS))
        .start(&actor(&scratch, &["keep-trying", "{root}/secret/key"]));
    running.stdout.wait_for("ready");
    for _ in 0..100 {
        std::fs::read(scratch.path("secret/key")).unwrap();
    }
    running.signal(rustix::process::Signal::TERM);
    let outcome = running.finish();
    let own = u64::from(std::process::id());
    assert!(outcome.decided().all(|event| event.pid() != Some(own)));
}
