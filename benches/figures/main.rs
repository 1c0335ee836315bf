//! What the guard's own side costs: from an event to its line, from a policy to the kernel's maps, and a host
//! full of agents. `cargo xtask bench` runs it, in guests that count instructions and here.

mod clock;
mod crowd;
mod events;
mod host;
mod policy;

use std::path::PathBuf;

use agent_guard::tier::Tier;
use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use crate::clock::Clock;

#[derive(Parser)]
struct Cli {
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
    /// What is counted
    #[arg(long, default_value = "nanoseconds")]
    clock: Clock,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// From the bytes of an event to a line of the log, beside `serde_json` writing the same line
    Events,
    /// From the text of a policy to tables, and where programs are in the kernel, into its maps
    Policy {
        /// The policy
        file: PathBuf,
        /// The tier whose programs are in the kernel
        #[arg(long)]
        tier: Option<TierName>,
    },
    /// Adds agents to the kernel's maps, and leaves them there
    Crowd {
        /// How many
        agents: u32,
        /// What each is judged by
        policy: PathBuf,
        /// The tier whose programs are in the kernel
        #[arg(long)]
        tier: TierName,
    },
    /// Starts the daemon with a host full of workloads, and tells what it takes
    Host {
        /// How many
        workloads: u32,
        /// Rules of the policy that all are under
        #[arg(long, default_value_t = 100)]
        rules: u32,
        /// The daemon's program
        #[arg(long)]
        program: PathBuf,
        /// The tier in force
        #[arg(long)]
        tier: TierName,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum TierName {
    Lsm,
    Trace,
}

impl From<TierName> for Tier {
    fn from(name: TierName) -> Self {
        match name {
            TierName::Lsm => Self::Lsm,
            TierName::Trace => Self::Trace,
        }
    }
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.what {
        None | Some(What::Events) => events::measure(cli.clock),
        Some(What::Policy { file, tier }) => {
            policy::measure(cli.clock, &file, tier.map(Tier::from))
        }
        Some(What::Crowd { agents, policy, tier }) => crowd::add(agents, &policy, tier.into()),
        Some(What::Host { workloads, rules, program, tier }) => {
            host::measure(&program, Tier::from(tier).name(), workloads, rules)
        }
    }
}
