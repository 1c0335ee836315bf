//! Guarded objects: what no wildcard opens, so that a rule must name it exactly.

use crate::mode::{BLOCK, CHARACTER, DIRECTORY, FORMAT};

/// `s_magic` of cgroup v1 and v2 (`include/uapi/linux/magic.h`, as are those below).
const CGROUP_MAGIC: u64 = 0x27_e0eb;
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// The file system of pseudo terminals.
pub const DEVPTS_MAGIC: u64 = 0x1cd1;

/// Device number of `ptmx`, which makes a pseudo terminal whenever it is opened.
const PTMX: u32 = 5 << 20 | 2;

/// What is known of an object beside its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// `s_magic` of its file system.
    pub magic: u64,
    /// Mode of its inode, or 0 where it has none yet.
    pub mode: u16,
    /// Device number of a device node, the kernel's own: major << 20 | minor.
    pub rdev: u32,
}

/// Whether a rule must name the object exactly: devices other than the harmless ones; of the cgroup
/// trees the directories, through which a process is started outside its agent
/// (`CLONE_INTO_CGROUP`), and every write; and every write to the other file systems of the kernel's own.
#[inline(always)]
pub fn is_guarded(node: &Node, writes: bool) -> bool {
    let format = node.mode & FORMAT;
    if is_cgroup(node.magic) {
        return writes || format == DIRECTORY;
    }
    writes && is_kernel_owned(node.magic) || is_guarded_device(format, node.rdev)
}

/// Whether a file system with this `s_magic` is a cgroup tree.
#[inline(always)]
pub fn is_cgroup(magic: u64) -> bool {
    matches!(magic, CGROUP_MAGIC | CGROUP2_MAGIC)
}

/// Whether the kernel itself is read and set through a file system, beside the cgroup trees.
#[inline(always)]
fn is_kernel_owned(magic: u64) -> bool {
    matches!(
        magic,
        0x9fa0 // proc
            | 0x6265_6572 // sysfs
            | 0xcafe_4a11 // bpf
            | 0x7472_6163 // tracefs
            | 0x6462_6720 // debugfs
            | 0x6265_6570 // configfs (fs/configfs/mount.c)
            | 0x7363_6673 // securityfs
            | 0x5a3c_69f0 // apparmorfs
            | 0xf97c_ff8c // selinuxfs
            | 0x4341_5d53 // smackfs
            | 0xde5e_81e4 // efivarfs
            | 0x4249_4e4d // binfmt_misc
            | 0x6165_676c // pstore
            | 0x6573_5543 // fusectl (fs/fuse/control.c)
            | 0x0765_5821 // resctrl
            | 0x6e73_6673 // nsfs
            | 0xabba_1974 // xenfs
            | 0x6c6f_6f70 // binderfs
    )
}

/// Whether a device is a pseudo terminal, the end that programs run on. Whose it is decides whether it is guarded.
#[inline(always)]
pub fn is_pseudo_terminal(mode: u16, rdev: u32) -> bool {
    mode & FORMAT == CHARACTER && matches!(rdev >> 20, 136..=143)
}

/// Whether a device is `ptmx`: opened, it is the other end, which has all that passes through.
#[inline(always)]
pub fn is_ptmx(mode: u16, rdev: u32) -> bool {
    mode & FORMAT == CHARACTER && rdev == PTMX
}

#[inline(always)]
fn is_guarded_device(format: u16, rdev: u32) -> bool {
    match format {
        BLOCK => true,
        CHARACTER => !matches!(
            (rdev >> 20, rdev & 0xf_ffff),
            // null, zero, full, random, urandom; tty, ptmx; pseudo terminals, unless they are another's
            (1, 3 | 5 | 7 | 8 | 9) | (5, 0 | 2) | (136..=143, _)
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXT4: u64 = 0xef53;

    #[test]
    fn disks_and_memory_are_guarded_and_null_is_not() {
        let guarded = |mode, rdev| is_guarded(&Node { magic: EXT4, mode, rdev }, false);
        assert!(guarded(BLOCK | 0o660, 254 << 20));
        assert!(guarded(CHARACTER, 1 << 20 | 1));
        assert!(!guarded(CHARACTER | 0o666, 1 << 20 | 3));
        assert!(!guarded(CHARACTER, 136 << 20 | 7));
        assert!(!guarded(0o100644, 1 << 20 | 1));
    }

    #[test]
    fn the_ends_of_a_pseudo_terminal_are_told_apart() {
        for minor in [0, 7, 0xf_ffff] {
            assert!(is_pseudo_terminal(CHARACTER | 0o620, 136 << 20 | minor));
        }
        assert!(is_pseudo_terminal(CHARACTER, 143 << 20));
        // A console, a serial line, what stands for the caller's own terminal, a disk.
        for (format, major, minor) in
            [(CHARACTER, 4, 1), (CHARACTER, 4, 64), (CHARACTER, 5, 0), (BLOCK, 136, 0)]
        {
            assert!(!is_pseudo_terminal(format, major << 20 | minor));
        }
        assert!(
            !is_pseudo_terminal(CHARACTER, 135 << 20) && !is_pseudo_terminal(CHARACTER, 144 << 20)
        );
        assert!(is_ptmx(CHARACTER | 0o666, PTMX));
        assert!(!is_ptmx(BLOCK, PTMX) && !is_ptmx(CHARACTER, 5 << 20));
    }

    #[test]
    fn the_cgroup_trees_can_be_read_and_not_entered() {
        for magic in [CGROUP_MAGIC, CGROUP2_MAGIC] {
            assert!(!is_guarded(&Node { magic, mode: 0o100444, rdev: 0 }, false));
            assert!(is_guarded(&Node { magic, mode: 0o100644, rdev: 0 }, true));
            assert!(is_guarded(&Node { magic, mode: DIRECTORY | 0o755, rdev: 0 }, false));
        }
    }

    #[test]
    fn the_kernels_own_file_systems_can_be_read_and_not_written() {
        for magic in [0x9fa0, 0x6265_6572, 0xcafe_4a11, 0x7472_6163, 0x6462_6720, 0x4249_4e4d] {
            let file = Node { magic, mode: 0o100644, rdev: 0 };
            assert!(is_guarded(&file, true) && !is_guarded(&file, false), "{magic:#x}");
        }
        assert!(!is_guarded(&Node { magic: EXT4, mode: 0o100644, rdev: 0 }, true));
    }
}
