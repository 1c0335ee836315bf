//! Records as one line each for people: what happened, why, and how to allow it.

use std::{
    fmt::{self, Display, Write},
    net::IpAddr,
};

use agent_guard_common::{
    decide::{self, Reason, Transport},
    event::{Action, Operation, Outcome},
    hook::{Hook, HookTier},
    table::Family,
};

use super::{
    Body, Context, Decision, Endpoint, File, Lookup, LookupReason, Notice, Object, PathScope,
    Process, Record, Rule, record::DeviceNumber, words,
};

/// A record as one line without its end: no control characters, whatever the agent chose as names.
#[derive(Clone, Copy, Debug)]
pub struct TextLine<'a> {
    /// What to show.
    pub record: &'a Record,
    /// Whether to colour the outcome, for a terminal.
    pub colour: bool,
}

impl Display for TextLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("agent-guard: ")?;
        let context = &*self.record.context;
        match &self.record.body {
            Body::Decided { process, action, object, decision, hook } => {
                self.outcome(f, decision.outcome)?;
                target(f, *action, *hook, object)?;
                let Process { comm, pid, .. } = process;
                write!(f, " by {comm}[{pid}]: ")?;
                why(f, context, decision)?;
                if decision.outcome != Outcome::Allowed {
                    remedy(f, context, process.pid, *action, object, decision)?;
                }
                Ok(())
            }
            Body::Lookup(lookup) => {
                self.outcome(f, lookup.outcome)?;
                asked(f, context, lookup)
            }
            Body::Notice(notice) => {
                write!(f, "{notice}")?;
                if !context.degraded.is_empty() {
                    write!(f, "; not enforced: {}", context.degraded.join(", "))?;
                }
                Ok(())
            }
        }
    }
}

impl TextLine<'_> {
    fn outcome(&self, f: &mut fmt::Formatter<'_>, outcome: Outcome) -> fmt::Result {
        let name = words::outcome(outcome);
        if !self.colour {
            return write!(f, "{name:<8}");
        }
        let colour = match outcome {
            Outcome::Allowed => "32",
            Outcome::Denied | Outcome::Killed => "31",
            Outcome::Observed => "33",
        };
        write!(f, "\x1b[{colour}m{name:<8}\x1b[0m")
    }
}

fn target(f: &mut fmt::Formatter<'_>, action: Action, hook: Hook, object: &Object) -> fmt::Result {
    if let Object::Operation(operation, process) = object {
        return deed(f, *operation, *process);
    }
    let verb = match action {
        _ if hook == Hook::FileReceive => "receive",
        Action::Read | Action::Write | Action::ReadWrite => "open",
        Action::Exec => "run",
        Action::Load => "load",
        Action::Connect => "connect",
        Action::Send => "send to",
        Action::Create => "create",
        Action::Delete => "remove",
        Action::Rename => "rename",
        Action::Link => "link",
        Action::Truncate => "truncate",
        Action::SetMetadata => "change the attributes of",
        Action::Map => "map as code",
        Action::Receive => "receive",
        Action::CreateSocket => "make a socket of",
        Action::Listen => "listen on",
        Action::Accept => "accept on",
        Action::ConnectLocal => "connect",
        Action::IoUring | Action::ShareDescriptors | Action::SourceRoute | Action::Operate => "use",
    };
    write!(f, " {verb} ")?;
    match object {
        Object::File(file) => {
            place(f, file)?;
            if matches!(action, Action::Read | Action::Write | Action::ReadWrite) {
                write!(f, " ({})", words::access(action).join(", "))?;
            }
            Ok(())
        }
        Object::Endpoint(endpoint) => write!(f, "{}", Target(endpoint)),
        Object::LocalSocket(socket) if socket.path.is_empty() => f.write_str("an unnamed socket"),
        Object::LocalSocket(socket) => place(f, socket),
        Object::Interface(name) => f.write_str(name),
        Object::Operation(..) => Ok(()),
    }
}

fn deed(f: &mut fmt::Formatter<'_>, operation: Operation, process: u32) -> fmt::Result {
    write!(f, " {}", words::deed(operation))?;
    match (operation, process) {
        (Operation::Trace | Operation::Signal | Operation::Tune, 0) => {
            f.write_str(" processes outside")
        }
        (_, 0) => Ok(()),
        (_, process) => write!(f, " process {process}, outside"),
    }
}

fn place(f: &mut fmt::Formatter<'_>, file: &File) -> fmt::Result {
    let File { path, scope, dev, inode } = file;
    if path.is_empty() {
        return write!(f, "inode {inode} on device {}", DeviceNumber(*dev));
    }
    match scope {
        PathScope::Absolute => write!(f, "{path}"),
        PathScope::Filesystem => write!(f, "{path} on device {}", DeviceNumber(*dev)),
        PathScope::Tail => write!(f, "…{path}"),
    }
}

/// A name query, why it was decided so, and how to allow it.
fn asked(f: &mut fmt::Formatter<'_>, context: &Context, lookup: &Lookup) -> fmt::Result {
    let Lookup { name, kind, reason, .. } = lookup;
    match name.as_str() {
        "" => f.write_str(" resolve a name")?,
        name => write!(f, " resolve {name} ({kind})")?,
    }
    f.write_str(": ")?;
    match (reason, &lookup.rule) {
        (LookupReason::Rule, Some(rule)) => {
            named_rule(f, context, rule, lookup.outcome == Outcome::Allowed)?
        }
        _ => f.write_str(words::lookup_because(*reason))?,
    }
    if lookup.outcome == Outcome::Allowed {
        return Ok(());
    }
    match reason {
        LookupReason::Rule => f.write_str("; deny beats allow, so to allow it, change that rule"),
        // A rule opens addresses only.
        LookupReason::Default if !matches!(kind.as_str(), "A" | "AAAA") => Ok(()),
        LookupReason::Default => {
            f.write_str("; to allow it, add to spec.egress.rules")?;
            if let Some(policy) = &context.policy {
                write!(f, " in {}", policy.file)?;
            }
            write!(f, ": - {{effect: allow, to: [{}]}}", quoted(&format!("{name}:443/tcp")))
        }
        LookupReason::Internal => {
            f.write_str("; to allow it, add a rule for the addresses")?;
            let addresses: Vec<String> = lookup.withheld.iter().map(ToString::to_string).collect();
            write!(f, " ({}), or run with --dns-internal", addresses.join(", "))
        }
        LookupReason::LongLabel | LookupReason::Rate => {
            f.write_str("; name the hosts in rules without `*`")
        }
        LookupReason::QueryType
        | LookupReason::Lease
        | LookupReason::Unanswered
        | LookupReason::Malformed
        | LookupReason::Busy => Ok(()),
    }
}

fn why(f: &mut fmt::Formatter<'_>, context: &Context, decision: &Decision) -> fmt::Result {
    let Some(rule) = &decision.rule else {
        return f.write_str(words::because(decision.reason));
    };
    match decision.reason {
        Reason::Alias => write!(f, "{}, by ", words::because(Reason::Alias))?,
        Reason::Changed => write!(f, "{}, pinned by ", words::because(Reason::Changed))?,
        _ => {}
    }
    let allows = decision.outcome == Outcome::Allowed || decision.reason == Reason::Changed;
    named_rule(f, context, rule, allows)?;
    match &decision.host {
        Some(host) => write!(f, ", as {host}"),
        None => Ok(()),
    }
}

fn named_rule(
    f: &mut fmt::Formatter<'_>,
    context: &Context,
    rule: &Rule,
    allows: bool,
) -> fmt::Result {
    let effect = if allows { "allow" } else { "deny" };
    write!(f, "{effect} rule {}", rule.label)?;
    match (&context.policy, rule.line) {
        (Some(policy), Some(line)) => write!(f, " ({}:{line})", policy.file),
        (None, Some(line)) => write!(f, " (line {line})"),
        (_, None) => Ok(()),
    }
}

/// How to allow what was denied.
fn remedy(
    f: &mut fmt::Formatter<'_>,
    context: &Context,
    pid: u32,
    action: Action,
    object: &Object,
    decision: &Decision,
) -> fmt::Result {
    match decision.reason {
        Reason::Rule => {
            return f.write_str("; deny beats allow, so to allow it, change that rule");
        }
        Reason::Default | Reason::Guarded => {}
        Reason::UnknownFilesystem => return f.write_str("; start the agent again to cover it"),
        Reason::NoPolicy => return f.write_str("; load the policy again"),
        Reason::Failed => {
            return f.write_str("; `agent-guard doctor` tells what this kernel lacks");
        }
        Reason::TooDeep | Reason::TooLong => return f.write_str("; no rule allows it"),
        Reason::Changed => {
            return f.write_str(
                "; if the change was meant, start the agent again to pin the file as it is",
            );
        }
        Reason::Differs => return f.write_str("; copy it instead: the copy is judged for itself"),
        Reason::Pipe
        | Reason::Detached
        | Reason::Protocol
        | Reason::Interface
        | Reason::Own
        | Reason::Alias
        | Reason::Diverted => return Ok(()),
    }
    let Some((section, rule)) = suggestion(pid, action, object) else {
        return f.write_str(match object {
            Object::Endpoint(_) => {
                "; bind it to an address and a port, and name those in spec.listen"
            }
            _ => "; its path is not known here, so no rule can name it",
        });
    };
    write!(f, "; to allow it, add to spec.{section}.rules")?;
    if let Some(policy) = &context.policy {
        write!(f, " in {}", policy.file)?;
    }
    write!(f, ": - {rule}")
}

/// The section and the rule that allow exactly this to the process `pid`.
fn suggestion(pid: u32, action: Action, object: &Object) -> Option<(&'static str, String)> {
    match object {
        Object::File(file) => {
            let known = file.scope == PathScope::Absolute && !file.path.is_empty();
            let path = known.then(|| quoted(&pattern(pid, file.path.as_str())))?;
            Some(match action {
                Action::Exec | Action::Load | Action::Map => {
                    ("exec", format!("{{effect: allow, paths: [{path}]}}"))
                }
                _ => {
                    let access = words::access(action).join(", ");
                    ("files", format!("{{effect: allow, access: [{access}], paths: [{path}]}}"))
                }
            })
        }
        Object::LocalSocket(socket) => {
            let path = socket.path.as_str();
            // The abstract name without a byte has no pattern either.
            let known = socket.scope == PathScope::Absolute && !matches!(path, "" | "@");
            let path = known.then(|| quoted(&pattern(pid, path)))?;
            Some(("unix", format!("{{effect: allow, paths: [{path}]}}")))
        }
        Object::Endpoint(endpoint) if matches!(action, Action::Listen | Action::Accept) => {
            // Port 0 is none yet: whichever the kernel gives.
            let on = Endpoint { protocol: ruled(endpoint.protocol)?, ..*endpoint };
            (on.port != 0)
                .then(|| ("listen", format!("{{effect: allow, on: [\"{}\"]}}", Target(&on))))
        }
        Object::Endpoint(endpoint) => {
            let to = judged(endpoint)?;
            Some(("egress", format!("{{effect: allow, to: [\"{}\"]}}", Target(&to))))
        }
        Object::Operation(operation, _) => Some((
            "system",
            format!("{{effect: allow, operations: [{}]}}", words::operation(*operation)),
        )),
        Object::Interface(_) => None,
    }
}

/// The endpoint that a rule has to name: what the kernel connects to.
fn judged(endpoint: &Endpoint) -> Option<Endpoint> {
    let protocol = ruled(endpoint.protocol)?;
    let (port, any) = (endpoint.port, Transport::Tcp);
    let judged = match endpoint.addr? {
        IpAddr::V4(addr) => decide::Endpoint::v4(addr.octets(), port, any),
        IpAddr::V6(addr) => decide::Endpoint::v6(addr.octets(), port, any),
    };
    let [a, b, c, d, ..] = judged.addr;
    let addr = match judged.family {
        Family::V4 => IpAddr::from([a, b, c, d]),
        Family::V6 => IpAddr::from(judged.addr),
    };
    Some(Endpoint { addr: Some(addr), protocol, ..*endpoint })
}

/// The protocol that rules have for this one: MPTCP is TCP to them.
fn ruled(protocol: u16) -> Option<u16> {
    let ruled = match i32::from(protocol) {
        libc::IPPROTO_MPTCP => libc::IPPROTO_TCP,
        other => other,
    };
    words::protocol(protocol)?;
    u16::try_from(ruled).ok()
}

/// Address, port and protocol, as a rule's `to` reads them.
struct Target<'a>(&'a Endpoint);

impl Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint { addr, port, protocol, family } = self.0;
        match addr {
            Some(IpAddr::V4(addr)) => write!(f, "{addr}:{port}")?,
            Some(IpAddr::V6(addr)) => write!(f, "[{addr}]:{port}")?,
            None => match words::family(*family) {
                Some(name) => write!(f, "address family {name}")?,
                None => write!(f, "address family {family}")?,
            },
        }
        match words::protocol(*protocol) {
            Some(name) => write!(f, "/{name}"),
            None => write!(f, ", protocol {protocol}"),
        }
    }
}

/// The pattern that matches just this path. Patterns read the escapes of the text; wildcards get
/// one of their own. A process finds itself under another number every time, and as `self` always; so do its
/// threads, as `thread-self`.
fn pattern(pid: u32, path: &str) -> String {
    let mut pattern = String::with_capacity(path.len());
    let own = path.strip_prefix(&format!("/proc/{pid}")).filter(|rest| rest.starts_with('/'));
    let of_thread = own
        .and_then(|rest| rest.strip_prefix("/task/"))
        .map(|rest| rest.trim_start_matches(|character: char| character.is_ascii_digit()))
        .filter(|rest| rest.starts_with('/'));
    if of_thread.is_some() {
        pattern.push_str("/proc/thread-self");
    } else if own.is_some() {
        pattern.push_str("/proc/self");
    }
    let path = of_thread.or(own).unwrap_or(path);
    for character in path.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '{' | '}') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// A YAML scalar. Within double quotes YAML has backslash escapes of its own; single quotes have none.
fn quoted(text: &str) -> String {
    if text.contains(['\\', '"']) {
        format!("'{}'", text.replace('\'', "''"))
    } else {
        format!("\"{text}\"")
    }
}

impl Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("the agent is under guard"),
            Self::Uncovered { ms } => write!(
                f,
                "the agent was running already: for {ms} ms nothing it did was judged, and what it \
                 opened and connected then stays so"
            ),
            Self::Adopted => f.write_str(
                "the guard that started the agent is gone; the agent stayed confined, and another \
                 guard looks after it; losses are counted from its start",
            ),
            Self::Stopped { totals } => {
                let sum = |of: fn(&super::HookTotals) -> u64| {
                    totals.iter().map(of).fold(0, u64::saturating_add)
                };
                write!(
                    f,
                    "the agent has ended: {} actions decided, {} denied, {} by failures of the \
                     guard, {} events lost",
                    sum(|hook| hook.decided),
                    sum(|hook| hook.denied),
                    sum(|hook| hook.failed),
                    sum(|hook| hook.lost),
                )?;
                match sum(|hook| hook.skipped) {
                    0 => Ok(()),
                    skipped => write!(f, ", {skipped} decisions skipped by the kernel"),
                }
            }
            Self::PolicyLoaded { replaces: None } => f.write_str("the policy is in the kernel"),
            Self::PolicyLoaded { replaces: Some(old) } => {
                write!(f, "the policy is in the kernel, in place of {old}")
            }
            Self::Degraded => f.write_str("part of the policy is not enforced on this tier"),
            Self::EventsLost(losses) => {
                write!(f, "{} events lost: ", losses.total())?;
                let mut parts = String::new();
                for (hook, lost) in &losses.hooks {
                    write!(parts, "{lost} at {}, ", hook.spec().name)?;
                }
                for (lost, how) in
                    [(losses.malformed, "malformed"), (losses.unwritten, "not written")]
                {
                    if lost > 0 {
                        write!(parts, "{lost} {how}, ")?;
                    }
                }
                f.write_str(parts.trim_end_matches(", "))
            }
            Self::DecisionsSkipped(hooks) => {
                let is_return = |(hook, _): &&(Hook, u64)| hook.spec().tier == HookTier::Return;
                let (returns, judging): (Vec<_>, Vec<_>) = hooks.iter().partition(is_return);
                f.write_str("the kernel skipped ")?;
                for (number, (hook, skipped)) in judging.iter().enumerate() {
                    let separator = if number == 0 { "" } else { ", " };
                    write!(f, "{separator}{skipped} decisions at hook {}", hook.spec().name)?;
                }
                if !judging.is_empty() {
                    f.write_str("; what was done there, by whomever, went on unjudged")?;
                }
                for (number, (hook, skipped)) in returns.iter().enumerate() {
                    let separator = if number == 0 && judging.is_empty() { "" } else { "; " };
                    write!(f, "{separator}{skipped} returns from {}", hook.spec().name)?;
                    f.write_str(", of which each that failed for want of a right goes untold")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use agent_guard_common::hook::Hook;
    use proptest::prelude::*;

    use super::*;
    use crate::event::{
        HookTotals, Losses,
        fixture::{decided, denied, endpoint, file, record, scoped, socket},
    };

    fn line(record: &Record) -> String {
        TextLine { record, colour: false }.to_string()
    }

    #[test]
    fn a_default_denial_says_which_rule_would_allow_it() {
        for (action, object, expected) in [
            (
                Action::Read,
                file(b"/root/notes"),
                r#"agent-guard: denied   open /root/notes (read) by cat[1234]: no rule matches; to allow it, add to spec.files.rules in policy.yaml: - {effect: allow, access: [read], paths: ["/root/notes"]}"#,
            ),
            (
                Action::ReadWrite,
                file(b"/root/notes"),
                r#"agent-guard: denied   open /root/notes (read, write) by cat[1234]: no rule matches; to allow it, add to spec.files.rules in policy.yaml: - {effect: allow, access: [read, write], paths: ["/root/notes"]}"#,
            ),
            (
                Action::Exec,
                file(b"/usr/bin/nc"),
                r#"agent-guard: denied   run /usr/bin/nc by cat[1234]: no rule matches; to allow it, add to spec.exec.rules in policy.yaml: - {effect: allow, paths: ["/usr/bin/nc"]}"#,
            ),
            (
                Action::Map,
                file(b"/w/lib.so"),
                r#"agent-guard: denied   map as code /w/lib.so by cat[1234]: no rule matches; to allow it, add to spec.exec.rules in policy.yaml: - {effect: allow, paths: ["/w/lib.so"]}"#,
            ),
            (
                Action::Connect,
                endpoint("127.0.0.1", 9999, libc::IPPROTO_TCP),
                r#"agent-guard: denied   connect 127.0.0.1:9999/tcp by cat[1234]: no rule matches; to allow it, add to spec.egress.rules in policy.yaml: - {effect: allow, to: ["127.0.0.1:9999/tcp"]}"#,
            ),
            (
                Action::Send,
                endpoint("2001:db8::1", 53, libc::IPPROTO_UDP),
                r#"agent-guard: denied   send to [2001:db8::1]:53/udp by cat[1234]: no rule matches; to allow it, add to spec.egress.rules in policy.yaml: - {effect: allow, to: ["[2001:db8::1]:53/udp"]}"#,
            ),
            (
                Action::Connect,
                endpoint("127.0.0.1", 80, libc::IPPROTO_MPTCP),
                r#"agent-guard: denied   connect 127.0.0.1:80/mptcp by cat[1234]: no rule matches; to allow it, add to spec.egress.rules in policy.yaml: - {effect: allow, to: ["127.0.0.1:80/tcp"]}"#,
            ),
            (
                Action::Listen,
                endpoint("0.0.0.0", 3000, libc::IPPROTO_TCP),
                r#"agent-guard: denied   listen on 0.0.0.0:3000/tcp by cat[1234]: no rule matches; to allow it, add to spec.listen.rules in policy.yaml: - {effect: allow, on: ["0.0.0.0:3000/tcp"]}"#,
            ),
            (
                Action::Listen,
                endpoint("0.0.0.0", 0, libc::IPPROTO_TCP),
                "agent-guard: denied   listen on 0.0.0.0:0/tcp by cat[1234]: no rule matches; bind it to an address and a port, and name those in spec.listen",
            ),
            (
                Action::ConnectLocal,
                socket(b"/run/x.sock"),
                r#"agent-guard: denied   connect /run/x.sock by cat[1234]: no rule matches; to allow it, add to spec.unix.rules in policy.yaml: - {effect: allow, paths: ["/run/x.sock"]}"#,
            ),
            (
                Action::ConnectLocal,
                socket(b"@a/*\0"),
                r"agent-guard: denied   connect @a/*\x00 by cat[1234]: no rule matches; to allow it, add to spec.unix.rules in policy.yaml: - {effect: allow, paths: ['@a/\*\x00']}",
            ),
        ] {
            assert_eq!(line(&denied(action, object)), expected);
        }
    }

    #[test]
    fn a_rule_for_the_wildcard_address_names_what_the_kernel_connects_to() {
        for (addr, to) in [("0.0.0.0", "\"127.0.0.1:80/tcp\""), ("::", "\"[::1]:80/tcp\"")] {
            let line = line(&denied(Action::Connect, endpoint(addr, 80, libc::IPPROTO_TCP)));
            assert!(line.contains(to), "{line}");
        }
    }

    #[test]
    fn a_deny_rule_is_named_and_no_allow_rule_is_suggested() {
        for (outcome, word) in [
            (Outcome::Denied, "denied  "),
            (Outcome::Killed, "killed  "),
            (Outcome::Observed, "observed"),
        ] {
            let denial = decided(denied(Action::Read, file(b"/w/.env")), outcome, Reason::Rule);
            assert_eq!(
                line(&denial),
                format!(
                    "agent-guard: {word} open /w/.env (read) by cat[1234]: deny rule secrets \
                     (policy.yaml:31); deny beats allow, so to allow it, change that rule"
                )
            );
        }
    }

    #[test]
    fn a_changed_program_is_told_with_the_rule_that_pins_it() {
        let object = file(b"/opt/tool");
        let denial = decided(denied(Action::Exec, object), Outcome::Denied, Reason::Changed);
        let line = line(&denial);
        assert!(line.contains("changed since, pinned by allow rule secrets"), "{line}");
        assert!(line.contains("start the agent again to pin"), "{line}");
    }

    #[test]
    fn what_was_received_is_told_as_such_and_allowed_as_an_open() {
        let mut received = denied(Action::Read, file(b"/w/a"));
        if let Body::Decided { hook, .. } = &mut received.body {
            *hook = Hook::FileReceive;
        }
        let line = line(&received);
        assert!(line.contains("receive /w/a (read)"), "{line}");
        assert!(line.contains("spec.files.rules"), "{line}");
    }

    #[test]
    fn what_was_allowed_needs_no_remedy() {
        let allowed =
            decided(denied(Action::Read, file(b"/w/a")), Outcome::Allowed, Reason::Default);
        assert_eq!(
            line(&allowed),
            "agent-guard: allowed  open /w/a (read) by cat[1234]: no rule matches"
        );
    }

    #[test]
    fn where_no_rule_helps_none_is_suggested() {
        for reason in Reason::ALL.iter().copied() {
            let object = match reason {
                Reason::Default | Reason::Guarded => continue,
                Reason::TooDeep => scoped(b"/a", PathScope::Tail),
                _ => file(b"/a"),
            };
            let line = line(&decided(denied(Action::Read, object), Outcome::Denied, reason));
            assert!(!line.contains("effect: allow"), "{line}");
        }
        for object in [scoped(b"/a", PathScope::Filesystem), file(b"")] {
            let line = line(&denied(Action::Read, object));
            assert!(line.ends_with("no rule can name it"), "{line}");
        }
        let sctp = denied(Action::Connect, endpoint("10.0.0.1", 1, libc::IPPROTO_SCTP));
        assert!(!line(&sctp).contains("effect: allow"), "{}", line(&sctp));
    }

    #[test]
    fn a_suggested_path_is_escaped_for_the_policy_and_for_yaml() {
        for (path, scalar) in [
            (&b"/it's"[..], r#"["/it's"]"#),
            (b"/a*b?[c]{d}", r"['/a\*b\?\[c\]\{d\}']"),
            (b"/back\\slash", r"['/back\\slash']"),
            (b"/\"it's\"", r#"['/"it''s"']"#),
            (b"/new\nline\xff", r"['/new\x0aline\xff']"),
        ] {
            let line = line(&denied(Action::Exec, file(path)));
            assert!(line.ends_with(&format!("paths: {scalar}}}")), "{line}");
        }
    }

    #[test]
    fn an_entry_of_the_process_itself_is_suggested_by_the_name_that_lasts() {
        for (path, suggested) in [
            (&b"/proc/1234/maps"[..], "\"/proc/self/maps\""),
            (b"/proc/1234/task/1240/comm", "\"/proc/thread-self/comm\""),
            (b"/proc/1234/task/1240", "\"/proc/self/task/1240\""),
            (b"/proc/12345/maps", "\"/proc/12345/maps\""),
            (b"/proc/1234", "\"/proc/1234\""),
        ] {
            let line = line(&denied(Action::Read, file(path)));
            assert!(line.ends_with(&format!("paths: [{suggested}]}}")), "{line}");
        }
    }

    #[test]
    fn colour_comes_only_when_asked_for() {
        let record = denied(Action::Read, file(b"/a"));
        let coloured = TextLine { record: &record, colour: true }.to_string();
        assert!(coloured.starts_with("agent-guard: \x1b[31mdenied  \x1b[0m open /a"), "{coloured}");
        assert!(!line(&record).contains('\x1b'));
    }

    #[test]
    fn an_operation_is_told_with_its_target_and_its_remedy() {
        for (operation, process, told, word) in [
            (Operation::Signal, 77, "signal process 77, outside", "signal"),
            (Operation::Signal, 0, "signal processes outside", "signal"),
            (Operation::UserNamespace, 0, "make a user namespace", "user-namespace"),
        ] {
            assert_eq!(
                line(&denied(Action::Operate, Object::Operation(operation, process))),
                format!(
                    "agent-guard: denied   {told} by cat[1234]: no rule matches; to allow it, add to \
                     spec.system.rules in policy.yaml: - {{effect: allow, operations: [{word}]}}"
                )
            );
        }
    }

    #[test]
    fn skipped_decisions_say_where() {
        let skipped = vec![(Hook::FileOpen, 3), (Hook::TaskKill, 1)];
        assert_eq!(
            line(&record(Body::Notice(Notice::DecisionsSkipped(skipped)))),
            "agent-guard: the kernel skipped 3 decisions at hook file_open, 1 decisions at hook \
             task_kill; what was done there, by whomever, went on unjudged"
        );
    }

    #[test]
    fn skipped_returns_are_no_decisions() {
        let skipped = vec![(Hook::CapabilityCheck, 2)];
        assert_eq!(
            line(&record(Body::Notice(Notice::DecisionsSkipped(skipped)))),
            "agent-guard: the kernel skipped 2 returns from security_capable, of which each that failed for \
             want of a right goes untold"
        );
    }

    #[test]
    fn losses_say_where() {
        let losses = Losses {
            hooks: vec![(Hook::FileOpen, 3), (Hook::SysExit, 1)],
            malformed: 0,
            unwritten: 2,
        };
        assert_eq!(
            line(&record(Body::Notice(Notice::EventsLost(losses)))),
            "agent-guard: 6 events lost: 3 at file_open, 1 at sys_exit, 2 not written"
        );
    }

    #[test]
    fn the_end_tells_the_sums() {
        let hook =
            |hook| HookTotals { hook, decided: 5, denied: 2, lost: 0, failed: 1, skipped: 0 };
        let totals = vec![hook(Hook::FileOpen), hook(Hook::BprmCheck)];
        assert_eq!(
            line(&record(Body::Notice(Notice::Stopped { totals }))),
            "agent-guard: the agent has ended: 10 actions decided, 4 denied, 2 by failures of the \
             guard, 0 events lost"
        );
    }

    proptest! {
        #[test]
        fn no_name_breaks_the_line(
            name in proptest::collection::vec(any::<u8>(), 0..40),
            comm in proptest::collection::vec(any::<u8>(), 0..16),
        ) {
            let mut record = denied(Action::Read, file(&name));
            if let Body::Decided { process, .. } = &mut record.body {
                process.comm = crate::event::SafeText::new(&comm);
            }
            prop_assert!(!line(&record).chars().any(char::is_control));
        }
    }
}
