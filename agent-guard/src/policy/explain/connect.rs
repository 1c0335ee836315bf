//! Connections.

use std::net::{IpAddr, Ipv4Addr};

use agent_guard_common::{
    decide::{Decision, Endpoint, Reason, Transport, decide_connect},
    table::{Effect, NO_RULE},
};

use super::{ExplainError, Explanation, audit_note, compile_here, explanation};
use crate::policy::{
    Host, HostName, Policy, Rule, Target, TargetError,
    compile::{
        Compiled, Environment, Filesystems, Judged, LOCALHOST, MemoryTables, NoLinks, egress_id,
    },
};

/// What becomes of connecting, or sending, to `endpoint`: `HOST:PORT`, with `/udp` for UDP. A host name
/// is judged as a name, and not resolved.
///
/// # Errors
/// It is not one endpoint, or the policy can not be compiled.
pub fn explain_connect(policy: &Policy, endpoint: &str) -> Result<Explanation, ExplainError> {
    let (target, transport) = one_endpoint(endpoint)?;
    let policy = only_egress(policy);
    let filesystems = Filesystems::lexical();
    let environment = Environment { filesystems: &filesystems, links: &NoLinks };
    let compiled = compile_here(&policy, &environment)?;
    let port = target.ports.first();
    let mut notes = audit_note(&policy);
    let (decision, place) = match &target.host {
        Host::Net(net) => {
            let address = net.addr();
            (by_address(&compiled, address, port, transport), host(address))
        }
        Host::Name(name) | Host::Below(_, name) if name.as_str() == LOCALHOST => {
            (by_address(&compiled, Ipv4Addr::LOCALHOST.into(), port, transport), name.to_string())
        }
        Host::Name(name) | Host::Below(_, name) => {
            notes.push(NAMES.to_owned());
            (by_name(&compiled, name, port, transport), name.to_string())
        }
    };
    let rules = policy.egress.rules.iter().enumerate();
    let matches = rules.flat_map(|(index, rule)| {
        let speaks = |entry: &&Target| covers(entry, &target.host, port, transport);
        let entries = rule.matcher.iter().filter(speaks);
        entries.map(move |entry| (egress_id(index), entry.text.clone()))
    });
    let question = format!("connect {}", written(&place, port, transport));
    Ok(explanation(&compiled, question, decision, notes, matches))
}

const NAMES: &str = "a name is judged as the DNS proxy of `run` does, and not resolved here; rules for the addresses that it leads to come before it";

fn by_address(compiled: &Compiled, address: IpAddr, port: u16, transport: Transport) -> Decision {
    let endpoint = match address {
        IpAddr::V4(address) => Endpoint::v4(address.octets(), port, transport),
        IpAddr::V6(address) => Endpoint::v6(address.octets(), port, transport),
    };
    decide_connect(&MemoryTables::new(compiled), &compiled.agent(0, 0), &endpoint, false)
}

/// The decision on an address that the agent was told for `name`, and that no other rule speaks of.
pub(in crate::policy) fn by_name(
    compiled: &Compiled,
    name: &HostName,
    port: u16,
    transport: Transport,
) -> Decision {
    let ruled = |effect, rule| Decision { effect, rule, reason: Reason::Rule };
    let grants = match compiled.names.judge(name) {
        Judged::Denied { rule: NO_RULE } => return Decision::deny(Reason::Default),
        Judged::Denied { rule } => return ruled(Effect::Deny, rule),
        Judged::Allowed { grants, .. } => grants,
    };
    let first = |effect| {
        grants.iter().find(|grant| {
            let protocol = match transport {
                Transport::Tcp => grant.protocols.tcp(),
                Transport::Udp => grant.protocols.udp(),
            };
            protocol
                && (grant.ports.first()..=grant.ports.last()).contains(&port)
                && grant.verdict.effect() == Some(effect)
        })
    };
    match (first(Effect::Deny), first(Effect::Allow)) {
        (Some(grant), _) => ruled(Effect::Deny, grant.verdict.rule()),
        (None, Some(grant)) => ruled(Effect::Allow, grant.verdict.rule()),
        (None, None) => {
            Decision { effect: compiled.default_egress, rule: NO_RULE, reason: Reason::Default }
        }
    }
}

/// One host, one port and one protocol, TCP where none is named.
fn one_endpoint(text: &str) -> Result<(Target, Transport), ExplainError> {
    one_of(text, Target::parse(text))
}

/// The one endpoint that `parsed` is.
pub(super) fn one_of(
    text: &str,
    parsed: Result<Vec<Target>, TargetError>,
) -> Result<(Target, Transport), ExplainError> {
    let targets =
        parsed.map_err(|source| ExplainError::Endpoint { text: text.to_owned(), source })?;
    let many = || ExplainError::Many(text.to_owned());
    let [target] = <[Target; 1]>::try_from(targets).map_err(|_| many())?;
    let one_host = match &target.host {
        Host::Net(net) => net.prefix_len() == net.max_prefix_len(),
        Host::Name(_) => true,
        Host::Below(..) => false,
    };
    if !one_host || target.ports.first() != target.ports.last() {
        return Err(many());
    }
    let transport = if target.protocols.tcp() { Transport::Tcp } else { Transport::Udp };
    Ok((target, transport))
}

/// An address as a rule has it.
pub(in crate::policy) fn host(address: IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}

/// An endpoint as a rule has it.
pub(in crate::policy) fn written(host: &str, port: u16, transport: Transport) -> String {
    let protocol = match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    format!("{host}:{port}/{protocol}")
}

fn covers(entry: &Target, host: &Host, port: u16, transport: Transport) -> bool {
    let speaks = match (&entry.host, host) {
        (Host::Net(net), Host::Net(asked)) => net.contains(asked),
        (Host::Name(name), Host::Name(asked)) => name == asked,
        (Host::Below(labels, base), Host::Name(asked)) => asked.is_below(*labels, base),
        _ => false,
    };
    speaks && has_port(entry, port, transport)
}

pub(super) fn has_port(entry: &Target, port: u16, transport: Transport) -> bool {
    let protocol = match transport {
        Transport::Tcp => entry.protocols.tcp(),
        Transport::Udp => entry.protocols.udp(),
    };
    protocol && (entry.ports.first()..=entry.ports.last()).contains(&port)
}

/// The policy with the same rule numbers and no paths.
fn only_egress(policy: &Policy) -> Policy {
    let mut policy = policy.clone();
    policy.exec.rules.iter_mut().for_each(|rule| rule.matcher.paths.clear());
    policy.files.rules.iter_mut().for_each(|Rule { matcher, .. }| matcher.paths.clear());
    policy.listen.rules.iter_mut().for_each(|rule| rule.matcher.clear());
    policy.unix.rules.iter_mut().for_each(|rule| rule.matcher.clear());
    policy
}
