//! What a question is answered with, and why.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use agent_guard_common::{event::Outcome, table::NO_RULE};
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, Record, RecordType},
};
use ipnet::IpNet;
use tokio::sync::OnceCell;

use super::{
    address::is_internal,
    chain::{Found, follow},
    leases::LeaseBook,
    limit::{Limits, Pass},
    reply::Answer,
    request::{Request, host_name, shown},
    upstream::{PATIENCE, Upstreams},
};
use crate::{
    clock,
    event::{Lookup, LookupAnswer, LookupReason, SafeText},
    policy::compile::{Grant, Judged, NameRules},
};

/// Least and most seconds for which an answer is told to hold. A server that says 0 means "ask again",
/// which no program does between resolving and connecting; and what changed long ago must not be held on
/// to.
const TTL: (u32, u32) = (5, 3_600);

/// Seconds for which an address may be connected to after its answer has ceased to hold: programs use
/// answers to their last second, and then take a while to connect.
const GRACE: u32 = 5;

/// For how long it is remembered that there is nothing.
const NEGATIVE: Duration = Duration::from_secs(5);

/// For how long it is remembered that nobody answered, so that a client's own retries do not multiply.
const UNANSWERED: Duration = Duration::from_secs(1);

/// Answers that are kept, and questions that are under way. Beyond it each is asked for by itself.
const MAX_CACHED: usize = 1_024;

/// Longest label where a wildcard leaves it open, bytes. Names of hosts are shorter; encoded data is
/// longer.
const MAX_OPEN_LABEL: usize = 40;

/// What a proxy is made for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the policy says of names.
    pub names: NameRules,
    /// Whether what no rule names is allowed.
    pub default_allow: bool,
    /// Whether denials are carried out, or only told of.
    pub enforce: bool,
    /// Internal networks that rules list: names may lead there, and the rules say to which ports.
    pub listed: Vec<IpNet>,
    /// Internal networks that names may lead to as to any other address.
    pub internal: Vec<IpNet>,
    /// The name servers to ask; not empty.
    pub upstreams: Vec<SocketAddr>,
}

/// A query and what became of it, with the rule by its number.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The event but for the rule.
    pub lookup: Lookup,
    /// The rule, or [`NO_RULE`].
    pub rule: u16,
}

/// Answers the questions of one agent.
pub struct Resolver {
    settings: Settings,
    upstreams: Upstreams,
    book: Arc<Mutex<LeaseBook>>,
    limits: Mutex<Limits>,
    cache: Mutex<HashMap<Key, Arc<OnceCell<Cached>>>>,
}

type Key = (String, RecordType);

/// What is known of a name.
#[derive(Clone, Debug)]
struct Cached {
    result: Result<Held, LookupReason>,
    until: Instant,
}

#[derive(Clone, Debug)]
struct Held {
    code: ResponseCode,
    aliases: Vec<(Name, Name)>,
    addresses: Vec<IpAddr>,
    withheld: Vec<IpAddr>,
}

/// What the policy says of a question.
struct Ruling {
    reason: LookupReason,
    rule: u16,
    grants: Vec<Grant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Resolver {
    /// A resolver that leases what it tells in `book`.
    #[must_use]
    pub fn new(settings: Settings, book: Arc<Mutex<LeaseBook>>) -> Self {
        Self {
            upstreams: Upstreams::new(settings.upstreams.clone()),
            settings,
            book,
            limits: Mutex::new(Limits::new(Instant::now())),
            cache: Mutex::new(HashMap::new()),
        }
    }

    /// Counts what came in. False where it is too much; then whether that is to be told.
    pub(super) fn admit(&self) -> Result<(), bool> {
        match lock(&self.limits).query(Instant::now()) {
            Pass::Yes => Ok(()),
            Pass::NoTell => Err(true),
            Pass::NoTold => Err(false),
        }
    }

    /// Whether denials are carried out.
    pub(super) fn enforces(&self) -> bool {
        self.settings.enforce
    }

    /// The answer to a question that was admitted, and what is to be told of it.
    pub(super) async fn answer(
        &self,
        request: &Request,
        client: SocketAddr,
        protocol: u16,
    ) -> (Answer, Option<Told>) {
        let (name, kind) = (request.query.name(), request.query.query_type());
        let (ruling, refusal) = self.judge(name, kind);
        let tell = refusal != Some(Pass::NoTold);
        let denied = refusal.is_some();
        let mut lookup = Lookup {
            name: shown(name),
            kind: kind.to_string(),
            client,
            protocol,
            code: u16::from(ResponseCode::NoError),
            answers: Vec::new(),
            withheld: Vec::new(),
            outcome: match (denied, self.settings.enforce) {
                (false, _) => Outcome::Allowed,
                (true, true) => Outcome::Denied,
                (true, false) => Outcome::Observed,
            },
            reason: ruling.reason,
            rule: None,
        };
        let answer = if denied && self.settings.enforce {
            Answer::code(match ruling.reason {
                // "There is no such name" makes every C library go on to its next search domain, or
                // fail at once and say so.
                LookupReason::Rule | LookupReason::Default => ResponseCode::NXDomain,
                _ => ResponseCode::Refused,
            })
        } else {
            match kind {
                RecordType::A | RecordType::AAAA => {
                    self.addresses(name, kind, &ruling.grants, &mut lookup).await
                }
                // Hints of addresses, keys and ports beside the addresses.
                RecordType::HTTPS | RecordType::SVCB => Answer::code(ResponseCode::NoError),
                _ => self.anything(name, kind, &mut lookup).await,
            }
        };
        lookup.code = answer.code.into();
        lookup.answers = answer.records.iter().map(told).collect();
        (answer, tell.then_some(Told { lookup, rule: ruling.rule }))
    }

    /// What the policy says, and where that is no, whether it was told before.
    fn judge(&self, name: &Name, kind: RecordType) -> (Ruling, Option<Pass>) {
        let host = host_name(name);
        let judged = match &host {
            Some(host) => self.settings.names.judge(host),
            None if self.settings.default_allow => {
                Judged::Allowed { rule: NO_RULE, grants: Vec::new(), wildcard: None }
            }
            None => Judged::Denied { rule: NO_RULE },
        };
        let by = |rule| if rule == NO_RULE { LookupReason::Default } else { LookupReason::Rule };
        let (rule, grants, wildcard) = match judged {
            Judged::Denied { rule } => {
                let ruling = Ruling { reason: by(rule), rule, grants: Vec::new() };
                return (ruling, Some(Pass::NoTell));
            }
            Judged::Allowed { rule, grants, wildcard } => (rule, grants, wildcard),
        };
        let no = |reason, pass| (Ruling { reason, rule, grants: Vec::new() }, Some(pass));
        if !matches!(kind, RecordType::A | RecordType::AAAA | RecordType::HTTPS | RecordType::SVCB)
        {
            return no(LookupReason::QueryType, Pass::NoTell);
        }
        if let (Some(wildcard), Some(host)) = (wildcard, &host) {
            let open = wildcard.matches('*').count();
            if host.as_str().split('.').take(open).any(|label| label.len() > MAX_OPEN_LABEL) {
                return no(LookupReason::LongLabel, Pass::NoTell);
            }
            match lock(&self.limits).name(&wildcard, host.as_str(), Instant::now()) {
                Pass::Yes => {}
                pass => return no(LookupReason::Rate, pass),
            }
        }
        (Ruling { reason: by(rule), rule, grants }, None)
    }

    /// The addresses of a name, all of which the agent may connect to from here on.
    async fn addresses(
        &self,
        name: &Name,
        kind: RecordType,
        grants: &[Grant],
        lookup: &mut Lookup,
    ) -> Answer {
        let cell = self.cell((name.to_lowercase().to_ascii(), kind));
        let cached = cell.get_or_init(|| self.resolve(name, kind, grants)).await;
        let held = match &cached.result {
            Ok(held) => held,
            Err(reason) => {
                lookup.reason = *reason;
                if *reason == LookupReason::Lease {
                    lookup.outcome =
                        if self.settings.enforce { Outcome::Denied } else { Outcome::Observed };
                }
                return Answer::code(ResponseCode::ServFail);
            }
        };
        let mut addresses = held.addresses.clone();
        if !held.withheld.is_empty() {
            lookup.withheld.clone_from(&held.withheld);
            if !self.settings.enforce {
                addresses.extend(&held.withheld);
            }
            if held.addresses.is_empty() && lookup.outcome == Outcome::Allowed {
                lookup.reason = LookupReason::Internal;
                lookup.outcome =
                    if self.settings.enforce { Outcome::Denied } else { Outcome::Observed };
            }
        }
        let left = cached.until.saturating_duration_since(Instant::now());
        let ttl = u32::try_from(left.as_secs()).unwrap_or(u32::MAX).max(1);
        Answer::addresses(held.code, name, &held.aliases, &addresses, ttl)
    }

    /// The place where the answer to a question is, or will be: whoever asks the same meanwhile waits for
    /// it.
    fn cell(&self, key: Key) -> Arc<OnceCell<Cached>> {
        let now = Instant::now();
        let valid = |cell: &OnceCell<Cached>| cell.get().is_none_or(|cached| now < cached.until);
        let mut cache = lock(&self.cache);
        if let Some(cell) = cache.get(&key).filter(|cell| valid(cell)) {
            return Arc::clone(cell);
        }
        if cache.len() >= MAX_CACHED {
            cache.retain(|_, cell| valid(cell));
        }
        let cell = Arc::new(OnceCell::new());
        if cache.len() < MAX_CACHED {
            cache.insert(key, Arc::clone(&cell));
        }
        cell
    }

    async fn resolve(&self, name: &Name, kind: RecordType, grants: &[Grant]) -> Cached {
        let found = match follow(&self.upstreams, name, kind).await {
            Ok(found) => found,
            Err(failure) => {
                tracing::debug!("{name} {kind}: {failure}");
                let result = Err(LookupReason::Unanswered);
                return Cached { result, until: Instant::now() + UNANSWERED };
            }
        };
        let (addresses, withheld): (Vec<IpAddr>, Vec<IpAddr>) =
            found.addresses.iter().partition(|address| self.may_be_told(**address));
        let ttl = found.ttl.unwrap_or_default().clamp(TTL.0, TTL.1);
        if let Err(error) = self.lease(name, &addresses, grants, ttl) {
            tracing::warn!("the answer for {name} is withheld: {error:#}");
            return Cached { result: Err(LookupReason::Lease), until: Instant::now() + UNANSWERED };
        }
        let lasts =
            if addresses.is_empty() { NEGATIVE } else { Duration::from_secs(u64::from(ttl)) };
        let Found { code, aliases, .. } = found;
        Cached {
            result: Ok(Held { code, aliases, addresses, withheld }),
            until: Instant::now() + lasts,
        }
    }

    fn may_be_told(&self, address: IpAddr) -> bool {
        self.settings.default_allow
            || !is_internal(address)
            || holds(&self.settings.listed, address)
            || holds(&self.settings.internal, address)
    }

    /// Makes the kernel allow what the agent is about to be told. At internal addresses, rules for the
    /// addresses alone decide, unless the network was given as one that names lead to.
    fn lease(
        &self,
        name: &Name,
        addresses: &[IpAddr],
        grants: &[Grant],
        ttl: u32,
    ) -> Result<(), super::LeaseError> {
        let now_ns = clock::boot_ns();
        let expires_ns = now_ns.saturating_add(u64::from(ttl + GRACE) * 1_000_000_000);
        let host = shown(&name.to_lowercase());
        let mut book = lock(&self.book);
        for address in addresses {
            if is_internal(*address) && !holds(&self.settings.internal, *address) {
                continue;
            }
            book.grant(host.as_str(), *address, grants, now_ns, expires_ns)?;
        }
        Ok(())
    }

    /// What the name servers say, as it is: where nothing is enforced.
    async fn anything(&self, name: &Name, kind: RecordType, lookup: &mut Lookup) -> Answer {
        let until = tokio::time::Instant::now() + PATIENCE;
        match self.upstreams.ask(name, kind, until).await {
            Ok(message) => {
                Answer { code: message.metadata.response_code, records: message.answers }
            }
            Err(failure) => {
                tracing::debug!("{name} {kind}: {failure}");
                lookup.reason = LookupReason::Unanswered;
                Answer::code(ResponseCode::ServFail)
            }
        }
    }
}

fn told(record: &Record) -> LookupAnswer {
    LookupAnswer {
        kind: record.record_type().to_string(),
        data: SafeText::new(record.data.to_string().as_bytes()),
        ttl: record.ttl,
    }
}

fn holds(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}
