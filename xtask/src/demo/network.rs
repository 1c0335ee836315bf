//! A network of the demo's own, with two servers on it: no port can be taken by somebody else, and
//! what the agent reaches is seen from the other end.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::process::{command, output};

/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Puts this thread, and what it starts from now on, in a new network that has a loopback
/// interface and nothing else.
pub fn enter_own() -> Result<()> {
    // SAFETY: a new network namespace changes no memory and no descriptor of this process.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
        .context("a network namespace of its own (needs root, and a kernel with CONFIG_NET_NS)")?;
    output(&mut command("ip", ["link", "set", "lo", "up"])).context("the loopback interface")?;
    Ok(())
}

/// An HTTP server that says one thing to everybody, until the program ends.
pub struct Server {
    connections: Arc<AtomicUsize>,
}

impl Server {
    pub fn start(at: SocketAddrV4, greeting: &'static str) -> Result<Self> {
        let listener = TcpListener::bind(at).with_context(|| format!("listening on {at}"))?;
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::Relaxed);
                // A client that goes away early has lost its answer.
                let _ = answer(&client, greeting);
            }
        });
        Ok(Self { connections })
    }

    /// How many connections came since this was last asked.
    pub fn take_connections(&self) -> usize {
        self.connections.swap(0, Ordering::Relaxed)
    }
}

fn answer(mut client: &TcpStream, greeting: &str) -> Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    for line in BufReader::new(client).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let length = greeting.len() + 1;
    write!(client, "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n{greeting}\n")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, net::Ipv4Addr};

    use super::*;

    #[test]
    fn a_server_answers_and_counts() {
        // A port that is free at this moment.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let at = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let server = Server::start(at, "hello").unwrap();
        let mut client = TcpStream::connect(at).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("\r\n\r\nhello\n"));
        assert_eq!((server.take_connections(), server.take_connections()), (1, 0));
    }
}
