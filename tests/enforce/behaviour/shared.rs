//! What agents share, and what they do not: one set of programs serves all of them.

use std::{collections::BTreeSet, fs, sync::Mutex};

use agent_guard::tier::Tier;
use rustix::process::{Pid, Signal, kill_process};

use super::{ALLOW_ALL, Behaviour, DENY_SECRETS, actor, death::PINS, runs, secret_place};
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

fn sets() -> BTreeSet<String> {
    let entries = fs::read_dir(PINS).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn side_by_side() {
    let own = || sets().into_iter().filter(|set| set.starts_with(tier().name())).count();
    let scratch = secret_place();
    let secret = scratch.place.fill("{root}/secret/key");
    let cat = ["/bin/cat", &secret];
    let closed = Run::under(&scratch.place.fill(DENY_SECRETS));
    let closed = closed.start(&["/bin/sh", "-c", WAIT_FOR_USR1, "sh", cat[0], cat[1]]);
    closed.stdout.wait_for("ready");
    let open = Run::under(ALLOW_ALL).go(&cat);
    assert_eq!(own(), 1, "programs were loaded again");
    open.exits(0);
    assert_eq!(open.decided().filter(|event| event.is_denial()).count(), 0);

    closed.signal(Signal::USR1);
    let closed = closed.finish();
    if tier() != Tier::Observe {
        assert_ne!(closed.code(), 0);
    }
    let denied: Vec<_> = closed.decided().filter(|event| event.is_denial()).collect();
    assert_eq!(denied.len(), 1);
    for (one, other) in [(&open, &closed), (&closed, &open)] {
        let id = |events: &[serde_json::Value]| {
            let ids =
                events.iter().map(|event| event["unmapped"]["agent_guard"]["agent"]["id"].as_u64());
            ids.collect::<BTreeSet<_>>()
        };
        assert_eq!(id(&one.events).len(), 1);
        assert!(id(&one.events).is_disjoint(&id(&other.events)));
        let told = one.decided().count() as u64;
        assert_eq!(one.total("decided"), told, "somebody else's actions are counted, or told");
    }
}

/// One test at a time uses weaker tiers.
pub static WEAKER_TIER: Mutex<()> = Mutex::new(());

/// A run on a tier that nobody else uses here, and the name of its programs.
fn on_weaker_tier() -> (Running, String) {
    let before = sets();
    let running = Run::under(ALLOW_ALL).on(weaker()).with(&WEAKER);
    let running = running.start(&["/bin/sh", "-c", WAIT_FOR_USR1, "sh", "/bin/true"]);
    running.stdout.wait_for("ready");
    let during = sets();
    let added: Vec<_> = during.difference(&before).collect();
    assert_eq!(added.len(), 1, "{during:?}");
    (running, added[0].clone())
}

fn weaker() -> &'static str {
    if tier() == Tier::Lsm { "trace" } else { "observe" }
}

fn last_one() {
    let _alone = WEAKER_TIER.lock();
    let before = sets();
    let (first, set) = on_weaker_tier();
    assert!(set.starts_with(weaker()), "{set}");
    Run::under(ALLOW_ALL).on(weaker()).with(&WEAKER).go(&["/bin/true"]).exits(0);
    assert!(sets().contains(&set), "they went before their last user");
    first.signal(Signal::USR1);
    first.finish().exits(0);
    assert_eq!(sets(), before);
}

fn not_whole() {
    let _alone = WEAKER_TIER.lock();
    let before = sets();
    let (holder, set) = on_weaker_tier();
    let pin = |name: &str| format!("{PINS}/{set}/{name}");
    let refused = |why: &str| {
        let outcome = Run::under(ALLOW_ALL).on(weaker()).with(&WEAKER).go(&["/bin/true"]);
        outcome.exits(125);
        assert!(outcome.stderr.contains(why), "{}", outcome.stderr);
    };
    fs::remove_file(pin("link-sys_exit")).unwrap();
    refused("link-sys_exit");
    fs::rename(pin("link-sched_exec"), pin("link-sys_exit")).unwrap();
    refused("not whole");
    holder.signal(Signal::USR1);
    holder.finish().exits(0);
    assert_eq!(sets(), before);
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
