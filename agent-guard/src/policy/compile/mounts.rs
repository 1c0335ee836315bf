//! From the names that rules give to files, to where those files lie in their file systems.
//!
//! The kernel walks inside one file system, so that a verdict is the same under every mount of it. A
//! file may have several names: one for each mount that shows it. A denial of any name denies the
//! file; an allowance counts only by a name under which the file can be reached now, not by one that
//! another mount covers.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::ffi::OsStrExt,
};

use agent_guard_common::table::ABSTRACT_DEV;

use super::{
    alphabet::{Alphabet, number},
    nfa::{Nfa, NodeId, Root},
};
use crate::mounts;

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
    /// Whether it shows the kernel rather than files that somebody keeps.
    pub is_kernels: bool,
    /// The directories that an overlay puts together.
    pub layers: Vec<Path>,
}

impl From<&mounts::Mount> for Mount {
    fn from(mount: &mounts::Mount) -> Self {
        let of = |path: &std::path::Path| components(path.as_os_str().as_bytes());
        Self {
            id: mount.id,
            parent: mount.parent,
            dev: mount.dev,
            root: of(&mount.root),
            mount_point: of(&mount.mount_point),
            is_proc: mount.fs_type == "proc",
            is_kernels: mount.is_kernels(),
            layers: mount.layers().iter().map(|layer| of(layer)).collect(),
        }
    }
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

/// A name under which a place of a file system is, or would be, reached.
struct Name {
    path: Path,
    visible: bool,
}

impl Filesystems {
    /// The mounts that a mount table lists.
    #[must_use]
    pub fn from_table(table: &[mounts::Mount]) -> Self {
        Self::new(table.iter().map(Mount::from).collect())
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
            is_kernels: false,
            layers: Vec::new(),
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
        // What is in an overlay's layers is denied there under the layers' names, too.
        for layer in self.layers(dev) {
            names.push(Name { path: [layer.as_slice(), path].concat(), visible: false });
        }
        names
    }

    /// Every name of the layers of the overlay `dev`, by whichever mount they are named.
    fn layers(&self, dev: u32) -> BTreeSet<Path> {
        let of_dev = self.mounts.iter().filter(|mount| mount.dev == dev);
        let mut layers: BTreeSet<Path> =
            of_dev.flat_map(|mount| mount.layers.iter().cloned()).collect();
        for layer in layers.clone() {
            let Some((below, inside)) = self.locate(&layer) else { continue };
            let shown = self.mounts.iter().filter(|mount| mount.dev == below);
            layers.extend(shown.filter_map(|mount| {
                let rest = inside.strip_prefix(mount.root.as_slice())?;
                Some([mount.mount_point.as_slice(), rest].concat())
            }));
        }
        layers
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
        let Some((dev, inside)) = self.locate(path) else { return vec![path.to_vec()] };
        let names = self.names(dev, &inside);
        names.into_iter().filter(|name| name.visible).map(|name| name.path).collect()
    }

    /// The file system that `path` lies on, and where in it.
    #[must_use]
    pub fn locate(&self, path: &[Box<[u8]>]) -> Option<(u32, Path)> {
        let mount = self.shown(path)?;
        let below = path.get(mount.mount_point.len()..).unwrap_or_default();
        Some((mount.dev, [mount.root.as_slice(), below].concat()))
    }

    /// Whether `path` lies on a file system that keeps files, and not on one of the kernel's own.
    #[must_use]
    pub fn is_on_disk(&self, path: &[Box<[u8]>]) -> bool {
        self.shown(path).is_some_and(|mount| !mount.is_kernels)
    }

    /// The mount that shows what is at `path`.
    fn shown(&self, path: &[Box<[u8]>]) -> Option<&Mount> {
        let shown = self.mounts.iter().zip(&self.visible).find(|(mount, visible)| {
            **visible && path.starts_with(&mount.mount_point) && !self.is_covered(mount, path)
        });
        shown.map(|(mount, _)| mount)
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
        all.anchors.push(Anchor { nodes: nfa.start(Root::Abstract), ..Anchor::default() });
        all.starts.insert(ABSTRACT_DEV, number(all.anchors.len() - 1));
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
