//! Which records a sink takes.

use serde::Deserialize;

use crate::{
    event::{Body, Object, Record},
    policy::NamePattern,
};

/// Which records a sink takes: those that fit all that is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// What of the decisions.
    pub events: Events,
    /// Whose; none: everybody's.
    pub agents: Vec<NamePattern>,
    /// Of what; none: of everything.
    pub kinds: Vec<Kind>,
}

/// What of the decisions a sink takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Events {
    /// All of them, also what was allowed.
    All,
    /// What was not simply allowed, and what the guard tells of itself.
    #[default]
    Denials,
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A file, directory or device; also a program that was run.
    File,
    /// A connection, a datagram, a listener, a UNIX-domain socket.
    Network,
    /// A name query.
    Dns,
    /// An operation upon the system or another process.
    System,
    /// The guard itself: starts, policies, losses.
    Guard,
}

impl Kind {
    fn of(record: &Record) -> Self {
        match &record.body {
            Body::Decided { object: Object::File(_), .. } => Self::File,
            Body::Decided { object: Object::Endpoint(_) | Object::LocalSocket(_), .. } => {
                Self::Network
            }
            Body::Decided { object: Object::Interface(_) | Object::Operation(..), .. } => {
                Self::System
            }
            Body::Lookup(_) => Self::Dns,
            Body::Notice(_) => Self::Guard,
        }
    }
}

impl Filter {
    /// Whether it takes `record`; `show` is set where that is of something that was not simply allowed.
    #[must_use]
    pub fn takes(&self, record: &Record, show: bool) -> bool {
        let Self { events, agents, kinds } = self;
        let agent = &record.context.agent.name;
        (show || *events == Events::All)
            && (kinds.is_empty() || kinds.contains(&Kind::of(record)))
            && (agents.is_empty() || agents.iter().any(|pattern| pattern.matches(agent)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agent_guard_common::event::Action;

    use super::*;
    use crate::event::{
        Context, Notice,
        fixture::{context, denied, endpoint, file, record},
    };

    #[test]
    fn a_sink_takes_what_fits_all_that_is_said() {
        let open = denied(Action::Read, file(b"/a"));
        let connect = denied(Action::Connect, endpoint("192.0.2.1", 80, 6));
        let started = record(Body::Notice(Notice::Started));
        let all = Filter { events: Events::All, ..Filter::default() };
        assert!(all.takes(&open, false) && all.takes(&started, true));
        let denials = Filter::default();
        assert!(denials.takes(&open, true) && !denials.takes(&open, false));

        let network = Filter { kinds: vec![Kind::Network, Kind::Guard], ..Filter::default() };
        assert!(network.takes(&connect, true) && network.takes(&started, true));
        assert!(!network.takes(&open, true) && !network.takes(&connect, false));

        let patterns = ["co*r", "other"].map(|text| NamePattern::parse(text).unwrap().unwrap());
        let agents = Filter { agents: patterns.to_vec(), ..Filter::default() };
        assert!(agents.takes(&open, true));
        let mut renamed: Context = context();
        renamed.agent.name = "coder-2".to_owned();
        assert!(!agents.takes(&Record { context: Arc::new(renamed), ..open }, true));
    }
}
