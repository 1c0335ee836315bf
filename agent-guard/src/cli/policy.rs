//! `agent-guard policy`

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;

use super::Failure;
use crate::policy::Policy;

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Check a policy file: every problem with its place and its fix; exits 1 where there is one
    Check {
        /// Policy file, `-` for stdin
        file: PathBuf,
    },
}

/// Exit code of a policy that is refused.
const REFUSED: u8 = 1;

pub fn run(command: PolicyCommand) -> Result<ExitCode, Failure> {
    match command {
        PolicyCommand::Check { file } => {
            let policy =
                Policy::load(&file).map_err(|error| Failure::diagnostic(error, REFUSED))?;
            println!("{}: policy {} is valid", file.display(), policy.name);
            Ok(ExitCode::SUCCESS)
        }
    }
}
