//! Struct offsets and hook prototypes of the running kernel, from its BTF.

use std::path::Path;

use agent_guard_common::{
    hook::{HookSpec, HookTier, Need},
    offsets::{ABSENT, Offsets},
};
use btf_rs::{Btf, BtfType, Struct, Type};

/// Where the kernel shows its types.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why the kernel's types could not be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BtfError {
    /// No BTF at all.
    #[error(
        "the kernel's type information could not be read from {VMLINUX}: {0}; it needs CONFIG_DEBUG_INFO_BTF=y"
    )]
    Unreadable(String),
    /// A struct or member that the programs read is not there.
    #[error(
        "this kernel has no {path}: its type information lacks `{missing}`; this version of agent-guard does not know this kernel"
    )]
    Missing {
        /// What was looked up, `struct.member.member`.
        path: &'static str,
        /// The part that is missing.
        missing: String,
    },
    /// A hook is not there.
    #[error("this kernel has no hook `{0}`")]
    NoHook(&'static str),
    /// Programs of LSM hooks are skipped while they run.
    #[error(
        "this kernel lets calls pass an LSM hook unjudged whose program was preempted on the same processor; \
         boot 6.1.54, 6.2 or a later one"
    )]
    Skips,
    /// A hook's parameters are none that the program knows.
    #[error("the hook `{hook}` takes ({found}) on this kernel; agent-guard reads ({expected})")]
    Prototype {
        /// Hook name, of an LSM hook without `bpf_lsm_`.
        hook: &'static str,
        /// Parameter names in BTF.
        found: String,
        /// Parameter names that the program knows.
        expected: String,
    },
}

/// The running kernel's types.
pub struct KernelTypes(Btf);

impl KernelTypes {
    /// Reads [`VMLINUX`].
    pub fn of_running_kernel() -> Result<Self, BtfError> {
        Self::from_file(Path::new(VMLINUX))
    }

    /// Reads a BTF file.
    pub fn from_file(path: &Path) -> Result<Self, BtfError> {
        // Read at once: the parser's many small reads are slow on sysfs, which has no page cache.
        let bytes = std::fs::read(path).map_err(|error| BtfError::Unreadable(error.to_string()))?;
        Btf::from_bytes(&bytes).map(Self).map_err(|error| BtfError::Unreadable(error.to_string()))
    }

    /// Fails where the kernel may skip the program of an LSM hook, and let the call pass, because a task that was
    /// preempted is running it. Kernels that do not, from 6.2 and 6.1.54 on ("Remove prog->active check for bpf_lsm
    /// and bpf_iter"), pick by this type how a program is entered.
    pub fn runs_every_lsm_program(&self) -> Result<(), BtfError> {
        if self.has_type("bpf_trampoline_enter_t") { Ok(()) } else { Err(BtfError::Skips) }
    }

    fn has_type(&self, name: &str) -> bool {
        self.0.resolve_types_by_name(name).is_ok_and(|types| !types.is_empty())
    }

    /// Every offset that the programs need, in bytes.
    pub fn offsets(&self) -> Result<Offsets, BtfError> {
        Offsets::from_fn(|paths| match self.offset(paths) {
            Err(_) if Offsets::OPTIONAL.contains(&paths) => Ok(ABSENT),
            found => found,
        })
    }

    /// The offset of the first of `struct.member.member…|…` that this kernel has, in bytes.
    pub fn offset(&self, paths: &'static str) -> Result<u32, BtfError> {
        let newest = paths.split('|').next().unwrap_or(paths);
        let mut older = paths.split('|').skip(1);
        self.offset_of_one(newest)
            .or_else(|error| older.find_map(|path| self.offset_of_one(path).ok()).ok_or(error))
    }

    /// The offset of `struct.member.member…`. Unnamed members are looked through.
    fn offset_of_one(&self, path: &'static str) -> Result<u32, BtfError> {
        let missing = |part: &str| BtfError::Missing { path, missing: part.to_owned() };
        let mut parts = path.split('.');
        let name = parts.next().unwrap_or_default();
        let mut current = self.named_struct(name).ok_or_else(|| missing(name))?;
        let mut bits = 0;
        let mut rest = parts.peekable();
        while let Some(member) = rest.next() {
            let (offset, ty) = self.member(&current, member).ok_or_else(|| missing(member))?;
            bits += offset;
            if rest.peek().is_some() {
                current = self.as_struct(ty).ok_or_else(|| missing(member))?;
            }
        }
        if bits % 8 == 0 { Ok(bits / 8) } else { Err(missing("a byte-aligned member")) }
    }

    fn named_struct(&self, name: &str) -> Option<Struct> {
        let types = self.0.resolve_types_by_name(name).ok()?;
        types.into_iter().find_map(|ty| match ty {
            Type::Struct(found) if !found.members.is_empty() => Some(found),
            _ => None,
        })
    }

    /// Bit offset and type of a member.
    fn member(&self, within: &Struct, name: &str) -> Option<(u32, Type)> {
        within.members.iter().find_map(|member| {
            let ty = self.0.resolve_chained_type(member).ok()?;
            let found = self.0.resolve_name(member).unwrap_or_default();
            if found == name {
                return Some((member.bit_offset(), ty));
            }
            if !found.is_empty() {
                return None;
            }
            let inner = self.as_struct(ty)?;
            self.member(&inner, name).map(|(bits, ty)| (bits + member.bit_offset(), ty))
        })
    }

    fn as_struct(&self, ty: Type) -> Option<Struct> {
        match ty {
            Type::Struct(found) | Type::Union(found) => Some(found),
            Type::Const(_) | Type::Volatile(_) | Type::Typedef(_) | Type::TypeTag(_) => {
                self.as_struct(self.0.resolve_chained_type(ty.as_btf_type()?).ok()?)
            }
            _ => None,
        }
    }

    /// Which of its prototypes a hook has here; `None` for an optional one that this kernel lacks. What is
    /// no function has a fixed ABI, and is not looked up.
    pub fn prototype(&self, spec: &HookSpec) -> Result<Option<u8>, BtfError> {
        let function = match spec.tier {
            HookTier::Lsm => format!("bpf_lsm_{}", spec.name),
            HookTier::Return => spec.name.to_owned(),
            HookTier::Tracepoint | HookTier::Cgroup => return Ok(Some(0)),
        };
        match self.known_prototype(spec.name, &function, spec.prototypes) {
            Err(BtfError::NoHook(_)) if spec.need == Need::Optional => Ok(None),
            found => found.map(Some),
        }
    }

    fn known_prototype(
        &self,
        hook: &'static str,
        function: &str,
        known: &[&[&str]],
    ) -> Result<u8, BtfError> {
        let found = self.parameters(function).ok_or(BtfError::NoHook(hook))?;
        let number = known.iter().position(|known| found == *known);
        number.and_then(|number| u8::try_from(number).ok()).ok_or_else(|| {
            let known: Vec<String> = known.iter().map(|known| known.join(", ")).collect();
            BtfError::Prototype { hook, found: found.join(", "), expected: known.join(") or (") }
        })
    }

    fn parameters(&self, function: &str) -> Option<Vec<String>> {
        let types = self.0.resolve_types_by_name(function).ok()?;
        let function = types.into_iter().find_map(|ty| match ty {
            Type::Func(function) => Some(function),
            _ => None,
        })?;
        let Type::FuncProto(prototype) =
            self.0.resolve_chained_type(&function as &dyn BtfType).ok()?
        else {
            return None;
        };
        prototype.parameters.iter().map(|parameter| self.0.resolve_name(parameter).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use agent_guard_common::hook::Hook;

    use super::*;

    #[test]
    fn this_kernel_has_every_member_and_none_is_where_another_struct_keeps_it() {
        let types = KernelTypes::of_running_kernel().unwrap();
        let offsets = types.offsets().unwrap();
        assert_eq!(Offsets::PATHS.len() * 4, size_of::<Offsets>());
        assert_ne!(offsets.file_dentry, offsets.file_inode);
        assert_ne!(offsets.dentry_parent, 0);
    }

    #[test]
    fn every_lsm_hook_has_the_prototype_that_its_program_reads() {
        let types = KernelTypes::of_running_kernel().unwrap();
        for spec in Hook::TABLE {
            types.prototype(spec).unwrap();
        }
    }

    #[test]
    fn a_missing_hook_is_an_error_only_where_it_is_needed() {
        let types = KernelTypes::of_running_kernel().unwrap();
        let spec = |need| HookSpec { name: "no_such_hook", need, ..*Hook::FileOpen.spec() };
        assert!(matches!(types.prototype(&spec(Need::Optional)), Ok(None)));
        assert!(matches!(types.prototype(&spec(Need::Required)), Err(BtfError::NoHook(_))));
    }

    #[test]
    fn a_kernel_that_skips_no_lsm_program_is_known_by_its_types() {
        let types = KernelTypes::of_running_kernel().unwrap();
        types.runs_every_lsm_program().unwrap();
        assert!(!types.has_type("bpf_trampoline_enter_t_of_no_kernel"));
        assert!(BtfError::Skips.to_string().contains("6.1.54"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let types = KernelTypes::of_running_kernel().unwrap();
        let error = types.offset("file.no_such_member").unwrap_err().to_string();
        assert!(error.contains("no_such_member"), "{error}");
        let error = types.offset("no_such_struct.member").unwrap_err().to_string();
        assert!(error.contains("no_such_struct"), "{error}");
        let known =
            |known: &[&[&str]]| types.known_prototype("file_open", "bpf_lsm_file_open", known);
        let error = known(&[&["inode"], &["a", "b"]]).unwrap_err().to_string();
        assert!(error.contains("(file)") && error.contains("(inode) or (a, b)"), "{error}");
        assert_eq!(known(&[&["inode"], &["file"]]).unwrap(), 1);
    }
}
