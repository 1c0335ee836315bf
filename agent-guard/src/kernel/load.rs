//! Loading and attaching the programs of a tier.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::fd::AsFd,
    path::Path,
};

use agent_guard_common::{
    hook::{Hook, HookSpec, HookTier, NO_PROTOTYPE},
    offsets::Offsets,
};
use aya::{
    Btf, Ebpf, EbpfLoader, VerifierLogLevel,
    maps::MapError,
    programs::{
        CgroupAttachMode, CgroupSockAddr, CgroupSockAddrAttachType, FExit, Lsm, Program,
        ProgramError, RawTracePoint,
        links::{FdLink, LinkError},
    },
};

use super::{
    Row,
    btf::{BtfError, KernelTypes},
    root_cause,
    stand_in::StandIn,
};
use crate::tier::Tier;

/// The object file with all programs, for every kernel.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("AGENT_GUARD_OBJECT"));

/// Why the programs are not in force.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel's types lack something.
    #[error(transparent)]
    Types(#[from] BtfError),
    /// The object as a whole was refused.
    #[error("the kernel refused the maps or the object: {0}")]
    Object(#[from] aya::EbpfError),
    /// What stands in for a map could not be made.
    #[error("no map could be made and pinned: {}", root_cause(.0))]
    StandIn(MapError),
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

/// The hooks whose programs make up a tier.
pub fn hooks_of(tier: Tier) -> impl Iterator<Item = &'static HookSpec> {
    Hook::TABLE.iter().filter(move |spec| match tier {
        Tier::Lsm => {
            matches!(spec.tier, HookTier::Lsm | HookTier::Return | HookTier::Cgroup)
        }
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
pub fn load(tier: Tier) -> Result<Loaded, LoadError> {
    let Prepared { mut ebpf, btf, prototypes } = prepare(tier, VerifierLogLevel::default())?;
    let mut hooks = Vec::new();
    for spec in hooks_of(tier) {
        if prototypes.of(spec)?.is_some() {
            load_program(&mut ebpf, spec, &btf)?;
            hooks.push(spec);
        }
    }
    Ok(Loaded { ebpf, hooks })
}

/// What became of the program of one hook.
#[derive(Debug)]
pub enum HookLoad {
    /// The kernel took it.
    Loaded {
        /// Instructions that the verifier went through, where the kernel says.
        verified: Option<u32>,
    },
    /// This kernel lacks the hook, and needs none.
    Absent,
    /// Something keeps it out.
    Refused(LoadError),
}

/// Loads each program of `tier` whatever becomes of the others, and unloads them again: for `doctor`.
pub fn load_each(tier: Tier) -> Result<Vec<(&'static HookSpec, HookLoad)>, LoadError> {
    let Prepared { mut ebpf, btf, prototypes } = prepare(tier, VerifierLogLevel::default())?;
    let mut load = |spec| match prototypes.of(spec) {
        Ok(Some(_)) => match load_program(&mut ebpf, spec, &btf) {
            Ok(program) => HookLoad::Loaded {
                verified: program.info().ok().and_then(|info| info.verified_instruction_count()),
            },
            Err(error) => HookLoad::Refused(error),
        },
        Ok(None) => HookLoad::Absent,
        Err(error) => HookLoad::Refused(error.into()),
    };
    Ok(hooks_of(tier).map(|spec| (spec, load(spec))).collect())
}

/// The object with its maps made, and what loading its programs needs to know of the kernel.
pub(super) struct Prepared {
    pub(super) ebpf: Ebpf,
    pub(super) btf: Btf,
    pub(super) prototypes: Prototypes,
}

/// Which prototype each hook has here, in the order of the table.
pub(super) struct Prototypes(Vec<Result<Option<u8>, BtfError>>);

impl Prototypes {
    fn of_kernel(types: &KernelTypes) -> Self {
        Self(Hook::TABLE.iter().map(|spec| types.prototype(spec)).collect())
    }

    /// That of `spec`; `None` where this kernel lacks the hook and needs none.
    pub(super) fn of(&self, spec: &HookSpec) -> Result<Option<u8>, BtfError> {
        self.0.get(spec.hook as usize).cloned().unwrap_or(Err(BtfError::NoHook(spec.name)))
    }

    /// As the programs know them. A program whose hook has none of its prototypes is not loaded.
    fn numbers(&self) -> [u8; Hook::TABLE.len()] {
        let mut numbers = [NO_PROTOTYPE; Hook::TABLE.len()];
        for (number, found) in numbers.iter_mut().zip(&self.0) {
            if let Ok(Some(found)) = found {
                *number = *found;
            }
        }
        numbers
    }
}

/// Makes the maps of `tier`. Of a program that the kernel refuses its verifier will say what `log` asks for.
pub(super) fn prepare(tier: Tier, log: VerifierLogLevel) -> Result<Prepared, LoadError> {
    let types = KernelTypes::of_running_kernel()?;
    if tier == Tier::Lsm {
        types.runs_every_lsm_program()?;
    }
    let offsets: Row<Offsets> = Row(types.offsets()?);
    let enforce = u32::from(tier != Tier::Observe);
    let lsm_judges = u32::from(tier == Tier::Lsm);
    let prototypes = Prototypes::of_kernel(&types);
    let (rename_lock, numbers) = (rename_lock(), prototypes.numbers());
    let mut loader = EbpfLoader::new();
    loader
        .allow_unsupported_maps()
        .verifier_log_level(log)
        .override_global("OFFSETS", &offsets, true)
        .override_global("ENFORCE", &enforce, true)
        .override_global("LSM_JUDGES", &lsm_judges, true)
        .override_global("RENAME_LOCK", &rename_lock, true)
        .override_global("PROTOTYPES", &numbers, true);
    // Storage with inodes is to be had where LSM programs run, and nobody else's programs use it.
    let stand_in = (tier != Tier::Lsm).then(StandIn::make).transpose();
    let stand_in = stand_in.map_err(LoadError::StandIn)?;
    if let Some(stand_in) = &stand_in {
        loader.map_pin_path(REMEMBERED, stand_in.path().to_owned());
    }
    let ebpf = loader.load(OBJECT)?;
    Ok(Prepared { ebpf, btf: Btf::from_sys_fs()?, prototypes })
}

/// The map of storage with inodes.
const REMEMBERED: &str = "REMEMBERED";

/// Where the kernel says the addresses of its symbols.
const SYMBOLS: &str = "/proc/kallsyms";

/// The address of the kernel's count of renames, or 0 where it does not say: then every open is judged anew.
fn rename_lock() -> u64 {
    File::open(SYMBOLS)
        .map_or(0, |symbols| address_of_global("rename_lock", BufReader::new(symbols)))
}

/// The address of a global symbol of the kernel's own, in lines of address, kind, name and, for those of modules, the
/// module; 0 where there is none, or two of the name. Some kernels call this one text, `T`, after the section that
/// they were linked into.
fn address_of_global(name: &str, symbols: impl BufRead) -> u64 {
    let mut found = symbols.lines().map_while(Result::ok).filter_map(|line| {
        let mut words = line.split_whitespace();
        let (address, kind, of) = (words.next()?, words.next()?, words.next()?);
        let matches = of == name && matches!(kind, "B" | "D" | "T") && words.next().is_none();
        matches.then(|| u64::from_str_radix(address, 16).ok()).flatten()
    });
    match (found.next(), found.next()) {
        (Some(address), None) => address,
        _ => 0,
    }
}

pub(super) fn load_program<'ebpf>(
    ebpf: &'ebpf mut Ebpf,
    spec: &'static HookSpec,
    btf: &Btf,
) -> Result<&'ebpf Program, LoadError> {
    let program = ebpf.program_mut(spec.program).ok_or(LoadError::NoProgram(spec.program))?;
    let loaded = match spec.tier {
        HookTier::Lsm => {
            <&mut Lsm>::try_from(&mut *program).and_then(|program| program.load(spec.name, btf))
        }
        HookTier::Return => {
            <&mut FExit>::try_from(&mut *program).and_then(|program| program.load(spec.name, btf))
        }
        HookTier::Tracepoint => {
            <&mut RawTracePoint>::try_from(&mut *program).and_then(RawTracePoint::load)
        }
        HookTier::Cgroup => {
            <&mut CgroupSockAddr>::try_from(&mut *program).and_then(CgroupSockAddr::load)
        }
    };
    match loaded {
        Ok(()) => Ok(program),
        Err(source) => Err(refused(spec)(source)),
    }
}

/// Attaches the program of a hook for the whole host, for as long as its link.
pub fn attach(ebpf: &mut Ebpf, spec: &'static HookSpec) -> Result<FdLink, LoadError> {
    let program = ebpf.program_mut(spec.program).ok_or(LoadError::NoProgram(spec.program))?;
    let attach = || -> Result<FdLink, ProgramError> {
        if spec.tier == HookTier::Lsm {
            let program = <&mut Lsm>::try_from(program)?;
            let link = program.attach()?;
            return Ok(program.take_link(link)?.into());
        }
        if spec.tier == HookTier::Return {
            let program = <&mut FExit>::try_from(program)?;
            let link = program.attach()?;
            return Ok(program.take_link(link)?.into());
        }
        let program = <&mut RawTracePoint>::try_from(program)?;
        let link = program.attach(spec.name)?;
        Ok(program.take_link(link)?.into())
    };
    attach().map_err(refused(spec))
}

/// Attaches the program that is pinned at `program` to a cgroup, for as long as its link.
pub fn attach_to_cgroup(
    spec: &'static HookSpec,
    program: &Path,
    cgroup: impl AsFd,
) -> Result<FdLink, LoadError> {
    let attach_type = attach_type(spec.hook).ok_or(LoadError::NoProgram(spec.program))?;
    let attach = || -> Result<FdLink, ProgramError> {
        let mut program = CgroupSockAddr::from_pin(program, attach_type)?;
        // A link always admits others beside it, and takes no flag that says so.
        let link = program.attach(cgroup, CgroupAttachMode::Single)?;
        program.take_link(link)?.try_into().map_err(link_error)
    };
    attach().map_err(refused(spec))
}

/// What the kernel calls a cgroup hook.
fn attach_type(hook: Hook) -> Option<CgroupSockAddrAttachType> {
    Some(match hook {
        Hook::Connect4 => CgroupSockAddrAttachType::Connect4,
        Hook::Connect6 => CgroupSockAddrAttachType::Connect6,
        Hook::Sendmsg4 => CgroupSockAddrAttachType::UDPSendMsg4,
        Hook::Sendmsg6 => CgroupSockAddrAttachType::UDPSendMsg6,
        Hook::Recvmsg4 => CgroupSockAddrAttachType::UDPRecvMsg4,
        Hook::Recvmsg6 => CgroupSockAddrAttachType::UDPRecvMsg6,
        Hook::Getpeername4 => CgroupSockAddrAttachType::GetPeerName4,
        Hook::Getpeername6 => CgroupSockAddrAttachType::GetPeerName6,
        _ => return None,
    })
}

fn refused(spec: &'static HookSpec) -> impl FnOnce(ProgramError) -> LoadError {
    move |source| LoadError::Program { hook: spec.name, decides: spec.decides, source }
}

/// Every kernel that has what the programs need attaches by links.
fn link_error(error: LinkError) -> ProgramError {
    match error {
        LinkError::SyscallError(error) => error.into(),
        LinkError::InvalidLink | LinkError::UnknownLinkType(_) => ProgramError::NotAttached,
    }
}

#[cfg(test)]
mod tests {
    use super::address_of_global;

    fn rename_lock(symbols: &str) -> u64 {
        address_of_global("rename_lock", symbols.as_bytes())
    }

    #[test]
    fn a_global_of_the_kernel_is_found_and_nothing_else_of_its_name() {
        const OWN: &str = "ffffffff82a0b2c0 D rename_lock\n";
        const FOUND: u64 = 0xffff_ffff_82a0_b2c0;
        let among = format!("ffffffff81000000 T _stext\n{OWN}ffffffff82a0b300 d rename_lock_of\n");
        assert_eq!(rename_lock(&among), FOUND);
        assert_eq!(rename_lock(&OWN.replace(" D ", " T ")), FOUND, "as 7.2 has it");
        assert_eq!(rename_lock(&format!("{OWN}ffffffffc0000000 D rename_lock\t[some]\n")), FOUND);
        assert_eq!(rename_lock(&format!("{OWN}ffffffff82a0b400 d rename_lock\n")), FOUND);
        assert_eq!(rename_lock("ffffffff82a0b2c0 d rename_lock\n"), 0, "local to a file");
        assert_eq!(rename_lock("ffffffff82a0b2c0 r rename_lock\n"), 0, "a constant");
        assert_eq!(rename_lock("ffffffffc0000000 D rename_lock\t[some]\n"), 0, "a module's");
        assert_eq!(rename_lock(&OWN.repeat(2)), 0, "two");
        assert_eq!(rename_lock("0000000000000000 D rename_lock\n"), 0, "hidden");
        assert_eq!(rename_lock("hidden\n\n"), 0);
    }
}
