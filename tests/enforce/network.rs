//! A network of a thread's own, in which tests have the addresses and ports that they like.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::Command,
    thread,
};

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Does `work` in a thread with a network of its own, as is what it starts. Loopback is up.
pub fn in_own_network<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let in_network = || {
        // SAFETY: changes the network of this thread alone, and no memory or descriptor.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        ip("link set lo up");
        work()
    };
    thread::scope(|scope| scope.spawn(in_network).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Does what `ip` does with these words.
pub fn ip(words: &str) {
    assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
}

/// Serves `answer`, given the address that was reached, to every HTTP request at `address`.
pub fn serve_http(address: &str, answer: impl Fn(std::net::IpAddr) -> String + Send + 'static) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let lines = BufReader::new(client.try_clone().unwrap()).lines();
            lines
                .take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty()))
                .for_each(drop);
            let Ok(reached) = client.local_addr() else { continue };
            let body = answer(reached.ip().to_canonical());
            // Who goes away early has lost its answer.
            let _ =
                write!(client, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
}
