//! The measuring itself, in a guest: the same work bare, under Landlock, as an agent, and beside one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum as _};
use rustix::{
    mount::{MountFlags, mount},
    process::{Resource, Rlimit, setrlimit},
    system::uname,
};
use serde::{Deserialize, Serialize};

use super::{
    count,
    figures::{Figure, Figures, Setting},
    landlock, policy,
    work::{COLD_FILES, Place, Work},
};
use crate::process::{command, output, run};

/// Where the work is done: a file system in memory.
const ROOT: &str = "/bench";
const DEPTHS: [usize; 3] = [2, 8, 32];
/// How many rules the policies have.
pub const RULES: [u32; 3] = [10, 1_000, 10_000];
/// What Landlock gets, and what the goals are about.
pub const USUAL_RULES: u32 = 1_000;
/// Files of the repository that git looks at.
const TRACKED: u32 = 500;
/// How long an agent may take to come up under emulation.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is done where the number of rules could matter.
const PER_RULES: [Work; 4] = [Work::Open2, Work::Open8, Work::Open32, Work::Connect];
/// What processes do that are no agents.
const OUTSIDE: [Work; 8] = [
    Work::Open2,
    Work::Open8,
    Work::Stat,
    Work::Read,
    Work::Write,
    Work::Connect,
    Work::Rename,
    Work::Exec,
];

/// What one process measures.
#[derive(Args)]
pub struct Measure {
    /// Under Landlock, with this many rules
    #[arg(long)]
    landlock: Option<u32>,
    works: Vec<Work>,
}

/// A line of what [`Measure`] prints.
#[derive(Serialize, Deserialize)]
struct Measured {
    work: Work,
    instructions: u64,
}

impl Measure {
    pub fn run(&self) -> Result<()> {
        if let Some(rules) = self.landlock {
            let open = ["/bench", "/usr", "/etc", "/src", "/proc", "/sys", "/dev", "/lib64"];
            landlock::restrict(&open.map(Path::new), (0..rules).map(policy::directory))?;
        }
        for work in &self.works {
            let instructions = count::instructions(*work, &Place::new(Path::new(ROOT)))
                .with_context(|| format!("{work:?}"))?;
            println!("{}", serde_json::to_string(&Measured { work: *work, instructions })?);
        }
        Ok(())
    }
}

/// Measures everything and writes it to `to`.
pub fn run_all(to: &Path) -> Result<()> {
    lay_out()?;
    undisturbed()?;
    let mut figures = Vec::new();
    let mut add = |setting: Setting, works: &[Work], guard: Option<&Path>| -> Result<()> {
        eprintln!("measuring {setting:?}");
        let measured = measure(setting, works, guard);
        for Measured { work, instructions } in measured.with_context(|| format!("{setting:?}"))? {
            figures.push(Figure { work, setting, instructions });
        }
        Ok(())
    };
    let all = Work::value_variants();
    let without_denials: Vec<Work> =
        all.iter().copied().filter(|work| *work != Work::Deny).collect();
    add(Setting::Bare, &without_denials, None)?;
    let landlocked: Vec<Work> =
        without_denials.iter().copied().filter(|work| *work != Work::Connect).collect();
    add(Setting::Landlock { rules: USUAL_RULES }, &landlocked, None)?;

    let policies = tempfile::tempdir()?;
    let path = |rules: u32| policies.path().join(format!("{rules}.yaml"));
    for rules in RULES {
        fs::write(path(rules), policy::text(rules))?;
    }
    let _holder = Holder::start(&path(10))?;
    add(Setting::Outsider, &OUTSIDE, None)?;
    for rules in RULES {
        let works = if rules == USUAL_RULES { all } else { &PER_RULES };
        add(Setting::Agent { rules }, works, Some(&path(rules)))?;
    }
    let kernel = uname().release().to_string_lossy().into_owned();
    let date = output(Command::new("date").args(["--utc", "+%Y-%m-%d"]))?.trim().to_owned();
    Figures { kernel, date, figures }.write(to)
}

/// An agent that does nothing, so that the guard's programs are in the kernel.
struct Holder(Child);

impl Holder {
    fn start(policy: &Path) -> Result<Self> {
        let sign = PathBuf::from(ROOT).join("holder");
        let script = format!("echo up > {}; exec sleep 100000", sign.display());
        let child = agent(policy).args(["/bin/sh", "-c", &script]).stdin(Stdio::null()).spawn()?;
        let mut holder = Self(child);
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

impl Drop for Holder {
    fn drop(&mut self) {
        // The guest ends soon anyway.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn agent(policy: &Path) -> Command {
    let mut guard = Command::new("agent-guard");
    guard.args(["run", "--tier", "lsm", "--policy"]).arg(policy);
    guard.arg("--");
    guard
}

fn measure(setting: Setting, works: &[Work], policy: Option<&Path>) -> Result<Vec<Measured>> {
    let own = std::env::current_exe().context("the path of this program")?;
    let mut child = match policy {
        Some(policy) => {
            let mut guard = agent(policy);
            // A terminal would be slow to tell of denials on.
            guard.args(FIRST).stderr(Stdio::null());
            guard
        }
        None => command(FIRST[0], &FIRST[1..]),
    };
    child.arg(own);
    child.arg("bench-work");
    if let Setting::Landlock { rules } = setting {
        child.args(["--landlock", &rules.to_string()]);
    }
    for work in works {
        let value = work.to_possible_value().context("a work without a name")?;
        child.arg(value.get_name());
    }
    let lines = output(&mut child)?;
    lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Makes every file that the works want.
fn lay_out() -> Result<()> {
    fs::create_dir_all(ROOT)?;
    mount("tmpfs", ROOT, "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>)?;
    let place = Place::new(Path::new(ROOT));
    for depth in DEPTHS {
        fs::create_dir_all(place.directory(depth))?;
        fs::write(place.file(depth), "x")?;
        for n in 0..COLD_FILES {
            fs::write(place.cold(depth, n), "x")?;
        }
    }
    let denied = place.denied();
    fs::create_dir_all(denied.parent().context("a directory")?)?;
    fs::write(denied, "x")?;
    for n in 0..USUAL_RULES {
        fs::create_dir_all(policy::directory(n))?;
    }
    let repository = place.repository();
    for n in 0..TRACKED {
        let directory = repository.join(format!("part-{}", n % 25));
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(format!("file-{n}")), format!("{n}\n"))?;
    }
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=bench", "-c", "user.email=bench@example.org", "-c"]);
        git.args(["init.defaultBranch=main"]).args(arguments).current_dir(&repository);
        run(git.env("HOME", &repository).stdout(Stdio::null()))
    };
    git(&["init", "--quiet"])?;
    git(&["add", "."])?;
    git(&["commit", "--quiet", "--message=all"])
}

/// Lets what is measured run before all others: [`FIRST`]. Not the guard, which would keep the kernel's own
/// workers from what it waits for.
fn undisturbed() -> Result<()> {
    fs::write("/proc/sys/kernel/sched_rt_runtime_us", "-1")?;
    setrlimit(Resource::Rtprio, Rlimit { current: Some(1), maximum: Some(1) })?;
    Ok(())
}

/// Runs the program behind it so that who reads its events does not interrupt it. An agent may ask for that by its
/// limit, without the capability.
const FIRST: [&str; 3] = ["chrt", "--fifo", "1"];
