//! What sinks deliver to: rsyslog, and an HTTP server that can go away.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;

/// An authority with a certificate for `server.example` and one for `client.example`, in `directory`.
pub fn make_certificates(directory: &Path) {
    let openssl = |arguments: &str| {
        let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 7";
        let output = Command::new("openssl")
            .args(new.split(' ').chain(arguments.split(' ')))
            .current_dir(directory)
            .output()
            .expect("openssl is installed by `cargo xtask setup`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    for authority in ["ca", "other"] {
        openssl(&format!("-subj /CN={authority} -keyout {authority}.key -out {authority}.pem"));
    }
    for name in ["server", "client"] {
        openssl(&format!(
            "-subj /CN={name} -addext subjectAltName=DNS:{name}.example -addext basicConstraints=critical,CA:FALSE \
             -CA ca.pem -CAkey ca.key -keyout {name}.key -out {name}.pem"
        ));
    }
}

/// An rsyslogd of the test's own, which writes what it gets into a file: how it came, from which program, with which
/// severity, and what.
pub struct Rsyslog {
    directory: PathBuf,
    child: Child,
    pub tcp: u16,
    pub tls: u16,
}

impl Rsyslog {
    /// Starts it, with certificates from [`make_certificates`] and a UNIX-domain socket `log` in `directory`.
    pub fn start(directory: &Path) -> Self {
        let at = directory.display();
        let config = format!(
            r#"global(workDirectory="{at}" maxMessageSize="64k" defaultNetstreamDriverCAFile="{at}/ca.pem"
                   defaultNetstreamDriverCertFile="{at}/server.pem" defaultNetstreamDriverKeyFile="{at}/server.key")
            module(load="imuxsock" SysSock.Use="off")
            module(load="imtcp")
            template(name="raw" type="string" string="%inputname% %app-name% %pri-text% %timereported:::date-rfc3339% %msg%\n")
            ruleset(name="all") {{ action(type="omfile" file="{at}/received" template="raw") }}
            input(type="imuxsock" Socket="{at}/log" UseSpecialParser="off" RateLimit.Interval="0" ruleset="all")
            input(type="imtcp" port="0" listenPortFileName="{at}/tcp.port" name="tcp" ruleset="all")
            input(type="imtcp" port="0" listenPortFileName="{at}/tls.port" name="tls" ruleset="all"
                  streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/name"
                  permittedPeer=["client.example"])
            "#
        );
        fs::write(directory.join("rsyslog.conf"), config).unwrap();
        let child = Command::new("/usr/sbin/rsyslogd")
            .args(["-n", "-f"])
            .arg(directory.join("rsyslog.conf"))
            .arg("-i")
            .arg(directory.join("rsyslog.pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("rsyslog is installed by `cargo xtask setup`");
        let port = |name: &str| loop {
            let text = fs::read_to_string(directory.join(name)).unwrap_or_default();
            if let Ok(port) = text.trim().parse() {
                break port;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let (tcp, tls) = (port("tcp.port"), port("tls.port"));
        while !directory.join("log").exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { directory: directory.to_owned(), child, tcp, tls }
    }

    /// The messages so far: how each came, its severity, its time, and the event.
    pub fn received(&self) -> Vec<(String, String, String, Value)> {
        let text = fs::read_to_string(self.directory.join("received")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let line = |line: &str| {
            let mut words = line.splitn(5, ' ');
            let mut word = || words.next().unwrap().to_owned();
            let (way, program, priority, time) = (word(), word(), word(), word());
            assert_eq!(program, "agent-guard", "{line}");
            (way, priority, time, serde_json::from_str(words.next().unwrap().trim()).unwrap())
        };
        whole.lines().map(line).collect()
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An HTTP server that takes lines of JSON, and can be away.
pub struct Collector {
    pub port: u16,
    got: Arc<Mutex<BTreeMap<String, Vec<Value>>>>,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Collector {
    /// Starts it.
    pub fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut collector = Self { port, got: Arc::default(), running: None };
        collector.come_back();
        collector
    }

    /// Answers from here on.
    pub fn come_back(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        let (up, got) = (Arc::new(AtomicBool::new(true)), Arc::clone(&self.got));
        let is_up = Arc::clone(&up);
        let thread = std::thread::spawn(move || {
            let mut connections = Vec::new();
            for stream in listener.incoming() {
                if !is_up.load(Ordering::SeqCst) {
                    break;
                }
                let (up, got) = (Arc::clone(&is_up), Arc::clone(&got));
                let stream = stream.unwrap();
                connections.push(std::thread::spawn(move || serve(stream, &up, &got)));
            }
            drop(listener);
            connections.into_iter().for_each(|connection| connection.join().unwrap());
        });
        self.running = Some((up, thread));
    }

    /// Hangs up, whatever it is about to do, and lets nobody in.
    pub fn go_away(&mut self) {
        let Some((up, thread)) = self.running.take() else { return };
        up.store(false, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        thread.join().unwrap();
    }

    /// The events that were posted to `path`.
    pub fn got(&self, path: &str) -> Vec<Value> {
        self.got.lock().unwrap().get(path).cloned().unwrap_or_default()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.go_away();
    }
}

/// Takes requests until it is to hang up. One that is half read then was never there; one that was read and has no
/// answer was.
fn serve(stream: TcpStream, up: &AtomicBool, got: &Mutex<BTreeMap<String, Vec<Value>>>) {
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut reader = BufReader::new(Waiting { stream: stream.try_clone().unwrap(), up });
    let mut writer = stream;
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            head.push(line.to_lowercase());
        }
        let path = head[0].split(' ').nth(1).unwrap().to_owned();
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.trim().parse().unwrap()];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let events = serde_json::Deserializer::from_slice(&body).into_iter::<Value>();
        let events: Vec<Value> = events.map(Result::unwrap).collect();
        got.lock().unwrap().entry(path).or_default().extend(events);
        if !up.load(Ordering::SeqCst) {
            return;
        }
        if writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

/// A connection that ends when the server is to hang up.
struct Waiting<'a> {
    stream: TcpStream,
    up: &'a AtomicBool,
}

impl std::io::Read for Waiting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if !self.up.load(Ordering::SeqCst) {
                        return Ok(0);
                    }
                }
                read => return read,
            }
        }
    }
}
