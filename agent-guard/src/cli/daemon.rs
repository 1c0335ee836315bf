//! `agent-guard daemon`

use std::path::PathBuf;

use clap::Args;

use super::{Failure, GUARD_FAILED};
use crate::daemon::{
    self,
    config::{self, Config},
    host_view,
};

/// Guard every workload of this host that a policy selects, until told to end
///
/// Policies are the files of a directory, which is watched. What is in force stays so when the daemon ends or dies: the next one takes it over.
#[derive(Args, Debug)]
pub struct DaemonArgs {
    /// Configuration, as TOML; see docs/daemon.md
    #[arg(long, value_name = "FILE", default_value = config::PATH)]
    config: PathBuf,
    /// Enter the host's mounts and cgroup tree first: for a daemon in a container that has the host's process ids
    ///
    /// The configuration and the policy directory are the container's; every other path is the host's.
    #[arg(long)]
    enter_host: bool,
}

/// Runs the daemon.
pub fn run(args: &DaemonArgs) -> Result<(), Failure> {
    let failed = |error: &anyhow::Error| Failure::new(error, GUARD_FAILED);
    let mut config = Config::load(&args.config).map_err(|error| failed(&error.into()))?;
    if !rustix::process::geteuid().is_root() {
        return Err(failed(&anyhow::anyhow!(
            "`daemon` loads programs into the kernel and needs root"
        )));
    }
    match args.enter_host {
        true => host_view::enter(&mut config).map_err(|error| failed(&error))?,
        false => host_view::check(),
    }
    daemon::run(config).map_err(|error| failed(&error))
}
