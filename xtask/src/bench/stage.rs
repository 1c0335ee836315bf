//! The measuring in a guest: the same work bare, under Landlock, as an agent, as one of many, and beside one.

use std::{env, path::PathBuf, time::Instant};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum as _};
use rustix::{
    mount::{MountFlags, mount},
    process::{Resource, Rlimit, setrlimit},
};

use super::{
    count::Clock,
    figures::{Figures, Setting},
    measure::Bench,
    place::{self, Place},
    policy::{MANY, RULES, USUAL},
    work::Work,
};

/// What is done where the number of rules could matter.
const PER_RULES: [Work; 4] = [Work::Open2, Work::Open8, Work::Open32, Work::Connect];
/// What is done where the number of agents could matter.
const PER_AGENTS: [Work; 3] = [Work::Open2, Work::Open8, Work::Connect];
/// How many agents are many.
pub const AGENTS: u32 = 1_000;
/// What processes do that are no agents.
const OUTSIDE: [Work; 10] = [
    Work::Open2,
    Work::Open8,
    Work::Stat,
    Work::Read,
    Work::Write,
    Work::Connect,
    Work::Rename,
    Work::Exec,
    Work::Run,
    Work::Bubblewrap,
];
/// What a change of the code could make dearer and can be told soon.
const SHORT: [Work; 7] =
    [Work::Open2, Work::Open8, Work::Cold8, Work::Connect, Work::Exec, Work::Deny, Work::Rename];
/// The same, beside an agent.
const SHORT_OUTSIDE: [Work; 3] = [Work::Open2, Work::Open8, Work::Stat];

/// What is measured in the guest.
#[derive(Args)]
pub struct Stage {
    /// Only what tells soon
    #[arg(long)]
    short: bool,
    /// The program of benches/figures
    #[arg(long)]
    own_side: PathBuf,
    /// Where the figures go
    #[arg(long)]
    to: PathBuf,
}

impl Stage {
    pub fn run(&self) -> Result<()> {
        let place = Place::in_guest();
        prepare(&place)?;
        let mut bench = Bench {
            place,
            figures: Figures::here(Clock::Instructions)?,
            program: env::current_exe().context("the path of this program")?,
            own_side: self.own_side.clone(),
            path: env::var_os("PATH").context("PATH is not set")?,
            begun: Instant::now(),
        };
        if self.short {
            short(&mut bench)?
        } else {
            everything(&mut bench)?
        }
        bench.figures.write(&self.to)
    }
}

fn short(bench: &mut Bench) -> Result<()> {
    let bare = SHORT.map(Work::without_guard);
    bench.measure(Setting::Bare, &[&bare[..], &SHORT_OUTSIDE].concat())?;
    bench.measure_own_side(Setting::Bare, &["events"])?;
    let _holder = bench.hold()?;
    bench.measure(Setting::Beside, &SHORT_OUTSIDE)?;
    bench.measure(Setting::Agent { rules: USUAL }, &SHORT)
}

fn everything(bench: &mut Bench) -> Result<()> {
    let by_calls = |work: &Work| !NOT_HERE.contains(work) && !work.is_of_own_side();
    let all: Vec<Work> = Work::value_variants().iter().copied().filter(by_calls).collect();
    let but = |left_out: &[Work]| -> Vec<Work> {
        all.iter().copied().filter(|work| !left_out.contains(work)).collect()
    };
    bench.measure(Setting::Bare, &but(&[Work::Deny]))?;
    bench.measure_own_side(Setting::Bare, &["events"])?;
    for rules in RULES {
        let setting = Setting::Landlock { rules };
        match rules {
            USUAL => bench.measure(setting, &but(&[Work::Deny, Work::Connect]))?,
            _ => bench.measure(setting, &PER_RULES[..3])?,
        }
    }

    let _holder = bench.hold()?;
    bench.measure(Setting::Beside, &OUTSIDE)?;
    let policy = bench.place.policy(MANY).display().to_string();
    let tier = bench.place.tier();
    bench.measure_own_side(Setting::Beside, &["policy", &policy, "--tier", tier])?;
    for rules in RULES {
        let works = if rules == USUAL { &all[..] } else { &PER_RULES };
        bench.measure(Setting::Agent { rules }, works)?;
    }
    // With the holder and the one that is measured there are as many as it says.
    bench.crowd(AGENTS - 2)?;
    bench.measure(Setting::Crowd { agents: AGENTS }, &PER_AGENTS)
}

/// What is the guard itself and its like, and what guests do not have.
const NOT_HERE: [Work; 3] = [Work::Run, Work::Bubblewrap, Work::Npm];

/// Makes every file that the work wants, and lets what is measured run before all others. Not the guard, which would
/// keep the kernel's own workers from what it waits for.
fn prepare(place: &Place) -> Result<()> {
    std::fs::create_dir_all(place.root())?;
    mount("tmpfs", place.root(), "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>)?;
    place.lay_out(None)?;
    place.lay_out_files()?;
    place::lay_out_rules()?;
    std::fs::write("/proc/sys/kernel/sched_rt_runtime_us", "-1")?;
    setrlimit(Resource::Rtprio, Rlimit { current: Some(1), maximum: Some(1) })?;
    Ok(())
}
