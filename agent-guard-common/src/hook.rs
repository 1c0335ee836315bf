//! The table of hooks: what each is called, what it is given and what it decides. All of them are in
//! every kernel from 6.1 on; a tier whose hook is missing is not to be had.

/// The tier whose programs a hook belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookTier {
    /// A BPF LSM program.
    Lsm,
    /// A raw tracepoint, for tiers `trace` and `observe`.
    Tracepoint,
    /// A cgroup program, for tier `trace`.
    Cgroup,
}

/// A place in the kernel where an action is decided. The number is on the wire and in `COUNTERS`.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// LSM `file_open`
    FileOpen = 0,
    /// LSM `bprm_check_security`
    BprmCheck = 1,
    /// LSM `socket_connect`
    SocketConnect = 2,
    /// LSM `socket_sendmsg`
    SocketSendmsg = 3,
    /// LSM `inode_create`
    InodeCreate = 4,
    /// LSM `task_alloc`
    TaskAlloc = 5,
    /// Raw tracepoint `sys_exit`
    SysExit = 6,
    /// Raw tracepoint `sched_process_exec`
    SchedExec = 7,
    /// cgroup `connect4`
    Connect4 = 8,
    /// cgroup `connect6`
    Connect6 = 9,
    /// cgroup `sendmsg4`
    Sendmsg4 = 10,
    /// cgroup `sendmsg6`
    Sendmsg6 = 11,
}

/// A row of the hook table.
#[derive(Clone, Copy, Debug)]
pub struct HookSpec {
    /// The hook.
    pub hook: Hook,
    /// Its tier.
    pub tier: HookTier,
    /// Name in the kernel.
    pub name: &'static str,
    /// Name of the program in the object file.
    pub program: &'static str,
    /// Parameters by position, as the programs read them; empty where the context is a fixed ABI.
    pub params: &'static [&'static str],
    /// What the hook decides, for `doctor`.
    pub decides: &'static str,
}

impl Hook {
    /// Number of hooks.
    pub const COUNT: u32 = Self::TABLE.len() as u32;

    /// Every hook, by number.
    pub const TABLE: [HookSpec; 12] = [
        row(Self::FileOpen, HookTier::Lsm, "file_open", "file_open", &["file"], "opening a file"),
        row(
            Self::BprmCheck,
            HookTier::Lsm,
            "bprm_check_security",
            "bprm_check",
            &["bprm"],
            "running a program",
        ),
        row(
            Self::SocketConnect,
            HookTier::Lsm,
            "socket_connect",
            "socket_connect",
            &["sock", "address", "addrlen"],
            "connecting a socket",
        ),
        row(
            Self::SocketSendmsg,
            HookTier::Lsm,
            "socket_sendmsg",
            "socket_sendmsg",
            &["sock", "msg", "size"],
            "sending to an address",
        ),
        row(
            Self::InodeCreate,
            HookTier::Lsm,
            "inode_create",
            "inode_create",
            &["dir", "dentry", "mode"],
            "creating a file",
        ),
        row(
            Self::TaskAlloc,
            HookTier::Lsm,
            "task_alloc",
            "task_alloc",
            &["task", "clone_flags"],
            "inheriting the agent at fork",
        ),
        row(Self::SysExit, HookTier::Tracepoint, "sys_exit", "sys_exit", &[], "opening a file"),
        row(
            Self::SchedExec,
            HookTier::Tracepoint,
            "sched_process_exec",
            "sched_exec",
            &[],
            "running a program",
        ),
        row(Self::Connect4, HookTier::Cgroup, "connect4", "connect4", &[], "connecting over IPv4"),
        row(Self::Connect6, HookTier::Cgroup, "connect6", "connect6", &[], "connecting over IPv6"),
        row(Self::Sendmsg4, HookTier::Cgroup, "sendmsg4", "sendmsg4", &[], "sending over IPv4"),
        row(Self::Sendmsg6, HookTier::Cgroup, "sendmsg6", "sendmsg6", &[], "sending over IPv6"),
    ];

    /// The hook with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::TABLE.get(usize::from(number)).map(|spec| spec.hook)
    }

    /// The row of this hook.
    #[expect(clippy::indexing_slicing, reason = "a test holds every row to its own number")]
    pub fn spec(self) -> &'static HookSpec {
        &Self::TABLE[self as usize]
    }
}

const fn row(
    hook: Hook,
    tier: HookTier,
    name: &'static str,
    program: &'static str,
    params: &'static [&'static str],
    decides: &'static str,
) -> HookSpec {
    HookSpec { hook, tier, name, program, params, decides }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_stands_at_its_own_number() {
        for (number, spec) in Hook::TABLE.iter().enumerate() {
            assert_eq!(spec.hook as usize, number, "{}", spec.name);
        }
    }
}
