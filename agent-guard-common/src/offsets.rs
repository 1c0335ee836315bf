//! Where the members of kernel structs lie, in bytes.
//!
//! The loader fills this from the running kernel's BTF before the programs are loaded; the verifier
//! then sees constants. One object file thus fits every kernel, and a member that is not found is an
//! error that names it, never a zero.

macro_rules! offsets {
    ($($(#[$doc:meta])* $field:ident: $path:literal,)*) => {
        /// Byte offsets inside kernel structs. The comment of each field is its path.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Offsets {
            $(#[doc = $path] $(#[$doc])* pub $field: u32,)*
        }

        impl Offsets {
            /// The struct and the member path of each field, in order: what the loader looks up.
            pub const PATHS: &'static [&'static str] = &[$($path,)*];

            /// Fills the fields in the order of [`Self::PATHS`].
            pub fn from_fn<E>(mut offset: impl FnMut(&'static str) -> Result<u32, E>) -> Result<Self, E> {
                Ok(Self { $($field: offset($path)?,)* })
            }
        }
    };
}

offsets! {
    file_dentry: "file.f_path.dentry",
    file_inode: "file.f_inode",
    file_flags: "file.f_flags",
    file_mode: "file.f_mode",
    dentry_parent: "dentry.d_parent",
    dentry_name: "dentry.d_name.name",
    dentry_inode: "dentry.d_inode",
    dentry_sb: "dentry.d_sb",
    sb_dev: "super_block.s_dev",
    sb_root: "super_block.s_root",
    sb_magic: "super_block.s_magic",
    inode_mode: "inode.i_mode",
    inode_rdev: "inode.i_rdev",
    inode_ino: "inode.i_ino",
    bprm_file: "linux_binprm.file",
    task_files: "task_struct.files",
    task_parent: "task_struct.real_parent",
    task_tgid: "task_struct.tgid",
    task_cgroups: "task_struct.cgroups",
    task_pid_links: "task_struct.pid_links",
    task_status: "task_struct.thread_info.status",
    task_signal: "task_struct.signal",
    signal_threads: "signal_struct.nr_threads",
    files_count: "files_struct.count",
    files_fdt: "files_struct.fdt",
    fdt_fd: "fdtable.fd",
    fdt_max: "fdtable.max_fds",
    css_set_cgroup: "css_set.dfl_cgrp",
    cgroup_kn: "cgroup.kn",
    cgroup_parent: "cgroup.self.parent",
    kernfs_id: "kernfs_node.id",
    proc_inode_pid: "proc_inode.pid",
    proc_inode_vfs: "proc_inode.vfs_inode",
    pid_tasks: "pid.tasks",
    socket_sk: "socket.sk",
    socket_type: "socket.type",
    sock_protocol: "sock.sk_protocol",
    sock_family: "sock.__sk_common.skc_family",
    sock_cgroup: "sock.sk_cgrp_data.cgroup",
    msg_name: "msghdr.msg_name",
    msg_namelen: "msghdr.msg_namelen",
    regs_ax: "pt_regs.ax",
    regs_orig_ax: "pt_regs.orig_ax",
    regs_si: "pt_regs.si",
    regs_cx: "pt_regs.cx",
    regs_dx: "pt_regs.dx",
}
