//! The corpus: what a policy must answer, once for every runner.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "only tests use it: what it does not expect, they fail by"
)]

mod place;
mod question;

use std::{fs, path::PathBuf};

use agent_guard::policy::Policy;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::{
    place::{PORTS, Place, unescape},
    question::{Answer, Tables, endpoint_parts},
};

/// A file of the corpus: one policy, what lies around, and what is tried.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scene {
    /// The file's name without its ending.
    #[serde(skip)]
    pub name: String,
    /// `spec` of the policy. Placeholders are those of [`Place`].
    pub spec: String,
    /// Made in this order before anything is tried.
    #[serde(default)]
    pub setup: Vec<Setup>,
    /// What is tried.
    pub cases: Vec<Case>,
    /// Why only tier `lsm` judges any of it.
    #[serde(default)]
    pub lsm_only: Option<String>,
}

/// Something that lies around. Paths may hold escapes: `\xNN` is a byte.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Setup {
    /// A directory, with those above it.
    Dir(String),
    /// A file that holds something.
    File(String),
    /// A symbolic link.
    Link { at: String, to: String },
    /// A second name of a file.
    HardLink { at: String, to: String },
    /// A program that does nothing and succeeds.
    Program(String),
    /// A script that `interpreter` runs.
    Script { at: String, interpreter: String },
    /// A directory shown a second time.
    Bind { from: String, at: String },
    /// `lower` shown through an overlay, whose upper and work directories lie beside it.
    Overlay { lower: String, at: String },
    /// A listener: `127.0.0.1:{p0}/tcp`.
    Listen(String),
    /// A UNIX-domain socket that takes streams: a path, or `@` and an abstract name.
    StreamSocket(String),
    /// One that takes datagrams.
    DatagramSocket(String),
}

/// One promise.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What is promised, in words.
    pub name: String,
    /// What is tried.
    #[serde(rename = "do")]
    pub act: Act,
    /// Directory to try it from, where the path is relative.
    #[serde(default)]
    pub from: Option<String>,
    /// The system call that an open goes through.
    #[serde(default)]
    pub call: Call,
    /// The file's own path, where the action names it in another way.
    #[serde(default)]
    pub file: Option<String>,
    /// The answer.
    pub is: Effect,
    /// The rule that gives it, or the reason where there is none.
    pub by: String,
    /// The object is a device, or another process's entry: the kernel finds that out by itself.
    #[serde(default)]
    pub guarded: bool,
    /// What is renamed or linked is a directory: the kernel finds that out by itself.
    #[serde(default)]
    pub directory: bool,
    /// Why tables alone can not answer.
    #[serde(default)]
    pub kernel_only: Option<String>,
    /// What is different on tier `trace`, and therefore on `observe`.
    #[serde(default)]
    pub on_trace: Option<OnTrace>,
    /// Why the kernel itself refuses it on tier `trace`, before anything is judged.
    #[serde(default)]
    pub withheld_on_trace: Option<String>,
    /// Why the action can not succeed outside either, so that a denial has no counterpart.
    #[serde(default)]
    pub no_control: Option<String>,
}

/// Where tier `trace` falls short of the policy.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnTrace {
    /// The answer there.
    pub is: Effect,
    /// The rule or reason there.
    pub by: String,
    /// Why.
    pub because: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    Allow,
    Deny,
}

/// What is tried. Files by path, endpoints as `ADDRESS:PORT/PROTOCOL`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    Read(String),
    Write(String),
    ReadWrite(String),
    /// Open for writing with `O_CREAT`.
    Create(String),
    /// Open for reading with `O_TRUNC`: the kernel truncates all the same.
    Truncate(String),
    /// Open with `O_DIRECTORY`.
    List(String),
    Exec(String),
    Connect(String),
    /// A datagram on a socket that is not connected.
    Send(String),
    /// A pipe of the process's own, opened again by name.
    ReopenPipe(String),
    Mkdir(String),
    Rmdir(String),
    Remove(String),
    /// A symbolic link to nowhere.
    Symlink(String),
    /// A FIFO by mknod(2).
    Fifo(String),
    /// A block device by mknod(2).
    Device(String),
    /// A file without a name in the directory.
    Nameless(String),
    /// By truncate(2).
    Cut(String),
    Chmod(String),
    Chown(String),
    Touch(String),
    /// Sets an access control list, which is an extended attribute to some kernels.
    SetAcl(String),
    RemoveAcl(String),
    Rename {
        from: String,
        to: String,
    },
    Exchange {
        from: String,
        to: String,
    },
    HardLink {
        from: String,
        to: String,
    },
    /// Gives a file that has no name yet one, by the name of its descriptor; in the directory `from`.
    Name {
        from: String,
        to: String,
    },
    /// Bound there and, for TCP, listening.
    Listen(String),
    /// A UNIX-domain stream: a path, or `@` and an abstract name.
    ConnectStream(String),
    /// A UNIX-domain datagram socket that is connected.
    ConnectDatagram(String),
    /// A datagram on a UNIX-domain socket that is not connected.
    SendDatagram(String),
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    Open,
    #[default]
    Openat,
    Openat2,
    Creat,
}

impl Act {
    /// What it is about, as the corpus has it; of two places the old one.
    pub fn object(&self) -> &str {
        match self {
            Self::Read(object)
            | Self::Write(object)
            | Self::ReadWrite(object)
            | Self::Create(object)
            | Self::Truncate(object)
            | Self::List(object)
            | Self::Exec(object)
            | Self::Connect(object)
            | Self::Send(object)
            | Self::ReopenPipe(object)
            | Self::Listen(object)
            | Self::ConnectStream(object)
            | Self::ConnectDatagram(object)
            | Self::SendDatagram(object)
            | Self::Mkdir(object)
            | Self::Rmdir(object)
            | Self::Remove(object)
            | Self::Symlink(object)
            | Self::Fifo(object)
            | Self::Device(object)
            | Self::Nameless(object)
            | Self::Cut(object)
            | Self::Chmod(object)
            | Self::Chown(object)
            | Self::Touch(object)
            | Self::SetAcl(object)
            | Self::RemoveAcl(object) => object,
            Self::Rename { from, .. }
            | Self::Exchange { from, .. }
            | Self::HardLink { from, .. }
            | Self::Name { from, .. } => from,
        }
    }

    /// The new place, where there is one.
    pub fn new_place(&self) -> Option<&str> {
        match self {
            Self::Rename { to, .. }
            | Self::Exchange { to, .. }
            | Self::HardLink { to, .. }
            | Self::Name { to, .. } => Some(to),
            _ => None,
        }
    }

    /// The same with the placeholders filled in.
    pub fn at(&self, place: &Place) -> Self {
        let mut act = serde_json::to_value(self).unwrap();
        fill(&mut act, place);
        serde_json::from_value(act).unwrap()
    }

    /// Whether it is about an address of a network.
    pub fn is_network(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Send(_) | Self::Listen(_))
    }
}

/// Fills the placeholders in every text.
fn fill(value: &mut Value, place: &Place) {
    match value {
        Value::String(text) => *text = place.fill(text),
        Value::Object(members) => members.values_mut().for_each(|value| fill(value, place)),
        _ => {}
    }
}

impl Case {
    /// The path that the policy is asked about.
    pub fn path(&self, place: &Place) -> Vec<u8> {
        unescape(&place.fill(self.file.as_deref().unwrap_or(self.act.object())))
    }
}

impl Scene {
    /// The policy file.
    pub fn policy_text(&self, place: &Place) -> String {
        policy_text(&place.fill(&self.spec))
    }

    /// The policy.
    pub fn policy(&self, place: &Place) -> Policy {
        let text = self.policy_text(place);
        Policy::parse(&self.name, &text).unwrap_or_else(|error| panic!("{error:?}"))
    }
}

/// A whole policy file with this `spec`.
pub fn policy_text(spec: &str) -> String {
    format!(
        "apiVersion: agent-guard.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: test}}\nspec:\n  {}\n",
        spec.trim().replace('\n', "\n  ")
    )
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    std::env::var_os("AGENT_GUARD_SRC")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")), PathBuf::from)
}

/// Every file of the corpus.
pub fn scenes() -> Vec<Scene> {
    let directory = repository().join("tests/corpus");
    let entries = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}; set AGENT_GUARD_SRC", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let mut scene: Scene = serde_saphyr::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        scene.name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        scene
    };
    files.iter().filter(|path| path.extension().is_some_and(|e| e == "yaml")).map(read).collect()
}
