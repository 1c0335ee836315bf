//! A case put to `decide` on tables in memory.

use std::net::{Ipv4Addr, SocketAddr};

use agent_guard::policy::{
    Policy,
    compile::{
        CompileError, Compiled, Environment, Filesystems, HostLinks, Links, MemoryTables, NoLinks,
        compile,
    },
};
use agent_guard_common::{
    decide::{
        Decision, Endpoint, Moved, Reason, Request, Transport, alike, decide_connect, decide_file,
        decide_listen,
    },
    table::{self, NO_RULE},
};

use super::{Act, Case, Effect, Place, Scene, unescape};

/// An answer and what it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub is: Effect,
    /// A rule's label, or the reason where no rule decided.
    pub by: String,
}

/// A scene's compiled policy.
pub struct Tables {
    compiled: Compiled,
    mounts: Vec<Mounted>,
}

/// The components of a path.
type Names = Vec<Vec<u8>>;

/// Where a file system is mounted.
struct Mounted {
    dev: u32,
    /// What of it.
    root: Names,
    point: Names,
}

impl Tables {
    /// For paths as they are written.
    pub fn lexical(scene: &Scene, place: &Place) -> Self {
        let compiled = compiled(&scene.policy(place), &Filesystems::lexical(), &NoLinks);
        Self { compiled, mounts: vec![Mounted { dev: 0, root: Names::new(), point: Names::new() }] }
    }

    /// For the mounts and links of this host.
    pub fn of_this_host(scene: &Scene, place: &Place) -> Self {
        let table = agent_guard::mounts::MountTable::open().unwrap().read().unwrap();
        let filesystems = Filesystems::from_table(&table);
        let compiled = compiled(&scene.policy(place), &filesystems, &HostLinks::default());
        let bytes = |path: &std::path::Path| components(path.as_os_str().as_encoded_bytes());
        let mounts = table
            .iter()
            .map(|mount| Mounted {
                dev: mount.dev,
                root: bytes(&mount.root),
                point: bytes(&mount.mount_point),
            })
            .collect();
        Self { compiled, mounts }
    }

    /// What `decide` answers.
    pub fn answer(&self, case: &Case, place: &Place) -> Answer {
        let tables = MemoryTables::new(&self.compiled);
        let agent = self.compiled.agent(1, 1);
        let act = case.act.at(place);
        let file = |state| decide_file(&tables, &agent, state, request(&act), case.guarded);
        let decision = if matches!(act, Act::Listen(_)) {
            decide_listen(&tables, &agent, &own_endpoint(act.object()))
        } else if act.is_network() {
            decide_connect(&tables, &agent, &endpoint(act.object()), true)
        } else if let Some(name) = act.object().strip_prefix('@') {
            tables.walk_abstract(&unescape(name)).map_or_else(Decision::deny, file)
        } else {
            let at = |path: &[u8]| {
                let (dev, path) = self.locate(&components(path));
                tables.walk(dev, &path)
            };
            let judge = |state| decide_file(&tables, &agent, state, request(&act), case.guarded);
            let moved = Moved { directory: case.directory, guarded: case.guarded };
            let old = at(&case.path(place));
            match (old, act.new_place().map(|to| at(&unescape(to)))) {
                (_, Some(Err(reason))) | (Err(reason), _) => Decision::deny(reason),
                (Ok(old), None) => judge(old),
                (Ok(old), Some(Ok(new))) => match (judge(new), judge(old)) {
                    (denied, _) | (Decision { effect: table::Effect::Allow, .. }, denied)
                        if denied.effect == table::Effect::Deny =>
                    {
                        denied
                    }
                    (_, allowed) if alike(&tables, &agent, old, new, moved) => allowed,
                    _ => Decision::deny(Reason::Differs),
                },
            }
        };
        self.name(decision)
    }

    fn name(&self, decision: Decision) -> Answer {
        let is = match decision.effect {
            table::Effect::Allow => Effect::Allow,
            table::Effect::Deny => Effect::Deny,
        };
        let by = match decision.rule {
            NO_RULE => reason(decision.reason).to_owned(),
            rule => self.compiled.rules[usize::from(rule)].label.clone(),
        };
        Answer { is, by }
    }

    /// The file system on top at `path`, and the path inside it.
    fn locate(&self, path: &[Vec<u8>]) -> (u32, Names) {
        let on_top = self
            .mounts
            .iter()
            .filter(|mount| path.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.len())
            .expect("something is mounted at /");
        (on_top.dev, [&on_top.root, &path[on_top.point.len()..]].concat())
    }
}

fn compiled(policy: &Policy, filesystems: &Filesystems, links: &dyn Links) -> Compiled {
    let environment = Environment { filesystems, links };
    for key in 1..4 {
        match compile(policy, &environment, [key, !key]) {
            Err(CompileError::HashCollision) => {}
            Err(error) => panic!("{error:?}"),
            Ok(compiled) => return compiled,
        }
    }
    panic!("names collide under every key");
}

fn components(path: &[u8]) -> Names {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}

fn request(act: &Act) -> Request {
    match act {
        Act::Read(_) | Act::List(_) | Act::ReopenPipe(_) => Request::Read,
        Act::Write(_)
        | Act::Create(_)
        | Act::Mkdir(_)
        | Act::Rmdir(_)
        | Act::Remove(_)
        | Act::Symlink(_)
        | Act::Fifo(_)
        | Act::Device(_)
        | Act::Nameless(_)
        | Act::Cut(_)
        | Act::Chmod(_)
        | Act::Chown(_)
        | Act::Touch(_)
        | Act::SetAcl(_)
        | Act::RemoveAcl(_)
        | Act::Rename { .. }
        | Act::Exchange { .. }
        | Act::HardLink { .. }
        | Act::Name { .. } => Request::Write,
        Act::ReadWrite(_) | Act::Truncate(_) => Request::ReadWrite,
        Act::Exec(_) => Request::Exec,
        Act::ConnectStream(_) | Act::ConnectDatagram(_) | Act::SendDatagram(_) => Request::Connect,
        Act::Connect(_) | Act::Send(_) | Act::Listen(_) => panic!("the network is no file"),
    }
}

/// `127.0.0.1:80/tcp` apart.
pub fn endpoint_parts(text: &str) -> (SocketAddr, Transport) {
    let (address, protocol) = text.rsplit_once('/').expect("ADDRESS:PORT/PROTOCOL");
    let transport = match protocol {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        other => panic!("{other}: tcp or udp"),
    };
    (address.parse().unwrap_or_else(|error| panic!("{address}: {error}")), transport)
}

fn endpoint(text: &str) -> Endpoint {
    match endpoint_parts(text) {
        (SocketAddr::V4(addr), transport) => {
            Endpoint::v4(Ipv4Addr::octets(addr.ip()), addr.port(), transport)
        }
        (SocketAddr::V6(addr), transport) => {
            Endpoint::v6(addr.ip().octets(), addr.port(), transport)
        }
    }
}

fn own_endpoint(text: &str) -> Endpoint {
    match endpoint_parts(text) {
        (SocketAddr::V4(addr), transport) => {
            Endpoint::own_v4(Ipv4Addr::octets(addr.ip()), addr.port(), transport)
        }
        (SocketAddr::V6(addr), transport) => {
            Endpoint::own_v6(addr.ip().octets(), addr.port(), transport)
        }
    }
}

/// The names of events, written anew: consumers rely on them.
fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Rule => "rule",
        Reason::Default => "default",
        Reason::Guarded => "guarded",
        Reason::Pipe => "pipe",
        Reason::UnknownFilesystem => "unknown_filesystem",
        Reason::Detached => "detached",
        Reason::TooDeep => "too_deep",
        Reason::TooLong => "too_long",
        Reason::Failed => "failed",
        Reason::Protocol => "protocol",
        Reason::Interface => "interface",
        Reason::NoPolicy => "no_policy",
        Reason::Differs => "differs",
        Reason::Own => "own",
        Reason::Alias => "alias",
        Reason::Diverted => "diverted",
        Reason::Changed => "changed",
    }
}
