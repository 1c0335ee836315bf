//! `agent-guard run`

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use agent_guard_common::decide::DNS_PORT;
use anyhow::Context;
use clap::{Args, ValueEnum};
use ipnet::IpNet;

use super::{Failure, GUARD_FAILED};
use crate::{
    dns::MAX_NAMESERVERS,
    guard::TierChoice,
    lack::Lack,
    policy::{Mode, Policy, PolicyName},
    run::{self, Settings},
    tier::Tier,
    workload::Terms,
};

/// Run a command under a policy, in a cgroup of its own
///
/// The command and everything that it starts is decided by the kernel until the command ends; what it
/// leaves behind is ended with it. A line on stderr tells of each denial and how to allow it.
///
/// Exits as the command did (128 + N for signal N), with 126 or 127 where it could not be run or found,
/// and with 125 where the guard itself failed and the command never started.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Policy file, `-` for stdin; without it the built-in one, with the current directory as workspace
    #[arg(long, short, value_name = "FILE")]
    policy: Option<PathBuf>,

    /// Name of the agent, for its events and its cgroup: a-z, 0-9 and -; by default the policy's name
    #[arg(long, value_name = "NAME", value_parser = policy_name)]
    agent: Option<PolicyName>,

    /// Carry denials out, or only record them; by default what the policy says
    #[arg(long, value_enum)]
    mode: Option<ModeArg>,

    /// How to enforce; `auto` takes the strongest tier that this host passes a live test of
    #[arg(long, value_enum, default_value_t = TierArg::Auto)]
    tier: TierArg,

    /// Write every decision as a line of OCSF JSON to this file (appended to), `-` for stdout
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,

    /// Name server that the DNS proxy asks, in place of those in /etc/resolv.conf; up to three
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = name_server)]
    dns_upstream: Vec<SocketAddr>,

    /// Network of your own that allowed host names may lead to; names that lead to internal addresses are
    /// otherwise not answered
    #[arg(long, value_name = "NETWORK")]
    dns_internal: Vec<IpNet>,

    /// Run although the tier lacks this, which the policy asks for (several with commas between); every
    /// event then says so
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',')]
    allow_degraded: Vec<Lack>,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArg {
    Enforce,
    Audit,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TierArg {
    Auto,
    Lsm,
    Trace,
    Observe,
}

/// Exit code of a wrong command line.
const WRONG_USAGE: u8 = 2;

fn name_server(text: &str) -> Result<SocketAddr, String> {
    let plain = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
    let server = plain.or_else(|_| text.parse::<SocketAddr>()).map_err(|_| {
        "a name server is an address, with a port where it is not 53: 192.0.2.1, 192.0.2.1:5353, [2001:db8::1]:5353"
            .to_owned()
    })?;
    if server.ip().is_unspecified() || server.port() == 0 {
        return Err("that is nobody's address".to_owned());
    }
    Ok(server)
}

pub(super) fn policy_name(text: &str) -> Result<PolicyName, String> {
    PolicyName::new(text).ok_or_else(|| {
        format!(
            "a name has 1 to {} of a-z, 0-9 and -, and neither starts nor ends with -",
            PolicyName::MAX
        )
    })
}

/// Runs the command; the exit code is its own.
pub fn run(args: RunArgs) -> Result<u8, Failure> {
    let (mut policy, policy_file) = load_policy(args.policy)?;
    if let Some(mode) = args.mode {
        policy.mode = match mode {
            ModeArg::Enforce => Mode::Enforce,
            ModeArg::Audit => Mode::Audit,
        };
    }
    if args.dns_upstream.len() > MAX_NAMESERVERS {
        let error = anyhow::anyhow!("--dns-upstream is given more than {MAX_NAMESERVERS} times");
        return Err(Failure::new(&error, WRONG_USAGE));
    }
    let failed = |error: anyhow::Error| Failure::new(&error, GUARD_FAILED);
    if !rustix::process::geteuid().is_root() {
        return Err(failed(anyhow::anyhow!(
            "`run` loads programs into the kernel and needs root; try `sudo agent-guard run …`"
        )));
    }
    let settings = Settings {
        terms: Terms {
            container: None,
            agent: args.agent.unwrap_or_else(|| policy.name.clone()).to_string(),
            policy: Arc::new(policy),
            policy_file,
            allow_degraded: args.allow_degraded,
            tell_allowed: args.events.is_some(),
            dns_upstreams: args.dns_upstream,
            dns_internal: args.dns_internal,
        },
        tier: match args.tier {
            TierArg::Auto => TierChoice::Auto,
            TierArg::Lsm => TierChoice::Only(Tier::Lsm),
            TierArg::Trace => TierChoice::Only(Tier::Trace),
            TierArg::Observe => TierChoice::Only(Tier::Observe),
        },
        events: args.events,
        command: args.command,
    };
    run::run(&settings).map_err(failed)
}

fn load_policy(file: Option<PathBuf>) -> Result<(Policy, String), Failure> {
    if let Some(file) = file {
        let policy =
            Policy::load(&file).map_err(|error| Failure::diagnostic(error, GUARD_FAILED))?;
        return Ok((policy, file.display().to_string()));
    }
    let policy = std::env::current_dir()
        .context("finding the current directory")
        .and_then(|directory| Ok(Policy::shipped(&directory)?))
        .map_err(|error| Failure::new(&error, GUARD_FAILED))?;
    Ok((policy, "policies/coding-agent.yaml, built in".to_owned()))
}
