//! Runs of `agent-guard run`.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use agent_guard::tier::Tier;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::policy_text;

/// How long a run may take before it counts as hung: long, for emulated machines.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// The tier that this host is to be tested on.
pub fn tier() -> Tier {
    let asked = std::env::var("AGENT_GUARD_TEST_TIER").unwrap_or_default();
    Tier::ALL.into_iter().find(|tier| tier.name() == asked).unwrap_or_else(|| {
        eprintln!(
            "AGENT_GUARD_TEST_TIER={asked}: set it to lsm, trace or observe, whichever this host is to \
             be held to. As root:\n    cargo build && AGENT_GUARD_TEST_TIER=trace cargo test -p agent-guard --test enforce"
        );
        std::process::exit(2);
    })
}

/// The program under test.
pub fn program() -> PathBuf {
    std::env::var_os("AGENT_GUARD_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_agent-guard")), PathBuf::from)
}

/// A run that is to be started.
pub struct Run {
    directory: TempDir,
    workspace: Option<PathBuf>,
    arguments: Vec<OsString>,
    tier: String,
    degraded: bool,
    events: Option<PathBuf>,
    stdin: Vec<u8>,
    redirections: Option<String>,
    cgroup: Option<PathBuf>,
}

impl Run {
    /// Under a policy with this `spec`, on the tier that is tested.
    pub fn under(spec: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("agent-guard-run-").tempdir().unwrap();
        let policy = directory.path().join("policy.yaml");
        fs::write(&policy, policy_text(spec)).unwrap();
        let events = directory.path().join("events.jsonl");
        Self {
            arguments: vec!["--policy".into(), policy.into()],
            directory,
            workspace: None,
            tier: tier().name().to_owned(),
            degraded: tier() == Tier::Observe,
            events: Some(events),
            stdin: Vec::new(),
            redirections: None,
            cgroup: None,
        }
    }

    /// Under the policy that is built in, with `workspace` for the directory at hand.
    pub fn under_the_shipped_policy(workspace: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("agent-guard-run-").tempdir().unwrap();
        let events = directory.path().join("events.jsonl");
        Self {
            arguments: Vec::new(),
            directory,
            workspace: Some(workspace.to_owned()),
            tier: tier().name().to_owned(),
            degraded: tier() == Tier::Observe,
            events: Some(events),
            stdin: Vec::new(),
            redirections: None,
            cgroup: None,
        }
    }

    /// Under this policy file instead.
    pub fn with_policy(mut self, policy: &Path) -> Self {
        self.arguments = vec!["--policy".into(), policy.into()];
        self
    }

    /// On another tier than the one that is tested.
    pub fn on(mut self, tier: &str) -> Self {
        self.tier = tier.to_owned();
        self.degraded = false;
        self
    }

    /// With another option.
    pub fn with(mut self, options: &[&str]) -> Self {
        self.arguments.extend(options.iter().map(OsString::from));
        self
    }

    /// With events elsewhere, or nowhere.
    pub fn events_to(mut self, events: Option<&Path>) -> Self {
        self.events = events.map(Path::to_owned);
        self
    }

    /// With this on standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// With descriptors that a shell opens before it starts the run: `3</etc/passwd`.
    pub fn redirected(mut self, redirections: &str) -> Self {
        self.redirections = Some(redirections.to_owned());
        self
    }

    /// Started by a process in this cgroup.
    pub fn within(mut self, cgroup: &Path) -> Self {
        self.cgroup = Some(cgroup.to_owned());
        self
    }

    fn starter(&self, command: &[impl AsRef<OsStr>]) -> Command {
        let run = self.command(command);
        let before = match (&self.redirections, &self.cgroup) {
            (None, None) => return run,
            (Some(redirections), _) => format!("exec \"$@\" {redirections}"),
            (None, Some(cgroup)) => {
                format!("echo $$ > {}/cgroup.procs && exec \"$@\"", cgroup.display())
            }
        };
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(before).arg("sh");
        shell.arg(run.get_program()).args(run.get_args());
        shell
    }

    /// The whole command line.
    pub fn command(&self, command: &[impl AsRef<OsStr>]) -> Command {
        let mut run = Command::new(program());
        run.arg("run").arg("--tier").arg(&self.tier).args(&self.arguments);
        if self.degraded {
            run.args(["--allow-degraded", "enforce"]);
        }
        if let Some(events) = &self.events {
            run.arg("--events").arg(events);
        }
        if let Some(workspace) = &self.workspace {
            run.current_dir(workspace);
        }
        run.arg("--").args(command);
        run
    }

    /// Starts it.
    pub fn start(self, command: &[impl AsRef<OsStr>]) -> Running {
        let mut child = self
            .starter(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        let input = self.stdin.clone();
        std::thread::spawn(move || {
            // Who does not read it does not want it.
            let _ = pipe.write_all(&input);
        });
        let stdout = Reader::of(child.stdout.take().unwrap());
        let stderr = Reader::of(child.stderr.take().unwrap());
        Running { stdout, stderr, child, run: self }
    }

    /// Runs it to its end.
    pub fn go(self, command: &[impl AsRef<OsStr>]) -> Outcome {
        self.start(command).finish()
    }
}

/// Reads a pipe to its end, and what has come so far can be looked at.
pub struct Reader {
    thread: JoinHandle<()>,
    shared: Arc<(Mutex<Said>, Condvar)>,
}

#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    at_end: bool,
}

impl Reader {
    /// Starts to read `from`.
    pub fn of(mut from: impl Read + Send + 'static) -> Self {
        let shared = Arc::new((Mutex::new(Said::default()), Condvar::new()));
        let (said, changed) = (Arc::clone(&shared), Arc::clone(&shared));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                // The far end of a terminal that is gone is an error, and an end.
                let count = from.read(&mut buffer).unwrap_or(0);
                let mut said = said.0.lock().unwrap();
                said.bytes.extend_from_slice(&buffer[..count]);
                said.at_end = count == 0;
                changed.1.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        Self { thread, shared }
    }

    /// Waits until a line that begins with `text` has come, and returns what follows `text` in it.
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_until(text, |all| {
            let whole = all.rsplit_once('\n').map_or("", |(whole, _)| whole);
            whole.lines().find_map(|line| Some(line.strip_prefix(text)?.trim().to_owned()))
        })
    }

    /// Waits until `text` has come, wherever.
    pub fn wait_for_text(&self, text: &str) {
        self.wait_until(text, |all| all.contains(text).then_some(()));
    }

    /// Whether `text` has come, wherever.
    pub fn said(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.shared.0.lock().unwrap().bytes).contains(text)
    }

    fn wait_until<T>(&self, text: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let (said, changed) = &*self.shared;
        let find = |said: &Said| find(&String::from_utf8_lossy(&said.bytes));
        let waiting = |said: &mut Said| find(said).is_none() && !said.at_end;
        let (said, timeout) =
            changed.wait_timeout_while(said.lock().unwrap(), PATIENCE, waiting).unwrap();
        assert!(!timeout.timed_out(), "`{text}` did not come within {PATIENCE:?}");
        find(&said).unwrap_or_else(|| {
            panic!("`{text}` did not come: {}", String::from_utf8_lossy(&said.bytes))
        })
    }

    /// Everything that came, once nobody can write any more.
    pub fn finish(self) -> Vec<u8> {
        self.thread.join().unwrap();
        std::mem::take(&mut self.shared.0.lock().unwrap().bytes)
    }
}

/// A run under way.
pub struct Running {
    pub child: Child,
    pub stdout: Reader,
    pub stderr: Reader,
    run: Run,
}

impl Running {
    /// Sends the guard a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// The events so far.
    pub fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.run.events.as_deref().unwrap()).unwrap();
        // A line that is being written is not there yet.
        parse_events(text.rsplit_once('\n').map_or("", |(whole, _)| whole))
    }

    /// Waits for its end, within [`PATIENCE`], and until nothing of it has a pipe open any more.
    pub fn finish(self) -> Outcome {
        let Self { child, stdout, stderr, run } = self;
        let status = wait(child);
        let (stdout, stderr) = (stdout.finish(), stderr.finish());
        let events = run.events.as_deref().filter(|path| path.is_file()).map(read_events);
        Outcome {
            status,
            stdout,
            stderr: String::from_utf8(stderr).unwrap(),
            events: events.unwrap_or_default(),
            _directory: run.directory,
        }
    }
}

/// Waits for `child`, within [`PATIENCE`].
pub fn wait(mut child: Child) -> ExitStatus {
    let (sender, receiver) = mpsc::channel();
    let pid = rustix::process::Pid::from_child(&child);
    std::thread::spawn(move || sender.send(child.wait()));
    receiver.recv_timeout(PATIENCE).map(Result::unwrap).unwrap_or_else(|_| {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        panic!("agent-guard did not end within {PATIENCE:?}")
    })
}

/// What came of a run.
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub events: Vec<Value>,
    _directory: TempDir,
}

impl Outcome {
    /// The exit code; a run that was killed has none.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| {
            panic!("killed by signal {:?}\n{}", self.status.signal(), self.stderr)
        })
    }

    /// Fails where the exit code is another.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code(), code, "{}", self.stderr);
        self
    }

    /// Standard output as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// The events about something that was decided, made by the process `pid`.
    pub fn decided_by(&self, pid: u32) -> Vec<Decided<'_>> {
        self.decided().filter(|event| event.pid() == Some(pid.into())).collect()
    }

    /// The events about something that was decided.
    pub fn decided(&self) -> impl Iterator<Item = Decided<'_>> {
        self.events.iter().filter_map(Decided::of)
    }

    /// The agent's cgroup.
    pub fn cgroup(&self) -> PathBuf {
        let path = self
            .events
            .iter()
            .find_map(|event| event["unmapped"]["agent_guard"]["agent"]["cgroup"].as_str());
        PathBuf::from(path.expect("events name the cgroup"))
    }

    /// How many events the log says are lost.
    pub fn lost(&self) -> u64 {
        lost(&self.events)
    }

    /// The sum of a counter over all hooks, as the last event tells it.
    pub fn total(&self, counter: &str) -> u64 {
        let totals = &self.events.last().unwrap()["unmapped"]["agent_guard"]["totals"];
        totals.as_array().unwrap().iter().map(|hook| hook[counter].as_u64().unwrap()).sum()
    }
}

/// How many events these say are lost.
pub fn lost(events: &[Value]) -> u64 {
    let losses = events.iter().map(|event| &event["unmapped"]["agent_guard"]["losses"]);
    losses
        .filter(|losses| !losses.is_null())
        .map(|losses| {
            let hooks = losses["hooks"].as_array().map_or(&[][..], Vec::as_slice);
            let of_hooks: u64 = hooks.iter().map(|hook| hook["lost"].as_u64().unwrap()).sum();
            let own = |kind: &str| losses[kind].as_u64().unwrap_or_default();
            of_hooks + own("malformed") + own("unwritten")
        })
        .sum()
}

/// An event about something that was decided.
pub struct Decided<'a> {
    pub event: &'a Value,
    decision: &'a Value,
}

impl<'a> Decided<'a> {
    pub fn of(event: &'a Value) -> Option<Self> {
        let decision = &event["unmapped"]["agent_guard"]["decision"];
        decision.is_object().then_some(Self { event, decision })
    }

    pub fn pid(&self) -> Option<u64> {
        self.event["actor"]["process"]["pid"].as_u64()
    }

    pub fn outcome(&self) -> &'a str {
        self.decision["outcome"].as_str().unwrap()
    }

    /// The operation, as `spec.system` calls it.
    pub fn operation(&self) -> Option<&'a str> {
        self.decision["operation"].as_str()
    }

    /// The process that it was upon.
    pub fn target(&self) -> Option<u64> {
        self.decision["target_pid"].as_u64()
    }

    pub fn is_denial(&self) -> bool {
        self.decision["effect"] == "deny"
    }

    pub fn access(&self) -> Vec<&'a str> {
        let access = self.decision["access"].as_array().map_or(&[][..], Vec::as_slice);
        access.iter().filter_map(Value::as_str).collect()
    }

    /// The far end, or where the agent was to be reached.
    pub fn endpoint(&self) -> &'a Value {
        &self.event["dst_endpoint"]
    }

    pub fn hook(&self) -> &'a str {
        self.decision["hook"].as_str().unwrap()
    }

    /// The rule that decided, or the reason where none did.
    pub fn by(&self) -> &'a str {
        self.decision["rule"]["name"].as_str().or(self.decision["reason"].as_str()).unwrap()
    }

    pub fn reason(&self) -> &'a str {
        self.decision["reason"].as_str().unwrap()
    }

    /// The path of the file or program, as the event has it.
    pub fn path(&self) -> Option<&'a str> {
        let file = &self.event["file"]["path"];
        file.as_str().or(self.event["process"]["file"]["path"].as_str())
    }
}

/// Every line of an event file.
pub fn read_events(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("events are UTF-8");
    assert!(text.is_empty() || text.ends_with('\n'), "the last event is cut off");
    parse_events(&text)
}

pub fn parse_events(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}
