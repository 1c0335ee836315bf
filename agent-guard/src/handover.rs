//! What a guard leaves for the one that comes after it, should it die: who the agent is, and what its
//! events mean. The file is locked for as long as somebody looks after the agent.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Seek, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::{
    cgroup::is_gone,
    event::{AgentIdentity, ContainerIdentity, Context, PolicyIdentity, Rule, SafeText},
    identity::Container,
    kernel::counters::Skips,
    policy::Mode,
    state_dir::{self, Turn},
    tier::Tier,
};

/// Longest file that is read; a policy of 65,000 rules with long names takes a tenth of it.
const MAX_BYTES: u64 = 64 << 20;

/// All that a successor needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Handover {
    /// Name of the agent.
    pub agent: String,
    /// The container that it is in, where that is known.
    #[serde(default)]
    pub container: Option<Container>,
    /// The programs that it is under, by the name of their pins.
    pub programs: String,
    /// Its id in the kernel's tables.
    pub agent_id: u32,
    /// Id of its cgroup.
    pub cgroup_id: u64,
    /// Directory of its cgroup.
    pub cgroup: PathBuf,
    /// The tier in force.
    pub tier: Tier,
    /// The mode in force.
    pub mode: Mode,
    /// What is not enforced.
    pub degraded: Vec<String>,
    /// The policy.
    pub policy: PolicyName,
    /// Its rules, by id.
    pub rules: Arc<[RuleName]>,
    /// How often the kernel had skipped the program of each hook before the agent came.
    pub skipped: Skips,
    /// Where its events go, if to a file.
    pub log: Option<PathBuf>,
    /// Who is to look after it.
    pub keeper: Keeper,
}

/// Who looks after an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keeper {
    /// The `run` that started it; the next one, should that die.
    Run,
    /// The daemon.
    Daemon,
}

/// How events call the policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyName {
    name: String,
    revision: String,
    file: String,
}

/// How events call a rule.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RuleName {
    label: String,
    line: Option<u32>,
    class: Option<String>,
}

impl PolicyName {
    /// The policy `name` as it stood in `file`.
    pub fn new(name: String, revision: String, file: String) -> Self {
        Self { name, revision, file }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Hash of the file, in hexadecimal.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }
}

impl From<&Rule> for RuleName {
    fn from(rule: &Rule) -> Self {
        let Rule { label, line, class } = rule.clone();
        Self { label, line, class }
    }
}

impl Handover {
    /// What events say of the agent.
    pub fn context(&self) -> Arc<Context> {
        use std::os::unix::ffi::OsStrExt;
        let PolicyName { name, revision, file } = self.policy.clone();
        Arc::new(Context {
            tier: self.tier,
            mode: self.mode,
            degraded: self.degraded.clone(),
            agent: AgentIdentity {
                name: self.agent.clone(),
                id: self.agent_id,
                cgroup_id: self.cgroup_id,
                cgroup: SafeText::new(self.cgroup.as_os_str().as_bytes()),
                container: self.container.as_ref().map(ContainerIdentity::from),
            },
            policy: Some(PolicyIdentity { name, revision, file: SafeText::new(file.as_bytes()) }),
        })
    }

    /// The rules as events call them.
    pub fn rules(&self) -> Arc<[Arc<Rule>]> {
        let rule =
            |RuleName { label, line, class }: RuleName| Arc::new(Rule { label, line, class });
        self.rules.iter().cloned().map(rule).collect()
    }
}

/// A handover in a file, held by this process.
#[derive(Debug)]
pub struct Held {
    /// The name of its pins.
    pub id: String,
    file: File,
    path: PathBuf,
}

impl Held {
    /// Makes the file for `id` and holds it.
    ///
    /// # Errors
    /// It could not be made or locked.
    pub fn create(id: &str) -> io::Result<Self> {
        // Whoever looks for abandoned ones in between would take this for one.
        let _turn = Turn::take()?;
        let (file, path) = state_dir::open(&format!("{id}.json"))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        file.set_len(0)?;
        Ok(Self { id: id.to_owned(), file, path })
    }

    /// Writes what a successor has to know.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn write(&mut self, handover: &Handover) -> io::Result<()> {
        // Cut last: of one that is not whole nobody believes that its agent has not started.
        let bytes = serde_json::to_vec(handover)?;
        self.file.rewind()?;
        self.file.write_all(&bytes)?;
        self.file.set_len(bytes.len() as u64)
    }

    /// What was left for us; `None` where the guard died before it wrote anything.
    ///
    /// # Errors
    /// The file can not be read or says something else.
    pub fn read(&self) -> io::Result<Option<Handover>> {
        read(&self.path)
    }

    /// There is nothing left to look after.
    ///
    /// # Errors
    /// The file could not be removed.
    pub fn finish(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

fn read(path: &Path) -> io::Result<Option<Handover>> {
    let length = fs::metadata(path)?.len();
    if length > MAX_BYTES {
        return Err(io::Error::other(format!("{} has {length} bytes", path.display())));
    }
    match fs::read(path)? {
        bytes if bytes.is_empty() => Ok(None),
        bytes => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
    }
}

/// Takes over what guards of this kind left that are gone. What a guard that lives still holds is not touched.
///
/// # Errors
/// The directory can not be read.
pub fn abandoned(keeper: Keeper) -> io::Result<Vec<Held>> {
    let _turn = Turn::take()?;
    let mut found = Vec::new();
    for (id, path) in files()? {
        if let Some(file) = lock_existing(&path)? {
            let held = Held { id, file, path };
            // One that says nothing was left before its agent had started: by whom does not matter. One that
            // can not be read is whose finds it.
            let handover = held.read().ok().flatten();
            if handover.is_none_or(|handover| handover.keeper == keeper) {
                found.push(held);
            }
        }
    }
    Ok(found)
}

/// Whether an agent is under the programs of this name, looked after or not. One of which that can not be
/// said counts; one whose guard has not come so far that it wrote anything has not started.
///
/// # Errors
/// The directory can not be read.
pub fn is_left_for(programs: &str) -> io::Result<bool> {
    let is_for = |path: &Path| match read(path) {
        Ok(Some(Handover { cgroup, cgroup_id, programs: under, .. })) => {
            under == programs && !is_gone(&cgroup, cgroup_id)
        }
        Ok(None) => false,
        Err(error) => error.kind() != ErrorKind::NotFound,
    };
    Ok(files()?.iter().any(|(_, path)| is_for(path)))
}

/// Every handover's id and path.
fn files() -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(state_dir::PATH) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let id = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json"));
        if let Some(id) = id.map(str::to_owned) {
            found.push((id, path));
        }
    }
    Ok(found)
}

/// The file, locked; `None` where somebody else holds it, or has just removed it.
fn lock_existing(path: &Path) -> io::Result<Option<File>> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(None);
    }
    let is_same = fs::metadata(path).is_ok_and(|now| {
        file.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (now.dev(), now.ino()))
    });
    Ok(is_same.then_some(file))
}
