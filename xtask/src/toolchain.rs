//! The two tools beside cargo that build the kernel programs: a rustc that can compile `core` for
//! `bpfel-unknown-none`, and bpf-linker.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt,
    process::{command, output, retry, run, say},
};

/// The variable by which `agent-guard/build.rs` is told of a rustc.
const RUSTC_VARIABLE: &str = "AGENT_GUARD_BPF_RUSTC";
/// The newest LLVM whose bitcode bpf-linker reads.
const LLVM: u32 = 22;
const BPF_LINKER: &str = "0.13.0";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
pub const DEBIAN_RUSTC_PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];

/// Which rustc compiles the kernel programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rustc {
    /// rustup's toolchain that `agent-guard-ebpf/rust-toolchain.toml` names, with `rust-src`.
    Nightly,
    /// A rustc beside rustup's, with its sources: the one the user names, or Debian's.
    Other(PathBuf),
}

impl Rustc {
    /// The one that is there, the user's choice first.
    pub fn installed() -> Option<Self> {
        if let Some(path) = env::var_os(RUSTC_VARIABLE) {
            return Some(Self::Other(path.into()));
        }
        [Self::Nightly, Self::Other(DEBIAN_RUSTC.into())].into_iter().find(Self::works)
    }

    /// True when its LLVM suits bpf-linker and the source of `core` is beside it.
    fn works(&self) -> bool {
        let Ok(version) = output(self.command().arg("-vV")) else { return false };
        let Ok(sysroot) = output(self.command().args(["--print", "sysroot"])) else { return false };
        let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
        llvm_of(&version).is_some_and(|llvm| llvm <= LLVM) && core.exists()
    }

    fn command(&self) -> Command {
        match self {
            Self::Nightly => command("rustup", ["run", nightly(), "rustc"]),
            Self::Other(path) => Command::new(path),
        }
    }

    /// Makes `cargo` build the kernel programs with this rustc.
    pub fn choose_for(&self, cargo: &mut Command) {
        match self {
            Self::Nightly => cargo.env_remove(RUSTC_VARIABLE),
            Self::Other(path) => cargo.env(RUSTC_VARIABLE, path),
        };
    }
}

/// The nightly that the kernel programs are built with.
pub fn nightly() -> &'static str {
    let file = include_str!("../../agent-guard-ebpf/rust-toolchain.toml");
    let channel = file.lines().find_map(|line| line.strip_prefix("channel = "));
    channel.unwrap_or_default().trim_matches('"')
}

/// Installs a rustc for the kernel programs, unless one is there: nightly, or Debian's.
pub fn install_rustc() -> Result<Rustc> {
    if let Some(rustc) = Rustc::installed() {
        return Ok(rustc);
    }
    say(format!("Installing Rust {} with rust-src (builds the kernel programs)", nightly()));
    let nightly_failed = retry("rustup toolchain install", || {
        run(&mut command(
            "rustup",
            ["toolchain", "install", nightly(), "--profile=minimal", "--component=rust-src"],
        ))
    });
    if let Err(error) = nightly_failed {
        say(format!("{error:#}"));
        say(format!("Second route: Debian's {}", DEBIAN_RUSTC_PACKAGES.join(" and ")));
        apt::install(&DEBIAN_RUSTC_PACKAGES)?;
        say(format!("For your own `cargo build`: export {RUSTC_VARIABLE}={DEBIAN_RUSTC}"));
    }
    match Rustc::installed() {
        Some(rustc) => Ok(rustc),
        None => bail!(
            "no rustc here can build the kernel programs: neither {} nor {DEBIAN_RUSTC} has both \
             LLVM {LLVM} or older and the source of `core`. Name one that has: {RUSTC_VARIABLE}=/path/to/rustc",
            nightly()
        ),
    }
}

/// Installs bpf-linker, unless the right version is there. Needs Debian's llvm-22-dev.
pub fn install_bpf_linker() -> Result<()> {
    let found = output(cargo_tool("bpf-linker").arg("--version")).unwrap_or_default();
    if found.trim() == format!("bpf-linker {BPF_LINKER}") {
        return Ok(());
    }
    say(format!("Building bpf-linker {BPF_LINKER} (links the kernel programs; about a minute)"));
    retry("cargo install bpf-linker", || {
        run(command("cargo", ["install", "bpf-linker", "--locked", "--force"])
            .args(["--version", BPF_LINKER])
            .args(["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_PREFIX", "/usr/lib/llvm-22"))
    })
}

/// A program that `cargo install` puts in its `bin` directory, on PATH or not.
pub fn cargo_tool(name: &str) -> Command {
    let installed = cargo_bin().map(|bin| bin.join(name)).filter(|path| path.exists());
    Command::new(installed.unwrap_or_else(|| name.into()))
}

/// Where `cargo install` puts programs.
pub fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(env::home_dir()?.join(".cargo")));
    home.map(|home| home.join("bin"))
}

/// PATH with the directory of `cargo install` in it: cargo looks for bpf-linker there.
pub fn path_with_cargo_bin() -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(cargo_bin());
    env::join_paths(dirs).context("PATH")
}

/// The major version of LLVM in what `rustc -vV` prints.
fn llvm_of(version: &str) -> Option<u32> {
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nightly_is_a_dated_one() {
        assert!(nightly().starts_with("nightly-20"), "{:?}", nightly());
    }

    #[test]
    fn the_llvm_version_is_read_from_rustc() {
        assert_eq!(llvm_of("rustc 1.97.0\nLLVM version: 22.1.4\n"), Some(22));
        assert_eq!(llvm_of("rustc 1.97.0\n"), None);
    }
}
