//! The Rust toolchain that a small crate is built with.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{command, output, run},
    toolchain::path_with_cargo_bin,
};

/// What it is called among a guest's programs.
pub const NAME: &str = "toolchain";
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Where this host has it.
pub fn sysroot() -> Result<PathBuf> {
    let mut rustc = command("rustc", ["--print", "sysroot"]);
    let path = PathBuf::from(output(rustc.env("PATH", path_with_cargo_bin()?))?.trim());
    match path.join("bin/cargo").exists() {
        true => Ok(path),
        false => bail!("{} has no bin/cargo beside its bin/rustc", path.display()),
    }
}

/// Copies of the toolchain at `from` what building for this machine takes, into `to`.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let libraries = |name: &str| name.starts_with("librustc_driver") || name.starts_with("libLLVM");
    let mut files: Vec<PathBuf> = vec!["bin/cargo".into(), "bin/rustc".into()];
    for entry in fs::read_dir(from.join("lib")).context("the toolchain's libraries")? {
        let name = entry?.file_name();
        if name.to_str().is_some_and(libraries) {
            files.push(Path::new("lib").join(name));
        }
    }
    // With the linker.
    files.push(Path::new("lib/rustlib").join(TARGET));
    fs::create_dir_all(to)?;
    let mut copy = command("cp", ["-a", "--reflink=auto", "--parents"]);
    run(copy.args(files).arg(to).current_dir(from))
}
