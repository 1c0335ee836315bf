use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use agent_guard_common::{
    decide::{Endpoint, Reason, Request, Transport, decide_connect, decide_file, decide_listen},
    limits::LEASE_SLOTS,
    table::{Agent, Lease, LeaseKey, LeaseSlot, NO_RULE, Verdict},
};
use proptest::{collection::vec, prelude::*, sample::select};

use super::{super::Note, paths::section, *};
use crate::policy::Host;

fn connect(compiled: &Compiled, address: &str, port: u16, transport: Transport) -> Decision {
    let endpoint = match address.parse().unwrap() {
        IpAddr::V4(address) => Endpoint::v4(address.octets(), port, transport),
        IpAddr::V6(address) => Endpoint::v6(address.octets(), port, transport),
    };
    decide_connect(&MemoryTables::new(compiled), &compiled.agent(1, 1), &endpoint, true)
}

fn tcp(compiled: &Compiled, address: &str, port: u16) -> bool {
    connect(compiled, address, port, Transport::Tcp).effect == Effect::Allow
}

#[test]
fn a_longer_prefix_carries_the_rules_around_it() {
    let compiled = compile_lexical(&policy(
        "egress:\n  rules:\n    - {effect: allow, to: ['10.0.0.0/8:443']}\n    - {effect: allow, to: ['10.1.0.0/16:80']}\n    - {effect: deny, to: ['10.1.2.3']}",
    ));
    assert!(tcp(&compiled, "10.9.9.9", 443) && !tcp(&compiled, "10.9.9.9", 80));
    assert!(tcp(&compiled, "10.1.9.9", 443) && tcp(&compiled, "10.1.9.9", 80));
    assert!(!tcp(&compiled, "10.1.2.3", 443) && !tcp(&compiled, "11.0.0.1", 443));
    assert_eq!(connect(&compiled, "10.1.2.3", 443, Transport::Udp).rule, 2);
}

#[test]
fn families_and_protocols_are_apart_and_mapped_addresses_are_ipv4() {
    let compiled = compile_lexical(&policy(
        "egress:\n  rules:\n    - {effect: allow, to: ['127.0.0.1:53/udp', '[::1]:80/tcp']}",
    ));
    assert!(!tcp(&compiled, "127.0.0.1", 53));
    assert_eq!(connect(&compiled, "127.0.0.1", 53, Transport::Udp).effect, Effect::Allow);
    assert_eq!(connect(&compiled, "::ffff:127.0.0.1", 53, Transport::Udp).effect, Effect::Allow);
    assert!(tcp(&compiled, "::1", 80) && !tcp(&compiled, "127.0.0.1", 80));
}

#[test]
fn a_prefix_that_adds_nothing_takes_no_row() {
    let compiled = compile_lexical(&policy(
        "egress:\n  rules:\n    - {effect: allow, to: ['10.0.0.0/8', '10.1.0.0/16:443', '10.2.0.0/16']}",
    ));
    assert_eq!(compiled.prefixes.len(), 1);
}

#[test]
fn localhost_is_loopback_and_other_names_have_no_address_here() {
    let compiled = compile_lexical(&policy(
        "egress:\n  rules:\n    - {effect: allow, to: ['localhost:80', 'api.example.com:443']}",
    ));
    assert!(tcp(&compiled, "127.0.0.1", 80) && tcp(&compiled, "::1", 80));
    assert!(!tcp(&compiled, "127.0.0.1", 443) && !tcp(&compiled, "192.0.2.1", 443));
    assert!(!compiled.names.is_empty());
}

#[test]
fn a_denied_name_under_default_allow_is_warned_of() {
    let compiled = compile_lexical(&policy(
        "egress:\n  default: allow\n  rules:\n    - {effect: deny, to: ['bad.example']}",
    ));
    let [note] = compiled.notes.as_slice() else { panic!("{:?}", compiled.notes) };
    assert!(matches!(note, Note::NameOnly { .. }) && note.is_warning());
    let closed =
        compile_lexical(&policy("egress:\n  rules:\n    - {effect: deny, to: ['bad.example']}"));
    assert_eq!(closed.notes, []);
}

const NOW: u64 = 1_000;

/// What the tables say of 192.0.2.1, told for a name until `expires_ns`, over TCP.
fn leased(compiled: &Compiled, port: u16, slots: &[(Effect, u16, u16, u16, u64)]) -> Decision {
    leased_over(compiled, Transport::Tcp, port, slots)
}

fn leased_over(
    compiled: &Compiled,
    transport: Transport,
    port: u16,
    slots: &[(Effect, u16, u16, u16, u64)],
) -> Decision {
    let mut lease = Lease { slots: [LeaseSlot::EMPTY; LEASE_SLOTS] };
    for (slot, (effect, rule, low, high, expires_ns)) in lease.slots.iter_mut().zip(slots) {
        let tcp = Verdict::new(*effect, *rule);
        let (low, high) = (*low, *high);
        *slot = LeaseSlot { expires_ns: *expires_ns, tcp, low, high, ..LeaseSlot::EMPTY };
    }
    let endpoint = Endpoint::v4([192, 0, 2, 1], port, transport);
    let agent = compiled.agent(1, 1);
    let key = LeaseKey::new(agent.cgroup, endpoint.family, endpoint.addr);
    let tables = MemoryTables::new(compiled).with_leases(HashMap::from([(key, lease)]), NOW);
    decide_connect(&tables, &agent, &endpoint, false)
}

#[test]
fn a_lease_allows_its_ports_until_it_expires() {
    let compiled =
        compile_lexical(&policy("egress:\n  rules:\n    - {effect: allow, to: ['api.example']}"));
    let until =
        |port, expires_ns| leased(&compiled, port, &[(Effect::Allow, 7, 443, 444, expires_ns)]);
    let by_rule = Decision { effect: Effect::Allow, rule: 7, reason: Reason::Rule };
    assert_eq!(until(443, NOW + 1), by_rule);
    assert_eq!(until(444, NOW + 1), by_rule);
    for (port, expires_ns) in [(443, NOW), (443, 0), (442, NOW + 1), (445, NOW + 1)] {
        assert_eq!(until(port, expires_ns), Decision::deny(Reason::Default), "{port} {expires_ns}");
    }
}

#[test]
fn a_leased_address_may_be_probed_for_a_route_and_no_other() {
    let compiled = compile_lexical(&policy("egress: {default: deny}"));
    let probe = |port, slot| leased_over(&compiled, Transport::Udp, port, &[slot]).effect;
    let until = |effect, expires_ns| (effect, 7, 443, 443, expires_ns);
    for port in [0, u16::MAX] {
        assert_eq!(probe(port, until(Effect::Allow, NOW + 1)), Effect::Allow, "{port}");
        assert_eq!(probe(port, until(Effect::Deny, NOW + 1)), Effect::Deny, "{port}");
        assert_eq!(probe(port, until(Effect::Allow, NOW)), Effect::Deny, "{port}");
        let tcp = leased(&compiled, port, &[until(Effect::Allow, NOW + 1)]);
        assert_eq!(tcp.effect, Effect::Deny, "{port}");
    }
    for port in [1, 443, u16::MAX - 1] {
        assert_eq!(probe(port, until(Effect::Allow, NOW + 1)), Effect::Deny, "{port}");
    }
}

#[test]
fn among_leases_deny_beats_allow_in_any_order() {
    let compiled = compile_lexical(&policy("egress: {default: deny}"));
    let (allow, deny) =
        ((Effect::Allow, 1, 0, u16::MAX, u64::MAX), (Effect::Deny, 2, 25, 25, u64::MAX));
    let expired = (Effect::Deny, 3, 0, u16::MAX, NOW);
    for slots in [[allow, deny, expired], [expired, deny, allow], [deny, expired, allow]] {
        assert_eq!(leased(&compiled, 25, &slots).rule, 2);
        assert_eq!(leased(&compiled, 26, &slots).rule, 1);
    }
}

#[test]
fn what_rules_say_of_an_address_comes_before_its_lease() {
    let compiled = compile_lexical(&policy(
        "egress:\n  rules:\n    - {effect: deny, to: ['192.0.2.1:443']}\n    - {effect: allow, to: ['192.0.2.1:80']}",
    ));
    let lease = [(Effect::Allow, 9, 0, u16::MAX, u64::MAX)];
    assert_eq!(leased(&compiled, 443, &lease).rule, 0);
    assert_eq!(leased(&compiled, 80, &lease).rule, 1);
    assert_eq!(leased(&compiled, 81, &lease).rule, 9);
}

/// Whether a query to this address goes to the proxy.
fn diverted(compiled: &Compiled, address: &str, port: u16, divertible: bool) -> bool {
    let endpoint = match address.parse().unwrap() {
        IpAddr::V4(address) => Endpoint::v4(address.octets(), port, Transport::Udp),
        IpAddr::V6(address) => Endpoint::v6(address.octets(), port, Transport::Udp),
    };
    let agent = Agent { dns_ports: [5300, 0], ..compiled.agent(1, 1) };
    let decision = decide_connect(&MemoryTables::new(compiled), &agent, &endpoint, divertible);
    decision.reason == Reason::Diverted
}

#[test]
fn name_queries_go_to_the_proxy_unless_a_rule_names_port_53_alone() {
    let compiled = compile_lexical(&policy(
        "egress:\n  rules:\n    - {effect: allow, to: ['192.0.2.0/24', '192.0.2.53:53', '192.0.2.53:54']}\n    - {effect: deny, to: ['192.0.2.54:53', '169.254.169.254']}",
    ));
    for address in ["198.51.100.1", "192.0.2.1", "169.254.169.254", "127.0.0.1", "::ffff:192.0.2.1"]
    {
        assert!(diverted(&compiled, address, 53, true), "{address}");
    }
    for address in ["192.0.2.53", "192.0.2.54"] {
        assert!(!diverted(&compiled, address, 53, true), "{address}");
    }
    // Not another port, not what no cgroup program comes by, not without a proxy for the family.
    assert!(!diverted(&compiled, "198.51.100.1", 54, true));
    assert!(!diverted(&compiled, "198.51.100.1", 53, false));
    assert!(!diverted(&compiled, "2001:db8::1", 53, true));
}

fn naive_connect(policy: &Policy, address: IpAddr, port: u16, transport: Transport) -> Decision {
    let (mut denied, mut allowed) = (None, None);
    for (index, rule) in policy.egress.rules.iter().enumerate() {
        for target in &rule.matcher {
            let Host::Net(net) = &target.host else { panic!("no names here") };
            let speaks = match transport {
                Transport::Tcp => target.protocols.tcp(),
                Transport::Udp => target.protocols.udp(),
            };
            let ports = target.ports.first()..=target.ports.last();
            if net.contains(&address) && ports.contains(&port) && speaks {
                match rule.effect {
                    policy::Effect::Deny => denied = denied.or(Some(index as u16)),
                    policy::Effect::Allow => allowed = allowed.or(Some(index as u16)),
                }
            }
        }
    }
    match (denied, allowed) {
        (Some(rule), _) => Decision { effect: Effect::Deny, rule, reason: Reason::Rule },
        (None, Some(rule)) => Decision { effect: Effect::Allow, rule, reason: Reason::Rule },
        (None, None) => {
            let effect = policy.egress.default.into();
            Decision { effect, rule: NO_RULE, reason: Reason::Default }
        }
    }
}

fn target() -> impl Strategy<Value = String> {
    let v4 = (0..4u32, 0..4u32, select(vec![0, 1, 8, 15, 16, 30, 31, 32])).prop_map(
        |(high, low, len)| {
            let bits = Ipv4Addr::from_bits(high << 30 | low | 0x0a_00_00_00);
            let net = ipnet::Ipv4Net::new(bits, len).unwrap().trunc();
            net.to_string()
        },
    );
    let v6 = (0..4u128, 0..4u128, select(vec![0, 1, 64, 127, 128])).prop_map(|(high, low, len)| {
        let bits = Ipv6Addr::from_bits(high << 126 | low | 1 << 100);
        let net = ipnet::Ipv6Net::new(bits, len).unwrap().trunc();
        format!("[{net}]")
    });
    let ports = select(vec!["", ":1", ":2", ":1-3", ":3-65535", ":65535", ":2-2"]);
    let protocols = select(vec!["", "/tcp", "/udp"]);
    (prop_oneof![v4, v6], ports, protocols)
        .prop_map(|(net, ports, protocols)| format!("'{net}{ports}{protocols}'"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn tables_decide_as_the_targets_do(
        egress in section((select(vec!["allow", "deny"]), vec(target(), 1..4)).prop_map(
            |(effect, to)| format!("{{effect: {effect}, to: [{}]}}", to.join(", ")),
        )),
        places in vec((0..4u32, 0..5u32, any::<bool>(), select(vec![0, 1, 2, 3, 4, 65534, 65535])), 30),
    ) {
        let policy = policy(&format!("egress:{egress}"));
        let compiled = compile_lexical(&policy);
        for (high, low, v6, port) in places {
            let address: IpAddr = if v6 {
                Ipv6Addr::from_bits(u128::from(high) << 126 | u128::from(low) | 1 << 100).into()
            } else {
                Ipv4Addr::from_bits(high << 30 | low | 0x0a_00_00_00).into()
            };
            for transport in [Transport::Tcp, Transport::Udp] {
                let found = connect(&compiled, &address.to_string(), port, transport);
                let due = naive_connect(&policy, address, port, transport);
                prop_assert_eq!(found, due, "{} {} {:?}", address, port, transport);
            }
        }
    }
}

fn listens(compiled: &Compiled, address: &str, port: u16) -> Decision {
    let endpoint = match address.parse().unwrap() {
        IpAddr::V4(address) => Endpoint::own_v4(address.octets(), port, Transport::Tcp),
        IpAddr::V6(address) => Endpoint::own_v6(address.octets(), port, Transport::Tcp),
    };
    decide_listen(&MemoryTables::new(compiled), &compiled.agent(1, 1), &endpoint)
}

#[test]
fn listening_and_connecting_are_asked_of_different_rules() {
    let compiled = compile_lexical(&policy(
        "egress:\n  rules:\n    - {effect: allow, to: ['127.0.0.1:80']}\nlisten:\n  rules:\n    - {effect: allow, on: ['127.0.0.1:3000']}",
    ));
    assert!(tcp(&compiled, "127.0.0.1", 80) && !tcp(&compiled, "127.0.0.1", 3000));
    let decision = listens(&compiled, "127.0.0.1", 3000);
    assert_eq!((decision.effect, decision.rule), (Effect::Allow, 1));
    assert_eq!(listens(&compiled, "127.0.0.1", 80), Decision::deny(Reason::Default));
    // No port yet: whichever the kernel gives.
    assert_eq!(listens(&compiled, "127.0.0.1", 0).effect, Effect::Deny);
}

#[test]
fn every_address_at_once_is_allowed_only_where_each_is() {
    for (rules, v4, v6) in [
        ("{effect: allow, on: ['*']}", true, true),
        ("{effect: allow, on: ['0.0.0.0/0']}", true, false),
        ("{effect: allow, on: ['::/0']}", false, false),
        ("{effect: allow, on: ['0.0.0.0']}", true, false),
        ("{effect: allow, on: ['::']}", true, true),
        ("{effect: allow, on: ['0.0.0.0/1', '128.0.0.0/1']}", false, false),
        ("{effect: allow, on: ['0.0.0.0/8']}", false, false),
        ("{effect: allow, on: ['*']}, {effect: deny, on: ['10.0.0.1']}", false, false),
        ("{effect: allow, on: ['*']}, {effect: deny, on: ['::1']}", true, false),
        ("{effect: allow, on: ['*']}, {effect: deny, on: ['10.0.0.1:81']}", true, true),
        ("{effect: allow, on: ['*']}, {effect: deny, on: ['10.0.0.1:80/udp']}", true, true),
    ] {
        let compiled = compile_lexical(&policy(&format!("listen:\n  rules: [{rules}]")));
        let allowed = |address| listens(&compiled, address, 80).effect == Effect::Allow;
        assert_eq!((allowed("0.0.0.0"), allowed("::")), (v4, v6), "{rules}");
    }
}

#[test]
fn an_abstract_name_is_no_path_and_a_path_no_abstract_name() {
    let compiled = compile_lexical(&policy(
        "unix:\n  rules:\n    - {effect: allow, paths: ['/**', '@run*']}\n    - {effect: deny, paths: ['@*.d']}",
    ));
    let tables = MemoryTables::new(&compiled);
    let decide =
        |state| decide_file(&tables, &compiled.agent(1, 1), state, Request::Connect, false);
    let name = |name: &[u8]| decide(tables.walk_abstract(name).unwrap()).rule;
    assert_eq!((name(b"run/x\0"), name(b"other"), name(b"run.d")), (0, NO_RULE, 1));
    let path = |path: &[&str]| decide(tables.walk(0, path).unwrap()).rule;
    assert_eq!((path(&["run", "x"]), path(&["a.d"])), (0, 0));
    let state = tables.walk(0, &["run", "x"]).unwrap();
    let read = decide_file(&tables, &compiled.agent(1, 1), state, Request::Read, false);
    assert_eq!(read, Decision::deny(Reason::Default), "what may be connected to may not be read");
}
