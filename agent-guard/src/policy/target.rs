//! Egress targets: `api.example.com:443`, `10.0.0.0/8:8000-8999/tcp`, `[::1]:8080`, `*:443`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use ipnet::IpNet;
use miette::Diagnostic;
use thiserror::Error;

/// Longest target as written, bytes: a host name of 253 with ports and protocol, and room to spare.
pub const MAX_TEXT: usize = 320;

/// Where a connection may go: one host or network, a range of ports, one protocol or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Who is at the other end.
    pub host: Host,
    /// All of them where the text names none.
    pub ports: PortRange,
    /// Both where the text names none.
    pub protocols: Protocols,
    /// As the author wrote it.
    pub text: String,
}

/// The other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A network; a single address is a `/32` or `/128`. Never inside `::ffff:0:0/96`: mapped
    /// addresses are written as the IPv4 they stand for. `::/0` therefore covers no IPv4.
    Net(IpNet),
    /// A name, resolved once, when the policy is compiled.
    Name(HostName),
}

/// A host name as RFC 1123 has it, in lower case: labels of 1 to 63 letters, digits and `-`, at
/// most 253 bytes together, the last label not a number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostName(String);

impl HostName {
    /// Longest name, bytes: what fits a DNS message.
    pub const MAX: usize = 253;
    /// Longest label, bytes.
    pub const MAX_LABEL: usize = 63;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A range of ports, both ends in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Every port, 0 too, so that a deny without ports leaves no gap.
    pub const FULL: Self = Self { first: 0, last: u16::MAX };

    /// The lowest port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port, at least [`PortRange::first`].
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }
}

/// A set of transport protocols that is never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// `/tcp`.
    Tcp,
    /// `/udp`.
    Udp,
    /// Neither was named.
    Both,
}

impl Protocols {
    /// Whether TCP is in the set.
    #[must_use]
    pub const fn tcp(self) -> bool {
        matches!(self, Self::Tcp | Self::Both)
    }

    /// Whether UDP is in the set.
    #[must_use]
    pub const fn udp(self) -> bool {
        matches!(self, Self::Udp | Self::Both)
    }
}
