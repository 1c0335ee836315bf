//! The `agent-guard` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent_guard::cli::main()
}
