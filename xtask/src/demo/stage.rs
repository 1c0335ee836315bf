//! The demo itself, on the kernel that is running: the workload without the guard, then with it.

use std::{
    fs,
    io::{BufRead as _, BufReader, ErrorKind, Read, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{
    account::Account,
    events::Run,
    network::{self, Server},
    scratch::{Scratch, leaked},
    steps::{OTHER_SERVER, SERVER, STEPS},
    transcript,
};

/// The policy, from the root of the repository.
pub const POLICY: &str = "policies/coding-agent.yaml";
/// What tier `trace` lacks of it; at `lsm` nothing is lacking.
pub const DEGRADED: [&str; 2] = ["--allow-degraded", "listen,unix"];
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is played, and with what.
pub struct Stage {
    /// The repository.
    pub root: PathBuf,
    pub agent_guard: PathBuf,
    /// `--tier` of `agent-guard run`.
    pub tier: String,
    /// Where the events go.
    pub events: PathBuf,
}

impl Stage {
    /// Plays, prints the account, and gives what is wrong with it.
    pub fn play(&self) -> Result<Vec<String>> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // Instead of ending this program, which would leave its directory behind.
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        let stopped = || match interrupted.load(Ordering::Relaxed) {
            true => Err(anyhow!("interrupted")),
            false => Ok(()),
        };
        network::enter_own()?;
        let servers = Servers::start()?;
        let seen = self.without_guard(&servers);
        stopped()?;
        tell(&format!(
            "Without the guard all {} steps work, and the agent has read {} secrets.",
            STEPS.len(),
            seen?
        ));
        let problems = self.with_guard(&servers);
        stopped()?;
        problems
    }

    /// What is blocked later must be what would work otherwise. Gives how many secrets were read.
    fn without_guard(&self, servers: &Servers) -> Result<usize> {
        let scratch = Scratch::new()?;
        let mut shell = Command::new("/bin/sh");
        let ended = self.run(shell.arg(scratch.workload()), &scratch, |_| {})?;
        let ran = transcript::parse(&ended.output);
        for step in &STEPS {
            let ran = ran.iter().find(|ran| ran.name == step.name);
            if ran.is_none_or(|ran| ran.status != Some(0)) {
                let said = ran.map(|ran| ran.said.join("\n")).unwrap_or_default();
                bail!(
                    "without the guard the agent could not {} either, so that nothing would be shown by it: {said}",
                    step.tries
                );
            }
        }
        if servers.take_connections() != (1, 1) {
            bail!("without the guard the servers were not reached once each");
        }
        Ok(leaked(&ended.output).len())
    }

    fn with_guard(&self, servers: &Servers) -> Result<Vec<String>> {
        let scratch = Scratch::new()?;
        remove_if_there(&self.events)?;
        tell(&format!(
            "With the guard: agent-guard run --policy {POLICY} --tier {} {} --events … -- sh workload.sh\n",
            self.tier,
            DEGRADED.join(" ")
        ));
        let mut guard = Command::new(&self.agent_guard);
        guard.args(["run", "--policy", POLICY, "--tier", &self.tier]).args(DEGRADED);
        guard.arg("--events").arg(&self.events);
        guard.args(["--", "/bin/sh"]).arg(scratch.workload());
        let ended = self.run(&mut guard, &scratch, tell)?;
        let connections = servers.take_connections();
        if !ended.status.success() {
            bail!(
                "agent-guard run ended with {}; its message is above, and `agent-guard doctor` says what this kernel lacks",
                ended.status
            );
        }
        let lines = fs::read_to_string(&self.events)
            .with_context(|| format!("the events in {}", self.events.display()))?;
        let run = Run::parse(&lines).with_context(|| self.events.display().to_string())?;
        let ran = transcript::parse(&ended.output);
        let account = Account::of(&STEPS, &run, &ran, scratch.root());
        tell(&format!(
            "\nWhat happened, by the events: agent {}, tier {}, mode {}, kernel {}, policy {}\n",
            run.agent, run.tier, run.mode, run.kernel, run.policy_file
        ));
        tell(&scratch.shorten(&account.text()));
        let (allowed, blocked) = account.counts();
        let secrets = leaked(&ended.output);
        tell(&format!(
            "{allowed} allowed, {blocked} blocked. Secrets seen by the agent: {}. Connections to {SERVER}: {}, to {OTHER_SERVER}: {}.",
            secrets.len(),
            connections.0,
            connections.1
        ));
        if let Some(last) = run.notices.last() {
            tell(&format!("The guard's own words: {last}."));
        }
        let mut problems = account.problems;
        problems.extend(secrets.iter().map(|path| format!("the agent has seen {path}")));
        if connections != (1, 0) {
            problems.push("the servers saw other connections than the policy allows".to_owned());
        }
        if self.tier != "auto" && self.tier != run.tier {
            problems
                .push(format!("tier {} was asked for, and {} is in force", self.tier, run.tier));
        }
        Ok(problems)
    }

    /// Runs `command` as the agent's environment has it; `show` gets each line as it comes.
    fn run(
        &self,
        command: &mut Command,
        scratch: &Scratch,
        show: impl Fn(&str) + Sync,
    ) -> Result<Ended> {
        let mut child = command
            .current_dir(&self.root)
            .env_clear()
            .envs([("PATH", PATH), ("LANG", "C.UTF-8")])
            .envs([("SERVER", format!("http://{SERVER}/"))])
            .envs([("OTHER_SERVER", format!("http://{OTHER_SERVER}/"))])
            .envs([("HOME", scratch.home()), ("WORKSPACE", scratch.workspace())])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let stdout = child.stdout.take().context("standard output")?;
        let stderr = child.stderr.take().context("standard error")?;
        let output = thread::scope(|scope| {
            scope.spawn(|| {
                pass_on(stderr, |line| show(&format!("  guard | {}", without_name(line))))
            });
            pass_on(stdout, |line| show(&format!("  agent | {line}")))
        })?;
        Ok(Ended { status: child.wait()?, output })
    }
}

/// How a run ended, and what was written to its standard output.
struct Ended {
    status: ExitStatus,
    output: String,
}

/// What the guard says, without the name that it says it under.
fn without_name(line: &str) -> &str {
    line.strip_prefix("agent-guard: ").unwrap_or(line)
}

/// Reads lines to the end.
fn pass_on(from: impl Read, show: impl Fn(&str)) -> Result<String> {
    let mut lines = BufReader::new(from);
    let (mut all, mut line) = (String::new(), Vec::new());
    while lines.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        show(text.trim_end());
        all.push_str(&text);
        line.clear();
    }
    Ok(all)
}

struct Servers {
    allowed: Server,
    other: Server,
}

impl Servers {
    fn start() -> Result<Self> {
        Ok(Self {
            allowed: Server::start(SERVER, "hello from the development server")?,
            other: Server::start(OTHER_SERVER, "hello from a server that nobody allowed")?,
        })
    }

    fn take_connections(&self) -> (usize, usize) {
        (self.allowed.take_connections(), self.other.take_connections())
    }
}

fn remove_if_there(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| file.display().to_string())
        }
        _ => Ok(()),
    }
}

/// A line for the reader. One who went away does not stop the demo.
pub fn tell(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
