//! Placeholders of the corpus, and what they stand for in one place.

use std::path::{Path, PathBuf};

/// What placeholders stand for:
///
/// | placeholder | |
/// |---|---|
/// | `{root}` | the scratch directory |
/// | `{actor}` | the programs that the actor needs to start, as a quoted list |
/// | `{system}` | the files that any program needs to start, as a quoted list |
/// | `{outside}` | a process that is not of the agent |
/// | `{disk}` | a block device |
/// | `{p0}` … `{p15}` | consecutive ports |
/// | `{20 x 3}` | three components of 20 letters |
/// | `{depth 128}` | as many components as give `{root}/{depth 128}` that many in its file system |
///
/// Anything else in braces stays.
#[derive(Clone, Debug)]
pub struct Place {
    pub root: PathBuf,
    /// Components of `root` below the root of its file system.
    pub root_depth: usize,
    pub actor: PathBuf,
    pub outside: u32,
    pub disk: String,
    pub first_port: u16,
}

/// Ports in a scene.
pub const PORTS: u16 = 16;

const SYSTEM: &str =
    r#""/usr/**", "/lib/**", "/lib64/**", "/etc/ld.so.*", "/proc/self/maps", "/proc/self/cgroup""#;

impl Place {
    /// Where nothing is real.
    pub fn imagined() -> Self {
        Self {
            root: "/scratch/place".into(),
            root_depth: 2,
            actor: "/opt/actor".into(),
            outside: 4321,
            disk: "/dev/vda".to_owned(),
            first_port: 20000,
        }
    }

    /// `text` with its placeholders filled in.
    pub fn fill(&self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            let (before, from_brace) = rest.split_at(at);
            filled.push_str(before);
            let word = from_brace[1..].split(['}', '{', '\n']).next().unwrap_or_default();
            match self.meaning(word) {
                Some(meaning) => {
                    filled.push_str(&meaning);
                    rest = &from_brace[word.len() + 2..];
                }
                None => {
                    filled.push('{');
                    rest = &from_brace[1..];
                }
            }
        }
        filled + rest
    }

    fn meaning(&self, word: &str) -> Option<String> {
        match word {
            "root" => return Some(utf8(&self.root)),
            "actor" => {
                let actor = utf8(&self.actor);
                return Some(format!("\"{actor}\", \"/lib64/ld-linux-x86-64.so.2\""));
            }
            "system" => return Some(SYSTEM.to_owned()),
            "outside" => return Some(self.outside.to_string()),
            "disk" => return Some(self.disk.clone()),
            _ => {}
        }
        if let Some(port) = word.strip_prefix('p').and_then(|port| port.parse::<u16>().ok()) {
            assert!(port < PORTS, "{{{word}}}: there are {PORTS} ports");
            return Some((self.first_port + port).to_string());
        }
        if let Some(depth) = word.strip_prefix("depth ").and_then(|depth| depth.parse().ok()) {
            let missing = usize::checked_sub(depth, self.root_depth).expect("root lies too deep");
            return Some(vec!["d"; missing].join("/"));
        }
        let (length, count) = word.split_once(" x ")?;
        let name = "d".repeat(length.parse().ok()?);
        Some(vec![name; count.parse().ok()?].join("/"))
    }
}

fn utf8(path: &Path) -> String {
    path.to_str().expect("a scratch path is UTF-8").to_owned()
}

/// The bytes of a text with `\xNN` and `\\`.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let (byte, taken) = match (first, tail) {
            (b'\\', [b'x', high, low, ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).expect("two hexadecimal digits");
                (u8::from_str_radix(digits, 16).expect("two hexadecimal digits"), 4)
            }
            (b'\\', [b'\\', ..]) => (b'\\', 2),
            _ => (*first, 1),
        };
        bytes.push(byte);
        rest = &rest[taken..];
    }
    bytes
}
