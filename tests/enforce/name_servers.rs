//! Name servers for the proxy to ask: real ones, and what makes them slow or dead.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::queries::query;

/// How long a name server may take to start on an emulated machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a name server knows.
#[derive(Clone, Default)]
pub struct Zone {
    pub addresses: Vec<(String, IpAddr)>,
    pub aliases: Vec<(&'static str, &'static str)>,
    /// Names that have a text and no address.
    pub texts: Vec<&'static str>,
    pub ttl: u32,
}

impl Zone {
    /// The addresses of `name`, behind its aliases.
    pub fn addresses_of(&self, name: &str) -> Vec<IpAddr> {
        if let Some((_, target)) = self.aliases.iter().find(|(alias, _)| *alias == name) {
            return self.addresses_of(target);
        }
        let of_name = self.addresses.iter().filter(|(owner, _)| owner == name);
        of_name.map(|(_, address)| *address).collect()
    }
}

/// A program that answers name queries, from Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Unbound,
    Dnsmasq,
}

/// One that runs.
pub struct NameServer {
    pub address: SocketAddr,
    program: Program,
    child: Child,
    directory: TempDir,
}

impl NameServer {
    /// Starts `program` at `address`, and waits until it answers.
    pub fn start(program: Program, address: &str, zone: &Zone) -> Self {
        let directory = tempfile::Builder::new().prefix("agent-guard-names-").tempdir().unwrap();
        let address: SocketAddr = address.parse().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let mut command = match program {
            Program::Unbound => {
                let zone = file("zone", &master_file(zone));
                let configuration = file("unbound.conf", &unbound_conf(address, &zone));
                let mut command = Command::new(copied("/usr/sbin/unbound", directory.path()));
                command.args(["-d", "-p", "-c"]).arg(configuration);
                command
            }
            Program::Dnsmasq => {
                let hosts = file("hosts", &hosts(zone));
                let configuration = file("dnsmasq.conf", &dnsmasq_conf(address, zone, &hosts));
                let mut command = Command::new(copied("/usr/sbin/dnsmasq", directory.path()));
                let configuration = format!("--conf-file={}", configuration.display());
                command.arg("--keep-in-foreground").arg(configuration);
                command
            }
        };
        // SAFETY: the call takes numbers, and is one that a child may make before it runs a program.
        unsafe {
            command.pre_exec(|| {
                // However the test ends, the server does.
                match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Self { address, program, child, directory };
        server.wait_until_it_answers();
        server
    }

    /// Lets the names have other addresses.
    pub fn change(&self, zone: &Zone) {
        assert_eq!(self.program, Program::Dnsmasq, "this one is not told how");
        fs::write(self.directory.path().join("hosts"), hosts(zone)).unwrap();
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    fn wait_until_it_answers(&mut self) {
        let since = Instant::now();
        let any = if self.address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let question = query("ready.example", hickory_proto::rr::RecordType::A);
        while socket.send_to(&question, self.address).is_err()
            || socket.recv(&mut [0; 512]).is_err()
        {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && since.elapsed() < PATIENCE,
                "{:?} does not answer: {ended:?} {}",
                self.program,
                fs::read_to_string(self.directory.path().join("log")).unwrap()
            );
        }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A copy of a program, to which an AppArmor profile for its path does not apply: by that it could not read
/// what tests write.
fn copied(program: &str, directory: &Path) -> PathBuf {
    let copy = directory.join(Path::new(program).file_name().unwrap());
    // By another process: a child that another test starts meanwhile would have the copy open for writing, and
    // what is so does not run (ETXTBSY).
    let copying = Command::new("cp").arg(program).arg(&copy).status().unwrap();
    assert!(copying.success(), "{program} could not be copied; `cargo xtask setup` installs it");
    copy
}

/// A zone that is the root, so that there is nobody else to ask.
fn master_file(zone: &Zone) -> String {
    let mut text = format!(
        "$ORIGIN .\n$TTL {}\n. SOA ns. admin. 1 3600 600 86400 60\n. NS ns.\nns. A 127.0.0.1\n",
        zone.ttl
    );
    for (name, address) in &zone.addresses {
        let kind = if address.is_ipv4() { "A" } else { "AAAA" };
        writeln!(text, "{name}. {kind} {address}").unwrap();
    }
    for (alias, target) in &zone.aliases {
        writeln!(text, "{alias}. CNAME {target}.").unwrap();
    }
    for name in &zone.texts {
        writeln!(text, "{name}. TXT text").unwrap();
    }
    text
}

fn unbound_conf(address: SocketAddr, zone: &Path) -> String {
    format!(
        r#"
server:
  interface: {}
  port: {}
  access-control: 0.0.0.0/0 allow
  access-control: ::/0 allow
  chroot: ""
  username: ""
  directory: ""
  use-syslog: no
  module-config: iterator
  rrset-roundrobin: yes
remote-control:
  control-enable: no
auth-zone:
  name: "."
  zonefile: "{}"
  for-downstream: no
  for-upstream: yes
"#,
        address.ip(),
        address.port(),
        zone.display()
    )
}

fn dnsmasq_conf(address: SocketAddr, zone: &Zone, hosts: &Path) -> String {
    let mut text = format!(
        "listen-address={}\nport={}\nbind-interfaces\nuser=root\ngroup=root\npid-file=\nlog-facility=-\n\
         no-resolv\nno-hosts\nlocal=/example/\naddn-hosts={}\nlocal-ttl={}\n",
        address.ip(),
        address.port(),
        hosts.display(),
        zone.ttl
    );
    for (alias, target) in &zone.aliases {
        writeln!(text, "cname={alias},{target}").unwrap();
    }
    for name in &zone.texts {
        writeln!(text, "txt-record={name},text").unwrap();
    }
    text
}

fn hosts(zone: &Zone) -> String {
    zone.addresses.iter().map(|(name, address)| format!("{address} {name}\n")).collect()
}

/// A name server at `address` that passes on what `behind` answers, `delay` later, for as long as the test
/// runs.
pub fn slow(address: &str, behind: SocketAddr, delay: Duration) -> SocketAddr {
    let socket = Arc::new(UdpSocket::bind(address).unwrap());
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let (len, client) = socket.recv_from(&mut buffer).unwrap();
            let (question, socket) = (buffer[..len].to_vec(), Arc::clone(&socket));
            thread::spawn(move || {
                let server = UdpSocket::bind("127.0.0.1:0").unwrap();
                server.send_to(&question, behind).unwrap();
                let mut answer = [0; 4096];
                let len = server.recv(&mut answer).unwrap();
                thread::sleep(delay);
                // Who is gone does not want it.
                let _ = socket.send_to(&answer[..len], client);
            });
        }
    });
    address
}

/// A name server at `address` that takes every question, and never answers.
pub fn silent(address: &str) -> (SocketAddr, UdpSocket) {
    let socket = UdpSocket::bind(address).unwrap();
    (socket.local_addr().unwrap(), socket)
}
