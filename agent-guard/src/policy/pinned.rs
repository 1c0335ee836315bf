//! The files that rules with a pin allow: those that are there when the policy is loaded, as long as nobody
//! changes them.
//!
//! The kernel knows a file by its file system and inode number, and a change by the inode's change time,
//! which every write sets to the present and no call sets to anything else. So three things must hold when
//! the time is taken. It is past, or a later change could get the same. The file system sees every change.
//! And nobody has the file open for writing: of stores into a page that is mapped and dirty already the file
//! system learns nothing.

use std::{
    collections::BTreeMap,
    fs::{File, Metadata},
    io::{self, Read as _},
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path as StdPath, PathBuf},
    time::{Duration, Instant},
};

use agent_guard_common::{limits::MAX_PINS, table::ChangeTime};
use miette::Diagnostic;
use rustix::time::{ClockId, clock_gettime};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{
    Pin, Policy,
    aliases::MAX_ENTRIES,
    compile::{Compiled, Environment, Note, RuleRef, components, forms, rule_ref},
    search::{CutOff, Search, open_itself, split},
};
use crate::bytes::hexadecimal;

/// Files that could not be pinned and are told of one by one.
const MAX_TOLD: usize = 8;

/// Why a policy with pins is refused.
#[derive(Debug, Error, Diagnostic)]
pub enum PinError {
    /// A file that the rule must not run, or can not be asked about.
    #[error("{rule}: `{}` can not be pinned: {why}", .path.display())]
    #[diagnostic(help("{}", remedy(.why)))]
    Unfit {
        /// The rule.
        rule: RuleRef,
        /// The file.
        path: PathBuf,
        /// Why not.
        why: Box<Unfit>,
    },
    /// Too much to look through.
    #[error("the search for files to pin ended at `{}`, after {bound} directory entries", .at.display())]
    #[diagnostic(help("pin narrower trees, or fewer"))]
    CutOff {
        /// Where it ended.
        at: PathBuf,
        /// The bound.
        bound: usize,
    },
    /// More files than are pinned.
    #[error("{rule}: more than {bound} files to pin")]
    #[diagnostic(help("pin narrower trees, or fewer"))]
    TooMany {
        /// The rule at which there were too many.
        rule: RuleRef,
        /// How many there may be.
        bound: usize,
    },
}

impl From<CutOff> for PinError {
    fn from(CutOff { at, bound }: CutOff) -> Self {
        Self::CutOff { at, bound }
    }
}

/// Why a file is not pinned.
#[derive(Debug, Error)]
pub enum Unfit {
    /// It holds something else.
    #[error("its SHA-256 is {}, and the rule says {}", hexadecimal(.found), hexadecimal(.due))]
    Digest {
        /// What it has.
        found: [u8; 32],
        /// What the rule says.
        due: [u8; 32],
    },
    /// Its change time does not tell every change.
    #[error(
        "its file system (type {0:#x}) is none whose change times are known to tell every change"
    )]
    Filesystem(u64),
    /// It can not be opened or read.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    /// Somebody has it open for writing.
    #[error("somebody has it open for writing")]
    OpenForWriting,
    /// It was changed while it was looked at.
    #[error("it is being changed")]
    Changing,
    /// Its change time has not come yet.
    #[error("by its change time it was changed in the future: the clock is wrong, or was")]
    Future,
}

impl Unfit {
    /// Whether the policy can not mean what it says here, other than for a passing reason.
    fn is_fault_of_policy(&self) -> bool {
        match self {
            Self::Digest { .. } | Self::Filesystem(_) | Self::Unreadable(_) => true,
            Self::OpenForWriting | Self::Changing | Self::Future => false,
        }
    }
}

fn remedy(why: &Unfit) -> &'static str {
    match why {
        Unfit::Digest { .. } => {
            "install the file that was meant, or, if this one is, write its digest into the rule"
        }
        Unfit::Filesystem(_) => {
            "pin files on ext4, XFS, btrfs, F2FS, squashfs or EROFS, or remove `pin`"
        }
        Unfit::Unreadable(_) | Unfit::OpenForWriting | Unfit::Changing | Unfit::Future => {
            "make it readable, or leave it out of the rule"
        }
    }
}

/// Pins what the rules with a pin find, into `compiled`, which is `policy` compiled in `environment`. A file
/// that can not be pinned for now is noted, and does not run.
///
/// # Errors
/// A file that is there is not what the rule says, or can not be pinned where it is; a bound was met.
pub fn take(
    policy: &Policy,
    environment: &Environment<'_>,
    compiled: &mut Compiled,
) -> Result<(), PinError> {
    take_under(policy, environment, compiled, Terms { files: MAX_PINS, tells: tells_every_change })
}

/// What is pinned at all.
#[derive(Clone, Copy)]
struct Terms {
    /// At most so many files.
    files: usize,
    /// On file systems of which this is true.
    tells: fn(u64) -> bool,
}

fn take_under(
    policy: &Policy,
    environment: &Environment<'_>,
    compiled: &mut Compiled,
    terms: Terms,
) -> Result<(), PinError> {
    let forms = forms(policy, &compiled.rules, environment, &mut Vec::new());
    let mut search = Search::new(environment.filesystems, MAX_ENTRIES);
    let mut found =
        Found { environment, tells: terms.tells, files: BTreeMap::new(), unfit: Vec::new() };
    let mut patterns: BTreeMap<(u16, &str), bool> = BTreeMap::new();
    for form in forms.iter().filter(|form| form.accept.pinned) {
        let Some(pin) = policy.pin(form.accept.rule) else { continue };
        let rule = || rule_ref(&compiled.rules, form.accept.rule);
        let any = patterns.entry((form.accept.rule, &form.pattern.text)).or_default();
        let (start, rest) = split(&form.segments);
        search.below(start, &[rest], |path, _| {
            *any = true;
            match found.look_at(path, &pin) {
                Err(why) if why.is_fault_of_policy() => {
                    let path = path.to_owned();
                    return Err(PinError::Unfit { rule: rule(), path, why: Box::new(why) });
                }
                Err(why) => found.unfit.push((rule(), path.to_owned(), why.to_string())),
                Ok(()) if found.files.len() > terms.files => {
                    return Err(PinError::TooMany { rule: rule(), bound: terms.files });
                }
                Ok(()) => {}
            }
            Ok(())
        })?;
        let unread = search.unreadable.drain(..);
        found.unfit.extend(unread.map(|(path, error)| (rule(), path, error.to_string())));
    }
    let Found { files, unfit, .. } = found;
    let more = unfit.len().saturating_sub(MAX_TOLD);
    let told = unfit.into_iter().take(MAX_TOLD);
    compiled.notes.extend(told.map(|(rule, path, why)| Note::NotPinned { rule, path, why }));
    if more > 0 {
        compiled.notes.push(Note::MoreNotPinned { count: more });
    }
    let empty = patterns.into_iter().filter(|(_, any)| !any);
    let empty = empty.map(|((rule, pattern), _)| Note::NothingToPin {
        rule: rule_ref(&compiled.rules, rule),
        pattern: pattern.to_owned(),
    });
    compiled.notes.extend(empty);
    compiled.pins = files.into_iter().collect();
    Ok(())
}

/// Whether a file could be pinned as it is.
///
/// # Errors
/// Why not.
pub fn check(path: &StdPath, pin: &Pin) -> Result<(), Unfit> {
    examine(path, pin, tells_every_change).map(drop)
}

struct Found<'a> {
    environment: &'a Environment<'a>,
    tells: fn(u64) -> bool,
    files: BTreeMap<(u32, u64), ChangeTime>,
    unfit: Vec<(RuleRef, PathBuf, String)>,
}

impl Found<'_> {
    fn look_at(&mut self, path: &StdPath, pin: &Pin) -> Result<(), Unfit> {
        let names = components(path.as_os_str().as_bytes());
        let Some((dev, _)) = self.environment.filesystems.locate(&names) else { return Ok(()) };
        let (inode, changed) = match examine(path, pin, self.tells) {
            // Removed a moment ago: nothing that could run.
            Err(Unfit::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(());
            }
            examined => examined?,
        };
        match self.files.insert((dev, inode), changed) {
            // By another name, a moment ago. On btrfs files of two subvolumes may share a number, too.
            Some(before) if before != changed => Err(Unfit::Changing),
            _ => Ok(()),
        }
    }
}

/// The inode number of a file, and when it was changed last.
fn examine(path: &StdPath, pin: &Pin, tells: fn(u64) -> bool) -> Result<(u64, ChangeTime), Unfit> {
    let mut file = open_itself(path)?;
    let kind = rustix::fs::fstatfs(&file).map_err(io::Error::from)?.f_type as u64;
    if !tells(kind) {
        return Err(Unfit::Filesystem(kind));
    }
    let before = file.metadata()?;
    wait_until_past(&changed(&before))?;
    if is_open_for_writing(&file)? {
        return Err(Unfit::OpenForWriting);
    }
    if let Pin::Sha256(due) = pin {
        let found = digest(&mut file)?;
        if found != *due {
            return Err(Unfit::Digest { found, due: *due });
        }
    }
    if changed(&file.metadata()?) == changed(&before) {
        Ok((before.ino(), changed(&before)))
    } else {
        Err(Unfit::Changing)
    }
}

fn digest(file: &mut File) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            count => hasher.update(buffer.get(..count).unwrap_or_default()),
        }
    }
}

/// Whether a file system, by its `s_magic`, keeps change times itself and sets them at every change. tmpfs does
/// not learn of stores to mapped pages, nor an overlay of changes in its layers; FAT shows the time of
/// modification in their place, which anybody may set; what FUSE and network file systems show is up to others.
#[must_use]
pub fn tells_every_change(magic: u64) -> bool {
    matches!(
        magic,
        0xef53 // ext2, ext3, ext4
            | 0x5846_5342 // XFS
            | 0x9123_683e // btrfs
            | 0xf2f5_2010 // F2FS
            | 0x7371_7368 // squashfs
            | 0xe0f5_e1e2 // EROFS
    )
}

fn changed(metadata: &Metadata) -> ChangeTime {
    ChangeTime::new(metadata.ctime(), u32::try_from(metadata.ctime_nsec()).unwrap_or(0))
}

/// How long a change time may lie in the future: file systems without nanoseconds keep whole seconds.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Returns when whatever is changed from now on gets a later change time. File systems read the coarse clock.
fn wait_until_past(then: &ChangeTime) -> Result<(), Unfit> {
    let since = Instant::now();
    loop {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        let whole_seconds = then.nanoseconds == 0;
        let passed = if whole_seconds {
            now.tv_sec > then.seconds
        } else {
            (now.tv_sec, now.tv_nsec) > (then.seconds, then.nanoseconds.into())
        };
        if passed {
            return Ok(());
        }
        if since.elapsed() > PATIENCE {
            return Err(Unfit::Future);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// fcntl(2) command that names the signal of a lease.
const F_SETSIG: libc::c_int = 10;

/// Whether anybody has the file open, or mapped, for writing: then there is no lease to be had.
fn is_open_for_writing(file: &File) -> io::Result<bool> {
    let control = |command: libc::c_int, value: libc::c_int| {
        // SAFETY: the descriptor is open, and these commands take numbers.
        match unsafe { libc::fcntl(file.as_raw_fd(), command, value) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // Who opens it in the moment that the lease lasts has the kernel send a signal: one that nobody minds.
    control(F_SETSIG, libc::SIGURG)?;
    match control(libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => control(libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(true),
            // Leases are for a file's owner, and for root. Who is neither starts no agent.
            Some(libc::EACCES) if !rustix::process::geteuid().is_root() => Ok(false),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, OpenOptions},
        os::unix::fs::symlink,
    };

    use super::*;
    use crate::policy::compile::{Filesystems, HostLinks, compile};

    /// Where there are two programs, one of them by two links, and a directory of links.
    fn place() -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for directory in ["bin/deep", "other"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        fs::write(at("bin/one"), "one").unwrap();
        fs::write(at("bin/deep/two"), "two").unwrap();
        symlink("one", at("bin/link")).unwrap();
        symlink("bin", at("shown")).unwrap();
        place
    }

    fn pinned(
        place: &tempfile::TempDir,
        rule: &str,
        files: usize,
    ) -> Result<(Vec<u64>, Vec<Note>), PinError> {
        let root = place.path().canonicalize().unwrap();
        let rule = rule.replace("{root}", root.to_str().unwrap());
        let text = format!(
            "apiVersion: agent-guard.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: test}}\n\
             spec: {{exec: {{rules: [{rule}]}}}}\n"
        );
        let policy = Policy::parse("test.yaml", &text).unwrap();
        let (filesystems, links) = (Filesystems::lexical(), HostLinks::default());
        let environment = Environment { filesystems: &filesystems, links: &links };
        let mut compiled = compile(&policy, &environment, [3, 5]).unwrap();
        let before = compiled.notes.len();
        // Wherever this runs; nobody but the tests writes there.
        take_under(&policy, &environment, &mut compiled, Terms { files, tells: |_| true })?;
        let inodes = compiled.pins.iter().map(|((_, inode), _)| *inode).collect();
        Ok((inodes, compiled.notes.split_off(before)))
    }

    fn inode(place: &tempfile::TempDir, name: &str) -> u64 {
        fs::metadata(place.path().join(name)).unwrap().ino()
    }

    #[test]
    fn what_a_rule_names_is_pinned_and_nothing_beside_it() {
        let place = place();
        let (one, two) = (inode(&place, "bin/one"), inode(&place, "bin/deep/two"));
        for (paths, mut due) in [
            ("{root}/bin/one", vec![one]),
            ("{root}/bin/*", vec![one]),
            ("{root}/bin/**", vec![one, two]),
            ("{root}/bin/*/two", vec![two]),
            ("{root}/bin/link", vec![one]),
            ("{root}/shown/o*", vec![one]),
        ] {
            let rule = format!("{{effect: allow, pin: true, paths: [\"{paths}\"]}}");
            let (mut found, notes) = pinned(&place, &rule, 10).unwrap();
            found.sort_unstable();
            due.sort_unstable();
            assert_eq!((found, notes), (due, vec![]), "{paths}");
        }
        let (found, _) =
            pinned(&place, r#"{effect: allow, paths: ["{root}/bin/**"]}"#, 10).unwrap();
        assert_eq!(found, Vec::<u64>::new());
    }

    #[test]
    fn a_rule_that_finds_nothing_says_so() {
        let rule =
            r#"{name: r, effect: allow, pin: true, paths: ["{root}/bin/one", "{root}/none*"]}"#;
        let (found, notes) = pinned(&place(), rule, 10).unwrap();
        assert_eq!(found.len(), 1);
        assert!(
            matches!(&*notes, [Note::NothingToPin { pattern, .. }] if pattern.ends_with("none*"))
        );
        assert!(notes[0].is_warning());
    }

    #[test]
    fn more_files_than_the_bound_are_refused() {
        let place = place();
        let rule = r#"{effect: allow, pin: true, paths: ["{root}/bin/**"]}"#;
        assert_eq!(pinned(&place, rule, 2).unwrap().0.len(), 2);
        let refused = pinned(&place, rule, 1).unwrap_err();
        assert!(matches!(refused, PinError::TooMany { bound: 1, .. }), "{refused}");
    }

    #[test]
    fn every_file_of_a_rule_must_have_its_digest() {
        let place = place();
        let digest = hexadecimal(&Sha256::digest("one"));
        let rule = |paths: &str| {
            format!("{{effect: allow, pin: \"sha256:{digest}\", paths: [\"{paths}\"]}}")
        };
        assert_eq!(pinned(&place, &rule("{root}/bin/one"), 10).unwrap().0.len(), 1);
        let refused = pinned(&place, &rule("{root}/bin/**"), 10).unwrap_err();
        let PinError::Unfit { path, why, .. } = refused else { panic!("{refused}") };
        let Unfit::Digest { found, due } = *why else { panic!("{why}") };
        assert!(path.ends_with("deep/two"));
        assert_eq!(found[..], Sha256::digest("two")[..]);
        assert_eq!(due[..], Sha256::digest("one")[..]);
    }

    #[test]
    fn a_file_that_is_open_for_writing_is_not_pinned() {
        let place = place();
        let rule = r#"{effect: allow, pin: true, paths: ["{root}/bin/**"]}"#;
        let writer = OpenOptions::new().append(true).open(place.path().join("bin/one")).unwrap();
        let (found, notes) = pinned(&place, rule, 10).unwrap();
        assert_eq!(found, [inode(&place, "bin/deep/two")]);
        assert!(matches!(&*notes, [Note::NotPinned { path, .. }] if path.ends_with("bin/one")));
        drop(writer);
        assert_eq!(pinned(&place, rule, 10).unwrap().0.len(), 2);
    }

    #[test]
    fn a_time_that_is_not_past_is_waited_for_and_one_far_off_is_refused() {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        let soon = ChangeTime::new(now.tv_sec, u32::try_from(now.tv_nsec).unwrap().max(1));
        wait_until_past(&soon).unwrap();
        // A time without nanoseconds may stand for the whole second.
        wait_until_past(&ChangeTime::new(now.tv_sec, 0)).unwrap();
        assert!(clock_gettime(ClockId::RealtimeCoarse).tv_sec > now.tv_sec);
        let far = ChangeTime::new(now.tv_sec + 60, 0);
        assert!(matches!(wait_until_past(&far), Err(Unfit::Future)));
    }

    #[test]
    fn file_systems_that_do_not_tell_every_change_are_refused() {
        // tmpfs, FAT, FUSE, NFS, overlay, 9p, proc
        for magic in [0x0102_1994, 0x4d44, 0x6573_5546, 0x6969, 0x794c_7630, 0x0102_1997, 0x9fa0] {
            assert!(!tells_every_change(magic), "{magic:#x}");
        }
        let refused = check(StdPath::new("/proc/self/maps"), &Pin::AsLoaded).unwrap_err();
        assert!(matches!(refused, Unfit::Filesystem(0x9fa0)), "{refused}");
    }
}
