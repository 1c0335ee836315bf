//! What runs is the file, and not its name.

use super::{
    Behaviour,
    ways::{AtLsm, AtTrace, Way, hold},
};
use crate::{guard::tier, scratch::Scratch, support::Setup};

pub const PROMISES: &[Behaviour] = &[
    ("code of a denied program does not come to run, in whatever way it is mapped", maps),
    ("a denied program does not run, in whatever way it is started", starts),
    ("a program that has no name does not run", nameless),
    ("allowed programs, libraries and anonymous memory run, and are told of once", allowed),
];

/// Programs in `lib` can be read and not written, and no rule under `exec` names them; those in `closed` are
/// forbidden; those in `work` are the agent's own; those in `tools` are too, and may run.
const SPEC: &str = r#"
exec:
  rules:
    - {effect: allow, paths: [{actor}]}
    - {name: tools, effect: allow, paths: ["{root}/tools/**"]}
    - {name: forbidden, effect: deny, paths: ["{root}/closed/**"]}
files:
  rules:
    - {effect: allow, access: [read], paths: [{system}, "{root}/lib/**", "{root}/closed/**"]}
    - {name: work, effect: allow, paths: ["{root}/work/**", "{root}/tools/**"]}
"#;

fn place() -> Scratch {
    Scratch::with(
        &["lib/prog", "closed/prog", "work/prog", "tools/prog"]
            .map(|at| Setup::Program(format!("{{root}}/{at}"))),
    )
}

const fn denied(words: &'static [&'static str], by: &'static str, at_trace: AtTrace) -> Way {
    Way { words, at_lsm: AtLsm::Denied(by), at_trace }
}

const fn free(words: &'static [&'static str]) -> Way {
    Way { words, at_lsm: AtLsm::Allowed, at_trace: AtTrace::Same }
}

const WORK: &str = "{root}/work/prog";
const CLOSED: &str = "{root}/closed/prog";
const TOOL: &str = "{root}/tools/prog";
const LIB: &str = "{root}/lib/prog";

fn maps() {
    use AtTrace::Unseen;
    let ways = [
        denied(&["code", "map", WORK], "default", Unseen),
        denied(&["code", "map-later", WORK], "default", Unseen),
        denied(&["code", "map-implied", WORK], "default", Unseen),
        denied(&["code", "map-implied-later", WORK], "default", Unseen),
        denied(&["code", "map", CLOSED], "forbidden", Unseen),
        denied(&["code", "map-later", CLOSED], "forbidden", Unseen),
        denied(&["code", "run-by-loader", WORK], "default", Unseen),
        denied(&["code", "run-by-loader", CLOSED], "forbidden", Unseen),
    ];
    hold(&place(), SPEC, &ways);
}

fn starts() {
    use AtTrace::Same;
    let ways = [
        denied(&["code", "run", WORK], "default", Same),
        denied(&["code", "run", LIB], "default", Same),
        denied(&["code", "run", CLOSED], "forbidden", Same),
        denied(&["code", "run-copy", LIB, "{root}/work/cat"], "default", Same),
        denied(&["code", "run-as", "dpkg", WORK], "default", Same),
        denied(&["code", "run-held", WORK], "default", Same),
        denied(&["code", "spawn", WORK], "default", Same),
        denied(&["code", "vfork", WORK], "default", Same),
    ];
    // There the process that is killed is the child.
    let ways: Vec<Way> = ways
        .into_iter()
        .filter(|way| {
            !matches!(way.words[1], "spawn" | "vfork") || tier() == agent_guard::tier::Tier::Lsm
        })
        .collect();
    hold(&place(), SPEC, &ways);
}

fn nameless() {
    use AtTrace::{Same, Unseen};
    let ways = [
        denied(&["code", "run-memfd", TOOL], "detached", Same),
        denied(&["code", "run-memfd-by-name", TOOL], "detached", Same),
        // There the interpreter is judged.
        denied(&["code", "run-memfd-script", TOOL], "detached", Unseen),
        denied(&["code", "run-removed", TOOL, "{root}/tools/gone"], "detached", Same),
        denied(&["code", "run-unnamed", TOOL, "{root}/tools"], "detached", Same),
        denied(&["code", "map-memfd", TOOL], "detached", Unseen),
        denied(&["code", "map-removed", TOOL, "{root}/tools/gone"], "detached", Unseen),
    ];
    hold(&place(), SPEC, &ways);
}

fn allowed() {
    let ways = [
        free(&["code", "map", LIB]),
        free(&["code", "map-later", LIB]),
        free(&["code", "map", TOOL]),
        free(&["code", "map-implied", TOOL]),
        free(&["code", "map-anonymous"]),
        free(&["code", "run", TOOL]),
        free(&["code", "run-copy", TOOL, "{root}/tools/copy"]),
        free(&["code", "run-by-loader", TOOL]),
        free(&["code", "run-held", TOOL]),
        free(&["code", "spawn", TOOL]),
        free(&["code", "vfork", TOOL]),
        free(&["code", "write-memfd-again"]),
    ];
    let outcome = hold(&place(), SPEC, &ways);
    assert!(outcome.decided().all(|event| !event.access().contains(&"map")), "told of a library");
    let runs = |of: &str| {
        outcome
            .decided()
            .filter(|event| {
                event.access() == ["exec"] && event.path().is_some_and(|path| path.ends_with(of))
            })
            .count()
    };
    assert_eq!((runs("/tools/prog"), runs("/tools/copy")), (4, 1), "each exec is told of once");
}
