//! Webhooks and collectors against a server that answers as it is told.

use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, response::Response};
use http_body_util::BodyExt as _;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::{webhook::Format, *};
use crate::daemon::sinks::transport::Transport as _;

/// What was asked, and what is answered: without an answer, 200.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    answers: VecDeque<(u16, &'static str)>,
    /// Bodies with this word are refused.
    poison: Option<&'static str>,
    asked: Vec<Asked>,
}

struct Asked {
    uri: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Server {
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = self.clone();
        let service = Router::new()
            .fallback(move |request: Request| async move { server.answer(request).await });
        tokio::spawn(axum::serve(listener, service).into_future());
        format!("http://{address}")
    }

    async fn answer(self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        let headers = parts.headers.iter();
        let headers =
            headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        let mut inner = self.0.lock().unwrap();
        let is_poisoned = inner.poison.is_some_and(|word| body.contains(word));
        let uri = parts.uri.to_string();
        inner.asked.push(Asked { uri, headers: headers.collect(), body });
        let (status, text) = match is_poisoned {
            true => (400, "no"),
            false => inner.answers.pop_front().unwrap_or((200, "")),
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        if status == 429 || status == 503 {
            response.headers_mut().insert("retry-after", HeaderValue::from_static("7"));
        }
        response
    }

    fn bodies(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.iter().map(|asked| asked.body.clone()).collect()
    }

    fn header(&self, name: &str) -> Option<String> {
        let inner = self.0.lock().unwrap();
        let headers = &inner.asked.last()?.headers;
        headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
    }
}

fn lines(numbers: std::ops::Range<usize>) -> Vec<Bytes> {
    numbers
        .map(|number| format!("{{\"time\":1500000000{:03},\"n\":{number}}}\n", number).into())
        .collect()
}

fn token(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("token");
    fs::write(&path, "hunter2\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn webhook(url: &str) -> WebhookConfig {
    WebhookConfig { url: url.to_owned(), format: Format::Ndjson, token_file: None, tls: None }
}

#[tokio::test]
async fn a_webhook_gets_lines_or_an_array_and_the_token() {
    let (server, dir) = (Server::default(), tempfile::tempdir().unwrap());
    let url = server.start().await;
    let mut lined = Webhook::open(&webhook(&format!("{url}/in?x=1"))).unwrap();
    lined.deliver(&lines(0..2)).await.unwrap();
    assert_eq!(server.bodies()[0].as_bytes(), lines(0..2).concat());
    assert_eq!(server.header("content-type").as_deref(), Some("application/x-ndjson"));
    assert_eq!(server.header("authorization"), None);
    assert_eq!(server.0.lock().unwrap().asked[0].uri, "/in?x=1");

    let config =
        WebhookConfig { format: Format::Array, token_file: Some(token(&dir)), ..webhook(&url) };
    let mut array = Webhook::open(&config).unwrap();
    array.deliver(&lines(0..3)).await.unwrap();
    let body: Vec<serde_json::Value> = serde_json::from_str(&server.bodies()[1]).unwrap();
    assert_eq!((body.len(), &body[2]["n"]), (3, &2.into()));
    assert_eq!(server.header("authorization").as_deref(), Some("Bearer hunter2"));

    // A token that is renewed is used at once, and one that others can read is not.
    fs::write(dir.path().join("token"), "hunter3").unwrap();
    array.deliver(&lines(0..1)).await.unwrap();
    assert_eq!(server.header("authorization").as_deref(), Some("Bearer hunter3"));
    fs::set_permissions(dir.path().join("token"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = array.deliver(&lines(0..1)).await.unwrap_err();
    assert!(
        error.error.contains("others can not read") && !error.error.contains("hunter"),
        "{error:?}"
    );
    assert_eq!(server.bodies().len(), 3);
}

#[tokio::test]
async fn what_may_work_later_is_tried_again_when_the_server_says() {
    let server = Server::default();
    let mut webhook = Webhook::open(&webhook(&server.start().await)).unwrap();
    for (status, wait) in [
        (429, Some(7)),
        (503, Some(7)),
        (500, None),
        (401, None),
        (403, None),
        (404, None),
        (301, None),
    ] {
        server.0.lock().unwrap().answers.push_back((status, "not \u{1b}now"));
        let error = webhook.deliver(&lines(0..3)).await.unwrap_err();
        assert_eq!(
            (error.delivered, error.retry),
            (0, Retry::Later(wait.map(Duration::from_secs))),
            "{status}"
        );
        assert!(
            error.error.contains(&status.to_string()) && error.error.contains("\\x1bnow"),
            "{error:?}"
        );
    }
    webhook.deliver(&lines(0..3)).await.unwrap();
}

#[tokio::test]
async fn of_lines_that_are_refused_together_only_the_one_at_fault_is_lost() {
    let server = Server::default();
    let mut webhook = Webhook::open(&webhook(&server.start().await)).unwrap();
    server.0.lock().unwrap().poison = Some("\"n\":11}");
    let error = webhook.deliver(&lines(0..20)).await.unwrap_err();
    assert_eq!((error.delivered, error.retry), (11, Retry::Never(1)));
    webhook.deliver(&lines(12..20)).await.unwrap();
    let mut got: Vec<_> =
        server.bodies().into_iter().filter(|body| !body.contains("\"n\":11}")).collect();
    got.dedup();
    assert_eq!(got.concat().as_bytes(), [lines(0..11), lines(12..20)].concat().concat());
}

#[tokio::test]
async fn a_server_that_has_gone_and_come_back_is_reached_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut webhook = Webhook::open(&webhook(&format!("http://{address}/"))).unwrap();
    let error = webhook.deliver(&lines(0..1)).await.unwrap_err();
    assert!(error.error.contains("refused"), "{error:?}");
    // One that says nothing sensible, and hangs up.
    let listener = TcpListener::bind(address).await.unwrap();
    let one = lines(0..1);
    let (answer, ()) = tokio::join!(webhook.deliver(&one), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"what?\r\n\r\n").await.unwrap();
    });
    assert_eq!(answer.unwrap_err().retry, Retry::Later(None));
    let server = Server::default();
    let router = Router::new().fallback({
        let server = server.clone();
        move |request: Request| async move { server.answer(request).await }
    });
    tokio::spawn(axum::serve(listener, router).into_future());
    webhook.deliver(&lines(0..1)).await.unwrap();
    webhook.deliver(&lines(1..2)).await.unwrap();
    assert_eq!(server.bodies().len(), 2);
}

#[tokio::test]
async fn an_answer_without_an_end_is_not_read_to_its_end() {
    let (listener, text) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), "x".repeat(1 << 20));
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(move || async move { text });
    tokio::spawn(axum::serve(listener, router).into_future());
    let mut webhook = Webhook::open(&webhook(&url)).unwrap();
    for _ in 0..2 {
        webhook.deliver(&lines(0..1)).await.unwrap();
    }
}

#[tokio::test]
async fn splunk_gets_each_event_in_an_envelope() {
    let (server, dir) = (Server::default(), tempfile::tempdir().unwrap());
    let config = SplunkConfig {
        url: server.start().await,
        token_file: token(&dir),
        index: Some("agents".to_owned()),
        sourcetype: "ocsf:agent-guard".to_owned(),
        tls: None,
    };
    let mut splunk = Splunk::open(&config).unwrap();
    splunk.deliver(&lines(0..2)).await.unwrap();
    assert_eq!(server.0.lock().unwrap().asked[0].uri, "/services/collector/event");
    assert_eq!(server.header("authorization").as_deref(), Some("Splunk hunter2"));
    let body = &server.bodies()[0];
    assert!(body.starts_with("{\"time\":1500000000.000,\"host\":\""), "{body}");
    let envelopes = serde_json::Deserializer::from_str(body).into_iter::<serde_json::Value>();
    let envelopes: Vec<_> = envelopes.map(Result::unwrap).collect();
    assert_eq!((envelopes.len(), &envelopes[1]["event"]["n"]), (2, &1.into()));
    assert_eq!(
        (&envelopes[1]["index"], &envelopes[1]["sourcetype"]),
        (&"agents".into(), &"ocsf:agent-guard".into())
    );

    // It has what stands before the event that it refuses.
    let answer =
        "{\"text\":\"Error in handling indexed fields\",\"code\":15,\"invalid-event-number\":2}";
    server.0.lock().unwrap().answers.push_back((400, answer));
    let error = splunk.deliver(&lines(0..5)).await.unwrap_err();
    assert_eq!((error.delivered, error.retry), (2, Retry::Never(1)));
    // No token is asked for again and again: it may be mended.
    server.0.lock().unwrap().answers.push_back((403, "{\"text\":\"Invalid token\",\"code\":4}"));
    let error = splunk.deliver(&lines(0..5)).await.unwrap_err();
    assert_eq!((error.delivered, error.retry), (0, Retry::Later(None)));
}
