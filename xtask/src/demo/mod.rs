//! The demo: a small agent under the shipped policy, and an account of what it could and could not
//! do.

mod account;
mod events;
mod network;
mod scratch;
mod stage;
mod steps;
mod transcript;

use std::{
    env, fs,
    io::stdout,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use self::stage::{DEGRADED, POLICY, Stage, tell};
use crate::{
    build,
    process::say,
    setup,
    toolchain::Rustc,
    vm::{self, Guest, Kernel, PROGRAMS},
};

/// Below the root of the repository.
const EVENTS_DIR: &str = "target/demo";
const EVENTS_FILE: &str = "events.jsonl";
/// The tier that the guest is to have.
const GUEST_TIER: &str = "lsm";

/// See it work: a small agent under policies/coding-agent.yaml; sets up what it needs first
///
/// A shell script plays the agent. It fetches from an address that the policy allows and from one
/// that it does not, runs programs, works on files, and tries the SSH key, the .env file and the
/// cloud credentials: by name, by a symbolic link and by /proc/self/root. It runs twice: first
/// without agent-guard, to show that every step works, then under it. The account at the end is
/// made from the events that agent-guard wrote, and held against what the policy says and what the
/// agent saw: exit status 1 where they differ.
///
/// Home, workspace and secrets are made up, in a directory in /tmp that is removed at the end, and
/// the servers are in a network namespace of the demo's own. Needs root.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask demo                     on this kernel, at the strongest tier it offers
  cargo xtask demo --vm                at tier lsm, on Debian's 6.12 kernel in QEMU
  cargo xtask demo --vm --kernel 6.1   the same on another kernel

Tiers: at `lsm` a denied call fails; at `trace` a denied connection fails, and a denied open or exec
kills the process. Which one a host offers, and why not more, says `agent-guard doctor`.

The agent is xtask/src/demo/workload.sh. The events stay in target/demo.")]
pub struct Demo {
    /// In a virtual machine with a stock Debian kernel, at tier lsm
    #[arg(long)]
    vm: bool,
    /// The virtual machine's kernel: 6.1, 6.12 or 7.2
    #[arg(long, requires = "vm", default_value = "6.12")]
    kernel: Kernel,
}

impl Demo {
    /// Gives the exit status.
    pub fn run(self) -> Result<u8> {
        if !self.vm && !rustix::process::geteuid().is_root() {
            bail!("the demo loads programs into the kernel and needs root: try again as root");
        }
        let rustc = setup::setup()?;
        say("Building agent-guard (the first time, this takes some minutes)");
        let agent_guard = build::agent_guard(&rustc)?;
        if self.vm { in_guest(&rustc, self.kernel) } else { on_host(agent_guard) }
    }
}

fn on_host(agent_guard: PathBuf) -> Result<u8> {
    let root = build::root()?;
    let events = events_in(&root.join(EVENTS_DIR))?;
    let shown = agent_guard.strip_prefix(&root).unwrap_or(&agent_guard).display().to_string();
    let stage = Stage { root, agent_guard, tier: "auto".to_owned(), events: events.clone() };
    let status = judge(&stage.play()?);
    tell_next(
        &events,
        &[
            (format!("{shown} doctor"), "what this host can enforce, and why not more"),
            (
                format!("{shown} policy explain {POLICY} --open ~/.ssh/id_ed25519"),
                "what the policy says",
            ),
            (
                format!("{shown} run --policy {POLICY} {} -- sh", DEGRADED.join(" ")),
                "be the agent: a shell under guard",
            ),
            ("cargo xtask demo --vm".to_owned(), "the same at tier lsm, in a virtual machine"),
        ],
    );
    Ok(status)
}

fn in_guest(rustc: &Rustc, kernel: Kernel) -> Result<u8> {
    let share = build::root()?.join(EVENTS_DIR).join("vm");
    let events = events_in(&share)?;
    say(format!("Booting Linux {kernel} in QEMU (emulated; a minute or two)"));
    let guest = Guest {
        kernel,
        append: String::new(),
        icount: false,
        share: Some(share),
        timeout: vm::TIMEOUT,
        programs: Vec::new(),
        command: ["xtask", "demo-stage"].map(Into::into).into(),
    };
    let status = guest.run(rustc, stdout())?;
    let kernel_option = format!("cargo xtask vm --kernel {kernel} --");
    tell_next(
        &events,
        &[
            (format!("{kernel_option} agent-guard doctor"), "what that kernel can enforce"),
            (
                format!("{kernel_option} agent-guard run --policy {POLICY} -- cat /etc/shadow"),
                "an agent of your own",
            ),
            ("cargo xtask demo".to_owned(), "the same on this host, at the tier it offers"),
        ],
    );
    Ok(u8::from(status != 0))
}

/// Plays in the guest, in which the repository is the working directory. Gives the exit status.
pub fn in_the_guest() -> Result<u8> {
    let stage = Stage {
        root: env::current_dir()?,
        agent_guard: Path::new(PROGRAMS).join("agent-guard"),
        tier: GUEST_TIER.to_owned(),
        events: Path::new("/share").join(EVENTS_FILE),
    };
    Ok(judge(&stage.play()?))
}

/// The exit status for an account with these problems, which it prints.
fn judge(problems: &[String]) -> u8 {
    if problems.is_empty() {
        tell("Every step ended as the policy says.");
        return 0;
    }
    tell("NOT AS IT SHOULD BE:");
    for problem in problems {
        tell(&format!("  - {problem}"));
    }
    tell(&format!(
        "If you have changed {POLICY}, that is why; if not, this is a bug in agent-guard."
    ));
    1
}

fn events_in(dir: &Path) -> Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    Ok(dir.join(EVENTS_FILE))
}

fn tell_next(events: &Path, next: &[(String, &str)]) {
    tell(&format!("\nThe events, in OCSF, a JSON object a line: {}", events.display()));
    tell("Next:");
    for (command, why) in next {
        tell(&format!("  {command}\n      {why}"));
    }
}
