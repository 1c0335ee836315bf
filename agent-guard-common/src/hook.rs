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
    /// A cgroup program, for tier `trace`.
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
    // Files
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
    InodeUnlink: Lsm Required "inode_unlink" program "inode_unlink" ("dir", "dentry")
        decides "removing a message queue"
        without "message queues could be removed whatever the policy says";
    /// Before 6.2 these are extended attributes like others.
    InodeSetAcl: Lsm Optional "inode_set_acl" program "inode_set_acl" ("idmap", "dentry", "acl_name", "kacl")
        decides "setting an access control list"
        without "nothing: this kernel sets the lists as extended attributes";
    InodeRemoveAcl: Lsm Optional "inode_remove_acl" program "inode_remove_acl" ("idmap", "dentry", "acl_name")
        decides "removing an access control list"
        without "nothing: this kernel removes the lists as extended attributes";
    FileIoctl: Lsm Required "file_ioctl" program "file_ioctl" ("file", "cmd", "arg")
        decides "setting flags of a file"
        without "a descriptor for reading could change a file's flags";
    FileIoctlCompat: Lsm Optional "file_ioctl_compat" program "file_ioctl_compat" ("file", "cmd", "arg")
        decides "setting flags of a file by a 32-bit call"
        without "nothing: this kernel brings 32-bit calls to file_ioctl";
    InodeFileSetattr: Lsm Optional "inode_file_setattr" program "inode_file_setattr" ("dentry", "fa")
        decides "setting flags of a file by its name"
        without "nothing: this kernel sets flags by ioctl only";

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
