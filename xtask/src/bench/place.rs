//! Where the work is done, and every file that it wants there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    mirror::Mirror,
    policy::{self, Needs, RULES},
    rust,
    work::COLD_FILES,
};
use crate::{process::run, vm::PROGRAMS};

/// How deep the files lie that are opened.
const DEPTHS: [usize; 3] = [2, 8, 32];
/// Files of the repository that git looks at.
const TRACKED: u32 = 5_000;
const TRACKED_DIRECTORIES: u32 = 100;
/// Longer than git's clock is fine: a file that is as new as git's index is read each time.
const TICK: Duration = Duration::from_millis(1100);

const SMALL_CRATE: &str = "[package]
name = \"small\"
version = \"1.0.0\"
edition = \"2021\"

[workspace]
";
const SMALL_PROGRAM: &str = "use std::collections::BTreeMap;

fn main() {
    let mut words = BTreeMap::new();
    for word in std::env::args() {
        *words.entry(word).or_insert(0) += 1;
    }
    println!(\"{words:?}\");
}
";

/// The directory that the work is done in.
pub struct Place {
    root: PathBuf,
    /// At which agents run here.
    tier: &'static str,
    /// A Rust toolchain.
    tools: PathBuf,
}

impl Place {
    /// A guest's, in a file system in memory.
    pub fn in_guest() -> Self {
        let tools = Path::new(PROGRAMS).join(rust::NAME);
        Self { root: "/bench".into(), tier: "lsm", tools }
    }

    /// This host's, in a directory of its own.
    pub fn on_host(root: &Path, tools: &Path) -> Self {
        Self { root: root.to_owned(), tier: "trace", tools: tools.to_owned() }
    }

    /// A Rust toolchain.
    pub fn tools(&self) -> &Path {
        &self.tools
    }

    /// A crate that is built.
    pub fn small_crate(&self) -> PathBuf {
        self.root.join("crate")
    }

    /// The directory, where it is this host's.
    pub fn on_host_in(&self) -> Option<&Path> {
        (self.tier == "trace").then_some(&self.root)
    }

    pub fn tier(&self) -> &'static str {
        self.tier
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory in which a file's path has this many components.
    pub fn directory(&self, depth: usize) -> PathBuf {
        let own = self.root.components().count() - 1;
        let mut path = self.root.clone();
        path.extend(std::iter::repeat_n("directory", depth.saturating_sub(own + 1)));
        path
    }

    pub fn file(&self, depth: usize) -> PathBuf {
        self.directory(depth).join("file")
    }

    pub fn cold(&self, depth: usize, n: u32) -> PathBuf {
        self.directory(depth).join(format!("cold-{n}"))
    }

    pub fn denied(&self) -> PathBuf {
        self.root.join("denied/file")
    }

    pub fn repository(&self) -> PathBuf {
        self.root.join("repository")
    }

    /// The policy with so many rules.
    pub fn policy(&self, rules: u32) -> PathBuf {
        self.root.join(format!("{rules}.yaml"))
    }

    /// Makes the policies, the crate and the repository. The `mirror` serves packages.
    pub fn lay_out(&self, mirror: Option<&Mirror>) -> Result<()> {
        let needs = Needs {
            root: self.root.clone(),
            tools: self.tools.clone(),
            mirror: mirror.map(|mirror| mirror.port),
        };
        for rules in RULES {
            fs::write(self.policy(rules), policy::text(rules, &needs))?;
        }
        if let Some(mirror) = mirror {
            let settings = format!(
                "registry=http://127.0.0.1:{}/\nupdate-notifier=false\naudit=false\nfund=false\n",
                mirror.port
            );
            fs::write(self.root.join(".npmrc"), settings)?;
        }
        let source = self.small_crate().join("src");
        fs::create_dir_all(&source)?;
        fs::write(source.join("main.rs"), SMALL_PROGRAM)?;
        fs::write(self.small_crate().join("Cargo.toml"), SMALL_CRATE)?;
        self.lay_out_repository()
    }

    /// Makes the files that are opened, and those that the rules are about.
    pub fn lay_out_files(&self) -> Result<()> {
        for depth in DEPTHS {
            fs::create_dir_all(self.directory(depth))?;
            fs::write(self.file(depth), "x")?;
            for n in 0..COLD_FILES {
                fs::write(self.cold(depth, n), "x")?;
            }
        }
        let denied = self.denied();
        fs::create_dir_all(denied.parent().context("a directory")?)?;
        fs::write(denied, "x")?;
        Ok(())
    }

    fn lay_out_repository(&self) -> Result<()> {
        let repository = self.repository();
        for n in 0..TRACKED {
            let directory = repository.join(format!("part-{}", n % TRACKED_DIRECTORIES));
            fs::create_dir_all(&directory)?;
            fs::write(directory.join(format!("file-{n}")), format!("{n}\n"))?;
        }
        let git = |arguments: &[&str]| {
            let mut git = Command::new("git");
            git.args(["-c", "user.name=bench", "-c", "user.email=bench@example.org", "-c"]);
            git.args(["init.defaultBranch=main"]).args(arguments).current_dir(&repository);
            run(git.env("HOME", &repository))
        };
        git(&["init", "--quiet"])?;
        thread::sleep(TICK);
        git(&["add", "."])?;
        git(&["commit", "--quiet", "--message=all"])?;
        git(&["status", "--short"])
    }
}

/// Makes the directories that the rules are about.
pub fn lay_out_rules() -> Result<()> {
    for n in 0..RULES.into_iter().max().unwrap_or_default() {
        fs::create_dir_all(policy::directory(n))?;
    }
    Ok(())
}
