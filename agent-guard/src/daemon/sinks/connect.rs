//! Connections to far ends.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use super::tls::Tls;

/// How long a far end may take to answer a call, with its name looked up and keys exchanged.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether what was sent has arrived: more and more seldom.
const LOOKS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(100)];

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Where a far end is reached over TCP.
#[derive(Clone, Debug)]
pub struct Address {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// TLS, where that is spoken.
    pub tls: Option<Tls>,
}

/// A connection.
pub struct Connection {
    /// What is said over it.
    pub stream: Box<dyn Stream>,
    /// Its socket, to ask the kernel about.
    socket: OwnedFd,
}

impl Address {
    /// Reads `HOST:PORT`; an IPv6 address stands in brackets.
    #[must_use]
    pub fn split(text: &str) -> Option<(String, u16)> {
        let (host, port) = text.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(host) => {
                host.strip_suffix(']').filter(|host| host.parse::<std::net::Ipv6Addr>().is_ok())?
            }
            None => Some(host)
                .filter(|host| !host.is_empty() && !host.contains(['/', ':', '@', ' ']))?,
        };
        Some((host.to_owned(), port.parse().ok().filter(|port| *port > 0)?))
    }

    /// Connects.
    ///
    /// # Errors
    /// Why it can not, in words.
    pub async fn connect(&self) -> Result<Connection, String> {
        let Self { host, port, .. } = self;
        let connected = match timeout(PATIENCE, self.call()).await {
            Ok(connected) => connected.map_err(|error| error.to_string()),
            Err(_) => Err("nobody answers".to_owned()),
        };
        connected.map_err(|error| format!("connecting to {host}, port {port}: {error}"))
    }

    async fn call(&self) -> io::Result<Connection> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let socket = stream.as_fd().try_clone_to_owned()?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(Tls { config, name }) => {
                let connector = TlsConnector::from(std::sync::Arc::clone(config));
                Box::new(connector.connect(name.clone(), stream).await?)
            }
        };
        Ok(Connection { stream, socket })
    }
}

impl Connection {
    /// Connects to a UNIX-domain socket.
    ///
    /// # Errors
    /// Why it can not, in words.
    pub async fn local(path: &Path) -> Result<Self, String> {
        let told = |error: io::Error| format!("connecting to {}: {error}", path.display());
        let connected = timeout(PATIENCE, UnixStream::connect(path)).await;
        let stream = connected.map_err(io::Error::from).flatten().map_err(told)?;
        let socket = stream.as_fd().try_clone_to_owned().map_err(told)?;
        Ok(Self { stream: Box::new(stream), socket })
    }

    /// Whether the far end has hung up.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let mut sockets = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let asked = poll(&mut sockets, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        asked.is_err() || sockets.iter().any(|socket| !socket.revents().is_empty())
    }

    /// Sends all of `bytes`, and returns once they are there: read by whoever holds the other end of a UNIX-domain
    /// socket, in the other kernel's hands over TCP, which is all that can be known.
    ///
    /// # Errors
    /// They may be there or not.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        let [mut pause, longest] = LOOKS;
        loop {
            // Asked first: what is thrown away with a connection is not waited for either.
            let left = unsent(&self.socket)?;
            if self.is_over() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if left == 0 {
                return Ok(());
            }
            sleep(pause).await;
            pause = longest.min(pause * 2);
        }
    }
}

/// Bytes that were sent and are not there yet (`SIOCOUTQ`, in tcp(7) and unix(7)).
fn unsent(socket: &OwnedFd) -> io::Result<libc::c_int> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one int to the address of one, which outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } {
        0 => Ok(bytes),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt as _, net::UnixListener};

    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        let split = |text| Address::split(text).map(|(host, port)| format!("{host} {port}"));
        assert_eq!(split("log.example:6514").as_deref(), Some("log.example 6514"));
        assert_eq!(split("[2001:db8::1]:514").as_deref(), Some("2001:db8::1 514"));
        for text in [
            "",
            "log.example",
            ":514",
            "a:0",
            "a:65536",
            "2001:db8::1:514",
            "[x]:1",
            "u@h:1",
            "a/b:1",
        ] {
            assert_eq!(split(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn what_was_sent_is_there_once_it_was_read_and_not_when_its_reader_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut connection = Connection::local(&path).await.unwrap();
        let (mut reader, _) = listener.accept().await.unwrap();

        let mut text = [0; 5];
        let (sent, read) = tokio::join!(connection.send(b"hello"), async {
            sleep(Duration::from_millis(50)).await;
            reader.read_exact(&mut text).await
        });
        sent.unwrap();
        read.unwrap();
        assert!(!connection.is_over());

        let (sent, ()) = tokio::join!(connection.send(b"hello"), async {
            sleep(Duration::from_millis(50)).await;
            drop(reader);
        });
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(connection.is_over());
    }
}
