//! Connections.

use std::net::IpAddr;

use agent_guard_common::decide::{Endpoint, Transport, decide_connect};

use super::{ExplainError, Explanation, audit_note, compile_here, explanation};
use crate::policy::{
    Host, Policy, Rule, Target, TargetError,
    compile::{Environment, Filesystems, MemoryTables, NoLinks, Note, Resolver, egress_id},
};

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
        let question = format!("connect {}", written(address, port, transport));
        explanation(&compiled, question, decision, notes.clone(), matches)
    };
    Ok(addresses.into_iter().map(explain).collect())
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
    };
    if !one_host || target.ports.first() != target.ports.last() {
        return Err(many());
    }
    let transport = if target.protocols.tcp() { Transport::Tcp } else { Transport::Udp };
    Ok((target, transport))
}

/// An endpoint as a rule has it.
pub(super) fn written(address: IpAddr, port: u16, transport: Transport) -> String {
    let protocol = match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    match address {
        IpAddr::V4(_) => format!("{address}:{port}/{protocol}"),
        IpAddr::V6(_) => format!("[{address}]:{port}/{protocol}"),
    }
}

fn covers(
    entry: &Target,
    address: IpAddr,
    port: u16,
    transport: Transport,
    notes: &[Note],
) -> bool {
    let host = match &entry.host {
        Host::Net(net) => net.contains(&address),
        Host::Name(name) => notes.iter().any(|note| match note {
            Note::Resolved { host, addresses } => {
                host == name.as_str() && addresses.contains(&address)
            }
            Note::Followed { .. }
            | Note::NotFollowed { .. }
            | Note::Unreadable { .. }
            | Note::AliasesCutOff { .. }
            | Note::AliasesUnread { .. } => false,
        }),
    };
    host && has_port(entry, port, transport)
}

pub(super) fn has_port(entry: &Target, port: u16, transport: Transport) -> bool {
    let protocol = match transport {
        Transport::Tcp => entry.protocols.tcp(),
        Transport::Udp => entry.protocols.udp(),
    };
    protocol && (entry.ports.first()..=entry.ports.last()).contains(&port)
}

fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// The policy with the same rule numbers and no paths.
fn only_egress(policy: &Policy) -> Policy {
    let mut policy = policy.clone();
    policy.exec.rules.iter_mut().for_each(|rule| rule.matcher.clear());
    policy.files.rules.iter_mut().for_each(|Rule { matcher, .. }| matcher.paths.clear());
    policy.listen.rules.iter_mut().for_each(|rule| rule.matcher.clear());
    policy.unix.rules.iter_mut().for_each(|rule| rule.matcher.clear());
    policy
}
