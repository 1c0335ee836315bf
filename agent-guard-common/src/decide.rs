//! The decision: pure, written once, over [`Tables`].
//!
//! Two implementers exist: the BPF maps, and the compiled tables in user space.

use crate::{
    event::Operation,
    limits::MAX_INTERVALS,
    numbered::numbered,
    table::{
        Access, Agent, Alias, ChangeTime, DEAD, Effect, Family, Interval, Lease, LeaseKey, NO_RULE,
        PortSet, State, Verdict, Way,
    },
};

/// A compiled policy, wherever it is kept.
pub trait Tables {
    /// State at the root of the file system `dev`, if the policy knows it.
    fn start(&self, dev: u32) -> Option<u32>;
    /// State after `symbol` in `state`, where the policy names that symbol.
    fn edge(&self, state: u32, symbol: u64) -> Option<u32>;
    /// State after a component that no edge of `state` names.
    fn other(&self, state: u32) -> Option<u32>;
    /// The row of `state`.
    fn state(&self, state: u32) -> Option<State>;
    /// Port ranges of the longest prefix that holds the address.
    fn prefix(&self, way: Way, family: Family, addr: [u8; 16]) -> Option<PortSet>;
    /// A port range by its index.
    fn interval(&self, index: u32) -> Option<Interval>;
    /// What rules with host names say for now of the port at an address: [`decide_lease`] on its lease.
    fn leased(&self, key: &LeaseKey, port: u16, transport: Transport) -> Verdict;
}

numbered! {
    /// Why a decision came out as it did.
    pub enum Reason {
        /// The rule that the decision names.
        Rule,
        /// No rule matched.
        Default,
        /// A guarded object (device, kernel memory, other process, terminal of others) that no rule names
        /// exactly.
        Guarded,
        /// A pipe or anonymous memory: whoever made it could, and put there what is in it.
        Pipe,
        /// The file system is not one that the policy was compiled for.
        UnknownFilesystem,
        /// The object hangs in no tree, or is to run and has no name any more: no path stands for it.
        Detached,
        /// More components than [`crate::limits::MAX_DEPTH`].
        TooDeep,
        /// More bytes than [`crate::limits::PATH_BYTES`].
        TooLong,
        /// A kernel read or a look-up that must succeed did not.
        Failed,
        /// Not of a family and protocol that agents may use.
        Protocol,
        /// An interface of which the tier can not judge what goes through it, closed to agents.
        Interface,
        /// The agent is known and its policy is not in the kernel.
        NoPolicy,
        /// A rename or link between places whose verdicts differ.
        Differs,
        /// A socket, process or the like of the agent itself.
        Own,
        /// The file has another name that is denied.
        Alias,
        /// Name queries, which the guard's own DNS proxy gets in place of whom they were sent to.
        Diverted,
        /// Not the file that the rule pinned, or changed since.
        Changed,
    }
}

impl Reason {
    /// Whether the guard itself fell short here, rather than the policy having spoken.
    #[inline(always)]
    pub fn is_failure(self) -> bool {
        matches!(
            self,
            Self::Detached | Self::TooDeep | Self::TooLong | Self::Failed | Self::NoPolicy
        )
    }
}

/// The outcome of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What was decided.
    pub effect: Effect,
    /// The rule that decided, or [`NO_RULE`].
    pub rule: u16,
    /// Why.
    pub reason: Reason,
}

impl Decision {
    /// A denial without a rule.
    #[inline(always)]
    pub const fn deny(reason: Reason) -> Self {
        Self { effect: Effect::Deny, rule: NO_RULE, reason }
    }

    /// In one word, for a function that can return no more.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        (self.effect as u64) << 32 | (self.reason as u64) << 16 | self.rule as u64
    }

    /// The way back from [`Self::pack`]; what is no decision denies.
    #[inline(always)]
    pub fn unpack(word: u64) -> Self {
        let effect = if word >> 32 == Effect::Allow as u64 { Effect::Allow } else { Effect::Deny };
        let reason = Reason::from_number((word >> 16) as u8).unwrap_or(Reason::Failed);
        Self { effect, rule: word as u16, reason }
    }

    #[inline(always)]
    fn from_verdict(verdict: Verdict, default: u8) -> Self {
        match verdict.effect() {
            // The compiler's own word on what only an exact rule opens, such as kernel memory.
            Some(Effect::Deny) if verdict.rule() == NO_RULE => Self::deny(Reason::Guarded),
            // Until `decide_pin` has seen the file.
            Some(Effect::Allow) if verdict.is_pinned() => {
                Self { effect: Effect::Deny, rule: verdict.rule(), reason: Reason::Changed }
            }
            Some(effect) => Self { effect, rule: verdict.rule(), reason: Reason::Rule },
            None if default == Effect::Allow as u8 => {
                Self { effect: Effect::Allow, rule: NO_RULE, reason: Reason::Default }
            }
            None => Self::deny(Reason::Default),
        }
    }
}

/// One component of a path: the hash of its name and its glob class.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// [`crate::hash::name_symbol`], or [`Agent::self_symbol`].
    pub literal: u64,
    /// Number of the glob class, or 0.
    pub class: u64,
}

/// The state after `component`, or `None` where the tables are broken.
#[inline(always)]
pub fn step(tables: &impl Tables, state: u32, component: Component) -> Option<u32> {
    if state == DEAD {
        return Some(DEAD);
    }
    if let Some(next) = tables.edge(state, component.literal) {
        return Some(next);
    }
    if component.class != 0
        && let Some(next) = tables.edge(state, component.class)
    {
        return Some(next);
    }
    tables.other(state)
}

/// What is asked of a file.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Open for reading.
    Read = 0,
    /// Open for writing, create, truncate.
    Write = 1,
    /// Open for both.
    ReadWrite = 2,
    /// Run as a program or script.
    Exec = 3,
    /// Mapped as code, or opened by the kernel to be: the program itself, the loader that it names, a
    /// library. Where no rule names it under `exec`, it may also be a file that the agent can read and
    /// not write.
    Load = 4,
    /// Connect to the UNIX-domain socket that it is, or send it a datagram.
    Connect = 5,
}

/// Decides what is asked of the object at which the walk ended. `guarded` objects are allowed only
/// by patterns without wildcards. What a rule with a pin allows is denied here as [`Reason::Changed`], and
/// then up to [`decide_pin`].
#[inline(always)]
pub fn decide_file(
    tables: &impl Tables,
    agent: &Agent,
    state: u32,
    request: Request,
    guarded: bool,
) -> Decision {
    // A row on every path: see `State::NOTHING`.
    let row = if state == DEAD { Some(State::NOTHING) } else { tables.state(state) };
    let Some(row) = row else { return Decision::deny(Reason::Failed) };
    let of = |access: Access| one_access(&row, agent, access, guarded);
    match request {
        Request::Read => of(Access::Read),
        Request::Write => of(Access::Write),
        Request::ReadWrite => {
            let read = of(Access::Read);
            if read.effect == Effect::Deny { read } else { of(Access::Write) }
        }
        Request::Exec => of(Access::Exec),
        Request::Connect => of(Access::Connect),
        Request::Load => {
            let (exec, read) = (of(Access::Exec), of(Access::Read));
            let fixed = read.effect == Effect::Allow && of(Access::Write).effect == Effect::Deny;
            // A rule that denies the program denies its code too; only the lack of one gives way.
            let unnamed = exec.effect == Effect::Deny && exec.reason == Reason::Default;
            if unnamed && fixed { read } else { exec }
        }
    }
}

#[inline(always)]
fn one_access(row: &State, agent: &Agent, access: Access, guarded: bool) -> Decision {
    let (default, plain, exact) = match access {
        Access::Read => (agent.default_file[0], row.verdicts[0], row.guarded[0]),
        Access::Write => (agent.default_file[1], row.verdicts[1], row.guarded[1]),
        Access::Exec => (agent.default_file[2], row.verdicts[2], row.guarded[2]),
        Access::Connect => (agent.default_file[3], row.verdicts[3], row.guarded[3]),
    };
    match (guarded, exact.effect()) {
        (false, _) => Decision::from_verdict(plain, default),
        (true, Some(_)) => Decision::from_verdict(exact, default),
        (true, None) => Decision::deny(Reason::Guarded),
    }
}

/// What the file itself changes of a denial as [`Reason::Changed`]: the one that was `pinned`, if any, was
/// last changed then and not `now`.
#[inline(always)]
pub fn decide_pin(pinned: Option<&ChangeTime>, now: &ChangeTime, by_name: Decision) -> Decision {
    match pinned {
        Some(then) if then == now && by_name.reason == Reason::Changed => {
            Decision { effect: Effect::Allow, reason: Reason::Rule, ..by_name }
        }
        _ => by_name,
    }
}

/// What a file's other names change of what was decided by one: a rule that denies any of them denies the
/// file.
#[inline(always)]
pub fn decide_alias(
    alias: &Alias,
    generation: u32,
    request: Request,
    by_name: Decision,
) -> Decision {
    if by_name.effect == Effect::Deny || alias.has_generation == 1 && alias.generation != generation
    {
        return by_name;
    }
    let [read, write, exec, connect] = alias.verdicts;
    let (one, other) = match request {
        Request::Read => (read, read),
        Request::Write => (write, write),
        Request::ReadWrite => (read, write),
        Request::Exec => (exec, exec),
        Request::Load => (exec, read),
        Request::Connect => (connect, connect),
    };
    let denial = |verdict: Verdict| Decision {
        effect: Effect::Deny,
        rule: verdict.rule(),
        reason: Reason::Alias,
    };
    match (one.effect(), other.effect()) {
        (Some(Effect::Deny), _) => denial(one),
        (_, Some(Effect::Deny)) => denial(other),
        _ => by_name,
    }
}

/// What changes its place, or gets another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// A directory is: all that lies below it moves too.
    pub directory: bool,
    /// A guarded object is.
    pub guarded: bool,
}

/// Whether the policy says the same of two places, so that moving what is at one to the other changes
/// nothing of what may be done with it. A denial by a rule is not the same as one by default.
#[inline(always)]
pub fn alike(tables: &impl Tables, agent: &Agent, one: u32, other: u32, moved: Moved) -> bool {
    if one == other {
        return true;
    }
    let row = |state| if state == DEAD { Some(State::NOTHING) } else { tables.state(state) };
    // Each is looked at before the next: else the compiler keeps what is not there, which the kernel's
    // verifier refuses.
    let Some(one) = row(one) else { return false };
    let Some(other) = row(other) else { return false };
    if moved.directory {
        return one.subtree == other.subtree;
    }
    let plain = one.verdicts.iter().zip(&other.verdicts).zip(&agent.default_file);
    let exact = one.guarded.iter().zip(&other.guarded);
    plain
        .into_iter()
        .all(|((one, other), default)| one.standing(*default) == other.standing(*default))
        && (!moved.guarded
            || exact.into_iter().all(|(one, other)| one.standing(0) == other.standing(0)))
}

/// Decides what reaches out of the agent without a file or a connection.
#[inline(always)]
pub fn decide_operation(agent: &Agent, operation: Operation) -> Decision {
    let Some(verdict) = agent.operations.get(operation as usize) else {
        return Decision::deny(Reason::Failed);
    };
    let rule = verdict.rule();
    let reason = if rule == NO_RULE { Reason::Default } else { Reason::Rule };
    Decision { effect: verdict.effect().unwrap_or(Effect::Deny), rule, reason }
}

/// One end of a connection: the far one, or the agent's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Family after normalisation ([`Endpoint::v6`]).
    pub family: Family,
    /// Address in network byte order; IPv4 in the first four bytes, the rest zero.
    pub addr: [u8; 16],
    /// Port in host byte order.
    pub port: u16,
    /// Transport.
    pub transport: Transport,
}

/// Transport protocols that a rule can name, by their IP protocol number.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP
    Tcp = 6,
    /// UDP
    Udp = 17,
}

impl Transport {
    /// Of two verdicts the one over this transport.
    #[inline(always)]
    fn of(self, tcp: Verdict, udp: Verdict) -> Verdict {
        match self {
            Self::Tcp => tcp,
            Self::Udp => udp,
        }
    }
}

impl Endpoint {
    /// An IPv4 endpoint. The wildcard address is loopback, as the kernel takes it.
    #[inline(always)]
    pub fn v4(addr: [u8; 4], port: u16, transport: Transport) -> Self {
        Self::own_v4(if addr == [0; 4] { [127, 0, 0, 1] } else { addr }, port, transport)
    }

    /// An IPv6 endpoint; IPv4-mapped becomes IPv4, the wildcard address loopback.
    #[inline(always)]
    pub fn v6(addr: [u8; 16], port: u16, transport: Transport) -> Self {
        match addr {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => {
                Self::v4([a, b, c, d], port, transport)
            }
            _ => {
                let mut addr = addr;
                if addr == [0; 16] {
                    addr[15] = 1;
                }
                Self { family: Family::V6, addr, port, transport }
            }
        }
    }

    /// An IPv4 address of this host. The wildcard address stays what it is.
    #[inline(always)]
    pub fn own_v4(addr: [u8; 4], port: u16, transport: Transport) -> Self {
        let [a, b, c, d] = addr;
        let addr = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        Self { family: Family::V4, addr, port, transport }
    }

    /// An IPv6 address of this host; IPv4-mapped becomes IPv4. The wildcard address stays what it is,
    /// and takes IPv4 in whatever `IPV6_V6ONLY` says: the agent may change that.
    #[inline(always)]
    pub fn own_v6(addr: [u8; 16], port: u16, transport: Transport) -> Self {
        match addr {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => {
                Self::own_v4([a, b, c, d], port, transport)
            }
            _ => Self { family: Family::V6, addr, port, transport },
        }
    }
}

/// The port of name servers.
pub const DNS_PORT: u16 = 53;

/// Decides a connection, or a datagram, to `endpoint`. Where `divertible` says that the traffic can be
/// sent to the agent's DNS proxy, name queries are, unless a rule speaks of port 53 alone.
///
/// What the addresses say is asked first, then what the rules with host names say of this address now.
#[inline(always)]
pub fn decide_connect(
    tables: &impl Tables,
    agent: &Agent,
    endpoint: &Endpoint,
    divertible: bool,
) -> Decision {
    let default = agent.default_egress;
    let interval = match interval_of(tables, Way::To, endpoint) {
        Ok(interval) => interval,
        Err(reason) => return Decision::deny(reason),
    };
    let spoken = endpoint.transport.of(interval.tcp, interval.udp);
    let named = interval.low == DNS_PORT && interval.high == DNS_PORT && spoken.effect().is_some();
    if divertible && endpoint.port == DNS_PORT && !named && dns_port(agent, endpoint.family) != 0 {
        return Decision { effect: Effect::Allow, rule: NO_RULE, reason: Reason::Diverted };
    }
    if spoken.effect().is_some() {
        return Decision::from_verdict(spoken, default);
    }
    let key = LeaseKey::new(agent.cgroup, endpoint.family, endpoint.addr);
    Decision::from_verdict(tables.leased(&key, endpoint.port, endpoint.transport), default)
}

/// The port of the agent's DNS proxy for queries over `family`, or 0.
#[inline(always)]
pub fn dns_port(agent: &Agent, family: Family) -> u16 {
    match family {
        Family::V4 => agent.dns_ports[0],
        Family::V6 => agent.dns_ports[1],
    }
}

/// Decides listening on `endpoint`, an [`Endpoint::own_v4`] or [`Endpoint::own_v6`]. The wildcard
/// address is every address at once.
#[inline(always)]
pub fn decide_listen(tables: &impl Tables, agent: &Agent, endpoint: &Endpoint) -> Decision {
    let way = if endpoint.addr == [0; 16] { Way::OnAny } else { Way::On };
    match interval_of(tables, way, endpoint) {
        Ok(interval) => {
            let spoken = endpoint.transport.of(interval.tcp, interval.udp);
            Decision::from_verdict(spoken, agent.default_listen)
        }
        Err(reason) => Decision::deny(reason),
    }
}

/// The range that the port is in. One that says nothing, where no rule speaks of it.
#[inline(always)]
fn interval_of(tables: &impl Tables, way: Way, endpoint: &Endpoint) -> Result<Interval, Reason> {
    const SILENT: Interval =
        Interval { low: 0, high: 0, tcp: Verdict::UNMATCHED, udp: Verdict::UNMATCHED };
    let Some(set) = tables.prefix(way, endpoint.family, endpoint.addr) else { return Ok(SILENT) };
    if set.count == 0 {
        return Ok(SILENT);
    }
    if set.count > MAX_INTERVALS {
        return Err(Reason::Failed);
    }
    // How many intervals begin at the port or below, by steps of falling powers of two. Whether a step is
    // taken is computed and not branched on: the kernel's verifier would follow both ways of every step,
    // 2^11 in all.
    let port = u64::from(endpoint.port);
    // Most have one, which the look-up behind the steps is about.
    let mut below = u64::from(set.count == 1);
    let mut step = if below == 1 { 0 } else { u64::from(MAX_INTERVALS.next_power_of_two()) };
    while step > 0 {
        let inside = is_less(below + step - 1, u64::from(set.count));
        let index = (below + step - 1) * inside;
        let Some(interval) = tables.interval(set.first.wrapping_add(index as u32)) else {
            return Err(Reason::Failed);
        };
        below += step * (inside & is_less(u64::from(interval.low), port + 1));
        step /= 2;
    }
    if below == 0 {
        return Ok(SILENT);
    }
    let Some(interval) = tables.interval(set.first.wrapping_add(below as u32 - 1)) else {
        return Err(Reason::Failed);
    };
    let inside = (u64::from(interval.low)..=u64::from(interval.high)).contains(&port);
    Ok(if inside { interval } else { SILENT })
}

/// 1 where `left` is less than `right`, else 0, both below 2^63.
#[inline(always)]
fn is_less(left: u64, right: u64) -> u64 {
    left.wrapping_sub(right) >> 63
}

/// Ports that C libraries (glibc, musl) connect a UDP socket to, to learn which of a name's addresses have
/// a route. Nothing is sent for that.
const ROUTE_PROBES: [u16; 2] = [0, u16::MAX];

/// What the slots that are still valid at `now_ns`, on `CLOCK_BOOTTIME`, say. An address at which they
/// allow anything may be probed.
#[inline(always)]
pub fn decide_lease(lease: &Lease, now_ns: u64, port: u16, transport: Transport) -> Verdict {
    let probe = transport as u16 == Transport::Udp as u16
        && (port == ROUTE_PROBES[0] || port == ROUTE_PROBES[1]);
    let mut found = Verdict::UNMATCHED;
    for slot in &lease.slots {
        if now_ns >= slot.expires_ns {
            continue;
        }
        let spoken = if slot.low <= port && port <= slot.high {
            transport.of(slot.tcp, slot.udp)
        } else {
            Verdict::UNMATCHED
        };
        match (spoken.effect(), slot.tcp.effect()) {
            (Some(Effect::Deny), _) => return spoken,
            (Some(Effect::Allow), _) => found = spoken,
            (None, Some(Effect::Allow)) if probe => found = slot.tcp,
            (None, _) if probe && matches!(slot.udp.effect(), Some(Effect::Allow)) => {
                found = slot.udp;
            }
            (None, _) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{ACCESS_KINDS, NO_RING, OPERATIONS};

    const ALLOWED: Decision = Decision { effect: Effect::Allow, rule: 7, reason: Reason::Rule };
    const AGENT: Agent = Agent {
        hash_key: [0; 2],
        self_symbol: 0,
        cgroup: 1,
        policy: 1,
        flags: 0,
        default_file: [0; ACCESS_KINDS],
        default_egress: 0,
        default_listen: 0,
        dns_ports: [0; 2],
        reserved: [0; 2],
        ring: NO_RING,
        operations: [Verdict::UNMATCHED; OPERATIONS],
    };

    /// Every state is this one.
    struct OneState(State);

    impl Tables for OneState {
        fn start(&self, _dev: u32) -> Option<u32> {
            Some(1)
        }

        fn edge(&self, _state: u32, _symbol: u64) -> Option<u32> {
            None
        }

        fn other(&self, _state: u32) -> Option<u32> {
            Some(1)
        }

        fn state(&self, _state: u32) -> Option<State> {
            Some(self.0)
        }

        fn prefix(&self, _way: Way, _family: Family, _addr: [u8; 16]) -> Option<PortSet> {
            None
        }

        fn interval(&self, _index: u32) -> Option<Interval> {
            None
        }

        fn leased(&self, _key: &LeaseKey, _port: u16, _transport: Transport) -> Verdict {
            Verdict::UNMATCHED
        }
    }

    const NO_READING: Alias = Alias {
        verdicts: [
            Verdict::new(Effect::Deny, 3),
            Verdict::UNMATCHED,
            Verdict::UNMATCHED,
            Verdict::UNMATCHED,
        ],
        generation: 5,
        has_generation: 1,
    };

    #[test]
    fn a_decision_comes_back_from_its_word() {
        for reason in Reason::ALL.iter().copied() {
            for effect in [Effect::Deny, Effect::Allow] {
                let decision = Decision { effect, rule: 0x8001, reason };
                assert_eq!(Decision::unpack(decision.pack()), decision);
            }
        }
        assert_eq!(Decision::unpack(u64::MAX).effect, Effect::Deny);
    }

    #[test]
    fn a_denial_of_another_name_beats_what_this_name_allows() {
        let denied = Decision { effect: Effect::Deny, rule: 3, reason: Reason::Alias };
        for request in [Request::Read, Request::ReadWrite, Request::Load] {
            assert_eq!(decide_alias(&NO_READING, 5, request, ALLOWED), denied);
        }
        for request in [Request::Write, Request::Exec] {
            assert_eq!(decide_alias(&NO_READING, 5, request, ALLOWED), ALLOWED);
        }
        let by_name = Decision::deny(Reason::Default);
        assert_eq!(decide_alias(&NO_READING, 5, Request::Read, by_name), by_name);
    }

    #[test]
    fn a_pin_allows_the_file_that_was_pinned_unchanged_and_no_other() {
        let by_name = Decision::from_verdict(Verdict::pinned(7), Effect::Allow as u8);
        let denied = Decision { effect: Effect::Deny, rule: 7, reason: Reason::Changed };
        assert_eq!(by_name, denied);
        let then = ChangeTime::new(5, 6);
        assert_eq!(decide_pin(Some(&then), &then, by_name), ALLOWED);
        for now in [ChangeTime::new(5, 7), ChangeTime::new(4, 6), ChangeTime::new(6, 6)] {
            assert_eq!(decide_pin(Some(&then), &now, by_name), denied);
        }
        assert_eq!(decide_pin(None, &then, by_name), denied);
        for other in [Decision::deny(Reason::Default), Decision::deny(Reason::Guarded), ALLOWED] {
            assert_eq!(decide_pin(Some(&then), &then, other), other);
        }
    }

    #[test]
    fn a_pin_gives_way_to_no_rule_about_reading_where_code_is_mapped() {
        let row = State {
            verdicts: [
                Verdict::new(Effect::Allow, 1),
                Verdict::UNMATCHED,
                Verdict::pinned(7),
                Verdict::UNMATCHED,
            ],
            ..State::NOTHING
        };
        let exec = one_access(&row, &AGENT, Access::Exec, false);
        assert_eq!((exec.effect, exec.reason), (Effect::Deny, Reason::Changed));
        assert_eq!(decide_file(&OneState(row), &AGENT, 1, Request::Load, false), exec);
    }

    #[test]
    fn the_mark_that_kernels_keep_in_a_change_time_is_no_part_of_it() {
        assert_eq!(ChangeTime::new(1, 1 << 31 | 999_999_999), ChangeTime::new(1, 999_999_999));
    }

    #[test]
    fn places_that_different_rules_pin_are_not_alike() {
        let standing = |verdict: Verdict| verdict.standing(Effect::Allow as u8);
        assert_eq!(standing(Verdict::pinned(7)), standing(Verdict::pinned(7)));
        assert_ne!(standing(Verdict::pinned(7)), standing(Verdict::pinned(8)));
        assert_ne!(standing(Verdict::pinned(7)), standing(Verdict::UNMATCHED));
    }

    #[test]
    fn a_later_file_of_the_same_number_is_another_where_that_is_known() {
        assert_eq!(decide_alias(&NO_READING, 6, Request::Read, ALLOWED), ALLOWED);
        let unknown = Alias { has_generation: 0, ..NO_READING };
        assert_eq!(decide_alias(&unknown, 6, Request::Read, ALLOWED).reason, Reason::Alias);
    }
}
