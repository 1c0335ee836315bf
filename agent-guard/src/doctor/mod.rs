//! `agent-guard doctor`: what this kernel offers, probed; the tier that this gives; and the remedy for
//! each no.
//!
//! The canaries answer: each tier is put in force for a moment, for nobody but a canary in a cgroup of
//! its own. The probes explain that answer. Nothing on the host is changed and nothing stays behind.

mod cgroups;
mod coverage;
mod finding;
mod host;
mod programs;
mod report;
mod security;
mod tiers;

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use anyhow::Context;

use crate::cli::output::{self, Format};

use self::{
    host::{Kernel, Privileges},
    report::{Report, Style},
};

/// The arguments of `agent-guard doctor`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct DoctorArgs {
    /// How the report is written.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// Writes the report to standard output. Success means that a tier which enforces passed its canary.
pub fn run(format: Format) -> anyhow::Result<ExitCode> {
    let report = examine().context("this process could not learn its own privileges")?;
    output::print(format, &report, || report.table(style()))?;
    Ok(if report.enforces { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn examine() -> io::Result<Report> {
    let kernel = Kernel::running();
    let privileges = Privileges::of_this_process()?;
    let allowed = privileges.suffice_to_load();
    let hooks = programs::load_each(allowed);
    let (cgroup_findings, own_cgroup) = cgroups::findings();

    let mut probes = vec![kernel.architecture()];
    probes.extend(privileges.findings());
    probes.extend(host::types());
    probes.push(host::jit());
    probes.extend(security::findings(programs::lsm_refusal(&hooks)));
    probes.extend(cgroup_findings);
    probes.push(host::loopback());
    probes.extend(programs::summary(&hooks));

    let canaries = tiers::send_canaries(own_cgroup.as_ref(), allowed);
    Ok(conclude(kernel, probes, hooks, &canaries))
}

/// What follows from what was found.
fn conclude(
    kernel: Kernel,
    probes: Vec<finding::Finding>,
    hooks: Vec<programs::HookFinding>,
    canaries: &[(crate::tier::Tier, tiers::Canary)],
) -> Report {
    let tiers = tiers::judge(canaries, &probes);
    let tier = tiers::strongest(&tiers);
    let coverage = tier.map(coverage::of).unwrap_or_default();
    Report {
        kernel,
        tier,
        enforces: tier.is_some_and(tiers::enforces),
        tiers,
        probes,
        hooks,
        coverage,
    }
}

fn style() -> Style {
    let stdout = io::stdout();
    let terminal = stdout.is_terminal();
    let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let size = rustix::termios::tcgetwinsize(&stdout).ok().filter(|size| size.ws_col > 0);
    Style {
        colour: terminal && !forbidden,
        width: size.map_or(100, |size| usize::from(size.ws_col)),
    }
}

#[cfg(test)]
mod tests;
