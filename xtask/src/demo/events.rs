//! The events of a run, as `agent-guard run --events` writes them: OCSF, a JSON object a line.

use std::fmt;

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// A decision about the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub pid: u32,
    pub object: Object,
    /// What it was asked for: `read`, `write`, `exec`; empty for connections.
    pub access: Vec<String>,
    /// `allowed`, `denied`, `killed` or `observed`.
    pub outcome: String,
    pub rule: Option<Rule>,
    /// Why, in words.
    pub because: String,
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        self.outcome == "allowed"
    }
}

/// What was decided about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    File(String),
    Program(String),
    Endpoint {
        address: String,
        port: u16,
    },
    /// A kernel interface as a whole.
    Interface(String),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "open {path}"),
            Self::Program(path) => write!(f, "run {path}"),
            Self::Endpoint { address, port } => write!(f, "connect {address}:{port}"),
            Self::Interface(name) => write!(f, "use {name}"),
        }
    }
}

/// The rule that decided.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Rule {
    pub name: String,
    /// Where it stands in the policy file.
    pub line: Option<u32>,
}

/// Under what a run happened, and what was decided.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    pub agent: String,
    pub tier: String,
    pub mode: String,
    pub policy_file: String,
    pub kernel: String,
    pub decisions: Vec<Decision>,
    /// What the guard said of itself, in order.
    pub notices: Vec<String>,
    /// True when the guard told that events were lost.
    pub lossy: bool,
}

impl Run {
    /// Reads the events of one run.
    ///
    /// # Errors
    /// Where a line is none of agent-guard's events, or there is none.
    pub fn parse(lines: &str) -> Result<Self> {
        let mut run: Option<Self> = None;
        for (index, line) in lines.lines().enumerate() {
            let event: Event =
                serde_json::from_str(line).with_context(|| format!("line {}", index + 1))?;
            let Own { agent, tier, mode, policy_file, decision, losses } =
                event.unmapped.agent_guard;
            let run = run.get_or_insert_with(|| Self {
                agent: agent.name,
                tier,
                mode,
                policy_file: policy_file.unwrap_or_default(),
                kernel: event.device.os.kernel_release,
                decisions: Vec::new(),
                notices: Vec::new(),
                lossy: false,
            });
            run.notices.extend(event.message);
            run.lossy |= losses.is_some();
            let Some(decided) = decision else { continue };
            let object = match (event.dst_endpoint, event.process, event.file) {
                (Some(Endpoint { ip, name, port }), ..) => {
                    Object::Endpoint { address: ip.or(name).unwrap_or_default(), port }
                }
                (_, Some(Process { file, .. }), _) => {
                    Object::Program(file.unwrap_or_default().path)
                }
                (_, _, Some(file)) => Object::File(file.path),
                (None, None, None) => Object::Interface(decided.hook),
            };
            let actor = event.actor.with_context(|| format!("line {}: no actor", index + 1))?;
            run.decisions.push(Decision {
                pid: actor.process.pid,
                object,
                access: decided.access,
                outcome: decided.outcome,
                rule: decided.rule,
                because: event.status_detail.unwrap_or_default(),
            });
        }
        run.context("there are no events")
    }
}

/// The members of an event that are read.
#[derive(Deserialize)]
struct Event {
    message: Option<String>,
    status_detail: Option<String>,
    actor: Option<Actor>,
    process: Option<Process>,
    file: Option<File>,
    dst_endpoint: Option<Endpoint>,
    device: Device,
    unmapped: Unmapped,
}

#[derive(Deserialize)]
struct Actor {
    process: Process,
}

#[derive(Deserialize)]
struct Process {
    pid: u32,
    file: Option<File>,
}

#[derive(Deserialize, Default)]
struct File {
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
struct Endpoint {
    ip: Option<String>,
    name: Option<String>,
    port: u16,
}

#[derive(Deserialize)]
struct Device {
    os: Os,
}

#[derive(Deserialize)]
struct Os {
    kernel_release: String,
}

#[derive(Deserialize)]
struct Unmapped {
    agent_guard: Own,
}

#[derive(Deserialize)]
struct Own {
    agent: Agent,
    tier: String,
    mode: String,
    policy_file: Option<String>,
    decision: Option<Decided>,
    losses: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Agent {
    name: String,
}

#[derive(Deserialize)]
struct Decided {
    outcome: String,
    hook: String,
    #[serde(default)]
    access: Vec<String>,
    rule: Option<Rule>,
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const OWN: &str = r#""agent":{"name":"coder","id":1,"cgroup_id":7,"cgroup":"/c"},"tier":"trace","mode":"enforce","policy_file":"p.yaml""#;
    const DEVICE: &str =
        r#""device":{"hostname":"h","type_id":0,"os":{"name":"Linux","kernel_release":"6.12"}}"#;

    /// An event of process `pid` about the `object`'s JSON members.
    pub fn decided(pid: u32, object: &str, outcome: &str, rule: Option<&str>) -> String {
        let rule = rule.map_or_else(String::new, |name| {
            format!(r#","rule":{{"name":"{name}","line":31,"class":"secret"}}"#)
        });
        format!(
            r#"{{"status_detail":"a reason","actor":{{"process":{{"pid":{pid},"name":"cat"}}}},{object},{DEVICE},"unmapped":{{"agent_guard":{{{OWN},"decision":{{"outcome":"{outcome}","effect":"deny","reason":"rule","hook":"file_open","access":["read"]{rule}}}}}}}}}"#
        )
    }

    /// A notice with these members of `unmapped.agent_guard`.
    pub fn notice(message: &str, own: &str) -> String {
        format!(r#"{{"message":"{message}",{DEVICE},"unmapped":{{"agent_guard":{{{OWN}{own}}}}}}}"#)
    }

    #[test]
    fn decisions_say_who_what_how_and_by_which_rule() {
        let lines = [
            notice("under guard", ""),
            decided(5, r#""file":{"name":"x","path":"/x","type_id":0}"#, "killed", Some("secrets")),
            decided(6, r#""process":{"pid":6,"file":{"path":"/bin/ls"}}"#, "allowed", None),
            decided(7, r#""dst_endpoint":{"ip":"127.0.0.1","port":9090}"#, "denied", None),
            decided(8, r#""kernel":{"name":"io_uring","type_id":2}"#, "denied", None),
        ]
        .join("\n");
        let run = Run::parse(&lines).unwrap();
        assert_eq!(
            (run.agent.as_str(), run.tier.as_str(), run.mode.as_str(), run.kernel.as_str()),
            ("coder", "trace", "enforce", "6.12")
        );
        assert_eq!(run.notices, ["under guard"]);
        let shown: Vec<String> = run
            .decisions
            .iter()
            .map(|decision| format!("{} {} {}", decision.pid, decision.object, decision.outcome))
            .collect();
        assert_eq!(
            shown,
            [
                "5 open /x killed",
                "6 run /bin/ls allowed",
                "7 connect 127.0.0.1:9090 denied",
                "8 use file_open denied",
            ]
        );
        let rule = run.decisions.first().unwrap().rule.clone().unwrap();
        assert_eq!((rule.name.as_str(), rule.line), ("secrets", Some(31)));
        assert!(!run.lossy);
    }

    #[test]
    fn lost_events_are_noticed() {
        let line = notice("3 events lost", r#","losses":{"hooks":[],"malformed":3,"unwritten":0}"#);
        assert!(Run::parse(&line).unwrap().lossy);
    }

    #[test]
    fn a_broken_line_is_named() {
        let lines = format!("{}\n{{\"half\":", notice("under guard", ""));
        assert!(format!("{:#}", Run::parse(&lines).unwrap_err()).contains("line 2"));
        assert!(Run::parse("").is_err());
    }
}
