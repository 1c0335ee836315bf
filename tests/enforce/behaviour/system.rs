//! Staying in, and staying on: what reaches out of an agent, and the guard in its reach.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use agent_guard::tier::Tier;
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::{Pid, Signal, kill_process},
};

use super::{ALLOW_ALL, Behaviour, DENY_SECRETS, actor, reports, secret_place};
use crate::{
    actor::{End, Report},
    guard::{Decided, Outcome, Run, tier},
    operations::{ACTS, Act, Refusal, Upon},
    scratch::Scratch,
};

pub const PROMISES: &[Behaviour] = &[
    ("what reaches out is refused to the command, and told", by_command),
    (
        "a call that is refused for want of a capability is told as denied in audit mode too",
        audited,
    ),
    ("what comes with the capability of an allowed operation is judged by itself", beside_allowed),
    ("who is not root is told of as well", by_nobody),
    ("who is put into an agent with every capability is refused by the hooks alone", put_inside),
    (
        "a file system that was begun outside is not made inside, and the attempt is told",
        begun_outside,
    ),
    ("what reaches out goes on where it is allowed, and is told once", allowed),
    ("among an agent's own processes nothing of that is judged", among_own),
    ("the guard can not be killed from inside", not_killed),
    ("no process can be started in another cgroup", not_elsewhere),
    ("500 children at once are confined, each", crowd),
    ("a policy that judges operations is refused where the tier can not", section_needs_tier),
];

/// A process outside, and a mount.
struct Stage {
    scratch: Scratch,
    outside: Child,
}

impl Stage {
    fn new() -> Self {
        let scratch = Scratch::new();
        let directory = scratch.path("mount");
        fs::create_dir(&directory).unwrap();
        let outside = Command::new("/bin/sleep")
            .arg("100000")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let stage = Self { scratch, outside };
        mount("none", stage.directory(), "tmpfs", MountFlags::empty(), None).unwrap();
        stage
    }

    fn directory(&self) -> PathBuf {
        self.scratch.path("mount")
    }

    /// The command that does all of [`ACTS`]; in `cgroup`, where one is named.
    fn command(&self, cgroup: Option<&Path>) -> Vec<String> {
        let (outside, directory) = (self.outside.id().to_string(), self.directory());
        let mut role = match cgroup {
            Some(cgroup) => vec!["operate-in", cgroup.to_str().unwrap()],
            None => vec!["operate"],
        };
        role.extend([outside.as_str(), directory.to_str().unwrap()]);
        actor(&self.scratch, &role)
    }

    /// Does all of [`ACTS`] in another process than this.
    fn act(&self, cgroup: Option<&Path>) -> Vec<Report> {
        reports_outside(&self.command(cgroup))
    }

    /// The control: outside, each act ends as it says.
    #[track_caller]
    fn control(&self) {
        for (act, report) in ACTS.iter().zip(self.act(None)) {
            assert!(
                is_otherwise(act, report.end) || is_missing(report.end),
                "{} ends with {:?}",
                act.name,
                report.end
            );
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.outside.kill();
        let _ = self.outside.wait();
        while unmount(self.directory(), UnmountFlags::DETACH).is_ok() {}
    }
}

/// What an actor reports that the guard did not start.
fn reports_outside(command: &[String]) -> Vec<Report> {
    let output = Command::new(&command[0]).args(&command[1..]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Some kernels are built without modules or kexec.
fn is_missing(end: End) -> bool {
    end == End::Errno(libc::ENOSYS)
}

fn is_otherwise(act: &Act, end: End) -> bool {
    act.otherwise.iter().any(|errno| match errno {
        0 => end == End::Done,
        errno => end == End::Errno(*errno),
    })
}

/// Fails unless `report` was told once, as `act`, and ended as `due`. What is allowed may be several calls,
/// and other operations too: then no hook tells it twice, unless the kernel asks for the capability twice, as
/// setns(2) does for both namespaces.
#[track_caller]
fn is_told_once(stage: &Stage, outcome: &Outcome, act: &Act, report: Report, due: &str) {
    let mut told = outcome.decided_by(report.pid);
    let is_allowed = due == "allowed";
    told.retain(|event| match event.operation() {
        Some(operation) => !is_allowed || operation == act.operation,
        None => false,
    });
    assert!(told.len() == 1 || is_allowed, "{}: {} events", act.name, told.len());
    assert!(!told.is_empty(), "{}: no event", act.name);
    for (number, event) in told.iter().enumerate() {
        assert_eq!(
            (event.operation(), event.outcome()),
            (Some(act.operation), due),
            "{}",
            act.name
        );
        let target = (act.upon == Upon::Process).then_some(u64::from(stage.outside.id()));
        assert_eq!(event.target(), target, "{}", act.name);
        let again = event.hook() != "capable"
            && told[..number].iter().any(|other| other.hook() == event.hook());
        assert!(!again, "{}: {} tells twice", act.name, event.hook());
    }
}

fn by_command() {
    let stage = Stage::new();
    let outcome = Run::under(ALLOW_ALL).go(&stage.command(None));
    outcome.exits(0);
    let reports = reports(&outcome);
    assert_eq!(reports.len(), ACTS.len());
    for (act, report) in ACTS.iter().zip(reports) {
        let is_told =
            tier() == Tier::Lsm && matches!(act.refusal, Refusal::Hook | Refusal::Capability);
        if is_told {
            assert_eq!(report.end, End::Errno(libc::EPERM), "{}", act.name);
            is_told_once(&stage, &outcome, act, report, "denied");
            continue;
        }
        let told = outcome.decided_by(report.pid);
        let told = told.iter().filter(|event| event.operation().is_some()).count();
        let may_be_told = tier() == Tier::Lsm && act.refusal == Refusal::Either;
        assert!(told <= usize::from(may_be_told), "{}", act.name);
        let is_withheld = ["trace", "mount", "chroot", "bpf", "module", "kexec"];
        if act.refusal != Refusal::Hook || is_withheld.contains(&act.operation) {
            let is_refused = report.end.is_refusal() || is_missing(report.end);
            assert!(is_refused, "{} ends with {:?}", act.name, report.end);
        }
    }
    stage.control();
}

fn audited() {
    if tier() != Tier::Lsm {
        return;
    }
    let stage = Stage::new();
    let outcome = Run::under(&format!("mode: audit\n{ALLOW_ALL}")).go(&stage.command(None));
    outcome.exits(0);
    for (act, report) in ACTS.iter().zip(reports(&outcome)) {
        if act.refusal == Refusal::Capability {
            assert_eq!(report.end, End::Errno(libc::EPERM), "{}", act.name);
            is_told_once(&stage, &outcome, act, report, "denied");
        }
    }
}

fn beside_allowed() {
    if tier() != Tier::Lsm {
        return;
    }
    let stage = Stage::new();
    let system = "system: {rules: [{effect: allow, operations: [mount]}]}";
    let outcome = Run::under(&format!("{ALLOW_ALL}\n{system}")).go(&stage.command(None));
    outcome.exits(0);
    for (act, report) in ACTS.iter().zip(reports(&outcome)) {
        match act.operation {
            "namespace" | "clock" | "host" => {
                assert_eq!(report.end, End::Errno(libc::EPERM), "{}", act.name);
                is_told_once(&stage, &outcome, act, report, "denied");
            }
            "mount" => {
                assert!(is_otherwise(act, report.end), "{} ends with {:?}", act.name, report.end);
                is_told_once(&stage, &outcome, act, report, "allowed");
            }
            _ => {}
        }
    }
}

/// The denied operations that `command` is told of with, in order.
fn told_of(command: &[&str]) -> Vec<String> {
    let outcome = Run::under(ALLOW_ALL).go(command);
    let denials = outcome.decided().filter(Decided::is_denial);
    denials.filter_map(|event| event.operation().map(str::to_owned)).collect()
}

fn by_nobody() {
    let nobody = "/usr/bin/setpriv --reuid=65534 --clear-groups";
    let script = format!("{nobody} /usr/sbin/chroot / /bin/true; {nobody} /bin/umount /proc");
    let due: &[&str] = if tier() == Tier::Lsm { &["chroot", "mount"] } else { &[] };
    assert_eq!(told_of(&["/bin/sh", "-c", &script]), due);
}

/// An agent that waits, and its cgroup.
fn waiting(spec: &str) -> (crate::guard::Running, PathBuf, Pid) {
    let scratch = Scratch::new();
    let running = Run::under(spec).start(&actor(&scratch, &["wait"]));
    let pid = running.stdout.wait_for("ready");
    let cgroup = running.events()[0]["unmapped"]["agent_guard"]["agent"]["cgroup"].clone();
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    (running, PathBuf::from(cgroup.as_str().unwrap()), pid)
}

fn put_inside() {
    if tier() != Tier::Lsm {
        return;
    }
    let stage = Stage::new();
    let (running, cgroup, pid) = waiting(ALLOW_ALL);
    let reports = stage.act(Some(&cgroup));
    kill_process(pid, Signal::USR1).unwrap();
    let outcome = running.finish();
    outcome.exits(0);
    for (act, report) in ACTS.iter().zip(reports) {
        assert_eq!(report.end, End::Errno(libc::EPERM), "{}", act.name);
        is_told_once(&stage, &outcome, act, report, "denied");
        let told = outcome.stderr.lines().filter(|line| {
            line.contains(&format!("[{}]", report.pid)) && line.contains("spec.system.rules")
        });
        assert_eq!(told.count(), 1, "{}", act.name);
    }
    stage.control();
}

fn begun_outside() {
    if tier() != Tier::Lsm {
        return;
    }
    let scratch = Scratch::new();
    let make = |role: &[&str]| reports_outside(&actor(&scratch, role))[0];
    assert_eq!(make(&["make-file-system"]).end, End::Done, "the control");
    let (running, cgroup, pid) = waiting(ALLOW_ALL);
    let inside = make(&["make-file-system-in", cgroup.to_str().unwrap()]);
    kill_process(pid, Signal::USR1).unwrap();
    let outcome = running.finish();
    assert_eq!(inside.end, End::Errno(libc::EPERM));
    let events = outcome.decided_by(inside.pid);
    let [event] = events.as_slice() else { panic!("{} events", events.len()) };
    assert_eq!((event.operation(), event.outcome()), (Some("mount"), "denied"));
}

fn allowed() {
    if tier() != Tier::Lsm {
        return;
    }
    let stage = Stage::new();
    let (running, cgroup, pid) = waiting(&format!("{ALLOW_ALL}\nsystem: {{default: allow}}"));
    let reports = stage.act(Some(&cgroup));
    kill_process(pid, Signal::USR1).unwrap();
    let outcome = running.finish();
    outcome.exits(0);
    for (act, report) in ACTS.iter().zip(reports) {
        assert!(is_otherwise(act, report.end), "{} ends with {:?}", act.name, report.end);
        is_told_once(&stage, &outcome, act, report, "allowed");
    }
}

fn among_own() {
    let scratch = Scratch::new();
    let outcome = Run::under(ALLOW_ALL).go(&actor(&scratch, &["among-own"]));
    outcome.exits(0);
    assert_eq!(reports(&outcome)[0].end, End::Done, "{}", outcome.stderr);
    assert!(outcome.decided().all(|event| event.operation().is_none()));
}

fn not_killed() {
    if tier() != Tier::Lsm {
        return;
    }
    let scratch = Scratch::new();
    let file = scratch.path("ids");
    let running =
        Run::under(ALLOW_ALL).start(&actor(&scratch, &["kill-those-in", file.to_str().unwrap()]));
    let guard = running.child.id();
    let new = scratch.file("new", &guard.to_string());
    fs::rename(new, &file).unwrap();
    let outcome = running.finish();
    outcome.exits(0);
    let reports = reports(&outcome);
    let [report] = reports.as_slice() else { panic!("{} reports", reports.len()) };
    assert_eq!(report.end, End::Errno(libc::EPERM));
    let events = outcome.decided_by(report.pid);
    let [event] = events.as_slice() else { panic!("{} events", events.len()) };
    assert_eq!((event.operation(), event.target()), (Some("signal"), Some(guard.into())));
}

fn not_elsewhere() {
    let scratch = Scratch::new();
    let mounts = agent_guard::mounts::MountTable::open().unwrap().read().unwrap();
    let tree = agent_guard::mounts::cgroup2(&mounts).unwrap();
    let command = actor(&scratch, &["clone-into", tree.to_str().unwrap()]);
    assert_eq!(reports_outside(&command)[0].end, End::Done, "the control");
    let outcome = Run::under(ALLOW_ALL).go(&command);
    outcome.exits(0);
    let inside = reports(&outcome)[0];
    let denials: Vec<_> =
        outcome.decided_by(inside.pid).into_iter().filter(Decided::is_denial).collect();
    match tier() {
        Tier::Lsm => {
            assert_eq!(inside.end, End::Errno(libc::EPERM));
            let [denial] = denials.as_slice() else { panic!("{} denials", denials.len()) };
            assert_eq!(denial.operation(), Some("cgroup"));
        }
        Tier::Trace => {
            assert_eq!(inside.end, End::Signal(libc::SIGKILL));
            let [denial] = denials.as_slice() else { panic!("{} denials", denials.len()) };
            assert_eq!(denial.by(), "guarded");
        }
        Tier::Observe => assert_eq!(inside.end, End::Done),
    }
}

/// Children of [`crowd`].
const CROWD: usize = 500;

fn crowd() {
    let scratch = secret_place();
    let count = CROWD.to_string();
    let outcome = Run::under(&scratch.place.fill(DENY_SECRETS))
        .go(&actor(&scratch, &["crowd", &count, "{root}/secret/key"]));
    outcome.exits(0);
    match tier() {
        Tier::Lsm => assert_eq!(outcome.text().trim(), "r".repeat(CROWD)),
        // Who was killed says nothing.
        Tier::Trace => assert_eq!(outcome.text().trim(), ""),
        Tier::Observe => assert_eq!(outcome.text().trim(), "ESCAPED".repeat(CROWD)),
    }
    let denials = outcome.decided().filter(|event| event.by() == "secrets").count();
    assert_eq!(denials as u64 + outcome.lost(), CROWD as u64);
}

fn section_needs_tier() {
    let spec = format!("{ALLOW_ALL}\nsystem: {{}}");
    match tier() {
        Tier::Lsm => {
            Run::under(&spec).go(&["/bin/true"]).exits(0);
        }
        Tier::Trace | Tier::Observe => {
            let outcome = Run::under(&spec).go(&["/bin/true"]);
            outcome.exits(125);
            for words in ["has a section `system`", "--allow-degraded system"] {
                assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
            }
            let outcome =
                Run::under(&spec).with(&["--allow-degraded", "system"]).go(&["/bin/true"]);
            outcome.exits(0);
            let degraded = &outcome.events[0]["unmapped"]["agent_guard"]["degraded"];
            assert!(degraded.as_array().unwrap().contains(&"system".into()), "{degraded}");
        }
    }
}
