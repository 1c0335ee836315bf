//! What numbers are called in events. Consumers rely on these: change none.

use agent_guard_common::{
    decide::Reason,
    event::{Action, Operation, Outcome},
};

use super::{LookupReason, PathScope};

impl PathScope {
    /// Its name in events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Absolute => "absolute",
            Self::Filesystem => "filesystem",
            Self::Tail => "tail",
        }
    }
}

/// The name of an outcome.
pub fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Allowed => "allowed",
        Outcome::Denied => "denied",
        Outcome::Killed => "killed",
        Outcome::Observed => "observed",
    }
}

/// The name of a reason.
pub fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Rule => "rule",
        Reason::Default => "default",
        Reason::Guarded => "guarded",
        Reason::Pipe => "pipe",
        Reason::UnknownFilesystem => "unknown_filesystem",
        Reason::Detached => "detached",
        Reason::TooDeep => "too_deep",
        Reason::TooLong => "too_long",
        Reason::Failed => "failed",
        Reason::Protocol => "protocol",
        Reason::Interface => "interface",
        Reason::NoPolicy => "no_policy",
        Reason::Differs => "differs",
        Reason::Own => "own",
        Reason::Alias => "alias",
        Reason::Diverted => "diverted",
        Reason::Changed => "changed",
    }
}

/// A reason in words.
pub fn because(reason: Reason) -> &'static str {
    match reason {
        Reason::Rule => "a rule matches",
        Reason::Default => "no rule matches",
        Reason::Guarded => {
            "it is a device, the kernel's own, another process or another's terminal, which only a rule \
             without wildcards covers"
        }
        Reason::Pipe => "it is a pipe or anonymous memory, which whoever made it was allowed to",
        Reason::UnknownFilesystem => "its file system was not mounted when the policy was loaded",
        Reason::Detached => {
            "it has no place in a directory tree, or not any more, so no path rule can name it"
        }
        Reason::TooDeep => "it lies deeper than the guard walks",
        Reason::TooLong => "its path is longer than the guard reads",
        Reason::Failed => "the guard could not read what it had to judge",
        Reason::Protocol => {
            "agents have TCP, UDP, UNIX-domain sockets and queries of the network's state, and nothing else"
        }
        Reason::Interface => "this tier can not judge what goes through it",
        Reason::NoPolicy => "the agent's policy is not in the kernel",
        Reason::Differs => "the policy says different things of the old place and the new",
        Reason::Own => "it is the agent's own",
        Reason::Alias => "the file has another name, which is denied",
        Reason::Diverted => "the guard's DNS proxy answers in place of the name server",
        Reason::Changed => {
            "it is not the file that was there when the policy was loaded, or has been changed since"
        }
    }
}

/// The name of a reason of the DNS proxy.
pub fn lookup_reason(reason: LookupReason) -> &'static str {
    match reason {
        LookupReason::Rule => "rule",
        LookupReason::Default => "default",
        LookupReason::QueryType => "query_type",
        LookupReason::LongLabel => "long_label",
        LookupReason::Rate => "rate",
        LookupReason::Internal => "internal_address",
        LookupReason::Lease => "lease",
        LookupReason::Unanswered => "unanswered",
        LookupReason::Malformed => "malformed",
        LookupReason::Busy => "busy",
    }
}

/// A reason of the DNS proxy in words.
pub fn lookup_because(reason: LookupReason) -> &'static str {
    match reason {
        LookupReason::Rule => "a rule matches",
        LookupReason::Default => "no rule matches",
        LookupReason::QueryType => "only addresses are resolved for agents",
        LookupReason::LongLabel => "so long a label under a wildcard may carry data out",
        LookupReason::Rate => "too many queries, or too many names under one wildcard",
        LookupReason::Internal => "it leads to internal addresses only, which no rule lists",
        LookupReason::Lease => "its addresses could not be put into the kernel",
        LookupReason::Unanswered => "no name server gave an answer",
        LookupReason::Malformed => "it is no query that a resolver answers",
        LookupReason::Busy => "too many queries are under way",
    }
}

/// The number and caption of a DNS response code, as OCSF has them.
pub fn response_code(code: u16) -> (u8, &'static str) {
    match code {
        0 => (0, "NoError"),
        1 => (1, "FormError"),
        2 => (2, "ServError"),
        3 => (3, "NXDomain"),
        4 => (4, "NotImp"),
        5 => (5, "Refused"),
        16 => (16, "BADSIG_VERS"),
        _ => (99, "Other"),
    }
}

/// What a file action asks for.
pub fn access(action: Action) -> &'static [&'static str] {
    match action {
        Action::Read => &["read"],
        Action::Write
        | Action::Create
        | Action::Delete
        | Action::Rename
        | Action::Link
        | Action::Truncate
        | Action::SetMetadata => &["write"],
        Action::ReadWrite => &["read", "write"],
        Action::Exec => &["exec"],
        Action::Load => &["exec", "load"],
        Action::Map => &["exec", "map"],
        Action::Receive
        | Action::Connect
        | Action::Send
        | Action::CreateSocket
        | Action::Listen
        | Action::Accept
        | Action::ConnectLocal
        | Action::Operate
        | Action::IoUring
        | Action::ShareDescriptors
        | Action::SourceRoute => &[],
    }
}

/// The name of an IP protocol that agents can have.
pub fn protocol(number: u16) -> Option<&'static str> {
    match i32::from(number) {
        libc::IPPROTO_TCP => Some("tcp"),
        libc::IPPROTO_UDP => Some("udp"),
        libc::IPPROTO_MPTCP => Some("mptcp"),
        _ => None,
    }
}

/// The name of an address family.
pub fn family(number: u16) -> Option<&'static str> {
    match i32::from(number) {
        libc::AF_UNIX => Some("unix"),
        libc::AF_INET => Some("inet"),
        libc::AF_INET6 => Some("inet6"),
        libc::AF_NETLINK => Some("netlink"),
        libc::AF_PACKET => Some("packet"),
        libc::AF_ALG => Some("alg"),
        libc::AF_VSOCK => Some("vsock"),
        libc::AF_XDP => Some("xdp"),
        libc::AF_BLUETOOTH => Some("bluetooth"),
        libc::AF_CAN => Some("can"),
        libc::AF_TIPC => Some("tipc"),
        libc::AF_RDS => Some("rds"),
        _ => None,
    }
}

/// What somebody does who does it.
pub fn deed(operation: Operation) -> &'static str {
    match operation {
        Operation::Trace => "trace",
        Operation::Signal => "signal",
        Operation::Tune => "set limits or priorities of",
        Operation::Mount => "change mounts",
        Operation::Chroot => "change the root directory",
        Operation::UserNamespace => "make a user namespace",
        Operation::Bpf => "use bpf(2)",
        Operation::Perf => "open a performance counter",
        Operation::Module => "load code into the kernel",
        Operation::Kexec => "load another kernel or reboot",
        Operation::TerminalInput => "type into a terminal or hang it up",
        Operation::Cgroup => "start a process in another cgroup",
        Operation::Namespace => "make or enter a namespace",
        Operation::FileHandle => "open a file by its handle",
        Operation::Clock => "set the clock",
        Operation::Host => "change settings of the whole host",
        Operation::KernelLog => "use the kernel's log",
    }
}

/// The name of an operation, as `spec.system` calls it.
pub fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Trace => "trace",
        Operation::Signal => "signal",
        Operation::Tune => "tune",
        Operation::Mount => "mount",
        Operation::Chroot => "chroot",
        Operation::UserNamespace => "user-namespace",
        Operation::Bpf => "bpf",
        Operation::Perf => "perf",
        Operation::Module => "module",
        Operation::Kexec => "kexec",
        Operation::TerminalInput => "terminal-input",
        Operation::Cgroup => "cgroup",
        Operation::Namespace => "namespace",
        Operation::FileHandle => "file-handle",
        Operation::Clock => "clock",
        Operation::Host => "host",
        Operation::KernelLog => "kernel-log",
    }
}
