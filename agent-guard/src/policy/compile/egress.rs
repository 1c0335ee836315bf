//! Egress and listen rules as address prefixes with port ranges.
//!
//! The kernel looks up the longest prefix that holds an address, so a prefix carries what every
//! shorter one around it says, already merged. Prefixes are visited in the order of a trie's branches
//! with those around the current one on a stack: one pass, whatever their number.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use agent_guard_common::{
    decide::DNS_PORT,
    limits::MAX_INTERVALS,
    table::{Effect, Family, Interval, PortSet, Verdict, Way},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    alphabet::number,
    error::{CompileError, MAX_ALL_INTERVALS, MAX_PREFIXES},
    names::LOCALHOST,
    rules::{RuleInfo, egress_id, listen_id, rule_ref},
};
use crate::policy::{Host, Policy, Target};

/// A row of the prefix table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Whose address it is.
    pub way: Way,
    /// Family of the address.
    pub family: Family,
    /// Address in network byte order; IPv4 in the first four bytes.
    pub addr: [u8; 16],
    /// Bits of the address that count.
    pub bits: u32,
    /// Its port ranges.
    pub ports: PortSet,
}

/// The tables of addresses.
pub struct Egress {
    /// Longest prefix first matched.
    pub prefixes: Vec<Prefix>,
    /// Port ranges, in lists that [`PortSet`] points at.
    pub intervals: Vec<Interval>,
}

/// What one rule says of one prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    way: Way,
    family: Family,
    addr: u128,
    len: u8,
    /// Deny sorts before allow, and a rule before those behind it: the first of several decides.
    strength: Strength,
    low: u16,
    high: u16,
    tcp: bool,
    udp: bool,
}

type Strength = (Effect, u16);

/// Compiles the listen section, and the rules of the egress section that speak of addresses. Those that
/// speak of names are for [`super::NameRules`].
///
/// # Errors
/// A bound that the rules exceed.
pub fn build(policy: &Policy, rules: &[RuleInfo]) -> Result<Egress, CompileError> {
    let mut claims = claims(policy);
    claims.extend(own_claims(policy));
    claims.sort_unstable();
    claims.dedup();

    let mut work = Construction {
        rules,
        prefixes: Vec::new(),
        intervals: Vec::new(),
        lists: HashMap::new(),
        around: Vec::new(),
    };
    let same = |one: &Claim, other: &Claim| {
        (one.way, one.family, one.addr, one.len) == (other.way, other.family, other.addr, other.len)
    };
    for group in claims.chunk_by(same) {
        work.prefix(group)?;
    }
    Ok(Egress { prefixes: work.prefixes, intervals: work.intervals })
}

fn claims(policy: &Policy) -> Vec<Claim> {
    let mut claims = Vec::new();
    for (index, rule) in policy.egress.rules.iter().enumerate() {
        let strength = (Effect::from(rule.effect), egress_id(index));
        for target in &rule.matcher {
            let mut claim = |net| claims.push(claim(Way::To, net, strength, target));
            match &target.host {
                Host::Net(net) => claim(*net),
                // Programs do not ask for it: it is loopback by definition (RFC 6761).
                Host::Name(name) if name.as_str() == LOCALHOST => {
                    claim(IpAddr::from(Ipv4Addr::LOCALHOST).into());
                    claim(IpAddr::from(Ipv6Addr::LOCALHOST).into());
                }
                Host::Name(_) | Host::Below(..) => {}
            }
        }
    }
    claims
}

/// What the listen rules say, of each address by itself and of the wildcard address.
fn own_claims(policy: &Policy) -> Vec<Claim> {
    let mut claims = Vec::new();
    for (index, rule) in policy.listen.rules.iter().enumerate() {
        let strength = (Effect::from(rule.effect), listen_id(policy, index));
        for target in &rule.matcher {
            let Host::Net(net) = &target.host else { continue };
            claims.push(claim(Way::On, *net, strength, target));
            for any in [Ipv4Net::default().into(), Ipv6Net::default().into()] {
                if is_wildcard_case(strength.0, net, &any) {
                    claims.push(claim(Way::OnAny, any, strength, target));
                }
            }
        }
    }
    claims
}

/// Whether a listen rule with this effect about `net` speaks of the wildcard address of the family
/// that `any`, `0.0.0.0/0` or `::/0`, stands for. A denial does where the wildcard takes one of its
/// addresses in, and that of IPv6 takes in IPv4 too. An allowance does where it holds all of them.
pub fn is_wildcard_case(effect: Effect, net: &IpNet, any: &IpNet) -> bool {
    match (effect, any) {
        (Effect::Deny, IpNet::V4(_)) => matches!(net, IpNet::V4(_)),
        (Effect::Deny, IpNet::V6(_)) => true,
        (Effect::Allow, IpNet::V4(_)) => net == any || is_unspecified(net),
        (Effect::Allow, IpNet::V6(_)) => is_unspecified(net) && matches!(net, IpNet::V6(_)),
    }
}

fn is_unspecified(net: &IpNet) -> bool {
    net.addr().is_unspecified() && net.prefix_len() == net.max_prefix_len()
}

fn claim(way: Way, net: IpNet, strength: Strength, target: &Target) -> Claim {
    let (family, addr) = match net.network() {
        IpAddr::V4(addr) => (Family::V4, u128::from(addr.to_bits()) << 96),
        IpAddr::V6(addr) => (Family::V6, addr.to_bits()),
    };
    let Target { ports, protocols, .. } = target;
    Claim {
        way,
        family,
        addr,
        len: net.prefix_len(),
        strength,
        low: ports.first(),
        high: ports.last(),
        tcp: protocols.tcp(),
        udp: protocols.udp(),
    }
}

struct Construction<'a> {
    rules: &'a [RuleInfo],
    prefixes: Vec<Prefix>,
    intervals: Vec<Interval>,
    /// Lists that were stored already.
    lists: HashMap<Vec<(u16, u16, u32, u32)>, PortSet>,
    /// The prefixes around the current one, the longest last, with their merged lists.
    around: Vec<(Claim, Vec<Range>)>,
}

/// A port range and the strongest that speaks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    low: u16,
    high: u16,
    tcp: Option<Strength>,
    udp: Option<Strength>,
}

impl Construction<'_> {
    /// Adds a prefix, given all that the rules say of exactly it.
    fn prefix(&mut self, claims: &[Claim]) -> Result<(), CompileError> {
        let Some(first) = claims.first() else { return Ok(()) };
        while self.around.pop_if(|(outer, _)| !contains(outer, first)).is_some() {}
        let outer = self.around.last().map_or(&[][..], |(_, ranges)| ranges.as_slice());
        let ranges = merge(outer, claims);
        if ranges.len() > MAX_INTERVALS as usize {
            let last = claims.iter().map(|claim| claim.strength.1).max().unwrap_or_default();
            return Err(CompileError::Intervals {
                prefix: display(first),
                count: ranges.len(),
                rule: rule_ref(self.rules, last),
            });
        }
        // The prefix around it gives the same answers.
        if ranges != outer {
            if self.prefixes.len() == MAX_PREFIXES {
                return Err(CompileError::Egress { what: "address prefixes", limit: MAX_PREFIXES });
            }
            let ports = self.store(&ranges)?;
            let Claim { way, family, .. } = *first;
            let (addr, bits) = (first.addr.to_be_bytes(), u32::from(first.len));
            self.prefixes.push(Prefix { way, family, addr, bits, ports });
        }
        self.around.push((*first, ranges));
        Ok(())
    }

    /// Stores a list of ranges, once.
    fn store(&mut self, ranges: &[Range]) -> Result<PortSet, CompileError> {
        let verdict = |strength: Option<Strength>| match strength {
            Some((effect, rule)) => Verdict::new(effect, rule),
            None => Verdict::UNMATCHED,
        };
        let code = |strength: Option<Strength>| {
            strength.map_or(u32::MAX, |(effect, rule)| (effect as u32) << 16 | u32::from(rule))
        };
        let key = ranges.iter().map(|r| (r.low, r.high, code(r.tcp), code(r.udp))).collect();
        if let Some(ports) = self.lists.get(&key) {
            return Ok(*ports);
        }
        if self.intervals.len() + ranges.len() > MAX_ALL_INTERVALS {
            return Err(CompileError::Egress {
                what: "port ranges under all prefixes together",
                limit: MAX_ALL_INTERVALS,
            });
        }
        let ports = PortSet { first: number(self.intervals.len()), count: number(ranges.len()) };
        self.intervals.extend(ranges.iter().map(|range| Interval {
            low: range.low,
            high: range.high,
            tcp: verdict(range.tcp),
            udp: verdict(range.udp),
        }));
        self.lists.insert(key, ports);
        Ok(ports)
    }
}

fn contains(outer: &Claim, inner: &Claim) -> bool {
    let mask = u128::MAX.checked_shl(128 - u32::from(outer.len)).unwrap_or_default();
    (outer.way, outer.family) == (inner.way, inner.family)
        && outer.len <= inner.len
        && inner.addr & mask == outer.addr
}

fn display(claim: &Claim) -> String {
    let net = match IpAddr::from(claim.addr.to_be_bytes()) {
        IpAddr::V6(addr) if claim.family == Family::V6 => {
            Ipv6Net::new(addr, claim.len).map(IpNet::from)
        }
        _ => {
            let bits = u32::try_from(claim.addr >> 96).unwrap_or_default();
            Ipv4Net::new(bits.into(), claim.len).map(IpNet::from)
        }
    };
    net.map_or_else(|_| "an address".to_owned(), |net| net.to_string())
}

/// Lays `claims` over `outer`: one sweep over the ports at which something begins or ends. Neighbours that
/// say the same are one, but port 53 stays by itself where a rule names it alone: that is how
/// [`agent_guard_common::decide::decide_connect`] knows.
fn merge(outer: &[Range], claims: &[Claim]) -> Vec<Range> {
    #[derive(Clone, Copy)]
    struct Change {
        strength: Strength,
        tcp: bool,
        udp: bool,
        begins: bool,
    }
    let mut changes: BTreeMap<u32, Vec<Change>> = BTreeMap::new();
    let mut add = |low: u16, high: u16, strength, tcp, udp| {
        let change = Change { strength, tcp, udp, begins: true };
        changes.entry(u32::from(low)).or_default().push(change);
        changes.entry(u32::from(high) + 1).or_default().push(Change { begins: false, ..change });
    };
    for range in outer {
        if let Some(strength) = range.tcp {
            add(range.low, range.high, strength, true, false);
        }
        if let Some(strength) = range.udp {
            add(range.low, range.high, strength, false, true);
        }
    }
    for claim in claims {
        add(claim.low, claim.high, claim.strength, claim.tcp, claim.udp);
    }

    let (mut tcp, mut udp) = (Standing::default(), Standing::default());
    let mut ranges: Vec<Range> = Vec::new();
    let mut ports = changes.iter().peekable();
    while let Some((port, here)) = ports.next() {
        for change in here {
            if change.tcp {
                tcp.change(change.strength, change.begins);
            }
            if change.udp {
                udp.change(change.strength, change.begins);
            }
        }
        let Some((end, _)) = ports.peek() else { break };
        let (tcp, udp) = (tcp.strongest(), udp.strongest());
        if tcp.is_none() && udp.is_none() {
            continue;
        }
        let (Ok(low), Ok(high)) = (u16::try_from(*port), u16::try_from(**end - 1)) else { break };
        match ranges.last_mut() {
            Some(last)
                if (last.tcp, last.udp) == (tcp, udp)
                    && last.high.checked_add(1) == Some(low)
                    && low != DNS_PORT
                    && last.high != DNS_PORT =>
            {
                last.high = high;
            }
            _ => ranges.push(Range { low, high, tcp, udp }),
        }
    }
    ranges
}

/// Everything that speaks of the port at which the sweep is.
#[derive(Default)]
struct Standing(BTreeMap<Strength, usize>);

impl Standing {
    fn change(&mut self, strength: Strength, begins: bool) {
        let count = self.0.entry(strength).or_default();
        *count = if begins { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.0.remove(&strength);
        }
    }

    fn strongest(&self) -> Option<Strength> {
        self.0.keys().next().copied()
    }
}
