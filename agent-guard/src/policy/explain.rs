//! What a policy would answer, and why: the kernel's own decision over tables compiled here, without
//! privileges, for paths as they are named on this host.

use std::{
    fmt,
    net::IpAddr,
    os::unix::ffi::OsStrExt,
    path::{Path as StdPath, PathBuf},
};

use agent_guard_common::{
    decide::{Decision, Endpoint, Reason, Request, Transport, decide_connect, decide_file},
    device,
    table::Effect,
};
use miette::Diagnostic;
use rustix::fs::{major, minor};
use thiserror::Error;

use super::{
    AccessSet, Host, Mode, Policy, Rule, Segment, Target, TargetError,
    compile::{
        CompileError, Compiled, Environment, Filesystems, Form, HostLinks, HostResolver, Links,
        MemoryTables, NoLinks, Note, Path, Resolver, RuleRef, compile, components, egress_id,
        follow, forms, to_std,
    },
};

/// Why a question has no answer.
#[derive(Debug, Error, Diagnostic)]
pub enum ExplainError {
    /// The policy can not be compiled.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Compile(#[from] CompileError),
    /// A path without a beginning.
    #[error("`{}` is no absolute path", .0.display())]
    #[diagnostic(help("a policy has no current directory: begin the path with `/`"))]
    Relative(PathBuf),
    /// Not `HOST:PORT`.
    #[error("`{text}` is no endpoint: {source}")]
    #[diagnostic(help("write HOST:PORT, HOST:PORT/tcp or HOST:PORT/udp"))]
    Endpoint {
        /// What was asked.
        text: String,
        /// What is wrong with it.
        source: TargetError,
    },
    /// More than one address, port or protocol.
    #[error("`{0}` is not one endpoint")]
    #[diagnostic(help("write one host and one port: HOST:PORT, HOST:PORT/tcp or HOST:PORT/udp"))]
    Many(String),
    /// The host that was asked for has no address.
    #[error("the host `{host}` does not resolve")]
    #[diagnostic(help("ask for an address"))]
    Resolve {
        /// The host name.
        host: String,
        /// What the resolver said.
        source: std::io::Error,
    },
}

/// A decision with its grounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was asked, such as `read /etc/passwd`.
    pub question: String,
    /// What the kernel would decide.
    pub decision: Decision,
    /// The rule that decided.
    pub by: Option<Match>,
    /// What was found out on the way.
    pub notes: Vec<String>,
    /// The other rules that match, in the order of the file.
    pub also: Vec<Match>,
}

/// A rule that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The rule.
    pub rule: RuleRef,
    /// What it says.
    pub effect: Effect,
    /// Its first entry that matches, as written.
    pub text: String,
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effect = word(self.effect);
        write!(f, "{}: {effect} `{}`", self.rule, self.text)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", word(self.decision.effect), self.question)?;
        match &self.by {
            Some(by) => writeln!(f, "  by {by}")?,
            None => writeln!(f, "  {}", grounds(self.decision.reason))?,
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        for other in &self.also {
            writeln!(f, "  also matches: {other}")?;
        }
        Ok(())
    }
}

fn word(effect: Effect) -> &'static str {
    match effect {
        Effect::Deny => "deny",
        Effect::Allow => "allow",
    }
}

fn grounds(reason: Reason) -> &'static str {
    match reason {
        Reason::Rule => "by a rule",
        Reason::Default => "no rule matches: the section's `default` holds",
        Reason::Guarded => {
            "guarded (a device, the kernel's memory or another process): only a rule that names it without wildcards allows it"
        }
        Reason::TooDeep => "the path has more components than the kernel side walks",
        Reason::TooLong => "the path is longer than the kernel side walks",
        Reason::UnknownFilesystem => "its file system is not known to the policy",
        Reason::Pipe => "a pipe: both ends were opened by somebody who could",
        Reason::Detached => "it hangs in no tree of files",
        Reason::Protocol => "neither TCP nor UDP",
        Reason::Interface => "an interface that is closed to agents",
        Reason::NoPolicy => "there is no policy in the kernel",
        Reason::Failed => "the tables are broken",
    }
}

/// The host that a question is about.
pub trait Files: Links {
    /// Whether the node at `path` is a device that no wildcard opens.
    fn is_guarded_device(&self, path: &StdPath) -> bool;
}

impl Files for HostLinks {
    fn is_guarded_device(&self, path: &StdPath) -> bool {
        rustix::fs::lstat(path).is_ok_and(|stat| {
            let rdev = major(stat.st_rdev) << 20 | minor(stat.st_rdev);
            device::is_guarded((stat.st_mode & 0xffff) as u16, rdev)
        })
    }
}

impl Files for NoLinks {
    fn is_guarded_device(&self, _path: &StdPath) -> bool {
        false
    }
}

/// What becomes of opening `path` for `access`.
///
/// # Errors
/// The path is relative, or the policy can not be compiled.
pub fn explain_open(
    policy: &Policy,
    path: &StdPath,
    access: AccessSet,
    files: &impl Files,
) -> Result<Explanation, ExplainError> {
    let (request, verb) = match access {
        AccessSet::Read => (Request::Read, "read"),
        AccessSet::Write => (Request::Write, "write"),
        AccessSet::ReadWrite => (Request::ReadWrite, "read and write"),
    };
    explain_file(policy, path, request, verb, files)
}

/// What becomes of running the program at `path`.
///
/// # Errors
/// As for [`explain_open`].
pub fn explain_exec(
    policy: &Policy,
    path: &StdPath,
    files: &impl Files,
) -> Result<Explanation, ExplainError> {
    explain_file(policy, path, Request::Exec, "run", files)
}

fn explain_file(
    policy: &Policy,
    path: &StdPath,
    request: Request,
    verb: &str,
    files: &impl Files,
) -> Result<Explanation, ExplainError> {
    if !path.is_absolute() {
        return Err(ExplainError::Relative(path.to_owned()));
    }
    let mut notes = audit_note(policy);
    let place = Place::find(path, files, &mut notes);
    let policy = only_paths(policy);
    let filesystems = Filesystems::lexical();
    let environment =
        Environment { filesystems: &filesystems, links: files, resolver: &HostResolver };
    let compiled = compile_here(&policy, &environment)?;

    let tables = MemoryTables::new(&compiled);
    let decision = match tables.walk(0, &place.path) {
        Ok(state) => decide_file(&tables, &compiled.agent(0, 0), state, request, place.is_guarded),
        Err(reason) => Decision::deny(reason),
    };
    let forms = forms(&policy, &compiled.rules, &environment, &mut Vec::new());
    let matching = forms.iter().filter(|form| speaks_of(form, request) && fits(form, &place.path));
    let matches = matching.map(|form| (form.accept.rule, form.pattern.text.clone()));
    let question = format!("{verb} {}", path.display());
    Ok(explanation(&compiled, question, decision, notes, matches))
}

/// Where a path leads on this host.
struct Place {
    path: Path,
    is_guarded: bool,
}

impl Place {
    fn find(path: &StdPath, files: &impl Files, notes: &mut Vec<String>) -> Self {
        let mut rest = components(path.as_os_str().as_bytes());
        let mut followed = loop {
            let path = match follow(&rest, files) {
                Ok(followed) => followed.path,
                Err(error) => {
                    notes.push(format!("symbolic links were not followed: {error}"));
                    break rest;
                }
            };
            // A process's `root` leads to the file itself, whoever's it is.
            match path.as_slice() {
                [proc, _, root, below @ ..] if is(proc, "proc") && is(root, "root") => {
                    rest = below.to_vec();
                }
                _ => break path,
            }
        };
        let end = to_std(&followed);
        if end != path {
            notes.push(format!("{} is {} here", path.display(), end.display()));
        }

        let mut is_guarded = files.is_guarded_device(&end);
        match followed.as_slice() {
            [proc, thread, ..] if is(proc, "proc") && is(thread, "thread-self") => {
                let process = ["self", "task", "0"].map(|name| name.as_bytes().into());
                followed.splice(1..2, process);
            }
            [proc, process, ..] if is(proc, "proc") && process.iter().all(u8::is_ascii_digit) => {
                is_guarded = true;
                notes.push(
                    "judged as another process's entry; those of the agent's own processes are /proc/self"
                        .to_owned(),
                );
            }
            _ => {}
        }
        if let [proc, process, link @ ..] = followed.as_slice()
            && is(proc, "proc")
            && is(process, "self")
            && let [link, ..] = link
            && ["cwd", "exe", "fd", "map_files"].iter().any(|name| is(link, name))
        {
            notes.push(
                "where this leads differs from process to process; the file it leads to is what is judged"
                    .to_owned(),
            );
        }
        Self { path: followed, is_guarded }
    }
}

fn is(component: &[u8], name: &str) -> bool {
    component == name.as_bytes()
}

fn speaks_of(form: &Form<'_>, request: Request) -> bool {
    let [read, write, exec] = form.accept.access;
    match request {
        Request::Read => read,
        Request::Write => write,
        Request::ReadWrite => read || write,
        Request::Exec => exec,
        Request::Load => read || exec,
    }
}

/// Whether a pattern matches, one component of the path after the other.
fn fits(form: &Form<'_>, path: &[Box<[u8]>]) -> bool {
    let segments = form.segments.as_slice();
    // Places in the pattern that are reached; a `**` may stand for nothing.
    let enter = |reached: &mut Vec<usize>| {
        reached.sort_unstable();
        reached.dedup();
        let mut at = 0;
        while let Some(place) = reached.get(at).copied() {
            if segments.get(place) == Some(&Segment::AnyDepth) && !reached.contains(&(place + 1)) {
                reached.push(place + 1);
            }
            at += 1;
        }
    };
    let mut reached = vec![0];
    enter(&mut reached);
    for name in path {
        let step = |place: &usize| match segments.get(*place) {
            Some(Segment::Literal(literal)) => (literal == name).then_some(place + 1),
            Some(Segment::Glob(glob)) => glob.matches(name).then_some(place + 1),
            Some(Segment::AnyOne) => Some(place + 1),
            Some(Segment::AnyDepth) => Some(*place),
            None => None,
        };
        reached = reached.iter().filter_map(step).collect();
        enter(&mut reached);
    }
    reached.contains(&segments.len())
}

/// What becomes of connecting, or sending, to `endpoint`: `HOST:PORT`, with `/udp` for UDP. A host
/// name has one answer for each of its addresses.
///
/// # Errors
/// It is not one endpoint, a name has no address, or the policy can not be compiled.
pub fn explain_connect(
    policy: &Policy,
    endpoint: &str,
    resolver: &dyn Resolver,
) -> Result<Vec<Explanation>, ExplainError> {
    let (target, transport) = one_endpoint(endpoint)?;
    let mut notes = audit_note(policy);
    let addresses = match &target.host {
        Host::Net(net) => vec![net.addr()],
        Host::Name(name) => {
            let host = name.as_str();
            let found = resolver
                .resolve(host)
                .map_err(|source| ExplainError::Resolve { host: host.to_owned(), source })?;
            let mut addresses: Vec<IpAddr> = found.iter().map(IpAddr::to_canonical).collect();
            addresses.sort_unstable();
            addresses.dedup();
            notes.push(format!(
                "host names are judged by the addresses they have now: {}",
                list(&addresses)
            ));
            addresses
        }
    };
    let policy = only_egress(policy);
    let filesystems = Filesystems::lexical();
    let environment = Environment { filesystems: &filesystems, links: &NoLinks, resolver };
    let compiled = compile_here(&policy, &environment)?;
    let tables = MemoryTables::new(&compiled);
    let port = target.ports.first();
    let explain = |address: IpAddr| {
        let endpoint = match address {
            IpAddr::V4(address) => Endpoint::v4(address.octets(), port, transport),
            IpAddr::V6(address) => Endpoint::v6(address.octets(), port, transport),
        };
        let decision = decide_connect(&tables, &compiled.agent(0, 0), &endpoint);
        let rules = policy.egress.rules.iter().enumerate();
        let matches = rules.flat_map(|(index, rule)| {
            let speaks = |entry: &&Target| covers(entry, address, port, transport, &compiled.notes);
            let entries = rule.matcher.iter().filter(speaks);
            entries.map(move |entry| (egress_id(index), entry.text.clone()))
        });
        let protocol = match transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        let question = match address {
            IpAddr::V4(_) => format!("connect {address}:{port}/{protocol}"),
            IpAddr::V6(_) => format!("connect [{address}]:{port}/{protocol}"),
        };
        explanation(&compiled, question, decision, notes.clone(), matches)
    };
    Ok(addresses.into_iter().map(explain).collect())
}

/// One host, one port and one protocol, TCP where none is named.
fn one_endpoint(text: &str) -> Result<(Target, Transport), ExplainError> {
    let targets = Target::parse(text)
        .map_err(|source| ExplainError::Endpoint { text: text.to_owned(), source })?;
    let many = || ExplainError::Many(text.to_owned());
    let [target] = <[Target; 1]>::try_from(targets).map_err(|_| many())?;
    let one_host = match &target.host {
        Host::Net(net) => net.prefix_len() == net.max_prefix_len(),
        Host::Name(_) => true,
    };
    if !one_host || target.ports.first() != target.ports.last() {
        return Err(many());
    }
    let transport = if target.protocols.tcp() { Transport::Tcp } else { Transport::Udp };
    Ok((target, transport))
}

fn covers(
    entry: &Target,
    address: IpAddr,
    port: u16,
    transport: Transport,
    notes: &[Note],
) -> bool {
    let protocol = match transport {
        Transport::Tcp => entry.protocols.tcp(),
        Transport::Udp => entry.protocols.udp(),
    };
    let host = match &entry.host {
        Host::Net(net) => net.contains(&address),
        Host::Name(name) => notes.iter().any(|note| match note {
            Note::Resolved { host, addresses } => {
                host == name.as_str() && addresses.contains(&address)
            }
            Note::Followed { .. } | Note::NotFollowed { .. } | Note::Unreadable { .. } => false,
        }),
    };
    protocol && host && (entry.ports.first()..=entry.ports.last()).contains(&port)
}

fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn audit_note(policy: &Policy) -> Vec<String> {
    match policy.mode {
        Mode::Enforce => Vec::new(),
        Mode::Audit => {
            vec!["`mode: audit`: a denial is recorded, and the action goes on".to_owned()]
        }
    }
}

/// The policy with the same rule numbers and nothing to resolve.
fn only_paths(policy: &Policy) -> Policy {
    let mut policy = policy.clone();
    policy.egress.rules.iter_mut().for_each(|rule| rule.matcher.clear());
    policy
}

/// The policy with the same rule numbers and no paths.
fn only_egress(policy: &Policy) -> Policy {
    let mut policy = policy.clone();
    policy.exec.rules.iter_mut().for_each(|rule| rule.matcher.clear());
    policy.files.rules.iter_mut().for_each(|Rule { matcher, .. }| matcher.paths.clear());
    policy
}

/// Compiles under a key that need not be secret: nobody attacks these tables.
fn compile_here(policy: &Policy, environment: &Environment<'_>) -> Result<Compiled, ExplainError> {
    let mut key = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f_u64];
    loop {
        match compile(policy, environment, key) {
            Err(CompileError::HashCollision) => key = key.map(|half| half.rotate_left(7) ^ 0xa5),
            compiled => return Ok(compiled?),
        }
    }
}

/// Puts the deciding rule apart from the others. `matches` are ids and entries; the first entry of
/// each rule is shown.
fn explanation(
    compiled: &Compiled,
    question: String,
    decision: Decision,
    notes: Vec<String>,
    matches: impl Iterator<Item = (u16, String)>,
) -> Explanation {
    let mut found: Vec<(u16, String)> = matches.collect();
    found.sort_by_key(|(rule, _)| *rule);
    found.dedup_by_key(|(rule, _)| *rule);
    let (mut by, mut also) = (None, Vec::new());
    for (id, text) in found {
        let Some(rule) = compiled.rules.get(usize::from(id)) else { continue };
        let found = Match { rule: rule.to_ref(), effect: rule.effect, text };
        if id == decision.rule {
            by = Some(found);
        } else {
            also.push(found);
        }
    }
    Explanation { question, decision, by, notes, also }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, io};

    use super::*;

    const POLICY: &str = "
apiVersion: agent-guard.dev/v1alpha1
kind: AgentPolicy
metadata: {name: test}
spec:
  egress:
    rules:
      - {name: api, effect: allow, to: ['api.example.com:443']}
      - {name: net, effect: allow, to: ['192.0.2.0/24']}
      - {name: no, effect: deny, to: ['192.0.2.9:443']}
  exec:
    rules:
      - {effect: allow, paths: ['/bin/**']}
  files:
    rules:
      - {name: work, effect: allow, paths: ['/w/**', '/dev/**', '/proc/**']}
      - {name: secrets, effect: deny, paths: ['**/.env']}
";

    fn policy() -> Policy {
        Policy::parse("test.yaml", POLICY).unwrap()
    }

    struct Made;

    impl Links for Made {
        fn read_link(&self, path: &StdPath) -> io::Result<Option<PathBuf>> {
            let links =
                HashMap::from([("/bin", "usr/bin"), ("/usr/bin/sh", "dash"), ("/w/e", ".env")]);
            Ok(links.get(path.to_str().unwrap()).map(PathBuf::from))
        }
    }

    impl Files for Made {
        fn is_guarded_device(&self, path: &StdPath) -> bool {
            path == StdPath::new("/dev/sda")
        }
    }

    fn open(path: &str) -> Explanation {
        explain_open(&policy(), StdPath::new(path), AccessSet::ReadWrite, &Made).unwrap()
    }

    #[test]
    fn a_denial_names_the_rule_and_those_that_lost() {
        assert_eq!(
            open("/w/x/.env").to_string(),
            "deny: read and write /w/x/.env\n  by files rule `secrets` (line 17): deny `**/.env`\n  also matches: files rule `work` (line 16): allow `/w/**`\n"
        );
    }

    #[test]
    fn a_link_is_judged_by_what_it_points_at_and_said() {
        let by_link = open("/w/e");
        assert_eq!(by_link.decision.effect, Effect::Deny);
        assert_eq!(by_link.notes, ["/w/e is /w/.env here"]);
        assert_eq!(open("/proc/self/root/w/.env").decision, by_link.decision);
        let shell = explain_exec(&policy(), StdPath::new("/bin/sh"), &Made).unwrap();
        assert_eq!(shell.decision.effect, Effect::Allow);
        assert_eq!(shell.notes, ["/bin/sh is /usr/bin/dash here"]);
        assert_eq!(shell.by.unwrap().text, "/bin/**");
    }

    #[test]
    fn guarded_things_are_said_to_be() {
        for path in ["/dev/sda", "/proc/12/environ", "/proc/kcore"] {
            let found = open(path);
            assert_eq!(found.decision, Decision::deny(Reason::Guarded), "{path}");
            assert!(found.to_string().contains("without wildcards"), "{found}");
            assert_eq!(found.also.len(), 1);
        }
        assert_eq!(open("/proc/self/environ").decision.effect, Effect::Allow);
        assert_eq!(open("/proc/thread-self/environ").decision.effect, Effect::Allow);
    }

    #[test]
    fn nothing_that_matches_is_the_default() {
        let found = open("/etc/passwd");
        assert_eq!((found.decision, found.by), (Decision::deny(Reason::Default), None));
    }

    #[test]
    fn a_relative_path_is_refused() {
        let asked = explain_open(&policy(), StdPath::new("x"), AccessSet::Read, &NoLinks);
        assert!(matches!(asked, Err(ExplainError::Relative(_))));
    }

    struct Names;

    impl Resolver for Names {
        fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
            match host {
                "api.example.com" => {
                    Ok(["192.0.2.9", "198.51.100.1"].map(|a| a.parse().unwrap()).into())
                }
                _ => Err(io::Error::other("no such name")),
            }
        }
    }

    #[test]
    fn a_host_name_has_an_answer_for_each_address() {
        let answers = explain_connect(&policy(), "api.example.com:443", &Names).unwrap();
        let told: Vec<_> = answers
            .iter()
            .map(|a| (a.decision.effect, a.by.as_ref().unwrap().rule.label.as_str(), a.also.len()))
            .collect();
        assert_eq!(told, [(Effect::Deny, "no", 2), (Effect::Allow, "api", 0)]);
    }

    #[test]
    fn an_endpoint_is_one_host_and_one_port() {
        for text in ["192.0.2.0/24:1", "192.0.2.1", "192.0.2.1:1-2", "*:443"] {
            let asked = explain_connect(&policy(), text, &Names);
            assert!(matches!(asked, Err(ExplainError::Many(_))), "{text}");
        }
        assert!(matches!(
            explain_connect(&policy(), "a b", &Names),
            Err(ExplainError::Endpoint { .. })
        ));
        assert!(matches!(
            explain_connect(&policy(), "gone.example:1", &Names),
            Err(ExplainError::Resolve { .. })
        ));
        let udp = explain_connect(&policy(), "192.0.2.1:53/udp", &Names).unwrap();
        assert_eq!(udp[0].question, "connect 192.0.2.1:53/udp");
    }
}
