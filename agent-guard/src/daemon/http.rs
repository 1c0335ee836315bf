//! HTTP within bounds: one request a connection, whose head, body and answer each have an end.

use std::{convert::Infallible, error::Error, io, time::Duration};

use axum::{
    Json, Router,
    body::{Body, HttpBody as _, to_bytes},
    extract::Request,
    http::{HeaderValue, header::CONTENT_TYPE},
    middleware::{map_request, map_response},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, stream};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};
use tokio_io_timeout::TimeoutStream;

use super::view::Refusal;

/// How long the head of a request may take from the connection on: a client writes it at once.
pub const HEAD_TIME: Duration = Duration::from_secs(5);

/// How long its body may take: the largest policy is 4 MiB, and comes from this host.
pub const BODY_TIME: Duration = Duration::from_secs(10);

/// How long a client may take nothing of an answer that waits for it.
pub const STALL_TIME: Duration = Duration::from_secs(30);

/// Bytes of a request's head: a path and a few fields. It is the least that hyper takes.
pub const MAX_HEAD: usize = 8192;

/// Bytes of what a refusal says.
const MAX_REFUSAL: usize = 64 << 10;

/// Answers the one request of a connection.
///
/// # Errors
/// It was none, or took too long.
pub async fn serve(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    router: Router,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STALL_TIME));
    let router = router.layer(map_request(hurry)).layer(map_response(told));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router))
        .await
        .map_err(Into::into)
}

/// Has the body of a request end in time.
async fn hurry(request: Request) -> Request {
    if request.body().is_end_stream() {
        return request;
    }
    let due = Instant::now() + BODY_TIME;
    request.map(|body| {
        let next = move |body: Option<axum::body::BodyDataStream>| async move {
            let mut body = body?;
            match timeout_at(due, body.next()).await {
                Ok(Some(part)) => Some((part, Some(body))),
                Ok(None) => None,
                Err(_) => {
                    let error = io::Error::from(io::ErrorKind::TimedOut);
                    Some((Err(axum::Error::new(error)), None))
                }
            }
        };
        Body::from_stream(stream::unfold(Some(body.into_data_stream()), next))
    })
}

/// Has every refusal be a [`Refusal`], whoever refused.
async fn told(answer: Response) -> Result<Response, Infallible> {
    let status = answer.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let json = HeaderValue::from_static("application/json");
    if !is_error || answer.headers().get(CONTENT_TYPE) == Some(&json) {
        return Ok(answer);
    }
    let (head, body) = answer.into_parts();
    let said = to_bytes(body, MAX_REFUSAL).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let reason = status.canonical_reason().unwrap_or("refused").to_lowercase();
    let error = if said.is_empty() { reason } else { format!("{reason}: {said}") };
    let mut refusal = (status, Json(Refusal { error })).into_response();
    // `Allow`, where the method is another.
    for (name, value) in &head.headers {
        refusal.headers_mut().entry(name).or_insert_with(|| value.clone());
    }
    Ok(refusal)
}
