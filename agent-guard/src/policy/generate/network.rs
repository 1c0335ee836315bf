//! Targets: where connections went, and where they were taken.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive};

use agent_guard_common::decide::Transport;

use crate::policy::{
    HostName,
    explain::{host, written},
};

/// Ports that the kernel gives who asks for none, as Linux has it unless told otherwise
/// (`net.ipv4.ip_local_port_range`): others each time.
const GIVEN: RangeInclusive<u16> = 32_768..=60_999;

/// Targets with their events.
#[derive(Debug, Default)]
pub struct Targets(BTreeMap<(Sorted, Ports), Transports>);

/// Names before addresses, and addresses by number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sorted {
    Name(String),
    Address(IpAddr),
}

/// One port, or those that the kernel gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ports {
    One(u16),
    Given,
}

#[derive(Clone, Copy, Debug, Default)]
struct Transports {
    tcp: u64,
    udp: u64,
}

/// A target as a rule has it, and its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The rule's entry.
    pub text: String,
    /// How many events it stands for.
    pub events: u64,
    /// Whether it is a host name.
    pub is_name: bool,
}

impl Targets {
    /// Adds connections to a host name.
    pub fn name(&mut self, name: &HostName, port: u16, transport: Transport, events: u64) {
        self.add(Sorted::Name(name.to_string()), Ports::One(port), transport, events);
    }

    /// Adds connections to, or at, an address. On this host's own a port that the kernel gives stands for all of
    /// those; elsewhere it is somebody's choice.
    pub fn address(&mut self, address: IpAddr, port: u16, transport: Transport, events: u64) {
        let own = address.is_loopback() || address.is_unspecified();
        let ports = if own && GIVEN.contains(&port) { Ports::Given } else { Ports::One(port) };
        self.add(Sorted::Address(address), ports, transport, events);
    }

    fn add(&mut self, to: Sorted, ports: Ports, transport: Transport, events: u64) {
        let transports = self.0.entry((to, ports)).or_default();
        match transport {
            Transport::Tcp => transports.tcp += events,
            Transport::Udp => transports.udp += events,
        }
    }

    /// Whether a name is among them.
    pub fn has_name(&self, name: &HostName) -> bool {
        let names = self.0.keys().map(|(to, _)| to);
        names.into_iter().any(|to| matches!(to, Sorted::Name(known) if *known == name.as_str()))
    }

    /// Entries of rules, names first.
    pub fn list(&self) -> Vec<Target> {
        let target = |((to, ports), transports): (&(Sorted, Ports), &Transports)| {
            let place = match to {
                Sorted::Name(name) => name.clone(),
                Sorted::Address(address) => host(*address),
            };
            let one = |transport| match ports {
                Ports::One(port) => written(&place, *port, transport),
                Ports::Given => {
                    let first = written(&place, *GIVEN.start(), transport);
                    first.replace('/', &format!("-{}/", GIVEN.end()))
                }
            };
            let text = match transports {
                Transports { udp: 0, .. } => one(Transport::Tcp),
                Transports { tcp: 0, .. } => one(Transport::Udp),
                // Without a protocol both are meant.
                _ => one(Transport::Tcp).trim_end_matches("/tcp").to_owned(),
            };
            let is_name = matches!(to, Sorted::Name(_));
            Target { text, events: transports.tcp + transports.udp, is_name }
        };
        self.0.iter().map(target).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_names_addresses_and_the_ports_that_were_used() {
        let mut targets = Targets::default();
        let api = HostName::parse("api.example").unwrap();
        targets.address([192, 0, 2, 1].into(), 40_000, Transport::Tcp, 1);
        targets.address([127, 0, 0, 1].into(), 40_000, Transport::Tcp, 2);
        targets.address([127, 0, 0, 1].into(), 50_000, Transport::Tcp, 3);
        targets.address([127, 0, 0, 1].into(), 8080, Transport::Tcp, 1);
        targets.address("::1".parse().unwrap(), 53, Transport::Udp, 1);
        targets.name(&api, 443, Transport::Tcp, 5);
        targets.name(&api, 443, Transport::Udp, 1);
        targets.name(&api, 80, Transport::Tcp, 1);
        let listed: Vec<(String, u64)> =
            targets.list().into_iter().map(|target| (target.text, target.events)).collect();
        let due = [
            ("api.example:80/tcp", 1),
            ("api.example:443", 6),
            ("127.0.0.1:8080/tcp", 1),
            ("127.0.0.1:32768-60999/tcp", 5),
            ("192.0.2.1:40000/tcp", 1),
            ("[::1]:53/udp", 1),
        ];
        assert_eq!(listed, due.map(|(text, events)| (text.to_owned(), events)));
        assert!(targets.has_name(&api));
    }
}
