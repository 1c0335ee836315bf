//! Files that a deny rule names and that have other names too: hard links, made before the policy was
//! loaded or by somebody else.
//!
//! The kernel knows a file by the name that it is reached by. So the trees in which denied names can lie are
//! walked when the policy is loaded, and what is found with more than one link is denied by its inode.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::Metadata,
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
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
    search::{CutOff, Search, open_itself, split},
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
    let mut found = Found {
        environment,
        tables: MemoryTables::new(compiled),
        seen: BTreeSet::new(),
        files: BTreeMap::new(),
        bound: bounds.files,
    };
    let mut search = Search::new(environment.filesystems, bounds.entries);
    let searched: Result<(), CutOff> =
        starts(&forms).into_iter().try_for_each(|(start, patterns)| {
            search.below(start, &patterns, |path, metadata| found.look_at(path, metadata))
        });
    let files = found.files;
    let stopped = searched.err().map(|CutOff { at, bound }| Note::AliasesCutOff { at, bound });
    let unreadable = search.unreadable.into_iter().take(MAX_UNREADABLE);
    let unreadable =
        unreadable.map(|(path, error)| Note::AliasesUnread { path, error: error.to_string() });
    compiled.notes.extend(stopped.into_iter().chain(unreadable));
    compiled.aliases = files.into_iter().collect();
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

/// Unreadable directories that are told of one by one.
const MAX_UNREADABLE: usize = 8;

/// Denied files with several names, so far.
struct Found<'a> {
    environment: &'a Environment<'a>,
    tables: MemoryTables<'a>,
    /// Names that were looked at: trees may hold one another.
    seen: BTreeSet<PathBuf>,
    files: BTreeMap<(u32, u64), Alias>,
    bound: usize,
}

impl Found<'_> {
    /// Notes what the policy denies by this name, where the file has others.
    fn look_at(&mut self, path: &StdPath, metadata: &Metadata) -> Result<(), CutOff> {
        if metadata.nlink() < 2 || !self.seen.insert(path.to_owned()) {
            return Ok(());
        }
        let names = components(path.as_os_str().as_bytes());
        let Some((dev, inside)) = self.environment.filesystems.locate(&names) else {
            return Ok(());
        };
        let Ok(state) = self.tables.walk(dev, &inside) else { return Ok(()) };
        let Some(row) = self.tables.row(state) else { return Ok(()) };
        let denials = row.verdicts.map(|verdict| match verdict.effect() {
            Some(Effect::Deny) if verdict.rule() != NO_RULE => verdict,
            _ => Verdict::UNMATCHED,
        });
        if denials == [Verdict::UNMATCHED; ACCESS_KINDS] {
            return Ok(());
        }
        let file = (dev, metadata.ino());
        if self.files.len() == self.bound && !self.files.contains_key(&file) {
            return Err(CutOff { at: path.to_owned(), bound: self.bound });
        }
        let fresh = || {
            let generation = generation(path);
            Alias {
                verdicts: [Verdict::UNMATCHED; ACCESS_KINDS],
                generation: generation.unwrap_or_default(),
                has_generation: u32::from(generation.is_some()),
            }
        };
        let alias = self.files.entry(file).or_insert_with(fresh);
        for (known, denial) in alias.verdicts.iter_mut().zip(denials) {
            if denial.effect().is_some()
                && (known.effect().is_none() || denial.rule() < known.rule())
            {
                *known = denial;
            }
        }
        Ok(())
    }
}

/// `FS_IOC_GETVERSION`: `_IOR('v', 1, long)`
const GET_VERSION: libc::c_ulong = 0x8008_7601;

/// `i_generation` of a file, where its file system tells it.
fn generation(path: &StdPath) -> Option<u32> {
    let file = open_itself(path).ok()?;
    // File systems write an `int`, whatever the number of the call says.
    let mut version: libc::c_long = 0;
    // SAFETY: the call writes four bytes, or as many as its number says, into a `long` of this frame.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), GET_VERSION, &raw mut version) };
    (result == 0).then_some(version as u32)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::policy::compile::{Filesystems, NoLinks, compile};

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
}
