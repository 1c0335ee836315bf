//! Which events somebody wants to see.

use std::net::IpAddr;

use agent_guard_common::event::{Action, Outcome};

use super::{Body, Notice, Object, Record};
use crate::policy::{Host, HostName, NamePattern, PathPattern, PortRange, Target};

/// What an event has to be: of every kind that is named here one entry.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Names of agents.
    pub agents: Vec<NamePattern>,
    /// What came of it.
    pub outcomes: Vec<Outcome>,
    /// What it is about.
    pub classes: Vec<EventClass>,
    /// Names of the rule that decided.
    pub rules: Vec<String>,
    /// Files, programs and UNIX-domain sockets.
    pub paths: Vec<PathPattern>,
    /// Ends of connections, and names that were asked for.
    pub targets: Vec<Target>,
    /// The earliest, nanoseconds since the Unix epoch.
    pub since_ns: Option<u64>,
    /// The latest, likewise.
    pub until_ns: Option<u64>,
}

/// The classes of OCSF that events are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum EventClass {
    /// Files: 1001
    File,
    /// Operations and interfaces of the kernel: 1003
    Kernel,
    /// Programs and code: 1007
    Process,
    /// Connections: 4001
    Network,
    /// Names: 4003
    Dns,
    /// The guard itself: 6002
    Lifecycle,
    /// Losses and failures: 6008
    Error,
}

impl EventFilter {
    /// Whether everything fits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { agents, outcomes, classes, rules, paths, targets, since_ns, until_ns } = self;
        agents.is_empty()
            && outcomes.is_empty()
            && classes.is_empty()
            && rules.is_empty()
            && paths.is_empty()
            && targets.is_empty()
            && since_ns.is_none()
            && until_ns.is_none()
    }

    /// Whether `record` fits.
    #[must_use]
    pub fn fits(&self, record: &Record) -> bool {
        let (outcome, rule) = match &record.body {
            Body::Decided { decision, .. } => (Some(decision.outcome), &decision.rule),
            Body::Lookup(lookup) => (Some(lookup.outcome), &lookup.rule),
            Body::Notice(_) => (None, &None),
        };
        let rule = rule.as_ref().map(|rule| rule.label.as_str());
        let agent = &record.context.agent.name;
        self.since_ns.is_none_or(|since| record.time_ns >= since)
            && self.until_ns.is_none_or(|until| record.time_ns <= until)
            && one_of(&self.agents, |pattern| pattern.matches(agent))
            && one_of(&self.outcomes, |wanted| outcome == Some(*wanted))
            && one_of(&self.classes, |wanted| class(record) == *wanted)
            && one_of(&self.rules, |wanted| rule == Some(wanted.as_str()))
            && one_of(&self.paths, |pattern| {
                path(record).is_some_and(|path| pattern.matches(&path))
            })
            && one_of(&self.targets, |target| leads_to(record, target))
    }
}

/// Whether one of them fits, or there is none to fit.
fn one_of<T>(wanted: &[T], fits: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(fits)
}

fn class(record: &Record) -> EventClass {
    match &record.body {
        Body::Lookup(_) => EventClass::Dns,
        Body::Notice(Notice::EventsLost(_) | Notice::DecisionsSkipped(_)) => EventClass::Error,
        Body::Notice(_) => EventClass::Lifecycle,
        Body::Decided { action, object, .. } => match (object, action) {
            (Object::File(_), Action::Exec | Action::Load | Action::Map) => EventClass::Process,
            (Object::File(_), _) => EventClass::File,
            (Object::Endpoint(_) | Object::LocalSocket(_), _) => EventClass::Network,
            (Object::Interface(_) | Object::Operation(..), _) => EventClass::Kernel,
        },
    }
}

/// The bytes of a path that begins at the root.
fn path(record: &Record) -> Option<Vec<u8>> {
    let Body::Decided { object: Object::File(file) | Object::LocalSocket(file), .. } = &record.body
    else {
        return None;
    };
    file.path.as_str().starts_with('/').then(|| file.path.to_bytes())
}

fn leads_to(record: &Record, target: &Target) -> bool {
    match &record.body {
        Body::Lookup(lookup) => {
            let name = lookup.name.as_str();
            HostName::parse(name.strip_suffix('.').unwrap_or(name))
                .is_ok_and(|name| is_host(&target.host, None, Some(&name)))
        }
        Body::Decided { object: Object::Endpoint(end), decision, .. } => {
            let name = decision.host.as_deref().and_then(|name| HostName::parse(name).ok());
            let protocol = match i32::from(end.protocol) {
                libc::IPPROTO_TCP | libc::IPPROTO_MPTCP => target.protocols.tcp(),
                libc::IPPROTO_UDP => target.protocols.udp(),
                _ => target.ports == PortRange::FULL,
            };
            protocol
                && (target.ports.first()..=target.ports.last()).contains(&end.port)
                && is_host(&target.host, end.addr, name.as_ref())
        }
        Body::Decided { .. } | Body::Notice(_) => false,
    }
}

fn is_host(host: &Host, address: Option<IpAddr>, name: Option<&HostName>) -> bool {
    match host {
        Host::Net(net) => address.is_some_and(|address| net.contains(&address.to_canonical())),
        Host::Name(wanted) => name == Some(wanted),
        Host::Below(labels, base) => name.is_some_and(|name| name.is_below(*labels, base)),
    }
}

#[cfg(test)]
mod tests {
    use agent_guard_common::decide::Reason;

    use super::*;
    use crate::event::fixture::{decided, denied, endpoint, file, record, socket};

    fn records() -> [Record; 5] {
        let connect = denied(Action::Connect, endpoint("192.0.2.1", 443, libc::IPPROTO_TCP));
        let mut notice = record(Body::Notice(Notice::Started));
        notice.time_ns += 1_000;
        [
            decided(denied(Action::Read, file(b"/w/a")), Outcome::Allowed, Reason::Rule),
            denied(Action::Exec, file(b"/bin/sh")),
            decided(connect, Outcome::Observed, Reason::Default),
            denied(Action::ConnectLocal, socket(b"/run/x.sock")),
            notice,
        ]
    }

    fn fitting(filter: &EventFilter) -> Vec<usize> {
        let records = records();
        (0..records.len()).filter(|at| filter.fits(&records[*at])).collect()
    }

    #[test]
    fn of_every_kind_that_is_named_one_entry_has_to_fit() {
        let none = EventFilter::default();
        assert!(none.is_empty());
        assert_eq!(fitting(&none), [0, 1, 2, 3, 4]);
        let path = |text| vec![PathPattern::parse(text).unwrap()];
        let name = |text| vec![NamePattern::parse(text).unwrap().unwrap()];
        let to = |text| Target::parse(text).unwrap();
        let start = records()[0].time_ns;
        for (filter, due) in [
            (
                EventFilter { outcomes: vec![Outcome::Denied, Outcome::Observed], ..none.clone() },
                vec![1, 2, 3],
            ),
            (EventFilter { classes: vec![EventClass::Process], ..none.clone() }, vec![1]),
            (
                EventFilter {
                    classes: vec![EventClass::Network, EventClass::Lifecycle],
                    ..none.clone()
                },
                vec![2, 3, 4],
            ),
            (EventFilter { rules: vec!["secrets".to_owned()], ..none.clone() }, vec![0]),
            (EventFilter { paths: path("/w/**"), ..none.clone() }, vec![0]),
            (EventFilter { paths: path("/run/*"), ..none.clone() }, vec![3]),
            (EventFilter { targets: to("192.0.2.0/24"), ..none.clone() }, vec![2]),
            (EventFilter { targets: to("192.0.2.1:80"), ..none.clone() }, vec![]),
            (EventFilter { targets: to("*:443/tcp"), ..none.clone() }, vec![2]),
            (EventFilter { targets: to("*:443/udp"), ..none.clone() }, vec![]),
            (EventFilter { agents: name("cod*"), ..none.clone() }, vec![0, 1, 2, 3, 4]),
            (EventFilter { agents: name("other"), ..none.clone() }, vec![]),
            (EventFilter { since_ns: Some(start + 1), ..none.clone() }, vec![4]),
            (EventFilter { until_ns: Some(start), ..none.clone() }, vec![0, 1, 2, 3]),
            (
                EventFilter { paths: path("/**"), outcomes: vec![Outcome::Denied], ..none.clone() },
                vec![1, 3],
            ),
        ] {
            assert!(!filter.is_empty());
            assert_eq!(fitting(&filter), due, "{filter:?}");
        }
    }
}
