//! File systems that call a file what nobody called it.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    process::Command,
};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Whether this kernel has such: older guests lack the ciphers, which are modules, and tmpfs takes names in any
/// case from 6.13 on.
pub fn are_to_be_had() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap(), parts.next().unwrap()) >= (6, 13)
}

/// Has the names in an empty directory encrypted, with a key that the file system holds from then on
/// (`include/uapi/linux/fscrypt.h`). The disk below is told that it may hold such.
pub fn encrypt(directory: &Path) {
    const ADD_KEY: libc::c_ulong = 0xc050_6617;
    const SET_POLICY: libc::c_ulong = 0x800c_6613;
    const IDENTIFIER: u32 = 2;
    const KEY: [u8; 64] = [7; 64];
    let disk = disk_of(directory);
    let told = Command::new("tune2fs").args(["-O", "encrypt"]).arg(&disk).output().unwrap();
    assert!(told.status.success(), "{disk:?}: {}", String::from_utf8_lossy(&told.stderr));

    // The kind of key and what it is called, its length, a place for another key, and the key.
    let mut add = [0; 80 + KEY.len()];
    add[..4].copy_from_slice(&IDENTIFIER.to_ne_bytes());
    add[40..44].copy_from_slice(&u32::try_from(KEY.len()).unwrap().to_ne_bytes());
    add[80..].copy_from_slice(&KEY);
    let opened = File::open(directory).unwrap();
    control(&opened, ADD_KEY, &mut add).unwrap();
    // Version 2; AES-256 for contents and names; names padded to 32 bytes; and what the key is called.
    let mut policy = [0; 24];
    policy[..4].copy_from_slice(&[2, 1, 4, 3]);
    policy[8..].copy_from_slice(&add[8..24]);
    control(&opened, SET_POLICY, &mut policy).unwrap();
    File::create(directory.join("first")).unwrap();
}

fn control(file: &File, command: libc::c_ulong, argument: &mut [u8]) -> io::Result<()> {
    // SAFETY: the command reads and writes what its structure has, which the argument holds.
    match unsafe { libc::ioctl(file.as_raw_fd(), command, argument.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The block device that this lies on.
fn disk_of(path: &Path) -> PathBuf {
    let dev = fs::metadata(path).unwrap().dev();
    let of = |entry: &fs::DirEntry| {
        entry.metadata().is_ok_and(|it| it.file_type().is_block_device() && it.rdev() == dev)
    };
    let devices = fs::read_dir("/dev").unwrap().map(Result::unwrap);
    devices.filter(of).map(|entry| entry.path()).next().unwrap()
}

/// A mount, until this is gone.
pub struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Mounts a file system that takes names in any case.
pub fn mount_in_any_case(at: &Path) -> Mounted {
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), Some(c"casefold")).unwrap();
    Mounted(at.to_owned())
}
