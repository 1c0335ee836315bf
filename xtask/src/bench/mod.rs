//! What a decision costs, in guest instructions: without a guard, with Landlock, and with agent-guard.

mod count;
mod figures;
mod goals;
mod landlock;
mod policy;
pub mod stage;
mod work;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};

use self::figures::Figures;
use crate::{
    build,
    process::say,
    toolchain::Rustc,
    vm::{Guest, Kernel},
};

/// Counting instructions makes a guest about three times slower.
const LIMIT: Duration = Duration::from_secs(1800);
const FILE: &str = "figures.json";

/// Measures on each of `kernels` and prints what came of it; where `write`, that is the record from here on.
pub fn run(rustc: &Rustc, kernels: &[Kernel], write: bool) -> Result<()> {
    for kernel in kernels {
        let figures = measure(rustc, *kernel)?;
        println!("{}", goals::table(&figures));
        if write {
            let to = record(*kernel)?;
            fs::create_dir_all(to.parent().context("a directory")?)?;
            figures.write(&to)?;
        }
    }
    Ok(())
}

/// Where the figures of a kernel are kept.
fn record(kernel: Kernel) -> Result<PathBuf> {
    Ok(build::root()?.join("tests/bench").join(format!("{kernel}.json")))
}

fn measure(rustc: &Rustc, kernel: Kernel) -> Result<Figures> {
    say(format!("Counting instructions on kernel {kernel} (some minutes)"));
    let share = tempfile::tempdir().context("a directory for the guest to write to")?;
    let guest = Guest {
        kernel,
        append: String::new(),
        icount: true,
        share: Some(share.path().to_owned()),
        timeout: LIMIT,
        programs: Vec::new(),
        command: ["xtask", "bench-stage"].map(Into::into).into(),
    };
    let status = guest.run(rustc, std::io::stdout())?;
    if status != 0 {
        bail!("kernel {kernel}: measuring ended with status {status}");
    }
    Figures::read(&share.path().join(FILE))
}

/// Measures in the guest.
pub fn in_the_guest() -> Result<()> {
    stage::run_all(&PathBuf::from("/share").join(FILE))
}
