//! Device nodes: which of them a wildcard may open.

/// `S_IFMT` of an inode's mode, and the two kinds of device.
const FORMAT: u16 = 0o170000;
const CHARACTER: u16 = 0o020000;
const BLOCK: u16 = 0o060000;

/// Whether an inode is a device that a rule must name exactly: all but the harmless ones. `rdev` is
/// the kernel's own number, major << 20 | minor.
#[inline(always)]
pub fn is_guarded(mode: u16, rdev: u32) -> bool {
    match mode & FORMAT {
        BLOCK => true,
        CHARACTER => !matches!(
            (rdev >> 20, rdev & 0xf_ffff),
            // null, zero, full, random, urandom; tty, ptmx; the pseudo terminals
            (1, 3 | 5 | 7 | 8 | 9) | (5, 0 | 2) | (136..=143, _)
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_and_memory_are_guarded_and_null_is_not() {
        assert!(is_guarded(BLOCK | 0o660, 254 << 20));
        assert!(is_guarded(CHARACTER, 1 << 20 | 1));
        assert!(!is_guarded(CHARACTER | 0o666, 1 << 20 | 3));
        assert!(!is_guarded(CHARACTER, 136 << 20 | 7));
        assert!(!is_guarded(0o100644, 1 << 20 | 1));
    }
}
