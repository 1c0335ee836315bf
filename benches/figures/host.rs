//! The daemon with a host full of workloads: what it takes to start, for one more to come, to swap the policy of all,
//! to take over from one that was killed; and of memory.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use agent_guard::{
    cgroup,
    mounts::{self, MountTable},
};
use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::clock::tell;

/// How long the daemon may take for anything.
const PATIENCE: Duration = Duration::from_secs(300);

/// Starts the daemon `program` with half of `workloads` there, under a policy of `rules` rules, lets the others come,
/// and tells what all of it took: microseconds, and bytes.
pub fn measure(program: &Path, tier: &str, workloads: u32, rules: u32) -> Result<()> {
    let place = Place::make(program, tier)?;
    place.write("policies/crowd.yaml", &place.policy(rules))?;
    let policies = fs::Permissions::from_mode(0o700);
    fs::set_permissions(place.directory.path(), policies)?;
    let half = workloads / 2;
    (0..half).try_for_each(|n| place.add(n))?;

    let start = Instant::now();
    let daemon = place.start()?;
    tell("host-start", micros(start.elapsed()));
    place.until_guarded(half)?;
    let start = Instant::now();
    (half..workloads).try_for_each(|n| place.add(n))?;
    place.until_guarded(workloads)?;
    tell("host-arrive", micros(start.elapsed()) / u64::from((workloads - half).max(1)));
    daemon.tell_memory()?;

    let swapped = place.write("more.yaml", &place.policy(rules + 1))?;
    let start = Instant::now();
    place.ask(&["policy", "load", &swapped.display().to_string()])?;
    tell("host-swap", micros(start.elapsed()));

    daemon.end(Signal::KILL)?;
    let start = Instant::now();
    let daemon = place.start()?;
    tell("host-adopt", micros(start.elapsed()));
    place.until_guarded(workloads)?;
    daemon.tell_memory()?;
    daemon.end(Signal::TERM)?;
    Ok(())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What the daemon is started with, and the part of the cgroup tree that its workloads are in.
struct Place {
    directory: tempfile::TempDir,
    program: PathBuf,
    name: String,
    cgroup: PathBuf,
}

impl Place {
    fn make(program: &Path, tier: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let name = format!("figures-{}", std::process::id());
        let mounts = MountTable::open()?.read()?;
        let cgroup = mounts::cgroup2(&mounts).context("no cgroup2 is mounted")?.join(&name);
        fs::create_dir(&cgroup)?;
        fs::create_dir(directory.path().join("policies"))?;
        let place = Self { directory, program: program.to_owned(), name, cgroup };
        let path = place.directory.path().display();
        let config = format!(
            "policies = '{path}/policies'\ntier = '{tier}'\n[[sink]]\ntype = 'file'\n\
             path = '{path}/events.jsonl'\n[control]\nsocket = '{path}/socket'\n"
        );
        place.write("config.toml", &config)?;
        Ok(place)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.directory.path().join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path)
    }

    fn policy(&self, rules: u32) -> String {
        let rule = |n| format!("      - {{effect: allow, paths: [\"/srv/tree-{n}/**\"]}}\n");
        let rules: String = (0..rules).map(rule).collect();
        format!(
            "apiVersion: agent-guard.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: crowd}}\nspec:\n  \
             selector: {{cgroups: [\"/{}/*\"]}}\n  files:\n    default: deny\n    rules:\n{rules}",
            self.name
        )
    }

    fn add(&self, n: u32) -> Result<()> {
        Ok(fs::create_dir(self.cgroup.join(n.to_string()))?)
    }

    /// Starts the daemon, and waits until it is ready.
    fn start(&self) -> Result<Daemon> {
        let mut command = Command::new(&self.program);
        command.arg("daemon").arg("--config").arg(self.directory.path().join("config.toml"));
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut said = BufReader::new(child.stderr.take().context("its log")?);
        let mut log = String::new();
        while !log.contains("ready:") {
            ensure!(said.read_line(&mut log)? > 0, "the daemon ended: {log}");
        }
        // Somebody reads on, or it would wait for that.
        thread::spawn(move || said.read_to_end(&mut Vec::new()));
        Ok(Daemon(child))
    }

    fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(&self.program);
        command.args(arguments).args(["-o", "json", "--socket"]);
        let output = command.arg(self.directory.path().join("socket")).output()?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Waits until as many workloads are under guard as that.
    fn until_guarded(&self, workloads: u32) -> Result<()> {
        let start = Instant::now();
        while self.ask(&["status"])?.get("agents").and_then(Value::as_u64) != Some(workloads.into())
        {
            if start.elapsed() > PATIENCE {
                bail!("{workloads} workloads are not under guard");
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is left is in nobody's way.
        let _ = cgroup::end(&self.cgroup);
    }
}

struct Daemon(Child);

impl Daemon {
    /// What is resident: of the ring buffer, and of all else; and its descriptors.
    fn tell_memory(&self) -> Result<()> {
        let process = PathBuf::from(format!("/proc/{}", self.0.id()));
        let maps = fs::read_to_string(process.join("smaps"))?;
        let (mut is_ring, mut ring, mut rest) = (false, 0, 0);
        for line in maps.lines() {
            if let Some(resident) = line.strip_prefix("Rss:") {
                let kib: u64 = resident.trim().trim_end_matches(" kB").parse()?;
                *(if is_ring { &mut ring } else { &mut rest }) += kib << 10;
            } else if line.split_whitespace().count() > 5 || line.contains('-') {
                is_ring = line.contains("bpf-map");
            }
        }
        tell("host-resident", rest);
        tell("host-resident-ring", ring);
        tell("host-descriptors", fs::read_dir(process.join("fd"))?.count() as u64);
        Ok(())
    }

    fn end(mut self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.0), signal)?;
        self.0.wait()?;
        Ok(())
    }
}
