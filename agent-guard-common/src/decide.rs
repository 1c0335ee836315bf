//! The decision: pure, written once, over [`Tables`].
//!
//! Two implementers exist: the BPF maps, and the compiled tables in user space.

use crate::{
    limits::MAX_INTERVALS,
    numbered::numbered,
    table::{
        Access, Agent, DEAD, Effect, Family, Interval, Lease, LeaseKey, NO_RULE, PortSet, State,
        Verdict,
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
    fn prefix(&self, family: Family, addr: [u8; 16]) -> Option<PortSet>;
    /// A port range by its index.
    fn interval(&self, index: u32) -> Option<Interval>;
    /// What rules with host names say of an address for now.
    fn lease(&self, key: &LeaseKey) -> Option<&Lease>;
    /// Nanoseconds on `CLOCK_BOOTTIME`, by which leases end.
    fn now_ns(&self) -> u64;
}

numbered! {
    /// Why a decision came out as it did.
    pub enum Reason {
        /// The rule that the decision names.
        Rule,
        /// No rule matched.
        Default,
        /// A guarded object (device, kernel memory, other process) that no rule names exactly.
        Guarded,
        /// A pipe reached by name: both ends were opened by somebody who could.
        Pipe,
        /// The file system is not one that the policy was compiled for.
        UnknownFilesystem,
        /// The object hangs in no tree: its path can not be known.
        Detached,
        /// More components than [`crate::limits::MAX_DEPTH`].
        TooDeep,
        /// More bytes than [`crate::limits::PATH_BYTES`].
        TooLong,
        /// A kernel read or a look-up that must succeed did not.
        Failed,
        /// Not TCP or UDP over IPv4 or IPv6.
        Protocol,
        /// An interface that this tier can not judge, closed to agents.
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

    #[inline(always)]
    fn from_verdict(verdict: Verdict, default: u8) -> Self {
        match verdict.effect() {
            // The compiler's own word on what only an exact rule opens, such as kernel memory.
            Some(Effect::Deny) if verdict.rule() == NO_RULE => Self::deny(Reason::Guarded),
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
    /// Opened by the kernel to be run: the program itself, or the loader that it names. A loader
    /// may also be a file that the agent can read and not write.
    Load = 4,
}

/// Decides what is asked of the object at which the walk ended. `guarded` objects are allowed only
/// by patterns without wildcards.
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
        Request::Load => {
            let exec = of(Access::Exec);
            let read = of(Access::Read);
            let fixed = read.effect == Effect::Allow && of(Access::Write).effect == Effect::Deny;
            if exec.effect == Effect::Deny && fixed { read } else { exec }
        }
    }
}

#[inline(always)]
fn one_access(row: &State, agent: &Agent, access: Access, guarded: bool) -> Decision {
    let (default, plain, exact) = match access {
        Access::Read => (agent.default_file[0], row.verdicts[0], row.guarded[0]),
        Access::Write => (agent.default_file[1], row.verdicts[1], row.guarded[1]),
        Access::Exec => (agent.default_file[2], row.verdicts[2], row.guarded[2]),
    };
    match (guarded, exact.effect()) {
        (false, _) => Decision::from_verdict(plain, default),
        (true, Some(_)) => Decision::from_verdict(exact, default),
        (true, None) => Decision::deny(Reason::Guarded),
    }
}

/// Where a connection goes.
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

impl Endpoint {
    /// Of two verdicts the one over this transport.
    #[inline(always)]
    fn of(&self, tcp: Verdict, udp: Verdict) -> Verdict {
        match self.transport {
            Transport::Tcp => tcp,
            Transport::Udp => udp,
        }
    }

    /// An IPv4 endpoint. The wildcard address is loopback, as the kernel takes it.
    #[inline(always)]
    pub fn v4(addr: [u8; 4], port: u16, transport: Transport) -> Self {
        let [a, b, c, d] = if addr == [0; 4] { [127, 0, 0, 1] } else { addr };
        let addr = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        Self { family: Family::V4, addr, port, transport }
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
    let interval = match interval_of(tables, endpoint) {
        Ok(interval) => interval,
        Err(reason) => return Decision::deny(reason),
    };
    let spoken = endpoint.of(interval.tcp, interval.udp);
    let named = interval.low == DNS_PORT && interval.high == DNS_PORT && spoken.effect().is_some();
    if divertible && endpoint.port == DNS_PORT && !named && dns_port(agent, endpoint.family) != 0 {
        return Decision { effect: Effect::Allow, rule: NO_RULE, reason: Reason::Diverted };
    }
    if spoken.effect().is_some() {
        return Decision::from_verdict(spoken, default);
    }
    let key = LeaseKey::new(agent.cgroup, endpoint.family, endpoint.addr);
    let leased = match tables.lease(&key) {
        Some(lease) => decide_lease(lease, tables.now_ns(), endpoint),
        None => Verdict::UNMATCHED,
    };
    Decision::from_verdict(leased, default)
}

/// The port of the agent's DNS proxy for queries over `family`, or 0.
#[inline(always)]
pub fn dns_port(agent: &Agent, family: Family) -> u16 {
    match family {
        Family::V4 => agent.dns_ports[0],
        Family::V6 => agent.dns_ports[1],
    }
}

/// The range that the port is in. One that says nothing, where no rule speaks of it.
#[inline(always)]
fn interval_of(tables: &impl Tables, endpoint: &Endpoint) -> Result<Interval, Reason> {
    const SILENT: Interval =
        Interval { low: 0, high: 0, tcp: Verdict::UNMATCHED, udp: Verdict::UNMATCHED };
    let Some(set) = tables.prefix(endpoint.family, endpoint.addr) else { return Ok(SILENT) };
    if set.count > MAX_INTERVALS {
        return Err(Reason::Failed);
    }
    let (mut low, mut high) = (0, set.count);
    for _ in 0..=MAX_INTERVALS.ilog2() {
        if low >= high {
            break;
        }
        let middle = (low + high) / 2;
        let Some(interval) = tables.interval(set.first.wrapping_add(middle)) else {
            return Err(Reason::Failed);
        };
        if endpoint.port < interval.low {
            high = middle;
        } else if endpoint.port > interval.high {
            low = middle + 1;
        } else {
            return Ok(interval);
        }
    }
    Ok(SILENT)
}

/// Ports that C libraries (glibc, musl) connect a UDP socket to, to learn which of a name's addresses have
/// a route. Nothing is sent for that.
const ROUTE_PROBES: [u16; 2] = [0, u16::MAX];

/// What the slots that are still valid say. An address at which they allow anything may be probed.
#[inline(always)]
fn decide_lease(lease: &Lease, now_ns: u64, endpoint: &Endpoint) -> Verdict {
    let port = endpoint.port;
    let probe = endpoint.transport as u16 == Transport::Udp as u16
        && (port == ROUTE_PROBES[0] || port == ROUTE_PROBES[1]);
    let mut found = Verdict::UNMATCHED;
    for slot in &lease.slots {
        if now_ns >= slot.expires_ns {
            continue;
        }
        let spoken = if slot.low <= port && port <= slot.high {
            endpoint.of(slot.tcp, slot.udp)
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
