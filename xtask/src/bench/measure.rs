//! Measuring: work in a process of its own, under a setting, here or in a guest.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum as _};
use serde::{Deserialize, Serialize};

use super::{
    count::Clock,
    figures::{Figures, Setting},
    landlock,
    place::Place,
    policy::{self, FEW, USUAL},
    work::Work,
};
use crate::process::{command, output, run};

/// Runs the program behind it so that who reads its events does not interrupt it, which an agent may ask for by its
/// limit, without the capability; and with the same addresses each time.
const FIRST: [&str; 5] = ["chrt", "--fifo", "1", "setarch", "--addr-no-randomize"];
/// How long an agent may take to come up under emulation.
const PATIENCE: Duration = Duration::from_secs(120);

/// What one process measures.
#[derive(Args)]
pub struct Measure {
    #[arg(long)]
    clock: Clock,
    /// Under Landlock, with this many rules
    #[arg(long)]
    landlock: Option<u32>,
    /// On the host, in the first directory, with a toolchain in the second
    #[arg(long, num_args = 2)]
    host: Option<Vec<PathBuf>>,
    works: Vec<Work>,
}

impl Measure {
    pub fn run(&self) -> Result<()> {
        let place = match self.host.as_deref() {
            Some([root, tools]) => Place::on_host(root, tools),
            _ => Place::in_guest(),
        };
        if let Some(rules) = self.landlock {
            let open =
                ["/bench", "/usr", "/etc", "/src", "/proc", "/sys", "/dev", "/lib64", "/tmp"];
            landlock::restrict(&open.map(Path::new), (0..rules).map(policy::directory))?;
        }
        for work in &self.works {
            let figure = self.clock.count(*work, &place).with_context(|| format!("{work:?}"))?;
            println!("{}", serde_json::to_string(&Measured { work: *work, figure })?);
        }
        Ok(())
    }
}

/// A line of what [`Measure`], and benches/figures, print.
#[derive(Serialize, Deserialize)]
struct Measured {
    work: Work,
    figure: u64,
}

/// Where it is measured, and what came of it.
pub struct Bench {
    pub place: Place,
    pub figures: Figures,
    /// This program, where an agent may start it.
    pub program: PathBuf,
    /// The program of benches/figures.
    pub own_side: PathBuf,
    /// Where `agent-guard` is found.
    pub path: OsString,
    /// When the measuring began.
    pub begun: Instant,
}

impl Bench {
    /// Measures `works` under `setting`.
    pub fn measure(&mut self, setting: Setting, works: &[Work]) -> Result<()> {
        self.say(&setting.to_string());
        let child = self.measuring(setting, works)?;
        self.take(child, setting).with_context(|| setting.to_string())
    }

    /// Measures what benches/figures does.
    pub fn measure_own_side(&mut self, setting: Setting, arguments: &[&str]) -> Result<()> {
        self.say(&arguments.join(" "));
        let mut child = self.first(&self.own_side);
        child.args(["--clock", self.figures.unit.name()]).args(arguments);
        self.take(child, setting).with_context(|| arguments.join(" "))
    }

    /// Fills the kernel's maps with `agents` agents. Not before all others: the kernel's own workers have to bring
    /// the memory for them.
    pub fn crowd(&self, agents: u32) -> Result<()> {
        self.say(&format!("nothing, but adding {agents} agents"));
        let mut child = Command::new(&self.own_side);
        child.args(["crowd", &agents.to_string()]).arg(self.place.policy(FEW));
        run(child.args(["--tier", self.place.tier()]))
    }

    fn say(&self, what: &str) {
        eprintln!("{:>4} s: measuring {what}", self.begun.elapsed().as_secs());
    }

    fn take(&mut self, mut child: Command, setting: Setting) -> Result<()> {
        let said = self.place.root().join("said");
        // A terminal would be slow to tell of denials on.
        child.env("PATH", &self.path).stderr(File::create(&said)?);
        let lines = output(&mut child)
            .with_context(|| fs::read_to_string(&said).unwrap_or_default().trim().to_owned())?;
        for line in lines.lines() {
            let Measured { work, figure } = serde_json::from_str(line)?;
            self.figures.add(work, setting, figure);
        }
        Ok(())
    }

    fn measuring(&self, setting: Setting, works: &[Work]) -> Result<Command> {
        let mut child = match setting {
            Setting::Agent { rules } => self.agent(rules),
            Setting::Crowd { .. } => self.agent(USUAL),
            Setting::Bare | Setting::Landlock { .. } | Setting::Beside => Command::new("env"),
        };
        if self.figures.unit == Clock::Instructions {
            child.args(FIRST);
        }
        child.arg(&self.program).args(["bench-work", "--clock", self.figures.unit.name()]);
        if let Some(host) = self.place.on_host_in() {
            child.arg("--host").arg(host).arg(self.place.tools());
        }
        if let Setting::Landlock { rules } = setting {
            child.args(["--landlock", &rules.to_string()]);
        }
        for work in works {
            let value = work.to_possible_value().context("a work without a name")?;
            child.arg(value.get_name());
        }
        Ok(child)
    }

    /// `program` before all others, where instructions are counted.
    fn first(&self, program: &Path) -> Command {
        match self.figures.unit {
            Clock::Instructions => {
                let mut first = command(FIRST[0], &FIRST[1..]);
                first.arg(program);
                first
            }
            Clock::Nanoseconds => Command::new(program),
        }
    }

    fn agent(&self, rules: u32) -> Command {
        let mut guard = Command::new("agent-guard");
        guard.args(["run", "--tier", self.place.tier(), "--policy"]).arg(self.place.policy(rules));
        guard.arg("--").env("PATH", &self.path);
        guard
    }

    /// Starts an agent that does nothing, so that the guard's programs are in the kernel.
    pub fn hold(&self) -> Result<Holder> {
        let sign = self.place.root().join("holder");
        let script = format!("echo up > {}; exec sleep 100000", sign.display());
        let mut agent = self.agent(FEW);
        let child = agent.args(["/bin/sh", "-c", &script]).stdin(Stdio::null()).spawn()?;
        let mut holder = Holder(child);
        let begun = Instant::now();
        while fs::read(&sign).unwrap_or_default().is_empty() {
            if let Some(status) = holder.0.try_wait()? {
                bail!("agent-guard ended with {status}");
            }
            if begun.elapsed() > PATIENCE {
                bail!("the agent did not come up");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(holder)
    }
}

/// An agent, ended when this is dropped.
pub struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        // It passes the signal on, and goes with its command.
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}
