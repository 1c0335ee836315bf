//! The programs of a tier, loaded once for all agents of this host.
//!
//! Whoever comes first loads and pins them; others take what is pinned into use, after reading back that
//! it is whole. They go when the last user does, unless an agent lives that lost its guard.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::fs::FileExt as _},
    path::{Path, PathBuf},
};

use agent_guard_common::hook::{Hook, HookSpec, HookTier, Need};
use aya::programs::links::FdLink;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use crate::{
    bytes::hexadecimal,
    cgroup::{Cgroup, CgroupError},
    handover,
    kernel::{
        load::{self, LoadError, Loaded},
        pins::{self, Pins, PinsError},
    },
    state_dir::{self, Turn},
    tier::Tier,
};

/// Why a tier's programs are not at hand.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// The kernel refused them.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// They could not be pinned, or what is pinned is not to be had.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// What is pinned is not what was.
    #[error(
        "the programs in force are not whole: {what} for {hook}; end every agent, then remove {ROOT}", ROOT = pins::ROOT
    )]
    Broken {
        /// What is wrong.
        what: &'static str,
        /// At which hook.
        hook: &'static str,
    },
    /// The cgroup could not be opened.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The state directory said no.
    #[error("in {PATH}: {0}", PATH = state_dir::PATH)]
    State(#[from] io::Error),
}

/// Bytes that are read of what somebody vouches for: a line of at most eleven for each hook.
const MAX_VOUCHER: u64 = 16 << 10;

/// The programs of a tier, in force.
#[derive(Debug)]
pub struct Programs {
    name: String,
    pins: Pins,
    /// The links of what is attached for the whole host, so that it does not hang on files alone.
    _links: Vec<FdLink>,
    users: Users,
    /// Locked while this process vouches for them.
    voucher: Option<File>,
}

/// A file that everyone who uses the programs has locked with others.
#[derive(Debug)]
struct Users {
    file: File,
    path: PathBuf,
}

impl Users {
    /// Becomes one. Nobody locks it alone but the last, who has the turn.
    fn join(name: &str) -> io::Result<Self> {
        let (file, path) = state_dir::open(&format!("{name}.users"))?;
        flock(&file, FlockOperation::LockShared)?;
        Ok(Self { file, path })
    }

    /// Whether there is no other.
    fn is_alone(&self) -> bool {
        flock(&self.file, FlockOperation::NonBlockingLockExclusive).is_ok()
    }
}

impl Programs {
    /// Takes the programs of `tier` into use, loaded where they are not.
    pub fn acquire(tier: Tier) -> Result<Self, ProgramsError> {
        let name = name_of(tier);
        let _turn = Turn::take()?;
        pins::mount_bpffs()?;
        let users = Users::join(&name)?;
        let pins = Pins::of(&name);
        let installed = if pins.exists() { Ok(()) } else { install(tier, &name, &pins) };
        match installed.and_then(|()| read_back(tier, &pins)) {
            Ok(links) => Ok(Self { name, pins, _links: links, users, voucher: None }),
            Err(error) => {
                if !pins.exists() && users.is_alone() {
                    fs::remove_file(&users.path)?;
                }
                Err(error)
            }
        }
    }

    /// Takes programs into use that a guard has left, by their name.
    pub fn adopt(name: String) -> Result<Self, ProgramsError> {
        let _turn = Turn::take()?;
        let users = Users::join(&name)?;
        let pins = Pins::of(&name);
        let links = host_links(&pins)?;
        Ok(Self { name, pins, _links: links, users, voucher: None })
    }

    /// What a successor finds them by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where they are pinned, with their maps.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The programs that are loaded.
    pub fn descriptors(&self) -> Result<Vec<(Hook, OwnedFd)>, PinsError> {
        self.pins.hooks().map(|spec| Ok((spec.hook, self.pins.program(spec)?.1))).collect()
    }

    /// Attaches those that go to an agent's cgroup alone, and pins their links.
    pub fn attach_to(&self, cgroup: &Cgroup) -> Result<Vec<FdLink>, ProgramsError> {
        let pins = self.pins.of_cgroup(cgroup.id());
        pins.remove()?;
        pins.create()?;
        let directory = cgroup.open()?;
        let mut links = Vec::new();
        for spec in self.pins.hooks().filter(|spec| spec.tier == HookTier::Cgroup) {
            let link = load::attach_to_cgroup(spec, &self.pins.program_path(spec), &directory)?;
            links.push(pins.pin_link(spec, link)?);
        }
        Ok(links)
    }

    /// The links of what [`Self::attach_to`] has attached to the cgroup with this id.
    pub fn attached_to(&self, cgroup: u64) -> Result<Vec<FdLink>, PinsError> {
        let pins = self.pins.of_cgroup(cgroup);
        let hooks = self.pins.hooks().filter(|spec| spec.tier == HookTier::Cgroup);
        hooks.map(|spec| pins.link(spec)).collect()
    }

    /// Reads back that each hook of the tier has the link of its own program, and says which hooks those are.
    pub fn read_back(&self, tier: Tier) -> Result<Vec<&'static str>, ProgramsError> {
        read_back(tier, &self.pins)?;
        Ok(self.pins.hooks().map(|spec| spec.name).collect())
    }

    /// Detaches what [`Self::attach_to`] has attached to the cgroup with this id.
    pub fn detach_from(&self, cgroup: u64) -> Result<(), PinsError> {
        self.pins.of_cgroup(cgroup).remove()
    }

    /// Says that a canary was stopped by them, for as long as this process lives and does not [`Self::withdraw`].
    /// A process that looks finds the file locked, and the ids of the programs in it.
    ///
    /// # Errors
    /// The file could not be written, or somebody else vouches.
    pub fn vouch(&mut self) -> Result<(), PinsError> {
        if self.voucher.is_some() {
            return Ok(());
        }
        let ids = self.ids()?;
        let path = Path::new(state_dir::PATH).join(self.voucher_name());
        let vouch = || {
            let (file, _) = state_dir::open(&self.voucher_name())?;
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            file.set_len(0)?;
            file.write_all_at(ids.as_bytes(), 0)?;
            Ok(file)
        };
        let file = vouch().map_err(|source| PinsError::Io { action: "writing", path, source })?;
        self.voucher = Some(file);
        Ok(())
    }

    /// Vouches for them no more.
    pub fn withdraw(&mut self) {
        self.voucher = None;
    }

    /// Whether a process that lives has seen a canary stopped by these very programs. Where that can not be told it
    /// has not.
    pub fn is_vouched_for(&self) -> bool {
        let Ok(file) = File::open(Path::new(state_dir::PATH).join(self.voucher_name())) else {
            return false;
        };
        let is_held = flock(&file, FlockOperation::NonBlockingLockShared).is_err();
        is_held
            && io::read_to_string(file.take(MAX_VOUCHER))
                .is_ok_and(|told| self.ids().is_ok_and(|ids| !ids.is_empty() && told == ids))
    }

    fn voucher_name(&self) -> String {
        format!("{}.proven", self.name)
    }

    /// The ids of the programs. The kernel gives none twice until it has given all.
    fn ids(&self) -> Result<String, PinsError> {
        self.pins.hooks().map(|spec| Ok(format!("{}\n", self.pins.program(spec)?.0.id()))).collect()
    }

    /// Gives them back. The last user of all takes them out of the kernel, unless an agent is there that
    /// has lost its guard.
    pub fn release(self) -> Result<(), ProgramsError> {
        let _turn = Turn::take()?;
        if !self.users.is_alone() || handover::is_left_for(&self.name)? {
            return Ok(());
        }
        self.pins.remove()?;
        match fs::remove_file(Path::new(state_dir::PATH).join(self.voucher_name())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        Ok(fs::remove_file(&self.users.path)?)
    }
}

/// Programs differ by tier and by build: each build uses its own.
fn name_of(tier: Tier) -> String {
    let digest = Sha256::digest(load::OBJECT);
    let [a, b, c, d, e, f, g, h, ..] = digest.0;
    format!("{tier}-{}", hexadecimal(&[a, b, c, d, e, f, g, h]))
}

/// Loads the programs and pins them, all or none.
fn install(tier: Tier, name: &str, pins: &Pins) -> Result<(), ProgramsError> {
    // What a guard left that was killed here is taken out first.
    let half = Pins::of(&format!("{name}-half"));
    half.remove()?;
    half.create()?;
    let installed = load_into(tier, &half).and_then(|()| Ok(half.clone().rename_to(pins)?));
    give_memory_back();
    if installed.is_err() {
        half.remove()?;
    }
    installed
}

/// Reading the kernel's types takes some 30 MiB for a moment, and the allocator would keep what long-lived values lie
/// in between.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn load_into(tier: Tier, pins: &Pins) -> Result<(), ProgramsError> {
    let mut loaded = load::load(tier)?;
    pins.pin_maps(&loaded.ebpf)?;
    pins.pin_programs(&mut loaded.ebpf, &loaded.hooks)?;
    let Loaded { mut ebpf, hooks } = loaded;
    for spec in hooks.into_iter().filter(|spec| spec.tier != HookTier::Cgroup) {
        pins.pin_link(spec, load::attach(&mut ebpf, spec)?)?;
    }
    Ok(())
}

/// Opens the links of the tier's hooks, and fails unless each that the tier needs holds its own program.
fn read_back(tier: Tier, pins: &Pins) -> Result<Vec<FdLink>, ProgramsError> {
    let pinned: Vec<_> = pins.hooks().collect();
    for spec in load::hooks_of(tier).filter(|spec| spec.need == Need::Required) {
        if !pinned.iter().any(|pinned| pinned.hook == spec.hook) {
            return Err(ProgramsError::Broken { what: "no program is loaded", hook: spec.name });
        }
    }
    host_links(pins)
}

fn host_links(pins: &Pins) -> Result<Vec<FdLink>, ProgramsError> {
    let link = |spec: &HookSpec| {
        let link = pins.link(spec)?;
        let broken = |what| ProgramsError::Broken { what, hook: spec.name };
        let attached = link.info().map_err(|_| broken("the link can not be read"))?.program_id();
        if attached != pins.program(spec)?.0.id() {
            return Err(broken("another program is attached"));
        }
        Ok(link)
    };
    pins.hooks().filter(|spec| spec.tier != HookTier::Cgroup).map(link).collect()
}
