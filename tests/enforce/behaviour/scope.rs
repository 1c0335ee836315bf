//! Who is an agent.

use agent_guard::tier::Tier;

use super::{
    ALLOW_ALL, Behaviour, DENY_SECRETS, actor, is_denied_connect, is_denied_open, reports,
    secret_place,
};
use crate::{
    actor::End,
    guard::{Run, tier},
    scratch::Scratch,
};

pub const PROMISES: &[Behaviour] = &[
    ("orphans, sessions of their own and cgroups below stay confined", descendants),
    ("leaving the cgroup does not shed the policy, where the tier can label processes", leavers),
    ("a policy keeps the agent in its cgroup by denying the cgroup tree", kept),
    ("two agents at once keep to their own policies", two_agents),
    ("io_uring is closed where the tier can not judge it", io_uring),
    ("whoever is not in an agent is not judged", outsiders),
];

fn descendants() {
    let scratch = secret_place();
    let command = actor(&scratch, &["descend", "{root}/secret/key", "127.0.0.1:{p0}/tcp"]);
    let outcome = Run::under(&scratch.place.fill(DENY_SECRETS)).go(&command);
    outcome.exits(0);
    let reports = reports(&outcome);
    assert_eq!(reports.len(), 4);
    for (report, by, denied) in [
        (reports[0], "secrets", is_denied_open as fn(End) -> bool),
        (reports[1], "no-port", is_denied_connect),
        (reports[2], "secrets", is_denied_open),
        (reports[3], "no-port", is_denied_connect),
    ] {
        assert!(denied(report.end), "{by}: {report:?}");
        let events = outcome.decided_by(report.pid);
        assert_eq!(events.iter().filter(|event| event.is_denial()).count(), 1);
        assert!(events.iter().any(|event| event.by() == by));
    }
    assert!(!outcome.cgroup().exists());
}

fn leavers() {
    let scratch = secret_place();
    let command = actor(&scratch, &["leave", "{root}/secret/key", "127.0.0.1:{p0}/tcp"]);
    let outcome = Run::under(&scratch.place.fill(DENY_SECRETS)).go(&command);
    outcome.exits(0);
    let ends: Vec<End> = reports(&outcome).iter().map(|report| report.end).collect();
    match tier() {
        Tier::Lsm => assert!(ends.iter().all(|end| end.is_refusal()), "{ends:?}"),
        // There a child is known by its cgroup alone: a policy has to keep the agent in it.
        Tier::Trace | Tier::Observe => assert_eq!(ends, [End::Done, End::Done]),
    }
}

fn kept() {
    let scratch = secret_place();
    let command = actor(&scratch, &["leave", "{root}/secret/key", "127.0.0.1:{p0}/tcp"]);
    let spec = scratch.place.fill(DENY_SECRETS).replace(
        "rules: [{name: secrets",
        "rules: [{name: cgroups, effect: deny, access: [write], paths: [\"**/cgroup.procs\"]}, {name: secrets",
    );
    let outcome = Run::under(&spec).go(&command);
    match tier() {
        Tier::Lsm => assert_ne!(outcome.code(), 0),
        Tier::Trace => assert_eq!(outcome.code(), 137),
        Tier::Observe => return,
    }
    assert!(outcome.text().is_empty());
    assert!(outcome.decided().any(|event| event.is_denial() && event.by() == "cgroups"));
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
