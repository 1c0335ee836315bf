//! What agents share, and what they do not: one set of programs serves all of them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use agent_guard::tier::Tier;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{
    ALLOW_ALL, Behaviour, DENY_SECRETS, actor,
    death::{PINS, traces},
    runs, secret_place,
};
use crate::guard::{Run, Running, tier};

pub const PROMISES: &[Behaviour] = &[
    ("agents share the programs, and each has its own policy and events", side_by_side),
    ("the last to end takes the programs out of the kernel", last_one),
    ("programs that are not as they were loaded are used by nobody", not_whole),
    ("what was moved out of an agent that has ended is denied everything", survivor),
];

/// Options of a run on a weaker tier.
const WEAKER: [&str; 2] = ["--allow-degraded", "enforce,listen,unix,system"];

/// A script that runs its arguments once it is told to.
const WAIT_FOR_USR1: &str = "trap 'exec \"$@\"' USR1; echo ready; while :; do sleep 0.1; done";

/// What the programs that a run uses are pinned as.
pub fn programs_of(run: &Running) -> PathBuf {
    let [handover, ..] = traces(&run.events());
    let handover: Value = serde_json::from_slice(&fs::read(handover).unwrap()).unwrap();
    Path::new(PINS).join(handover["programs"].as_str().unwrap())
}

fn side_by_side() {
    let scratch = secret_place();
    let secret = scratch.place.fill("{root}/secret/key");
    let cat = ["-c", WAIT_FOR_USR1, "sh", "/bin/cat", &secret];
    let start = |run: Run| {
        let running = run.start(&[&["/bin/sh"], &cat[..]].concat());
        running.stdout.wait_for("ready");
        running
    };
    let closed = start(Run::under(&scratch.place.fill(DENY_SECRETS)));
    let open = start(Run::under(ALLOW_ALL));
    assert_eq!(programs_of(&open), programs_of(&closed));
    let [open, closed] = [open, closed].map(|running| {
        running.signal(Signal::USR1);
        running.finish()
    });
    open.exits(0);
    assert_eq!(open.decided().filter(|event| event.is_denial()).count(), 0);
    if tier() != Tier::Observe {
        assert_ne!(closed.code(), 0);
    }
    assert_eq!(closed.decided().filter(|event| event.is_denial()).count(), 1);

    let ids = [&open, &closed].map(|outcome| {
        let ids =
            outcome.events.iter().map(|event| &event["unmapped"]["agent_guard"]["agent"]["id"]);
        let ids: BTreeSet<_> = ids.map(|id| id.as_u64().unwrap()).collect();
        assert_eq!(ids.len(), 1);
        let told = outcome.decided().count() as u64;
        assert_eq!(outcome.total("decided"), told, "somebody else's actions are counted, or told");
        ids
    });
    assert!(ids[0].is_disjoint(&ids[1]));
}

/// One test at a time uses weaker tiers.
pub static WEAKER_TIER: Mutex<()> = Mutex::new(());

/// A run on a tier that nobody else uses here.
fn on_weaker_tier() -> Running {
    let running = Run::under(ALLOW_ALL).on(weaker()).with(&WEAKER);
    let running = running.start(&["/bin/sh", "-c", WAIT_FOR_USR1, "sh", "/bin/true"]);
    running.stdout.wait_for("ready");
    running
}

fn weaker() -> &'static str {
    if tier() == Tier::Lsm { "trace" } else { "observe" }
}

fn last_one() {
    let _alone = WEAKER_TIER.lock();
    let first = on_weaker_tier();
    let programs = programs_of(&first);
    Run::under(ALLOW_ALL).on(weaker()).with(&WEAKER).go(&["/bin/true"]).exits(0);
    assert!(programs.exists(), "they went before their last user");
    first.signal(Signal::USR1);
    first.finish().exits(0);
    assert!(!programs.exists(), "{}", programs.display());
}

fn not_whole() {
    let _alone = WEAKER_TIER.lock();
    let holder = on_weaker_tier();
    let programs = programs_of(&holder);
    let refused = |why: &str| {
        let outcome = Run::under(ALLOW_ALL).on(weaker()).with(&WEAKER).go(&["/bin/true"]);
        outcome.exits(125);
        assert!(outcome.stderr.contains(why), "{}", outcome.stderr);
    };
    fs::remove_file(programs.join("link-sys_exit")).unwrap();
    refused("link-sys_exit");
    fs::rename(programs.join("link-sched_exec"), programs.join("link-sys_exit")).unwrap();
    refused("not whole");
    holder.signal(Signal::USR1);
    holder.finish().exits(0);
    assert!(!programs.exists(), "{}", programs.display());
}

fn survivor() {
    // Elsewhere an agent is its cgroup alone.
    if tier() != Tier::Lsm {
        return;
    }
    let scratch = secret_place();
    let run = Run::under(&scratch.place.fill(DENY_SECRETS));
    let trying = actor(&scratch, &["keep-trying", "{root}/secret/key"]);
    let script = ["/bin/sh", "-c", "\"$@\" & exec sleep 1000", "sh"].map(Into::into);
    let mut running = run.start(&[script.to_vec(), trying].concat());
    let agent = running.stdout.wait_for("ready");
    let cgroup = running.events()[0]["unmapped"]["agent_guard"]["agent"]["cgroup"].clone();
    let above = std::path::Path::new(cgroup.as_str().unwrap()).parent().unwrap().to_owned();
    fs::write(above.join("cgroup.procs"), &agent).unwrap();
    running.signal(Signal::TERM);
    running.child.wait().unwrap();
    assert!(runs(&agent), "{agent} was ended with its agent");
    // Long enough to try many times.
    std::thread::sleep(std::time::Duration::from_millis(500));
    kill_process(Pid::from_raw(agent.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    let outcome = running.finish();
    assert!(!outcome.text().contains("ESCAPED"), "{}", outcome.text());
}
