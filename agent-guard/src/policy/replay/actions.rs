//! Every distinct action of a recording, once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    net::IpAddr,
};

use agent_guard_common::event::{Action as Kind, Outcome};

use super::question::{Question, Unasked};
use crate::{
    event::{Body, Lookup, Record},
    policy::{HostName, compile::Path},
};

/// Most distinct actions that are kept: some 100 MiB. An agent could make up names without end; what comes later is
/// counted and told.
pub const MAX_ACTIONS: usize = 1 << 18;

/// Most addresses whose names are kept, and most lookups of one: as much as an agent may have at once.
const MAX_NAMED: usize = 8192;

/// Something that was done, however often.
#[derive(Clone, Debug)]
pub struct Action {
    /// What a policy is asked of it.
    pub question: Question,
    /// Events that tell of it.
    pub events: u64,
    /// When it was first told of, nanoseconds since the Unix epoch.
    pub first_ns: u64,
    /// Of the events, those whose action was carried out although the policy denied it.
    pub observed: u64,
    /// Of the events, those whose action failed.
    pub denied: u64,
    /// The rule that denied it, carried out or not.
    pub denied_by: Option<String>,
}

/// What a recording holds, in a fixed order.
#[derive(Debug, Default)]
pub struct Actions {
    /// By their text.
    pub actions: Vec<Action>,
    /// Process ids of those who acted.
    pub pids: BTreeSet<u32>,
    /// Events that ask nothing of a policy.
    pub unasked: BTreeMap<Unasked, u64>,
    /// Events of actions beyond [`MAX_ACTIONS`].
    pub beyond: u64,
    /// Whether names were changed, or given to files a second time.
    pub moves: bool,
    /// Events that the recorded guard itself lost.
    pub lost: u64,
}

impl Actions {
    /// Events of all actions together.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.actions.iter().map(|action| action.events).sum()
    }
}

/// Takes one record after the other.
#[derive(Debug, Default)]
pub struct Collector {
    /// By the question's text, and whether it is about a guarded object.
    actions: HashMap<(String, bool), Action>,
    names: HashMap<IpAddr, Vec<(u64, HostName)>>,
    rest: Actions,
}

impl Collector {
    /// Takes a record.
    pub fn add(&mut self, record: &Record) {
        match &record.body {
            Body::Decided { process, action, .. } => {
                self.rest.pids.insert(process.pid);
                self.rest.moves |= matches!(action, Kind::Rename | Kind::Link);
            }
            Body::Lookup(lookup) => self.learn(record.time_ns, lookup),
            Body::Notice(crate::event::Notice::EventsLost(losses)) => {
                self.rest.lost = self.rest.lost.saturating_add(losses.total());
            }
            Body::Notice(_) => {}
        }
        match Question::of(record) {
            Err(why) => *self.rest.unasked.entry(why).or_default() += 1,
            Ok(question) => {
                let (observed, denied, rule) = told(record);
                let action = Action {
                    question,
                    events: 1,
                    first_ns: record.time_ns,
                    observed: observed.into(),
                    denied: denied.into(),
                    denied_by: rule.filter(|_| observed || denied),
                };
                let full = self.actions.len() == MAX_ACTIONS;
                if !put(&mut self.actions, action, full) {
                    self.rest.beyond += 1;
                }
            }
        }
    }

    /// The addresses that a name was said to have.
    fn learn(&mut self, time_ns: u64, lookup: &Lookup) {
        let name = lookup.name.as_str();
        let Ok(name) = HostName::parse(name.strip_suffix('.').unwrap_or(name)) else { return };
        for answer in &lookup.answers {
            let Ok(address) = answer.data.as_str().parse::<IpAddr>() else { continue };
            if self.names.len() == MAX_NAMED && !self.names.contains_key(&address) {
                continue;
            }
            let known = self.names.entry(address).or_default();
            if known.last().is_none_or(|(_, last)| *last != name) && known.len() < MAX_NAMED {
                known.push((time_ns, name.clone()));
            }
        }
    }

    /// Everything that was taken: now that every process and name is known, the agent's own entries under `/proc`
    /// become `self`, and addresses get the names that led to them.
    #[must_use]
    pub fn finish(self) -> Actions {
        let Self { actions, names, mut rest } = self;
        let mut whole = HashMap::with_capacity(actions.len());
        for mut action in actions.into_values() {
            let writes = action.question.writes();
            match &mut action.question {
                Question::File { path, guarded, .. } => {
                    *guarded = place(path, *guarded, writes, &rest.pids)
                }
                Question::Connect { address, name, .. } if name.is_none() => {
                    *name = names.get(address).and_then(|known| led(known, action.first_ns));
                }
                _ => {}
            }
            put(&mut whole, action, false);
        }
        let mut sorted: Vec<((String, bool), Action)> = whole.into_iter().collect();
        sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
        rest.actions = sorted.into_iter().map(|(_, action)| action).collect();
        rest
    }
}

/// Adds to what is there already. False where there is no room for another.
fn put(actions: &mut HashMap<(String, bool), Action>, action: Action, full: bool) -> bool {
    let guarded = matches!(action.question, Question::File { guarded: true, .. });
    match actions.entry((action.question.to_string(), guarded)) {
        Entry::Occupied(mut known) => {
            let known = known.get_mut();
            known.events += action.events;
            known.observed += action.observed;
            known.denied += action.denied;
            known.first_ns = known.first_ns.min(action.first_ns);
            // Of several rules the first by name, so that the order of events changes nothing.
            known.denied_by = match (known.denied_by.take(), action.denied_by) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
        }
        Entry::Vacant(_) if full => return false,
        Entry::Vacant(place) => drop(place.insert(action)),
    }
    true
}

/// Whether the action was observed, whether it failed, and the rule that decided.
fn told(record: &Record) -> (bool, bool, Option<String>) {
    let (outcome, rule) = match &record.body {
        Body::Decided { decision, .. } => (decision.outcome, &decision.rule),
        Body::Lookup(lookup) => (lookup.outcome, &lookup.rule),
        Body::Notice(_) => return (false, false, None),
    };
    let failed = matches!(outcome, Outcome::Denied | Outcome::Killed);
    (outcome == Outcome::Observed, failed, rule.as_ref().map(|rule| rule.label.clone()))
}

/// The name that was last asked for before then, or else the first after it: the proxy and the kernel tell of what
/// they do by different ways.
fn led(known: &[(u64, HostName)], then: u64) -> Option<HostName> {
    let before = known.iter().filter(|(time, _)| *time <= then).max_by_key(|(time, _)| *time);
    before.or_else(|| known.first()).map(|(_, name)| name.clone())
}

/// Puts `self` for the agent's own processes. Whether only a rule without wildcards opens what is there.
fn place(path: &mut Path, was_guarded: bool, writes: bool, pids: &BTreeSet<u32>) -> bool {
    if let [proc, process, ..] = path.as_mut_slice()
        && **proc == *b"proc"
        && let Some(pid) = number(process)
    {
        // A read that was not refused for that was of the agent's own.
        if !pids.contains(&pid) && (was_guarded || writes) {
            return true;
        }
        *process = b"self".as_slice().into();
        return writes;
    }
    was_guarded || is_guarded_by_name(path, writes)
}

fn number(name: &[u8]) -> Option<u32> {
    std::str::from_utf8(name)
        .ok()
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))?
        .parse()
        .ok()
}

/// Device nodes that wildcards open, as the kernel side knows them by their numbers.
const HARMLESS: [&[u8]; 8] =
    [b"null", b"zero", b"full", b"random", b"urandom", b"tty", b"ptmx", b"pts"];

/// What lies in `/dev` and is no device.
const NO_DEVICES: [&[u8]; 4] = [b"shm", b"mqueue", b"hugepages", b"fd"];

/// Whether a name alone says that only a rule without wildcards opens it. What the kernel tells by a node's number
/// and file system, is told here by where these usually are: a recording says no more of what was allowed.
fn is_guarded_by_name(path: &Path, writes: bool) -> bool {
    match path.as_slice() {
        [dev, name, ..] if **dev == *b"dev" => {
            !HARMLESS.contains(&&**name) && !NO_DEVICES.contains(&&**name)
        }
        [root, ..] if matches!(&**root, b"proc" | b"sys") => writes,
        _ => false,
    }
}
