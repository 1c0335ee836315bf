//! The measuring on this host: in time, at tier `trace`, which is what a host under lockdown offers.

use std::{env, fs, path::Path, time::Instant};

use anyhow::{Context as _, Result, bail};

use super::{
    count::Clock,
    figures::{Figures, Setting},
    measure::Bench,
    mirror::Mirror,
    place::Place,
    policy::{MANY, USUAL},
    rust,
    work::Work,
};
use crate::{build, process::say, toolchain::Rustc};

/// Turns of which the shortest times count. Bare work and agent take turns, so that what else the host does hits
/// both.
const TURNS: usize = 5;
/// Single calls, and programs.
const WORKS: [Work; 9] = [
    Work::Open8,
    Work::Stat,
    Work::Read,
    Work::Exec,
    Work::Git,
    Work::Python,
    Work::Compile,
    Work::Cargo,
    Work::Npm,
];

/// Where the programs of guards are pinned.
const PINS: &str = "/sys/fs/bpf/agent-guard";

/// Fails where programs of a guard are in this host's kernel: what they cost would be taken for bare.
pub fn is_bare() -> Result<()> {
    if Path::new(PINS).exists() {
        bail!(
            "an agent runs on this host, and its programs would be counted as bare: end it, or measure guests alone with --kernel"
        );
    }
    Ok(())
}

/// Measures on this host.
pub fn measure(rustc: &Rustc) -> Result<Figures> {
    is_bare()?;
    say("Measuring time on this host");
    let agent_guard = build::agent_guard(rustc)?;
    let directory = tempfile::tempdir().context("a directory to work in")?;
    let packages = tempfile::tempdir().context("a directory for packages")?;
    let mirror = Mirror::start(packages.path())?;
    let place = Place::on_host(directory.path(), &rust::sysroot()?);
    place.lay_out(Some(&mirror))?;
    place.lay_out_files()?;
    let beside = agent_guard.parent().context("a directory")?.to_owned();
    let before = env::var_os("PATH").context("PATH is not set")?;
    let program = directory.path().join("xtask");
    fs::copy(build::xtask(rustc)?, &program).context("copying xtask")?;
    let mut bench = Bench {
        place,
        program,
        figures: Figures::here(Clock::Nanoseconds)?,
        own_side: build::bench(rustc)?,
        path: env::join_paths([beside].into_iter().chain(env::split_paths(&before)))?,
        begun: Instant::now(),
    };
    for _ in 0..TURNS {
        is_bare()?;
        bench.measure(Setting::Bare, &WORKS)?;
        bench.measure(Setting::Agent { rules: USUAL }, &WORKS)?;
        bench.measure(Setting::Bare, &[Work::Connect])?;
        bench.measure(Setting::Agent { rules: MANY }, &[Work::Connect])?;
    }
    bench.measure_own_side(Setting::Bare, &["events"])?;
    let _holder = bench.hold()?;
    bench.measure(Setting::Beside, &[Work::Run, Work::Bubblewrap])?;
    let policy = bench.place.policy(MANY).display().to_string();
    let tier = bench.place.tier();
    bench.measure_own_side(Setting::Beside, &["policy", &policy, "--tier", tier])?;
    Ok(bench.figures)
}
