//! Metrics and health over HTTP, for Prometheus and for whoever restarts what hangs. Everybody who reaches the
//! address is answered, so nothing else is asked here.
//!
//! | request | answer |
//! |---|---|
//! | `GET /metrics` | see [`metrics`](super::metrics), at most one a second; the last one until then |
//! | `GET /livez` | 200 where the daemon gets on |
//! | `GET /readyz` | 200 where what is to be in force is, and the canary was stopped; else 503 and why |

use std::{net::TcpListener, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{Router, extract::State, response::Response, routing::get};
use serde_json::Value;
use tokio::{
    sync::{Mutex, Semaphore, mpsc},
    time::{Instant, sleep, timeout},
};

use super::{
    api::{self, Ask, Call, Failure},
    config,
    fills::Fills,
    http,
    life::{MAX_SILENCE, silent_for},
    metrics,
};

/// Connections at once. Beyond it one is closed at once: nobody needs more, and each takes memory.
const MAX_CONNECTIONS: usize = 16;

/// How long the daemon may take for an answer. Probes wait no longer by themselves.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long metrics are good for: who asks more often costs the daemon nothing.
const FRESH: Duration = Duration::from_secs(1);

/// How long nobody is let in where the system has no descriptor or memory for another connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Takes the address, where one is configured.
///
/// # Errors
/// It is not to be had.
pub fn bind(config: &config::Metrics) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = config.listen else { return Ok(None) };
    let listener = TcpListener::bind(address).with_context(|| {
        format!("`metrics.listen` in the configuration: listening on {address}")
    })?;
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}

/// Answers there from here on.
///
/// # Errors
/// What the system said.
pub fn serve(listener: TcpListener, calls: mpsc::Sender<Call>, fills: Fills) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener).context("listening for metrics")?;
    let router = router(Exporter { calls, fills, last: Arc::default() });
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tokio::spawn(async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("a connection for metrics was lost: {error}");
                    sleep(EXHAUSTED).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
            let router = router.clone();
            tokio::spawn(async move {
                if let Err(error) = http::serve(stream, router).await {
                    tracing::debug!("a request for metrics: {error}");
                }
                drop(permit);
            });
        }
    });
    Ok(())
}

#[derive(Clone)]
struct Exporter {
    calls: mpsc::Sender<Call>,
    fills: Fills,
    last: Arc<Mutex<Option<(Instant, Value)>>>,
}

fn router(exporter: Exporter) -> Router {
    Router::new()
        .route("/metrics", get(|State(exporter): State<Exporter>| exporter.metrics()))
        .route("/livez", get(|| async { live(silent_for()) }))
        .route("/readyz", get(|State(exporter): State<Exporter>| exporter.ready()))
        .fallback(|| async {
            Failure::Missing("here are /metrics, /livez and /readyz alone".to_owned())
        })
        .with_state(exporter)
}

/// Whether a daemon lives that was silent for so long.
fn live(silent: Duration) -> Result<&'static str, Failure> {
    match silent <= MAX_SILENCE {
        true => Ok("live\n"),
        false => Err(Failure::Unready(format!(
            "the daemon has given no sign of life for {} s",
            silent.as_secs()
        ))),
    }
}

impl Exporter {
    async fn metrics(self) -> Result<Response, Failure> {
        let mut last = self.last.lock().await;
        if let Some((taken, text)) = last.as_ref()
            && taken.elapsed() < FRESH
        {
            return Ok(metrics::answer(text.clone()));
        }
        let maps = self.fills.now().await;
        let text = in_time(&self.calls, Ask::Metrics(maps)).await?;
        *last = Some((Instant::now(), text.clone()));
        Ok(metrics::answer(text))
    }

    async fn ready(self) -> Result<&'static str, Failure> {
        in_time(&self.calls, Ask::Ready).await.map(|_| "ready\n")
    }
}

async fn in_time(calls: &mpsc::Sender<Call>, ask: Ask) -> Result<Value, Failure> {
    let late = |_| {
        let seconds = PATIENCE.as_secs();
        Failure::Unready(format!("no answer within {seconds} s: the daemon starts, or is busy"))
    };
    timeout(PATIENCE, api::ask(calls, ask)).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    async fn get(exporter: &Exporter, path: &str) -> String {
        let (mut near, far) = duplex(64 << 10);
        let served = tokio::spawn(http::serve(far, router(exporter.clone())));
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        near.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        served.await.unwrap().unwrap();
        answer
    }

    fn exporter() -> (Exporter, mpsc::Receiver<Call>) {
        let (calls, asked) = mpsc::channel(1);
        (Exporter { calls, fills: Fills::none(), last: Arc::default() }, asked)
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_daemon_starts_it_is_not_ready_and_says_so() {
        let (exporter, _asked) = exporter();
        for path in ["/readyz", "/metrics"] {
            let answer = get(&exporter, path).await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            assert!(answer.contains("the daemon starts, or is busy"), "{answer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_often_gets_the_answer_of_before() {
        let (exporter, mut asked) = exporter();
        let daemon = tokio::spawn(async move {
            for number in 0.. {
                let Some(Call { reply, .. }) = asked.recv().await else { break };
                let _ = reply.send(Ok(format!("a {number}\n").into()));
            }
        });
        for expected in ["a 0", "a 0", "a 1"] {
            let answer = get(&exporter, "/metrics").await;
            assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{expected}\n")), "{answer}");
            if expected == "a 0" {
                sleep(FRESH / 2).await;
            }
        }
        daemon.abort();
    }

    #[tokio::test]
    async fn nothing_else_is_answered_and_what_is_wrong_is_said() {
        let (exporter, mut asked) = exporter();
        let (ready, ()) = tokio::join!(get(&exporter, "/readyz"), async {
            let Some(Call { ask, reply }) = asked.recv().await else { return };
            assert_eq!(ask, Ask::Ready);
            let _ = reply.send(Err(Failure::Unready("the canary was not stopped".to_owned())));
        });
        assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
        assert!(ready.ends_with("{\"error\":\"the canary was not stopped\"}"), "{ready}");
        for path in ["/", "/v1/status", "/v1/agents"] {
            assert!(get(&exporter, path).await.starts_with("HTTP/1.1 404"), "{path}");
        }
    }

    #[test]
    fn a_daemon_lives_as_long_as_it_gives_signs() {
        assert_eq!(live(MAX_SILENCE).unwrap(), "live\n");
        live(MAX_SILENCE + Duration::from_nanos(1)).unwrap_err();
    }
}
