use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    task::JoinHandle,
    time::Instant,
};

use super::*;
use crate::daemon::http::{BODY_TIME, HEAD_TIME, MAX_HEAD, STALL_TIME};

/// Bytes that a connection holds which nobody has read: a socket's are of this order.
const BUFFER: usize = 64 << 10;

fn peer(standing: Standing) -> Peer {
    Peer { standing, cgroup: Some("/agents/a".to_owned()) }
}

/// A daemon that does what it is asked, and says what that was.
struct World {
    service: Service,
    followers: broadcast::Sender<Line>,
    asked: JoinHandle<()>,
}

impl World {
    fn new() -> Self {
        let (calls, mut asked) = mpsc::channel::<Call>(1);
        let followers = broadcast::Sender::new(4);
        let service = Service::new(calls, followers.clone(), Fills::none());
        let asked = tokio::spawn(async move {
            while let Some(Call { ask, reply }) = asked.recv().await {
                let answer = match ask {
                    Ask::Policy(name) => Err(Failure::Missing(format!("no {name}"))),
                    Ask::Load(text) => Ok(text.len().into()),
                    ask => Ok(format!("{ask:?}").into()),
                };
                let _ = reply.send(answer);
            }
        });
        Self { service, followers, asked }
    }

    fn connect(&self, standing: Standing) -> (DuplexStream, JoinHandle<()>) {
        let (near, far) = duplex(BUFFER);
        (near, tokio::spawn(self.service.clone().serve(far, peer(standing))))
    }

    /// The status and the body of the answer.
    async fn ask(&self, standing: Standing, request: &[u8]) -> (u16, Value) {
        let (mut near, served) = self.connect(standing);
        // Who is refused early need not be read to the end.
        let _ = near.write_all(request).await;
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        served.await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).map_or(0, |status| status.parse().unwrap());
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    async fn get(&self, standing: Standing, path: &str) -> (u16, Value) {
        self.ask(standing, format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await
    }

    async fn put(&self, standing: Standing, length: usize, body: &[u8]) -> (u16, Value) {
        let head =
            format!("PUT /v1/policies HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        self.ask(standing, &[head.as_bytes(), body].concat()).await
    }
}

fn refusal(words: &str, answer: &Value) -> bool {
    answer["error"].as_str().is_some_and(|error| error.contains(words))
}

#[tokio::test]
async fn who_asks_decides_what_is_answered() {
    let world = World::new();
    for path in ["/v1/status", "/v1/agents", "/v1/policies"] {
        assert_eq!(world.get(Standing::Administrator, path).await.0, 200);
        for other in [Standing::Agent, Standing::Nobody] {
            assert_eq!(world.get(other, path).await.0, 403, "{path}");
        }
    }
    let own = (200, json!("Own(\"/agents/a\")"));
    assert_eq!(world.get(Standing::Agent, "/v1/self").await, own);
    for other in [Standing::Agent, Standing::Nobody] {
        assert_eq!(world.put(other, 1 << 30, b"").await.0, 403, "before a body is read");
    }
}

#[tokio::test]
async fn every_refusal_is_json_that_says_why() {
    let world = World::new();
    let admin = Standing::Administrator;
    for (status, words, (got, answer)) in [
        (404, "no such request", world.get(admin, "/v1/nothing").await),
        (404, "no a", world.get(admin, "/v1/policies/a").await),
        (400, "UTF-8", world.get(admin, "/v1/policies/%ff").await),
        (403, "for root", world.get(Standing::Nobody, "/v1/status").await),
        (405, "other methods", world.ask(admin, b"POST /v1/status HTTP/1.0\r\n\r\n").await),
        (400, "UTF-8", world.put(admin, 2, b"\xff\xff").await),
    ] {
        assert_eq!(got, status, "{answer}");
        assert!(refusal(words, &answer), "{answer}");
    }
}

#[tokio::test]
async fn a_policy_may_have_4_mib_and_no_byte_more() {
    let world = World::new();
    let text = vec![b'#'; MAX_FILE_BYTES + 1];
    let largest = text.get(1..).unwrap();
    let taken = world.put(Standing::Administrator, MAX_FILE_BYTES, largest).await;
    assert_eq!(taken, (200, json!(MAX_FILE_BYTES)));
    let (status, answer) = world.put(Standing::Administrator, text.len(), &text).await;
    assert_eq!(status, 413);
    assert!(refusal("length limit", &answer), "{answer}");
    // So where it does not say how long it is.
    let chunk = format!("{:x}\r\n", text.len());
    let head = "PUT /v1/policies HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunked = [head.as_bytes(), chunk.as_bytes(), &text, b"\r\n0\r\n\r\n"].concat();
    assert_eq!(world.ask(Standing::Administrator, &chunked).await.0, 413);
}

#[tokio::test]
async fn what_is_no_request_ends_the_connection() {
    let world = World::new();
    for garbage in [&b"\0\xff\x16\x03\x01"[..], b"SSH-2.0-x\r\n\r\n", b"GET  HTTP/9.9\r\n\r\n"] {
        assert_eq!(world.ask(Standing::Nobody, garbage).await.0, 400);
    }
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(MAX_HEAD));
    let (status, _) = world.ask(Standing::Nobody, long.as_bytes()).await;
    assert!([414, 431].contains(&status), "{status}");
    // A second request is not read.
    let two = b"GET /v1/self HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2);
    assert_eq!(world.ask(Standing::Agent, &two).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_go_on_ends() {
    let world = World::new();
    for (sent, due) in [
        ("", HEAD_TIME),
        ("GET /v1/self HTTP/1.1\r\nho", HEAD_TIME),
        ("PUT /v1/policies HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nspec", BODY_TIME),
    ] {
        let start = Instant::now();
        let (status, _) = world.ask(Standing::Administrator, sent.as_bytes()).await;
        assert!([0, 400].contains(&status), "{status}");
        let took = start.elapsed();
        assert!(took >= due && took < due + Duration::from_secs(1), "{sent}: {took:?}");
    }
    // Half a policy was not taken for one.
    assert!(!world.asked.is_finished());
}

#[tokio::test(start_paused = true)]
async fn who_follows_and_reads_nothing_is_let_go() {
    let world = World::new();
    let (mut near, served) = world.connect(Standing::Administrator);
    near.write_all(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    while world.followers.receiver_count() == 0 {
        tokio::task::yield_now().await;
    }
    let json: Arc<[u8]> = vec![b'x'; BUFFER].into();
    let start = Instant::now();
    while !served.is_finished() {
        let _ = world.followers.send(Line { json: Arc::clone(&json), show: true });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(start.elapsed() < STALL_TIME + Duration::from_secs(9));
    }
    assert!(start.elapsed() >= STALL_TIME);
    assert_eq!(world.followers.receiver_count(), 0);
}
