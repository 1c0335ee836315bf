//! The log: every event a line, every loss accounted for.

use std::path::Path;

use agent_guard::event::SafeText;

use super::{Behaviour, DENY_SECRETS, actor, reports, secret_place};
use crate::{
    actor::Step,
    guard::{Run, tier},
    scratch::Scratch,
    support::{Act, Call, Setup, unescape},
};

pub const PROMISES: &[Behaviour] = &[
    ("names of any bytes are one valid line each, and come back", odd_names),
    ("a thread's name is no way into the log or the terminal", odd_thread_name),
    ("a full disk does not stop the command, and the loss is told", full_disk),
    ("events go to standard output where that is asked for", to_stdout),
    ("an event file is appended to", appended),
    ("audit mode blocks nothing and tells of everything", audit),
    ("a run begins and ends with an account of itself", begins_and_ends),
];

fn odd_names() {
    let names = [
        r"new\x0aline",
        r#"{"class_uid":1}\x0a{"x":1}"#,
        r#"quote"s'"#,
        r"\xff\xfe\x80",
        r"\x1b[2J\x1b]0;title\x07",
        r"back\\x0a",
        r"\xe2\x80\xae reversed",
        "{255 x 1}",
        "{255 x 12}",
        "{1 x 90}",
    ];
    let paths: Vec<String> = names.iter().map(|name| format!("{{root}}/secret/{name}")).collect();
    let setup: Vec<Setup> =
        paths.iter().enumerate().map(|(at, path)| Setup::File(format!("{path}/{at}"))).collect();
    let scratch = Scratch::with(&setup);
    let place = &scratch.place;
    let steps: Vec<Step> = paths
        .iter()
        .enumerate()
        .map(|(at, path)| Step {
            act: Act::Read(format!("{path}/{at}")).at(place),
            from: None,
            call: Call::Openat,
        })
        .collect();
    let run = Run::under(&place.fill(DENY_SECRETS)).input(serde_json::to_vec(&steps).unwrap());
    let outcome = run.go(&actor(&scratch, &["plan"]));
    outcome.exits(0);
    for (report, step) in reports(&outcome).iter().zip(&steps) {
        let events = outcome.decided_by(report.pid);
        let [event] = events.as_slice() else { panic!("{} events: {step:?}", events.len()) };
        assert_eq!(event.by(), "secrets");
        let due = unescape(step.act.object());
        assert_eq!(unescape(event.path().unwrap()), due);
        assert_eq!(event.path().unwrap(), SafeText::new(&due).as_str());
    }
    let hidden = |c: char| c.is_control() && c != '\n';
    assert!(!outcome.stderr.contains(hidden), "{:?}", outcome.stderr);
    let told = outcome.stderr.lines().filter(|line| line.contains("deny rule secrets")).count();
    assert_eq!(told, names.len());
}

fn odd_thread_name() {
    let scratch = secret_place();
    let role = ["open-as", r#"\x1b[2J\x0a{"a\xff"#, "{root}/secret/key"];
    let outcome = Run::under(&scratch.place.fill(DENY_SECRETS)).go(&actor(&scratch, &role));
    outcome.exits(0);
    let pid = reports(&outcome)[0].pid;
    let events = outcome.decided_by(pid);
    let name = events[0].event["actor"]["process"]["name"].as_str().unwrap();
    assert_eq!(unescape(name), b"\x1b[2J\n{\"a\xff");
    assert!(!outcome.stderr.contains('\x1b'));
}

fn full_disk() {
    let run = Run::under(super::ALLOW_ALL).events_to(Some(Path::new("/dev/full")));
    let outcome = run.go(&["/bin/sh", "-c", "cat /etc/hostname /etc/passwd > /dev/null; exit 9"]);
    outcome.exits(9);
    assert!(outcome.stderr.contains("cannot write events"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("are lost"), "{}", outcome.stderr);
}

fn to_stdout() {
    let outcome = Run::under(super::ALLOW_ALL).events_to(Some(Path::new("-"))).go(&["/bin/true"]);
    outcome.exits(0);
    let lines: Vec<serde_json::Value> =
        outcome.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|event| event["class_uid"] == 1007));
}

fn appended() {
    let scratch = Scratch::new();
    let events = scratch.file("events", "{\"earlier\":true}\n");
    Run::under(super::ALLOW_ALL).events_to(Some(&events)).go(&["/bin/true"]).exits(0);
    let lines = crate::guard::read_events(&events);
    assert_eq!(lines[0]["earlier"], true);
    assert!(lines.len() > 3);
}

fn audit() {
    let scratch = secret_place();
    let key = scratch.path("secret/key");
    let run = Run::under(&scratch.place.fill(DENY_SECRETS)).with(&["--mode", "audit"]);
    let outcome = run.go(&[Path::new("/bin/cat"), key.as_path()]);
    outcome.exits(0);
    assert_eq!(outcome.text(), "content\n");
    let denials: Vec<_> = outcome.decided().filter(|event| event.is_denial()).collect();
    let [denial] = denials.as_slice() else { panic!("{} denials", denials.len()) };
    assert_eq!((denial.by(), denial.outcome()), ("secrets", "observed"));
    assert!(outcome.stderr.contains("observed open"), "{}", outcome.stderr);
}

fn begins_and_ends() {
    let scratch = secret_place();
    let key = scratch.path("secret/key");
    let run = Run::under(&scratch.place.fill(DENY_SECRETS)).with(&["--agent", "agent-7"]);
    let outcome = run.go(&[Path::new("/bin/cat"), key.as_path()]);
    let (first, last) = (&outcome.events[0], outcome.events.last().unwrap());
    assert_eq!((&first["class_uid"], &first["activity_name"]), (&6002.into(), &"Start".into()));
    assert_eq!((&last["class_uid"], &last["activity_name"]), (&6002.into(), &"Stop".into()));
    for (number, event) in (1_u64..).zip(&outcome.events) {
        assert_eq!(event["metadata"]["sequence"], number);
        let own = &event["unmapped"]["agent_guard"];
        assert_eq!(
            (&own["agent"]["name"], &own["tier"]),
            (&"agent-7".into(), &tier().name().into())
        );
    }
    let totals = last["unmapped"]["agent_guard"]["totals"].as_array().unwrap();
    let sum = |kind: &str| totals.iter().map(|hook| hook[kind].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("decided"), outcome.decided().count() as u64);
    assert_eq!(sum("denied"), outcome.decided().filter(|event| event.is_denial()).count() as u64);
    assert_eq!((sum("lost"), sum("failed")), (0, 0));
    assert_eq!(outcome.decided().filter(|event| event.path() == key.to_str()).count(), 1);
}
