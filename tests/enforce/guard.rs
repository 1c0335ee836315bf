//! Runs of `agent-guard run`.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
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
    arguments: Vec<OsString>,
    tier: String,
    events: Option<PathBuf>,
    stdin: Vec<u8>,
}

impl Run {
    /// Under a policy with this `spec`, on the tier that is tested.
    pub fn under(spec: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("agent-guard-run-").tempdir().unwrap();
        let policy = directory.path().join("policy.yaml");
        fs::write(&policy, policy_text(spec)).unwrap();
        let events = directory.path().join("events.jsonl");
        let mut arguments = vec![OsString::from("--policy"), policy.into()];
        if tier() == Tier::Observe {
            arguments.extend(["--allow-degraded", "enforce"].map(OsString::from));
        }
        Self {
            directory,
            arguments,
            tier: tier().name().to_owned(),
            events: Some(events),
            stdin: Vec::new(),
        }
    }

    /// On another tier than the one that is tested.
    pub fn on(mut self, tier: &str) -> Self {
        self.tier = tier.to_owned();
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

    /// The whole command line.
    pub fn command(&self, command: &[impl AsRef<OsStr>]) -> Command {
        let mut run = Command::new(program());
        run.arg("run").arg("--tier").arg(&self.tier).args(&self.arguments);
        if let Some(events) = &self.events {
            run.arg("--events").arg(events);
        }
        run.arg("--").args(command);
        run
    }

    /// Starts it.
    pub fn start(self, command: &[impl AsRef<OsStr>]) -> Running {
        let mut child = self
            .command(command)
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
        let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let read = |mut from: Box<dyn Read + Send>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                from.read_to_end(&mut bytes).unwrap();
                bytes
            })
        };
        let _ = (&mut out, &mut err);
        Running { stdout: read(Box::new(out)), stderr: read(Box::new(err)), child, run: self }
    }

    /// Runs it to its end.
    pub fn go(self, command: &[impl AsRef<OsStr>]) -> Outcome {
        self.start(command).finish()
    }
}

/// A run under way.
pub struct Running {
    pub child: Child,
    stdout: JoinHandle<Vec<u8>>,
    stderr: JoinHandle<Vec<u8>>,
    run: Run,
}

impl Running {
    /// Waits for its end, within [`PATIENCE`].
    pub fn finish(self) -> Outcome {
        let Self { child, stdout, stderr, run } = self;
        let status = wait(child);
        let events = run.events.as_deref().filter(|path| path.is_file()).map(read_events);
        Outcome {
            status,
            stdout: stdout.join().unwrap(),
            stderr: String::from_utf8(stderr.join().unwrap()).unwrap(),
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

    /// How many events the log says are lost.
    pub fn lost(&self) -> u64 {
        let losses = self.events.iter().map(|event| &event["unmapped"]["agent_guard"]["losses"]);
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
}

/// An event about something that was decided.
pub struct Decided<'a> {
    pub event: &'a Value,
    decision: &'a Value,
}

impl<'a> Decided<'a> {
    fn of(event: &'a Value) -> Option<Self> {
        let decision = &event["unmapped"]["agent_guard"]["decision"];
        decision.is_object().then_some(Self { event, decision })
    }

    pub fn pid(&self) -> Option<u64> {
        self.event["actor"]["process"]["pid"].as_u64()
    }

    pub fn outcome(&self) -> &'a str {
        self.decision["outcome"].as_str().unwrap()
    }

    pub fn is_denial(&self) -> bool {
        self.decision["effect"] == "deny"
    }

    pub fn access(&self) -> Vec<&'a str> {
        let access = self.decision["access"].as_array().map_or(&[][..], Vec::as_slice);
        access.iter().filter_map(Value::as_str).collect()
    }

    /// The rule that decided, or the reason where none did.
    pub fn by(&self) -> &'a str {
        self.decision["rule"]["name"].as_str().or(self.decision["reason"].as_str()).unwrap()
    }

    /// The path of the file or program, as the event has it.
    pub fn path(&self) -> Option<&'a str> {
        let file = &self.event["file"]["path"];
        file.as_str().or(self.event["process"]["file"]["path"].as_str())
    }
}

/// Every line of an event file.
pub fn read_events(path: &Path) -> Vec<Value> {
    let mut bytes = Vec::new();
    File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    let text = std::str::from_utf8(&bytes).expect("events are UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}
