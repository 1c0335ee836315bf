//! Addresses to listen on.

use std::net::IpAddr;

use agent_guard_common::{
    decide::{Endpoint, decide_listen},
    table::Effect,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    ExplainError, Explanation, audit_note, compile_here,
    connect::{has_port, host, one_of, written},
    explanation,
};
use crate::policy::{
    Host, Policy, Target,
    compile::{Environment, Filesystems, MemoryTables, NoLinks, is_wildcard_case, listen_id},
};

/// What becomes of listening on `address`: `ADDRESS:PORT`, with `/udp` for UDP.
///
/// # Errors
/// It is not one address and port, or the policy can not be compiled.
pub fn explain_listen(policy: &Policy, address: &str) -> Result<Explanation, ExplainError> {
    let (target, transport) = one_of(address, Target::parse_own(address))?;
    let Host::Net(net) = &target.host else {
        return Err(ExplainError::Many(address.to_owned()));
    };
    let (own, port) = (net.addr(), target.ports.first());
    let mut notes = audit_note(policy);
    if own.is_unspecified() {
        notes.push(match own {
            IpAddr::V4(_) => "every address of IPv4: a denial of any one of them holds".to_owned(),
            IpAddr::V6(_) => {
                "every address, of IPv4 too: a denial of any one of them holds".to_owned()
            }
        });
    }

    let policy = only_listen(policy);
    let filesystems = Filesystems::lexical();
    let environment = Environment { filesystems: &filesystems, links: &NoLinks };
    let compiled = compile_here(&policy, &environment)?;
    let endpoint = match own {
        IpAddr::V4(own) => Endpoint::own_v4(own.octets(), port, transport),
        IpAddr::V6(own) => Endpoint::own_v6(own.octets(), port, transport),
    };
    let tables = MemoryTables::new(&compiled);
    let decision = decide_listen(&tables, &compiled.agent(0, 0), &endpoint);
    let rules = policy.listen.rules.iter().enumerate();
    let matches = rules.flat_map(|(index, rule)| {
        let speaks = |entry: &&Target| {
            has_port(entry, port, transport) && holds(rule.effect.into(), entry, own)
        };
        let id = listen_id(&policy, index);
        rule.matcher.iter().filter(speaks).map(move |entry| (id, entry.text.clone()))
    });
    let question = format!("listen {}", written(&host(own), port, transport));
    Ok(explanation(&compiled, question, decision, notes, matches))
}

fn holds(effect: Effect, entry: &Target, own: IpAddr) -> bool {
    let Host::Net(net) = &entry.host else { return false };
    if own.is_unspecified() {
        let any = match own {
            IpAddr::V4(_) => IpNet::from(Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::from(Ipv6Net::default()),
        };
        return is_wildcard_case(effect, net, &any);
    }
    net.contains(&own)
}

/// The policy with the same rule numbers and no other rules.
fn only_listen(policy: &Policy) -> Policy {
    let mut policy = policy.clone();
    policy.egress.rules.iter_mut().for_each(|rule| rule.matcher.clear());
    policy.exec.rules.iter_mut().for_each(|rule| rule.matcher.paths.clear());
    policy.files.rules.iter_mut().for_each(|rule| rule.matcher.paths.clear());
    policy.unix.rules.iter_mut().for_each(|rule| rule.matcher.clear());
    policy
}
