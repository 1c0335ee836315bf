//! The control API: HTTP over a UNIX-domain socket, version 1.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`view::Status`](super::view::Status) |
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
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use anyhow::{Context as _, bail};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{
        ConnectInfo, DefaultBodyLimit, FromRequestParts, Path as Argument, connect_info::Connected,
    },
    http::{StatusCode, header::CONTENT_TYPE, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::{IncomingStream, Listener},
};
use futures_util::stream;
use serde::Serialize;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream, unix::SocketAddr},
    sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot},
};

use super::{config::Control, stream::Line, view::Refusal};
use crate::policy::MAX_FILE_BYTES;

/// Connections of those who administer: people, scripts, and who follows events.
const MAX_ADMINISTRATORS: usize = 64;

/// Connections of everybody else. They can not keep an administrator out.
const MAX_OTHERS: usize = 16;

/// A request that waits for the daemon.
pub struct Call {
    /// What is asked.
    pub ask: Ask,
    /// By whom.
    pub peer: Peer,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Value, Failure>>,
}

/// What can be asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Ask {
    /// For the daemon's own state.
    Status,
    /// For all workloads.
    Agents,
    /// For the workload of who asks.
    Own,
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
    /// To be told of events.
    Follow,
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
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Whether it is root or in the group that administers.
    pub administers: bool,
    /// The path of its cgroup when it connected; `None` where that is not known.
    pub cgroup: Option<String>,
}

/// Answers on the socket from here on.
///
/// # Errors
/// It can not be made.
pub fn listen(
    control: &Control,
    calls: mpsc::Sender<Call>,
    followers: broadcast::Sender<Line>,
) -> anyhow::Result<()> {
    let path = &control.socket;
    let group = control.group.as_deref().map(group_id).transpose()?;
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
    let doors = Doors {
        listener,
        group,
        administrators: Arc::new(Semaphore::new(MAX_ADMINISTRATORS)),
        others: Arc::new(Semaphore::new(MAX_OTHERS)),
    };
    let service = router(Shared { calls, followers }).into_make_service_with_connect_info::<Peer>();
    tokio::spawn(axum::serve(doors, service).into_future());
    Ok(())
}

/// As JSON.
pub fn json(value: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::Refused(error.to_string()))
}

#[derive(Clone)]
struct Shared {
    calls: mpsc::Sender<Call>,
    followers: broadcast::Sender<Line>,
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
        .route("/v1/status", get(|asker: Asker| async move { asker.ask(Ask::Status).await }))
        .route("/v1/agents", get(|asker: Asker| async move { asker.ask(Ask::Agents).await }))
        .route("/v1/self", get(|asker: Asker| async move { asker.ask(Ask::Own).await }))
        .route("/v1/policies", policies)
        .route("/v1/policies/{name}", policy)
        .route("/v1/reload", post(|asker: Asker| async move { asker.ask(Ask::Reload).await }))
        .route("/v1/events", get(|asker: Asker| async move { asker.follow(false).await }))
        .route("/v1/events/denials", get(|asker: Asker| async move { asker.follow(true).await }))
        .fallback(|| async { Failure::Missing("there is no such request in version 1".to_owned()) })
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
        let ConnectInfo(peer) = ConnectInfo::<Peer>::from_request_parts(parts, shared)
            .await
            .map_err(|error| Failure::Forbidden(error.to_string()))?;
        Ok(Self { peer, shared: shared.clone() })
    }
}

impl Asker {
    async fn ask(self, ask: Ask) -> Result<Json<Value>, Failure> {
        let (reply, answer) = oneshot::channel();
        let gone = |_| Failure::Refused("the daemon is ending".to_owned());
        let call = Call { ask, peer: self.peer, reply };
        self.shared.calls.send(call).await.map_err(|_| gone(()))?;
        answer.await.map_err(|_| gone(()))?.map(Json)
    }

    /// Lines from now on. Who is too slow is told how many it has missed, and goes on.
    async fn follow(self, denials: bool) -> Result<Response, Failure> {
        // Before the answer, so that nothing is missed between the two.
        let lines = self.shared.followers.subscribe();
        self.ask(Ask::Follow).await.map(drop)?;
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
        Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (code, error) = match self {
            Self::Forbidden(error) => (StatusCode::FORBIDDEN, error),
            Self::Missing(error) => (StatusCode::NOT_FOUND, error),
            Self::Refused(error) => (StatusCode::UNPROCESSABLE_ENTITY, error),
        };
        (code, Json(Refusal { error })).into_response()
    }
}

/// The socket, with a bound on connections for each kind of peer.
struct Doors {
    listener: UnixListener,
    group: Option<u32>,
    administrators: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

/// A connection within the bound.
struct Admitted {
    stream: UnixStream,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
}

impl Listener for Doors {
    type Io = Admitted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Admitted, SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            let peer = Peer::of(&stream, self.group);
            let bound = if peer.administers { &self.administrators } else { &self.others };
            // Beyond it the connection is closed at once.
            if let Ok(permit) = Arc::clone(bound).try_acquire_owned() {
                return (Admitted { stream, peer, _permit: permit }, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Doors>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Doors>) -> Self {
        stream.io().peer.clone()
    }
}

impl AsyncRead for Admitted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Admitted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Peer {
    /// Of whom nothing is known, nothing is allowed.
    fn of(stream: &UnixStream, group: Option<u32>) -> Self {
        let nobody = Self { administers: false, cgroup: None };
        let Ok(credentials) = stream.peer_cred() else { return nobody };
        let is_member = |group: u32| {
            credentials.gid() == group || groups(stream).is_ok_and(|groups| groups.contains(&group))
        };
        Self {
            administers: credentials.uid() == 0 || group.is_some_and(is_member),
            cgroup: credentials.pid().and_then(cgroup_of),
        }
    }
}

/// The path of a process's cgroup.
fn cgroup_of(pid: i32) -> Option<String> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    table.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// Most supplementary groups that a process has: `NGROUPS_MAX` (`include/uapi/linux/limits.h`).
const MAX_GROUPS: usize = 65_536;

/// The supplementary groups that the peer had when it connected.
fn groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; MAX_GROUPS];
    let mut length = libc::socklen_t::try_from(size_of_val(groups.as_slice())).unwrap_or(0);
    // SAFETY: the buffer is as long as `length` says, and both outlive the call.
    let got = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(length as usize / size_of::<u32>());
    Ok(groups)
}

/// The id of a group, from `/etc/group`.
fn group_id(name: &str) -> anyhow::Result<u32> {
    const GROUPS: &str = "/etc/group";
    let table = fs::read_to_string(GROUPS).context(GROUPS)?;
    match id_in(&table, name) {
        Some(id) => Ok(id),
        None => {
            bail!("there is no group {name} in {GROUPS}; make it with `groupadd --system {name}`")
        }
    }
}

fn id_in(table: &str, name: &str) -> Option<u32> {
    let mut lines = table.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// Removes the socket.
pub fn close(socket: &Path) {
    // Whoever connects now is told that nobody is there.
    let _ = fs::remove_file(socket);
}
