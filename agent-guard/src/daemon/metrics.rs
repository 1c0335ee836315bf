//! The daemon's state in Prometheus' text format, version 0.0.4.

use std::fmt;

use axum::{
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text::encode_registry},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};
use serde_json::Value;

use super::view::{Counts, Sink, Status};

/// What all names begin with.
const PREFIX: &str = "agent_guard";

/// In place of an agent's name: those that have no series of their own, together.
const OTHERS: &str = "(others)";

/// What metrics are made of.
#[derive(Debug)]
pub struct Snapshot {
    /// The daemon and its hooks.
    pub status: Status,
    /// Workloads, a bounded number of them.
    pub agents: Vec<Series>,
    /// What the others come to, since the daemon started.
    pub others: Counts,
}

/// What a workload came to.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name.
    pub agent: String,
    /// Its cgroup, which tells those of one name apart.
    pub cgroup: String,
    /// The policy that it is under.
    pub policy: String,
    /// What was counted.
    pub counts: Counts,
}

/// The metrics of `snapshot`.
#[must_use]
pub fn text(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = encode_registry(&mut text, &registry);
    text
}

/// The HTTP answer that has this text.
pub fn answer(text: Value) -> Response {
    let text = text.as_str().unwrap_or_default().to_owned();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// Labels of a sample.
type Labels<'a> = Vec<(&'static str, &'a str)>;

/// What is counted, as counters of two families: by hook, and by agent.
type Counter = (&'static str, &'static str, fn(&Counts) -> u64);

const COUNTERS: [Counter; 4] = [
    ("decisions_total", "Actions of agents that were decided", |counts| counts.decided),
    ("denials_total", "Actions of agents that were denied", |counts| counts.denied),
    ("events_lost_total", "Events that did not fit the ring buffer", |counts| counts.lost),
    (
        "decisions_failed_total",
        "Decisions that a failed helper or a bound turned into a denial",
        |counts| counts.failed,
    ),
];

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Samples(encoder);
        self.daemon(&mut out)?;
        self.workloads(&mut out)?;
        self.sinks(&mut out)?;
        self.kernel(&mut out)
    }
}

impl Snapshot {
    fn daemon(&self, out: &mut Samples<'_>) -> fmt::Result {
        let status = &self.status;
        let build = vec![("version", status.version.as_str()), ("tier", &status.tier)];
        out.gauge("build_info", "The daemon and the tier in force", [(build, 1)])?;
        out.gauge("uptime_seconds", "Since the daemon started", one(status.uptime_s))?;
        let in_force = u64::from(status.broken.is_none());
        out.gauge("in_force", "Whether every hook was read back attached", one(in_force))?;
        out.gauge("hooks", "Hooks that were read back attached", one(status.hooks.len() as u64))?;
        let stopped = u64::from(status.canary_stopped);
        out.gauge("canary_stopped", "Whether the canary was stopped when sent last", one(stopped))?;
        out.counter("events_total", "Events that came by", one(status.events))?;
        let strays = one(status.strays);
        out.counter("events_stray_total", "Events of no known agent, or that made no sense", strays)
    }

    fn workloads(&self, out: &mut Samples<'_>) -> fmt::Result {
        let status = &self.status;
        let states = [("guarded", status.agents), ("refused", status.refused)];
        let states = states.map(|(state, count)| (vec![("state", state)], count as u64));
        let help =
            "Workloads under guard, and those that a policy is for and that are not under it";
        out.gauge("workloads", help, states)?;
        out.gauge("policies", "Policies that are good", one(status.policies as u64))?;
        let help = "Files of the policy directory that are no policy in force";
        out.gauge("policy_problems", help, one(status.problems as u64))?;
        for (name, help, of) in COUNTERS {
            let own = self.agents.iter().map(|series| {
                let Series { agent, cgroup, policy, counts } = series;
                (labels([agent, cgroup, policy]), of(counts))
            });
            let others = (labels([OTHERS, "", ""]), of(&self.others));
            out.counter(&format!("agent_{name}"), help, own.chain([others]))?;
        }
        Ok(())
    }

    fn sinks(&self, out: &mut Samples<'_>) -> fmt::Result {
        let of = |what: fn(&Sink) -> u64| {
            let sinks = self.status.sinks.iter();
            sinks.map(move |sink| {
                (vec![("sink", sink.name.as_str()), ("type", &sink.kind)], what(sink))
            })
        };
        let help = "Lines that the far end has";
        out.counter("sink_delivered_total", help, of(|sink| sink.delivered))?;
        let help = "Deliveries that failed, and were tried again";
        out.counter("sink_retries_total", help, of(|sink| sink.retried))?;
        let help = "Lines that the far end will never have";
        out.counter("sink_lost_total", help, of(|sink| sink.lost))?;
        let help = "Whether nothing is delivered at the moment";
        out.gauge("sink_failing", help, of(|sink| sink.problem.is_some().into()))?;
        let help = "What waits in memory";
        out.gauge("sink_queue_bytes", help, of(|sink| sink.queue_bytes))?;
        out.gauge("sink_queue_capacity_bytes", "Room for it", of(|sink| sink.queue_room))?;
        out.gauge("sink_spool_lines", "Lines that wait on disk", of(|sink| sink.spooled))?;
        out.gauge("sink_spool_bytes", "What waits on disk", of(|sink| sink.spool_bytes))?;
        out.gauge("sink_spool_capacity_bytes", "Room for it", of(|sink| sink.spool_room))
    }

    fn kernel(&self, out: &mut Samples<'_>) -> fmt::Result {
        let hooks = &self.status.counts;
        for (name, help, of) in COUNTERS {
            let rows =
                hooks.iter().map(|hook| (vec![("hook", hook.hook.as_str())], of(&hook.counts)));
            out.counter(&format!("hook_{name}"), help, rows)?;
        }
        let skipped = hooks.iter().map(|hook| (vec![("hook", hook.hook.as_str())], hook.skipped));
        let help = "Calls, of whomever, that the kernel did not ask the hook about";
        out.counter("hook_calls_skipped_total", help, skipped)?;
        let buffer = &self.status.buffer;
        out.gauge("event_buffer_bytes", "Events that wait to be read", one(buffer.used))?;
        out.gauge("event_buffer_capacity_bytes", "Room for them", one(buffer.capacity))?;
        let maps = &self.status.maps;
        let used = maps.iter().map(|map| (vec![("map", map.name.as_str())], map.used));
        out.gauge("map_entries", "Entries of a map, counted within 15 s", used)?;
        let room = maps.iter().map(|map| (vec![("map", map.name.as_str())], map.capacity));
        out.gauge("map_capacity", "Room for them", room)
    }
}

/// One sample without labels.
fn one(value: u64) -> [(Labels<'static>, u64); 1] {
    [(Vec::new(), value)]
}

fn labels([agent, cgroup, policy]: [&str; 3]) -> Labels<'_> {
    vec![("agent", agent), ("cgroup", cgroup), ("policy", policy)]
}

struct Samples<'a>(DescriptorEncoder<'a>);

impl Samples<'_> {
    fn gauge<'a>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<'a>, u64)>,
    ) -> fmt::Result {
        self.rows(name, help, MetricType::Gauge, rows)
    }

    /// `name` ends in `_total`. In the older format, which `promtool` and everybody reads, that is part of a counter's
    /// name, where OpenMetrics has it as a suffix of the sample; so the sample is encoded as a gauge's.
    fn counter<'a>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<'a>, u64)>,
    ) -> fmt::Result {
        self.rows(name, help, MetricType::Counter, rows)
    }

    fn rows<'a>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        rows: impl IntoIterator<Item = (Labels<'a>, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in rows {
            if labels.is_empty() {
                return ConstGauge::new(value).encode(family);
            }
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::view::{Fill, HookCounts};

    fn counts(decided: u64) -> Counts {
        Counts { decided, denied: 1, ..Counts::default() }
    }

    fn snapshot() -> Snapshot {
        let hook = HookCounts { hook: "file_open".to_owned(), counts: counts(9), skipped: 3 };
        let status = Status {
            version: "0.1.0".to_owned(),
            tier: "lsm".to_owned(),
            counts: vec![hook],
            sinks: vec![Sink {
                name: "siem".to_owned(),
                kind: "splunk".to_owned(),
                problem: Some("connection refused".to_owned()),
                delivered: 8,
                lost: 4,
                spooled: 6,
                ..Sink::default()
            }],
            maps: vec![Fill { name: "STATES".to_owned(), used: 5, capacity: 262_144 }],
            ..Status::default()
        };
        let series = Series {
            agent: "a\"b\\".to_owned(),
            cgroup: "/a".to_owned(),
            policy: "p".to_owned(),
            counts: counts(7),
        };
        Snapshot { status, agents: vec![series], others: counts(2) }
    }

    #[test]
    fn every_sample_is_of_a_family_that_is_described() {
        let text = text(snapshot());
        for line in [
            "agent_guard_build_info{version=\"0.1.0\",tier=\"lsm\"} 1",
            "# TYPE agent_guard_hook_decisions_total counter",
            "agent_guard_hook_decisions_total{hook=\"file_open\"} 9",
            "agent_guard_hook_calls_skipped_total{hook=\"file_open\"} 3",
            "agent_guard_agent_decisions_total{agent=\"a\\\"b\\\\\",cgroup=\"/a\",policy=\"p\"} 7",
            "agent_guard_agent_decisions_total{agent=\"(others)\",cgroup=\"\",policy=\"\"} 2",
            "agent_guard_map_entries{map=\"STATES\"} 5",
            "agent_guard_canary_stopped 0",
            "agent_guard_sink_delivered_total{sink=\"siem\",type=\"splunk\"} 8",
            "agent_guard_sink_lost_total{sink=\"siem\",type=\"splunk\"} 4",
            "agent_guard_sink_failing{sink=\"siem\",type=\"splunk\"} 1",
            "agent_guard_sink_spool_lines{sink=\"siem\",type=\"splunk\"} 6",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let described: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        for sample in text.lines().filter(|line| !line.starts_with('#')) {
            let name = sample.split(['{', ' ']).next().unwrap();
            assert!(described.contains(&name), "{sample}");
        }
    }

    #[test]
    fn promtool_finds_nothing_to_mend() {
        use std::{
            io::Write as _,
            process::{Command, Stdio},
        };
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool is in Debian's package prometheus; `cargo xtask setup` installs it");
        promtool.stdin.take().unwrap().write_all(text(snapshot()).as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}
