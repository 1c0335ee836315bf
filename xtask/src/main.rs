//! Set-up, demo, tests and virtual machines of agent-guard.

mod apt;
mod build;
mod process;
mod setup;
mod toolchain;
mod vm;

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::vm::Kernel;

/// Where a guest could not be run at all, as `agent-guard run` does.
const VM_FAILED: u8 = 125;

/// Everything a developer of agent-guard runs, from a fresh Debian machine on.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building and testing need (as root, on Debian); what is there is left alone
    Setup,
    Vm(Vm),
    /// What runs as process 1 of a guest
    #[command(hide = true)]
    Guest,
}

/// Run a command in a virtual machine with a stock Debian kernel
///
/// The guest is fresh each time. The repository is at /src, which is also the working directory,
/// and the release build of agent-guard is on PATH. The command runs as root without standard
/// input; its standard output, standard error and exit status become ours (128+N for signal N,
/// 124 when it took too long, 125 when no guest could be run).
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask vm -- uname -r
  cargo xtask vm --kernel 6.1 -- sh -c 'agent-guard doctor; echo $?'
  cargo xtask vm --append lsm=landlock,yama,apparmor -- cat /sys/kernel/security/lsm
  cargo xtask vm --share out -- sh -c 'dmesg > /share/dmesg'")]
struct Vm {
    /// The kernel: 6.1, 6.12 or 7.2
    #[arg(long, default_value = "6.12")]
    kernel: Kernel,
    /// Words to add to the kernel's command line
    #[arg(long, value_name = "KERNEL_ARGS", default_value = "", allow_hyphen_values = true)]
    append: String,
    /// Let guest time count instructions: the same figures every time, on one processor
    #[arg(long)]
    icount: bool,
    /// A directory to have at /share; what changed is copied back at the end (regular files,
    /// directories and symbolic links, without extended attributes; 1 GiB may be added)
    #[arg(long, value_name = "DIR")]
    share: Option<PathBuf>,
    /// How long the command may take, in seconds
    #[arg(long, value_name = "S", default_value_t = vm::TIMEOUT.as_secs())]
    timeout: u64,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Vm {
    fn run(self) -> Result<u8> {
        let rustc = setup::setup()?;
        let guest = vm::Guest {
            kernel: self.kernel,
            append: self.append,
            icount: self.icount,
            share: self.share,
            timeout: Duration::from_secs(self.timeout),
            programs: Vec::new(),
            command: self.command,
        };
        guest.run(&rustc)
    }
}

fn main() -> ExitCode {
    let (done, failed) = match Cli::parse().task {
        Task::Setup => (setup::setup().map(|_| 0), 1),
        Task::Vm(vm) => (vm.run(), VM_FAILED),
        Task::Guest => (vm::guest::main().map(|()| 0), 1),
    };
    done.map_or_else(
        |error| {
            eprintln!("xtask: {error:#}");
            ExitCode::from(failed)
        },
        ExitCode::from,
    )
}
