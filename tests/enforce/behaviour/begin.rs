//! Before the command starts: what is refused, and that it never started then.

use std::{
    fs,
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

use agent_guard::{
    cgroup::{Cgroup, CgroupError},
    mounts::MountTable,
    tier::Tier,
};

use super::{ALLOW_ALL, Behaviour, shared::WEAKER_TIER};
use crate::{
    guard::{Outcome, Run, tier},
    scratch::Scratch,
};

pub const PROMISES: &[Behaviour] = &[
    ("a bad policy ends the run before the command starts", bad_policy),
    ("a policy that is not there ends the run before the command starts", no_policy),
    ("events that can not be written end the run before the command starts", bad_events),
    ("a tier that is not to be had ends the run before the command starts", no_such_tier),
    ("tier auto takes the strongest that this host offers", strongest_tier),
    ("every tier that is weaker than this one can be had too", weaker_tiers),
    ("a policy to enforce is refused on tier observe unless that is allowed", observe_refuses),
    ("a run that was allowed to be degraded says so in every event", observe_says_so),
    ("a cgroup that a killed run left empty is taken over", cgroup_taken_over),
    ("a cgroup that holds processes is an error", cgroup_in_use),
];

/// A command that leaves a mark.
pub fn mark(scratch: &Scratch) -> [String; 2] {
    ["touch".to_owned(), scratch.path("started").to_str().unwrap().to_owned()]
}

#[track_caller]
pub fn never_started(scratch: &Scratch, outcome: &Outcome, says: &[&str]) {
    outcome.exits(125);
    assert!(!scratch.path("started").exists());
    for words in says {
        assert!(outcome.stderr.contains(words), "`{words}` is not in: {}", outcome.stderr);
    }
    assert!(outcome.stdout.is_empty());
}

fn bad_policy() {
    let scratch = Scratch::new();
    let outcome = Run::under("files: {default: maybe}").go(&mark(&scratch));
    never_started(&scratch, &outcome, &["policy.yaml:5", "maybe", "allow"]);
}

fn no_policy() {
    let scratch = Scratch::new();
    let run = Run::under(ALLOW_ALL).with(&["--agent", "x"]);
    let mut command = run.command(&mark(&scratch));
    let policy = command.get_args().position(|word| word == "--policy").unwrap() + 1;
    let words: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
    command = Command::new(command.get_program());
    let words = words.into_iter().enumerate();
    command
        .args(words.map(|(at, word)| if at == policy { "/no/such/policy".into() } else { word }));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8(output.stderr).unwrap().contains("/no/such/policy"));
    assert!(!scratch.path("started").exists());
}

fn bad_events() {
    let scratch = Scratch::new();
    let (link, target) = (scratch.path("link"), scratch.path("target"));
    symlink(&target, &link).unwrap();
    let missing = scratch.path("no/such/directory/events");
    for (path, says) in [
        (missing.as_path(), "cannot open"),
        (link.as_path(), "is a symbolic link"),
        (scratch.place.root.as_path(), "cannot open"),
    ] {
        let outcome = Run::under(ALLOW_ALL).events_to(Some(path)).go(&mark(&scratch));
        never_started(&scratch, &outcome, &[says, path.to_str().unwrap()]);
    }
    assert!(!target.exists());
}

/// Hosts that are held to `trace` are those that lack `lsm`.
fn no_such_tier() {
    let scratch = Scratch::new();
    let outcome = Run::under(ALLOW_ALL).on("lsm").go(&mark(&scratch));
    match tier() {
        Tier::Lsm => {
            outcome.exits(0);
        }
        Tier::Trace | Tier::Observe => {
            never_started(&scratch, &outcome, &["tier lsm is not to be had here", "doctor"]);
        }
    }
}

fn strongest_tier() {
    let outcome = Run::under(ALLOW_ALL).on("auto").go(&["/bin/true"]);
    outcome.exits(0);
    let took = outcome.events[0]["unmapped"]["agent_guard"]["tier"].as_str().unwrap();
    match tier() {
        Tier::Lsm => assert_eq!(took, "lsm"),
        Tier::Trace => assert_eq!(took, "trace"),
        Tier::Observe => assert!(Tier::ALL.iter().any(|tier| tier.name() == took)),
    }
}

fn weaker_tiers() {
    let _alone = WEAKER_TIER.lock();
    for weaker in Tier::ALL.into_iter().filter(|weaker| *weaker > tier()) {
        let run = Run::under(ALLOW_ALL).on(weaker.name()).with(&["--mode", "audit"]);
        run.go(&["/bin/true"]).exits(0);
    }
}

fn observe_refuses() {
    let _alone = WEAKER_TIER.lock();
    let scratch = Scratch::new();
    let outcome = Run::under(ALLOW_ALL).on("observe").go(&mark(&scratch));
    never_started(&scratch, &outcome, &["observe enforces nothing", "--allow-degraded enforce"]);
    let audit = Run::under(ALLOW_ALL).on("observe").with(&["--mode", "audit"]);
    audit.go(&["/bin/true"]).exits(0);
}

fn observe_says_so() {
    let _alone = WEAKER_TIER.lock();
    let scratch = Scratch::new();
    let file = scratch.file("f", "x");
    let spec = "exec: {default: allow}\nfiles: {default: deny}";
    let run = Run::under(spec).on("observe").with(&["--allow-degraded", "enforce"]);
    let outcome = run.go(&["/bin/cat".as_ref(), file.as_os_str()]);
    outcome.exits(0);
    assert_eq!(outcome.text(), "x");
    assert!(outcome.decided().any(|event| event.path() == file.to_str() && event.is_denial()));
    assert!(outcome.decided().all(|event| ["allowed", "observed"].contains(&event.outcome())));
    for event in &outcome.events {
        assert_eq!(event["unmapped"]["agent_guard"]["degraded"][0], "enforce", "{event}");
    }
}

fn cgroup_taken_over() {
    let mounts = MountTable::open().unwrap().read().unwrap();
    let name = format!("agent-guard-left-{}", std::process::id());
    let left = Cgroup::create(&mounts, &name).unwrap();
    fs::create_dir(left.path().join("inner")).unwrap();
    let taken = Cgroup::create(&mounts, &name).unwrap();
    assert_eq!(taken.path(), left.path());
    assert!(!taken.path().join("inner").exists());
    taken.remove().unwrap();
    assert!(!left.path().exists());
}

fn cgroup_in_use() {
    let mounts = MountTable::open().unwrap().read().unwrap();
    let name = format!("agent-guard-used-{}", std::process::id());
    let used = Cgroup::create(&mounts, &name).unwrap();
    let mut child =
        Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    fs::write(used.path().join("cgroup.procs"), child.id().to_string()).unwrap();
    let error = Cgroup::create(&mounts, &name).unwrap_err();
    assert!(matches!(&error, CgroupError::InUse(path) if path == used.path()), "{error}");
    assert!(child.try_wait().unwrap().is_none(), "whoever is there is left alone");
    used.remove().unwrap();
    child.wait().unwrap();
}
