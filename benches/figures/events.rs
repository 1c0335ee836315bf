//! Events: from the bytes that a kernel program wrote to a line in a file, beside `serde_json` writing the same
//! line from memory.

use std::{
    fs::File,
    io::{self, Seek as _, Write},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use agent_guard::{
    event::{
        AgentIdentity, Context, Encoder, EventLog, Host, Mount, Names, PolicyIdentity, Rule,
        SafeText, Sink, WireEvent, resolve,
    },
    policy::Mode,
    tier::Tier,
};
use agent_guard_common::{
    decide::Reason,
    event::{Action, EventHeader, Outcome},
    hook::Hook,
    limits::PATH_ALIGN,
    table::NO_RULE,
};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::clock::{Clock, tell};

/// Events of a round: more than a processor's caches keep the lines of.
const EVENTS: usize = 2_000;
/// Rounds of which the shortest counts, both sides in turn.
const ROUNDS: usize = 15;

/// What is measured on one side.
type Side<'a> = &'a mut dyn FnMut() -> Result<()>;

/// Tells what an event takes on each side, in memory and into a file.
pub fn measure(clock: Clock) -> Result<()> {
    let entries: Vec<Vec<u8>> = (0..EVENTS).map(entry).collect();
    let values = values(&entries)?;
    let [event, line] = in_turn(
        clock,
        [&mut || log(&entries, io::sink()), &mut || write_values(&values, io::sink())],
    )?;
    tell("event", event);
    tell("event-by-serde", line);

    let mut ours = tempfile::tempfile().context("a file for lines")?;
    let mut theirs = tempfile::tempfile().context("a file for lines")?;
    let [event, line] = in_turn(
        clock,
        [&mut || log(&entries, emptied(&mut ours)?), &mut || {
            write_values(&values, emptied(&mut theirs)?)
        }],
    )?;
    tell("event-to-file", event);
    tell("event-to-file-by-serde", line);
    Ok(())
}

/// The least that each side takes for one event.
fn in_turn(clock: Clock, mut sides: [Side<'_>; 2]) -> Result<[u64; 2]> {
    let mut least = [u64::MAX; 2];
    for _ in 0..ROUNDS {
        for (least, side) in least.iter_mut().zip(&mut sides) {
            let (taken, done) = clock.count(side);
            done?;
            *least = (*least).min(taken);
        }
    }
    Ok(least.map(|least| least / EVENTS as u64))
}

fn emptied(file: &mut File) -> Result<File> {
    file.set_len(0)?;
    file.rewind()?;
    Ok(file.try_clone()?)
}

/// What `agent-guard run` does with the entries of the ring buffer.
fn log(entries: &[Vec<u8>], out: impl Write) -> Result<()> {
    let host = Host { name: "host.example.org".to_owned(), kernel: "6.12.0-amd64".to_owned() };
    let mut log = EventLog::new(Encoder::new(host, u128::MAX / 3), Sink::new(out));
    let names = Known::new();
    let now = Instant::now();
    for entry in entries {
        let record = resolve(&WireEvent::parse(entry)?, &names);
        ensure!(log.append(&record, now).is_none(), "a line could not be written");
    }
    ensure!(log.finish() == 0, "a line is lost");
    Ok(())
}

/// The lines, as `serde_json` reads them.
fn values(entries: &[Vec<u8>]) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    log(entries, &mut lines)?;
    let values: Vec<Value> =
        serde_json::Deserializer::from_slice(&lines).into_iter().collect::<Result<_, _>>()?;
    ensure!(values.len() == entries.len(), "{} lines of {} events", values.len(), entries.len());
    Ok(values)
}

/// Writes them as the log does: each in one call.
fn write_values(values: &[Value], mut out: impl Write) -> Result<()> {
    let mut line = Vec::with_capacity(4096);
    for value in values {
        line.clear();
        serde_json::to_writer(&mut line, value)?;
        line.push(b'\n');
        out.write_all(&line)?;
    }
    Ok(())
}

/// The `n`th entry of the ring buffer: opens, denied and allowed, programs and connections.
fn entry(n: usize) -> Vec<u8> {
    let n = u32::try_from(n).unwrap_or_default();
    let (hook, action, outcome, reason, rule) = match n % 4 {
        0 => (Hook::FileOpen, Action::Read, Outcome::Denied, Reason::Rule, 1),
        1 => (Hook::FileOpen, Action::ReadWrite, Outcome::Allowed, Reason::Rule, 0),
        2 => (Hook::BprmCheck, Action::Exec, Outcome::Denied, Reason::Default, NO_RULE),
        _ => (Hook::SocketConnect, Action::Connect, Outcome::Denied, Reason::Default, NO_RULE),
    };
    let to_address = action == Action::Connect;
    let path: &[&str] = match action {
        Action::Connect => &[],
        Action::Exec => &["curl", "bin", "usr"],
        _ => &["settings-production.json", "configuration", "backend", "project", "workspace"],
    };
    let mut names = Vec::new();
    for name in path {
        names.extend_from_slice(name.as_bytes());
        names.push(0);
        names.resize(names.len().next_multiple_of(PATH_ALIGN), 0);
    }
    let header = EventHeader {
        boot_ns: 1_000_000_000 * u64::from(n),
        cgroup: 4711,
        inode: 1_000_000 + u64::from(n),
        agent: 1,
        policy: 1,
        pid: 20_000 + n,
        tid: 20_000 + n,
        ppid: 1_000,
        uid: 1_000,
        gid: 1_000,
        dev: DISK,
        path_len: u32::try_from(names.len()).unwrap_or_default(),
        rule,
        port: if to_address { 443 } else { 0 },
        protocol: if to_address { 6 } else { 0 },
        family: if to_address { 2 } else { 0 },
        hook: hook as u8,
        action: action as u8,
        reason: reason as u8,
        outcome: outcome as u8,
        operation: 0,
        reserved: [0; 3],
        target: 0,
        addr: [203, 0, 113, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        comm: *b"node\0\0\0\0\0\0\0\0\0\0\0\0",
    };
    // SAFETY: a header is integers and arrays of them without padding (its size is asserted where it is declared), so
    // all of its bytes have a value; it outlives the slice.
    let fixed = unsafe {
        std::slice::from_raw_parts((&raw const header).cast::<u8>(), size_of::<EventHeader>())
    };
    [fixed, &names].concat()
}

/// The file system that the files lie on.
const DISK: u32 = 8 << 20 | 1;

/// Names as a run has them.
struct Known {
    context: Arc<Context>,
    rules: [Arc<Rule>; 2],
    mounts: Vec<Mount>,
}

impl Known {
    fn new() -> Self {
        let rule = |label: &str, line, class: Option<&str>| {
            let class = class.map(str::to_owned);
            Arc::new(Rule { label: label.to_owned(), line: Some(line), class })
        };
        let agent = AgentIdentity {
            name: "coding-agent".to_owned(),
            id: 1,
            cgroup_id: 4711,
            cgroup: SafeText::new(b"/agent-guard-coding-agent-1000"),
            container: None,
        };
        let policy = PolicyIdentity {
            name: "coding-agent".to_owned(),
            revision: "0123456789abcdef".repeat(4),
            file: SafeText::new(b"policies/coding-agent.yaml"),
        };
        Self {
            context: Arc::new(Context {
                tier: Tier::Lsm,
                mode: Mode::Enforce,
                degraded: Vec::new(),
                agent,
                policy: Some(policy),
            }),
            rules: [rule("project", 12, None), rule("secrets", 31, Some("secret"))],
            mounts: vec![Mount { root: b"/".to_vec(), point: b"/".to_vec() }],
        }
    }
}

impl Names for Known {
    fn context(&self, _agent: u32, _policy: u32) -> Arc<Context> {
        Arc::clone(&self.context)
    }
    fn rule(&self, _policy: u32, rule: u16) -> Option<Arc<Rule>> {
        self.rules.get(usize::from(rule)).map(Arc::clone)
    }
    fn host(&self, _address: IpAddr, _rule: u16) -> Option<Arc<str>> {
        None
    }
    fn mounts(&self, dev: u32) -> &[Mount] {
        if dev == DISK { &self.mounts } else { &[] }
    }
    fn boot_time_ns(&self) -> u64 {
        1_795_000_000_000_000_000
    }
}
