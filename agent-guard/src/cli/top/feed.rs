//! Where `top` has its news from: the daemon, asked from time to time, and its denials as they come.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::SyncSender,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    cli::control::{self, Target},
    daemon::view::{Agent, Status},
    event::SafeText,
};

/// News that wait to be shown. Who tells more waits: the daemon counts what a follower misses.
pub const MAX_NEWS: usize = 256;

/// How long to wait for a daemon that has gone.
const AGAIN: Duration = Duration::from_secs(1);

/// Something to show.
pub enum News {
    /// The state by now.
    Look {
        /// When it was.
        at: Instant,
        /// The daemon.
        status: Box<Status>,
        /// The workloads.
        agents: Vec<Agent>,
    },
    /// A denial, on one line.
    Denial(String),
    /// Denials that this follower was too slow for.
    Missed(u64),
    /// The daemon does not answer; why.
    Gone(String),
}

/// The state now.
pub fn look(socket: &Path) -> anyhow::Result<News> {
    let target = Target::at(socket.to_owned());
    let status = Box::new(target.get("/v1/status")?);
    let agents = target.get("/v1/agents")?;
    Ok(News::Look { at: Instant::now(), status, agents })
}

/// Tells `news` from here on, until nobody listens.
pub fn start(socket: PathBuf, interval: Duration, news: SyncSender<News>) {
    let (other_socket, other_news) = (socket.clone(), news.clone());
    thread::spawn(move || {
        loop {
            thread::sleep(interval);
            let look = look(&socket).unwrap_or_else(|error| News::Gone(format!("{error:#}")));
            if news.send(look).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        loop {
            let told = control::follow(&other_socket, false, |line| {
                Ok(read(line).is_none_or(|denial| other_news.send(denial).is_ok()))
            });
            if told.is_ok_and(|wants_more| !wants_more) {
                return;
            }
            thread::sleep(AGAIN);
        }
    });
}

/// What a line of events says; `None` where it is no denial.
fn read(line: &[u8]) -> Option<News> {
    let event: Value = serde_json::from_slice(line).ok()?;
    if let Some(missed) = event.get("missed").and_then(Value::as_u64) {
        return Some(News::Missed(missed));
    }
    // OCSF: `action_id` 2 is Denied, 3 is Observed, which audited denials have.
    [2, 3].contains(&event.get("action_id")?.as_u64()?).then_some(())?;
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
    let target = ["/file/path", "/dst_endpoint/hostname", "/dst_endpoint/ip", "/query/hostname"]
        .into_iter()
        .chain(["/process/file/path", "/unmapped/agent_guard/operation"])
        .find_map(text)
        .unwrap_or("-");
    let port =
        event.pointer("/dst_endpoint/port").map_or_else(String::new, |port| format!(":{port}"));
    let agent = text("/unmapped/agent_guard/agent/name").unwrap_or("-");
    let action = text("/activity_name").unwrap_or("-");
    let line = format!("{agent}  {action}  {target}{port}");
    Some(News::Denial(SafeText::new(line.as_bytes()).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_is_one_line_whatever_the_agent_wrote() {
        let line = r#"{"action_id":2,"activity_name":"Read","file":{"path":"/a\u001b[2J\nb"},"unmapped":{"agent_guard":{"agent":{"name":"x"}}}}"#;
        let Some(News::Denial(told)) = read(line.as_bytes()) else { panic!("no denial") };
        assert!(told.starts_with("x  Read  /a"), "{told}");
        assert!(!told.contains(char::is_control), "{told:?}");
        assert!(matches!(read(br#"{"missed":7}"#), Some(News::Missed(7))));
        assert!(read(br#"{"action_id":1}"#).is_none() && read(b"nonsense").is_none());
    }
}
