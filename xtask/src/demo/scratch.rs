//! The place that the agent works in: a home with secrets and a workspace, all of it made up, and
//! all of it gone at the end.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::steps::{CLOUD_CREDENTIALS, DOWNLOADED, ENV_FILE, SOURCE, SSH_KEY, WORKLOAD};

/// Where the shipped policy lets an agent read and write, beside `/workspace`, which may be
/// somebody's own.
const PARENT: &str = "/tmp";
/// The files that must stay secret, and the word in each that must not be seen.
const SECRETS: [(&str, &str); 3] = [
    (SSH_KEY, "FAKE-SSH-PRIVATE-KEY"),
    (ENV_FILE, "FAKE-DATABASE-PASSWORD"),
    (CLOUD_CREDENTIALS, "FAKE-CLOUD-ACCESS-KEY"),
];
/// Links with harmless names, in the workspace, and the secrets that they lead to.
const LINKS: [(&str, &str); 3] = [
    ("workspace/notes.txt", SSH_KEY),
    ("workspace/settings.txt", ENV_FILE),
    ("workspace/todo.txt", CLOUD_CREDENTIALS),
];

/// The directory, removed when this is dropped.
pub struct Scratch {
    _dir: TempDir,
    root: PathBuf,
}

impl Scratch {
    /// Makes it below `/tmp`.
    pub fn new() -> Result<Self> {
        Self::below(Path::new(PARENT))
    }

    fn below(parent: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("agent-guard-demo-")
            .tempdir_in(parent)
            .with_context(|| format!("a directory in {}", parent.display()))?;
        let scratch = Self { root: dir.path().canonicalize()?, _dir: dir };
        scratch.fill().with_context(|| scratch.root.display().to_string())?;
        Ok(scratch)
    }

    fn fill(&self) -> Result<()> {
        for (path, word) in SECRETS {
            let content = format!("# Not real: made up by `cargo xtask demo`\n{word}\n");
            self.write(path, content.as_bytes(), 0o600)?;
        }
        for (link, to) in LINKS {
            symlink(self.root.join(to), self.root.join(link))?;
        }
        self.write(SOURCE, b"int main(void) { return 0; }\n", 0o644)?;
        self.write("workload.sh", WORKLOAD.as_bytes(), 0o644)?;
        let mut program = Vec::new();
        File::open("/usr/bin/true")?.read_to_end(&mut program)?;
        self.write(DOWNLOADED, &program, 0o755)
    }

    fn write(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let path = self.root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = File::options().write(true).create_new(true).mode(mode).open(path)?;
        Ok(file.write_all(content)?)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    pub fn workspace(&self) -> PathBuf {
        self.root.join("workspace")
    }

    pub fn workload(&self) -> PathBuf {
        self.root.join("workload.sh")
    }

    /// `text` with the paths in it as the agent would say them.
    pub fn shorten(&self, text: &str) -> String {
        let name = |dir: PathBuf| dir.display().to_string();
        text.replace(&format!("/proc/self/root{}", name(self.root.clone())), "/proc/self/root/…")
            .replace(&name(self.home()), "~")
            .replace(&name(self.workspace()), "workspace")
            .replace(&name(self.root.clone()), "")
    }
}

/// The secrets whose content is in `output`.
pub fn leaked(output: &str) -> Vec<&'static str> {
    SECRETS.iter().filter(|(_, word)| output.contains(word)).map(|(path, _)| *path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_secret_is_there_by_its_name_and_by_a_link_and_is_known_when_seen() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::below(parent.path()).unwrap();
        for (link, to) in LINKS {
            let by_link = fs::read_to_string(scratch.root().join(link)).unwrap();
            assert_eq!(leaked(&by_link), [to]);
            assert!(by_link.starts_with("# Not real"), "{by_link}");
        }
        assert!(leaked(WORKLOAD).is_empty());
    }

    #[test]
    fn paths_are_shown_as_the_agent_would_say_them() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::below(parent.path()).unwrap();
        let (home, workspace) = (scratch.home(), scratch.workspace());
        let text = format!("{0}/a {1}/b /proc/self/root{0}/a", home.display(), workspace.display());
        assert_eq!(scratch.shorten(&text), "~/a workspace/b /proc/self/root/…/home/a");
    }

    #[test]
    fn nothing_is_left_of_it() {
        let parent = tempfile::tempdir().unwrap();
        drop(Scratch::below(parent.path()).unwrap());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
