//! The kernel's list of security modules and its lockdown mode, from securityfs.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{Mode, OFlags},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags},
};

use super::{
    finding::{Finding, Probe},
    programs::{Refusal, Sort},
};
use crate::tier::Tier;

const MOUNT_POINT: &str = "/sys/kernel/security";
const HOW_TO_LOOK: &str = "run as root, or look yourself: `mount -t securityfs securityfs /sys/kernel/security; \
                           cat /sys/kernel/security/lsm /sys/kernel/security/lockdown`";

/// securityfs, wherever it can be had. Nothing is mounted on the host: where it is not mounted, a
/// detached mount that no path leads to is opened, and is gone when this is dropped.
pub struct Securityfs {
    directory: OwnedFd,
    mounted: bool,
}

impl Securityfs {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        if let Ok(directory) = rustix::fs::open(MOUNT_POINT, flags, Mode::empty()) {
            let mounted = Self { directory, mounted: true };
            if !matches!(mounted.read("lsm"), Ok(None)) {
                return Ok(mounted);
            }
        }
        let context = rustix::mount::fsopen("securityfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let directory =
            rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        Ok(Self { directory, mounted: false })
    }

    /// Where a file of it is, for people.
    fn place(&self, name: &str) -> String {
        if self.mounted {
            format!("{MOUNT_POINT}/{name}")
        } else {
            format!("`{name}` in securityfs, which is not mounted here")
        }
    }

    /// A file of it, or `None` where it has no such file.
    fn read(&self, name: &str) -> io::Result<Option<String>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => {
                let mut text = String::new();
                File::from(file).read_to_string(&mut text)?;
                Ok(Some(text))
            }
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Probes the list of modules and the lockdown mode. `refusal` is why LSM programs do not load, if they
/// do not.
pub fn findings(refusal: Option<&Refusal>) -> [Finding; 2] {
    match Securityfs::open() {
        Ok(securityfs) => [
            judge_modules(securityfs.read("lsm"), &securityfs.place("lsm")),
            judge_lockdown(securityfs.read("lockdown"), &securityfs.place("lockdown"), refusal),
        ],
        Err(error) => {
            let error = format!("securityfs is not mounted and could not be opened: {error}");
            [MODULES.unknown(error.as_str(), HOW_TO_LOOK), LOCKDOWN.unknown(error, HOW_TO_LOOK)]
        }
    }
}

const MODULES: Probe = Probe { name: "bpf among the LSMs", needed_by: &[Tier::Lsm] };
const LOCKDOWN: Probe = Probe { name: "lockdown lets BPF in", needed_by: &[Tier::Lsm] };

pub(super) fn judge_modules(list: io::Result<Option<String>>, place: &str) -> Finding {
    let list = match list {
        Ok(Some(list)) => list,
        Ok(None) => {
            return MODULES.no(
                format!("no {place}: the kernel has no security modules"),
                "boot a kernel built with CONFIG_SECURITY=y and CONFIG_BPF_LSM=y",
            );
        }
        Err(error) => return MODULES.unknown(format!("{place}: {error}"), HOW_TO_LOOK),
    };
    let list = list.trim();
    if list.split(',').any(|module| module == "bpf") {
        return MODULES.yes(format!("{list} ({place})"));
    }
    MODULES.no(
        format!("{list} ({place}): LSM programs would attach and never run"),
        format!(
            "add `{}` to the kernel command line (GRUB_CMDLINE_LINUX in /etc/default/grub, then \
             update-grub) and boot; the kernel must be built with CONFIG_BPF_LSM=y",
            boot_line(list)
        ),
    )
}

/// The boot line that keeps the modules of `list` and adds `bpf`. `capability` is always on and can
/// not be named.
fn boot_line(list: &str) -> String {
    let kept = list.split(',').filter(|module| !module.is_empty() && *module != "capability");
    format!("lsm={}", kept.chain(["bpf"]).collect::<Vec<_>>().join(","))
}

/// The mode in brackets: `none [integrity] confidentiality`.
fn lockdown_mode(text: &str) -> Option<&str> {
    text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

pub(super) fn judge_lockdown(
    text: io::Result<Option<String>>,
    place: &str,
    refusal: Option<&Refusal>,
) -> Finding {
    let text = match text {
        Ok(Some(text)) => text,
        Ok(None) => return LOCKDOWN.yes(format!("no {place}: it is not in this kernel")),
        Err(error) => return LOCKDOWN.unknown(format!("{place}: {error}"), HOW_TO_LOOK),
    };
    let owner = "the machine's owner decides this, and agent-guard does not work around it: use what the \
                 other tiers offer. An owner who wants more boots without `lockdown=` on the kernel \
                 command line; some distributions lock down by themselves under Secure Boot";
    let everyone = Probe { needed_by: &Tier::ALL, ..LOCKDOWN };
    match (lockdown_mode(&text), refusal) {
        (Some("none"), _) => LOCKDOWN.yes(format!("none ({place})")),
        (Some("integrity"), None) => {
            LOCKDOWN.yes(format!("integrity ({place}); LSM programs load all the same"))
        }
        (Some("integrity"), Some(Refusal { sort: Sort::Permission, .. })) => LOCKDOWN.no(
            format!(
                "integrity ({place}); LSM programs are refused although the capabilities are \
                 there, so this kernel counts them as locked down (not every kernel does)"
            ),
            owner,
        ),
        (Some("integrity"), Some(refusal)) => LOCKDOWN.unknown(
            format!(
                "integrity ({place}); whether this kernel then refuses LSM programs is unknown: {}",
                refusal.why
            ),
            "mend what keeps the programs from loading, then look again",
        ),
        (Some("confidentiality"), _) => everyone.no(
            format!("confidentiality ({place}): BPF programs may not read kernel memory"),
            format!("{owner}. `lockdown=integrity` leaves room for tier `trace` at least"),
        ),
        (mode, _) => {
            LOCKDOWN.unknown(format!("{place} says {:?}", mode.unwrap_or(text.trim())), HOW_TO_LOOK)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::State, *};

    fn text(text: &str) -> io::Result<Option<String>> {
        Ok(Some(text.to_owned()))
    }

    fn refused(sort: Sort) -> Refusal {
        Refusal { sort, why: "because".to_owned() }
    }

    #[test]
    fn bpf_is_looked_for_as_a_word_of_the_list() {
        for list in ["bpf", "capability,landlock,bpf", "lockdown,bpf,apparmor\n"] {
            assert_eq!(judge_modules(text(list), "x").state, State::Yes, "{list}");
        }
        for list in ["", "capability", "capability,xbpf,bpfx"] {
            assert_eq!(judge_modules(text(list), "x").state, State::No, "{list}");
        }
        assert_eq!(judge_modules(Ok(None), "x").state, State::No);
        assert_eq!(
            judge_modules(Err(io::ErrorKind::PermissionDenied.into()), "x").state,
            State::Unknown
        );
    }

    #[test]
    fn the_boot_line_keeps_what_is_on_and_leaves_out_what_can_not_be_named() {
        let finding = judge_modules(text("capability,landlock,yama,apparmor\n"), "x");
        assert!(finding.remedy.unwrap().contains("`lsm=landlock,yama,apparmor,bpf`"));
        assert_eq!(boot_line("capability"), "lsm=bpf");
    }

    #[test]
    fn the_mode_is_the_word_in_brackets() {
        assert_eq!(lockdown_mode("none [integrity] confidentiality\n"), Some("integrity"));
        assert_eq!(lockdown_mode("[none] integrity confidentiality"), Some("none"));
        assert_eq!(lockdown_mode("none integrity"), None);
    }

    #[test]
    fn lockdown_is_judged_by_what_the_kernel_did_under_it() {
        let integrity = || text("none [integrity] confidentiality\n");
        let state = |text, refusal: Option<&Refusal>| judge_lockdown(text, "x", refusal).state;
        assert_eq!(state(integrity(), None), State::Yes);
        assert_eq!(state(integrity(), Some(&refused(Sort::Permission))), State::No);
        assert_eq!(state(integrity(), Some(&refused(Sort::NotTried))), State::Unknown);
        assert_eq!(
            state(text("[none] integrity confidentiality"), Some(&refused(Sort::Permission))),
            State::Yes
        );
        assert_eq!(state(Ok(None), Some(&refused(Sort::Permission))), State::Yes);
        assert_eq!(state(text("none [else]"), None), State::Unknown);
        assert_eq!(state(Err(io::ErrorKind::PermissionDenied.into()), None), State::Unknown);
    }

    #[test]
    fn confidentiality_closes_every_tier() {
        let finding = judge_lockdown(
            text("none integrity [confidentiality]"),
            "x",
            Some(&refused(Sort::Permission)),
        );
        assert_eq!((finding.state, finding.needed_by), (State::No, &Tier::ALL[..]));
    }

    #[test]
    fn nothing_is_mounted_on_the_host() {
        let mounted = || {
            let mounts = crate::mounts::MountTable::open().unwrap().read().unwrap();
            mounts.into_iter().filter(|mount| mount.fs_type == "securityfs").count()
        };
        let before = mounted();
        let securityfs = Securityfs::open();
        assert_eq!(mounted(), before);
        drop(securityfs);
        assert_eq!(mounted(), before);
    }
}
