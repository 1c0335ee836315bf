//! The name servers of this host.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    path::{Path, PathBuf},
};

use agent_guard_common::decide::DNS_PORT;

/// Name servers that are asked, as in the C library; more are left out.
pub const MAX_NAMESERVERS: usize = 3;

/// Why no name server is known.
#[derive(Debug, thiserror::Error)]
pub enum ResolvConfError {
    /// The file can not be read.
    #[error("{}: {source}; name servers can be given by --dns-upstream", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It names none.
    #[error("{} names no name server, which the policy's host names need; give one by --dns-upstream", file.display())]
    None {
        /// The file.
        file: PathBuf,
    },
}

/// The name servers in `file`, which is of the form of `/etc/resolv.conf`.
///
/// # Errors
/// The file can not be read, or names none.
pub fn nameservers(file: &Path) -> Result<Vec<SocketAddr>, ResolvConfError> {
    let text = fs::read_to_string(file)
        .map_err(|source| ResolvConfError::Read { file: file.to_owned(), source })?;
    let servers = parse(&text);
    if servers.is_empty() {
        Err(ResolvConfError::None { file: file.to_owned() })
    } else {
        Ok(servers)
    }
}

fn parse(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten().and_then(address)
    };
    text.lines().filter_map(server).take(MAX_NAMESERVERS).collect()
}

/// An address, of which a link-local one may have its interface behind a `%`.
fn address(text: &str) -> Option<SocketAddr> {
    let Some((address, interface)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, DNS_PORT));
    };
    let index = fs::read_to_string(Path::new("/sys/class/net").join(interface).join("ifindex"));
    let scope = interface.parse().ok().or_else(|| index.ok()?.trim().parse().ok())?;
    Some(SocketAddrV6::new(address.parse().ok()?, DNS_PORT, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_are_read_and_the_rest_is_left() {
        let text = "# nameserver 9.9.9.9\nsearch example.com\nnameserver 192.0.2.1\nnameserver\t2001:db8::1 # x\nnameserver nonsense\nnameserver fe80::1%7\n nameserver 192.0.2.4\n";
        let found: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%7]:53"]);
    }

    #[test]
    fn a_file_without_any_is_an_error_with_its_remedy() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = nameservers(file.path()).unwrap_err().to_string();
        assert!(error.contains("--dns-upstream"), "{error}");
        assert!(nameservers(Path::new("/no/such/file")).is_err());
    }
}
