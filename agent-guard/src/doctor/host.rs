//! The kernel itself: its architecture, what this process may ask of it, its types and its compiler.

use std::{fs, io, net::UdpSocket};

use agent_guard_common::{
    hook::{Hook, HookTier},
    offsets::Offsets,
};
use rustix::thread::CapabilitySet;

use super::finding::{Finding, Probe, State};
use crate::{
    kernel::btf::{BtfError, KernelTypes, VMLINUX},
    tier::Tier,
};

/// The architecture whose system call numbers and registers the programs know.
const ARCHITECTURE: &str = "x86_64";

/// The kernel, as it names itself.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Kernel {
    /// `uname -r`
    pub release: String,
    /// `uname -m`
    pub machine: String,
}

impl Kernel {
    /// The running one.
    pub fn running() -> Self {
        let uname = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        Self { release: text(uname.release()), machine: text(uname.machine()) }
    }

    /// Whether the programs are made for its architecture.
    pub fn architecture(&self) -> Finding {
        const PROBE: Probe = Probe { name: "architecture", needed_by: &Tier::ALL };
        if self.machine == ARCHITECTURE {
            return PROBE.yes(format!("{}, kernel {}", self.machine, self.release));
        }
        PROBE.no(
            format!("{}: this version of agent-guard knows {ARCHITECTURE} only", self.machine),
            format!("use a host with an {ARCHITECTURE} kernel"),
        )
    }
}

/// What this process may do, as the kernel's BPF checks see it.
#[derive(Clone, Copy, Debug)]
pub struct Privileges {
    effective: CapabilitySet,
    /// `None` where /proc does not say.
    initial_user_namespace: Option<bool>,
}

/// Inode number that the kernel gives its initial user namespace (`PROC_USER_INIT_INO`).
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";

impl Privileges {
    /// Those of this thread.
    pub fn of_this_process() -> io::Result<Self> {
        let namespace = fs::read_link("/proc/self/ns/user").ok();
        Ok(Self {
            effective: rustix::thread::capabilities(None)?.effective,
            initial_user_namespace: namespace
                .map(|namespace| namespace.as_os_str() == INITIAL_USER_NAMESPACE),
        })
    }

    /// Whether there is any use in trying to load programs. Without the right to guard sockets tier
    /// `lsm` may still be had.
    pub fn suffice_to_load(self) -> bool {
        let [load, _] = self.findings();
        load.state != State::No
    }

    /// What is there and what is missing.
    pub fn findings(self) -> [Finding; 2] {
        const LOAD: Probe = Probe { name: "right to load programs", needed_by: &Tier::ALL };
        const NET: Probe =
            Probe { name: "right to guard sockets", needed_by: &[Tier::Trace, Tier::Observe] };
        [
            self.finding(
                LOAD,
                &[(CapabilitySet::BPF, "CAP_BPF"), (CapabilitySet::PERFMON, "CAP_PERFMON")],
            ),
            self.finding(NET, &[(CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN")]),
        ]
    }

    fn finding(self, probe: Probe, needed: &[(CapabilitySet, &str)]) -> Finding {
        // CAP_SYS_ADMIN stands for each of them, as it did before they were split off.
        let missing: Vec<&str> = needed
            .iter()
            .filter(|(flag, _)| !self.effective.intersects(*flag | CapabilitySet::SYS_ADMIN))
            .map(|(_, name)| *name)
            .collect();
        let names: Vec<&str> = needed.iter().map(|(_, name)| *name).collect();
        if !missing.is_empty() {
            let missing = missing.join(" and ");
            return probe.no(
                format!("this process lacks {missing}"),
                format!("run as root (`sudo agent-guard doctor`), or give the process {missing}"),
            );
        }
        match self.initial_user_namespace {
            Some(true) => probe.yes(format!("{}, in the initial user namespace", names.join(" and "))),
            Some(false) => probe.no(
                format!(
                    "{} only in a user namespace of its own, which the kernel does not count",
                    names.join(" and ")
                ),
                "run outside of the user namespace (a rootless container is one): as root of the host",
            ),
            None => probe.unknown(
                "/proc/self/ns/user could not be read, so the user namespace is unknown",
                "mount /proc",
            ),
        }
    }
}

/// Whether the kernel's types hold everything that the programs read, and each LSM hook takes what
/// its program takes.
pub fn types() -> [Finding; 2] {
    const MEMBERS: Probe = Probe { name: "kernel types (BTF)", needed_by: &Tier::ALL };
    const HOOKS: Probe = Probe { name: "hook prototypes", needed_by: &[Tier::Lsm] };
    let types = match KernelTypes::of_running_kernel() {
        Ok(types) => types,
        Err(error) => {
            let remedy = "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y; distributions have it on by \
                          default since Debian 11, Ubuntu 20.10, Fedora 31 and RHEL 8.2; /sys must be mounted";
            return [
                MEMBERS.no(error.to_string(), remedy),
                HOOKS.unknown("needs the kernel's types", remedy),
            ];
        }
    };
    let members = Offsets::PATHS.iter().filter_map(|path| types.offset(path).err());
    let functions =
        Hook::TABLE.iter().filter(|spec| matches!(spec.tier, HookTier::Lsm | HookTier::Return));
    let (known, unknown): (Vec<_>, Vec<_>) =
        functions.map(|spec| types.prototype(spec)).partition(Result::is_ok);
    let there = known.into_iter().flatten().flatten().count();
    let unknown = unknown.into_iter().filter_map(Result::err);
    let unknown: Vec<BtfError> = unknown.chain(types.runs_every_lsm_program().err()).collect();
    [
        resolved(
            MEMBERS,
            &members.collect::<Vec<_>>(),
            format!("{VMLINUX} holds all {} struct members that are read", Offsets::PATHS.len()),
            "boot another kernel, or report this one: its name and the members that are missing",
        ),
        resolved(
            HOOKS,
            &unknown,
            format!("all {there} take what their programs read"),
            "boot a kernel built with CONFIG_BPF_LSM=y; if it is, report this kernel",
        ),
    ]
}

fn resolved(probe: Probe, errors: &[BtfError], all: String, remedy: &str) -> Finding {
    if errors.is_empty() {
        return probe.yes(all);
    }
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    probe.no(errors.join("; "), remedy)
}

/// Where the kernel says whether it compiles BPF programs.
const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";

/// Whether BPF programs are compiled; LSM programs are not to be had otherwise.
pub fn jit() -> Finding {
    judge_jit(fs::read_to_string(JIT))
}

fn judge_jit(setting: io::Result<String>) -> Finding {
    const PROBE: Probe = Probe { name: "BPF compiler (JIT)", needed_by: &[Tier::Lsm] };
    let remedy = "`sysctl -w net.core.bpf_jit_enable=1`";
    match setting {
        Ok(setting) => match setting.trim() {
            "1" | "2" => PROBE.yes(format!("{JIT} is {}", setting.trim())),
            "0" => PROBE.no(format!("{JIT} is 0"), remedy),
            other => PROBE
                .unknown(format!("{JIT} says {other:?}, which this version does not know"), remedy),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => PROBE.no(
            format!("{JIT} is not there: the kernel has no JIT, or /proc is not mounted"),
            "boot a kernel built with CONFIG_BPF_JIT=y",
        ),
        Err(error) => PROBE.unknown(format!("{JIT}: {error}"), "run as root"),
    }
}

/// Whether loopback is up: the canary connects there, and nothing it does leaves the host.
pub fn loopback() -> Finding {
    let connected = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.connect("127.0.0.1:9"));
    judge_loopback(connected)
}

fn judge_loopback(connected: io::Result<()>) -> Finding {
    const PROBE: Probe = Probe { name: "loopback for the canary", needed_by: &Tier::ALL };
    match connected {
        Ok(()) => PROBE.yes("127.0.0.1 can be reached"),
        Err(error) => {
            PROBE.no(format!("127.0.0.1 can not be reached: {error}"), "`ip link set lo up`")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(machine: &str) -> Kernel {
        Kernel { release: "6.12.1".to_owned(), machine: machine.to_owned() }
    }

    fn states(effective: CapabilitySet, initial: Option<bool>) -> [State; 2] {
        Privileges { effective, initial_user_namespace: initial }
            .findings()
            .map(|finding| finding.state)
    }

    #[test]
    fn an_architecture_whose_registers_are_unknown_offers_no_tier() {
        assert_eq!(kernel("x86_64").architecture().state, State::Yes);
        let arm = kernel("aarch64").architecture();
        assert_eq!((arm.state, arm.needed_by), (State::No, &Tier::ALL[..]));
        assert!(arm.detail.contains("aarch64") && arm.remedy.is_some());
    }

    #[test]
    fn the_split_capabilities_suffice_and_so_does_the_one_they_were_split_from() {
        let split = CapabilitySet::BPF | CapabilitySet::PERFMON;
        assert_eq!(states(split | CapabilitySet::NET_ADMIN, Some(true)), [State::Yes, State::Yes]);
        assert_eq!(states(CapabilitySet::SYS_ADMIN, Some(true)), [State::Yes, State::Yes]);
        assert_eq!(states(split, Some(true)), [State::Yes, State::No]);
    }

    #[test]
    fn a_missing_capability_is_named() {
        let finding =
            &Privileges { effective: CapabilitySet::BPF, initial_user_namespace: Some(true) }
                .findings()[0];
        assert_eq!(finding.state, State::No);
        assert!(finding.detail.contains("CAP_PERFMON") && !finding.detail.contains("CAP_BPF"));
    }

    #[test]
    fn capabilities_in_a_user_namespace_do_not_count() {
        let all = CapabilitySet::all();
        assert_eq!(states(all, Some(false)), [State::No, State::No]);
        assert_eq!(states(all, None), [State::Unknown, State::Unknown]);
    }

    #[test]
    fn a_compiler_that_is_off_a_missing_one_and_a_hidden_one_are_told_apart() {
        let of = |setting: Result<&str, io::ErrorKind>| {
            judge_jit(setting.map(str::to_owned).map_err(io::Error::from)).state
        };
        assert_eq!(of(Ok("1\n")), State::Yes);
        assert_eq!(of(Ok("0\n")), State::No);
        assert_eq!(of(Ok("7\n")), State::Unknown);
        assert_eq!(of(Err(io::ErrorKind::NotFound)), State::No);
        assert_eq!(of(Err(io::ErrorKind::PermissionDenied)), State::Unknown);
    }

    #[test]
    fn a_host_without_loopback_is_told_to_bring_it_up() {
        assert_eq!(judge_loopback(Ok(())).state, State::Yes);
        let down = judge_loopback(Err(io::ErrorKind::NetworkUnreachable.into()));
        assert_eq!((down.state, down.needed_by), (State::No, &Tier::ALL[..]));
        assert!(down.remedy.unwrap().contains("lo up"));
    }

    #[test]
    fn tier_lsm_is_tried_without_the_right_to_guard_sockets() {
        let may = |effective| {
            Privileges { effective, initial_user_namespace: Some(true) }.suffice_to_load()
        };
        assert!(may(CapabilitySet::BPF | CapabilitySet::PERFMON));
        assert!(!may(CapabilitySet::BPF | CapabilitySet::NET_ADMIN));
    }
}
