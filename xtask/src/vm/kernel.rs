//! Debian's stock cloud kernels: NVMe and ext4 are built in, so they boot without an initramfs.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, Result, bail};

use super::cache::Cache;
use crate::{
    apt::{self, Mirrors, PrivateApt},
    process::{command, run, say},
};

/// A kernel series that agent-guard is tested on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    V6_1,
    V6_12,
    V7_2,
}

impl Kernel {
    pub const ALL: [Self; 3] = [Self::V6_1, Self::V6_12, Self::V7_2];

    fn series(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V7_2 => "7.2",
        }
    }

    /// The processor that QEMU 7.2 emulates for it: a named one, because `max` is emulated unreliably.
    /// The emulation of CMPXCHG16B spoils the flags, which the older kernels' allocator crashes of
    /// after some thousand processes; without it 7.2 has no task storage at all, because its
    /// `kmalloc_nolock` asks for that instruction.
    pub fn processor(self) -> &'static str {
        match self {
            Self::V6_1 | Self::V6_12 => "EPYC,-cx16",
            Self::V7_2 => "EPYC",
        }
    }

    /// The Debian suites that have it.
    fn suites(self) -> &'static [&'static str] {
        match self {
            Self::V6_1 => &["bookworm"],
            Self::V6_12 => &["trixie", "bookworm-backports"],
            Self::V7_2 => &["forky", "trixie-backports"],
        }
    }

    /// The package-name prefixes that its image may have: from 7.x on `linux-image-…` is empty and
    /// depends on `linux-binary-…`.
    fn prefix(self) -> &'static str {
        match self {
            Self::V6_1 | Self::V6_12 => "linux-image-",
            Self::V7_2 => "linux-binary-",
        }
    }

    /// The same for the package that has its modules.
    fn modules_prefix(self) -> &'static str {
        match self {
            Self::V6_1 | Self::V6_12 => self.prefix(),
            Self::V7_2 => "linux-modules-",
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.series())
    }
}

impl FromStr for Kernel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|kernel| kernel.series() == text);
        known.ok_or_else(|| {
            format!("no such kernel; there are {}", Self::ALL.map(Self::series).join(", "))
        })
    }
}

/// The kernel's image, fetched if it is not in the cache.
pub fn image(cache: &Cache, kernel: Kernel) -> Result<PathBuf> {
    let recipe = format!("{} {:?} {}", kernel.series(), kernel.suites(), kernel.prefix());
    cache.file(&format!("kernel-{kernel}"), &recipe, |made, work| {
        say(format!("Fetching Debian's {kernel} cloud kernel"));
        fetch(kernel, work, made).with_context(|| {
            format!(
                "kernel {kernel} could not be fetched from Debian's {}",
                kernel.suites().join(" or ")
            )
        })
    })
}

/// The kernel's module for overlays, which Debian does not build in.
pub fn overlay(cache: &Cache, kernel: Kernel) -> Result<PathBuf> {
    let prefix = kernel.modules_prefix();
    let recipe = format!("{} {:?} {prefix} overlay", kernel.series(), kernel.suites());
    cache.file(&format!("overlay-{kernel}"), &recipe, |made, work| {
        say(format!("Fetching the overlay module of Debian's {kernel} cloud kernel"));
        let tree = unpack(kernel, prefix, work)?;
        let module = find_overlay(&tree)?;
        if module.extension().is_some_and(|extension| extension == "xz") {
            run(command("xz", ["--decompress"]).arg(&module))?;
        }
        let module = module.with_extension("").with_extension("ko");
        fs::rename(&module, made).with_context(|| module.display().to_string())
    })
}

fn fetch(kernel: Kernel, work: &Path, made: &Path) -> Result<()> {
    let image = find_image(&unpack(kernel, kernel.prefix(), work)?)?;
    fs::rename(&image, made).with_context(|| image.display().to_string())
}

/// Downloads the kernel's package and unpacks it below `work`.
fn unpack(kernel: Kernel, prefix: &str, work: &Path) -> Result<PathBuf> {
    let mirror = Mirrors::of_this_machine(&apt::release()?)?.main;
    let apt = PrivateApt::new(work, &mirror, kernel.suites())?;
    let names = apt.names(&format!("{prefix}{}", kernel.series()))?;
    let package =
        newest(kernel, prefix, &names).context("the package lists have no such kernel")?;
    say(format!("{kernel} is {package}"));
    let deb = apt.download(package)?;
    let tree = work.join("tree");
    run(command("dpkg-deb", ["--extract"]).args([&deb, &tree]))?;
    Ok(tree)
}

/// `lib/modules/…/kernel/fs/overlayfs/overlay.ko` or `overlay.ko.xz` in an unpacked package.
fn find_overlay(tree: &Path) -> Result<PathBuf> {
    for modules in [tree.join("lib/modules"), tree.join("usr/lib/modules")] {
        for version in fs::read_dir(modules).into_iter().flatten() {
            let directory = version?.path().join("kernel/fs/overlayfs");
            for name in ["overlay.ko", "overlay.ko.xz"] {
                if directory.join(name).exists() {
                    return Ok(directory.join(name));
                }
            }
        }
    }
    bail!("the kernel's package has no overlay module")
}

/// Of package `names`, the newest cloud kernel of the series.
fn newest<'a>(kernel: Kernel, prefix: &str, names: &'a [String]) -> Option<&'a str> {
    let version = |name: &str| {
        let version = name.strip_prefix(prefix)?.strip_suffix("-cloud-amd64")?;
        let rest = version.strip_prefix(kernel.series())?;
        // "6.1" is no prefix of the 6.12 series.
        rest.starts_with(['.', '-']).then(|| numbers(version))
    };
    let of_series = names.iter().filter_map(|name| Some((version(name)?, name)));
    of_series.max().map(|(_, name)| name.as_str())
}

/// The numbers in a version, in order.
fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// The kernel's image in an unpacked package: `boot/vmlinuz-…` or `usr/lib/modules/…/vmlinuz`.
fn find_image(tree: &Path) -> Result<PathBuf> {
    for dir in [tree.join("boot"), tree.join("usr/lib/modules")] {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")) {
                return Ok(path);
            }
            if path.join("vmlinuz").exists() {
                return Ok(path.join("vmlinuz"));
            }
        }
    }
    bail!("the kernel's package has no vmlinuz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_the_series_is_taken_by_number() {
        let names = [
            "linux-image-6.12.95+deb12-cloud-amd64",
            "linux-image-6.12.107+deb13-cloud-amd64",
            "linux-image-6.12.108+deb13-amd64",
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-binary-7.2.12+deb14-cloud-amd64",
        ]
        .map(str::to_owned);
        let newest = |kernel: Kernel, names| newest(kernel, kernel.prefix(), names);
        assert_eq!(newest(Kernel::V6_12, &names), Some("linux-image-6.12.107+deb13-cloud-amd64"));
        assert_eq!(newest(Kernel::V6_1, &names), Some("linux-image-6.1.0-50-cloud-amd64"));
        assert_eq!(newest(Kernel::V7_2, &names), Some("linux-binary-7.2.12+deb14-cloud-amd64"));
        assert_eq!(newest(Kernel::V7_2, &[]), None);
    }

    #[test]
    fn a_kernel_is_named_by_its_series() {
        for kernel in Kernel::ALL {
            assert_eq!(kernel.to_string().parse(), Ok(kernel));
        }
        assert!("6.2".parse::<Kernel>().unwrap_err().contains("6.12"));
    }
}
