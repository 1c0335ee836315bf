//! Names that are others the next time: temporary, hashed, numbered by a process, versioned.
//!
//! What is a pattern here widens a policy, so each kind is known by a shape that ordinary names do not have, keeps
//! what does not vary, and is taken for granted only where it comes about: versions where files are read, random
//! names where they are made. The first component of a path is never one, nor is a user's home.

use std::collections::BTreeSet;

use crate::event::SafeText;

/// What a path is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Read: versions vary too.
    Read,
    /// Written.
    Write,
    /// Run: another version is another program.
    Run,
}

/// Least digits of a number that stands for itself in no name: times, addresses, counters.
const LONG_NUMBER: usize = 5;
/// Least hexadecimal digits, letters among them, that are a hash.
const SHORT_HASH: usize = 8;
/// Least hexadecimal digits that are a hash whatever they are.
const LONG_HASH: usize = 16;
/// Least process id that is looked for in names: lower ones are in too many.
const LEAST_PID: u32 = 100;
/// Least letters of a word that others are drawn for.
const WORD: usize = 4;
/// Characters that mkstemp(3) draws.
const DRAWN: usize = 6;
/// Characters that Python's `tempfile` draws.
const DRAWN_BY_PYTHON: usize = 8;

/// How close a policy is: the kernel's table of names has room for some hundred patterns.
#[derive(Clone, Copy, Debug)]
pub struct Detail {
    /// How many entries of a directory have to be in use before it becomes one pattern.
    pub many: usize,
    /// Whether what follows a `*` in a name is kept.
    pub endings: bool,
    /// Whether all denials of the built-in policy come along, or only those that some pattern comes near.
    pub denials: bool,
}

/// What names are known by.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// Processes that acted.
    pub pids: &'a BTreeSet<u32>,
    /// How close patterns are.
    pub detail: Detail,
}

impl Names<'_> {
    /// The components of a pattern for `path`, escaped.
    pub fn pattern(&self, path: &[Box<[u8]>], used: Use) -> Vec<String> {
        let names: Vec<Option<&str>> =
            path.iter().map(|name| std::str::from_utf8(name).ok()).collect();
        let component = |depth: usize, name: &[u8]| {
            let above = names.get(..depth).unwrap_or_default();
            // What needs an escape has no shape that is known here.
            let plain = |name: &&str| {
                name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+~@,".contains(&b))
            };
            let name_text = names.get(depth).copied().flatten().filter(plain);
            match name_text.and_then(|text| varying(above, text, used, self.pids)) {
                None => escape(name),
                Some(pattern) if self.detail.endings => pattern,
                Some(pattern) => pattern.split_inclusive('*').take(1).collect(),
            }
        };
        path.iter().enumerate().map(|(depth, name)| component(depth, name)).collect()
    }
}

/// A name as a pattern that matches nothing else.
pub fn escape(name: &[u8]) -> String {
    let mut pattern = String::with_capacity(name.len());
    for character in SafeText::new(name).as_str().chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '{' | '}') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// Whether the directory is one where everybody makes files with drawn names.
fn is_temporary(directory: &[Option<&str>]) -> bool {
    matches!(directory, [Some("tmp")] | [Some("var"), Some("tmp")] | [Some("dev"), Some("shm")])
}

fn varying(above: &[Option<&str>], name: &str, used: Use, pids: &BTreeSet<u32>) -> Option<String> {
    match above {
        [] | [Some("home")] => return None,
        [Some("dev"), Some("pts")] if is_number(name) => return Some("*".to_owned()),
        [Some("dev"), Some("shm"), ..] => {}
        [Some("dev" | "sys"), ..] => return None,
        [Some("proc"), ..] => {
            return (used == Use::Read && is_number(name)).then(|| "*".to_owned());
        }
        _ => {}
    }
    let makes = used == Use::Write
        || above
            .iter()
            .enumerate()
            .any(|(at, _)| is_temporary(above.get(..=at).unwrap_or_default()));
    if makes && let Some(pattern) = drawn(above, name, used) {
        return Some(pattern);
    }
    if used == Use::Read && is_number(name) {
        return Some("*".to_owned());
    }
    let numbered = runs(name, pids);
    let versioned = if used == Use::Read { version(&numbered) } else { None };
    let pattern = versioned.unwrap_or(numbered);
    (pattern != name).then_some(pattern)
}

fn is_number(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit())
}

/// The name up to its first dot, and from its last one on. A dot that it begins with is its own.
fn split(name: &str) -> (&str, &str) {
    let from = usize::from(name.starts_with('.'));
    let rest = name.get(from..).unwrap_or_default();
    let (first, last) = (rest.find('.'), rest.rfind('.'));
    let at = |dot: Option<usize>| name.split_at(dot.map_or(name.len(), |dot| dot + from));
    (at(first).0, at(last).1)
}

/// A name that a library has drawn.
fn drawn(above: &[Option<&str>], name: &str, used: Use) -> Option<String> {
    let (stem, extension) = split(name);
    let alphanumeric = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric());
    let by_python = |text: &str| {
        text.len() == DRAWN_BY_PYTHON
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    // mktemp(1): tmp.XXXXXXXXXX
    if stem == "tmp" && extension.len() == 11 && alphanumeric(extension.get(1..)?) {
        return Some("tmp.*".to_owned());
    }
    if let Some(rest) = stem.strip_prefix("tmp") {
        if by_python(rest) {
            return Some(format!("tmp*{extension}"));
        }
        if let Some((kind, random)) = rest.rsplit_once(['_', '-'])
            && random.len() >= DRAWN
            && alphanumeric(random)
        {
            let separator = rest.get(kind.len()..=kind.len())?;
            return Some(format!("tmp{kind}{separator}*{extension}"));
        }
    }
    for prefix in ["tmp", ".tmp"] {
        if let Some(rest) = stem.strip_prefix(prefix)
            && is_random(rest)
        {
            return Some(format!("{prefix}*{extension}"));
        }
    }
    match above {
        // git asks the file system in `.git/tXXXXXX` whether it has links.
        [.., Some(".git")]
            if name.len() == 1 + DRAWN && alphanumeric(name) && name.starts_with('t') =>
        {
            Some("t*".to_owned())
        }
        directory if is_temporary(directory) => {
            if let Some(rest) = stem.strip_prefix("cc")
                && rest.len() == DRAWN
                && alphanumeric(rest)
            {
                return Some(format!("cc*{extension}"));
            }
            // Python asks the directory whether it may write there.
            if used == Use::Write && by_python(name) {
                return Some("*".to_owned());
            }
            let from = stem.rfind(['_', '-', '.']).map_or(0, |at| at + 1);
            let (before, token) = stem.split_at(from);
            // A word, and what was drawn for it.
            let word = token.len().saturating_sub(DRAWN);
            match (token.get(..word), token.get(word..)) {
                (Some(word), Some(random))
                    if word.len() >= WORD
                        && word.bytes().all(|b| b.is_ascii_lowercase())
                        && is_random(random) =>
                {
                    Some(format!("{before}{word}*{extension}"))
                }
                _ if is_random(token) => Some(format!("{before}*{extension}")),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether letters and digits are mixed as in no word.
fn is_random(text: &str) -> bool {
    let digit = |b: &u8| b.is_ascii_digit();
    let bytes = text.as_bytes();
    let turns = bytes
        .windows(2)
        .filter(|pair| matches!(pair, [one, other] if one.is_ascii_uppercase() != other.is_ascii_uppercase()))
        .count();
    let mixed = bytes.iter().any(digit) && bytes.iter().any(u8::is_ascii_alphabetic);
    bytes.len() >= DRAWN && bytes.iter().all(u8::is_ascii_alphanumeric) && (mixed || turns > 3)
}

/// The name with `*` for each hash, long number and process id in it.
fn runs(name: &str, pids: &BTreeSet<u32>) -> String {
    if let Some(pattern) = uuid(name) {
        return pattern;
    }
    let mut pattern = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let end = |class: fn(char) -> bool| rest.find(|c| !class(c)).unwrap_or(rest.len());
        let len = match first.is_ascii_alphanumeric() {
            true => end(|c| c.is_ascii_alphanumeric()),
            false => first.len_utf8(),
        };
        let (run, behind) = rest.split_at(len);
        rest = behind;
        pattern.push_str(if is_hash(run) || is_counted(run, pids) { "*" } else { run });
    }
    pattern
}

fn is_hash(run: &str) -> bool {
    let hexadecimal = run.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
    let mixed =
        run.bytes().any(|b| b.is_ascii_digit()) && run.bytes().any(|b| b.is_ascii_alphabetic());
    hexadecimal && (run.len() >= LONG_HASH || run.len() >= SHORT_HASH && mixed)
}

fn is_counted(run: &str, pids: &BTreeSet<u32>) -> bool {
    let pid = || run.parse().is_ok_and(|pid| pid >= LEAST_PID && pids.contains(&pid));
    is_number(run) && (run.len() >= LONG_NUMBER || pid())
}

/// 8, 4, 4, 4 and 12 hexadecimal digits.
fn uuid(name: &str) -> Option<String> {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    const LEN: usize = 36;
    let is_one = |text: &str| {
        let groups: Vec<&str> = text.split('-').collect();
        groups.iter().map(|group| group.len()).eq(GROUPS)
            && groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let at = (0..name.len()).find(|at| name.get(*at..at + LEN).is_some_and(is_one))?;
    Some(format!("{}*{}", name.get(..at)?, name.get(at + LEN..)?))
}

/// The name with `*` for what follows the first number of a version: `python3.*`, `libz.so.1.*`.
fn version(name: &str) -> Option<String> {
    let bytes = name.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let dot = (1..bytes.len())
        .find(|at| bytes.get(*at) == Some(&b'.') && digit(at - 1) && digit(at + 1))?;
    let behind = name.get(dot + 1..)?;
    let end = behind.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(behind.len());
    // The dot before an extension is not the version's.
    let end = behind.get(..end)?.trim_end_matches('.').len();
    Some(format!("{}*{}", name.get(..=dot)?, behind.get(end..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DETAIL: Detail = Detail { many: 8, endings: true, denials: true };

    fn of(path: &str, used: Use) -> String {
        let names: Vec<Box<[u8]>> =
            path.split('/').skip(1).map(|name| name.as_bytes().into()).collect();
        let pids = BTreeSet::from([31_847, 4_711, 12]);
        Names { pids: &pids, detail: DETAIL }
            .pattern(&names, used)
            .iter()
            .map(|name| format!("/{name}"))
            .collect()
    }

    #[test]
    fn what_varies_is_a_wildcard_and_the_rest_stays() {
        use Use::{Read, Run, Write};
        for (path, used, due) in [
            ("/tmp/ccMVCRMV.cdtor.o", Write, "/tmp/cc*.o"),
            ("/tmp/cczcvdnh.s", Read, "/tmp/cc*.s"),
            ("/tmp/tmp4gflc8zs/x.json", Write, "/tmp/tmp*/x.json"),
            ("/tmp/tmpa_cdefgh.json", Write, "/tmp/tmp*.json"),
            ("/tmp/a66u3jkg", Write, "/tmp/*"),
            ("/tmp/tmp.AbCdEfGhIj", Write, "/tmp/tmp.*"),
            ("/tmp/pip-install-ab12cd34/x", Write, "/tmp/pip-install-*/x"),
            ("/tmp/rustcAbC9eF/lib.rmeta", Write, "/tmp/rustc*/lib.rmeta"),
            ("/tmp/.tmpX9y8Z7/run", Run, "/tmp/.tmp*/run"),
            ("/w/.git/t1loMAh", Write, "/w/.git/t*"),
            ("/w/.git/objects/0a/tmp_obj_zcvdnh", Write, "/w/.git/objects/0a/tmp_obj_*"),
            (
                "/w/.git/objects/0a/bdf8e92e3056425d4194364b6d00c62e8a6bae",
                Read,
                "/w/.git/objects/0a/*",
            ),
            ("/w/m.cpython-311.pyc.139872345678", Write, "/w/m.cpython-311.pyc.*"),
            ("/w/cache.31847.lock", Write, "/w/cache.*.lock"),
            ("/w/4f6a0c1e-3b5d-4e7f-8a9b-0c1d2e3f4a5b.log", Write, "/w/*.log"),
            (
                "/w/target/debug/build/libc-1a2b3c4d5e6f7a8b/build-script-build",
                Run,
                "/w/target/debug/build/libc-*/build-script-build",
            ),
            ("/usr/lib/python3.11/os.py", Read, "/usr/lib/python3.*/os.py"),
            ("/usr/lib/libbz2.so.1.0.4", Read, "/usr/lib/libbz2.so.1.*"),
            ("/usr/src/foo-1.2.3.tar.gz", Read, "/usr/src/foo-1.*.tar.gz"),
            (
                "/usr/lib/gcc/x86_64-linux-gnu/12/crtendS.o",
                Read,
                "/usr/lib/gcc/x86_64-linux-gnu/*/crtendS.o",
            ),
            ("/proc/self/fd/3", Read, "/proc/self/fd/*"),
            ("/dev/pts/7", Write, "/dev/pts/*"),
        ] {
            assert_eq!(of(path, used), due, "{used:?}");
        }
    }

    #[test]
    fn ordinary_names_stay_what_they_are() {
        use Use::{Read, Run, Write};
        for (path, used) in [
            ("/usr/bin/python3.11", Run),
            ("/usr/bin/sha256sum", Run),
            ("/usr/lib/gcc/x86_64-linux-gnu/12/cc1", Run),
            ("/usr/lib/libc.so.6", Read),
            ("/usr/lib/libLLVM-14.so", Read),
            ("/usr/share/i18n/ISO8859-1", Read),
            ("/w/Makefile", Write),
            ("/w/README2", Write),
            ("/w/tmpfiles.d/x", Write),
            ("/w/template.html", Write),
            ("/w/python3.11", Write),
            ("/w/v1/2/3", Write),
            ("/w/12.lock", Write),
            ("/tmp/build.log", Write),
            ("/tmp/MyProject", Write),
            ("/home/user12345/x", Read),
            ("/data12345/x", Write),
            ("/dev/nvme0n1", Read),
            ("/sys/class/net/eth12345", Read),
            ("/proc/self/task/31847/comm", Write),
        ] {
            assert_eq!(of(path, used), path, "{used:?}");
        }
    }

    #[test]
    fn endings_go_where_there_is_no_room_for_them() {
        let path: [Box<[u8]>; 2] = [(*b"tmp").into(), (*b"ccMVCRMV.cdtor.o").into()];
        let without = Detail { endings: false, ..DETAIL };
        let pattern = Names { pids: &BTreeSet::new(), detail: without }.pattern(&path, Use::Write);
        assert_eq!(pattern, ["tmp", "cc*"]);
    }

    #[test]
    fn a_name_with_wildcards_in_it_is_escaped() {
        let name: Box<[u8]> = (*b"a*[b]\\\n\xff").into();
        let pattern = Names { pids: &BTreeSet::new(), detail: DETAIL }
            .pattern(&[(*b"w").into(), name], Use::Write);
        assert_eq!(pattern, ["w", r"a\*\[b\]\\\x0a\xff"]);
    }
}
