//! Set-up, demo, tests and virtual machines of agent-guard.

fn main() {}
