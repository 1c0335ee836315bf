//! What an event asked of a policy.

use std::{fmt, net::IpAddr};

use agent_guard_common::{
    decide::{Reason, Request, Transport},
    event::{Action, Operation},
};

use crate::{
    event::{Body, Decision, Endpoint, File, Lookup, Object, PathScope, Record, SafeText, words},
    policy::{
        HostName,
        compile::Path,
        explain::{host, written},
    },
};

/// Something that a policy has an answer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Something was asked of a file.
    File {
        /// Where it is, from the root; under `/proc` the agent's own processes are `self`.
        path: Path,
        /// What was asked.
        request: Request,
        /// Whether only a rule without wildcards opens it.
        guarded: bool,
    },
    /// A UNIX-domain socket was reached by this abstract name.
    AbstractSocket(Box<[u8]>),
    /// A connection was made, or a datagram sent.
    Connect {
        /// Where to: never the wildcard, nor a mapped address.
        address: IpAddr,
        /// At which port.
        port: u16,
        /// Over what.
        transport: Transport,
        /// The name that led there, where one is known.
        name: Option<HostName>,
    },
    /// A name was asked for.
    Resolve(HostName),
    /// Connections or datagrams were taken.
    Listen {
        /// Where.
        address: IpAddr,
        /// At which port.
        port: u16,
        /// Over what.
        transport: Transport,
    },
    /// Something was done to the system or to a process outside.
    Operation(Operation),
}

/// Why an event asks nothing of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unasked {
    /// The guard tells of itself.
    Notice,
    /// Allowed under every policy.
    Free,
    /// Where it is has no name that a rule could have.
    Nameless,
    /// No rule allows it.
    Closed,
}

impl fmt::Display for Unasked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Notice => "tell of the guard itself",
            Self::Free => "are allowed under every policy",
            Self::Nameless => "have no name that a rule could have",
            Self::Closed => "are what no rule allows",
        })
    }
}

impl Question {
    /// The question that `record` is about. Under `/proc` processes still go by their numbers.
    ///
    /// # Errors
    /// There is none, and why.
    pub fn of(record: &Record) -> Result<Self, Unasked> {
        match &record.body {
            Body::Decided { action, object, decision, .. } => decided(*action, object, decision),
            Body::Lookup(lookup) => resolved(lookup),
            Body::Notice(_) => Err(Unasked::Notice),
        }
    }

    /// Whether it is about a file, and which of the requests it is.
    pub(super) fn writes(&self) -> bool {
        matches!(self, Self::File { request: Request::Write | Request::ReadWrite, .. })
    }
}

fn decided(action: Action, object: &Object, decision: &Decision) -> Result<Question, Unasked> {
    match decision.reason {
        Reason::Pipe | Reason::Own | Reason::Diverted => return Err(Unasked::Free),
        Reason::Protocol | Reason::Interface => return Err(Unasked::Closed),
        Reason::UnknownFilesystem
        | Reason::Detached
        | Reason::TooDeep
        | Reason::TooLong
        | Reason::Failed
        | Reason::NoPolicy => return Err(Unasked::Nameless),
        // What guards keep for themselves is in no policy.
        Reason::Rule if decision.rule.as_ref().is_some_and(|rule| rule.line.is_none()) => {
            return Err(Unasked::Closed);
        }
        Reason::Rule
        | Reason::Default
        | Reason::Guarded
        | Reason::Differs
        | Reason::Alias
        | Reason::Changed => {}
    }
    match object {
        Object::File(file) => file_question(action, file, decision.reason),
        Object::LocalSocket(socket) => match socket.path.as_str().strip_prefix('@') {
            Some(name) if socket.scope == PathScope::Absolute => {
                Ok(Question::AbstractSocket(unescaped(name)))
            }
            _ => file_question(action, socket, decision.reason),
        },
        Object::Endpoint(end) => endpoint(action, end, decision),
        Object::Operation(operation, _) => Ok(Question::Operation(*operation)),
        Object::Interface(_) => Err(Unasked::Closed),
    }
}

/// Whether the kernel opens the file as what loads another program: `ld-linux-x86-64.so.2`, `ld-musl-x86_64.so.1`.
fn is_loader(file: &File) -> bool {
    let name = file.path.as_str().rsplit('/').next().unwrap_or_default();
    name.starts_with("ld-") || name.starts_with("ld.so")
}

fn file_question(action: Action, file: &File, reason: Reason) -> Result<Question, Unasked> {
    let request = match action {
        Action::Read => Request::Read,
        Action::Write
        | Action::Create
        | Action::Delete
        | Action::Rename
        | Action::Link
        | Action::Truncate
        | Action::SetMetadata => Request::Write,
        Action::ReadWrite => Request::ReadWrite,
        Action::Exec => Request::Exec,
        // The opening of what is to be run comes first, and where it is told of its exec is not.
        Action::Load if !is_loader(file) => Request::Exec,
        Action::Load | Action::Map => Request::Load,
        Action::ConnectLocal => Request::Connect,
        Action::Receive
        | Action::Connect
        | Action::Send
        | Action::CreateSocket
        | Action::Listen
        | Action::Accept
        | Action::Operate
        | Action::IoUring
        | Action::ShareDescriptors
        | Action::SourceRoute => return Err(Unasked::Closed),
    };
    if file.scope != PathScope::Absolute || !file.path.as_str().starts_with('/') {
        return Err(Unasked::Nameless);
    }
    // Separators show as `/`, and nothing else does.
    let names = file.path.as_str().split('/').filter(|name| !name.is_empty());
    let path = names.map(unescaped).collect();
    Ok(Question::File { path, request, guarded: reason == Reason::Guarded })
}

fn unescaped(name: &str) -> Box<[u8]> {
    SafeText::from_escaped(name).to_bytes().into()
}

fn endpoint(action: Action, end: &Endpoint, decision: &Decision) -> Result<Question, Unasked> {
    let transport = match i32::from(end.protocol) {
        libc::IPPROTO_TCP | libc::IPPROTO_MPTCP => Transport::Tcp,
        libc::IPPROTO_UDP => Transport::Udp,
        _ => return Err(Unasked::Closed),
    };
    let Some(address) = end.addr.map(|address| address.to_canonical()) else {
        return Err(Unasked::Closed);
    };
    let port = end.port;
    Ok(match action {
        Action::Listen | Action::Accept => Question::Listen { address, port, transport },
        _ => Question::Connect {
            address: match address {
                IpAddr::V4(address) if address.is_unspecified() => [127, 0, 0, 1].into(),
                IpAddr::V6(address) if address.is_unspecified() => {
                    std::net::Ipv6Addr::LOCALHOST.into()
                }
                address => address,
            },
            port,
            transport,
            name: decision.host.as_deref().and_then(|name| HostName::parse(name).ok()),
        },
    })
}

fn resolved(lookup: &Lookup) -> Result<Question, Unasked> {
    let name = lookup.name.as_str();
    let name = name.strip_suffix('.').unwrap_or(name);
    match HostName::parse(name) {
        Ok(name) if matches!(lookup.kind.as_str(), "A" | "AAAA") => Ok(Question::Resolve(name)),
        Ok(_) => Err(Unasked::Closed),
        Err(_) => Err(Unasked::Nameless),
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, request, .. } => {
                let verb = match request {
                    Request::Read => "read",
                    Request::Write => "write",
                    Request::ReadWrite => "read and write",
                    Request::Exec => "run",
                    Request::Load => "load",
                    Request::Connect => "connect",
                };
                write!(f, "{verb} {}", shown(path))
            }
            Self::AbstractSocket(name) => write!(f, "connect @{}", SafeText::new(name)),
            Self::Connect { address, port, transport, name } => {
                write!(f, "connect {}", written(&host(*address), *port, *transport))?;
                match name {
                    Some(name) => write!(f, " ({name})"),
                    None => Ok(()),
                }
            }
            Self::Resolve(name) => write!(f, "resolve {name}"),
            Self::Listen { address, port, transport } => {
                write!(f, "listen {}", written(&host(*address), *port, *transport))
            }
            Self::Operation(operation) => f.write_str(words::operation(*operation)),
        }
    }
}

/// A path as events show it.
fn shown(path: &Path) -> SafeText {
    let mut text = SafeText::default();
    path.iter().for_each(|name| text.push_component(name));
    if text.is_empty() { SafeText::new(b"/") } else { text }
}
