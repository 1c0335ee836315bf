//! Where a run's events go: the log, and a line on stderr for each denial.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, IsTerminal},
    time::Instant,
};

use agent_guard_common::{event::Outcome, hook::Hook, table::NO_RULE};

use super::{names::RunNames, stderr::say};
use crate::{
    clock,
    dns::Told,
    event::{
        Body, EventLog, HookTotals, Lookup, Losses, Names, Notice, Record, TextLine, WireEvent,
        resolve,
    },
    kernel::counters::HookCounts,
};

/// Takes the bytes of events in and sends records out.
pub struct Reporter {
    names: RunNames,
    log: Option<EventLog<File>>,
    colour: bool,
    malformed: u64,
    told: BTreeMap<u8, u64>,
    skips_told: BTreeMap<u8, u64>,
}

impl Reporter {
    /// Reports under `names`, into `log` where there is one.
    pub fn new(names: RunNames, log: Option<EventLog<File>>) -> Self {
        let colour = io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            names,
            log,
            colour,
            malformed: 0,
            told: BTreeMap::new(),
            skips_told: BTreeMap::new(),
        }
    }

    /// The names, to change what they stand for.
    pub fn names(&mut self) -> &mut RunNames {
        &mut self.names
    }

    /// Takes one entry of the ring buffer.
    pub fn take(&mut self, bytes: &[u8]) {
        match WireEvent::parse(bytes) {
            Ok(event) => {
                let record = resolve(&event, &self.names);
                self.send(&record, event.outcome != Outcome::Allowed);
            }
            Err(error) => {
                self.malformed += 1;
                tracing::warn!(
                    "an event from the kernel makes no sense and is counted as lost: {error}"
                );
            }
        }
    }

    /// Tells of a name query.
    pub fn lookup(&mut self, told: Told) {
        let rule = (told.rule != NO_RULE).then(|| self.names.rule(0, told.rule)).flatten();
        let lookup = Lookup { rule, ..told.lookup };
        let show = lookup.outcome != Outcome::Allowed;
        let time_ns = self.names.boot_time_ns().saturating_add(clock::boot_ns());
        let (context, body) = (self.names.own_context(), Body::Lookup(lookup));
        self.send(&Record { time_ns, context, body }, show);
    }

    /// Tells of the guard itself.
    pub fn notice(&mut self, notice: Notice) {
        let time_ns = self.names.boot_time_ns().saturating_add(clock::boot_ns());
        let record =
            Record { time_ns, context: self.names.own_context(), body: Body::Notice(notice) };
        self.send(&record, false);
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
            say(format_args!("agent-guard: {notice}"));
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
            say(format_args!("agent-guard: warning: {notice}"));
            self.notice(notice);
        }
    }

    /// Ends the report with what each hook has counted. What comes back is the number of lines that
    /// the log lost without telling.
    pub fn finish(mut self, counts: &[(Hook, HookCounts)]) -> u64 {
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
        self.log.map_or(0, EventLog::finish)
    }

    fn send(&mut self, record: &Record, show: bool) {
        if show {
            say(TextLine { record, colour: self.colour });
        }
        if let Some(fault) = self.log.as_mut().and_then(|log| log.append(record, Instant::now())) {
            say(format_args!("agent-guard: {fault}"));
        }
    }
}
