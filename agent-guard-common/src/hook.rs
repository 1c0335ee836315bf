//! The table of hooks: what each is called, what it is given and what it decides.
//!
//! A tier whose hook is missing is not to be had, unless the row says that the hook is optional: then
//! nothing goes undecided without it, and its `without` says why.

/// The tier whose programs a hook belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookTier {
    /// A BPF LSM program.
    Lsm,
    /// A program at the return of a kernel function, for tier `lsm`: it decides nothing, and tells of what the
    /// kernel refuses without asking a hook.
    Return,
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
    /// Nothing: such a kernel can not do what the hook decides, or brings it to another hook.
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

/// The number in place of a prototype's where the kernel lacks the hook.
pub const NO_PROTOTYPE: u8 = u8::MAX;

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
    // Files. What makes the guard forget is attached before what makes it remember.
    InodeLink: Lsm Required "inode_link" program "inode_link" ("old_dentry", "dir", "new_dentry")
        decides "nothing: it makes the guard forget what it knew of a file by its only name"
        without "a file could be opened by a new name for what was decided of its old one";
    InodeUnlink: Lsm Required "inode_unlink" program "inode_unlink" ("dir", "dentry")
        decides "removing a message queue; of a file with several names it makes the guard forget what it knew"
        without "message queues could be removed whatever the policy says";
    InodeFree: Lsm Required "inode_free_security" program "inode_free" ("inode")
        decides "nothing: it makes the guard forget what it knew of a directory"
        without "a directory could be taken for one that was removed";
    FileOpen: Lsm Required "file_open" program "file_open" ("file")
        decides "opening a file"
        without "files could be opened whatever the policy says";
    PathMknod: Lsm Required "path_mknod" program "path_mknod" ("dir", "dentry", "mode", "dev")
        decides "creating a file, device, FIFO or socket"
        without "files could be created anywhere, and a refused open could leave an empty one behind";
    PathMkdir: Lsm Required "path_mkdir" program "path_mkdir" ("dir", "dentry", "mode")
        decides "making a directory"
        without "directories could be made anywhere";
    PathSymlink: Lsm Required "path_symlink" program "path_symlink" ("dir", "dentry", "old_name")
        decides "making a symbolic link"
        without "symbolic links could be planted for others to follow";
    PathUnlink: Lsm Required "path_unlink" program "path_unlink" ("dir", "dentry")
        decides "removing a file"
        without "files could be removed whatever the policy says";
    PathRmdir: Lsm Required "path_rmdir" program "path_rmdir" ("dir", "dentry")
        decides "removing a directory"
        without "directories could be removed whatever the policy says";
    PathRename: Lsm Required "path_rename" program "path_rename"
        ("old_dir", "old_dentry", "new_dir", "new_dentry", "flags")
        decides "renaming and exchanging"
        without "a denied file could be moved to where it is allowed";
    PathLink: Lsm Required "path_link" program "path_link" ("old_dentry", "new_dir", "new_dentry")
        decides "giving a file another name"
        without "a denied file could be given an allowed name";
    PathTruncate: Lsm Required "path_truncate" program "path_truncate" ("path")
        decides "truncating by name"
        without "files could be emptied without being opened";
    PathChmod: Lsm Required "path_chmod" program "path_chmod" ("path", "mode")
        decides "changing a mode"
        without "modes could be changed whatever the policy says";
    PathChown: Lsm Required "path_chown" program "path_chown" ("path", "uid", "gid")
        decides "changing an owner"
        without "owners could be changed whatever the policy says";
    InodeSetattr: Lsm Required "inode_setattr" program "inode_setattr"
        ("dentry", "attr") ("idmap", "dentry", "attr")
        decides "setting times"
        without "times could be set whatever the policy says";
    InodeSetxattr: Lsm Required "inode_setxattr" program "inode_setxattr"
        ("mnt_userns", "dentry", "name", "value", "size", "flags")
        ("idmap", "dentry", "name", "value", "size", "flags")
        decides "setting an extended attribute"
        without "extended attributes could be set whatever the policy says";
    InodeRemovexattr: Lsm Required "inode_removexattr" program "inode_removexattr"
        ("mnt_userns", "dentry", "name") ("idmap", "dentry", "name")
        decides "removing an extended attribute"
        without "extended attributes could be removed whatever the policy says";
    InodeCreate: Lsm Required "inode_create" program "inode_create" ("dir", "dentry", "mode")
        decides "making a message queue"
        without "message queues could be made whatever the policy says";
    /// Before 6.2 these are extended attributes like others.
    InodeSetAcl: Lsm Optional "inode_set_acl" program "inode_set_acl" ("idmap", "dentry", "acl_name", "kacl")
        decides "setting an access control list"
        without "nothing: this kernel sets the lists as extended attributes";
    InodeRemoveAcl: Lsm Optional "inode_remove_acl" program "inode_remove_acl" ("idmap", "dentry", "acl_name")
        decides "removing an access control list"
        without "nothing: this kernel removes the lists as extended attributes";
    FileFcntl: Lsm Required "file_fcntl" program "file_fcntl" ("file", "cmd", "arg")
        decides "having the kernel send signals about a file"
        without "an agent could have the kernel signal processes outside";
    FileIoctl: Lsm Required "file_ioctl" program "file_ioctl" ("file", "cmd", "arg")
        decides "setting flags of a file, typing into a terminal, having the kernel send signals"
        without "an agent could type into the terminal that it was started from, and change a file's flags";
    FileIoctlCompat: Lsm Optional "file_ioctl_compat" program "file_ioctl_compat" ("file", "cmd", "arg")
        decides "the same, by 32-bit calls"
        without "nothing: this kernel brings 32-bit calls to file_ioctl";
    InodeFileSetattr: Lsm Optional "inode_file_setattr" program "inode_file_setattr" ("dentry", "fa")
        decides "setting flags of a file by its name"
        without "nothing: this kernel sets flags by ioctl only";

    // Programs
    BprmCheck: Lsm Required "bprm_check_security" program "bprm_check" ("bprm")
        decides "running a program"
        without "programs could be run whatever the policy says";
    MmapFile: Lsm Required "mmap_file" program "mmap_file"
        ("file", "reqprot", "prot", "flags") ("file__nullable", "reqprot", "prot", "flags")
        decides "mapping a file as code"
        without "the code of a denied program could be mapped and run";
    FileMprotect: Lsm Required "file_mprotect" program "file_mprotect" ("vma", "reqprot", "prot")
        decides "making a mapped file code"
        without "a denied program could be mapped as data and made code later";

    // Descriptors
    FileReceive: Lsm Required "file_receive" program "file_receive" ("file")
        decides "receiving a descriptor"
        without "files that others opened could be received whatever the policy says";

    // Sockets
    SocketConnect: Lsm Required "socket_connect" program "socket_connect" ("sock", "address", "addrlen")
        decides "connecting a socket"
        without "connections could be made whatever the policy says";
    SocketSendmsg: Lsm Required "socket_sendmsg" program "socket_sendmsg" ("sock", "msg", "size")
        decides "sending to an address"
        without "datagrams could be sent anywhere without a connection";
    SocketCreate: Lsm Required "socket_create" program "socket_create" ("family", "type", "protocol", "kern")
        decides "making a socket"
        without "sockets of families that no rule can name could be made";
    SocketBind: Lsm Required "socket_bind" program "socket_bind" ("sock", "address", "addrlen")
        decides "receiving on a UDP port"
        without "datagrams could be received on any port";
    SocketListen: Lsm Required "socket_listen" program "socket_listen" ("sock", "backlog")
        decides "listening on a TCP port"
        without "connections could be taken on any port";
    SocketAccept: Lsm Required "socket_accept" program "socket_accept" ("sock", "newsock")
        decides "accepting on a listener that was handed in"
        without "connections could be taken on listeners of others";
    SocketSetsockopt: Lsm Required "socket_setsockopt" program "socket_setsockopt" ("sock", "level", "optname")
        decides "setting a source route"
        without "packets could be sent elsewhere than was judged";
    UnixStreamConnect: Lsm Required "unix_stream_connect" program "unix_stream_connect" ("sock", "other", "newsk")
        decides "connecting to a UNIX-domain socket"
        without "services of this host could be asked to act outside of the policy";
    UnixMaySend: Lsm Required "unix_may_send" program "unix_may_send" ("sock", "other")
        decides "sending to a UNIX-domain socket"
        without "datagrams could be sent to any service of this host";
    NetlinkSend: Lsm Required "netlink_send" program "netlink_send" ("sk", "skb")
        decides "asking the kernel over netlink"
        without "the kernel's network could be changed by a socket that was handed in";

    // Tasks, and what else reaches out of an agent
    TaskAlloc: Lsm Required "task_alloc" program "task_alloc" ("task", "clone_flags")
        decides "inheriting the agent at fork; starting in another cgroup"
        without "a child could shed the policy by leaving the cgroup";
    PtraceAccessCheck: Lsm Required "ptrace_access_check" program "ptrace_access_check" ("child", "mode")
        decides "reading or steering a process outside"
        without "processes outside could be traced, and their memory and descriptors taken";
    PtraceTraceme: Lsm Required "ptrace_traceme" program "ptrace_traceme" ("parent")
        decides "being traced by a process outside"
        without "an agent could have a process outside steer it";
    TaskKill: Lsm Required "task_kill" program "task_kill" ("p", "info", "sig", "cred")
        decides "sending a signal to a process outside"
        without "the guard, and others of the agent's user, could be killed";
    TaskSetrlimit: Lsm Required "task_setrlimit" program "task_setrlimit" ("p", "resource", "new_rlim")
        decides "limiting a process outside"
        without "the guard could be starved of descriptors or memory";
    TaskSetscheduler: Lsm Required "task_setscheduler" program "task_setscheduler" ("p")
        decides "scheduling a process outside"
        without "the guard could be kept from running";
    TaskSetnice: Lsm Required "task_setnice" program "task_setnice" ("p", "nice")
        decides "changing the priority of a process outside"
        without "the guard could be slowed down";
    TaskSetioprio: Lsm Required "task_setioprio" program "task_setioprio" ("p", "ioprio")
        decides "changing the disk priority of a process outside"
        without "the guard's log could be slowed down";
    TaskMovememory: Lsm Required "task_movememory" program "task_movememory" ("p")
        decides "moving the memory of a process outside"
        without "the guard's memory could be moved about";

    // The system
    SbMount: Lsm Required "sb_mount" program "sb_mount" ("dev_name", "path", "type", "flags", "data")
        decides "mounting"
        without "files could be mounted over others";
    SbRemount: Lsm Required "sb_remount" program "sb_remount" ("sb", "mnt_opts")
        decides "changing a mounted file system"
        without "a file system could be changed for everybody who has it mounted";
    SbUmount: Lsm Required "sb_umount" program "sb_umount" ("mnt", "flags")
        decides "unmounting"
        without "what a mount hides could be uncovered";
    SbPivotroot: Lsm Required "sb_pivotroot" program "sb_pivotroot" ("old_path", "new_path")
        decides "exchanging the root"
        without "the root could be exchanged";
    MoveMount: Lsm Required "move_mount" program "move_mount" ("from_path", "to_path")
        decides "attaching a mount"
        without "a mount that was made detached could be attached";
    PathChroot: Lsm Required "path_chroot" program "path_chroot" ("path")
        decides "changing the root"
        without "the root could be changed";
    UsernsCreate: Lsm Required "userns_create" program "userns_create" ("cred")
        decides "making a user namespace"
        without "an agent could gain every capability over namespaces of its own";
    Bpf: Lsm Required "bpf" program "bpf" ("cmd", "attr", "size") ("cmd", "attr", "size", "kernel")
        decides "using bpf(2)"
        without "the guard's own programs and maps could be reached";
    PerfEventOpen: Lsm Required "perf_event_open" program "perf_event_open" ("attr", "type") ("type")
        decides "opening a performance counter"
        without "other processes could be observed";
    KernelLoadData: Lsm Required "kernel_load_data" program "kernel_load_data" ("id", "contents")
        decides "handing code to the kernel from memory"
        without "a kernel module could be loaded";
    KernelReadFile: Lsm Required "kernel_read_file" program "kernel_read_file" ("file", "id", "contents")
        decides "handing code to the kernel from a file"
        without "a kernel module could be loaded";

    Syslog: Lsm Required "syslog" program "syslog" ("type")
        decides "using the kernel's log"
        without "what the kernel says of others could be read where its settings let everybody";
    Capable: Lsm Required "capable" program "capable" ("cred", "ns", "cap", "opts")
        decides "namespaces, the clock and what else takes a capability and has no hook of its own"
        without "who has the capability could enter namespaces, set the clock, reboot and the like";
    CapabilityCheck: Return Optional "security_capable" program "capability_check"
        ("cred", "ns", "cap", "opts")
        decides "telling of what fails for want of a capability"
        without "nothing: what fails for want of a capability fails all the same, and no event tells of it";
    SetschedulerCheck: Return Optional "security_task_setscheduler" program "setscheduler_check" ("p")
        decides "telling of a process outside that may not be scheduled"
        without "nothing: it fails all the same, and no event tells of it";
    SetniceCheck: Return Optional "security_task_setnice" program "setnice_check" ("p", "nice")
        decides "telling of a process outside whose priority may not be changed"
        without "nothing: it fails all the same, and no event tells of it";
    SetioprioCheck: Return Optional "security_task_setioprio" program "setioprio_check" ("p", "ioprio")
        decides "telling of a process outside whose disk priority may not be changed"
        without "nothing: it fails all the same, and no event tells of it";

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
    fn nothing_goes_undecided_without_an_optional_hook() {
        for spec in Hook::TABLE {
            let nothing = spec.without.starts_with("nothing: ");
            assert_eq!(nothing, spec.need == Need::Optional, "{}", spec.name);
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
