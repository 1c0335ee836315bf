//! Any bytes on a connection to the control socket: every answer is HTTP, every refusal with a body is JSON that says
//! why, the connection ends, and who does not administer reaches nothing but itself.
#![no_main]

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use agent_guard::daemon::{
    api::{Ask, Call, Service},
    fills::Fills,
    peer::{Peer, Standing},
};
use libfuzzer_sys::fuzz_target;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex, split},
    runtime::Runtime,
    sync::{broadcast, mpsc},
    time::timeout,
};

/// Far longer than an answer takes.
const PATIENCE: Duration = Duration::from_secs(20);

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());

fuzz_target!(|bytes: &[u8]| {
    // The first byte says who asks.
    let Some((who, bytes)) = bytes.split_first() else { return };
    let standing = [Standing::Administrator, Standing::Agent, Standing::Nobody][usize::from(who % 3)];
    RUNTIME.block_on(converse(standing, bytes));
});

async fn converse(standing: Standing, bytes: &[u8]) {
    let (calls, mut asked) = mpsc::channel::<Call>(1);
    let followers = broadcast::Sender::new(1);
    let service = Service::new(calls, followers.clone(), Fills::none());
    let foul = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&foul);
    tokio::spawn(async move {
        while let Some(Call { ask, reply }) = asked.recv().await {
            let may = standing == Standing::Administrator || matches!(ask, Ask::Own(_));
            seen.fetch_or(!may, Ordering::Relaxed);
            let _ = reply.send(Ok(format!("{ask:?}").into()));
        }
    });
    let peer = Peer { standing, cgroup: Some("/agents/a".to_owned()) };
    let (near, far) = duplex(1 << 16);
    let served = tokio::spawn(service.serve(far, peer));
    let (mut from, mut to) = split(near);
    // Whoever is answered early need not be read to the end.
    let _ = to.write_all(bytes).await;
    let _ = to.shutdown().await;
    let mut answer = Vec::new();
    let read = async {
        // Who follows is told of nothing here, and would wait.
        let mut part = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut part).await {
            answer.extend_from_slice(&part[..length]);
            if answer.windows(20).any(|words| words == b"application/x-ndjson") {
                break;
            }
        }
    };
    timeout(PATIENCE, read).await.expect("the connection does not end");
    drop((from, to));
    timeout(PATIENCE, served).await.expect("the service hangs").expect("the service panics");
    assert!(!foul.load(Ordering::Relaxed), "{standing:?} reached what is not its own");
    hold(&answer);
}

fn hold(answer: &[u8]) {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return assert!(text.is_empty(), "{text}");
    };
    let status: u16 = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    if status >= 400 && !body.is_empty() {
        let refusal: serde_json::Value = serde_json::from_str(body).expect("a refusal");
        assert!(refusal["error"].as_str().is_some_and(|error| !error.is_empty()), "{body}");
    }
}
