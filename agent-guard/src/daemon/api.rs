//! The control API: HTTP over a UNIX-domain socket, version 1.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`view::Status`](super::view::Status) |
//! | `GET /v1/metrics` | the same and more, for Prometheus |
//! | `GET /v1/ready` | `"ready"`, or 503 and why not |
//! | `GET /v1/agents` | a list of [`view::Agent`](super::view::Agent) |
//! | `GET /v1/self` | the caller's own [`view::Agent`](super::view::Agent) |
//! | `GET /v1/policies` | a list of [`view::Policy`](super::view::Policy) |
//! | `GET /v1/policies/NAME` | the text of its file, as a string |
//! | `PUT /v1/policies` | the body is a policy; [`view::Loaded`](super::view::Loaded) |
//! | `DELETE /v1/policies/NAME` | `null` |
//! | `POST /v1/reload` | as `GET /v1/policies` |
//! | `GET /v1/events`, `GET /v1/events/denials` | OCSF lines from now on, without an end |
//!
//! What is refused has a [`view::Refusal`](super::view::Refusal). Root and the members of the configured group may
//! ask all of it, unless they are in an agent's cgroup; who is in one may ask for `/v1/self`.

use std::{
    convert::Infallible,
    fs::{self, Permissions},
    io,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, FromRequestParts, Path as Argument},
    http::{StatusCode, header::CONTENT_TYPE, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::stream;
use serde::Serialize;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot},
};

use super::{
    config::Control,
    fills::Fills,
    http, metrics,
    peer::{Doorkeeper, Peer, Standing},
    stream::Line,
    view::{Fill, Refusal},
};
use crate::{kernel::bindings::Bindings, policy::MAX_FILE_BYTES};

/// Connections of those who administer: people, scripts, and who follows events.
const MAX_ADMINISTRATORS: usize = 64;

/// Connections of everybody else. They can not keep an administrator out.
const MAX_OTHERS: usize = 16;

/// What everybody may ask.
const OWN: &str = "/v1/self";

/// A request that waits for the daemon.
pub struct Call {
    /// What is asked.
    pub ask: Ask,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Value, Failure>>,
}

/// What can be asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Ask {
    /// For the daemon's own state; the maps are as full as this.
    Status(Vec<Fill>),
    /// For the same, and more, as Prometheus takes it.
    Metrics(Vec<Fill>),
    /// Whether what is to be in force is.
    Ready,
    /// For all workloads.
    Agents,
    /// For the workload that this cgroup lies in.
    Own(String),
    /// For all policies.
    Policies,
    /// For a policy's text.
    Policy(String),
    /// To put a policy in force.
    Load(String),
    /// To take a policy out.
    Unload(String),
    /// To read the policy directory.
    Reload,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// Who asks may not.
    Forbidden(String),
    /// There is no such thing.
    Missing(String),
    /// It can not be done.
    Refused(String),
    /// Not now.
    Unready(String),
}

/// Answers on the socket from here on.
///
/// # Errors
/// It can not be made.
pub fn listen(
    control: &Control,
    bindings: Bindings,
    calls: mpsc::Sender<Call>,
    followers: broadcast::Sender<Line>,
    fills: Fills,
) -> anyhow::Result<()> {
    let path = &control.socket;
    let doorkeeper = Doorkeeper::new(control.group.as_deref(), bindings)?;
    // There is one daemon, so it is nobody's.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).context(format!("removing {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path)
        .with_context(|| format!("listening on the control socket {}", path.display()))?;
    // Everybody may connect: who may ask what is decided by who it is.
    fs::set_permissions(path, Permissions::from_mode(0o666))
        .with_context(|| format!("opening {}", path.display()))?;
    let (admit, mut admitted) = mpsc::channel(MAX_ADMINISTRATORS + MAX_OTHERS);
    let doors = Doors {
        listener,
        doorkeeper,
        administrators: Arc::new(Semaphore::new(MAX_ADMINISTRATORS)),
        others: Arc::new(Semaphore::new(MAX_OTHERS)),
        admit,
    };
    // A thread of its own: who connects is looked at at once, whatever the daemon is busy with.
    let name = "control".to_owned();
    thread::Builder::new().name(name).spawn(|| doors.keep()).context("starting a thread")?;
    let service = Service::new(calls, followers, fills);
    tokio::spawn(async move {
        while let Some(admitted) = admitted.recv().await {
            tokio::spawn(admitted.serve(service.clone()));
        }
    });
    Ok(())
}

/// What the daemon answers.
///
/// # Errors
/// Why it does not.
pub async fn ask(calls: &mpsc::Sender<Call>, ask: Ask) -> Result<Value, Failure> {
    let (reply, answer) = oneshot::channel();
    let gone = || Failure::Refused("the daemon is ending".to_owned());
    calls.send(Call { ask, reply }).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

/// As JSON.
pub fn json(value: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::Refused(error.to_string()))
}

/// What answers requests.
#[derive(Clone)]
pub struct Service(Router);

impl Service {
    /// Passes what is asked on to `calls`; `followers` is where lines of events come.
    pub fn new(
        calls: mpsc::Sender<Call>,
        followers: broadcast::Sender<Line>,
        fills: Fills,
    ) -> Self {
        Self(router(Shared { calls, followers, fills }))
    }

    /// Answers the request of `peer`.
    pub async fn serve(self, stream: impl AsyncRead + AsyncWrite + Send + 'static, peer: Peer) {
        if let Err(error) = http::serve(stream, self.0.layer(Extension(peer))).await {
            tracing::debug!("a request over the control socket: {error}");
        }
    }
}

#[derive(Clone)]
struct Shared {
    calls: mpsc::Sender<Call>,
    followers: broadcast::Sender<Line>,
    fills: Fills,
}

fn router(shared: Shared) -> Router {
    let policy = get(|asker: Asker, Argument(name): Argument<String>| async move {
        asker.ask(Ask::Policy(name)).await
    })
    .delete(|asker: Asker, Argument(name): Argument<String>| async move {
        asker.ask(Ask::Unload(name)).await
    });
    let policies = get(|asker: Asker| async move { asker.ask(Ask::Policies).await })
        .put(|asker: Asker, text: String| async move { asker.ask(Ask::Load(text)).await });
    Router::new()
        .route("/v1/status", get(|asker: Asker| async move { asker.status().await }))
        .route("/v1/metrics", get(|asker: Asker| async move { asker.metrics().await }))
        .route("/v1/ready", get(|asker: Asker| async move { asker.ask(Ask::Ready).await }))
        .route("/v1/agents", get(|asker: Asker| async move { asker.ask(Ask::Agents).await }))
        .route(OWN, get(|asker: Asker| async move { asker.own().await }))
        .route("/v1/policies", policies)
        .route("/v1/policies/{name}", policy)
        .route("/v1/reload", post(|asker: Asker| async move { asker.ask(Ask::Reload).await }))
        .route("/v1/events", get(|asker: Asker| async move { asker.follow(false) }))
        .route("/v1/events/denials", get(|asker: Asker| async move { asker.follow(true) }))
        .fallback(|| async { Failure::Missing("there is no such request in version 1".to_owned()) })
        .method_not_allowed_fallback(|| async {
            (StatusCode::METHOD_NOT_ALLOWED, "version 1 has this request with other methods alone")
        })
        .layer(DefaultBodyLimit::max(MAX_FILE_BYTES))
        .with_state(shared)
}

/// Who asks, and whom.
struct Asker {
    peer: Peer,
    shared: Shared,
}

impl FromRequestParts<Shared> for Asker {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Failure> {
        let Extension(peer) = Extension::<Peer>::from_request_parts(parts, shared)
            .await
            .map_err(|error| Failure::Forbidden(error.to_string()))?;
        match (parts.uri.path(), peer.standing) {
            // Before anything of a body is read.
            (OWN, _) | (_, Standing::Administrator) => Ok(Self { peer, shared: shared.clone() }),
            (_, Standing::Agent) => {
                Err(Failure::Forbidden(format!("an agent may ask for `{OWN}` alone")))
            }
            (_, Standing::Nobody) => Err(Failure::Forbidden(
                "this is for root, and for the group that `control.group` in the configuration names"
                    .to_owned(),
            )),
        }
    }
}

impl Asker {
    async fn ask(self, ask: Ask) -> Result<Json<Value>, Failure> {
        self::ask(&self.shared.calls, ask).await.map(Json)
    }

    async fn status(self) -> Result<Json<Value>, Failure> {
        let maps = self.shared.fills.now().await;
        self.ask(Ask::Status(maps)).await
    }

    async fn metrics(self) -> Result<Response, Failure> {
        let maps = self.shared.fills.now().await;
        self::ask(&self.shared.calls, Ask::Metrics(maps)).await.map(metrics::answer)
    }

    async fn own(self) -> Result<Json<Value>, Failure> {
        match self.peer.cgroup.clone() {
            Some(cgroup) => self.ask(Ask::Own(cgroup)).await,
            None => Err(Failure::Forbidden("whose request this is can not be told".to_owned())),
        }
    }

    /// Lines from now on. Who is too slow is told how many it has missed, and goes on.
    fn follow(&self, denials: bool) -> Response {
        let lines = self.shared.followers.subscribe();
        let next = move |mut lines: broadcast::Receiver<Line>| async move {
            loop {
                match lines.recv().await {
                    Ok(line) if line.show || !denials => {
                        return Some((Ok::<_, Infallible>(Bytes::from_owner(line.json)), lines));
                    }
                    Ok(_) => {}
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        let told = format!("{{\"missed\":{missed}}}\n");
                        return Some((Ok(Bytes::from(told)), lines));
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        };
        let body = Body::from_stream(stream::unfold(lines, next));
        ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (code, error) = match self {
            Self::Forbidden(error) => (StatusCode::FORBIDDEN, error),
            Self::Missing(error) => (StatusCode::NOT_FOUND, error),
            Self::Refused(error) => (StatusCode::UNPROCESSABLE_ENTITY, error),
            Self::Unready(error) => (StatusCode::SERVICE_UNAVAILABLE, error),
        };
        (code, Json(Refusal { error })).into_response()
    }
}

/// The socket, with a bound on connections for each kind of peer.
struct Doors {
    listener: UnixListener,
    doorkeeper: Doorkeeper,
    administrators: Arc<Semaphore>,
    others: Arc<Semaphore>,
    admit: mpsc::Sender<Admitted>,
}

/// A connection within the bound.
struct Admitted {
    stream: UnixStream,
    peer: Peer,
    permit: OwnedSemaphorePermit,
}

/// How long nobody is let in where the system has no descriptor or memory for another connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

impl Doors {
    /// Lets who connects in until the daemon ends.
    fn keep(self) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("a connection to the control socket was lost: {error}");
                    thread::sleep(EXHAUSTED);
                    continue;
                }
            };
            let peer = self.doorkeeper.peer(&stream);
            let bound = match peer.standing {
                Standing::Administrator => &self.administrators,
                Standing::Agent | Standing::Nobody => &self.others,
            };
            // Beyond it the connection is closed at once.
            let Ok(permit) = Arc::clone(bound).try_acquire_owned() else { continue };
            if self.admit.blocking_send(Admitted { stream, peer, permit }).is_err() {
                return;
            }
        }
    }
}

impl Admitted {
    async fn serve(self, service: Service) {
        let Self { stream, peer, permit } = self;
        let stream =
            stream.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(stream));
        match stream {
            Ok(stream) => service.serve(stream, peer).await,
            Err(error) => tracing::warn!("a connection to the control socket was lost: {error}"),
        }
        drop(permit);
    }
}

/// Removes the socket.
pub fn close(socket: &Path) {
    // Whoever connects now is told that nobody is there.
    let _ = fs::remove_file(socket);
}

#[cfg(test)]
mod tests;
