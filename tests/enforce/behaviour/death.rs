//! The guard is killed.

use std::{path::PathBuf, time::Instant};

use rustix::process::Signal;

use super::{Behaviour, DENY_SECRETS, actor, runs, secret_place};
use crate::guard::{PATIENCE, Run, tier};
use agent_guard::tier::Tier;

pub const PROMISES: &[Behaviour] = &[
    ("an agent whose guard is killed is ended, and confined until then", killed_guard),
    ("a stopped guard does not open the gate", stopped_guard),
];

fn killed_guard() {
    let scratch = secret_place();
    let run = Run::under(&scratch.place.fill(DENY_SECRETS));
    let running = run.start(&actor(&scratch, &["keep-trying", "{root}/secret/key"]));
    let agent = running.stdout.wait_for("ready");
    let cgroup = running.events()[0]["unmapped"]["agent_guard"]["agent"]["cgroup"].clone();
    let cgroup = PathBuf::from(cgroup.as_str().unwrap());
    assert!(cgroup.exists());
    running.signal(Signal::KILL);
    // The agent has standard output open to its end, the reaper standard error.
    let said = String::from_utf8(running.stdout.finish()).unwrap();
    running.stderr.finish();
    if tier() != Tier::Observe {
        assert!(!said.contains("ESCAPED"), "{said}");
    }
    assert!(!runs(&agent), "{agent} lives on");
    assert!(!cgroup.exists(), "{} is left", cgroup.display());
    drop(running.child);
}

fn stopped_guard() {
    let scratch = secret_place();
    let run = Run::under(&scratch.place.fill(DENY_SECRETS));
    let running = run.start(&actor(&scratch, &["keep-trying", "{root}/secret/key"]));
    running.stdout.wait_for("ready");
    running.signal(Signal::STOP);
    let denied = || running.events().len();
    let before = denied();
    // Nothing is written while the guard stands still; the agent goes on trying all the same.
    let start = Instant::now();
    while start.elapsed().as_millis() < 500 {
        std::thread::yield_now();
    }
    assert_eq!(denied(), before);
    running.signal(Signal::CONT);
    let since = Instant::now();
    while denied() == before {
        assert!(since.elapsed() < PATIENCE, "no event came after the guard went on");
        std::thread::yield_now();
    }
    running.signal(Signal::TERM);
    let outcome = running.finish();
    if tier() != Tier::Observe {
        assert!(!outcome.text().contains("ESCAPED"));
    }
}
