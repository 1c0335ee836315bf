//! Loading and attaching the programs of a tier.

use std::os::fd::{AsFd, BorrowedFd};

use agent_guard_common::{
    hook::{Hook, HookSpec, HookTier, NO_PROTOTYPE, Need},
    offsets::Offsets,
};
use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{
        CgroupAttachMode, CgroupSockAddr, Lsm, Program, ProgramError, RawTracePoint,
        links::{FdLink, LinkError},
    },
};

use super::{
    Row,
    btf::{BtfError, KernelTypes},
    root_cause,
};
use crate::tier::Tier;

/// The object file with all programs, for every kernel.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("AGENT_GUARD_OBJECT"));

/// Why the programs are not in force.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel's types lack something.
    #[error(transparent)]
    Types(#[from] BtfError),
    /// The object as a whole was refused.
    #[error("the kernel refused the maps or the object: {0}")]
    Object(#[from] aya::EbpfError),
    /// aya could not read the kernel's BTF.
    #[error("the kernel's type information could not be used: {0}")]
    Btf(#[from] aya::BtfError),
    /// One program was refused.
    #[error("the kernel refused the program for {hook} ({decides}): {}", refusal(.source))]
    Program {
        /// Kernel name of the hook.
        hook: &'static str,
        /// What it decides.
        decides: &'static str,
        /// The kernel's word.
        source: aya::programs::ProgramError,
    },
    /// The object lacks a program of the hook table: a build fault.
    #[error("the object file holds no program `{0}`")]
    NoProgram(&'static str),
}

/// The first line of the cause. The verifier's log, where there is one, is for the debug log.
fn refusal(error: &dyn std::error::Error) -> String {
    tracing::debug!("{error}");
    let cause = root_cause(error);
    cause.lines().next().unwrap_or_default().trim_end_matches(". Verifier output: ").to_owned()
}

/// Sizes of the maps that depend on the policies, in entries.
#[derive(Clone, Copy, Debug)]
pub struct MapSizes {
    /// `EDGES`
    pub edges: u32,
    /// `STATES`
    pub states: u32,
    /// `ALIASES`
    pub aliases: u32,
    /// `PINS`
    pub pins: u32,
    /// `PREFIXES`
    pub prefixes: u32,
    /// `INTERVALS`
    pub intervals: u32,
    /// `STARTS`
    pub starts: u32,
}

/// The hooks whose programs make up a tier.
pub fn hooks_of(tier: Tier) -> impl Iterator<Item = &'static HookSpec> {
    Hook::TABLE.iter().filter(move |spec| match tier {
        Tier::Lsm => matches!(spec.tier, HookTier::Lsm | HookTier::Cgroup),
        Tier::Trace => matches!(spec.tier, HookTier::Tracepoint | HookTier::Cgroup),
        Tier::Observe => matches!(spec.tier, HookTier::Tracepoint | HookTier::Cgroup),
    })
}

/// The programs of a tier, in the kernel.
pub struct Loaded {
    /// The object.
    pub ebpf: Ebpf,
    /// The hooks whose programs are loaded.
    pub hooks: Vec<&'static HookSpec>,
}

/// Creates the maps and loads the programs of `tier`; nothing is attached yet.
pub fn load(tier: Tier, sizes: MapSizes) -> Result<Loaded, LoadError> {
    let Prepared { mut ebpf, btf, types } = prepare(tier, sizes)?;
    let mut hooks = Vec::new();
    for spec in hooks_of(tier) {
        match load_program(&mut ebpf, spec, &btf, &types) {
            Ok(()) => hooks.push(spec),
            Err(LoadError::Types(BtfError::NoHook(_))) if spec.need == Need::Optional => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Loaded { ebpf, hooks })
}

/// How loading the program of one hook went.
pub type HookLoad = (&'static HookSpec, Result<(), LoadError>);

/// Loads each program of `tier` whatever becomes of the others, and unloads them again: for `doctor`.
/// Optional hooks that this kernel lacks are left out.
pub fn load_each(tier: Tier, sizes: MapSizes) -> Result<Vec<HookLoad>, LoadError> {
    let Prepared { mut ebpf, btf, types } = prepare(tier, sizes)?;
    let loads = hooks_of(tier).map(|spec| (spec, load_program(&mut ebpf, spec, &btf, &types)));
    let is_missing = |(spec, load): &HookLoad| {
        matches!(load, Err(LoadError::Types(BtfError::NoHook(_)))) && spec.need == Need::Optional
    };
    Ok(loads.filter(|load| !is_missing(load)).collect())
}

/// The object with its maps made, and the kernel's types.
struct Prepared {
    ebpf: Ebpf,
    btf: Btf,
    types: KernelTypes,
}

fn prepare(tier: Tier, sizes: MapSizes) -> Result<Prepared, LoadError> {
    let types = KernelTypes::of_running_kernel()?;
    let offsets: Row<Offsets> = Row(types.offsets()?);
    let enforce = u32::from(tier != Tier::Observe);
    let lsm_judges = u32::from(tier == Tier::Lsm);
    let prototypes = prototypes(&types);
    let ebpf = EbpfLoader::new()
        .allow_unsupported_maps()
        .override_global("OFFSETS", &offsets, true)
        .override_global("ENFORCE", &enforce, true)
        .override_global("LSM_JUDGES", &lsm_judges, true)
        .override_global("PROTOTYPES", &prototypes, true)
        .map_max_entries("EDGES", sizes.edges)
        .map_max_entries("STATES", sizes.states)
        .map_max_entries("ALIASES", sizes.aliases)
        .map_max_entries("PINS", sizes.pins)
        .map_max_entries("PREFIXES", sizes.prefixes)
        .map_max_entries("INTERVALS", sizes.intervals)
        .map_max_entries("STARTS", sizes.starts)
        .load(OBJECT)?;
    Ok(Prepared { ebpf, btf: Btf::from_sys_fs()?, types })
}

/// Which prototype each hook has. One that is missing or unknown ends the load of its own program.
fn prototypes(types: &KernelTypes) -> [u8; Hook::TABLE.len()] {
    let mut prototypes = [NO_PROTOTYPE; Hook::TABLE.len()];
    for (number, spec) in prototypes.iter_mut().zip(Hook::TABLE) {
        *number = types.prototype(spec.name, spec.prototypes).unwrap_or(NO_PROTOTYPE);
    }
    prototypes
}

fn load_program(
    ebpf: &mut Ebpf,
    spec: &'static HookSpec,
    btf: &Btf,
    types: &KernelTypes,
) -> Result<(), LoadError> {
    let program = ebpf.program_mut(spec.program).ok_or(LoadError::NoProgram(spec.program))?;
    let loaded = match spec.tier {
        HookTier::Lsm => {
            types.prototype(spec.name, spec.prototypes)?;
            <&mut Lsm>::try_from(program).and_then(|program| program.load(spec.name, btf))
        }
        HookTier::Tracepoint => {
            <&mut RawTracePoint>::try_from(program).and_then(RawTracePoint::load)
        }
        HookTier::Cgroup => <&mut CgroupSockAddr>::try_from(program).and_then(CgroupSockAddr::load),
    };
    loaded.map_err(|source| LoadError::Program { hook: spec.name, decides: spec.decides, source })
}

/// Attaches every program that is loaded; cgroup programs to `cgroup`. Each stays attached as long as
/// its link.
pub fn attach(
    loaded: &mut Loaded,
    cgroup: impl AsFd,
) -> Result<Vec<(&'static str, FdLink)>, LoadError> {
    let mut links = Vec::with_capacity(loaded.hooks.len());
    for spec in &loaded.hooks {
        let program = loaded.ebpf.program_mut(spec.program);
        let program = program.ok_or(LoadError::NoProgram(spec.program))?;
        let link = attach_one(program, spec, cgroup.as_fd()).map_err(|source| {
            LoadError::Program { hook: spec.name, decides: spec.decides, source }
        })?;
        links.push((spec.program, link));
    }
    Ok(links)
}

fn attach_one(
    program: &mut Program,
    spec: &HookSpec,
    cgroup: BorrowedFd<'_>,
) -> Result<FdLink, ProgramError> {
    Ok(match spec.tier {
        HookTier::Lsm => {
            let program = <&mut Lsm>::try_from(program)?;
            let link = program.attach()?;
            program.take_link(link)?.into()
        }
        HookTier::Tracepoint => {
            let program = <&mut RawTracePoint>::try_from(program)?;
            let link = program.attach(spec.name)?;
            program.take_link(link)?.into()
        }
        HookTier::Cgroup => {
            let program = <&mut CgroupSockAddr>::try_from(program)?;
            // A link always admits others beside it, and takes no flag that says so.
            let link = program.attach(cgroup, CgroupAttachMode::Single)?;
            program.take_link(link)?.try_into().map_err(link_error)?
        }
    })
}

/// Every kernel that has what the programs need attaches by links.
fn link_error(error: LinkError) -> ProgramError {
    match error {
        LinkError::SyscallError(error) => error.into(),
        LinkError::InvalidLink | LinkError::UnknownLinkType(_) => ProgramError::NotAttached,
    }
}
