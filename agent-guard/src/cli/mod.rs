//! The command line: what is asked for, and the exit code of the answer.

mod audit;
mod control;
mod daemon;
mod diff;
mod events;
mod expect;
mod generate;
pub(crate) mod output;
mod policy;
mod recordings;
mod run;
mod shell;
mod top;

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::{
    canary::{self, Probe},
    doctor::{self, DoctorArgs},
};

/// Exit code where the guard itself failed.
const GUARD_FAILED: u8 = 125;

/// Runtime monitor and enforcer for AI agents, in the kernel.
///
/// Every connect, exec and file open of an agent is decided against its policy before it happens, and
/// every decision becomes an event.
#[derive(Debug, Parser)]
#[command(name = "agent-guard", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  agent-guard doctor                                    what this host can enforce
  agent-guard run -- python3 agent.py                   the built-in policy, for this directory
  agent-guard run --policy p.yaml --events e.jsonl -- bash
  agent-guard daemon                                    every workload that a policy selects
  agent-guard policy check p.yaml
  agent-guard policy explain p.yaml --open /root/.ssh/id_rsa";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    /// Show what this host can enforce, why not more, and the remedy
    Doctor(DoctorArgs),
    /// Look after agents whose guard was killed: they stay confined, and this reads their events
    Adopt,
    Daemon(daemon::DaemonArgs),
    /// Show what the daemon has in force, read back from the kernel; exits 1 where something is amiss
    Status(control::Target),
    /// List the workloads under guard, and those that a policy is for and that are not; exits 1 where there are such
    Agents(control::Target),
    Events(events::EventArgs),
    Top(top::TopArgs),
    /// Check a policy file, or ask what it says; load and unload policies of the daemon
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Verify the tamper-evident audit log, print its newest checkpoint, draw its key
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    Completions(shell::CompletionsArgs),
    #[command(hide = true)]
    Man(shell::ManArgs),
    /// The live canary's own side
    #[command(hide = true)]
    Canary {
        probe: Probe,
        cgroup: PathBuf,
    },
    /// What the canary runs to see whether it may
    #[command(hide = true)]
    CanaryTarget,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // What the programs in the kernel and the loader say for those who look into a fault.
    let level = if matches!(cli.command, Command::Daemon(_)) { "info" } else { "warn" };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            EnvFilter::try_from_env("AGENT_GUARD_LOG").unwrap_or_else(|_| EnvFilter::new(level)),
        )
        .init();
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(Failure { report, code }) => {
            // Whoever closed stderr still gets the exit code.
            let _ = writeln!(std::io::stderr(), "agent-guard: {report}");
            ExitCode::from(code)
        }
    }
}

/// What is printed on stderr, and the exit code.
struct Failure {
    report: String,
    code: u8,
}

impl Failure {
    fn new(error: &anyhow::Error, code: u8) -> Self {
        Self { report: format!("{error:#}"), code }
    }

    /// An error that points into a policy file.
    fn diagnostic(error: impl miette::Diagnostic + Send + Sync + 'static, code: u8) -> Self {
        Self { report: format!("{:?}", miette::Report::new(error)), code }
    }
}

/// Success where it was done.
fn done(result: anyhow::Result<()>) -> Result<ExitCode, Failure> {
    amiss(result.map(|()| true))
}

/// Success where nothing is amiss.
fn amiss(well: anyhow::Result<bool>) -> Result<ExitCode, Failure> {
    match well {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
        Err(error) => Err(Failure::new(&error, 1)),
    }
}

fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Run(args) => run::run(args).map(ExitCode::from),
        Command::Doctor(args) => doctor::run(args.output).map_err(|error| Failure::new(&error, 1)),
        Command::Adopt => crate::run::adopt_all()
            .map(|()| ExitCode::SUCCESS)
            .map_err(|error| Failure::new(&error, 1)),
        Command::Daemon(args) => daemon::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Status(target) => amiss(control::status(&target)),
        Command::Agents(target) => amiss(control::agents(&target)),
        Command::Events(args) => events::run(&args),
        Command::Top(args) => done(top::run(&args)),
        Command::Policy(command) => policy::run(command),
        Command::Audit(command) => audit::run(&command),
        Command::Completions(args) => done(shell::completions(&args, &Cli::command())),
        Command::Man(args) => done(shell::man(&args, Cli::command())),
        Command::Canary { probe, cgroup } => Ok(canary::main(probe, &cgroup).into()),
        Command::CanaryTarget => Ok(ExitCode::SUCCESS),
    }
}
