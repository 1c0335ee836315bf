//! The guard is killed.

use std::{
    fs,
    os::unix::{fs::MetadataExt, process::ExitStatusExt},
    path::PathBuf,
    time::Instant,
};

use agent_guard_common::table::{Agent, Lexer};
use aya::maps::{HashMap, Map, MapData};
use rustix::process::Signal;
use serde_json::Value;

use super::{ALLOW_ALL, Behaviour, DENY_SECRETS, actor, runs, secret_place, shared::programs_of};
use crate::guard::{PATIENCE, Run, Running, tier};
use agent_guard::tier::Tier;

/// Where programs, maps and links are pinned.
pub const PINS: &str = "/sys/fs/bpf/agent-guard";

pub const PROMISES: &[Behaviour] = &[
    (
        "an agent whose guard is killed stays confined, and the next start looks after it",
        killed_guard,
    ),
    ("a guard that dies before its agent has started leaves nothing for long", killed_early),
    ("a guard that dies while it writes a policy leaves nothing of it for long", killed_writing),
    ("a stopped guard does not open the gate", stopped_guard),
];

fn killed_guard() {
    let scratch = secret_place();
    let run = Run::under(&scratch.place.fill(DENY_SECRETS));
    let running = run.start(&actor(&scratch, &["keep-trying", "{root}/secret/key"]));
    let agent = running.stdout.wait_for("ready");
    let traces = traces(&running.events());
    let cgroup = &traces[1];
    assert!(traces.iter().all(|trace| trace.exists()), "{traces:?}");
    running.signal(Signal::KILL);

    // Nobody watches, and nothing is let through: the agent goes on as it was.
    pause();
    assert!(runs(&agent), "{agent} was ended with its guard");

    // The guard of another agent finds this one; that of another test may have been faster.
    Run::under(ALLOW_ALL).go(&["/bin/true"]).exits(0);
    let restart = |running: &Running| {
        let at = running.events().iter().position(|event| event["activity_name"] == "Restart")?;
        (running.events().len() > at + 3).then_some(at)
    };
    wait_until(|| restart(&running), "the denials after the adoption");
    assert!(runs(&agent), "{agent} was ended by the adoption");

    fs::write(cgroup.join("cgroup.kill"), "1").unwrap();
    wait_until(|| (!traces.iter().any(|trace| trace.exists())).then_some(()), "the end of it all");
    let outcome = running.finish();
    if tier() != Tier::Observe {
        assert!(!outcome.text().contains("ESCAPED"), "{}", outcome.text());
    }
    // Not one of the denials that nobody was there to read is missing, or comes twice. One that the
    // guard had in hand when it was killed may be lost with it.
    let denied = outcome.total("denied");
    let told = outcome.decided().filter(|event| event.is_denial()).count() as u64;
    let missing = denied - told - outcome.lost();
    assert!(missing <= 1, "{denied} denied, {told} told, {} lost", outcome.lost());
}

fn killed_early() {
    let running = Run::under(ALLOW_ALL).start(&["/bin/sh", "-c", "echo ready; exec sleep 1000"]);
    running.stdout.wait_for("ready");
    let [handover, cgroup, links] = traces(&running.events());
    assert!(links.exists(), "{}", links.display());
    // As if it had been killed before it wrote down who the agent is. It holds the file till it dies.
    running.signal(Signal::STOP);
    fs::write(&handover, "").unwrap();
    fs::write(cgroup.join("cgroup.kill"), "1").unwrap();
    running.signal(Signal::KILL);
    let outcome = running.finish();
    assert_eq!(outcome.status.signal(), Some(libc::SIGKILL));
    // One start removes the cgroup, and the next what was the cgroup's.
    for _ in 0..2 {
        Run::under(ALLOW_ALL).go(&["/bin/true"]).exits(0);
    }
    let left = || [&handover, &cgroup, &links].iter().any(|trace| trace.exists());
    wait_until(|| (!left()).then_some(()), "what was left is removed");
}

/// Rules enough that writing them takes a while.
const RULES: usize = 60_000;

fn killed_writing() {
    let paths: Vec<String> = (0..RULES).map(|n| format!("\"/srv/nowhere/f{n}\"")).collect();
    let large = format!("files: {{rules: [{{effect: allow, paths: [{}]}}]}}", paths.join(", "));
    let holder = Run::under(ALLOW_ALL).start(&["/bin/sh", "-c", "echo ready; exec sleep 100000"]);
    holder.stdout.wait_for("ready");
    let pinned = |map| MapData::from_pin(programs_of(&holder).join(format!("map-{map}"))).unwrap();
    let map = |name| Map::from_map_data(pinned(name)).unwrap();
    let lexers = HashMap::<_, u32, [u8; size_of::<Lexer>()]>::try_from(map("LEXERS")).unwrap();
    let edges = HashMap::<_, [u32; 4], u32>::try_from(map("EDGES")).unwrap();
    let rows = |policy| edges.keys().flatten().filter(|[of, ..]| *of == policy).count();

    let parent = traces(&holder.events())[1].parent().unwrap().to_owned();
    let mut running = Run::under(&large).with(&["--agent", "writes"]).start(&["/bin/true"]);
    let cgroup = parent.join(format!("agent-guard-writes-{}", running.child.id()));
    let of_cgroup = || {
        let id = fs::metadata(&cgroup).ok()?.ino();
        let is_its = |policy: &u32| {
            lexers.get(policy, 0).is_ok_and(|lexer| lexer.ends_with(&id.to_ne_bytes()))
        };
        lexers.keys().flatten().find(is_its)
    };
    let policy = wait_until(of_cgroup, "the first row of the policy");
    // It stands while it is looked at, however long that takes.
    let has_more = || {
        running.signal(Signal::STOP);
        let more = rows(policy) > 0;
        if !more {
            running.signal(Signal::CONT);
        }
        more.then_some(())
    };
    wait_until(has_more, "more of the policy");
    running.signal(Signal::KILL);
    running.child.wait().unwrap();
    let agents = HashMap::<_, u32, [u8; size_of::<Agent>()]>::try_from(map("AGENTS")).unwrap();
    let has_it =
        |agent: [u8; size_of::<Agent>()]| agent.chunks(4).any(|word| word == policy.to_ne_bytes());
    let mut all = agents.iter().map(|agent| agent.unwrap().1);
    assert!(rows(policy) > 0 && !all.any(has_it), "it was killed too early or too late");

    // One start removes the cgroup, and the next what was the cgroup's.
    for _ in 0..2 {
        Run::under(ALLOW_ALL).go(&["/bin/true"]).exits(0);
    }
    wait_until(|| (rows(policy) == 0).then_some(()), "the edges are removed");
    assert!(lexers.get(&policy, 0).is_err());
    holder.signal(Signal::TERM);
    holder.finish();
}

/// What there is of an agent outside its processes: the handover, the cgroup and what is attached to that.
pub fn traces(outcome: &[Value]) -> [PathBuf; 3] {
    let agent = &outcome[0]["unmapped"]["agent_guard"]["agent"];
    let cgroup = PathBuf::from(agent["cgroup"].as_str().unwrap());
    let id = cgroup.file_name().unwrap().to_str().unwrap().strip_prefix("agent-guard-").unwrap();
    let links = format!("cgroup-{}", agent["cgroup_id"]);
    let programs = fs::read_dir(PINS).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut links = programs.map(|programs| programs.join(&links));
    [
        PathBuf::from(format!("/run/agent-guard/{id}.json")),
        cgroup,
        links.find(|links| links.exists()).unwrap_or_else(|| "/nothing/is/attached".into()),
    ]
}

fn wait_until<T>(ready: impl Fn() -> Option<T>, what: &str) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = ready() {
            return found;
        }
        assert!(since.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Long enough for an agent to try many times.
fn pause() {
    std::thread::sleep(std::time::Duration::from_millis(500));
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
