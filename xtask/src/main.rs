//! Set-up, demo, tests and virtual machines of agent-guard.

mod apt;
mod bench;
mod build;
mod deb;
mod demo;
mod fuzz;
mod lint;
mod process;
mod setup;
mod test;
mod toolchain;
mod verifier;
mod vm;

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{demo::Demo, vm::Kernel};

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
    Demo(Demo),
    /// Check format, lints (host and kernel side) and dependencies
    Lint,
    Test(Test),
    /// Fuzz what reads bytes of others, from the seeds in fuzz/seeds
    Fuzz {
        /// How long, for each target
        #[arg(long, value_name = "S", default_value_t = 60)]
        seconds: u64,
    },
    /// Compare what the verifier of each kernel spends on the programs with tests/verifier
    Verifier {
        /// Make the record anew
        #[arg(long)]
        write: bool,
        /// Only this kernel: 6.1, 6.12 or 7.2; may be repeated
        #[arg(long, value_name = "K")]
        kernel: Vec<Kernel>,
    },
    Bench(bench::Options),
    /// Build the Debian package, from a release build
    Deb {
        /// Pack this program in place of a release build
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
    },
    /// What continuous integration runs: `lint`, `fuzz` for a short time, and `test`
    Ci,
    Vm(Vm),
    /// What runs as process 1 of a guest
    #[command(hide = true)]
    Guest,
    /// The measuring, inside a guest
    #[command(hide = true)]
    BenchStage(bench::stage::Stage),
    /// One process that is measured
    #[command(hide = true)]
    BenchWork(bench::measure::Measure),
    /// The demo, inside a guest
    #[command(hide = true)]
    DemoStage,
}

/// Run every test, on this host and in virtual machines; sets up what it needs first
///
/// The tests of the workspace run here. Those that need a kernel run here at tier `trace` (as
/// root), in guests with each kernel at tier `lsm`, and in a guest whose boot line has no `bpf` at
/// tier `trace`. The last line is the sum: `N passed, N failed`. A guest that could not be booted
/// has failed.
#[derive(clap::Args)]
struct Test {
    /// Only what runs on this host
    #[arg(long)]
    host: bool,
    /// Only what runs in virtual machines
    #[arg(long)]
    vm: bool,
    /// Only virtual machines with this kernel: 6.1, 6.12 or 7.2; may be repeated
    #[arg(long, value_name = "K")]
    kernel: Vec<Kernel>,
}

impl Test {
    fn run(self) -> Result<u8> {
        let rustc = setup::setup()?;
        Ok(u8::from(!test::run_all(&rustc, &self.selection())?))
    }

    fn selection(self) -> test::Selection {
        let all = !self.host && !self.vm && self.kernel.is_empty();
        let kernels = match (self.kernel.is_empty(), self.vm || all) {
            (false, _) => self.kernel,
            (true, true) => Kernel::ALL.into(),
            (true, false) => Vec::new(),
        };
        test::Selection { host: self.host || all, kernels }
    }
}

/// How long each target is fuzzed where every change waits for it.
const FUZZ_IN_CI: u64 = 20;

/// Lints, fuzzes, and where nothing was found, runs every test.
fn ci() -> Result<u8> {
    let rustc = setup::setup()?;
    lint::run_all(&rustc)?;
    fuzz::run_all(&rustc, FUZZ_IN_CI)?;
    Test { host: false, vm: false, kernel: Vec::new() }.run()
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
        guest.run(&rustc, std::io::stdout())
    }
}

/// The kernels that were named, or every one.
fn or_all(kernels: Vec<Kernel>) -> Vec<Kernel> {
    if kernels.is_empty() { Kernel::ALL.into() } else { kernels }
}

fn main() -> ExitCode {
    let (done, failed) = match Cli::parse().task {
        Task::Setup => (setup::setup().map(|_| 0), 1),
        Task::Demo(demo) => (demo.run(), 1),
        Task::Lint => (setup::setup().and_then(|rustc| lint::run_all(&rustc)).map(|()| 0), 1),
        Task::Fuzz { seconds } => {
            (setup::setup().and_then(|rustc| fuzz::run_all(&rustc, seconds)).map(|()| 0), 1)
        }
        Task::Verifier { write, kernel } => {
            let run = |rustc| verifier::run(&rustc, &or_all(kernel), write);
            (setup::setup().and_then(run).map(|()| 0), 1)
        }
        Task::Bench(options) => (options.run(), 1),
        Task::Deb { program: Some(program) } => (deb::of(&program).map(|_| 0), 1),
        Task::Deb { program: None } => {
            (setup::setup().and_then(|rustc| deb::build(&rustc)).map(|_| 0), 1)
        }
        Task::BenchStage(stage) => (stage.run().map(|()| 0), 1),
        Task::BenchWork(measure) => (measure.run().map(|()| 0), 1),
        Task::Test(test) => (test.run(), 1),
        Task::Ci => (ci(), 1),
        Task::Vm(vm) => (vm.run(), VM_FAILED),
        Task::Guest => (vm::guest::main().map(|()| 0), 1),
        Task::DemoStage => (demo::in_the_guest(), 1),
    };
    done.map_or_else(
        |error| {
            eprintln!("xtask: {error:#}");
            ExitCode::from(failed)
        },
        ExitCode::from,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(words: &[&str]) -> (bool, Vec<Kernel>) {
        let words = ["xtask", "test"].iter().chain(words);
        let Task::Test(test) = Cli::parse_from(words).task else { panic!("not a test") };
        let selection = test.selection();
        (selection.host, selection.kernels)
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn options_narrow_what_is_tested() {
        assert_eq!(selected(&[]), (true, Kernel::ALL.into()));
        assert_eq!(selected(&["--host"]), (true, vec![]));
        assert_eq!(selected(&["--vm"]), (false, Kernel::ALL.into()));
        assert_eq!(selected(&["--kernel", "6.1"]), (false, vec![Kernel::V6_1]));
        assert_eq!(selected(&["--host", "--kernel", "7.2"]), (true, vec![Kernel::V7_2]));
    }

    #[test]
    fn words_after_the_dashes_belong_to_the_command() {
        let words = ["xtask", "vm", "--append", "lsm=landlock quiet", "--", "sh", "-c", "a b"];
        let Task::Vm(vm) = Cli::parse_from(words).task else { panic!("not a vm") };
        assert_eq!(vm.append, "lsm=landlock quiet");
        assert_eq!(vm.command, ["sh", "-c", "a b"]);
    }
}
