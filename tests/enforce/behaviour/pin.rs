//! What runs under a rule with a pin is the file that was there when the policy was loaded, unchanged.

use std::fs::{self, File};

use agent_guard::tier::Tier;
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::Signal,
};
use sha2::{Digest, Sha256};

use super::{
    Behaviour, actor, reports,
    ways::{AtLsm, AtTrace, Way, hold},
};
use crate::{
    actor::{End, Report},
    code::Stored,
    guard::{Decided, Outcome, Run, tier},
    scratch::Scratch,
    support::Setup,
};

pub const PROMISES: &[Behaviour] = &[
    ("a pinned program runs as it was, and no more once anything of it was changed", changes),
    ("pinned code is mapped as it was, and no more once anything of it was changed", mapped_code),
    ("a change from outside ends a pin, and no change of the mounts renews it", from_outside),
    ("a pin holds whatever other rule allows the program", beside_other_rules),
    ("a pinned file that somebody has open for writing does not run, and that is told", written),
    ("a policy whose digest a file has not is refused before the command starts", digests),
    ("a pin where changes may go unseen is refused before the command starts", blind),
];

/// The agent may write what is pinned.
pub const SPEC: &str = r#"
exec:
  rules:
    - {effect: allow, paths: [{actor}]}
    - {name: pinned, effect: allow, paths: ["{root}/tools/**"], pin: true}
files:
  rules:
    - {effect: allow, access: [read], paths: [{system}]}
    - {effect: allow, paths: ["{root}/**"]}
"#;

/// A place with these programs, which [`SPEC`] pins.
pub fn place(programs: &[&str]) -> Scratch {
    let program = |at: &&str| Setup::Program(format!("{{root}}/tools/{at}"));
    Scratch::on_disk(&programs.iter().map(program).collect::<Vec<_>>())
}

const fn denied(words: &'static [&'static str], at_trace: AtTrace) -> Way {
    Way { words, at_lsm: AtLsm::Denied("pinned"), at_trace }
}

const fn free(words: &'static [&'static str]) -> Way {
    Way { words, at_lsm: AtLsm::Allowed, at_trace: AtTrace::Same }
}

/// What the agent does to a program before it runs it.
macro_rules! after {
    ($act:literal, $change:literal) => {
        &["code", $act, $change, concat!("{root}/tools/", $change)]
    };
}

fn changes() {
    use AtTrace::Same;
    let ways = [
        free(&["code", "run", "{root}/tools/same"]),
        free(after!("run-after", "nothing")),
        free(after!("run-after", "read")),
        denied(after!("run-after", "append"), Same),
        denied(after!("run-after", "rewrite"), Same),
        denied(after!("run-after", "store"), Same),
        denied(after!("run-after", "chmod"), Same),
        denied(after!("run-after", "touch"), Same),
        denied(after!("run-after", "restore-times"), Same),
        denied(after!("run-after", "replace"), Same),
        denied(after!("run-after", "make-anew"), Same),
        denied(after!("run-after", "link"), Same),
        denied(after!("run-after", "move-away-and-back"), Same),
        denied(&["code", "run-copy", "{root}/tools/same", "{root}/tools/copy"], Same),
        free(&["code", "run", "{root}/tools/same"]),
        free(&["code", "run-held", "{root}/tools/same"]),
        free(&["code", "run-by-loader", "{root}/tools/same"]),
    ];
    let scratch = place(&[
        "same",
        "nothing",
        "read",
        "append",
        "rewrite",
        "store",
        "chmod",
        "touch",
        "restore-times",
        "replace",
        "make-anew",
        "link",
        "move-away-and-back",
    ]);
    let outcome = hold(&scratch, SPEC, &ways);
    let denials: Vec<_> = outcome.decided().filter(Decided::is_denial).collect();
    assert!(denials.iter().all(|event| event.reason() == "changed"), "{}", outcome.stderr);
}

fn mapped_code() {
    use AtTrace::Unseen;
    let ways = [
        free(&["code", "map", "{root}/tools/same"]),
        free(&["code", "map-later", "{root}/tools/same"]),
        denied(after!("map-after", "append"), Unseen),
        denied(after!("map-after", "store"), Unseen),
        denied(after!("map-later-after", "rewrite"), Unseen),
        denied(after!("run-by-loader-after", "replace"), Unseen),
    ];
    hold(&place(&["same", "append", "store", "rewrite", "replace"]), SPEC, &ways);
}

fn from_outside() {
    let scratch = place(&["same", "changed"]);
    let point = scratch.path("mounted");
    fs::create_dir(&point).unwrap();
    let role = ["run-again", "{root}/mounted/file", "{root}/tools/same", "{root}/tools/changed"];
    let running = Run::under(&scratch.place.fill(SPEC)).start(&actor(&scratch, &role));
    running.stdout.wait_for("ready");
    let program = scratch.path("tools/changed");
    let bytes = fs::read(&program).unwrap();
    fs::write(&program, bytes).unwrap();
    // The agent goes on when it can read this: under a policy that was compiled after the change.
    mount("tmpfs", &point, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(point.join("file"), "").unwrap();
    running.signal(Signal::USR1);
    let outcome = running.finish();
    unmount(&point, UnmountFlags::DETACH).unwrap();
    outcome.exits(0);
    let reports: Vec<Report> = outcome
        .text()
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [.., last] = reports.as_slice() else { panic!("{reports:?}") };
    let ends: Vec<End> = reports.iter().map(|report| report.end).collect();
    assert_eq!(ends[..3], [End::Done; 3], "{}", outcome.stderr);
    ends_denied(&outcome, *last);
    assert_eq!(pinned(&outcome), ["changed"]);
}

/// What the denials under the rule `pinned` give for their reason.
fn pinned(outcome: &Outcome) -> Vec<&str> {
    let denials = outcome.decided().filter(|event| event.is_denial() && event.by() == "pinned");
    denials.map(|event| event.reason()).collect()
}

#[track_caller]
fn ends_denied(outcome: &Outcome, report: Report) {
    let due = match tier() {
        Tier::Lsm => report.end.is_refusal(),
        Tier::Trace => report.end == End::Signal(libc::SIGKILL),
        Tier::Observe => report.end == End::Done,
    };
    assert!(due, "{report:?}\n{}", outcome.stderr);
}

fn beside_other_rules() {
    const WIDE: &str = r#"
exec:
  default: allow
  rules:
    - {name: wide, effect: allow, paths: ["{root}/**"]}
    - {name: pinned, effect: allow, paths: ["{root}/tools/append"], pin: true}
files: {default: allow}
"#;
    let ways = [
        denied(after!("run-after", "append"), AtTrace::Same),
        free(after!("run-after", "rewrite")),
    ];
    hold(&place(&["append", "rewrite"]), WIDE, &ways);
}

fn written() {
    let scratch = place(&["open", "mapped", "same"]);
    let run = |programs: &[&str]| {
        let words = programs.iter().flat_map(|program| ["--", "code", "run", program]).skip(1);
        let role: Vec<&str> = ["each"].into_iter().chain(words).collect();
        Run::under(&scratch.place.fill(SPEC)).go(&actor(&scratch, &role))
    };
    let programs = ["{root}/tools/open", "{root}/tools/mapped", "{root}/tools/same"];
    let outcome = {
        let open =
            |at: &str| File::options().read(true).write(true).open(scratch.path(at)).unwrap();
        let _open = open("tools/open");
        let mapped = Stored::map(&open("tools/mapped")).unwrap();
        let outcome = run(&programs);
        drop(mapped);
        outcome
    };
    outcome.exits(0);
    let reports = reports(&outcome);
    assert_eq!(reports[2].end, End::Done);
    for (report, program) in reports.iter().zip(["open", "mapped"]) {
        // The kernel has its own word on programs that are open for writing, and may say it first.
        assert!(report.end != End::Done || tier() == Tier::Observe, "{report:?}");
        let warning = outcome.stderr.lines().find(|line| line.contains("open for writing"));
        let warning = warning.filter(|_| outcome.stderr.contains(&format!("tools/{program}`")));
        assert!(warning.is_some(), "{}", outcome.stderr);
    }
    // Nobody has them open now.
    let again = run(&programs);
    assert!(crate::behaviour::reports(&again).iter().all(|report| report.end == End::Done));
}

fn digests() {
    let scratch = place(&["program"]);
    let digest = |bytes: &[u8]| -> String {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let under = |digest: &str| {
        let spec = SPEC.replace("pin: true", &format!("pin: \"sha256:{digest}\""));
        let role = ["each", "code", "run", "{root}/tools/program"];
        Run::under(&scratch.place.fill(&spec)).go(&actor(&scratch, &role))
    };
    let bytes = fs::read(scratch.path("tools/program")).unwrap();
    let right = under(&digest(&bytes));
    right.exits(0);
    assert_eq!(reports(&right)[0].end, End::Done, "{}", right.stderr);
    let wrong = under(&digest(b"another"));
    wrong.exits(125);
    assert!(wrong.stdout.is_empty());
    for part in ["rule `pinned`", "tools/program", &digest(&bytes), &digest(b"another")] {
        assert!(wrong.stderr.contains(part), "{}", wrong.stderr);
    }
}

fn blind() {
    let program = || Setup::Program("{root}/lower/program".to_owned());
    let overlay =
        || Setup::Overlay { lower: "{root}/lower".to_owned(), at: "{root}/tools".to_owned() };
    refuses(&Scratch::on_disk(&[program(), overlay()]));
    let scratch = Scratch::with(&[Setup::Dir("{root}/tools".to_owned())]);
    let point = scratch.path("tools");
    mount("tmpfs", &point, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::copy("/bin/true", point.join("program")).unwrap();
    refuses(&scratch);
    unmount(&point, UnmountFlags::DETACH).unwrap();
}

#[track_caller]
fn refuses(scratch: &Scratch) {
    let outcome = Run::under(&scratch.place.fill(SPEC)).go(&["/bin/true"]);
    outcome.exits(125);
    assert!(outcome.stderr.contains("tools/program") && outcome.stderr.contains("file system"));
}
