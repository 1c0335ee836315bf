//! The record of what the verifier spends on each program: compared in guests, or made anew.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::{
    build,
    process::say,
    test::guest_command,
    toolchain::Rustc,
    vm::{Guest, Kernel, TIMEOUT},
};

/// Words in the name of the test that compares.
const TEST: &str = "costs the verifier more than the record";
/// The variable by which that test is told to write, and where.
const WRITE_TO: &str = "AGENT_GUARD_VERIFIER_RECORD_TO=/share";

/// Compares the costs on each of `kernels` with the record; where `write`, they are the record from here on.
pub fn run(rustc: &Rustc, kernels: &[Kernel], write: bool) -> Result<()> {
    let tests = build::enforce_tests(rustc)?;
    for kernel in kernels {
        say(format!("Costs of the programs on kernel {kernel}"));
        let share = tempfile::tempdir().context("a directory for the guest to write to")?;
        let mut command = guest_command(&tests, "lsm")?;
        if write {
            command.insert(1, WRITE_TO.into());
        }
        command.push(TEST.into());
        let guest = Guest {
            kernel: *kernel,
            append: String::new(),
            icount: false,
            share: write.then(|| share.path().to_owned()),
            timeout: TIMEOUT,
            programs: vec![tests.clone()],
            command,
        };
        let status = guest.run(rustc, std::io::stdout())?;
        if status != 0 {
            bail!("kernel {kernel}: the test ended with status {status}");
        }
        if write {
            let file = format!("{kernel}.txt");
            let to = build::root()?.join("tests/verifier").join(&file);
            fs::copy(share.path().join(&file), &to).with_context(|| to.display().to_string())?;
        }
    }
    Ok(())
}
