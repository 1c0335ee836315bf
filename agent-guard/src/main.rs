//! The `agent-guard` command.
fn main() {}
