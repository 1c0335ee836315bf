//! The capabilities that the command starts with: those that ordinary work needs, as containers have
//! them, and those that an allowed operation needs. Whatever else the kernel knows, now or later, is
//! withheld for good: taken from the bounding set, out of which no program can give it back.
//!
//! `no_new_privs` is left alone: it would break sudo and the like inside, and what a setuid program can
//! gain ends at the bounding set all the same.

use std::{fmt, io};

use agent_guard_common::{decide::decide_operation, event::Operation, table::Agent, table::Effect};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
};

use crate::tier::Tier;

/// What ordinary work needs: of files, users and ports.
const ORDINARY: [CapabilitySet; 12] = [
    CapabilitySet::AUDIT_WRITE,
    CapabilitySet::CHOWN,
    CapabilitySet::DAC_OVERRIDE,
    CapabilitySet::FOWNER,
    CapabilitySet::FSETID,
    CapabilitySet::KILL,
    CapabilitySet::MKNOD,
    CapabilitySet::NET_BIND_SERVICE,
    CapabilitySet::SETFCAP,
    CapabilitySet::SETGID,
    CapabilitySet::SETPCAP,
    CapabilitySet::SETUID,
];

/// A capability that operations need.
struct Needed {
    capability: CapabilitySet,
    /// Any of these.
    by: &'static [Operation],
    /// Tier `lsm` decides every use of it that leads out. It is left there, because without it the kernel
    /// would refuse the attempt before any hook could tell of it.
    is_decided: bool,
}

const NEEDED: [Needed; 15] = [
    Needed { capability: CapabilitySet::SYS_CHROOT, by: &[Operation::Chroot], is_decided: true },
    Needed { capability: CapabilitySet::SYS_PTRACE, by: &[Operation::Trace], is_decided: true },
    Needed { capability: CapabilitySet::BPF, by: &[Operation::Bpf], is_decided: true },
    Needed {
        capability: CapabilitySet::PERFMON,
        by: &[Operation::Bpf, Operation::Perf],
        is_decided: true,
    },
    // Beside mounting, what bpf(2) does with objects of others.
    Needed {
        capability: CapabilitySet::SYS_ADMIN,
        by: &[Operation::Bpf, Operation::Mount, Operation::Namespace, Operation::Host],
        is_decided: false,
    },
    Needed {
        capability: CapabilitySet::DAC_READ_SEARCH,
        by: &[Operation::FileHandle],
        is_decided: false,
    },
    Needed { capability: CapabilitySet::SYS_TIME, by: &[Operation::Clock], is_decided: false },
    Needed { capability: CapabilitySet::SYS_PACCT, by: &[Operation::Host], is_decided: false },
    Needed { capability: CapabilitySet::SYS_RAWIO, by: &[Operation::Host], is_decided: false },
    // With it the addresses of the kernel's memory are shown too.
    Needed { capability: CapabilitySet::SYSLOG, by: &[Operation::KernelLog], is_decided: false },
    Needed {
        capability: CapabilitySet::SYS_TTY_CONFIG,
        by: &[Operation::TerminalInput],
        is_decided: false,
    },
    // Unloading a module has no hook, nor has a reboot.
    Needed { capability: CapabilitySet::SYS_MODULE, by: &[Operation::Module], is_decided: false },
    Needed { capability: CapabilitySet::SYS_BOOT, by: &[Operation::Kexec], is_decided: false },
    // They would also let an agent starve others without touching them.
    Needed { capability: CapabilitySet::SYS_NICE, by: &[Operation::Tune], is_decided: false },
    Needed { capability: CapabilitySet::SYS_RESOURCE, by: &[Operation::Tune], is_decided: false },
];

/// Capabilities can not be withheld.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The kernel did not tell.
    #[error("reading this process's capabilities: {0}")]
    Unreadable(#[from] rustix::io::Errno),
    /// Only who has CAP_SETPCAP can take from the bounding set.
    #[error(
        "{} capabilities are to be withheld from the command, which takes CAP_SETPCAP, and this process lacks it; start it with CAP_SETPCAP, or with a bounding set of no more than {}",
        .withheld.bits().count_ones(), Names(*.kept)
    )]
    NoRight {
        /// What is to be taken from the bounding set.
        withheld: CapabilitySet,
        /// What may stay.
        kept: CapabilitySet,
    },
}

/// What the command is to start with.
#[derive(Clone, Copy, Debug)]
pub struct Privileges {
    kept: CapabilitySet,
    /// Those of the bounding set that go.
    withheld: CapabilitySet,
    sets: CapabilitySets,
}

impl Privileges {
    /// What an agent with the verdicts of `agent` keeps on `tier` of what this process has.
    pub fn of(tier: Tier, agent: &Agent) -> Result<Self, PrivilegeError> {
        let kept = kept(tier, agent);
        let (own, bounding) = (capabilities(None)?, bounding_set()?);
        let withheld = bounding - kept;
        if !withheld.is_empty() && !own.effective.contains(CapabilitySet::SETPCAP) {
            return Err(PrivilegeError::NoRight { withheld, kept });
        }
        let sets = CapabilitySets {
            effective: own.effective & kept,
            permitted: own.permitted & kept,
            inheritable: own.inheritable & kept,
        };
        Ok(Self { kept: kept & bounding, withheld, sets })
    }

    /// Withholds them from the current thread and whatever it becomes. Async-signal-safe: system calls
    /// over values that were made before.
    pub fn apply(&self) -> io::Result<()> {
        for capability in each(self.withheld) {
            remove_capability_from_bounding_set(capability)?;
        }
        // An ambient capability is one that a program would get without being root.
        clear_ambient_capability_set()?;
        Ok(set_capabilities(None, self.sets)?)
    }
}

/// The capabilities that the command has at most.
impl fmt::Display for Privileges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Names(self.kept).fmt(f)
    }
}

fn kept(tier: Tier, agent: &Agent) -> CapabilitySet {
    let is_allowed =
        |operation: &Operation| decide_operation(agent, *operation).effect == Effect::Allow;
    let needed = NEEDED.iter().filter(|needed| {
        let is_decided = needed.is_decided && tier == Tier::Lsm;
        is_decided || needed.by.iter().any(is_allowed)
    });
    ORDINARY.into_iter().chain(needed.map(|needed| needed.capability)).collect()
}

/// Every capability that the kernel knows and that this process could pass on.
fn bounding_set() -> rustix::io::Result<CapabilitySet> {
    let mut set = CapabilitySet::empty();
    for capability in each(CapabilitySet::from_bits_retain(!0)) {
        match capability_is_in_bounding_set(capability) {
            Ok(true) => set |= capability,
            Ok(false) => {}
            // Above the last that there is.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(set)
}

/// One at a time, the lowest first; no names are needed, so that later kernels' are among them.
fn each(set: CapabilitySet) -> impl Iterator<Item = CapabilitySet> {
    (0..u64::BITS)
        .map(|bit| CapabilitySet::from_bits_retain(1 << bit))
        .filter(move |one| set.contains(*one))
}

/// Capabilities by name, as `chown, kill`.
struct Names(CapabilitySet);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<String> =
            self.0.iter_names().map(|(name, _)| name.to_lowercase()).collect();
        names.sort_unstable();
        if names.is_empty() { f.write_str("none") } else { f.write_str(&names.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use agent_guard_common::table::{NO_RULE, Verdict};

    use super::*;

    fn allowing(operations: &[Operation]) -> Agent {
        // SAFETY: integers and arrays of them, for which zero is a value.
        let mut agent: Agent = unsafe { std::mem::zeroed() };
        for operation in operations {
            agent.operations[*operation as usize] = Verdict::new(Effect::Allow, NO_RULE);
        }
        agent
    }

    #[test]
    fn what_leads_out_is_withheld_from_whoever_is_allowed_nothing() {
        let kept = kept(Tier::Trace, &allowing(&[]));
        assert_eq!(kept, ORDINARY.into_iter().collect());
        for leads_out in [
            CapabilitySet::SYS_ADMIN,
            CapabilitySet::SYS_PTRACE,
            CapabilitySet::SYS_MODULE,
            CapabilitySet::SYS_RAWIO,
            CapabilitySet::DAC_READ_SEARCH,
            CapabilitySet::NET_ADMIN,
            CapabilitySet::NET_RAW,
            CapabilitySet::SYS_TIME,
            CapabilitySet::MAC_ADMIN,
            CapabilitySet::CHECKPOINT_RESTORE,
            CapabilitySet::from_bits_retain(1 << 60),
        ] {
            assert!(!kept.contains(leads_out), "{}", Names(leads_out));
        }
    }

    #[test]
    fn an_allowed_operation_keeps_what_it_needs_and_no_more() {
        for (operation, capability) in [
            (Operation::Mount, CapabilitySet::SYS_ADMIN),
            (Operation::Chroot, CapabilitySet::SYS_CHROOT),
            (Operation::Trace, CapabilitySet::SYS_PTRACE),
            (Operation::Module, CapabilitySet::SYS_MODULE),
            (Operation::Kexec, CapabilitySet::SYS_BOOT),
            (Operation::Perf, CapabilitySet::PERFMON),
            (Operation::Tune, CapabilitySet::SYS_NICE | CapabilitySet::SYS_RESOURCE),
            (Operation::Signal, CapabilitySet::empty()),
            (Operation::UserNamespace, CapabilitySet::empty()),
            (Operation::TerminalInput, CapabilitySet::SYS_TTY_CONFIG),
            (Operation::Cgroup, CapabilitySet::empty()),
            (Operation::Namespace, CapabilitySet::SYS_ADMIN),
            (Operation::FileHandle, CapabilitySet::DAC_READ_SEARCH),
            (Operation::Clock, CapabilitySet::SYS_TIME),
            (Operation::KernelLog, CapabilitySet::SYSLOG),
            (
                Operation::Host,
                CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PACCT | CapabilitySet::SYS_RAWIO,
            ),
        ] {
            let more =
                kept(Tier::Trace, &allowing(&[operation])) - kept(Tier::Trace, &allowing(&[]));
            assert_eq!(more, capability, "{operation:?}");
        }
    }

    #[test]
    fn what_a_hook_decides_is_left_where_there_are_hooks() {
        let more = kept(Tier::Lsm, &allowing(&[])) - kept(Tier::Trace, &allowing(&[]));
        let decided = [
            CapabilitySet::SYS_CHROOT,
            CapabilitySet::SYS_PTRACE,
            CapabilitySet::BPF,
            CapabilitySet::PERFMON,
        ];
        assert_eq!(more, decided.into_iter().collect());
    }

    #[test]
    fn no_capability_is_both_ordinary_and_a_way_out() {
        let ordinary: CapabilitySet = ORDINARY.into_iter().collect();
        for (at, needed) in NEEDED.iter().enumerate() {
            assert!(!ordinary.intersects(needed.capability) && !needed.by.is_empty());
            let others = NEEDED.iter().skip(at + 1);
            assert!(others.into_iter().all(|other| other.capability != needed.capability));
        }
    }

    #[test]
    fn they_are_named() {
        let two = CapabilitySet::KILL | CapabilitySet::CHOWN;
        assert_eq!(Names(two).to_string(), "chown, kill");
        assert_eq!(Names(CapabilitySet::empty()).to_string(), "none");
    }

    #[test]
    fn the_kernels_own_list_ends_where_it_says() {
        let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
        let last: u32 = last.trim().parse().unwrap();
        assert!(bounding_set().unwrap().bits() < 1 << (last + 1));
    }
}
