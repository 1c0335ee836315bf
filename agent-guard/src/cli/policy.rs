//! `agent-guard policy`

use std::{io::Write, path::PathBuf, process::ExitCode};

use agent_guard_common::{event::Operation, table::Effect};
use clap::{Args, Subcommand, ValueEnum};

use super::{
    Failure, amiss,
    control::{self, Target},
    diff, done, expect, generate,
};
use crate::event::words;
use crate::policy::{
    AccessSet, Policy, PolicyName,
    compile::{Environment, Filesystems, HostLinks, compile},
    explain::{
        Explanation, explain_connect, explain_exec, explain_listen, explain_open,
        explain_operation, explain_unix,
    },
    pinned,
};

/// Exit code of a policy that is refused, and of a question that the policy answers with a denial.
const REFUSED: u8 = 1;

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Check a policy: every problem with its place and its fix; exits 1 where there is one
    ///
    /// Beyond its form, the policy is compiled: symbolic links in paths are followed, and what does not fit the kernel's tables is told. Needs no root.
    Check {
        /// Policy file, `-` for stdin
        file: PathBuf,
    },
    Explain(ExplainArgs),
    Diff(diff::DiffArgs),
    Test(expect::TestArgs),
    Generate(generate::GenerateArgs),
    /// List the daemon's policies, and files that are none; exits 1 where there are such
    List(Target),
    /// Print the text of a policy of the daemon
    Show {
        /// Its `metadata.name`
        #[arg(value_parser = super::run::policy_name)]
        name: PolicyName,
        #[command(flatten)]
        target: Target,
    },
    /// Put a policy in force: kept in the daemon's directory, and read back from the kernel
    ///
    /// Where it does not come into force, for whichever workload, the one before it stays.
    Load {
        /// Policy file, `-` for stdin
        file: PathBuf,
        #[command(flatten)]
        target: Target,
    },
    /// Take a policy out of the daemon's directory; workloads that run under it stay so until they end
    Unload {
        /// Its `metadata.name`
        #[arg(value_parser = super::run::policy_name)]
        name: PolicyName,
        #[command(flatten)]
        target: Target,
    },
}

/// Ask what a policy says, by the same decision that the kernel makes; needs no root
///
/// Exits 0 where every answer is allow, 1 where one is deny.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("question").required(true).multiple(true))]
pub struct ExplainArgs {
    /// Policy file, `-` for stdin
    file: PathBuf,

    /// Opening this file
    #[arg(long, value_name = "PATH", group = "question")]
    open: Vec<PathBuf>,

    /// What the files are opened for
    #[arg(long, value_enum, default_value_t = AccessArg::Read, requires = "open")]
    access: AccessArg,

    /// Connecting to HOST:PORT, with /udp for UDP
    #[arg(long, value_name = "HOST:PORT", group = "question")]
    connect: Vec<String>,

    /// Running this program
    #[arg(long, value_name = "PATH", group = "question")]
    exec: Vec<PathBuf>,

    /// Listening on ADDRESS:PORT of this host, with /udp for UDP
    #[arg(long, value_name = "ADDRESS:PORT", group = "question")]
    listen: Vec<String>,

    /// Connecting to a UNIX-domain socket of another: its path, or @ and its abstract name
    #[arg(long, value_name = "SOCKET", group = "question")]
    unix: Vec<String>,
    /// Doing this to the system or to a process outside, as `spec.system` calls it
    #[arg(long, value_name = "OPERATION", group = "question", value_parser = operation)]
    operation: Vec<Operation>,
}

fn operation(text: &str) -> Result<Operation, String> {
    let known = || Operation::ALL.iter().map(|one| words::operation(*one));
    let found = Operation::ALL.iter().find(|one| words::operation(**one) == text);
    found.copied().ok_or_else(|| format!("one of {}", known().collect::<Vec<_>>().join(", ")))
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AccessArg {
    Read,
    Write,
    ReadWrite,
}

pub fn run(command: PolicyCommand) -> Result<ExitCode, Failure> {
    match command {
        PolicyCommand::Check { file } => check(&file),
        PolicyCommand::Explain(args) => explain(&args),
        PolicyCommand::Test(args) => expect::run(&args),
        PolicyCommand::Diff(args) => diff::run(&args),
        PolicyCommand::Generate(args) => generate::run(&args),
        PolicyCommand::List(target) => amiss(control::list(&target)),
        PolicyCommand::Show { name, target } => done(control::show(&target, &name.to_string())),
        PolicyCommand::Load { file, target } => done(control::load(&target, &file)),
        PolicyCommand::Unload { name, target } => done(control::unload(&target, &name.to_string())),
    }
}

pub(super) fn load(file: &std::path::Path) -> Result<Policy, Failure> {
    Policy::load(file).map_err(|error| Failure::diagnostic(error, REFUSED))
}

fn check(file: &std::path::Path) -> Result<ExitCode, Failure> {
    let policy = load(file)?;
    let filesystems = Filesystems::lexical();
    let links = HostLinks::default();
    let environment = Environment { filesystems: &filesystems, links: &links };
    // Names collide by chance or not at all; a fixed key is no secret that this command needs.
    let mut compiled = compile(&policy, &environment, [1, 2])
        .map_err(|error| Failure::diagnostic(error, REFUSED))?;
    pinned::take(&policy, &environment, &mut compiled)
        .map_err(|error| Failure::diagnostic(error, REFUSED))?;
    for note in &compiled.notes {
        let kind = if note.is_warning() { "warning" } else { "note" };
        eprintln!("{kind}: {note}");
    }
    let rules = compiled.rules.len();
    say(&format!(
        "{}: policy {} is valid: {rules} rules, mode {}\n",
        file.display(),
        policy.name,
        policy.mode.name()
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn explain(args: &ExplainArgs) -> Result<ExitCode, Failure> {
    let policy = load(&args.file)?;
    let links = HostLinks::default();
    let access = match args.access {
        AccessArg::Read => AccessSet::Read,
        AccessArg::Write => AccessSet::Write,
        AccessArg::ReadWrite => AccessSet::ReadWrite,
    };
    let mut answers: Vec<Explanation> = Vec::new();
    let failed = |error| Failure::diagnostic(error, REFUSED);
    for path in &args.open {
        answers.push(explain_open(&policy, path, access, &links).map_err(failed)?);
    }
    for path in &args.exec {
        answers.push(explain_exec(&policy, path, &links).map_err(failed)?);
    }
    for endpoint in &args.connect {
        answers.push(explain_connect(&policy, endpoint).map_err(failed)?);
    }
    for address in &args.listen {
        answers.push(explain_listen(&policy, address).map_err(failed)?);
    }
    for socket in &args.unix {
        answers.push(explain_unix(&policy, socket, &links).map_err(failed)?);
    }
    for operation in &args.operation {
        answers.push(explain_operation(&policy, *operation).map_err(failed)?);
    }
    for answer in &answers {
        say(&answer.to_string())?;
    }
    let allowed = answers.iter().all(|answer| answer.decision.effect == Effect::Allow);
    Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}

/// Prints on stdout; a reader that has gone away ends the command without a fuss.
fn say(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(&anyhow::Error::new(error).context("writing to stdout"), REFUSED))
        }
        _ => Ok(()),
    }
}
