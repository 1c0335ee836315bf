//! What is asked of the daemon, over its control socket.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::output::{self, Format, table};
use crate::{
    daemon::{config::SOCKET, view},
    policy::MAX_FILE_BYTES,
};

/// Longest answer that is read, other than a stream of events: a policy, or ten thousand agents.
const MAX_ANSWER: usize = 16 << 20;

/// Which daemon, and how its answer is shown.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// The daemon's control socket
    #[arg(long, value_name = "SOCKET", default_value = SOCKET)]
    socket: PathBuf,

    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// `agent-guard status`
pub fn status(target: &Target) -> anyhow::Result<bool> {
    let status: view::Status = target.get("/v1/status")?;
    output::print(target.output, &status, || {
        let mut lines = vec![
            format!("daemon {} (process {}), tier {}", status.version, status.pid, status.tier),
            match &status.broken {
                None => format!("{} hooks read back, all attached", status.hooks.len()),
                Some(problem) => format!("NOT IN FORCE: {problem}"),
            },
            format!("{} workload(s) under guard, {} refused", status.agents, status.refused),
            format!("{} policies, {} file(s) with problems", status.policies, status.problems),
            format!("{} events since the start, {} strays", status.events, status.strays),
        ];
        if !status.canary_stopped {
            lines.push(
                "THE CANARY WAS NOT STOPPED when policies changed; the log says why".to_owned(),
            );
        }
        let sum = |of: fn(&view::Counts) -> u64| -> u64 {
            status.counts.iter().map(|hook| of(&hook.counts)).sum()
        };
        lines.push(format!(
            "{} decided, {} denied, {} by a failure; {} events lost",
            sum(|counts| counts.decided),
            sum(|counts| counts.denied),
            sum(|counts| counts.failed),
            sum(|counts| counts.lost),
        ));
        let skipped = status.counts.iter().filter(|hook| hook.skipped > 0);
        lines
            .extend(skipped.map(|hook| format!("{} calls skipped at {}", hook.skipped, hook.hook)));
        let weaker = status.weaker_because.iter();
        lines.extend(weaker.map(|reason| format!("not to be had: {reason}")));
        let fills = [&status.buffer].into_iter().chain(&status.maps).map(|fill| {
            let share = fill.used.saturating_mul(100).checked_div(fill.capacity).unwrap_or(0);
            [
                fill.name.clone(),
                fill.used.to_string(),
                fill.capacity.to_string(),
                format!("{share} %"),
            ]
        });
        let maps = table(["MAP", "USED", "CAPACITY", "FULL"], fills);
        lines.join("\n") + "\n" + &sinks(&status.sinks) + "\n" + &maps
    })?;
    Ok(status.broken.is_none()
        && status.canary_stopped
        && status.refused == 0
        && status.problems == 0)
}

/// The part of `agent-guard status` on where events go.
fn sinks(sinks: &[view::Sink]) -> String {
    if sinks.is_empty() {
        return String::new();
    }
    let part = |taken: u64, room: u64| match room {
        0 => "-".to_owned(),
        room => format!("{}%", u128::from(taken) * 100 / u128::from(room)),
    };
    let rows = sinks.iter().map(|sink| {
        let [delivered, retried, lost, spooled] =
            [sink.delivered, sink.retried, sink.lost, sink.spooled].map(|n| n.to_string());
        [
            sink.name.clone(),
            sink.kind.clone(),
            delivered,
            retried,
            lost,
            part(sink.queue_bytes, sink.queue_room),
            spooled,
            part(sink.spool_bytes, sink.spool_room),
        ]
    });
    let head = ["SINK", "TYPE", "DELIVERED", "RETRIED", "LOST", "QUEUE", "SPOOLED", "SPOOL"];
    let problems = sinks.iter().filter_map(|sink| {
        sink.problem.as_ref().map(|problem| format!("sink {}: {problem}\n", sink.name))
    });
    table(head, rows) + &problems.collect::<String>()
}

/// `agent-guard agents`
pub fn agents(target: &Target) -> anyhow::Result<bool> {
    let agents: Vec<view::Agent> = target.get("/v1/agents")?;
    output::print(target.output, &agents, || {
        let head = ["AGENT", "POLICY", "MODE", "DECIDED", "DENIED", "LOST", "CGROUP"];
        let rows = agents.iter().map(|agent| {
            let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            let [decided, denied, lost] =
                [agent.decided, agent.denied, agent.lost].map(|n| n.to_string());
            let policy = or_none(&agent.policy);
            [
                agent.name.clone(),
                policy,
                or_none(&agent.mode),
                decided,
                denied,
                lost,
                agent.cgroup.clone(),
            ]
        });
        let problems = agents.iter().filter_map(|agent| {
            agent.problem.as_ref().map(|problem| format!("{}: {problem}\n", agent.cgroup))
        });
        table(head, rows) + &problems.collect::<String>()
    })?;
    Ok(agents.iter().all(|agent| agent.problem.is_none()))
}

/// `agent-guard policy list`
pub fn list(target: &Target) -> anyhow::Result<bool> {
    let policies: Vec<view::Policy> = target.get("/v1/policies")?;
    output::print(target.output, &policies, || {
        let rows = policies.iter().map(|policy| {
            let revision =
                policy.revision.as_deref().and_then(|text| text.get(..12)).unwrap_or("-");
            let name = if policy.name.is_empty() { "-" } else { &policy.name };
            let mode = policy.mode.as_deref().unwrap_or("-");
            [
                name.to_owned(),
                mode.to_owned(),
                policy.agents.to_string(),
                revision.to_owned(),
                policy.file.clone(),
            ]
        });
        let problems = policies.iter().filter_map(|policy| {
            policy.problem.as_ref().map(|problem| format!("{}: {}\n", policy.file, problem.trim()))
        });
        table(["POLICY", "MODE", "AGENTS", "REVISION", "FILE"], rows)
            + &problems.collect::<String>()
    })?;
    Ok(policies.iter().all(|policy| policy.problem.is_none()))
}

/// `agent-guard policy show`
pub fn show(target: &Target, name: &str) -> anyhow::Result<()> {
    let text: String = target.get(&format!("/v1/policies/{name}"))?;
    output::print(target.output, &text, || text.clone())
}

/// `agent-guard policy load`
pub fn load(target: &Target, file: &Path) -> anyhow::Result<()> {
    let mut text = String::new();
    let limit = MAX_FILE_BYTES as u64 + 1;
    match file == Path::new("-") {
        true => io::stdin().take(limit).read_to_string(&mut text),
        false => fs::File::open(file).and_then(|file| file.take(limit).read_to_string(&mut text)),
    }
    .with_context(|| format!("reading the policy {}", file.display()))?;
    if text.len() > MAX_FILE_BYTES {
        bail!("the policy {} has more than {MAX_FILE_BYTES} bytes", file.display());
    }
    let loaded: view::Loaded = target.ask(Method::PUT, "/v1/policies", text)?;
    output::print(target.output, &loaded, || {
        let view::Loaded { name, revision, file, agents } = &loaded;
        let revision = revision.get(..12).unwrap_or(revision);
        format!(
            "{name} ({revision}) is in force for {agents} workload(s), read back from the kernel; kept as {file}\n"
        )
    })
}

/// `agent-guard policy unload`
pub fn unload(target: &Target, name: &str) -> anyhow::Result<()> {
    target.ask::<()>(Method::DELETE, &format!("/v1/policies/{name}"), String::new())?;
    output::print(target.output, &(), || {
        format!("{name} is taken out; workloads that run under it stay so until they end\n")
    })
}

/// Longest line of events: an event's texts are bounded far below.
const MAX_LINE: usize = 1 << 20;

/// Gives every line of events that comes, or of denials alone, to `take`, until that has enough. True where the
/// daemon has ended before.
///
/// # Errors
/// No daemon answers, or what `take` says.
pub fn follow(
    socket: &Path,
    all: bool,
    mut take: impl FnMut(&[u8]) -> anyhow::Result<bool>,
) -> anyhow::Result<bool> {
    let path = if all { "/v1/events" } else { "/v1/events/denials" };
    blocking(async {
        let mut body = accepted(send(socket, Method::GET, path, String::new()).await?).await?;
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(bytes) = frame.context("the daemon has ended")?.into_data() else { continue };
            rest.extend_from_slice(&bytes);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if !take(&line)? {
                    return Ok(false);
                }
            }
            if rest.len() > MAX_LINE {
                bail!("a line of events has more than {MAX_LINE} bytes");
            }
        }
        Ok(true)
    })
}

impl Target {
    /// The socket at this path.
    pub fn at(socket: PathBuf) -> Self {
        Self { socket, output: Format::Json }
    }

    /// What the daemon answers to a request that changes nothing.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.ask(Method::GET, path, String::new())
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        text: String,
    ) -> anyhow::Result<T> {
        let bytes = blocking(async {
            let answer = send(&self.socket, method, path, text).await?;
            whole(accepted(answer).await?).await
        })?;
        serde_json::from_slice(&bytes).context("the daemon speaks another version of the protocol")
    }
}

fn blocking<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("starting the runtime")?.block_on(work)
}

async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    text: String,
) -> anyhow::Result<Response<Incoming>> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!("no daemon answers at {}; is `agent-guard daemon` running?", socket.display())
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "agent-guard");
    let request = request.body(Full::new(Bytes::from(text))).context("asking the daemon")?;
    sender.send_request(request).await.context("asking the daemon")
}

/// The answer's body, where it is one.
async fn accepted(answer: Response<Incoming>) -> anyhow::Result<Incoming> {
    let status = answer.status();
    if status == StatusCode::OK {
        return Ok(answer.into_body());
    }
    let bytes = whole(answer.into_body()).await?;
    match serde_json::from_slice::<view::Refusal>(&bytes) {
        Ok(view::Refusal { error }) => bail!("{error}"),
        Err(_) => bail!("the daemon answers {status}: {}", String::from_utf8_lossy(&bytes)),
    }
}

async fn whole(body: Incoming) -> anyhow::Result<Bytes> {
    match Limited::new(body, MAX_ANSWER).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => bail!("reading the daemon's answer: {error}"),
    }
}
