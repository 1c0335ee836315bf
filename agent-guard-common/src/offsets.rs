//! Where the members of kernel structs lie, in bytes.
//!
//! The loader fills this from the running kernel's BTF before the programs are loaded; the verifier
//! then sees constants. One object file thus fits every kernel, and a member that is not found is an
//! error that names it, never a zero.

/// In place of the offset of a member that this kernel was built without.
pub const ABSENT: u32 = u32::MAX;

macro_rules! offsets {
    ($($(#[$doc:meta])* $field:ident: $path:literal,)*) => {
        /// Byte offsets inside kernel structs. The comment of each field is its path; what kernels call
        /// differently has several, the newest first, with a `|` between.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Offsets {
            $(#[doc = $path] $(#[$doc])* pub $field: u32,)*
        }

        impl Offsets {
            /// The struct and the member path of each field, in order: what the loader looks up.
            pub const PATHS: &'static [&'static str] = &[$($path,)*];

            /// Those that a kernel may be built without; their offset is then [`ABSENT`].
            pub const OPTIONAL: &'static [&'static str] = &["task_struct.io_uring", "super_block.s_encoding"];

            /// Fills the fields in the order of [`Self::PATHS`].
            pub fn from_fn<E>(mut offset: impl FnMut(&'static str) -> Result<u32, E>) -> Result<Self, E> {
                Ok(Self { $($field: offset($path)?,)* })
            }
        }
    };
}

offsets! {
    file_dentry: "file.f_path.dentry",
    file_mount: "file.f_path.mnt",
    file_inode: "file.f_inode",
    file_flags: "file.f_flags",
    file_mode: "file.f_mode",
    file_private: "file.private_data",
    dentry_parent: "dentry.d_parent",
    dentry_name: "dentry.d_name.name",
    dentry_hashed: "dentry.d_hash.pprev",
    dentry_inode: "dentry.d_inode",
    dentry_sb: "dentry.d_sb",
    dentry_private: "dentry.d_fsdata",
    path_dentry: "path.dentry",
    mount_vfs: "mount.mnt",
    mount_namespace: "mount.mnt_ns",
    sb_flags: "super_block.s_flags",
    sb_dev: "super_block.s_dev",
    sb_root: "super_block.s_root",
    sb_magic: "super_block.s_magic",
    sb_encoding: "super_block.s_encoding",
    inode_sb: "inode.i_sb",
    inode_mode: "inode.i_mode",
    inode_rdev: "inode.i_rdev",
    inode_ino: "inode.i_ino",
    inode_links: "inode.i_nlink",
    inode_generation: "inode.i_generation",
    inode_changed_s: "inode.i_ctime_sec|inode.__i_ctime.tv_sec|inode.i_ctime.tv_sec",
    inode_changed_ns: "inode.i_ctime_nsec|inode.__i_ctime.tv_nsec|inode.i_ctime.tv_nsec",
    iattr_valid: "iattr.ia_valid",
    inode_flags: "inode.i_flags",
    bprm_file: "linux_binprm.file",
    vma_file: "vm_area_struct.vm_file",
    vma_flags: "vm_area_struct.vm_flags",
    task_mm: "task_struct.mm",
    mm_exe_file: "mm_struct.exe_file",
    task_files: "task_struct.files",
    task_flags: "task_struct.flags",
    task_cred: "task_struct.cred",
    task_real_cred: "task_struct.real_cred",
    task_io_uring: "task_struct.io_uring",
    task_stack: "task_struct.stack",
    task_parent: "task_struct.real_parent",
    task_tgid: "task_struct.tgid",
    task_cgroups: "task_struct.cgroups",
    task_storage: "task_struct.bpf_storage",
    task_pid_links: "task_struct.pid_links",
    task_leader: "task_struct.group_leader",
    task_pid: "task_struct.thread_pid",
    task_status: "task_struct.thread_info.status",
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
    pid_level: "pid.level",
    pid_numbers: "pid.numbers",
    tty_file_tty: "tty_file_private.tty",
    tty_link: "tty_struct.link",
    tty_flags: "tty_struct.flags",
    tty_private: "tty_struct.driver_data",
    tty_session: "tty_struct.ctrl.session",
    socket_sk: "socket.sk",
    socket_type: "socket.type",
    sock_protocol: "sock.sk_protocol",
    sock_family: "sock.__sk_common.skc_family",
    sock_peer_v4: "sock.__sk_common.skc_daddr",
    sock_peer_v6: "sock.__sk_common.skc_v6_daddr",
    sock_peer_port: "sock.__sk_common.skc_dport",
    sock_own_v4: "sock.__sk_common.skc_rcv_saddr",
    sock_own_v6: "sock.__sk_common.skc_v6_rcv_saddr",
    sock_own_port: "sock.__sk_common.skc_num",
    sock_cgroup: "sock.sk_cgrp_data.cgroup",
    unix_address: "unix_sock.addr",
    unix_dentry: "unix_sock.path.dentry",
    unix_peer: "unix_sock.peer",
    unix_address_len: "unix_address.len",
    unix_address_name: "unix_address.name",
    skb_data: "sk_buff.data",
    skb_len: "sk_buff.len",
    skb_data_len: "sk_buff.data_len",
    msg_name: "msghdr.msg_name",
    msg_namelen: "msghdr.msg_namelen",
    msg_control: "msghdr.msg_control",
    msg_controllen: "msghdr.msg_controllen",
    regs_ax: "pt_regs.ax",
    regs_orig_ax: "pt_regs.orig_ax",
    regs_bx: "pt_regs.bx",
    regs_di: "pt_regs.di",
    regs_si: "pt_regs.si",
    regs_cx: "pt_regs.cx",
    regs_dx: "pt_regs.dx",
    user_namespace_level: "user_namespace.level",
}
