//! The table of hooks: what each is called, what it is given and what it decides.
//!
//! A tier whose hook is missing is not to be had, unless the row says that the hook is optional: then
//! `doctor` and every start tell what stays open without it.

/// The tier whose programs a hook belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookTier {
    /// A BPF LSM program.
    Lsm,
    /// A raw tracepoint, for tiers `trace` and `observe`.
    Tracepoint,
    /// A program on the agent's cgroup. Tiers `trace` and `observe` judge by it; on tier `lsm` it only
    /// sends name queries to the DNS proxy.
    Cgroup,
}

/// What a kernel that lacks the hook comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The tier is not to be had.
    Required,
    /// The tier is in force all the same.
    Optional,
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
    /// The prototypes that the program knows, each as the names of its parameters; empty where the
    /// context is a fixed ABI. The loader tells the program which of them the kernel has.
    pub prototypes: &'static [&'static [&'static str]],
    /// What the hook decides, for `doctor`.
    pub decides: &'static str,
    /// What goes undecided without it.
    pub without: &'static str,
    /// Whether the tier needs it.
    pub need: Need,
}

/// Declares the hooks: the enum and the table come from the same lines, so a hook has the number of its
/// row.
macro_rules! hooks {
    ($($(#[$doc:meta])* $hook:ident: $tier:ident $need:ident $name:literal program $program:literal
        $(($($parameter:literal),*))* decides $decides:literal without $without:literal;)*) => {
        /// A place in the kernel where an action is decided. The number is on the wire and in
        /// `COUNTERS`.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Hook {
            $(#[doc = $decides] $(#[$doc])* $hook,)*
        }

        impl Hook {
            /// Every hook, by number.
            pub const TABLE: &'static [HookSpec] = &[$(HookSpec {
                hook: Self::$hook,
                tier: HookTier::$tier,
                name: $name,
                program: $program,
                prototypes: &[$(&[$($parameter),*]),*],
                decides: $decides,
                without: $without,
                need: Need::$need,
            },)*];
        }
    };
}

hooks! {
    // Files
    FileOpen: Lsm Required "file_open" program "file_open" ("file")
        decides "opening a file"
        without "files could be opened whatever the policy says";
    InodeCreate: Lsm Required "inode_create" program "inode_create" ("dir", "dentry", "mode")
        decides "creating a file"
        without "a refused open could leave an empty file behind";

    // Programs
    BprmCheck: Lsm Required "bprm_check_security" program "bprm_check" ("bprm")
        decides "running a program"
        without "programs could be run whatever the policy says";

    // Sockets
    SocketConnect: Lsm Required "socket_connect" program "socket_connect" ("sock", "address", "addrlen")
        decides "connecting a socket"
        without "connections could be made whatever the policy says";
    SocketSendmsg: Lsm Required "socket_sendmsg" program "socket_sendmsg" ("sock", "msg", "size")
        decides "sending to an address"
        without "datagrams could be sent anywhere without a connection";

    // Tasks, and what else reaches out of an agent
    TaskAlloc: Lsm Required "task_alloc" program "task_alloc" ("task", "clone_flags")
        decides "inheriting the agent at fork"
        without "a child could shed the policy by leaving the cgroup";

    // Tiers trace and observe
    SysExit: Tracepoint Required "sys_exit" program "sys_exit"
        decides "opening a file"
        without "an open could not be judged by the file that it resolved to";
    SchedExec: Tracepoint Required "sched_process_exec" program "sched_exec"
        decides "running a program"
        without "programs could be run whatever the policy says";
    Connect4: Cgroup Required "connect4" program "connect4"
        decides "connecting over IPv4"
        without "IPv4 connections could be made whatever the policy says";
    Connect6: Cgroup Required "connect6" program "connect6"
        decides "connecting over IPv6"
        without "IPv6 connections could be made whatever the policy says";
    Sendmsg4: Cgroup Required "sendmsg4" program "sendmsg4"
        decides "sending over IPv4"
        without "IPv4 datagrams could be sent anywhere without a connection";
    Sendmsg6: Cgroup Required "sendmsg6" program "sendmsg6"
        decides "sending over IPv6"
        without "IPv6 datagrams could be sent anywhere without a connection";

    // Host names: what the DNS proxy's clients see
    Recvmsg4: Cgroup Required "recvmsg4" program "recvmsg4"
        decides "showing whom an IPv4 answer comes from"
        without "programs would take the answers of the DNS proxy for somebody else's";
    Recvmsg6: Cgroup Required "recvmsg6" program "recvmsg6"
        decides "showing whom an IPv6 answer comes from"
        without "programs would take the answers of the DNS proxy for somebody else's";
    Getpeername4: Cgroup Required "getpeername4" program "getpeername4"
        decides "showing whom a socket is connected to over IPv4"
        without "programs would see the DNS proxy in place of their name server";
    Getpeername6: Cgroup Required "getpeername6" program "getpeername6"
        decides "showing whom a socket is connected to over IPv6"
        without "programs would see the DNS proxy in place of their name server";
}

impl Hook {
    /// Number of hooks.
    pub const COUNT: u32 = Self::TABLE.len() as u32;

    /// The hook with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::TABLE.get(usize::from(number)).map(|spec| spec.hook)
    }

    /// The row of this hook.
    #[expect(clippy::indexing_slicing, reason = "enum and table are declared by the same lines")]
    pub fn spec(self) -> &'static HookSpec {
        &Self::TABLE[self as usize]
    }
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

    #[test]
    fn every_program_is_named_once() {
        for (number, spec) in Hook::TABLE.iter().enumerate() {
            let others = Hook::TABLE.iter().skip(number + 1);
            assert!(
                others.into_iter().all(|other| other.program != spec.program),
                "{}",
                spec.program
            );
        }
    }
}
