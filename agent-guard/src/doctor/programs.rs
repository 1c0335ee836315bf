//! The programs, loaded for real: one answer for each hook.

use agent_guard_common::hook::{HookSpec, HookTier};
use aya::programs::ProgramError;
use serde::Serialize;

use super::finding::{Finding, Probe, State, one_line};
use crate::{
    kernel::load::{self, HookLoad, LoadError},
    tier::Tier,
};

/// Why a program was not loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Of which sort.
    pub sort: Sort,
    /// In words.
    pub why: String,
}

/// Sorts of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// The kernel was not asked: something that loading needs is missing.
    NotTried,
    /// The kernel said `EPERM` to a process that has the capabilities.
    Permission,
    /// The kernel said something else.
    Other,
}

/// A hook, and whether its program loads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HookFinding {
    /// Its name in the kernel.
    pub hook: &'static str,
    /// `lsm`, `return`, `tracepoint` or `cgroup`.
    pub kind: &'static str,
    /// What is decided there.
    pub decides: &'static str,
    /// Whether its program loads.
    pub state: State,
    /// The kernel's word, where it does not.
    pub detail: Option<String>,
    /// What goes undecided without it.
    pub without_it: &'static str,
    /// Instructions that the verifier went through to let its program in, where the kernel says.
    pub verified_instructions: Option<u32>,
    /// The programs that it is one of.
    #[serde(skip)]
    pub tier: HookTier,
    /// Why its program does not load.
    #[serde(skip)]
    pub refusal: Option<Refusal>,
}

/// Loads the program of every hook, and unloads it again. `allowed` is whether there is any use in
/// trying.
pub fn load_each(allowed: bool) -> Vec<HookFinding> {
    // Cgroup programs belong to both tiers.
    let once = |tier, finding: &HookFinding| tier != Tier::Lsm || finding.tier != HookTier::Cgroup;
    let of_tier =
        |tier| load_tier(tier, allowed).into_iter().filter(move |finding| once(tier, finding));
    [Tier::Lsm, Tier::Trace].into_iter().flat_map(of_tier).collect()
}

fn load_tier(tier: Tier, allowed: bool) -> Vec<HookFinding> {
    let same_for_all = |refusal: Refusal| {
        load::hooks_of(tier).map(|spec| refused(spec, refusal.clone())).collect()
    };
    if !allowed {
        let why = "this process has no right to load programs".to_owned();
        return same_for_all(Refusal { sort: Sort::NotTried, why });
    }
    match load::load_each(tier) {
        Ok(results) => results.into_iter().map(|(spec, load)| finding(spec, load)).collect(),
        Err(error) => same_for_all(refusal(&error)),
    }
}

fn finding(spec: &'static HookSpec, load: HookLoad) -> HookFinding {
    match load {
        HookLoad::Loaded { verified } => {
            HookFinding { verified_instructions: verified, ..there(spec) }
        }
        HookLoad::Absent => HookFinding {
            state: State::Absent,
            detail: Some("this kernel has no such hook".to_owned()),
            ..there(spec)
        },
        HookLoad::Refused(error) => refused(spec, refusal(&error)),
    }
}

fn refused(spec: &'static HookSpec, refusal: Refusal) -> HookFinding {
    HookFinding {
        state: match refusal.sort {
            Sort::NotTried => State::Unknown,
            Sort::Permission | Sort::Other => State::No,
        },
        detail: Some(refusal.why.clone()),
        refusal: Some(refusal),
        ..there(spec)
    }
}

fn there(spec: &'static HookSpec) -> HookFinding {
    HookFinding {
        hook: spec.name,
        kind: kind(spec.tier),
        decides: spec.decides,
        state: State::Yes,
        detail: None,
        without_it: spec.without,
        verified_instructions: None,
        tier: spec.tier,
        refusal: None,
    }
}

impl HookFinding {
    /// Whether its program is one of the tier's.
    pub fn serves(&self, tier: Tier) -> bool {
        load::hooks_of(tier).any(|spec| spec.tier == self.tier)
    }
}

/// What kept a program out, short: of the verifier's log the last line that says something.
pub fn refusal(error: &LoadError) -> Refusal {
    let system = match error {
        LoadError::Program { source: ProgramError::LoadError { io_error, .. }, .. } => {
            Some(io_error)
        }
        LoadError::Program { source: ProgramError::SyscallError(error), .. } => {
            Some(&error.io_error)
        }
        _ => None,
    };
    let sort = match error {
        LoadError::Types(_) | LoadError::Btf(_) => Sort::NotTried,
        _ if system.is_some_and(|error| error.raw_os_error() == Some(libc::EPERM)) => {
            Sort::Permission
        }
        _ => Sort::Other,
    };
    let why = match error {
        LoadError::Program {
            source: ProgramError::LoadError { io_error, verifier_log }, ..
        } => match verdict_line(&verifier_log.to_string()) {
            Some(line) => format!("{io_error}: {line}"),
            None => io_error.to_string(),
        },
        LoadError::Program { source, .. } => one_line(source),
        other => one_line(other),
    };
    Refusal { sort, why }
}

/// The verifier ends its log with statistics; its verdict is the line before them.
fn verdict_line(log: &str) -> Option<&str> {
    let statistics = ["processed ", "verification time ", "stack depth "];
    log.lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !statistics.iter().any(|start| line.starts_with(start)))
}

/// The answers, kind by kind, of the hooks that are there.
pub fn summary(hooks: &[HookFinding]) -> [Finding; 4] {
    [HookTier::Lsm, HookTier::Return, HookTier::Tracepoint, HookTier::Cgroup].map(|kind| {
        let results =
            hooks.iter().filter(|finding| finding.tier == kind && finding.state != State::Absent);
        judge_kind(
            kind,
            &results.map(|finding| (finding.hook, finding.refusal.as_ref())).collect::<Vec<_>>(),
        )
    })
}

/// Whether every LSM program loads, or why the first one does not.
pub fn lsm_refusal(hooks: &[HookFinding]) -> Option<&Refusal> {
    hooks
        .iter()
        .filter(|finding| finding.tier == HookTier::Lsm)
        .find_map(|finding| finding.refusal.as_ref())
}

fn judge_kind(kind: HookTier, results: &[(&str, Option<&Refusal>)]) -> Finding {
    let probe = match kind {
        HookTier::Lsm => Probe { name: "LSM programs load", needed_by: &[Tier::Lsm] },
        HookTier::Return => Probe { name: "programs at returns load", needed_by: &[Tier::Lsm] },
        HookTier::Tracepoint => {
            Probe { name: "tracepoint programs load", needed_by: &[Tier::Trace, Tier::Observe] }
        }
        HookTier::Cgroup => Probe { name: "cgroup programs load", needed_by: &Tier::ALL },
    };
    let refused: Vec<(&str, &Refusal)> =
        results.iter().filter_map(|(hook, refusal)| Some((*hook, (*refusal)?))).collect();
    let Some((_, refusal)) = refused.first() else {
        return probe.yes(format!("all {} were loaded and unloaded again", results.len()));
    };
    if refusal.sort == Sort::NotTried {
        return probe.unknown(refusal.why.as_str(), "see the probes above");
    }
    let all_alike =
        refused.len() == results.len() && refused.iter().all(|(_, other)| other.why == refusal.why);
    let detail = if all_alike {
        format!("all {} are refused: {}", results.len(), refusal.why)
    } else {
        let each: Vec<String> =
            refused.iter().map(|(hook, refusal)| format!("{hook}: {}", refusal.why)).collect();
        format!("{} of {} are refused: {}", refused.len(), results.len(), each.join("; "))
    };
    let remedy = match (kind, refusal.sort) {
        (HookTier::Lsm, Sort::Permission) => {
            "the capabilities are there: see `lockdown lets BPF in`, and the rules of a container or hypervisor \
             around this host"
        }
        (_, Sort::Permission) => {
            "the capabilities are there: look for a seccomp filter or a security module that forbids bpf(2), as \
             container runtimes do"
        }
        (HookTier::Lsm, _) => {
            "boot a kernel built with CONFIG_BPF_LSM=y and CONFIG_BPF_JIT=y; see the probes above"
        }
        (HookTier::Return, _) => {
            "boot a kernel built with CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y; see the probes above"
        }
        (HookTier::Tracepoint, _) => {
            "boot a kernel built with CONFIG_BPF_EVENTS=y and CONFIG_FTRACE_SYSCALLS=y; see the probes above"
        }
        (HookTier::Cgroup, _) => {
            "boot a kernel built with CONFIG_CGROUP_BPF=y; see the probes above"
        }
    };
    probe.no(detail, remedy)
}

/// How a hook's kind is called.
pub fn kind(tier: HookTier) -> &'static str {
    match tier {
        HookTier::Lsm => "lsm",
        HookTier::Return => "return",
        HookTier::Tracepoint => "tracepoint",
        HookTier::Cgroup => "cgroup",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(sort: Sort, why: &str) -> Refusal {
        Refusal { sort, why: why.to_owned() }
    }

    #[test]
    fn programs_that_were_not_tried_are_neither_there_nor_missing() {
        let finding =
            judge_kind(HookTier::Lsm, &[("file_open", Some(&refused(Sort::NotTried, "no right")))]);
        assert_eq!(finding.state, State::Unknown);
        assert_eq!(judge_kind(HookTier::Lsm, &[("file_open", None)]).state, State::Yes);
    }

    #[test]
    fn one_refused_program_is_named_and_closes_the_kind() {
        let bad = refused(Sort::Other, "R1 invalid mem access");
        let finding = judge_kind(HookTier::Cgroup, &[("connect4", None), ("connect6", Some(&bad))]);
        assert_eq!(finding.state, State::No);
        assert!(
            finding.detail.contains("connect6: R1 invalid") && !finding.detail.contains("connect4")
        );
    }

    #[test]
    fn a_reason_that_all_share_is_said_once() {
        let bad = refused(Sort::Permission, "Operation not permitted");
        let finding = judge_kind(HookTier::Lsm, &[("a", Some(&bad)), ("b", Some(&bad))]);
        assert_eq!(finding.detail.matches("not permitted").count(), 1);
        assert!(finding.remedy.unwrap().contains("lockdown"));
    }

    #[test]
    fn of_the_verifiers_log_its_verdict_is_shown() {
        let log = "0: R1=ctx()\nR2 !read_ok\nverification time 12 usec\nstack depth 0\nprocessed 1 insns (limit 1000000)\n";
        assert_eq!(verdict_line(log), Some("R2 !read_ok"));
        assert_eq!(verdict_line(""), None);
    }
}
