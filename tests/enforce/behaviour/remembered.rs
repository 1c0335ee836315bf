//! What is remembered of a file ends with its name: an open that was allowed, and was answered from memory, is
//! denied once the file is where the policy denies it.

use std::{fs, path::PathBuf, process::Command, thread};

use agent_guard::tier::Tier;
use agent_guard_common::limits::REMEMBERED_TICKS;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    process::Signal,
};

use super::{ALLOW_ALL, Behaviour, DENY_SECRETS, actor, is_denied_open};
use crate::{
    actor::{End, Report},
    guard::{Run, Running, tier},
    memory, names,
    scratch::Scratch,
    support::Setup,
};

pub const PROMISES: &[Behaviour] = &[
    ("a file that was allowed is denied where it is renamed to", renamed),
    ("a file that was allowed is denied where its directory is moved to", moved),
    ("a file that was allowed is denied where it is exchanged with another", exchanged),
    (
        "a file that was allowed is denied by a name that it is given, alone or beside the old",
        linked,
    ),
    ("a file that was allowed stays so while nothing becomes of it", unchanged),
    ("of a file that lost one of two names nothing is remembered", had_two_names),
    ("what was allowed is judged again when its time is over, and not before", outlived),
    ("links that two make of one file at once are all made", two_at_once),
    ("whoever is told of everything is told of each open", told),
    ("a file that was never opened is judged by where its directory is now", directory_moved),
    ("a directory is not taken for one that was removed, whose memory it has", directory_removed),
    ("a denial in a directory that is known is told with the whole path", directory_told),
    ("what was run is denied where it is renamed to", program_renamed),
];

/// What changes the agents of everybody, or the disk.
pub const ALONE: &[Behaviour] =
    &[("while agents are being changed nothing is remembered, and nothing known counts", changing)];

/// What wants file systems that call a file what nobody called it.
pub const OTHER_NAMES: &[Behaviour] = &[
    ("encrypted names are not remembered", encrypted),
    ("names in any case are not remembered", any_case),
];

fn renamed() {
    after(|at| fs::rename(at("open/file"), at("secret/new")).unwrap(), "secret/new", true);
}

fn moved() {
    after(|at| fs::rename(at("open"), at("secret/open")).unwrap(), "secret/open/file", true);
}

fn exchanged() {
    let exchange = |at: &dyn Fn(&str) -> PathBuf| {
        renameat_with(CWD, at("open/file"), CWD, at("secret/key"), RenameFlags::EXCHANGE).unwrap();
    };
    after(exchange, "secret/key", true);
}

fn linked() {
    after(|at| fs::hard_link(at("open/file"), at("secret/new")).unwrap(), "secret/new", true);
    let relink = |at: &dyn Fn(&str) -> PathBuf| {
        fs::hard_link(at("open/file"), at("secret/new")).unwrap();
        fs::remove_file(at("open/file")).unwrap();
    };
    after(relink, "secret/new", true);
}

fn unchanged() {
    after(|_| {}, "open/file", false);
}

/// Has an agent open a file twice; then `change` is made from outside, and the agent opens `now`, which is
/// `denied` or not.
#[track_caller]
fn after(change: impl FnOnce(&dyn Fn(&str) -> PathBuf), now: &str, denied: bool) {
    let opener = Opener::start(2, &["open/file", "open/file", now]);
    if tier() == Tier::Lsm {
        assert!(opener.remembers("open/file"), "nothing is remembered");
    }
    change(&|below| opener.scratch.path(below));
    let [first, second, last] = opener.goes_on_to(3).finish().try_into().unwrap();
    assert_eq!([first.end, second.end], [End::Done; 2]);
    assert!(if denied { is_denied_open(last.end) } else { last.end == End::Done }, "{last:?}");
}

/// The count of links falls before the name goes: whoever opened by that name in between would have it
/// remembered for the other.
fn had_two_names() {
    if tier() != Tier::Lsm {
        return;
    }
    let scratch = place();
    let (mine, other) = (scratch.path("open/file"), scratch.path("open/other"));
    // Before there is a guard that sees it.
    fs::hard_link(&mine, &other).unwrap();
    let opener =
        Opener::start_at(scratch, 2, &["open/file", "open/file", "open/file", "open/file"]);
    assert!(!opener.remembers("open/file"), "with two names");
    fs::remove_file(other).unwrap();
    let opener = opener.goes_on_to(3);
    assert!(memory::of(&mine).unwrap().is_linked());
    let opener = opener.goes_on_to(4);
    assert!(!opener.remembers("open/file"), "with one name left");
    assert!(opener.finish().iter().all(|report| report.end == End::Done));
}

/// Without an end, a verdict would hold again when the count of renames has gone round.
fn outlived() {
    if tier() != Tier::Lsm {
        return;
    }
    let opener = Opener::start(2, &["open/file"; 4]);
    let path = opener.scratch.path("open/file");
    let older_by = |ticks: u64| {
        let mut since = 0;
        memory::change(&path, |known| {
            let place = known.read_since().unwrap();
            *place -= ticks;
            since = *place;
        });
        since
    };
    let since = |_: &Opener| *memory::of(&path).unwrap().read_since().unwrap();
    // Half of the time is left for this test to be slow in.
    let young = older_by(REMEMBERED_TICKS / 2);
    let opener = opener.goes_on_to(3);
    assert_eq!(since(&opener), young, "answered from memory");
    let old = older_by(REMEMBERED_TICKS / 2);
    let opener = opener.goes_on_to(4);
    assert!(since(&opener) >= old + REMEMBERED_TICKS, "judged again");
    assert!(opener.finish().iter().all(|report| report.end == End::Done));
}

/// A guard that dies between taking an agent out and saying so leaves nothing allowed.
fn changing() {
    if tier() != Tier::Lsm {
        return;
    }
    let (file, other) = ("open/file", "open/other");
    let opener = Opener::start(2, &[file, file, file, other, other, other]);
    fs::write(opener.scratch.path("open/other"), "").unwrap();
    memory::next_generation();
    let put_back = memory::take_agents_out();
    let opener = opener.goes_on_to(3);
    put_back();
    let opener = opener.goes_on_to(4);
    assert!(!opener.remembers("open/other"), "a change is under way");
    memory::next_generation();
    // Once to be noted as asked about, and once more.
    let opener = opener.goes_on_to(5).goes_on_to(6);
    assert!(opener.remembers("open/other"), "the change is made");
    let ends: Vec<End> = opener.finish().iter().map(|report| report.end).collect();
    let [done, denied] = [End::Done, End::Errno(libc::EACCES)];
    assert_eq!(ends, [done, done, denied, done, done, done]);
}

/// The key makes the names: when it comes or goes a file has another, and nobody renamed it.
fn encrypted() {
    if tier() != Tier::Lsm {
        return;
    }
    let scratch = Scratch::on_disk(&[
        Setup::Dir("{root}/coded".to_owned()),
        Setup::File("{root}/open/file".to_owned()),
    ]);
    names::encrypt(&scratch.path("coded"));
    not_remembered(scratch, "coded/file");
}

/// A file is judged by the name that it was looked up by first, until that is forgotten.
fn any_case() {
    if tier() != Tier::Lsm {
        return;
    }
    let scratch = place();
    let mounted = scratch.path("mounted");
    fs::create_dir(&mounted).unwrap();
    let _mount = names::mount_in_any_case(&mounted);
    not_remembered(scratch, "mounted/file");
}

/// A file that can be opened, and is not remembered as another is.
#[track_caller]
fn not_remembered(scratch: Scratch, file: &str) {
    scratch.file(file, "");
    let opener = Opener::start_at(scratch, 4, &["open/file", "open/file", file, file]);
    assert!(opener.remembers("open/file"), "the control");
    assert!(!opener.remembers(file));
    assert!(opener.finish().iter().all(|report| report.end == End::Done));
}

/// Rounds in which two threads link one file.
const ROUNDS: usize = 500;

/// Both mark the file before it has a second name, and the kernel lets one of two fail that make the same.
fn two_at_once() {
    let opener = Opener::start(1, &["open/file"]);
    let scratch = &opener.scratch;
    for round in 0..ROUNDS {
        let file = scratch.file(&format!("links/{round}"), "");
        thread::scope(|scope| {
            for name in ["a", "b"] {
                let (from, to) = (&file, scratch.path(&format!("links/{round}-{name}")));
                scope.spawn(move || fs::hard_link(from, to).unwrap());
            }
        });
    }
    opener.finish();
}

fn told() {
    let scratch = Scratch::with(&[Setup::File("{root}/open/file".to_owned())]);
    let role = ["open-each", "3", "{root}/open/file", "{root}/open/file", "{root}/open/file"];
    let running = Run::under(&scratch.place.fill(ALLOW_ALL)).start(&actor(&scratch, &role));
    running.stdout.wait_for("opened 3");
    running.signal(Signal::USR1);
    let outcome = running.finish();
    outcome.exits(0);
    let path = scratch.path("open/file");
    let opens = outcome.decided().filter(|event| event.path() == path.to_str());
    assert_eq!(opens.count(), 3, "{}", outcome.stderr);
}

fn directory_moved() {
    let files = ["open/file", "open/file", "secret/open/new"];
    let scratch = place();
    scratch.file("open/new", "");
    let opener = Opener::start_at(scratch, 2, &files);
    fs::rename(opener.scratch.path("open"), opener.scratch.path("secret/open")).unwrap();
    let [_, known, moved] = opener.goes_on_to(3).finish().try_into().unwrap();
    assert_eq!(known.end, End::Done);
    assert!(is_denied_open(moved.end), "{moved:?}");
}

/// As many as it takes for the kernel to give some of the memory that was freed to the next.
const DIRECTORIES: usize = 64;

fn directory_removed() {
    let names = |of: &str| (0..DIRECTORIES).map(|n| format!("{of}/{n}/file")).collect::<Vec<_>>();
    let (open, secret) = (names("open"), names("secret"));
    let files: Vec<&str> = open.iter().chain(&secret).map(String::as_str).collect();
    let scratch = place();
    open.iter().for_each(|file| drop(scratch.file(file, "")));
    let mut opener = Opener::start_at(scratch, DIRECTORIES, &files);
    for n in 0..DIRECTORIES {
        fs::remove_dir_all(opener.scratch.path(&format!("open/{n}"))).unwrap();
    }
    for (n, file) in secret.iter().enumerate() {
        opener.scratch.file(file, "");
        opener = opener.goes_on_to(DIRECTORIES + n + 1);
    }
    let reports = opener.finish();
    let (before, after) = reports.split_at(DIRECTORIES);
    assert!(before.iter().all(|report| report.end == End::Done));
    assert!(after.iter().all(|report| is_denied_open(report.end)), "{after:?}");
}

fn directory_told() {
    if tier() != Tier::Lsm {
        return;
    }
    let scratch = place();
    let role = ["open-each", "2", "{root}/secret/key", "{root}/secret/key"];
    let running = Run::under(&scratch.place.fill(DENY_SECRETS))
        .events_to(None)
        .start(&actor(&scratch, &role));
    running.stdout.wait_for("opened 2");
    running.signal(Signal::USR1);
    let outcome = running.finish();
    let path = scratch.path("secret/key");
    let told = outcome.stderr.matches(path.to_str().unwrap()).count();
    assert_eq!(told, 2, "{}", outcome.stderr);
}

fn program_renamed() {
    const POLICY: &str = r#"
egress: {default: allow}
exec: {default: allow, rules: [{name: no-secrets, effect: deny, paths: ["{root}/secret/**"]}]}
files: {default: allow}
"#;
    const SCRIPT: &str = r#"
        "$0" && "$0" && "$0" || exit 3
        echo ran
        read -r _ < "$2"
        "$1" && exit 4
        exit 0"#;
    let scratch = place();
    let [program, moved, fifo] =
        ["open/program", "secret/program", "fifo"].map(|name| scratch.path(name));
    fs::copy("/bin/true", &program).unwrap();
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let words = [&program, &moved, &fifo].map(|path| path.to_str().unwrap());
    let command = [&["/bin/sh", "-c", SCRIPT], &words[..]].concat();
    let running = Run::under(&scratch.place.fill(POLICY)).events_to(None).start(&command);
    running.stdout.wait_for("ran");
    fs::rename(&program, &moved).unwrap();
    fs::write(&fifo, "\n").unwrap();
    running.finish().exits(0);
}

fn place() -> Scratch {
    Scratch::with(&[
        Setup::File("{root}/secret/key".to_owned()),
        Setup::File("{root}/open/file".to_owned()),
    ])
}

/// An agent that opens files one by one.
struct Opener {
    scratch: Scratch,
    running: Running,
}

impl Opener {
    /// One that opens the first `at_once` of these files, and each of the others when it is told to.
    fn start(at_once: usize, files: &[&str]) -> Self {
        Self::start_at(place(), at_once, files)
    }

    fn start_at(scratch: Scratch, at_once: usize, files: &[&str]) -> Self {
        let count = at_once.to_string();
        let files = files.iter().map(|file| scratch.path(file).to_str().unwrap().to_owned());
        let files: Vec<String> = files.collect();
        let mut role = vec!["open-each", &count];
        role.extend(files.iter().map(String::as_str));
        // Whoever is told of what is allowed has nothing remembered.
        let running = Run::under(&scratch.place.fill(DENY_SECRETS))
            .events_to(None)
            .start(&actor(&scratch, &role));
        running.stdout.wait_for(&format!("opened {at_once}"));
        Self { scratch, running }
    }

    /// Has it open the next file, the `count`th.
    fn goes_on_to(self, count: usize) -> Self {
        self.running.signal(Signal::USR1);
        self.running.stdout.wait_for(&format!("opened {count}"));
        self
    }

    /// Whether an open of this file is remembered.
    fn remembers(&self, file: &str) -> bool {
        memory::of(&self.scratch.path(file)).is_some_and(|mut known| known.read_since().is_some())
    }

    /// Has it end; what became of each file.
    fn finish(self) -> Vec<Report> {
        self.running.signal(Signal::USR1);
        let outcome = self.running.finish();
        outcome.exits(0);
        let lines = outcome.text().lines().filter(|line| line.starts_with('{'));
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
