//! Bounds that the kernel side keeps: what is judged at them, and what becomes of what lies beyond.

use std::{fs, path::Path, process::Command};

use agent_guard::{
    cgroup::{Cgroup, CgroupError},
    mounts::{MountTable, cgroup2},
    tier::Tier,
};
use agent_guard_common::limits::{MAX_CGROUP_LEVEL, MAX_SESSION, MAX_TERMINALS};
use aya::maps::{HashMap, Map, MapData};

use super::{
    Behaviour, actor, is_denied_open, open_terminal, reports,
    shared::programs_of,
    signals::start_on_terminal,
    terminals::{DEGRADED, SPEC},
};
use crate::{
    actor::{End, Report},
    guard::{Outcome, Run, tier, wait},
    scratch::Scratch,
    terminals::name,
};

pub const PROMISES: &[Behaviour] = &[
    ("a terminal is its session's as far as the newest processes of that go", session),
    ("an agent lies no deeper in the cgroup tree than the kernel programs look", deep_cgroup),
];

/// What these fill is everybody's: not beside others, and only where there are no others.
pub const ALONE: &[Behaviour] = &[(
    "a terminal that can not be noted is another's, and own again once there is room",
    terminals,
)];

/// One process of the agent's, then others, all newer: as many as may be looked at together with it, and one more.
fn session() {
    // Waiting by a builtin, so that no other process is in the session while it is searched.
    const SESSION: &str = r#"
        await() { read -r _ < "$root/$1"; }
        grow() { for _ in $(seq "$1"); do sleep 100000 & others="$others $!"; done; }
        root=$1 most=$2
        shift 2
        "$@" < /dev/null & guard=$!
        await started; grow $((most - 1)); : > "$root/full"
        await judged; grow 1; : > "$root/beyond"
        wait $guard
        kill $others"#;
    let scratch = Scratch::new();
    for fifo in ["started", "judged"] {
        assert!(Command::new("mkfifo").arg(scratch.path(fifo)).status().unwrap().success());
    }
    let (other_end, terminal) = open_terminal();
    let terminal_name = name(&other_end).to_str().unwrap().to_owned();
    let events = scratch.path("events");
    let run = Run::under(&scratch.place.fill(SPEC)).with(&DEGRADED).events_to(Some(&events));
    let role = ["open-when", &terminal_name, "{root}/full", "{root}/beyond"];
    let guard = run.command(&actor(&scratch, &role));
    let mut command = Command::new("/bin/sh");
    command.args(["-c", SESSION, "sh"]).arg(scratch.path("")).arg(MAX_SESSION.to_string());
    command.arg(guard.get_program()).args(guard.get_args());
    let (child, screen) = start_on_terminal(command, other_end, terminal);
    screen.wait_for("ready");
    fs::write(scratch.path("started"), "\n").unwrap();
    screen.wait_for(r#"{"pid""#);
    fs::write(scratch.path("judged"), "\n").unwrap();
    wait(child);
    let said = String::from_utf8(screen.finish()).unwrap();
    let lines = said.lines().filter(|line| line.starts_with(r#"{"pid""#));
    let reports: Vec<Report> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    let [at_bound, beyond] = reports.as_slice() else { panic!("{said}") };
    assert_eq!(at_bound.end, End::Done);
    assert!(is_denied_open(beyond.end), "{beyond:?}");
    let told = fs::read_to_string(&events).unwrap();
    assert_eq!(told.matches("\"reason\":\"guarded\"").count(), 1, "{told}");
}

fn terminals() {
    let holder =
        Run::under(super::ALLOW_ALL).start(&["/bin/sh", "-c", "echo ready; exec sleep 100000"]);
    holder.stdout.wait_for("ready");
    let pinned = MapData::from_pin(programs_of(&holder).join("map-TERMINALS")).unwrap();
    let mut noted =
        HashMap::<_, [u32; 2], u64>::try_from(Map::from_map_data(pinned).unwrap()).unwrap();
    // A number that was noted before would have its place already.
    let before: Vec<_> = noted.keys().flatten().collect();
    before.iter().for_each(|key| noted.remove(key).unwrap());
    // Terminals in file systems that no host has, of a cgroup that none has.
    let mut fillers = Vec::new();
    for number in 0.. {
        let key = [u32::MAX, number];
        if noted.insert(key, 0, 0).is_err() {
            break;
        }
        fillers.push(key);
    }
    assert_eq!(noted.keys().count(), MAX_TERMINALS);
    let own = || {
        let scratch = Scratch::new();
        let run = Run::under(&scratch.place.fill(SPEC)).with(&DEGRADED);
        let outcome = run.go(&actor(&scratch, &["each", "terminal", "own by name"]));
        outcome.exits(0);
        outcome
    };
    let denials = |outcome: &Outcome| outcome.decided().filter(|event| event.is_denial()).count();
    let full = own();
    let freed = fillers.pop().unwrap();
    noted.remove(&freed).unwrap();
    let with_room = own();
    for key in &fillers {
        noted.remove(key).unwrap();
    }
    holder.signal(rustix::process::Signal::TERM);
    holder.finish();

    let denied = reports(&full)[0];
    assert!(is_denied_open(denied.end), "{denied:?}");
    assert_eq!(
        (denials(&full), full.decided_by(denied.pid).last().unwrap().reason()),
        (1, "guarded")
    );
    assert_eq!((reports(&with_room)[0].end, denials(&with_room)), (End::Done, 0));
}

/// At the last level an agent is one as any other, and so is what lies below it.
fn deep_cgroup() {
    let mounts = MountTable::open().unwrap().read().unwrap();
    let top = Cgroup::create(&mounts, &format!("deep-{}", std::process::id())).unwrap();
    let root = cgroup2(&mounts).unwrap();
    let level = top.path().strip_prefix(root).unwrap().components().count();
    let mut above = top.path().to_owned();
    // One for the agent and one for the canary below it.
    for _ in level + 2..MAX_CGROUP_LEVEL as usize {
        above.push("d");
        fs::create_dir(&above).unwrap();
    }
    let outcome = from_within(&above);
    assert_eq!(depth(&outcome.cgroup(), root), MAX_CGROUP_LEVEL as usize - 1);
    assert_eq!(outcome.decided().filter(|event| event.is_denial()).count(), 1);
    assert_eq!(outcome.text().is_empty(), tier() != Tier::Observe);

    above.push("d");
    fs::create_dir(&above).unwrap();
    let outcome = from_within(&above);
    outcome.exits(125);
    assert!(outcome.stderr.contains("lies deeper than 24 levels"), "{}", outcome.stderr);
    above.push("d");
    fs::create_dir(&above).unwrap();
    let beyond = Cgroup::create_in(&above, &mounts, "agent").unwrap_err();
    assert!(matches!(beyond, CgroupError::TooDeep(_)), "{beyond}");
    top.remove().unwrap();
}

fn depth(cgroup: &Path, root: &Path) -> usize {
    cgroup.strip_prefix(root).unwrap().components().count()
}

/// A run that is started by a process in `cgroup`, of a command that is denied something.
fn from_within(cgroup: &Path) -> Outcome {
    let scratch = super::secret_place();
    let key = scratch.path("secret/key");
    let run = Run::under(&scratch.place.fill(super::DENY_SECRETS));
    run.within(cgroup).go(&[Path::new("/bin/cat"), key.as_path()])
}
