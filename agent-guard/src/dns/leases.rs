//! What the agent was told: addresses with the rules of the names that they were told for.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use agent_guard_common::{
    decide::{Endpoint, Transport},
    limits::{LEASE_SLOTS, MAX_LEASES},
    table::{Lease, LeaseKey, LeaseSlot, Verdict},
};

use crate::policy::compile::Grant;

/// Where leases take effect: the kernel's map.
pub trait LeaseStore: Send {
    /// Writes a lease and makes sure that it is there.
    ///
    /// # Errors
    /// It is not.
    fn write(&mut self, key: &LeaseKey, lease: &Lease) -> anyhow::Result<()>;
    /// Takes one away.
    ///
    /// # Errors
    /// What the kernel said.
    fn remove(&mut self, key: &LeaseKey) -> anyhow::Result<()>;
}

/// Why an address was not leased. What it was told for must not be told then.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// No address more.
    #[error("the agent already holds {MAX_LEASES} addresses by name")]
    Full,
    /// No rule more at this address.
    #[error("more than {LEASE_SLOTS} different rules with names speak of {0}")]
    Slots(IpAddr),
    /// The kernel did not take it.
    #[error("{0:#}")]
    Store(anyhow::Error),
}

/// The leases of one agent.
pub struct LeaseBook {
    cgroup: u64,
    store: Box<dyn LeaseStore>,
    known: HashMap<IpAddr, Known>,
}

struct Known {
    lease: Lease,
    /// The last name that each rule leased the address by.
    hosts: Vec<(u16, Arc<str>)>,
}

impl LeaseBook {
    /// An empty book of the agent whose root is `cgroup`, written through to `store`.
    #[must_use]
    pub fn new(cgroup: u64, store: Box<dyn LeaseStore>) -> Self {
        Self { cgroup, store, known: HashMap::new() }
    }

    /// Leases `address` as `host`, under what `grants` say, until `expires_ns` on the boot clock.
    ///
    /// # Errors
    /// It does not fit, or did not reach the kernel.
    pub fn grant(
        &mut self,
        host: &str,
        address: IpAddr,
        grants: &[Grant],
        now_ns: u64,
        expires_ns: u64,
    ) -> Result<(), LeaseError> {
        if grants.is_empty() {
            return Ok(());
        }
        let address = address.to_canonical();
        if !self.known.contains_key(&address) && self.known.len() >= MAX_LEASES {
            self.sweep(now_ns);
            if self.known.len() >= MAX_LEASES {
                return Err(LeaseError::Full);
            }
        }
        let before = self.known.get(&address);
        let mut lease = before.map_or(NOTHING, |known| known.lease);
        let mut hosts = before.map_or_else(Vec::new, |known| known.hosts.clone());
        hosts.retain(|(rule, _)| lease.slots.iter().any(|slot| is_live(slot, *rule, now_ns)));
        let host: Arc<str> = host.into();
        for grant in grants {
            let slot = slot_of(grant, expires_ns);
            add(&mut lease, slot, now_ns).ok_or(LeaseError::Slots(address))?;
            let rule = grant.verdict.rule();
            hosts.retain(|(other, _)| *other != rule);
            hosts.push((rule, Arc::clone(&host)));
        }
        self.store.write(&self.key(address), &lease).map_err(LeaseError::Store)?;
        self.known.insert(address, Known { lease, hosts });
        Ok(())
    }

    /// The name by which `rule` leased `address` last.
    #[must_use]
    pub fn host(&self, address: IpAddr, rule: u16) -> Option<Arc<str>> {
        let hosts = &self.known.get(&address.to_canonical())?.hosts;
        hosts.iter().find(|(other, _)| *other == rule).map(|(_, host)| Arc::clone(host))
    }

    /// Takes away what has expired. The kernel has stopped minding it by itself.
    pub fn sweep(&mut self, now_ns: u64) {
        let over = |known: &Known| known.lease.slots.iter().all(|slot| slot.expires_ns <= now_ns);
        let expired: Vec<IpAddr> = self
            .known
            .iter()
            .filter(|(_, known)| over(known))
            .map(|(address, _)| *address)
            .collect();
        for address in expired {
            match self.store.remove(&self.key(address)) {
                Ok(()) => drop(self.known.remove(&address)),
                Err(error) => tracing::warn!("an expired lease of {address} stays: {error:#}"),
            }
        }
    }

    /// Addresses that are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn key(&self, address: IpAddr) -> LeaseKey {
        // Port and protocol are in the lease.
        let endpoint = match address {
            IpAddr::V4(address) => Endpoint::v4(address.octets(), 0, Transport::Tcp),
            IpAddr::V6(address) => Endpoint::v6(address.octets(), 0, Transport::Tcp),
        };
        LeaseKey::new(self.cgroup, endpoint.family, endpoint.addr)
    }
}

const NOTHING: Lease = Lease { slots: [LeaseSlot::EMPTY; LEASE_SLOTS] };

fn is_live(slot: &LeaseSlot, rule: u16, now_ns: u64) -> bool {
    let speaks = |verdict: Verdict| verdict.effect().is_some() && verdict.rule() == rule;
    slot.expires_ns > now_ns && (speaks(slot.tcp) || speaks(slot.udp))
}

fn slot_of(grant: &Grant, expires_ns: u64) -> LeaseSlot {
    let over = |speaks| if speaks { grant.verdict } else { Verdict::UNMATCHED };
    LeaseSlot {
        expires_ns,
        tcp: over(grant.protocols.tcp()),
        udp: over(grant.protocols.udp()),
        low: grant.ports.first(),
        high: grant.ports.last(),
        reserved: 0,
    }
}

/// Adds a slot, or makes the one that says the same last longer. `None` where there is no room.
fn add(lease: &mut Lease, slot: LeaseSlot, now_ns: u64) -> Option<()> {
    let content = |slot: &LeaseSlot| (slot.low, slot.high, slot.tcp, slot.udp);
    if let Some(same) = lease.slots.iter_mut().find(|other| content(other) == content(&slot)) {
        same.expires_ns = same.expires_ns.max(slot.expires_ns);
        return Some(());
    }
    *lease.slots.iter_mut().find(|other| other.expires_ns <= now_ns)? = slot;
    Some(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;

    use agent_guard_common::table::{Effect, Family};

    use super::*;
    use crate::policy::{PortRange, Protocols};

    /// A store in memory that may be told to fail.
    #[derive(Clone, Default)]
    pub struct Store {
        pub leases: Arc<Mutex<HashMap<LeaseKey, Lease>>>,
        pub broken: Arc<Mutex<bool>>,
    }

    impl LeaseStore for Store {
        fn write(&mut self, key: &LeaseKey, lease: &Lease) -> anyhow::Result<()> {
            anyhow::ensure!(!*self.broken.lock().unwrap(), "no room");
            self.leases.lock().unwrap().insert(*key, *lease);
            Ok(())
        }
        fn remove(&mut self, key: &LeaseKey) -> anyhow::Result<()> {
            self.leases.lock().unwrap().remove(key);
            Ok(())
        }
    }

    fn grant(rule: u16) -> Grant {
        let verdict = Verdict::new(Effect::Allow, rule);
        Grant { verdict, ports: PortRange::FULL, protocols: Protocols::Tcp }
    }

    fn book() -> (LeaseBook, Store) {
        let store = Store::default();
        (LeaseBook::new(7, Box::new(store.clone())), store)
    }

    fn v4(number: usize) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0x0100_0000 + u32::try_from(number).unwrap()).into()
    }

    #[test]
    fn a_mapped_address_is_leased_as_ipv4() {
        let (mut book, store) = book();
        book.grant("a", "::ffff:1.0.0.1".parse().unwrap(), &[grant(3)], 0, 9).unwrap();
        let leases = store.leases.lock().unwrap();
        let (key, lease) = leases.iter().next().unwrap();
        assert_eq!(
            (key.cgroup, key.family, key.addr[..4].to_vec()),
            (7, Family::V4 as u32, vec![1, 0, 0, 1])
        );
        assert_eq!((lease.slots[0].tcp.rule(), lease.slots[0].udp), (3, Verdict::UNMATCHED));
        assert_eq!(book.host(v4(1), 3).as_deref(), Some("a"));
    }

    #[test]
    fn what_no_rule_speaks_of_takes_no_room() {
        let (mut book, store) = book();
        book.grant("a", v4(1), &[], 0, 9).unwrap();
        assert!(book.is_empty() && store.leases.lock().unwrap().is_empty());
    }

    #[test]
    fn the_same_rule_shares_a_slot_and_the_longer_term_holds() {
        let (mut book, store) = book();
        for (host, expires) in [("a", 20), ("b", 10), ("c", 30)] {
            book.grant(host, v4(1), &[grant(0)], 0, expires).unwrap();
        }
        let leases = store.leases.lock().unwrap();
        let lease = leases.values().next().unwrap();
        assert_eq!((lease.slots[0].expires_ns, lease.slots[1]), (30, LeaseSlot::EMPTY));
        assert_eq!(book.host(v4(1), 0).as_deref(), Some("c"));
    }

    #[test]
    fn slots_are_bounded_and_expired_ones_are_used_again() {
        let (mut book, _) = book();
        let full = u16::try_from(LEASE_SLOTS).unwrap();
        for rule in 0..full {
            book.grant("a", v4(1), &[grant(rule)], 0, 10).unwrap();
        }
        assert!(matches!(book.grant("a", v4(1), &[grant(full)], 5, 20), Err(LeaseError::Slots(_))));
        book.grant("a", v4(1), &[grant(full)], 10, 20).unwrap();
        assert_eq!(book.host(v4(1), 0), None);
    }

    #[test]
    fn addresses_are_bounded_and_expired_ones_make_room() {
        let (mut book, store) = book();
        for number in 0..MAX_LEASES {
            book.grant("a", v4(number), &[grant(0)], 0, 10).unwrap();
        }
        assert!(matches!(
            book.grant("a", v4(MAX_LEASES), &[grant(0)], 5, 20),
            Err(LeaseError::Full)
        ));
        book.grant("a", v4(0), &[grant(0)], 5, 20).unwrap();
        book.grant("a", v4(MAX_LEASES), &[grant(0)], 10, 20).unwrap();
        assert_eq!((book.len(), store.leases.lock().unwrap().len()), (2, 2));
    }

    #[test]
    fn what_did_not_reach_the_kernel_is_not_known() {
        let (mut book, store) = book();
        *store.broken.lock().unwrap() = true;
        assert!(matches!(book.grant("a", v4(1), &[grant(0)], 0, 9), Err(LeaseError::Store(_))));
        assert!(book.is_empty());
    }
}
