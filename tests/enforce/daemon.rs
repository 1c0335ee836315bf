//! A daemon under test, with a policy directory and a part of the cgroup tree of its own.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use agent_guard::{
    cgroup,
    mounts::{MountTable, cgroup2},
    state_dir,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::guard::{PATIENCE, Reader, parse_events, program, tier, wait};

/// There is one daemon on a host.
static ONE: Mutex<()> = Mutex::new(());

static NUMBER: AtomicU32 = AtomicU32::new(0);

pub struct Daemon {
    directory: TempDir,
    tree: PathBuf,
    /// The cgroup, from the root of the tree, that the test's cgroups lie in.
    pub root: String,
    running: Option<(Child, Reader)>,
    _one: MutexGuard<'static, ()>,
}

impl Daemon {
    /// One that is not started yet.
    pub fn new() -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        forget_sinks();
        let directory = tempfile::Builder::new().prefix("agent-guard-daemon-").tempdir().unwrap();
        // Whoever is to use the control socket comes by.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(directory.path().join("policies")).unwrap();
        let mounts = MountTable::open().unwrap().read().unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = format!("/workloads-{}-{number}", std::process::id());
        let tree = cgroup2(&mounts).unwrap().to_owned();
        fs::create_dir(tree.join(&root[1..])).unwrap();
        let daemon = Self { directory, tree, root, running: None, _one: one };
        daemon.configure("");
        daemon
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// With more in its configuration: in the section `control`, and behind it.
    pub fn configure(&self, more: &str) {
        let directory = self.directory.path().display();
        let text = format!(
            "policies = '{directory}/policies'\nspool = '{directory}/spool'\ntier = '{}'\n[[sink]]\ntype = 'file'\n\
             path = '{directory}/events.jsonl'\n[control]\nsocket = '{directory}/socket'\n{more}\n",
            tier().name()
        );
        fs::write(self.path("config.toml"), text).unwrap();
    }

    /// The text of a policy for cgroups below [`Self::root`].
    pub fn policy_text(&self, name: &str, cgroups: &str, spec: &str) -> String {
        let spec: String = spec.trim_start().lines().map(|line| format!("  {line}\n")).collect();
        format!(
            "apiVersion: agent-guard.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: {name}}}\n\
             spec:\n  selector: {{cgroups: [\"{}{cgroups}\"]}}\n{spec}",
            self.root
        )
    }

    /// Writes a policy into the directory.
    pub fn policy(&self, name: &str, cgroups: &str, spec: &str) {
        let file = self.path("policies").join(format!("{name}.yaml"));
        fs::write(&file, self.policy_text(name, cgroups, spec)).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(program());
        command.arg("daemon").arg("--config").arg(self.path("config.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Starts it, and waits until it is ready.
    pub fn start(&mut self) {
        self.start_by(self.command());
    }

    /// Starts it by this command, and waits until it is ready.
    pub fn start_by(&mut self, mut command: Command) {
        let mut child = command.spawn().unwrap();
        let log = Reader::of(child.stderr.take().unwrap());
        log.wait_for_text("ready:");
        self.running = Some((child, log));
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().0.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.running.as_ref().unwrap().0), signal).unwrap();
    }

    /// Ends it, and returns what it said.
    pub fn end(&mut self, signal: Signal) -> String {
        let (child, log) = self.running.take().unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        wait(child);
        String::from_utf8(log.finish()).unwrap()
    }

    /// What the command line says.
    pub fn ask(&self, arguments: &[&str]) -> Output {
        Command::new(program())
            .args(arguments)
            .arg("--socket")
            .arg(self.path("socket"))
            .output()
            .unwrap()
    }

    /// What the command line says as JSON.
    pub fn view(&self, arguments: &[&str]) -> Value {
        let output = self.ask(&[arguments, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// The workload in a cgroup below [`Self::root`], as the daemon shows it.
    pub fn agent(&self, cgroup: &str) -> Option<Value> {
        let path = format!("{}{cgroup}", self.root);
        let agents = self.view(&["agents"]);
        agents.as_array().unwrap().iter().find(|agent| agent["cgroup"] == *path).cloned()
    }

    pub fn cgroup(&self, name: &str) -> PathBuf {
        self.tree.join(&format!("{}{name}", self.root)[1..])
    }

    /// Makes a cgroup, and waits until the daemon knows it.
    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.cgroup(name);
        fs::create_dir(&path).unwrap();
        self.until("the workload", || self.agent(name));
        path
    }

    /// A command that enters the cgroup before it runs.
    pub fn inside(&self, cgroup: &str, command: &[impl AsRef<std::ffi::OsStr>]) -> Command {
        let procs = self.cgroup(cgroup).join("cgroup.procs");
        let mut inside = Command::new(command[0].as_ref());
        inside.args(&command[1..]).stdin(Stdio::null());
        // SAFETY: `fs::write` of two small paths between fork and exec of a program with one thread that matters.
        unsafe {
            inside.pre_exec(move || fs::write(&procs, "0"));
        }
        inside
    }

    pub fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("events.jsonl")).unwrap_or_default();
        parse_events(text.rsplit_once('\n').map_or("", |(whole, _)| whole))
    }

    /// Waits until `found` finds something.
    pub fn until<T>(&self, what: &str, found: impl Fn() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "{what} did not come");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What daemons of other tests owed to sinks with the same names is not this one's.
fn forget_sinks() {
    for entry in fs::read_dir(state_dir::PATH).into_iter().flatten() {
        let entry = entry.unwrap();
        if entry.file_name().as_encoded_bytes().starts_with(b"sink-") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A test that fails is told of; one that fails twice ends the whole program.
        let _ = cgroup::end(&self.cgroup(""));
        if self.running.is_some() {
            self.end(Signal::TERM);
        }
    }
}
