//! What the workload does, step by step, and what the shipped policy says to each.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
};

use super::events::Object;

/// The server that the policy allows: its rule `dev-server`.
pub const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080);
/// One that no rule names.
pub const OTHER_SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9090);

/// The workload: a shell script with one step for each of [`STEPS`], in their order.
pub const WORKLOAD: &str = include_str!("workload.sh");

/// One thing that the agent tries.
pub struct Step {
    /// Its name in the workload.
    pub name: &'static str,
    pub tries: &'static str,
    pub target: Target,
    pub expected: Verdict<'static>,
}

/// What a step is about; files by their path below the scratch place, or absolute.
pub enum Target {
    Connect(SocketAddrV4),
    Run(&'static str),
    Open(&'static str),
}

impl Target {
    /// True when `object` is this.
    pub fn is(&self, object: &Object, scratch: &Path) -> bool {
        match (self, object) {
            (Self::Connect(to), Object::Endpoint { address, port }) => {
                *address == to.ip().to_string() && *port == to.port()
            }
            (Self::Run(path), Object::Program(found)) | (Self::Open(path), Object::File(found)) => {
                scratch.join(path) == Path::new(found)
            }
            _ => false,
        }
    }
}

/// What is decided, and by which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict<'a> {
    pub allowed: bool,
    /// `None`: none matches, which denies.
    pub rule: Option<&'a str>,
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effect = if self.allowed { "allowed" } else { "denied" };
        match self.rule {
            Some(rule) => write!(f, "{effect} by rule {rule}"),
            None => write!(f, "{effect} because no rule matches"),
        }
    }
}

const fn allowed(rule: &'static str) -> Verdict<'static> {
    Verdict { allowed: true, rule: Some(rule) }
}

const fn denied(rule: &'static str) -> Verdict<'static> {
    Verdict { allowed: false, rule: Some(rule) }
}

const UNMATCHED: Verdict<'static> = Verdict { allowed: false, rule: None };

const fn step(
    name: &'static str,
    tries: &'static str,
    target: Target,
    expected: Verdict<'static>,
) -> Step {
    Step { name, tries, target, expected }
}

pub const SSH_KEY: &str = "home/.ssh/id_ed25519";
pub const CLOUD_CREDENTIALS: &str = "home/.aws/credentials";
pub const ENV_FILE: &str = "workspace/.env";
/// A program that came with no package.
pub const DOWNLOADED: &str = "workspace/downloaded-tool";
pub const SOURCE: &str = "workspace/src/main.c";

/// The steps of [`WORKLOAD`].
pub const STEPS: [Step; 16] = {
    use Target::{Connect, Open, Run};
    [
        step("fetch-allowed", "fetch from 127.0.0.1:8080", Connect(SERVER), allowed("dev-server")),
        step("fetch-other", "fetch from 127.0.0.1:9090", Connect(OTHER_SERVER), UNMATCHED),
        step("run-allowed", "run ls", Run("/usr/bin/ls"), allowed("system-programs")),
        step(
            "run-denied",
            "leave its network with unshare",
            Run("/usr/bin/unshare"),
            denied("change-the-view"),
        ),
        step("run-downloaded", "run a program it downloaded", Run(DOWNLOADED), UNMATCHED),
        step("read-workspace", "read src/main.c", Open(SOURCE), allowed("workspace")),
        step(
            "write-workspace",
            "write src/backup.c",
            Open("workspace/src/backup.c"),
            allowed("workspace"),
        ),
        step("ssh-by-name", "read ~/.ssh/id_ed25519", Open(SSH_KEY), denied("secrets")),
        step("env-by-name", "read .env", Open(ENV_FILE), denied("secrets")),
        step(
            "cloud-by-name",
            "read ~/.aws/credentials",
            Open(CLOUD_CREDENTIALS),
            denied("secrets"),
        ),
        step("ssh-by-link", "the SSH key by a link, notes.txt", Open(SSH_KEY), denied("secrets")),
        step("env-by-link", "the .env by a link, settings.txt", Open(ENV_FILE), denied("secrets")),
        step(
            "cloud-by-link",
            "the cloud's by a link, todo.txt",
            Open(CLOUD_CREDENTIALS),
            denied("secrets"),
        ),
        step("ssh-by-root", "the SSH key by /proc/self/root", Open(SSH_KEY), denied("secrets")),
        step("env-by-root", "the .env by /proc/self/root", Open(ENV_FILE), denied("secrets")),
        step(
            "cloud-by-root",
            "the cloud's by /proc/self/root",
            Open(CLOUD_CREDENTIALS),
            denied("secrets"),
        ),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workload_has_the_steps_in_this_order() {
        let mut names = Vec::new();
        for line in WORKLOAD.lines() {
            let mut words = line.split_whitespace();
            if words.next() == Some("step") {
                names.push(words.next().unwrap().trim_matches('"'));
            }
        }
        let (plain, looped) = names.split_at(names.len() - 3);
        let looped = ["name", "link", "root"].map(|from| {
            looped.iter().map(move |name| name.replace("$from", from)).collect::<Vec<_>>()
        });
        let names = plain.iter().map(|name| (*name).to_owned()).chain(looped.concat());
        assert_eq!(names.collect::<Vec<_>>(), STEPS.map(|step| step.name));
    }

    #[test]
    fn a_file_is_known_by_its_place_and_a_server_by_its_port() {
        let scratch = Path::new("/tmp/x");
        let file = |path: &str| Object::File(path.to_owned());
        assert!(Target::Open(SSH_KEY).is(&file("/tmp/x/home/.ssh/id_ed25519"), scratch));
        assert!(!Target::Open(SSH_KEY).is(&file("/tmp/y/home/.ssh/id_ed25519"), scratch));
        assert!(!Target::Run(SSH_KEY).is(&file("/tmp/x/home/.ssh/id_ed25519"), scratch));
        let program = Object::Program("/usr/bin/ls".to_owned());
        assert!(Target::Run("/usr/bin/ls").is(&program, scratch));
        let endpoint = |port| Object::Endpoint { address: "127.0.0.1".to_owned(), port };
        assert!(Target::Connect(SERVER).is(&endpoint(8080), scratch));
        assert!(!Target::Connect(SERVER).is(&endpoint(9090), scratch));
    }
}
