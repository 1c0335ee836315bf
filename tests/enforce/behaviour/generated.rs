//! Policies that are made from recordings of real work.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use agent_guard::tier::Tier;

use super::Behaviour;
use crate::guard::{Outcome, Run, program, tier};

pub const PROMISES: &[Behaviour] = &[
    ("work has no denial under the policy that was made of its recording", round_trip),
    ("what a recorded run did with secrets stays denied under what is made of it", secrets),
];

/// A shell, Python, git, a compiler and what they start.
const WORK: &str = r#"
git init -q repo
cd repo
printf 'int main(void) { return 0; }\n' > main.c
printf 'program: main.c\n\tgcc -O1 -o $@ $<\n' > Makefile
printf 'x = 1\n' > module.py
python3 -c '
import json, module, os, subprocess, tempfile
with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, "x.json")
    with open(path, "w") as out: json.dump(module.x, out)
    with open(path) as back: assert json.load(back) == 1
open("/proc/self/status").read()
subprocess.run(["true"], check=True)
'
make -s
./program
git add -A
git -c user.name=Ada -c user.email=ada@example.invalid commit -q -m one
echo y >> module.py
git -c user.name=Ada -c user.email=ada@example.invalid commit -q -a -m two
git log --oneline | grep -c . | grep -qx 2
"#;

fn round_trip() {
    // Not below `/tmp`, where names are drawn.
    let place = tempfile::Builder::new().prefix("agent-guard-made-").tempdir_in("/srv").unwrap();
    let events = place.path().join("events.jsonl");
    let script =
        fs::write(place.path().join("work.sh"), WORK).map(|()| place.path().join("work.sh"));
    let workspace = place.path().join("work");
    let work = |run: Run| {
        let _ = fs::remove_dir_all(&workspace);
        fs::create_dir(&workspace).unwrap();
        let directory = format!("cd {} && HOME=$PWD exec sh -eu ", workspace.display());
        let command = format!("{directory}{}", script.as_ref().unwrap().display());
        run.go(&["/bin/sh", "-c", &command])
    };
    work(Run::under("mode: audit").events_to(Some(&events))).exits(0);

    let made = generate(&events);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let policy = place.path().join("made.yaml");
    fs::write(&policy, &made.stdout).unwrap();
    let checked = Command::new(program()).args(["policy", "check"]).arg(&policy).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    let outcome = work(under(&policy));
    outcome.exits(0);
    assert_eq!(denials(&outcome), [""; 0], "{}", String::from_utf8_lossy(&made.stdout));
}

fn secrets() {
    let place = tempfile::Builder::new().prefix("agent-guard-made-").tempdir_in("/srv").unwrap();
    let events = place.path().join("events.jsonl");
    for name in "abcdefghijkl".chars() {
        fs::write(place.path().join(name.to_string()), "content").unwrap();
    }
    fs::write(place.path().join(".env"), "secret").unwrap();
    let read = |run: Run, name: &str| {
        let all = format!("cd {} && cat ? {name} > /dev/null", place.path().display());
        run.go(&["/bin/sh", "-c", &all])
    };
    read(Run::under("mode: audit").events_to(Some(&events)), ".env").exits(0);
    let made = generate(&events);
    let said = String::from_utf8(made.stderr).unwrap();
    let secret = place.path().join(".env");
    assert!(said.contains(&format!("read {} (1)", secret.display())), "{said}");
    let policy = place.path().join("made.yaml");
    fs::write(&policy, &made.stdout).unwrap();

    read(under(&policy), "").exits(0);
    let outcome = read(under(&policy), ".env");
    if tier() != Tier::Observe {
        assert_ne!(outcome.code(), 0);
    }
    assert_eq!(denials(&outcome), [secret.to_str().unwrap()]);
}

fn generate(events: &Path) -> Output {
    let mut command = Command::new(program());
    command.args(["policy", "generate", "--from"]).arg(events).stdin(Stdio::null());
    command.output().unwrap()
}

fn under(policy: &Path) -> Run {
    Run::under("{}").with_policy(policy)
}

/// Paths of what was denied. What the kernel itself refuses for want of a capability was refused before, too.
fn denials(outcome: &Outcome) -> Vec<String> {
    let denied = outcome.decided().filter(|event| event.is_denial());
    let judged = denied.filter(|event| !event.hook().starts_with("security_"));
    judged.map(|event| event.path().unwrap_or_default().to_owned()).collect()
}
