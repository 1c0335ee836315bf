//! Files that a deny rule names and that have other names too: hard links, made before the policy was
//! loaded or by somebody else.
//!
//! The kernel knows a file by the name that it is reached by. So the trees in which denied names can lie are
//! walked when the policy is loaded, and what is found with more than one link is denied by its inode.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::{self, Metadata, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, OpenOptionsExt},
        },
    },
    path::{Path as StdPath, PathBuf},
};

use agent_guard_common::{
    limits::MAX_ALIASES,
    table::{ACCESS_KINDS, Access, Alias, Effect, NO_RULE, Verdict},
};

use super::{
    Policy, Segment,
    compile::{Compiled, Environment, Form, MemoryTables, Note, components, forms},
};

/// Directory entries that are looked at: a few seconds of a slow disk.
pub const MAX_ENTRIES: usize = 500_000;

/// Finds the files and adds them to `compiled`, which is `policy` compiled in `environment`; with a note
/// where a bound was met or a directory could not be read.
pub fn find(policy: &Policy, environment: &Environment<'_>, compiled: &mut Compiled) {
    find_within(policy, environment, compiled, Bounds { entries: MAX_ENTRIES, files: MAX_ALIASES });
}

/// How far a search goes.
#[derive(Clone, Copy)]
struct Bounds {
    entries: usize,
    files: usize,
}

fn find_within(
    policy: &Policy,
    environment: &Environment<'_>,
    compiled: &mut Compiled,
    bounds: Bounds,
) {
    let forms = forms(policy, &compiled.rules, environment, &mut Vec::new());
    let mut search = Search {
        environment,
        tables: MemoryTables::new(compiled),
        seen: BTreeSet::new(),
        found: BTreeMap::new(),
        bounds,
        left: bounds.entries,
        stopped: None,
        unreadable: Vec::new(),
    };
    for (start, patterns) in starts(&forms) {
        search.enter(start, &patterns);
    }
    let Search { found, stopped, unreadable, .. } = search;
    let notes = stopped.into_iter().chain(unreadable);
    compiled.notes.extend(notes);
    compiled.aliases = found.into_iter().collect();
}

/// Where to begin, and the patterns that are followed from there. What has a beginning without wildcards is
/// looked for below that; what has none, where the policy lets the agent write.
fn starts<'a>(forms: &'a [Form<'_>]) -> Vec<(PathBuf, Vec<&'a [Segment]>)> {
    let mut starts: BTreeMap<PathBuf, Vec<&[Segment]>> = BTreeMap::new();
    let denials = || forms.iter().filter(|form| form.accept.effect == Effect::Deny);
    for form in denials() {
        let (prefix, rest) = split(&form.segments);
        if prefix != StdPath::new("/") {
            starts.entry(prefix).or_default().push(rest);
        }
    }
    let adrift: Vec<&[Segment]> = denials()
        .map(|form| split(&form.segments))
        .filter(|(prefix, _)| prefix == StdPath::new("/"))
        .map(|(_, rest)| rest)
        .collect();
    if !adrift.is_empty() {
        for form in forms {
            let writes = form.accept.access.get(Access::Write as usize) == Some(&true);
            let (prefix, _) = split(&form.segments);
            if form.accept.effect == Effect::Allow && writes && prefix != StdPath::new("/") {
                starts.entry(prefix).or_default().extend(&adrift);
            }
        }
    }
    starts.into_iter().collect()
}

/// A pattern's names before its first wildcard, as a path, and the rest of it.
fn split(segments: &[Segment]) -> (PathBuf, &[Segment]) {
    let mut path = PathBuf::from("/");
    let mut rest = segments;
    while let [Segment::Literal(name), behind @ ..] = rest {
        path.push(OsStr::from_bytes(name));
        rest = behind;
    }
    (path, rest)
}

struct Search<'a> {
    environment: &'a Environment<'a>,
    tables: MemoryTables<'a>,
    /// Names that were looked at: trees may hold one another.
    seen: BTreeSet<PathBuf>,
    found: BTreeMap<(u32, u64), Alias>,
    bounds: Bounds,
    /// Entries that may still be looked at.
    left: usize,
    stopped: Option<Note>,
    unreadable: Vec<Note>,
}

/// Unreadable directories that are told of one by one.
const MAX_UNREADABLE: usize = 8;

impl Search<'_> {
    /// Looks at `path` and, as far as `patterns` lead, at what is below it.
    fn enter(&mut self, path: PathBuf, patterns: &[&[Segment]]) {
        let mut waiting = vec![(path, patterns.to_vec())];
        while let Some((path, patterns)) = waiting.pop() {
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            if metadata.is_file() {
                self.file(&path, &metadata);
                continue;
            }
            if !metadata.is_dir() || !self.environment.filesystems.is_on_disk(&as_components(&path))
            {
                continue;
            }
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) => {
                    self.tell_unreadable(path, &error);
                    continue;
                }
            };
            for entry in entries.flatten() {
                if self.left == 0 {
                    self.stopped =
                        Some(Note::AliasesCutOff { at: path, bound: self.bounds.entries });
                    return;
                }
                self.left -= 1;
                let below = follow(&patterns, entry.file_name().as_bytes());
                let Ok(kind) = entry.file_type() else { continue };
                let ends = |rest: &&[Segment]| matches!(rest, [] | [Segment::AnyDepth]);
                if kind.is_dir() && !below.is_empty() || kind.is_file() && below.iter().any(ends) {
                    waiting.push((entry.path(), below));
                }
            }
        }
    }

    fn tell_unreadable(&mut self, path: PathBuf, error: &io::Error) {
        if self.unreadable.len() < MAX_UNREADABLE {
            self.unreadable.push(Note::AliasesUnread { path, error: error.to_string() });
        }
    }

    /// Notes what the policy denies by this name, where the file has others.
    fn file(&mut self, path: &StdPath, metadata: &Metadata) {
        if metadata.nlink() < 2 || !self.seen.insert(path.to_owned()) {
            return;
        }
        let Some((dev, inside)) = self.environment.filesystems.locate(&as_components(path)) else {
            return;
        };
        let Ok(state) = self.tables.walk(dev, &inside) else { return };
        let Some(row) = self.tables.row(state) else { return };
        let denials = row.verdicts.map(|verdict| match verdict.effect() {
            Some(Effect::Deny) if verdict.rule() != NO_RULE => verdict,
            _ => Verdict::UNMATCHED,
        });
        if denials == [Verdict::UNMATCHED; ACCESS_KINDS] {
            return;
        }
        let file = (dev, metadata.ino());
        if self.found.len() == self.bounds.files && !self.found.contains_key(&file) {
            self.stopped =
                Some(Note::AliasesCutOff { at: path.to_owned(), bound: self.bounds.files });
            self.left = 0;
            return;
        }
        let fresh = || {
            let generation = generation(path);
            Alias {
                verdicts: [Verdict::UNMATCHED; ACCESS_KINDS],
                generation: generation.unwrap_or_default(),
                has_generation: u32::from(generation.is_some()),
            }
        };
        let alias = self.found.entry(file).or_insert_with(fresh);
        for (known, denial) in alias.verdicts.iter_mut().zip(denials) {
            if denial.effect().is_some()
                && (known.effect().is_none() || denial.rule() < known.rule())
            {
                *known = denial;
            }
        }
    }
}

fn as_components(path: &StdPath) -> super::compile::Path {
    components(path.as_os_str().as_bytes())
}

/// What is left of `patterns` behind a component called `name`.
fn follow<'a>(patterns: &[&'a [Segment]], name: &[u8]) -> Vec<&'a [Segment]> {
    let mut below = Vec::new();
    let mut waiting = patterns.to_vec();
    while let Some(pattern) = waiting.pop() {
        let Some((first, rest)) = pattern.split_first() else { continue };
        let fits = match first {
            Segment::Literal(literal) => **literal == *name,
            Segment::Glob(glob) => glob.matches(name),
            Segment::AnyOne => true,
            Segment::AnyDepth => {
                below.push(pattern);
                waiting.push(rest);
                false
            }
        };
        if fits {
            below.push(rest);
        }
    }
    below
}

/// `FS_IOC_GETVERSION`: `_IOR('v', 1, long)`
const GET_VERSION: libc::c_ulong = 0x8008_7601;

/// `i_generation` of a file, where its file system tells it.
fn generation(path: &StdPath) -> Option<u32> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .ok()?;
    // File systems write an `int`, whatever the number of the call says.
    let mut version: libc::c_long = 0;
    // SAFETY: the call writes four bytes, or as many as its number says, into a `long` of this frame.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), GET_VERSION, &raw mut version) };
    (result == 0).then_some(version as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        PathPattern,
        compile::{Filesystems, NoLinks, compile},
    };

    fn rest_of(pattern: &str) -> Vec<Segment> {
        PathPattern::parse(pattern).unwrap().segments
    }

    /// A place with two denied files that have other names and one that has none, and what is found there.
    fn found(rules: &str, bounds: Bounds) -> (Compiled, [u64; 2]) {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        for directory in ["safe/deep", "work"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        let inode = |name: &str| fs::metadata(root.join(name)).unwrap().ino();
        for (name, other) in [("safe/key", "work/key"), ("safe/deep/.env", "work/env")] {
            fs::write(root.join(name), "").unwrap();
            fs::hard_link(root.join(name), root.join(other)).unwrap();
        }
        fs::write(root.join("safe/alone"), "").unwrap();
        let text = format!(
            "apiVersion: agent-guard.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: test}}\nspec:\n  files:\n    rules:\n{}",
            rules.replace("{root}", root.to_str().unwrap())
        );
        let policy = Policy::parse("test.yaml", &text).unwrap();
        let environment = Environment { filesystems: &Filesystems::lexical(), links: &NoLinks };
        let mut compiled = compile(&policy, &environment, [3, 5]).unwrap();
        find_within(&policy, &environment, &mut compiled, bounds);
        (compiled, [inode("safe/key"), inode("safe/deep/.env")])
    }

    const WIDE: Bounds = Bounds { entries: 100, files: 100 };

    fn inodes(compiled: &Compiled) -> BTreeSet<u64> {
        compiled.aliases.iter().map(|((_, inode), _)| *inode).collect()
    }

    #[test]
    fn denied_files_with_other_names_are_found_and_no_others() {
        let rules = r#"      - {effect: allow, paths: ["{root}/work/**"]}
      - {effect: deny, access: [read], paths: ["{root}/safe/**"]}"#;
        let (compiled, both) = found(rules, WIDE);
        assert_eq!(inodes(&compiled), BTreeSet::from(both));
        for (_, alias) in &compiled.aliases {
            let denied = alias.verdicts.map(|verdict| verdict.effect() == Some(Effect::Deny));
            assert_eq!(denied, [true, false, false, false]);
            assert_eq!(alias.verdicts[0].rule(), 1);
        }
        assert!(compiled.notes.is_empty());
    }

    #[test]
    fn a_name_denied_anywhere_is_looked_for_where_the_policy_lets_the_agent_write() {
        let env = r#"      - {effect: deny, paths: ["**/.env"]}"#;
        let (compiled, _) = found(env, WIDE);
        assert!(inodes(&compiled).is_empty());
        let writes = r#"      - {effect: allow, paths: ["{root}/safe/**"]}"#;
        let (compiled, [_, dot_env]) = found(&format!("{env}\n{writes}"), WIDE);
        assert_eq!(inodes(&compiled), BTreeSet::from([dot_env]));
    }

    #[test]
    fn a_search_that_ends_early_says_so() {
        let rules = r#"      - {effect: deny, paths: ["{root}/safe/**"]}"#;
        // safe holds three entries, and deep one.
        let exact = Bounds { entries: 4, files: 2 };
        let (compiled, both) = found(rules, exact);
        assert_eq!(inodes(&compiled), BTreeSet::from(both));
        assert!(compiled.notes.is_empty());
        for bounds in [Bounds { entries: 3, ..exact }, Bounds { files: 1, ..exact }] {
            let (compiled, _) = found(rules, bounds);
            assert!(compiled.aliases.len() < 2);
            assert!(matches!(compiled.notes.as_slice(), [Note::AliasesCutOff { .. }]));
            assert!(compiled.notes[0].is_warning());
        }
    }

    #[test]
    fn a_pattern_is_followed_no_further_than_it_leads() {
        let ssh = rest_of("/home/*/.ssh/**");
        let (prefix, rest) = split(&ssh);
        assert_eq!(prefix, StdPath::new("/home"));
        let user = follow(&[rest], b"ann");
        assert!(follow(&user, b"src").is_empty());
        let keys = follow(&user, b".ssh");
        assert!(
            !follow(&keys, b"id").is_empty() && !follow(&follow(&keys, b"d"), b"id").is_empty()
        );
    }

    #[test]
    fn a_name_at_any_depth_is_looked_for_in_every_directory() {
        let env = rest_of("**/.env");
        let everywhere = follow(&[&env], b"dir");
        assert_eq!(everywhere, vec![&env[..]]);
        assert!(follow(&everywhere, b".env").iter().any(|rest| rest.is_empty()));
    }
}
