//! Paths as a tree, in which many of one place become one pattern.

use std::collections::BTreeMap;

use super::names::Detail;

/// Most components that a fold may stand below without covering what belongs to the whole host: nothing is folded
/// into `/*`, `/usr/**` and their like.
const MIN_DEPTH: usize = 2;

/// Fewest siblings that differ in their numbers only and are one pattern.
const NUMBERED: usize = 3;

/// What was done at a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Events that read it.
    pub reads: u64,
    /// Events that wrote it.
    pub writes: u64,
}

impl Done {
    fn add(&mut self, other: Self) {
        self.reads += other.reads;
        self.writes += other.writes;
    }
}

/// A place, and those below it by their names as patterns.
#[derive(Debug, Default)]
pub struct Tree {
    done: Option<Done>,
    /// Nothing that covers more than was named may cover this.
    barred: bool,
    below: BTreeMap<String, Tree>,
}

/// A pattern, and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Covered {
    /// As a policy has it.
    pub pattern: String,
    /// All that it covers.
    pub done: Done,
}

impl Tree {
    /// Adds what was done at `path`.
    pub fn insert(&mut self, path: &[String], done: Done) {
        self.at(path).done.get_or_insert_default().add(done);
    }

    /// Keeps `path`, where nothing was done that this tree is about, from being folded into a pattern.
    pub fn bar(&mut self, path: &[String]) {
        self.at(path).barred = true;
    }

    fn at(&mut self, path: &[String]) -> &mut Self {
        path.iter().fold(self, |tree, name| tree.below.entry(name.clone()).or_default())
    }

    /// The patterns for all that was done, in order: directories of which many entries were used become `*` or
    /// `**`.
    #[must_use]
    pub fn fold(mut self, detail: Detail) -> Vec<Covered> {
        self.gather(&mut Vec::new(), detail);
        let mut patterns = Vec::new();
        self.list("", &mut patterns);
        patterns
    }

    fn gather(&mut self, place: &mut Vec<String>, detail: Detail) {
        self.gather_hashes();
        self.gather_numbered();
        for (name, tree) in &mut self.below {
            place.push(name.clone());
            tree.gather(place, detail);
            place.pop();
        }
        if may_fold(place) {
            self.fold_here(detail);
        }
    }

    /// Directories that are named by the first two digits of the hashes in them.
    fn gather_hashes(&mut self) {
        let digits = |name: &str| {
            name.len() == 2 && name.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
        };
        let spread =
            self.below.iter().any(|(name, tree)| digits(name) && tree.below.contains_key("*"));
        if spread {
            self.gather_into(|name| digits(name).then(|| "*".to_owned()));
        }
    }

    /// Names that differ in their numbers only.
    fn gather_numbered(&mut self) {
        let mut families: BTreeMap<String, usize> = BTreeMap::new();
        for (name, tree) in &self.below {
            if let Some(family) = numberless(name) {
                let members = families.entry(family).or_default();
                // One that is barred keeps the others as they are.
                *members = if tree.is_barred() { usize::MAX } else { members.saturating_add(1) };
            }
        }
        families.retain(|_, members| (NUMBERED..usize::MAX).contains(members));
        if !families.is_empty() {
            self.gather_into(|name| {
                numberless(name).filter(|family| families.contains_key(family))
            });
        }
    }

    fn gather_into(&mut self, family: impl Fn(&str) -> Option<String>) {
        for (name, tree) in std::mem::take(&mut self.below) {
            let name = family(&name).unwrap_or(name);
            self.below.entry(name).or_default().merge(tree);
        }
    }

    fn merge(&mut self, other: Self) {
        if let Some(done) = other.done {
            self.done.get_or_insert_default().add(done);
        }
        self.barred |= other.barred;
        for (name, tree) in other.below {
            self.below.entry(name).or_default().merge(tree);
        }
    }

    fn fold_here(&mut self, detail: Detail) {
        let used = self.below.values().filter(|tree| tree.is_used()).count();
        if used < detail.many {
            return;
        }
        let flat = self.below.values().all(|tree| tree.below.is_empty());
        let bars = |tree: &Self| tree.is_barred();
        let mut extensions =
            self.below.iter().filter(|(_, tree)| tree.is_used()).map(|(name, _)| extension(name));
        let shared = match extensions.next() {
            Some(Some(first)) if extensions.all(|other| other == Some(first)) => {
                Some(first.to_owned())
            }
            _ => None,
        };
        let shared = shared.filter(|_| flat && detail.endings).filter(|shared| {
            let of_kind = |name: &String| extension(name) == Some(shared.as_str());
            !self.below.iter().any(|(name, tree)| of_kind(name) && bars(tree))
        });
        let pattern = match shared {
            Some(extension) => format!("*.{extension}"),
            None if self.below.values().any(bars) => return,
            None if flat => "*".to_owned(),
            None => "**".to_owned(),
        };
        let mut whole = Done::default();
        self.below.retain(|_, tree| {
            tree.sum(&mut whole);
            // What is barred here is of another kind, and stays so.
            tree.barred
        });
        if pattern == "**"
            && let Some(done) = self.done.take()
        {
            whole.add(done);
        }
        self.below.entry(pattern).or_default().done = Some(whole);
    }

    fn is_used(&self) -> bool {
        self.done.is_some() || self.below.values().any(Self::is_used)
    }

    fn is_barred(&self) -> bool {
        (self.barred && self.done.is_none()) || self.below.values().any(Self::is_barred)
    }

    fn sum(&self, whole: &mut Done) {
        if let Some(done) = self.done {
            whole.add(done);
        }
        self.below.values().for_each(|tree| tree.sum(whole));
    }

    fn list(&self, place: &str, patterns: &mut Vec<Covered>) {
        if let Some(done) = self.done {
            let pattern = if place.is_empty() { "/" } else { place };
            patterns.push(Covered { pattern: pattern.to_owned(), done });
        }
        for (name, tree) in &self.below {
            tree.list(&format!("{place}/{name}"), patterns);
        }
    }
}

/// Whether what lies in a directory may become one pattern. Not in directories that hold what belongs to different
/// owners: the root and what is directly below it, homes, `/var/lib` and its like, and what the kernel shows.
fn may_fold(place: &[String]) -> bool {
    let names: Vec<&str> = place.iter().map(String::as_str).collect();
    match names.as_slice() {
        ["proc" | "sys", ..] | ["home" | "var", _] | ["run", "user", _] => false,
        ["dev", rest @ ..] => matches!(rest, ["shm", _, ..]),
        names => names.len() >= MIN_DEPTH,
    }
}

/// What follows the last dot of a name, where that is the same in all that it stands for.
fn extension(name: &str) -> Option<&str> {
    let (before, extension) = name.rsplit_once('.')?;
    (!before.is_empty() && !extension.is_empty() && !extension.contains(['*', '\\']))
        .then_some(extension)
}

/// The name with `*` for each number in it; `None` where there is none, or where it is a pattern already.
fn numberless(name: &str) -> Option<String> {
    if name.contains(['*', '\\']) {
        return None;
    }
    let mut family = String::with_capacity(name.len());
    for character in name.chars() {
        match character {
            '0'..='9' if family.ends_with('*') => {}
            '0'..='9' => family.push('*'),
            other => family.push(other),
        }
    }
    family.contains('*').then_some(family)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DETAIL: Detail = Detail { many: 4, endings: true, denials: true };

    fn path(text: &str) -> Vec<String> {
        text.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    fn folded(paths: &[&str], barred: &[&str]) -> Vec<String> {
        let mut tree = Tree::default();
        for text in paths {
            tree.insert(&path(text), Done { reads: 1, writes: 0 });
        }
        barred.iter().for_each(|text| tree.bar(&path(text)));
        let covered = tree.fold(DETAIL);
        let reads: u64 = covered.iter().map(|covered| covered.done.reads).sum();
        assert_eq!(reads, paths.len() as u64);
        covered.into_iter().map(|covered| covered.pattern).collect()
    }

    #[test]
    fn a_directory_of_many_is_one_pattern_and_one_of_few_is_not() {
        assert_eq!(folded(&["/a/b/c", "/a/b/d", "/a/b/e"], &[]), ["/a/b/c", "/a/b/d", "/a/b/e"]);
        assert_eq!(folded(&["/a/b/c", "/a/b/d", "/a/b/e", "/a/b/f"], &[]), ["/a/b/*"]);
        assert_eq!(folded(&["/a/b/c", "/a/b/d", "/a/b/e", "/a/b/f/g"], &[]), ["/a/b/**"]);
        let python = ["/l/p/a.pyc", "/l/p/b.pyc", "/l/p/c.pyc", "/l/p/d.pyc", "/l/p"];
        assert_eq!(folded(&python, &[]), ["/l/p", "/l/p/*.pyc"]);
    }

    #[test]
    fn a_fold_takes_the_directory_itself_in_where_its_pattern_does() {
        assert_eq!(folded(&["/a/b", "/a/b/c", "/a/b/d", "/a/b/e", "/a/b/f/g"], &[]), ["/a/b/**"]);
    }

    #[test]
    fn nothing_is_folded_where_things_of_different_owners_lie() {
        for place in [
            "",
            "/usr",
            "/home/ada",
            "/home",
            "/var/lib",
            "/proc/self",
            "/sys/class/net",
            "/dev",
            "/tmp",
            "/run/user/x",
        ] {
            let paths: Vec<String> =
                ["a", "b", "c", "d", "e"].map(|name| format!("{place}/{name}")).into();
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            assert_eq!(folded(&paths, &[]), paths, "{place}");
        }
        let deep = ["/home/ada/w/a", "/home/ada/w/b", "/home/ada/w/c", "/home/ada/w/d"];
        assert_eq!(folded(&deep, &[]), ["/home/ada/w/*"]);
    }

    #[test]
    fn what_is_barred_is_covered_by_nothing() {
        let written = ["/w/s/a", "/w/s/b", "/w/s/c", "/w/s/d"];
        assert_eq!(folded(&written, &["/w/s/source"]), written);
        assert_eq!(folded(&written, &["/w/other"]), ["/w/s/*"]);
        let deep = ["/w/s/a/x", "/w/s/b", "/w/s/c", "/w/s/d"];
        assert_eq!(folded(&deep, &["/w/s/q/r/source"]), deep);
        let kinds = ["/w/s/a.o", "/w/s/b.o", "/w/s/c.o", "/w/s/d.o"];
        assert_eq!(folded(&kinds, &["/w/s/a.c"]), ["/w/s/*.o"]);
        assert_eq!(folded(&kinds, &["/w/s/e.o"]), kinds);
    }

    #[test]
    fn names_that_differ_in_their_numbers_are_one_from_three_on() {
        assert_eq!(folded(&["/s/c/cpu0/x", "/s/c/cpu1/x"], &[]), ["/s/c/cpu0/x", "/s/c/cpu1/x"]);
        let cpus = ["/s/c/cpu0/x", "/s/c/cpu1/x", "/s/c/cpu12/x", "/s/c/cpufreq"];
        assert_eq!(folded(&cpus, &[]), ["/s/c/cpu*/x", "/s/c/cpufreq"]);
        let written = ["/w/out1", "/w/out2", "/w/out3"];
        assert_eq!(folded(&written, &["/w/out4"]), written);
    }

    #[test]
    fn directories_of_hashes_are_one() {
        let objects = ["/w/o/0a", "/w/o/0a/*", "/w/o/c5/*", "/w/o/pack"];
        assert_eq!(folded(&objects, &[]), ["/w/o/*", "/w/o/*/*", "/w/o/pack"]);
        assert_eq!(folded(&["/w/o/0a", "/w/o/c5"], &[]), ["/w/o/0a", "/w/o/c5"]);
    }
}
