//! Virtual machines: a stock Debian kernel boots in QEMU with the release build in it, runs one
//! command, and its output and exit status come out as if it had run here.

mod boot;
mod cache;
pub mod guest;
mod image;
mod kernel;
mod share;

use std::{ffi::OsString, fs, os::fd::AsFd, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};

pub use self::kernel::Kernel;
use self::{boot::Outcome, cache::Cache};
use crate::{process::say, toolchain::Rustc};

/// How often a guest is booted before it is given up: boots fail now and then under emulation.
const BOOTS: u32 = 3;

/// One guest and what it is to run.
#[derive(Debug, Clone)]
pub struct Guest {
    pub kernel: Kernel,
    /// Added to the kernel's command line, last.
    pub append: String,
    /// Guest time counts instructions: slower, and the same figure every time.
    pub icount: bool,
    /// A directory that is `/share` in the guest.
    pub share: Option<PathBuf>,
    /// How long the command may take.
    pub timeout: Duration,
    /// Programs that lie beside `agent-guard` on the guest's PATH.
    pub programs: Vec<PathBuf>,
    pub command: Vec<OsString>,
}

/// Where the release build and [`Guest::programs`] are in the guest; on PATH.
pub const PROGRAMS: &str = "/src/target/release";
/// How long a command may take unless the caller says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(600);

impl Guest {
    /// Runs the command in a fresh guest and gives its exit status: 128+N where signal N ended it,
    /// 124 where it took too long. An error means that the guest could not be run.
    /// The command's standard output goes to `stdout`.
    pub fn run(&self, rustc: &Rustc, stdout: impl AsFd) -> Result<u8> {
        let agent_guard = crate::build::agent_guard(rustc)?;
        let cache = Cache::open()?;
        let kernel = kernel::image(&cache, self.kernel)?;
        let root = image::root(&cache)?;

        let scratch = tempfile::tempdir().context("a directory for the guest's disks")?;
        let source = scratch.path().join("source.img");
        let overlay = scratch.path().join(guest::OVERLAY);
        fs::copy(kernel::overlay(&cache, self.kernel)?, &overlay).context("the overlay module")?;
        let programs = self.programs.iter().chain([&agent_guard, &overlay]);
        image::source(&source, programs, &self.command)?;
        let share = self.share.as_deref().map(|dir| share::Share::new(dir, scratch.path()));
        let share = share.transpose()?;

        for attempt in 1..=BOOTS {
            let machine = boot::Machine {
                kernel: &kernel,
                processor: self.kernel.processor(),
                root: &root,
                source: &source,
                share: share.as_ref().map(share::Share::image),
                append: &self.append,
                icount: self.icount,
                scratch: scratch.path(),
            };
            let outcome = machine.run(self.timeout, &stdout)?;
            if let Outcome::NotUp { why, console } = &outcome {
                say(format!(
                    "the guest (kernel {}) did not come up on boot {attempt} of {BOOTS}: {why}\n{console}",
                    self.kernel
                ));
                continue;
            }
            // Whatever became of the command, what it wrote is wanted.
            let copied = share.as_ref().map_or(Ok(()), |share| share.copy_back());
            let status = outcome.status(self.timeout)?;
            copied.context("copying /share back")?;
            return Ok(status);
        }
        anyhow::bail!("the guest (kernel {}) did not come up in {BOOTS} boots", self.kernel)
    }
}
