//! Builds the kernel programs for `bpfel-unknown-none` and names the object for `include_bytes!`.
//!
//! `core` has no prebuilt copy for that target, so it is built from source. Two routes have it:
//! rustup's nightly that `agent-guard-ebpf/rust-toolchain.toml` names, or any rustc with its sources named by `AGENT_GUARD_BPF_RUSTC`
//! (Debian's `rustc-web`). `cargo xtask setup` installs whichever can be had.

use std::{env, error::Error, path::PathBuf, process::Command};

const TARGET: &str = "bpfel-unknown-none";
const PACKAGE: &str = "agent-guard-ebpf";

fn main() -> Result<(), Box<dyn Error>> {
    let root =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("no CARGO_MANIFEST_DIR")?).join("..");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?).join("bpf");
    for dir in ["agent-guard-ebpf", "agent-guard-common", "Cargo.lock", ".cargo/config.toml"] {
        println!("cargo:rerun-if-changed={}", root.join(dir).display());
    }
    println!("cargo:rerun-if-env-changed=AGENT_GUARD_BPF_RUSTC");

    let mut cargo = match env::var_os("AGENT_GUARD_BPF_RUSTC") {
        Some(rustc) => {
            let mut cargo = Command::new(env::var_os("CARGO").ok_or("no CARGO")?);
            cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
            cargo
        }
        None => {
            let mut cargo = Command::new("rustup");
            cargo.args(["run", nightly()?, "cargo"]).env_remove("RUSTC");
            cargo
        }
    };
    cargo
        .current_dir(&root)
        .args(["build", "--release", "--package", PACKAGE, "--bin", PACKAGE])
        .args(["--target", TARGET, "-Z", "build-std=core", "--target-dir"])
        .arg(&out);
    // What this build was asked for (clippy, coverage, flags) is not meant for the kernel's side: the verifier
    // takes or refuses what comes of one way of building.
    cargo.env("CARGO_INCREMENTAL", "0");
    for name in [
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTUP_TOOLCHAIN",
    ] {
        cargo.env_remove(name);
    }
    let status = cargo
        .status()
        .map_err(|error| format!("{cargo:?}: {error}; run `cargo xtask setup` first"))?;
    if !status.success() {
        return Err(format!(
            "building the kernel programs failed ({status}); `cargo xtask setup` installs what they \
             need, and where it had to take Debian's rustc-web: export AGENT_GUARD_BPF_RUSTC=/usr/bin/rustc"
        )
        .into());
    }
    println!(
        "cargo:rustc-env=AGENT_GUARD_OBJECT={}",
        out.join(TARGET).join("release").join(PACKAGE).display()
    );
    Ok(())
}

/// The dated nightly whose LLVM bpf-linker understands.
fn nightly() -> Result<&'static str, Box<dyn Error>> {
    let file = include_str!("../agent-guard-ebpf/rust-toolchain.toml");
    let channel = file.lines().find_map(|line| line.strip_prefix("channel = "));
    Ok(channel.ok_or("agent-guard-ebpf/rust-toolchain.toml names no channel")?.trim_matches('"'))
}
