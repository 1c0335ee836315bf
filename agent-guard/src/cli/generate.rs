//! `agent-guard policy generate`

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{Failure, output, recordings, run};
use crate::policy::{
    PolicyName,
    generate::{Generated, Settings, generate},
};

/// Exit code where there is no policy.
const FAILED: u8 = 1;

/// Make a policy from recorded events: tight, and such that the same run has no denial under it; needs no root
///
/// Record with `run --mode audit --events FILE` under a policy without rules, so that every action is told. The policy goes to stdout. What it leaves out (secrets, what was denied, what no rule can name) is listed on stderr and in its comments.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// File of events, `-` for stdin; may be repeated
    #[arg(long, required = true, value_name = "FILE")]
    from: Vec<PathBuf>,

    /// The policy's `metadata.name`
    #[arg(long, value_name = "NAME", default_value = "generated", value_parser = run::policy_name)]
    name: PolicyName,

    /// Only what this agent did
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,

    /// The directory that the agent worked in: keys that lie there (*.pem) are secrets too
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
}

/// Makes the policy.
pub fn run(args: &GenerateArgs) -> Result<ExitCode, Failure> {
    let failed = |error: anyhow::Error| Failure::new(&error, FAILED);
    let actions = recordings::actions(&args.from, args.agent.as_deref()).map_err(failed)?;
    let settings = Settings { name: args.name.clone(), workspace: args.workspace.clone() };
    let Generated { text, left_out, .. } =
        generate(&actions, &settings).map_err(|error| Failure::diagnostic(error, FAILED))?;
    if !left_out.is_empty() {
        eprintln!("agent-guard: left out, and so denied:");
    }
    for left in &left_out {
        eprintln!("  {} ({}): {}", left.question, left.events, left.why);
    }
    output::write(text.as_bytes()).map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}
