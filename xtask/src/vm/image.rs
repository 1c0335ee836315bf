//! The guest's disks: a root that is made once, and the repository with the release build, made
//! for each run.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{cache::Cache, guest};
use crate::{
    apt::{self, Mirrors},
    build,
    process::{command, output, retry, run, say},
};

/// What the guest has beside Debian's minimal base.
const PACKAGES: [&str; 34] = [
    "attr",
    "bind9-dnsutils",
    "bpftool",
    "bubblewrap",
    "busybox-static",
    "ca-certificates",
    "crun",
    "curl",
    "dnsmasq-base",
    "gcc",
    "git",
    "iproute2",
    "libc6-dev",
    "libcap2-bin",
    "liburing-dev",
    "logrotate",
    "make",
    "musl-tools",
    "nodejs",
    "openssh-client",
    "openssl",
    "podman",
    "procps",
    "python3-minimal",
    "python3-pytest",
    "python3-venv",
    "strace",
    "python3",
    "rsyslog",
    "rsyslog-gnutls",
    "unbound",
    "unzip",
    "util-linux",
    "vim-tiny",
];
/// Room on the root for what a command writes, in MiB. Unused room takes none on this machine.
const ROOT_ROOM: u64 = 1024;
/// Room beside the repository, in MiB.
const SOURCE_ROOM: u64 = 256;
/// Where the root's file system starts in its image: behind a partition table, by which the kernel
/// finds it (disks have no fixed names, as they are probed side by side).
const ROOT_OFFSET: u64 = 1 << 20;
const SECTOR: u64 = 512;
const DISK_ID: u32 = 0xa6e7_9a4d;
pub const ROOT_PARTITION: &str = "PARTUUID=a6e79a4d-01";
/// The label of the disk with the repository.
const SOURCE_LABEL: &str = "source";

/// The first program: brings in the disk with the repository, which has the rest.
const INIT: &str = "#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
until mount LABEL=source /src 2>/dev/null; do sleep 0.05; done
exec /src/target/release/xtask guest
";
pub const INIT_PATH: &str = "/sbin/agent-guard-init";

/// The root image, made if it is not in the cache.
pub fn root(cache: &Cache) -> Result<PathBuf> {
    // Programs built here run there, so it is the same release with the same libc.
    let release = apt::release()?;
    let recipe = format!("{release} {PACKAGES:?} {INIT} {ROOT_ROOM}");
    cache.file("root", &recipe, |made, work| {
        say(format!("Making the guest's root with Debian {release} (about a minute)"));
        make_root(&release, work, made).context("the guest's root could not be made")
    })
}

fn make_root(release: &str, work: &Path, made: &Path) -> Result<()> {
    let sources = Mirrors::of_this_machine(release)?.sources(release);
    let settings = work.join("apt.conf");
    apt::write_download_settings(&settings)?;
    let tree = work.join("tree");
    let docs = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"];
    retry("mmdebstrap", || {
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        run(command("mmdebstrap", ["--variant=minbase", "--format=directory"])
            .arg(format!("--include={}", PACKAGES.join(",")))
            .arg(format!("--aptopt={}", settings.display()))
            .args(docs.map(|path| format!("--dpkgopt=path-exclude={path}")))
            .arg(release)
            .arg(&tree)
            .args(&sources))
    })?;

    for dir in ["src", "share"] {
        fs::create_dir_all(tree.join(dir))?;
    }
    fs::write(tree.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;
    let init = tree.join(INIT_PATH.trim_start_matches('/'));
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;

    let size = file_system(made, &tree, "root", ROOT_OFFSET, ROOT_ROOM)?;
    let mut image = File::options().write(true).open(made)?;
    image.write_all(&partition_table(ROOT_OFFSET / SECTOR, size / SECTOR)?)?;
    Ok(())
}

/// A disk with the repository, `programs` in `target/release`, and what the guest is to run.
pub fn source<'a>(
    image: &Path,
    programs: impl Iterator<Item = &'a PathBuf>,
    words: &[OsString],
) -> Result<()> {
    let staging = tempfile::tempdir().context("a directory for the guest's sources")?;
    let repository = build::root()?;
    for entry in fs::read_dir(&repository)? {
        let entry = entry?;
        // Build results of this machine and its history are not for the guest.
        if entry.file_name() != "target" && entry.file_name() != ".git" {
            copy(&entry.path(), staging.path())?;
        }
    }
    let bin = staging.path().join("target/release");
    fs::create_dir_all(&bin)?;
    let own = std::env::current_exe().context("the path of xtask")?;
    fs::copy(own, bin.join("xtask")).context("copying xtask")?;
    // After it, since one of them may be a better build of it.
    for program in programs {
        copy(program, &bin)?;
    }
    fs::write(staging.path().join(guest::COMMAND_FILE), guest::encode(words))?;
    fs::set_permissions(staging.path(), fs::Permissions::from_mode(0o755))?;
    file_system(image, staging.path(), SOURCE_LABEL, 0, SOURCE_ROOM)?;
    Ok(())
}

fn copy(from: &Path, to_dir: &Path) -> Result<()> {
    run(command("cp", ["-a", "--reflink=auto"]).args([from, to_dir]))
}

/// Makes an ext4 file system at `offset` bytes of `image` with what `tree` holds and `room` MiB
/// more, and gives its size in bytes.
pub fn file_system(image: &Path, tree: &Path, label: &str, offset: u64, room: u64) -> Result<u64> {
    let used = output(command("du", ["--summarize", "--block-size=1M"]).arg(tree))?;
    let used: u64 = used.split_whitespace().next().unwrap_or_default().parse().context("du")?;
    let entries = output(command("du", ["--summarize", "--inodes"]).arg(tree))?;
    let entries: u64 =
        entries.split_whitespace().next().unwrap_or_default().parse().context("du")?;
    // A quarter more for what the file system itself takes.
    let size = used + used / 4 + room;
    output(
        command("mke2fs", ["-q", "-F", "-t", "ext4", "-m", "0", "-L", label])
            .args([
                "-E",
                &format!("offset={offset},lazy_itable_init=1,lazy_journal_init=1,nodiscard"),
            ])
            .args(["-N", &(entries + 64 * room).to_string()])
            .arg("-d")
            .args([tree, image])
            .arg(format!("{size}M")),
    )?;
    Ok(size << 20)
}

/// The first sector of a disk with one Linux partition.
fn partition_table(start: u64, sectors: u64) -> Result<[u8; SECTOR as usize]> {
    let mut table = [0; SECTOR as usize];
    let mut put = |at: usize, bytes: &[u8]| -> Option<()> {
        table.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
        Some(())
    };
    let (start, sectors) = (u32::try_from(start)?, u32::try_from(sectors)?);
    put(440, &DISK_ID.to_le_bytes())
        .and_then(|()| put(450, &[0x83]))
        .and_then(|()| put(454, &start.to_le_bytes()))
        .and_then(|()| put(458, &sectors.to_le_bytes()))
        .and_then(|()| put(510, &[0x55, 0xaa]))
        .context("the partition table is longer than a sector")?;
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_can_name_the_root_by_the_disks_id() {
        let table = partition_table(2048, 4096).unwrap();
        let id = u32::from_le_bytes(table[440..444].try_into().unwrap());
        assert_eq!(ROOT_PARTITION, format!("PARTUUID={id:08x}-01"));
        assert_eq!(table[454..462], [0, 8, 0, 0, 0, 16, 0, 0]);
        assert_eq!(table[510..], [0x55, 0xaa]);
    }

    #[test]
    fn a_root_too_large_for_its_partition_table_is_refused() {
        assert!(partition_table(2048, 1 << 32).is_err());
    }

    #[test]
    fn the_first_program_mounts_the_label_the_source_disk_has() {
        assert!(INIT.contains(&format!("LABEL={SOURCE_LABEL} /src")));
    }
}
