//! UNIX-domain sockets of collectors.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde::Deserialize;
use tokio::net::UnixDatagram;

use super::{
    connect::Connection,
    transport::{Retry, Transport, Undelivered},
};

/// A UNIX-domain socket.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnixConfig {
    /// Its path.
    pub path: PathBuf,
    /// What kind it is.
    #[serde(default)]
    pub socket: Kind,
}

/// A kind of UNIX-domain socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A stream of lines.
    #[default]
    Stream,
    /// A datagram for each event, without the newline.
    Datagram,
}

/// A socket, and the connection to it while there is one.
pub enum UnixSocket {
    /// Of kind `stream`.
    Stream(PathBuf, Option<Connection>),
    /// Of kind `datagram`.
    Datagram(Datagrams),
}

impl UnixSocket {
    /// One that is connected to when there is something to say.
    #[must_use]
    pub fn new(config: &UnixConfig) -> Self {
        let path = config.path.clone();
        match config.socket {
            Kind::Stream => Self::Stream(path, None),
            Kind::Datagram => Self::Datagram(Datagrams::new(path)),
        }
    }
}

impl Transport for UnixSocket {
    async fn deliver(&mut self, lines: &[Bytes]) -> Result<(), Undelivered> {
        match self {
            Self::Stream(path, connection) => {
                let dial = async || Connection::local(path).await;
                send_over(connection, dial, &lines.concat()).await
            }
            Self::Datagram(datagrams) => {
                datagrams
                    .send_all(lines, |line| line.strip_suffix(b"\n").unwrap_or(line).to_vec())
                    .await
            }
        }
    }

    fn reopen(&mut self) -> Result<(), String> {
        match self {
            Self::Stream(_, connection) => *connection = None,
            Self::Datagram(datagrams) => datagrams.close(),
        }
        Ok(())
    }
}

/// Sends `bytes` over the connection that is there, or else over a new one. After a failure there is none: nobody
/// knows how much has arrived.
pub async fn send_over(
    connection: &mut Option<Connection>,
    dial: impl AsyncFnOnce() -> Result<Connection, String>,
    bytes: &[u8],
) -> Result<(), Undelivered> {
    // Taken out: a delivery that is dropped half-way leaves none.
    let mut open = match connection.take().filter(|open| !open.is_over()) {
        Some(open) => open,
        None => dial().await.map_err(Undelivered::later)?,
    };
    open.send(bytes).await.map_err(|error| Undelivered::later(format!("sending: {error}")))?;
    *connection = Some(open);
    Ok(())
}

/// Datagrams to a socket.
pub struct Datagrams {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Datagrams {
    /// To the socket at `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, socket: None }
    }

    /// Lets go of the socket.
    pub fn close(&mut self) {
        self.socket = None;
    }

    /// Sends what `datagram` makes of each line.
    pub async fn send_all(
        &mut self,
        lines: &[Bytes],
        datagram: impl Fn(&Bytes) -> Vec<u8>,
    ) -> Result<(), Undelivered> {
        for (delivered, line) in lines.iter().enumerate() {
            self.send(&datagram(line)).await.map_err(|error| {
                let retry = match error.raw_os_error() {
                    Some(libc::EMSGSIZE) => Retry::Never(1),
                    _ => Retry::Later(None),
                };
                Undelivered {
                    delivered,
                    error: format!("sending to {}: {error}", self.path.display()),
                    retry,
                }
            })?;
        }
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(socket) = &self.socket {
            match socket.send(bytes).await {
                // Whoever was there has gone; perhaps another has come.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionRefused
                            | io::ErrorKind::NotConnected
                            | io::ErrorKind::ConnectionReset
                    ) =>
                {
                    self.close()
                }
                sent => return sent.map(drop),
            }
        }
        let socket = self.socket.insert(open(&self.path)?);
        socket.send(bytes).await.map(drop)
    }
}

fn open(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use tokio::{
        io::{AsyncBufReadExt as _, BufReader},
        net::UnixListener,
        time::timeout,
    };

    use super::*;

    fn lines(text: &[&'static str]) -> Vec<Bytes> {
        text.iter().map(|line| Bytes::from_static(line.as_bytes())).collect()
    }

    #[tokio::test]
    async fn a_datagram_is_a_line_and_a_receiver_that_is_back_gets_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let config = UnixConfig { path: path.clone(), socket: Kind::Datagram };
        let mut socket = UnixSocket::new(&config);
        let error = socket.deliver(&lines(&["1\n"])).await.unwrap_err();
        assert!(error.error.contains("No such file"), "{error:?}");

        let mut buffer = [0; 64];
        for _ in 0..2 {
            let _ = fs::remove_file(&path);
            let receiver = UnixDatagram::bind(&path).unwrap();
            socket.deliver(&lines(&["1\n", "2\n"])).await.unwrap();
            for line in ["1", "2"] {
                let length = receiver.recv(&mut buffer).await.unwrap();
                assert_eq!(&buffer[..length], line.as_bytes());
            }
        }
    }

    #[tokio::test]
    async fn a_datagram_that_no_socket_takes_is_lost_and_the_next_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let mut socket = UnixSocket::new(&UnixConfig { path, socket: Kind::Datagram });
        let lines = vec![
            Bytes::from_static(b"1\n"),
            vec![b'x'; 1 << 20].into(),
            Bytes::from_static(b"2\n"),
        ];
        let error = socket.deliver(&lines).await.unwrap_err();
        assert_eq!((error.delivered, error.retry), (1, Retry::Never(1)));
        socket.deliver(&lines[2..]).await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(
            (receiver.recv(&mut buffer).await.unwrap(), receiver.recv(&mut buffer).await.unwrap()),
            (1, 1)
        );
    }

    #[tokio::test]
    async fn a_receiver_that_does_not_read_holds_a_delivery_up_and_one_that_is_back_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut socket = UnixSocket::new(&UnixConfig { path, socket: Kind::Stream });
        let both = lines(&["1\n", "2\n"]);
        let unread = timeout(Duration::from_millis(200), socket.deliver(&both)).await;
        assert!(unread.is_err(), "nobody has read it");
        drop(listener.accept().await.unwrap());

        let (delivered, read) = tokio::join!(socket.deliver(&both), async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut reader = BufReader::new(stream).lines();
            [reader.next_line().await.unwrap(), reader.next_line().await.unwrap()]
        });
        assert_eq!(read, [Some("1".to_owned()), Some("2".to_owned())]);
        // Its reader has gone at once: that may come again.
        assert!(delivered.is_ok() || delivered.unwrap_err().delivered == 0);
    }
}
