//! What is told of an agent: from the bytes of its events to records, with an account of what is missing.

use std::{collections::BTreeMap, fmt};

use agent_guard_common::{event::Outcome, hook::Hook, table::NO_RULE};

use super::names::AgentNames;
use crate::{
    clock,
    dns::Told,
    event::{Body, HookTotals, Lookup, Losses, Names, Notice, Record, WireEvent, resolve},
    kernel::counters::HookCounts,
};

/// Where records go.
pub trait Output {
    /// Takes a record. One that is to be shown is about something that was not simply allowed.
    fn send(&mut self, record: &Record, show: bool);
    /// Tells whoever looks after the guard of something.
    fn warn(&mut self, text: fmt::Arguments<'_>);
}

/// Takes the events of an agent in and sends records out.
pub struct Reporter<O> {
    names: AgentNames,
    output: O,
    malformed: u64,
    told: BTreeMap<u8, u64>,
    skips_told: BTreeMap<u8, u64>,
}

impl<O: Output> Reporter<O> {
    /// Reports under `names` to `output`.
    pub fn new(names: AgentNames, output: O) -> Self {
        Self { names, output, malformed: 0, told: BTreeMap::new(), skips_told: BTreeMap::new() }
    }

    /// The names, to change what they stand for.
    pub fn names(&mut self) -> &mut AgentNames {
        &mut self.names
    }

    /// Takes one entry of a ring buffer that no other agent writes to.
    pub fn take(&mut self, bytes: &[u8]) {
        match WireEvent::parse(bytes) {
            Ok(event) => self.event(&event),
            Err(error) => {
                self.malformed += 1;
                tracing::warn!(
                    "an event from the kernel makes no sense and is counted as lost: {error}"
                );
            }
        }
    }

    /// Tells of a decision.
    pub fn event(&mut self, event: &WireEvent<'_>) {
        let record = resolve(event, &self.names);
        self.output.send(&record, event.outcome != Outcome::Allowed);
    }

    /// Tells whoever looks after the guard of something.
    pub fn warn(&mut self, text: fmt::Arguments<'_>) {
        self.output.warn(text);
    }

    /// Tells of a name query.
    pub fn lookup(&mut self, told: Told) {
        let rule = (told.rule != NO_RULE).then(|| self.names.rule(0, told.rule)).flatten();
        let lookup = Lookup { rule, ..told.lookup };
        let show = lookup.outcome != Outcome::Allowed;
        let time_ns = self.names.boot_time_ns().saturating_add(clock::boot_ns());
        let (context, body) = (self.names.own_context(), Body::Lookup(lookup));
        self.output.send(&Record { time_ns, context, body }, show);
    }

    /// Tells of the guard itself.
    pub fn notice(&mut self, notice: Notice) {
        let time_ns = self.names.boot_time_ns().saturating_add(clock::boot_ns());
        let record =
            Record { time_ns, context: self.names.own_context(), body: Body::Notice(notice) };
        self.output.send(&record, false);
    }

    /// Tells of what was lost and skipped since the last call.
    pub fn account(&mut self, counts: &[(Hook, HookCounts)]) {
        self.losses(counts);
        self.skips(counts);
    }

    fn losses(&mut self, counts: &[(Hook, HookCounts)]) {
        let mut losses =
            Losses { malformed: std::mem::take(&mut self.malformed), ..Losses::default() };
        for (hook, counts) in counts {
            let told = self.told.entry(*hook as u8).or_default();
            if counts.lost > *told {
                losses.hooks.push((*hook, counts.lost - *told));
                *told = counts.lost;
            }
        }
        if !losses.is_empty() {
            let notice = Notice::EventsLost(losses);
            self.output.warn(format_args!("{notice}"));
            self.notice(notice);
        }
    }

    fn skips(&mut self, counts: &[(Hook, HookCounts)]) {
        let mut skipped = Vec::new();
        for (hook, counts) in counts {
            let told = self.skips_told.entry(*hook as u8).or_default();
            if counts.skipped > *told {
                skipped.push((*hook, counts.skipped - *told));
                *told = counts.skipped;
            }
        }
        if !skipped.is_empty() {
            let notice = Notice::DecisionsSkipped(skipped);
            self.output.warn(format_args!("warning: {notice}"));
            self.notice(notice);
        }
    }

    /// Ends the report with what each hook has counted.
    pub fn finish(mut self, counts: &[(Hook, HookCounts)]) -> O {
        self.account(counts);
        let totals = counts.iter().filter(|(_, counts)| *counts != HookCounts::default()).map(
            |(hook, counts)| HookTotals {
                hook: *hook,
                decided: counts.decided,
                denied: counts.denied,
                lost: counts.lost,
                failed: counts.failed,
                skipped: counts.skipped,
            },
        );
        self.notice(Notice::Stopped { totals: totals.collect() });
        self.output
    }
}
