//! Installs what building and testing need on a fresh Debian machine; what is there is left alone.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{apt, process::say, toolchain};

/// Debian packages and what each is for.
const PACKAGES: [(&str, &str); 42] = [
    ("gcc", "links every Rust program"),
    ("g++", "links bpf-linker with LLVM"),
    ("libc6-dev", "links every Rust program"),
    ("make", "builds C dependencies"),
    ("pkg-config", "finds C libraries"),
    ("ca-certificates", "downloads over TLS"),
    ("llvm-22-dev", "bpf-linker is built on it"),
    ("libpolly-22-dev", "bpf-linker is built on it"),
    ("libzstd-dev", "LLVM needs it at link time"),
    ("zlib1g-dev", "LLVM needs it at link time"),
    ("libssl-dev", "the Kafka client speaks TLS by it"),
    ("python3-venv", "runs the OCSF validator in tests"),
    ("curl", "the demo's and the tests' agent fetches with it"),
    ("iproute2", "gives the demo a network of its own"),
    ("unbound", "answers the tests' name queries; its service is masked"),
    ("dnsmasq-base", "answers the tests' name queries"),
    ("bind9-dnsutils", "the tests' agent resolves names with dig"),
    ("musl-tools", "the tests' agent resolves names as musl does"),
    ("nodejs", "the tests' agent resolves names, and works; reads the fields of ECS"),
    ("npm", "the tests' agent installs with it; fetches the fields of ECS"),
    ("python3-pytest", "the tests' agent runs tests"),
    ("vim-tiny", "the tests' agent edits"),
    ("podman", "starts the tests' agent in a container"),
    ("crun", "podman's containers are run by it"),
    ("rsyslog", "takes the tests' events; its service is masked"),
    ("rsyslog-gnutls", "takes the tests' events over TLS"),
    ("kcat", "is the tests' Kafka cluster, and reads from it"),
    ("logrotate", "rotates the tests' files of events"),
    ("openssl", "makes the tests' certificates"),
    ("containerd", "runs the tests' containers; its service is masked"),
    ("docker.io", "likewise"),
    ("runc", "what those two run containers with"),
    ("busybox-static", "what is in the tests' container"),
    ("bubblewrap", "what the bench holds the start of a run against"),
    ("prometheus", "its promtool checks metrics in tests; its service is masked"),
    ("lintian", "checks the Debian package"),
    ("groff-base", "reads the manual pages in tests"),
    ("systemd", "checks the unit in tests"),
    ("qemu-system-x86", "runs the test kernels"),
    ("mmdebstrap", "makes the test guest"),
    ("e2fsprogs", "makes the guest's disks"),
    ("util-linux", "ties a guest's life to ours"),
];

/// Packages whose program Node's own packages for Debian bring along, and do not go together with.
const BROUGHT_ALONG: [(&str, &str); 1] = [("npm", "/usr/bin/npm")];

/// Services of packages of which the tests need the program alone.
const SERVICES: [(&str, &str); 6] = [
    ("unbound", "unbound.service"),
    ("rsyslog", "rsyslog.service"),
    ("prometheus", "prometheus.service"),
    ("containerd", "containerd.service"),
    ("docker.io", "docker.service"),
    ("docker.io", "docker.socket"),
];

/// Installs what is missing, and gives the rustc that builds the kernel programs.
pub fn setup() -> Result<toolchain::Rustc> {
    let is_there = |name: &str| {
        BROUGHT_ALONG.iter().any(|(other, program)| *other == name && Path::new(program).exists())
    };
    let names: Vec<&str> =
        PACKAGES.iter().map(|(name, _)| *name).filter(|name| !is_there(name)).collect();
    apt::release().with_context(would_install)?;
    let missing = apt::missing(&names)?;
    if !missing.is_empty() {
        if !rustix::process::geteuid().is_root() {
            bail!("not root, so nothing can be installed. Run this as root.\n{}", list(&missing));
        }
        say(format!("Installing Debian packages\n{}", list(&missing)));
        for (_, service) in SERVICES.iter().filter(|(name, _)| missing.contains(name)) {
            apt::mask(service)?;
        }
        apt::install(&missing).context(
            "Debian's packages could not be installed; mend apt (network, sources), then run this again",
        )?;
    }
    let rustc = toolchain::install_rustc()?;
    toolchain::install_bpf_linker().context(
        "without bpf-linker the kernel programs cannot be linked; see the message above, then run `cargo xtask setup` again",
    )?;
    Ok(rustc)
}

fn would_install() -> String {
    let names: Vec<&str> = PACKAGES.iter().map(|(name, _)| *name).collect();
    format!(
        "nothing was installed. What is needed:\n{}  Rust {} with rust-src, and bpf-linker",
        list(&names),
        toolchain::nightly()
    )
}

fn list(names: &[&str]) -> String {
    let mut text = String::new();
    for (name, why) in PACKAGES.iter().filter(|(name, _)| names.contains(name)) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<18}{why}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_is_listed_with_its_reason() {
        let text = would_install();
        for (name, why) in PACKAGES {
            assert!(text.contains(name) && text.contains(why), "{name}");
        }
    }
}
