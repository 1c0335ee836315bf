//! What the verifier spends on each program, which `tests/verifier` records.
//!
//! It says so in a log, and aya hands logs on only with a refusal. So the programs are loaded by a process
//! that may open no more descriptors: the kernel verifies each, and then has none to give for it.

use std::io;

use agent_guard_common::hook::HookSpec;
use aya::{VerifierLogLevel, programs::ProgramError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::load::{self, LoadError, Prepared};
use crate::tier::Tier;

/// What the verifier spent on one program, the global functions that it calls included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Instructions that it went through, over all ways.
    pub instructions: u32,
    /// States that it kept, over all of the program.
    pub total_states: u32,
    /// States that it kept at once.
    pub peak_states: u32,
    /// Bytes of stack that each function uses, the program's own first.
    pub stack: Vec<u32>,
    /// Bytes of stack that functions use which call one another, at most; only recent kernels tell.
    pub chain: Option<u32>,
}

/// Why no costs are to be had.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    /// The kernel refused a program, or all.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// This process could not be kept from opening descriptors.
    #[error("the limit of descriptors could not be set: {0}")]
    Limit(#[from] rustix::io::Errno),
    /// The kernel told nothing that is known as statistics.
    #[error("the verifier's statistics on the program for {hook} make no sense: {log:?}")]
    Statistics {
        /// Kernel name of the hook.
        hook: &'static str,
        /// What it told.
        log: String,
    },
}

/// What each program of `tier` costs. For a process of one thread: until this returns, it can not open
/// anything.
pub fn costs(tier: Tier) -> Result<Vec<(&'static HookSpec, Cost)>, CostError> {
    let mut prepared = load::prepare(tier, VerifierLogLevel::STATS)?;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit })?;
    let costs = hooks_with_costs(tier, &mut prepared).collect();
    setrlimit(Resource::Nofile, limit)?;
    costs
}

fn hooks_with_costs(
    tier: Tier,
    prepared: &mut Prepared,
) -> impl Iterator<Item = Result<(&'static HookSpec, Cost), CostError>> {
    load::hooks_of(tier).filter_map(|spec| match prepared.prototypes.of(spec) {
        Ok(Some(_)) => Some(cost(prepared, spec).map(|cost| (spec, cost))),
        Ok(None) => None,
        Err(error) => Some(Err(LoadError::from(error).into())),
    })
}

fn cost(prepared: &mut Prepared, spec: &'static HookSpec) -> Result<Cost, CostError> {
    let log = match load::load_program(&mut prepared.ebpf, spec, &prepared.btf) {
        Err(LoadError::Program {
            source: ProgramError::LoadError { io_error, verifier_log },
            ..
        }) if is_out_of_descriptors(&io_error) => verifier_log.to_string(),
        Err(error) => return Err(error.into()),
        Ok(_) => String::new(),
    };
    Cost::from_log(&log).ok_or(CostError::Statistics { hook: spec.name, log })
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMFILE)
}

impl Cost {
    /// Reads the statistics at the end of the verifier's log:
    ///
    /// ```text
    /// stack depth 144+0+32 max 176
    /// processed 1234 insns (limit 1000000) max_states_per_insn 4 total_states 90 peak_states 60 mark_read 12
    /// ```
    fn from_log(log: &str) -> Option<Self> {
        let line = |start| log.lines().find_map(|line| line.trim().strip_prefix(start));
        let (processed, depth) = (line("processed ")?, line("stack depth ")?);
        let after = |line: &str, name| {
            line.split(' ').skip_while(|word| *word != name).nth(1)?.parse().ok()
        };
        let stack = depth.split(' ').next()?.split('+').map(str::parse);
        Some(Self {
            instructions: processed.split(' ').next()?.parse().ok()?,
            total_states: after(processed, "total_states")?,
            peak_states: after(processed, "peak_states")?,
            stack: stack.collect::<Result<_, _>>().ok()?,
            chain: after(depth, "max"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_from_the_log_and_from_nothing_else() {
        let log = "verification time 1042 usec\nstack depth 144+0+32\nprocessed 1234 insns (limit 1000000) max_states_per_insn 4 total_states 90 peak_states 60 mark_read 12\n";
        let cost = Cost {
            instructions: 1234,
            total_states: 90,
            peak_states: 60,
            stack: vec![144, 0, 32],
            chain: None,
        };
        assert_eq!(Cost::from_log(log), Some(cost.clone()));
        let newer = log.replace("+32\n", "+32 max 176\ninsns processed 1000+234\n");
        assert_eq!(Cost::from_log(&newer), Some(Cost { chain: Some(176), ..cost }));
        for broken in ["", "processed 12 insns\nstack depth 0", "stack depth 144+0+32"] {
            assert_eq!(Cost::from_log(broken), None, "{broken:?}");
        }
    }
}
