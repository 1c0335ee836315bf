//! From the names that rules give to files, to where those files lie in their file systems.
//!
//! The kernel walks inside one file system, so that a verdict is the same under every mount of it. A
//! file may have several names: one for each mount that shows it. A denial of any name denies the
//! file; an allowance counts only by a name under which the file can be reached now, not by one that
//! another mount covers.

use std::collections::BTreeMap;

use miette::Diagnostic;
use thiserror::Error;

use super::nfa::{Alphabet, Nfa, NodeId, Root, number};

/// The components of a path from some root, without that root.
pub type Path = Vec<Box<[u8]>>;

/// Files of procfs that show or alter the kernel itself. Only a rule that names them opens them.
const KERNEL_MEMORY: [&[u8]; 10] = [
    b"kallsyms",
    b"kcore",
    b"kmem",
    b"kmsg",
    b"kpagecgroup",
    b"kpagecount",
    b"kpageflags",
    b"sysrq-trigger",
    b"vmallocinfo",
    b"vmcore",
];

/// One mount of a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its id, unique among the mounts of one namespace.
    pub id: u32,
    /// Id of the mount that it is mounted on.
    pub parent: u32,
    /// `super_block.s_dev`: major << 20 | minor.
    pub dev: u32,
    /// What it shows, seen from the root of its file system.
    pub root: Path,
    /// Where it is mounted.
    pub mount_point: Path,
    /// Whether this is procfs.
    pub is_proc: bool,
}

/// The mounts that an agent sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystems {
    mounts: Vec<Mount>,
    children: BTreeMap<u32, Vec<usize>>,
    visible: Vec<bool>,
    /// Paths as they are written: procfs is a directory like any other.
    is_lexical: bool,
}

/// A line of a `mountinfo` that is not as proc(5) says.
#[derive(Debug, Error, Diagnostic)]
#[error("line {line} of mountinfo is not understood: `{text}`")]
#[diagnostic(help(
    "the format is proc_pid_mountinfo(5); this is a fault of agent-guard or of the kernel"
))]
pub struct MountinfoError {
    /// 1-based line.
    pub line: usize,
    /// The line.
    pub text: String,
}

/// A name under which a place of a file system is, or would be, reached.
struct Name {
    path: Path,
    visible: bool,
}

impl Filesystems {
    /// Reads `/proc/<pid>/mountinfo`.
    ///
    /// # Errors
    /// The line that does not follow proc_pid_mountinfo(5).
    pub fn from_mountinfo(text: &[u8]) -> Result<Self, MountinfoError> {
        let mut mounts = Vec::new();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            match mount(line) {
                Some(Line::Mount(mount)) => mounts.push(mount),
                Some(Line::NoTree) => {}
                None => {
                    let text = line.escape_ascii().to_string();
                    return Err(MountinfoError { line: index + 1, text });
                }
            }
        }
        Ok(Self::new(mounts))
    }

    /// One file system, number 0, that holds everything: paths as they are written.
    #[must_use]
    pub fn lexical() -> Self {
        let all = Mount {
            id: 1,
            parent: 0,
            dev: 0,
            root: Path::new(),
            mount_point: Path::new(),
            is_proc: false,
        };
        Self { is_lexical: true, ..Self::new(vec![all]) }
    }

    /// The mounts of one namespace, in any order.
    #[must_use]
    pub fn new(mounts: Vec<Mount>) -> Self {
        let mut children: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (index, mount) in mounts.iter().enumerate() {
            if mount.parent != mount.id {
                children.entry(mount.parent).or_default().push(index);
            }
        }
        let visible = vec![false; mounts.len()];
        let mut filesystems = Self { mounts, children, visible, is_lexical: false };
        filesystems.find_visible();
        filesystems
    }

    /// A mount is visible where its parent is, and no other mount on that parent covers a directory
    /// above it. Mounts whose parent is not listed hang at the top.
    fn find_visible(&mut self) {
        let listed: BTreeMap<u32, usize> =
            self.mounts.iter().enumerate().map(|(index, mount)| (mount.id, index)).collect();
        let is_top =
            |mount: &Mount| mount.parent == mount.id || !listed.contains_key(&mount.parent);
        let mut ready: Vec<usize> = Vec::new();
        for (index, mount) in self.mounts.iter().enumerate() {
            if is_top(mount) {
                ready.push(index);
            }
        }
        // A cycle of parents is never reached, and so stays hidden.
        while let Some(index) = ready.pop() {
            let Some(mount) = self.mounts.get(index) else { continue };
            let siblings = self.children.get(&mount.parent).map_or(&[][..], Vec::as_slice);
            let covered = siblings.iter().filter(|sibling| **sibling != index).any(|sibling| {
                self.mounts.get(*sibling).is_some_and(|sibling| {
                    let covers = mount.mount_point.starts_with(&sibling.mount_point);
                    let later = sibling.mount_point.len() < mount.mount_point.len()
                        || sibling.id > mount.id;
                    covers && later
                })
            });
            if covered {
                continue;
            }
            if let Some(cell) = self.visible.get_mut(index) {
                *cell = true;
            }
            ready.extend(self.children.get(&mount.id).into_iter().flatten());
        }
    }

    /// Every name of the place `path` in the file system `dev`.
    fn names(&self, dev: u32, path: &[Box<[u8]>]) -> Vec<Name> {
        let mut names = Vec::new();
        for (mount, visible) in self.mounts.iter().zip(&self.visible) {
            if mount.dev != dev {
                continue;
            }
            let Some(below) = path.strip_prefix(mount.root.as_slice()) else { continue };
            let name = [mount.mount_point.as_slice(), below].concat();
            let visible = *visible && !self.is_covered(mount, &name);
            names.push(Name { path: name, visible });
        }
        names
    }

    /// Whether a mount on `mount` hides `name`.
    fn is_covered(&self, mount: &Mount, name: &[Box<[u8]>]) -> bool {
        self.children(mount).any(|child| name.starts_with(&child.mount_point))
    }

    fn children(&self, mount: &Mount) -> impl Iterator<Item = &Mount> {
        let children = self.children.get(&mount.id).into_iter().flatten();
        children.filter_map(|child| self.mounts.get(*child))
    }

    /// Every name that the file called `path` can be reached by, `path` among them.
    pub fn aliases(&self, path: &[Box<[u8]>]) -> Vec<Path> {
        let shown = self.mounts.iter().zip(&self.visible).find(|(mount, visible)| {
            **visible && path.starts_with(&mount.mount_point) && !self.is_covered(mount, path)
        });
        let Some((mount, _)) = shown else { return vec![path.to_vec()] };
        let below = path.get(mount.mount_point.len()..).unwrap_or_default();
        let inside = [mount.root.as_slice(), below].concat();
        let names = self.names(mount.dev, &inside);
        names.into_iter().filter(|name| name.visible).map(|name| name.path).collect()
    }

    /// The places of a file system where the set of names changes in form: roots of its mounts, what
    /// other mounts cover, and the kernel's memory.
    fn seams(&self, dev: u32) -> Vec<(Path, bool)> {
        let mut seams = Vec::new();
        for mount in self.mounts.iter().filter(|mount| mount.dev == dev) {
            seams.push((mount.root.clone(), false));
            for child in self.children(mount) {
                if let Some(below) = child.mount_point.strip_prefix(mount.mount_point.as_slice()) {
                    seams.push(([mount.root.as_slice(), below].concat(), false));
                }
            }
            if mount.is_proc {
                seams.extend(KERNEL_MEMORY.map(|name| (vec![name.into()], true)));
            }
        }
        if self.is_lexical {
            seams.extend(KERNEL_MEMORY.map(|name| (vec![b"proc"[..].into(), name.into()], true)));
        }
        seams
    }
}

enum Line {
    Mount(Mount),
    /// Something without a directory tree, such as a namespace file.
    NoTree,
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn mount(line: &[u8]) -> Option<Line> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = decimal(fields.next()?)?;
    let parent = decimal(fields.next()?)?;
    let mut device = fields.next()?.split(|byte| *byte == b':');
    let (major, minor) = (decimal(device.next()?)?, decimal(device.next()?)?);
    let (root, mount_point) = (fields.next()?, fields.next()?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    if !root.starts_with(b"/") {
        return Some(Line::NoTree);
    }
    // The kernel marks a directory that was removed; it still hangs where it did.
    let root = root.strip_suffix(b"//deleted").unwrap_or(root);
    Some(Line::Mount(Mount {
        id,
        parent,
        dev: major << 20 | minor,
        root: components(&unescape(root)),
        mount_point: components(&unescape(mount_point)),
        is_proc: kind == b"proc",
    }))
}

fn decimal(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Turns `\040` and its like back into bytes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match (first, behind) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', behind @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = behind;
            }
            _ => bytes.push(*first),
        }
    }
    bytes
}

/// The components of a path, without empty ones.
pub fn components(path: &[u8]) -> Path {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(Into::into).collect()
}

/// An anchor's number within its [`Anchors`].
pub type AnchorId = u32;

/// A directory on the way to where the names of a file system's files change in form.
#[derive(Default)]
pub struct Anchor {
    /// The anchors below, by the number of the component's name.
    pub children: BTreeMap<u32, AnchorId>,
    /// Where all names of this place have led.
    pub nodes: Vec<NodeId>,
    /// Kernel memory: wildcards and defaults do not open it.
    pub kernel_memory: bool,
}

/// The anchors of all file systems.
pub struct Anchors {
    starts: BTreeMap<u32, AnchorId>,
    anchors: Vec<Anchor>,
}

impl Anchors {
    /// Follows every name of every seam through the patterns.
    pub fn new(filesystems: &Filesystems, nfa: &Nfa, alphabet: &mut Alphabet) -> Self {
        let mut all = Self { starts: BTreeMap::new(), anchors: Vec::new() };
        for mount in &filesystems.mounts {
            if all.starts.contains_key(&mount.dev) {
                continue;
            }
            let top = all.push(filesystems, nfa, alphabet, mount.dev, &[]);
            all.starts.insert(mount.dev, top);
            for (path, kernel_memory) in filesystems.seams(mount.dev) {
                let mut at = top;
                for (depth, name) in path.iter().enumerate() {
                    let literal = alphabet.literal(name);
                    at = match all.at(at).children.get(&literal) {
                        Some(child) => *child,
                        None => {
                            let here = path.get(..=depth).unwrap_or_default();
                            let child = all.push(filesystems, nfa, alphabet, mount.dev, here);
                            if let Some(anchor) = all.anchors.get_mut(at as usize) {
                                anchor.children.insert(literal, child);
                            }
                            child
                        }
                    };
                }
                if let Some(anchor) = all.anchors.get_mut(at as usize) {
                    anchor.kernel_memory |= kernel_memory;
                }
            }
        }
        all
    }

    fn push(
        &mut self,
        filesystems: &Filesystems,
        nfa: &Nfa,
        alphabet: &Alphabet,
        dev: u32,
        path: &[Box<[u8]>],
    ) -> AnchorId {
        let mut nodes = Vec::new();
        for name in filesystems.names(dev, path) {
            let root = if name.visible { Root::All } else { Root::Deny };
            nodes.extend(follow(nfa, alphabet, root, &name.path));
        }
        nfa.close(&mut nodes);
        self.anchors.push(Anchor { nodes, ..Anchor::default() });
        number(self.anchors.len() - 1)
    }

    /// The anchor at the root of each file system, by `s_dev`.
    pub fn starts(&self) -> impl Iterator<Item = (u32, AnchorId)> {
        self.starts.iter().map(|(dev, anchor)| (*dev, *anchor))
    }

    /// An anchor by a number from here.
    pub fn at(&self, id: AnchorId) -> &Anchor {
        static NOWHERE: Anchor =
            Anchor { children: BTreeMap::new(), nodes: Vec::new(), kernel_memory: false };
        self.anchors.get(id as usize).unwrap_or(&NOWHERE)
    }
}

/// Where a path leads from the root of the file tree.
pub fn follow(nfa: &Nfa, alphabet: &Alphabet, root: Root, path: &[Box<[u8]>]) -> Vec<NodeId> {
    path.iter().fold(nfa.start(root), |set, name| {
        let (literal, globs) = alphabet.read(name);
        nfa.step(&set, literal, &globs)
    })
}
