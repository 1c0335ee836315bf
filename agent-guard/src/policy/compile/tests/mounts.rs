use agent_guard_common::decide::Request;
use proptest::{collection::vec, prelude::*};

use super::{
    super::Mount,
    paths::{any_path, any_policy},
    *,
};

const HOST: &[u8] = b"\
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
22 27 0:21 / /proc rw,relatime shared:2 master:7 - proc proc rw
28 27 254:0 /srv/data\\040one /data rw - ext4 /dev/vda rw
29 27 0:40 / /home rw - tmpfs tmpfs rw
30 27 0:4 net:[4026531840] /run/netns/x rw - nsfs nsfs rw
";

const ROOT: u32 = 254 << 20;

fn read(compiled: &Compiled, dev: u32, path: &str) -> Decision {
    decide_at(compiled, dev, &components(path.as_bytes()), Request::Read, false)
}

fn files(rules: &str) -> Policy {
    policy(&format!("files:\n  rules:\n    - {rules}"))
}

#[test]
fn a_rule_is_about_the_file_by_whatever_mount() {
    let mounts = Filesystems::from_table(&crate::mounts::parse(HOST).unwrap());
    let by_bind = compile_on(&files("{effect: allow, paths: ['/data/x']}"), &mounts);
    assert_eq!(read(&by_bind, ROOT, "/srv/data one/x").effect, Effect::Allow);
    assert_eq!(read(&by_bind, ROOT, "/data/x").effect, Effect::Deny);
    assert_eq!(read(&by_bind, 0x15, "/data/x").effect, Effect::Deny);

    let both = "{effect: allow, paths: ['/data/**']}\n    - {effect: deny, paths: ['/srv/**/x']}";
    let denied = compile_on(&files(both), &mounts);
    assert_eq!(read(&denied, ROOT, "/srv/data one/x").effect, Effect::Deny);
    assert_eq!(read(&denied, ROOT, "/srv/data one/y").effect, Effect::Allow);
}

#[test]
fn an_allowance_does_not_reach_what_another_mount_hides() {
    let mounts = Filesystems::from_table(&crate::mounts::parse(HOST).unwrap());
    let compiled = compile_on(
        &files(
            "{effect: allow, paths: ['/home/**', '/srv/**']}\n    - {effect: deny, paths: ['/home/a/k']}",
        ),
        &mounts,
    );
    assert_eq!(read(&compiled, 40, "/a").effect, Effect::Allow);
    assert_eq!(read(&compiled, ROOT, "/home/a").effect, Effect::Deny);
    // The denial stays: somebody may still hold the directory below.
    assert_eq!(read(&compiled, ROOT, "/home/a/k").reason, Reason::Rule);
    assert_eq!(read(&compiled, ROOT, "/srv/a").effect, Effect::Allow);
}

#[test]
fn a_file_system_that_is_not_mounted_is_unknown() {
    let mounts = Filesystems::from_table(&crate::mounts::parse(HOST).unwrap());
    let compiled = compile_on(&policy("files:\n  default: allow"), &mounts);
    assert_eq!(read(&compiled, 99, "/x"), Decision::deny(Reason::UnknownFilesystem));
    assert_eq!(read(&compiled, ROOT, "/x").effect, Effect::Allow);
}

#[test]
fn kernel_memory_is_known_by_its_file_system() {
    let elsewhere = b"1 1 8:1 / / rw - ext4 x rw\n2 1 0:21 / /jail/proc rw - proc proc rw\n";
    let mounts = Filesystems::from_table(&crate::mounts::parse(elsewhere).unwrap());
    let compiled = compile_on(&files("{effect: allow, paths: ['/jail/**']}"), &mounts);
    assert_eq!(read(&compiled, 0x15, "/meminfo").effect, Effect::Allow);
    assert_eq!(read(&compiled, 0x15, "/kcore").effect, Effect::Deny);
    let named = compile_on(&files("{effect: allow, paths: ['/jail/proc/kcore']}"), &mounts);
    assert_eq!(read(&named, 0x15, "/kcore").effect, Effect::Allow);
}

#[test]
fn a_removed_mount_root_is_where_it_was() {
    let removed = b"1 1 8:1 / / rw - ext4 x rw\n2 1 8:1 /a/b//deleted /mnt rw - ext4 x rw\n";
    let mounts = Filesystems::from_table(&crate::mounts::parse(removed).unwrap());
    let compiled = compile_on(&files("{effect: allow, paths: ['/mnt/x']}"), &mounts);
    assert_eq!(read(&compiled, 8 << 20 | 1, "/a/b/x").effect, Effect::Allow);
}

#[test]
fn a_line_that_is_not_understood_is_an_error_that_shows_it() {
    for (line, text) in [(1, "x"), (2, "1 1 8:1 / / rw - ext4 x rw\n2 1 8 / / rw - a b c")] {
        let error = crate::mounts::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.line, line);
    }
}

#[test]
fn this_hosts_own_mounts_are_understood() {
    let text = std::fs::read("/proc/self/mountinfo").unwrap();
    assert!(crate::mounts::parse(&text).is_ok());
}

#[test]
fn an_overlay_denies_what_a_rule_denies_in_its_layers_and_allows_nothing_by_them() {
    let path = |text: &str| components(text.as_bytes());
    let mount = |id, parent, dev, at: &str, layers: &[&str]| Mount {
        id,
        parent,
        dev,
        root: Path::new(),
        mount_point: path(at),
        is_proc: false,
        is_kernels: false,
        layers: layers.iter().map(|layer| path(layer)).collect(),
    };
    let filesystems = Filesystems::new(vec![
        mount(1, 0, 1, "/", &[]),
        mount(2, 1, 2, "/disk", &[]),
        mount(3, 1, 3, "/work/box", &["/disk/image", "/safe"]),
        // Over its own layer.
        mount(4, 1, 4, "/self", &["/self"]),
        Mount { root: path("/image"), ..mount(5, 1, 2, "/elsewhere", &[]) },
    ]);
    let policy = policy(
        r#"
files:
  rules:
    - {effect: allow, paths: ["/work/**", "/disk/image/only"]}
    - {effect: allow, paths: ["/self/**"]}
    - {effect: deny, paths: ["/safe/key", "/elsewhere/hidden"]}
"#,
    );
    let compiled = compile_on(&policy, &filesystems);
    let reads = |dev, at: &str| decide_at(&compiled, dev, &path(at), Request::Read, false).effect;
    assert_eq!(reads(3, "/file"), Effect::Allow);
    assert_eq!(reads(3, "/key"), Effect::Deny, "by the layer's name");
    assert_eq!(reads(3, "/hidden"), Effect::Deny, "by another name of the layer");
    assert_eq!(reads(4, "/file"), Effect::Allow);
    assert_eq!(reads(2, "/image/other"), Effect::Deny);
}

/// Mounts as a kernel keeps them: on a directory of another mount.
#[derive(Clone, Debug, Default)]
struct Tree {
    mounts: Vec<Mount>,
    /// (parent, directory inside the file system of the parent) to mount.
    on: HashMap<(u32, Path), u32>,
}

impl Tree {
    fn mount(&mut self, dev: u32, root: Path, at: Path) {
        let id = self.mounts.len() as u32 + 1;
        let (parent, directory) = if id == 1 { (0, Path::new()) } else { self.look_up(&at) };
        if id > 1 {
            self.on.insert((parent, directory), id);
        }
        let layers = Vec::new();
        let (is_proc, is_kernels) = (false, false);
        self.mounts.push(Mount {
            id,
            parent,
            dev,
            root,
            mount_point: at,
            is_proc,
            is_kernels,
            layers,
        });
    }

    fn by_id(&self, id: u32) -> &Mount {
        &self.mounts[id as usize - 1]
    }

    /// The mount and the place inside its file system that a path names.
    fn look_up(&self, path: &Path) -> (u32, Path) {
        let cross = |mut id: u32, mut place: Path| {
            while let Some(upper) = self.on.get(&(id, place.clone())) {
                id = *upper;
                place = self.by_id(id).root.clone();
            }
            (id, place)
        };
        let mut here = cross(1, self.by_id(1).root.clone());
        for name in path {
            here.1.push(name.clone());
            here = cross(here.0, here.1);
        }
        here
    }

    /// Every name of a place, and whether a look-up of the name finds it.
    fn names(&self, dev: u32, place: &Path) -> Vec<(Path, bool)> {
        let mounts = self.mounts.iter().filter(|mount| mount.dev == dev);
        let below = mounts.filter_map(|mount| {
            let below = place.strip_prefix(mount.root.as_slice())?;
            let name = [mount.mount_point.as_slice(), below].concat();
            let found = self.look_up(&name);
            Some((name, found == (mount.id, place.clone())))
        });
        below.collect()
    }
}

fn any_tree() -> impl Strategy<Value = Tree> {
    vec((1..4u32, any_path(3), any_path(3)), 1..7).prop_map(|mounts| {
        let mut tree = Tree::default();
        tree.mount(1, Path::new(), Path::new());
        for (dev, root, at) in mounts {
            tree.mount(dev, root, at);
        }
        tree
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_mount_gives_the_names_that_a_look_up_would(
        policy in any_policy(),
        tree in any_tree(),
        paths in vec((1..4u32, any_path(5)), 20),
    ) {
        let filesystems = Filesystems::new(tree.mounts.clone());
        let compiled = compile_on(&policy, &filesystems);
        let tables = MemoryTables::new(&compiled);
        for (dev, path) in &paths {
            if tree.mounts.iter().all(|mount| mount.dev != *dev) {
                continue;
            }
            for guarded in [false, true] {
                let found = decide_in(&tables, &compiled, *dev, path, (Request::Write, guarded));
                let due = naive(&policy, &tree.names(*dev, path), Request::Write, guarded);
                prop_assert_eq!(found, due, "{} {:?} guarded={}", dev, path, guarded);
            }
            let name = path;
            let (id, place) = tree.look_up(name);
            let mut due: Vec<Path> = tree
                .names(tree.by_id(id).dev, &place)
                .into_iter()
                .filter(|(_, reachable)| *reachable)
                .map(|(name, _)| name)
                .collect();
            due.sort();
            let mut found = filesystems.aliases(name);
            found.sort();
            prop_assert_eq!(found, due);
        }
    }
}
