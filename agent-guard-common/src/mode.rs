//! The kind of an inode, which is a part of its mode (`include/uapi/linux/stat.h`).

/// The part: `S_IFMT`.
pub const FORMAT: u16 = 0o170000;
/// A regular file.
pub const REGULAR: u16 = 0o100000;
/// A directory.
pub const DIRECTORY: u16 = 0o040000;
/// A character device.
pub const CHARACTER: u16 = 0o020000;
/// A block device.
pub const BLOCK: u16 = 0o060000;
