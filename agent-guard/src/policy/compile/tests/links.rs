use std::path::{Path as StdPath, PathBuf};

use agent_guard_common::decide::Request;

use super::{
    super::{Links, Note, follow},
    *,
};

/// Links by their path.
struct Made(HashMap<&'static str, &'static str>);

impl Links for Made {
    fn read_link(&self, path: &StdPath) -> io::Result<Option<PathBuf>> {
        match self.0.get(path.to_str().unwrap()) {
            Some(&"EACCES") => Err(io::ErrorKind::PermissionDenied.into()),
            target => Ok(target.map(PathBuf::from)),
        }
    }
}

fn compile(policy: &Policy, links: &[(&'static str, &'static str)]) -> Compiled {
    let links = Made(links.iter().copied().collect());
    let filesystems = Filesystems::lexical();
    let environment = Environment { filesystems: &filesystems, links: &links };
    super::super::compile(policy, &environment, KEY).unwrap()
}

fn followed(path: &str, links: &[(&'static str, &'static str)]) -> String {
    let links = Made(links.iter().copied().collect());
    let path = follow(&components(path.as_bytes()), &links).unwrap().path;
    super::super::links::to_std(&path).display().to_string()
}

#[test]
fn links_are_followed_as_the_kernel_does() {
    assert_eq!(
        followed("/bin/sh", &[("/bin", "usr/bin"), ("/usr/bin/sh", "dash")]),
        "/usr/bin/dash"
    );
    assert_eq!(followed("/a/b/c", &[("/a/b", "/x/../y"), ("/y/c", "../../../z")]), "/z");
    assert_eq!(followed("/a", &[("/a", "./b//c/.")]), "/b/c");
    assert_eq!(
        followed("/dev/stdin", &[("/dev/stdin", "/proc/self/fd/0"), ("/proc/self", "77")]),
        "/proc/self/fd/0"
    );
    assert_eq!(followed("/proc/12/root/x", &[("/proc/12/root", "/")]), "/proc/12/root/x");
}

#[test]
fn a_chain_of_forty_links_is_followed_and_one_more_is_not() {
    struct Chain(usize);
    impl Links for Chain {
        fn read_link(&self, path: &StdPath) -> io::Result<Option<PathBuf>> {
            let at: usize = path.to_str().unwrap()[1..].parse().unwrap();
            Ok((at < self.0).then(|| PathBuf::from(format!("{}", at + 1))))
        }
    }
    let start = components(b"/0");
    assert_eq!(follow(&start, &Chain(40)).unwrap().path, components(b"/40"));
    assert!(follow(&start, &Chain(41)).is_err());
}

#[test]
fn a_rule_for_a_link_is_a_rule_for_what_it_points_at() {
    let policy = policy(
        "exec:\n  rules:\n    - {effect: allow, paths: ['/bin/**', '/opt/py']}\n    - {effect: deny, paths: ['/bin/sudo']}",
    );
    let compiled = compile(
        &policy,
        &[("/bin", "usr/bin"), ("/opt/py", "/usr/lib/py3"), ("/usr/bin/sudo", "../lib/sudo-rs")],
    );
    let runs = |path| decide(&compiled, path, Request::Exec, false).effect == Effect::Allow;
    assert!(runs("/usr/bin/sh") && runs("/bin/sh") && runs("/usr/lib/py3"));
    assert!(!runs("/usr/lib/sudo-rs") && !runs("/usr/lib/other"));
    assert!(compiled.notes.iter().all(|note| matches!(note, Note::Followed { .. })));
    assert_eq!(compiled.notes.len(), 3);
}

#[test]
fn an_allowance_does_not_follow_a_link_that_the_agent_may_replace() {
    let links = [("/work/tool", "/etc"), ("/ro/tool", "/etc")];
    let rules = |writable: &str| {
        policy(&format!(
            "files:\n  rules:\n    - {{effect: allow, paths: ['{writable}']}}\n    - {{effect: allow, access: [read], paths: ['/work/tool/**', '/ro/tool/pass']}}"
        ))
    };
    let reads = |compiled: &Compiled, path| {
        decide(compiled, path, Request::Read, false).effect == Effect::Allow
    };
    let planted = compile(&rules("/work/**"), &links);
    assert!(!reads(&planted, "/etc/shadow") && reads(&planted, "/etc/pass"));
    assert!(planted.notes.iter().any(|note| {
        note.is_warning()
            && matches!(note, Note::NotFollowed { link, .. } if *link == *"/work/tool")
    }));
    // A directory above the link is as good as the link itself.
    assert!(!reads(&compile(&rules("/work"), &links), "/etc/shadow"));
    assert!(reads(&compile(&rules("/work/other"), &links), "/etc/shadow"));
}

#[test]
fn what_a_followed_link_lets_the_agent_write_counts_too() {
    let policy = policy(
        "files:\n  rules:\n    - {effect: allow, paths: ['/out/*']}\n    - {effect: allow, access: [read], paths: ['/data/link/**']}",
    );
    let compiled = compile(&policy, &[("/out", "/data"), ("/data/link", "/etc")]);
    assert_eq!(decide(&compiled, "/data/x", Request::Write, false).effect, Effect::Allow);
    assert_eq!(decide(&compiled, "/etc/x", Request::Read, false).effect, Effect::Deny);
}

#[test]
fn a_link_that_another_mount_makes_writable_is_not_followed() {
    let policy = policy(
        "files:\n  rules:\n    - {effect: allow, paths: ['/work/**']}\n    - {effect: allow, access: [read], paths: ['/srv/w/link/**']}",
    );
    let links = Made(HashMap::from([("/srv/w/link", "/etc")]));
    let mountinfo = b"1 1 8:1 / / rw - ext4 x rw\n2 1 8:1 /srv/w /work rw - ext4 x rw\n";
    let filesystems = Filesystems::from_table(&crate::mounts::parse(mountinfo).unwrap());
    let environment = Environment { filesystems: &filesystems, links: &links };
    let compiled = super::super::compile(&policy, &environment, KEY).unwrap();
    assert!(compiled.notes.iter().any(Note::is_warning));
}

#[test]
fn a_denial_follows_every_link() {
    let policy = policy(
        "files:\n  default: allow\n  rules:\n    - {effect: deny, paths: ['/home/me/.ssh/**']}",
    );
    let compiled = compile(&policy, &[("/home/me/.ssh", "/vault/keys")]);
    for path in ["/vault/keys/id", "/home/me/.ssh/id"] {
        assert_eq!(decide(&compiled, path, Request::Read, false).effect, Effect::Deny);
    }
}

#[test]
fn a_link_that_can_not_be_read_is_said() {
    let policy = policy("files:\n  rules:\n    - {effect: deny, paths: ['/shut/**']}");
    let compiled = compile(&policy, &[("/shut", "EACCES")]);
    assert!(matches!(&compiled.notes[..], [Note::Unreadable { .. }]));
}
