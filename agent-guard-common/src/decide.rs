//! The decision: pure, written once, over [`Tables`].
//!
//! Two implementers exist: the BPF maps, and the compiled tables in user space.

use crate::{
    limits::MAX_INTERVALS,
    numbered::numbered,
    table::{Access, Agent, DEAD, Effect, Family, Interval, NO_RULE, PortSet, State, Verdict, Way},
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
        /// Not of a family and protocol that agents may use.
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
    /// Connect to the UNIX-domain socket that it is, or send it a datagram.
    Connect = 5,
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
        Request::Connect => of(Access::Connect),
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
        Access::Connect => (agent.default_file[3], row.verdicts[3], row.guarded[3]),
    };
    match (guarded, exact.effect()) {
        (false, _) => Decision::from_verdict(plain, default),
        (true, Some(_)) => Decision::from_verdict(exact, default),
        (true, None) => Decision::deny(Reason::Guarded),
    }
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

impl Endpoint {
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

/// Decides a connection, or a datagram, to `endpoint`.
#[inline(always)]
pub fn decide_connect(tables: &impl Tables, agent: &Agent, endpoint: &Endpoint) -> Decision {
    decide_port(tables, Way::To, agent.default_egress, endpoint)
}

/// Decides listening on `endpoint`, an [`Endpoint::own_v4`] or [`Endpoint::own_v6`]. The wildcard
/// address is every address at once.
#[inline(always)]
pub fn decide_listen(tables: &impl Tables, agent: &Agent, endpoint: &Endpoint) -> Decision {
    let way = if endpoint.addr == [0; 16] { Way::OnAny } else { Way::On };
    decide_port(tables, way, agent.default_listen, endpoint)
}

#[inline(always)]
fn decide_port(tables: &impl Tables, way: Way, default: u8, endpoint: &Endpoint) -> Decision {
    let Some(set) = tables.prefix(way, endpoint.family, endpoint.addr) else {
        return Decision::from_verdict(Verdict::UNMATCHED, default);
    };
    if set.count > MAX_INTERVALS {
        return Decision::deny(Reason::Failed);
    }
    let (mut low, mut high) = (0, set.count);
    for _ in 0..=MAX_INTERVALS.ilog2() {
        if low >= high {
            break;
        }
        let middle = (low + high) / 2;
        let Some(interval) = tables.interval(set.first.wrapping_add(middle)) else {
            return Decision::deny(Reason::Failed);
        };
        if endpoint.port < interval.low {
            high = middle;
        } else if endpoint.port > interval.high {
            low = middle + 1;
        } else {
            let verdict = match endpoint.transport {
                Transport::Tcp => interval.tcp,
                Transport::Udp => interval.udp,
            };
            return Decision::from_verdict(verdict, default);
        }
    }
    Decision::from_verdict(Verdict::UNMATCHED, default)
}
