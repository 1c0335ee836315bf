//! The Debian package, by plain dpkg-deb: the program, its unit and configuration, manual pages and completions.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    build,
    process::{command, output, run, say},
    toolchain::Rustc,
};

/// Files of the repository and where the package has them.
const FILES: [(&str, &str); 9] = [
    ("deploy/config.toml", "etc/agent-guard/config.toml"),
    ("policies/coding-agent.yaml", "usr/share/doc/agent-guard/examples/coding-agent.yaml"),
    ("docs/daemon.md", "usr/share/doc/agent-guard/daemon.md"),
    ("docs/operate.md", "usr/share/doc/agent-guard/operate.md"),
    ("docs/policy.md", "usr/share/doc/agent-guard/policy.md"),
    ("docs/events.md", "usr/share/doc/agent-guard/events.md"),
    ("README.md", "usr/share/doc/agent-guard/README.md"),
    ("SECURITY.md", "usr/share/doc/agent-guard/SECURITY.md"),
    ("deploy/debian/copyright", "usr/share/doc/agent-guard/copyright"),
];

/// Completion scripts, by shell, and where Debian looks for them.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/agent-guard"),
    ("zsh", "usr/share/zsh/vendor-completions/_agent-guard"),
    ("fish", "usr/share/fish/vendor_completions.d/agent-guard.fish"),
];

/// Directories that are there without a file.
const DIRECTORIES: [&str; 2] = ["etc/agent-guard/policies", "var/log/agent-guard"];

/// What the maintainer does at install, upgrade and removal.
const SCRIPTS: [&str; 4] = ["conffiles", "postinst", "prerm", "postrm"];

/// Builds the package into `target/debian` and gives its path.
pub fn build(rustc: &Rustc) -> Result<PathBuf> {
    let program = build::agent_guard(rustc)?;
    of(&program)
}

/// Packs `program`.
pub fn of(program: &Path) -> Result<PathBuf> {
    let root = build::root()?;
    let version = env!("CARGO_PKG_VERSION");
    let architecture = output(&mut command("dpkg", ["--print-architecture"]))?.trim().to_owned();
    let place = root.join("target/debian");
    let tree = place.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| tree.display().to_string())?;
    }
    for directory in DIRECTORIES {
        fs::create_dir_all(tree.join(directory))?;
    }
    for (from, to) in FILES {
        put(&tree, to, &fs::read(root.join(from)).context(from)?, 0o644)?;
    }
    let unit = "deploy/systemd/agent-guard.service";
    let text = fs::read_to_string(root.join(unit)).context(unit)?;
    let text = text.replace("/usr/local/bin/agent-guard", "/usr/bin/agent-guard");
    put(&tree, "lib/systemd/system/agent-guard.service", text.as_bytes(), 0o644)?;
    put(&tree, "usr/bin/agent-guard", &fs::read(program).context("the program")?, 0o755)?;
    run(command("strip", ["--strip-unneeded"]).arg(tree.join("usr/bin/agent-guard")))?;
    for (shell, to) in COMPLETIONS {
        let script = output(Command::new(program).args(["completions", shell]))?;
        put(&tree, to, script.as_bytes(), 0o644)?;
    }
    let man = tree.join("usr/share/man/man1");
    run(Command::new(program).arg("man").arg(&man))?;
    let changes = "usr/share/doc/agent-guard/changelog";
    put(&tree, changes, &fs::read(root.join("CHANGELOG.md"))?, 0o644)?;
    for page in fs::read_dir(&man)? {
        run(command("gzip", ["-9n"]).arg(page?.path()))?;
    }
    run(command("gzip", ["-9n"]).arg(tree.join(changes)))?;

    for script in SCRIPTS {
        let from = format!("deploy/debian/{script}");
        let mode = if script == "conffiles" { 0o644 } else { 0o755 };
        put(&tree, &format!("DEBIAN/{script}"), &fs::read(root.join(&from)).context(from)?, mode)?;
    }
    let control = fs::read_to_string(root.join("deploy/debian/control"))?;
    let control = control.replace("@version@", version).replace("@architecture@", &architecture);
    put(&tree, "DEBIAN/control", control.as_bytes(), 0o644)?;
    let package = place.join(format!("agent-guard_{version}_{architecture}.deb"));
    run(command("dpkg-deb", ["--root-owner-group", "-Zxz", "--build"]).arg(&tree).arg(&package))?;
    try_out(&package, &place)?;
    say(format!("{} is there, and was installed, configured and removed", package.display()));
    Ok(package)
}

/// Installs the package into a root of its own, with this machine's programs but none of its state, and removes it
/// again: as root, in a mount namespace that ends with it.
fn try_out(package: &Path, place: &Path) -> Result<()> {
    run(command("lintian", ["--no-cfg", "--fail-on", "error", "--suppress-tags", NOT_DEBIANS])
        .arg(package))?;
    let root = place.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
    }
    fs::create_dir_all(&root)?;
    run(command("unshare", ["--mount", "sh", "-euc", TRIAL, "sh"]).arg(&root).arg(package))
        .context("the package can not be installed and removed")?;
    fs::remove_dir_all(&root).with_context(|| root.display().to_string())
}

/// What lintian wants of packages that are part of Debian alone.
const NOT_DEBIANS: &str = "bogus-mail-host,no-changelog";

/// `$1` is the root, `$2` the package.
const TRIAL: &str = include_str!("deb/trial.sh");

/// Writes a file of the package, with the directories above it.
fn put(tree: &Path, name: &str, content: &[u8], mode: u32) -> Result<()> {
    let path = tree.join(name);
    fs::create_dir_all(path.parent().context("a file has a directory")?)?;
    fs::write(&path, content).with_context(|| path.display().to_string())?;
    let mode = fs::Permissions::from_mode(mode);
    fs::set_permissions(&path, mode).with_context(|| path.display().to_string())
}
