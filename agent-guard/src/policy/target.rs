//! Ends of connections: `api.example.com:443`, `10.0.0.0/8:8000-8999/tcp`, `[::1]:8080`, `*:443`.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    ops::Range,
};

use ipnet::IpNet;
use miette::Diagnostic;
use thiserror::Error;

/// Longest target as written, bytes: a host name of 253 with ports and protocol, and room to spare.
pub const MAX_TEXT: usize = 320;

/// Where a connection may go, or be taken: one host or network, a range of ports, one protocol or both.
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
    /// A name: the addresses that the DNS proxy tells the agent for it, while they are valid.
    Name(HostName),
    /// `*.example.com`: the names with exactly so many labels before this one.
    Below(usize, HostName),
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

    /// Whether this name is `base` with exactly so many labels before it.
    #[must_use]
    pub fn is_below(&self, labels: usize, base: &Self) -> bool {
        let before = self.0.strip_suffix(&base.0).and_then(|rest| rest.strip_suffix('.'));
        before.is_some_and(|before| before.split('.').count() == labels)
    }

    /// Reads a name, without a dot at its end, in any case.
    ///
    /// # Errors
    /// What is wrong with it and which bytes of `text` are at fault.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        parse_name(Part { text, start: 0 })
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

/// Why a text is no target, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{fault}")]
pub struct TargetError {
    /// Bytes of the text that are at fault.
    pub at: Range<usize>,
    /// What is wrong with them.
    pub fault: TargetFault,
}

/// What can be wrong with a target.
#[derive(Clone, Debug, PartialEq, Eq, Error, Diagnostic)]
pub enum TargetFault {
    /// No host.
    #[error("no host is named")]
    #[diagnostic(help(
        "write `HOST`, `HOST:PORT` or `HOST:PORT/tcp`; `*:443` is every host at port 443"
    ))]
    NoHost,
    /// Longer than any target can be.
    #[error("{len} bytes, where a target has at most {MAX_TEXT}")]
    #[diagnostic(help("write one host or network an entry"))]
    Long {
        /// Bytes of the text.
        len: usize,
    },
    /// `https://…`.
    #[error("a URL, where a host is due: what is sent over a connection is not judged here")]
    #[diagnostic(help("write the host and the port alone, such as `{fix}`"))]
    Url {
        /// The nearest target.
        fix: String,
    },
    /// A port that is none.
    #[error("`{port}` is no port")]
    #[diagnostic(help("a port is a decimal number from 1 to 65535, a range is `8000-8999`"))]
    Port {
        /// What was written.
        port: String,
    },
    /// `9000-8000`.
    #[error("the range runs backwards")]
    #[diagnostic(help("write `{last}-{first}`"))]
    ReversedPorts {
        /// The first port as written.
        first: u16,
        /// The last port as written.
        last: u16,
    },
    /// `/sctp`.
    #[error("`{protocol}` is no protocol that this version judges")]
    #[diagnostic(help("write `/tcp`, `/udp`, or nothing for both"))]
    Protocol {
        /// What was written.
        protocol: String,
    },
    /// `[::1` or `[::1]x`.
    #[error("brackets that hold no IPv6 address alone")]
    #[diagnostic(help("write `[::1]:8080`, or `[2001:db8::/32]:443` for a network"))]
    Brackets,
    /// `2001:db8::/32:443`.
    #[error("an IPv6 address with something behind it")]
    #[diagnostic(help("before a port the address goes into brackets: `[2001:db8::/32]:443`"))]
    BareV6,
    /// `::1:8080`, which is an address.
    #[error("read as the IPv6 address `{address}`, in a range that is no longer in use")]
    #[diagnostic(help("before a port the address goes into brackets: `[::1]:8080`"))]
    CompatibleV6 {
        /// What it was read as.
        address: Ipv6Addr,
    },
    /// `fe80::1%eth0`.
    #[error("a scope (`%…`): the kernel side judges addresses without their interface")]
    #[diagnostic(help("write the address without it"))]
    Scope,
    /// `127.1`, `0x7f000001`.
    #[error("`{text}` is neither an IPv4 address nor a host name")]
    #[diagnostic(help(
        "an IPv4 address is four decimal numbers without leading zeros: `127.0.0.1`"
    ))]
    Number {
        /// What was written.
        text: String,
    },
    /// `0.0.0.0`, `::`.
    #[error("the unspecified address is not a destination: connecting to it reaches this host")]
    #[diagnostic(help("write `*` for every address, `127.0.0.1` or `[::1]` for this host"))]
    Unspecified,
    /// `localhost:3000` to listen on.
    #[error("`{name}` is a name, where an address of this host is due")]
    #[diagnostic(help(
        "write the address: `127.0.0.1` or `[::1]` for loopback, `*` for every address"
    ))]
    OwnName {
        /// What was written.
        name: String,
    },
    /// `10.0.0.0/33`.
    #[error("`/{prefix}` is no prefix length of this address")]
    #[diagnostic(help("it is a decimal number up to 32 for IPv4 and 128 for IPv6"))]
    Prefix {
        /// What was written.
        prefix: String,
    },
    /// `10.0.0.1/8`.
    #[error("address bits are set behind the prefix: a network or one address?")]
    #[diagnostic(help("write `{network}` for the network, or the address without `/…`"))]
    HostBits {
        /// The network that holds the address.
        network: IpNet,
    },
    /// `api.example.com/24`.
    #[error("a prefix length behind a host name")]
    #[diagnostic(help("a network is an address with a prefix, such as `10.0.0.0/8`"))]
    PrefixOnName,
    /// `api*.openai.com`, `a.*.com`, `*.*`.
    #[error("`{text}` has a `*` that is not a whole label at the beginning of a name")]
    #[diagnostic(help(
        "`*.example.com` is every name with one label before `example.com`, `*.*.example.com` with two; \
         `*` alone is every address"
    ))]
    WildcardName {
        /// What was written.
        text: String,
    },
    /// A byte that no host name has.
    #[error("`{}` cannot be in a host name", .found.escape_debug())]
    #[diagnostic(help(
        "a name is letters, digits, `-` and `.`; write others in their `xn--` form"
    ))]
    NameCharacter {
        /// The character.
        found: char,
    },
    /// A label that is empty, too long, or begins or ends with `-`.
    #[error("`{label}` is no label of a host name")]
    #[diagnostic(help(
        "between two dots stand 1 to 63 letters, digits and `-`, neither first nor last a `-`; there is no dot at the end"
    ))]
    Label {
        /// What was written.
        label: String,
    },
    /// Longer than any name.
    #[error("a host name of {len} bytes, where DNS has at most {}", HostName::MAX)]
    #[diagnostic(help("check the name"))]
    LongName {
        /// Bytes of the name.
        len: usize,
    },
}

/// A part of a target's text, which knows where it stands.
#[derive(Clone, Copy)]
struct Part<'a> {
    text: &'a str,
    start: usize,
}

impl<'a> Part<'a> {
    fn fail<T>(self, fault: TargetFault) -> Result<T, TargetError> {
        Err(TargetError { at: self.start..self.start + self.text.len(), fault })
    }

    /// What stands before and behind byte `at`, without the byte itself, which is ASCII.
    fn split(self, at: usize) -> (Self, Self) {
        let before = Self { text: self.text.get(..at).unwrap_or_default(), ..self };
        let text = self.text.get(at + 1..).unwrap_or_default();
        (before, Self { text, start: self.start + at + 1 })
    }
}

/// Whose address a target is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Far,
    Own,
}

impl Target {
    /// Reads a target. `*` as the host is every address, which is one target for each family;
    /// everything else is one.
    ///
    /// # Errors
    /// What is wrong with it and which bytes of `text` are at fault.
    pub fn parse(text: &str) -> Result<Vec<Self>, TargetError> {
        Self::parse_as(End::Far, text)
    }

    /// Reads an address of this host, to listen on. `0.0.0.0` is every address of IPv4, `[::]` every
    /// address of both families, and `*` is both and each address by itself.
    ///
    /// # Errors
    /// As for [`Self::parse`]; also a host name.
    pub fn parse_own(text: &str) -> Result<Vec<Self>, TargetError> {
        Self::parse_as(End::Own, text)
    }

    fn parse_as(end: End, text: &str) -> Result<Vec<Self>, TargetError> {
        let whole = Part { text, start: 0 };
        if text.len() > MAX_TEXT {
            return whole.fail(TargetFault::Long { len: text.len() });
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            let fix = match scheme {
                _ if host.contains(':') => host.to_owned(),
                "http" | "ws" => format!("{host}:80"),
                _ => format!("{host}:443"),
            };
            return whole.fail(TargetFault::Url { fix });
        }
        let (rest, protocols) = split_protocol(whole)?;
        let (host, ports) = split_ports(rest)?;
        let ports = ports.map_or(Ok(PortRange::FULL), parse_ports)?;
        let hosts = if host.text == "*" {
            let each = [ipnet::Ipv4Net::default().into(), ipnet::Ipv6Net::default().into()];
            let whole = (end == End::Own).then(|| IpAddr::from(Ipv6Addr::UNSPECIFIED).into());
            each.into_iter().chain(whole).map(Host::Net).collect()
        } else {
            vec![parse_host(end, host)?]
        };
        Ok(hosts
            .into_iter()
            .map(|host| Self { host, ports, protocols, text: text.to_owned() })
            .collect())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Takes `/tcp` or `/udp` off. What else may stand behind a slash is a prefix length.
fn split_protocol(whole: Part<'_>) -> Result<(Part<'_>, Protocols), TargetError> {
    let Some(slash) = whole.text.rfind('/') else { return Ok((whole, Protocols::Both)) };
    let (rest, suffix) = whole.split(slash);
    match suffix.text {
        "tcp" => Ok((rest, Protocols::Tcp)),
        "udp" => Ok((rest, Protocols::Udp)),
        text if text.starts_with(|c: char| c.is_ascii_digit()) => Ok((whole, Protocols::Both)),
        text => suffix.fail(TargetFault::Protocol { protocol: text.to_owned() }),
    }
}

/// Parts the host, with its prefix length and without brackets, from the ports.
fn split_ports(part: Part<'_>) -> Result<(Part<'_>, Option<Part<'_>>), TargetError> {
    if part.text.starts_with('[') {
        let Some(close) = part.text.find(']') else { return part.fail(TargetFault::Brackets) };
        let (inside, rest) = part.split(close);
        let (_, inside) = inside.split(0);
        if !inside.text.contains(':') {
            return part.fail(TargetFault::Brackets);
        }
        return match rest.text.as_bytes() {
            [] => Ok((inside, None)),
            [b':', ..] => Ok((inside, Some(rest.split(0).1))),
            _ => part.fail(TargetFault::Brackets),
        };
    }
    let mut colons = part.text.match_indices(':').map(|(at, _)| at);
    match (colons.next(), colons.next()) {
        (Some(colon), None) => {
            let (host, ports) = part.split(colon);
            Ok((host, Some(ports)))
        }
        _ => Ok((part, None)),
    }
}

fn parse_ports(part: Part<'_>) -> Result<PortRange, TargetError> {
    let Some(dash) = part.text.find('-') else {
        let port = parse_port(part)?;
        return Ok(PortRange { first: port, last: port });
    };
    let (first, last) = part.split(dash);
    let (first, last) = (parse_port(first)?, parse_port(last)?);
    if first > last {
        return part.fail(TargetFault::ReversedPorts { first, last });
    }
    Ok(PortRange { first, last })
}

fn parse_port(part: Part<'_>) -> Result<u16, TargetError> {
    match decimal(part.text).and_then(|port| u16::try_from(port).ok()) {
        Some(port) if port > 0 => Ok(port),
        _ => part.fail(TargetFault::Port { port: part.text.to_owned() }),
    }
}

/// A number in plain decimal: no sign, no leading zero, at most five digits.
fn decimal(text: &str) -> Option<u32> {
    let plain = (1..=5).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

fn parse_host(end: End, part: Part<'_>) -> Result<Host, TargetError> {
    let (host, prefix) = match part.text.find('/') {
        Some(slash) => {
            let (host, prefix) = part.split(slash);
            (host, Some(prefix))
        }
        None => (part, None),
    };
    if host.text.is_empty() {
        return part.fail(TargetFault::NoHost);
    }
    if let Ok(address) = host.text.parse::<IpAddr>() {
        return parse_net(end, host, address, prefix).map(Host::Net);
    }
    if host.text.contains(':') {
        return match prefix {
            _ if host.text.contains('%') => host.fail(TargetFault::Scope),
            _ => part.fail(TargetFault::BareV6),
        };
    }
    let (mut base, mut labels) = (host, 0);
    while base.text.starts_with("*.") {
        base = base.split(1).1;
        labels += 1;
    }
    if base.text.is_empty() || base.text.contains('*') {
        return host.fail(TargetFault::WildcardName { text: host.text.to_owned() });
    }
    let name = parse_name(base)?;
    if end == End::Own {
        return host.fail(TargetFault::OwnName { name: host.text.to_owned() });
    }
    match prefix {
        Some(prefix) => prefix.fail(TargetFault::PrefixOnName),
        None if labels == 0 => Ok(Host::Name(name)),
        None if name.as_str().len() + 2 * labels > HostName::MAX => {
            host.fail(TargetFault::LongName { len: host.text.len() })
        }
        None => Ok(Host::Below(labels, name)),
    }
}

/// The network, with IPv4-mapped ones as the IPv4 they stand for.
fn parse_net(
    end: End,
    host: Part<'_>,
    address: IpAddr,
    prefix: Option<Part<'_>>,
) -> Result<IpNet, TargetError> {
    let net = match prefix {
        None => IpNet::from(address),
        Some(prefix) if prefix.text.contains(':') => return prefix.fail(TargetFault::BareV6),
        Some(prefix) => {
            let length = decimal(prefix.text).and_then(|length| u8::try_from(length).ok());
            match length.and_then(|length| IpNet::new(address, length).ok()) {
                Some(net) => net,
                None => {
                    return prefix.fail(TargetFault::Prefix { prefix: prefix.text.to_owned() });
                }
            }
        }
    };
    if net.trunc() != net {
        return host.fail(TargetFault::HostBits { network: net.trunc() });
    }
    let net = unmapped(net);
    if net.prefix_len() == net.max_prefix_len() && net.addr().is_unspecified() {
        return match end {
            End::Far => host.fail(TargetFault::Unspecified),
            End::Own => Ok(net),
        };
    }
    if let (IpAddr::V6(address), None) = (net.addr(), prefix)
        && address.octets().starts_with(&[0; 12])
        && !address.is_loopback()
    {
        return host.fail(TargetFault::CompatibleV6 { address });
    }
    Ok(net)
}

/// The IPv4 network that an IPv4-mapped one stands for; any other as it is.
fn unmapped(net: IpNet) -> IpNet {
    match (net.addr().to_canonical(), net) {
        // Without host bits, a mapped network has a prefix of 96 or more.
        (IpAddr::V4(v4), IpNet::V6(v6)) => {
            let length = v6.prefix_len().saturating_sub(96);
            IpNet::new(IpAddr::V4(v4), length).unwrap_or(net)
        }
        _ => net,
    }
}

fn parse_name(part: Part<'_>) -> Result<HostName, TargetError> {
    let text = part.text;
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if let Some((at, found)) = text.char_indices().find(|&(_, c)| !legal(c)) {
        let at = part.start + at..part.start + at + found.len_utf8();
        return Err(TargetError { at, fault: TargetFault::NameCharacter { found } });
    }
    if text.len() > HostName::MAX {
        return part.fail(TargetFault::LongName { len: text.len() });
    }
    let mut start = part.start;
    for label in text.split('.') {
        let fits = (1..=HostName::MAX_LABEL).contains(&label.len());
        if !fits || label.starts_with('-') || label.ends_with('-') {
            let part = if label.is_empty() { part } else { Part { text: label, start } };
            return part.fail(TargetFault::Label { label: label.to_owned() });
        }
        start += label.len() + 1;
    }
    // Resolvers read a name that ends in a number as an address: 127.1, 0x7f000001.
    let last = text.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let hexadecimal =
        last.strip_prefix("0x").is_some_and(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
    if hexadecimal || last.bytes().all(|b| b.is_ascii_digit()) {
        return part.fail(TargetFault::Number { text: text.to_owned() });
    }
    Ok(HostName(text.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Host {
        Host::Net(text.parse().unwrap())
    }

    fn name(text: &str) -> Host {
        Host::Name(HostName(text.to_owned()))
    }

    #[test]
    fn a_target_is_a_host_its_ports_and_its_protocols() {
        use Protocols::{Both, Tcp, Udp};
        let full = (0, u16::MAX);
        let cases: &[(&str, Host, (u16, u16), Protocols)] = &[
            ("127.0.0.1", net("127.0.0.1/32"), full, Both),
            ("127.0.0.1:8080/tcp", net("127.0.0.1/32"), (8080, 8080), Tcp),
            ("10.0.0.0/8:443/tcp", net("10.0.0.0/8"), (443, 443), Tcp),
            ("10.0.0.0/8", net("10.0.0.0/8"), full, Both),
            ("10.0.0.0/8/udp", net("10.0.0.0/8"), full, Udp),
            ("0.0.0.0/0:53", net("0.0.0.0/0"), (53, 53), Both),
            ("10.1.2.3:1-65535", net("10.1.2.3/32"), (1, u16::MAX), Both),
            ("[::1]:8080/tcp", net("::1/128"), (8080, 8080), Tcp),
            ("[::1]", net("::1/128"), full, Both),
            ("::1", net("::1/128"), full, Both),
            ("[2001:db8::/32]:443", net("2001:db8::/32"), (443, 443), Both),
            ("2001:db8::/32", net("2001:db8::/32"), full, Both),
            ("2001:db8::1/udp", net("2001:db8::1/128"), full, Udp),
            ("::/0", net("::/0"), full, Both),
            ("[::ffff:10.0.0.1]:80", net("10.0.0.1/32"), (80, 80), Both),
            ("::ffff:10.0.0.0/104", net("10.0.0.0/8"), full, Both),
            ("::ffff:0:0/96", net("0.0.0.0/0"), full, Both),
            ("API.Example.COM:443", name("api.example.com"), (443, 443), Both),
            ("localhost:3000-3999/tcp", name("localhost"), (3000, 3999), Tcp),
            ("*.Example.com:443", Host::Below(1, HostName("example.com".into())), (443, 443), Both),
            ("*.*.com", Host::Below(2, HostName("com".into())), full, Both),
            ("3com.com", name("3com.com"), full, Both),
            ("xn--bcher-kva.example", name("xn--bcher-kva.example"), full, Both),
        ];
        for (text, host, ports, protocols) in cases {
            let targets = Target::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let (first, last) = *ports;
            let expected = Target {
                host: host.clone(),
                ports: PortRange { first, last },
                protocols: *protocols,
                text: (*text).to_owned(),
            };
            assert_eq!(targets, [expected], "{text}");
        }
    }

    #[test]
    fn a_star_is_every_address_of_both_families() {
        let targets = Target::parse("*:443/tcp").unwrap();
        let hosts: Vec<_> = targets.iter().map(|target| target.host.clone()).collect();
        assert_eq!(hosts, [net("0.0.0.0/0"), net("::/0")]);
        assert!(targets.iter().all(|t| t.ports.first() == 443 && t.protocols == Protocols::Tcp));
    }

    #[test]
    fn what_is_no_target_is_refused_at_the_bytes_at_fault() {
        use TargetFault as F;
        let label = |text: &str| F::Label { label: text.into() };
        let number = |text: &str| F::Number { text: text.into() };
        let port = |text: &str| F::Port { port: text.into() };
        let cases: &[(&str, &str, F)] = &[
            ("", "", F::NoHost),
            (":443", "", F::NoHost),
            ("/tcp", "", F::NoHost),
            ("https://a.example/x", "https://a.example/x", F::Url { fix: "a.example:443".into() }),
            ("http://u@a.example", "http://u@a.example", F::Url { fix: "a.example:80".into() }),
            ("http://a:8080/", "http://a:8080/", F::Url { fix: "a:8080".into() }),
            ("a:0", "0", port("0")),
            ("a:", "", port("")),
            ("a:65536", "65536", port("65536")),
            ("a:+80", "+80", port("+80")),
            ("a:080", "080", port("080")),
            ("a:http", "http", port("http")),
            ("a:0-80", "0", port("0")),
            ("a:80-", "", port("")),
            ("a:1-2-3", "2-3", port("2-3")),
            ("a:90-80", "90-80", F::ReversedPorts { first: 90, last: 80 }),
            ("a:80/sctp", "sctp", F::Protocol { protocol: "sctp".into() }),
            ("a:80/TCP", "TCP", F::Protocol { protocol: "TCP".into() }),
            ("a:80/", "", F::Protocol { protocol: String::new() }),
            ("[::1", "[::1", F::Brackets),
            ("[::1]8080", "[::1]8080", F::Brackets),
            ("[127.0.0.1]:80", "[127.0.0.1]:80", F::Brackets),
            ("[2001:db8::]/32:443", "[2001:db8::]/32:443", F::Brackets),
            ("2001:db8::/32:443", "32:443", F::BareV6),
            ("2001:db8::1::2", "2001:db8::1::2", F::BareV6),
            ("::1:8080", "::1:8080", F::CompatibleV6 { address: "::1:8080".parse().unwrap() }),
            ("fe80::1%eth0", "fe80::1%eth0", F::Scope),
            ("127.1", "127.1", number("127.1")),
            ("0x7f000001", "0x7f000001", number("0x7f000001")),
            ("2130706433", "2130706433", number("2130706433")),
            ("127.0.0.01:80", "127.0.0.01", number("127.0.0.01")),
            ("0x7f.0.0.0x1", "0x7f.0.0.0x1", number("0x7f.0.0.0x1")),
            ("1.2.3.4.5", "1.2.3.4.5", number("1.2.3.4.5")),
            ("0.0.0.0:80", "0.0.0.0", F::Unspecified),
            ("0.0.0.0/32", "0.0.0.0", F::Unspecified),
            ("::", "::", F::Unspecified),
            ("::ffff:0.0.0.0", "::ffff:0.0.0.0", F::Unspecified),
            ("10.0.0.0/33", "33", F::Prefix { prefix: "33".into() }),
            ("10.0.0.0/08", "08", F::Prefix { prefix: "08".into() }),
            ("::/129", "129", F::Prefix { prefix: "129".into() }),
            ("10.0.0.1/8", "10.0.0.1", F::HostBits { network: "10.0.0.0/8".parse().unwrap() }),
            (
                "::ffff:0:0/90",
                "::ffff:0:0",
                F::HostBits { network: "::ffc0:0:0/90".parse().unwrap() },
            ),
            ("a.example/24", "24", F::PrefixOnName),
            (
                "a*.openai.com:443",
                "a*.openai.com",
                F::WildcardName { text: "a*.openai.com".into() },
            ),
            ("*.*:443", "*.*", F::WildcardName { text: "*.*".into() }),
            ("a.*.com", "a.*.com", F::WildcardName { text: "a.*.com".into() }),
            ("*.-b.com", "-b", F::Label { label: "-b".into() }),
            ("a_b.example", "_", F::NameCharacter { found: '_' }),
            ("bücher.example", "ü", F::NameCharacter { found: 'ü' }),
            ("a b", " ", F::NameCharacter { found: ' ' }),
            ("a\0", "\0", F::NameCharacter { found: '\0' }),
            ("a..b", "a..b", label("")),
            ("a.example.", "a.example.", label("")),
            ("-a.example", "-a", label("-a")),
            ("x.a-.example", "a-", label("a-")),
        ];
        for (text, at, fault) in cases {
            let error = Target::parse(text).expect_err(text);
            assert_eq!((&text[error.at.clone()], &error.fault), (*at, fault), "{text}");
        }
    }

    #[test]
    fn an_address_to_listen_on_may_be_every_address_and_is_no_name() {
        let hosts = |text: &str| -> Vec<Host> {
            Target::parse_own(text).unwrap().into_iter().map(|target| target.host).collect()
        };
        assert_eq!(hosts("0.0.0.0:80"), [net("0.0.0.0/32")]);
        assert_eq!(hosts("[::]:80/tcp"), [net("::/128")]);
        assert_eq!(hosts("::ffff:0.0.0.0"), [net("0.0.0.0/32")]);
        assert_eq!(hosts("*:80"), [net("0.0.0.0/0"), net("::/0"), net("::/128")]);
        assert_eq!(hosts("10.0.0.0/8:80"), [net("10.0.0.0/8")]);
        for (text, at, fault) in [
            ("localhost:80", "localhost", TargetFault::OwnName { name: "localhost".into() }),
            ("::1:80", "::1:80", TargetFault::CompatibleV6 { address: "::1:80".parse().unwrap() }),
            (
                "*.example.com",
                "*.example.com",
                TargetFault::OwnName { name: "*.example.com".into() },
            ),
        ] {
            let error = Target::parse_own(text).expect_err(text);
            assert_eq!((&text[error.at.clone()], &error.fault), (at, &fault), "{text}");
        }
    }

    #[test]
    fn each_bound_holds_at_its_last_value() {
        let label = |len| format!("{}.example", "a".repeat(len));
        assert!(Target::parse(&label(HostName::MAX_LABEL)).is_ok());
        assert!(Target::parse(&label(HostName::MAX_LABEL + 1)).is_err());

        let long = |len: usize| "a.".repeat(len / 2) + if len % 2 == 1 { "a" } else { "" };
        assert_eq!(long(HostName::MAX).len(), HostName::MAX);
        assert!(Target::parse(&format!("{}:60000-65535/tcp", long(HostName::MAX))).is_ok());
        let error = Target::parse(&long(HostName::MAX + 2)).unwrap_err();
        assert_eq!(error.fault, TargetFault::LongName { len: HostName::MAX + 2 });

        let error = Target::parse(&"a".repeat(MAX_TEXT)).unwrap_err();
        assert_eq!(error.fault, TargetFault::LongName { len: MAX_TEXT });
        let error = Target::parse(&"a".repeat(MAX_TEXT + 1)).unwrap_err();
        assert_eq!(error.fault, TargetFault::Long { len: MAX_TEXT + 1 });
    }

    proptest! {
        #[test]
        fn any_text_is_a_target_or_an_error_within_it(
            text in "[0-9a-fx:./\\[\\]%*tcpud -]{0,40}|\\PC*",
        ) {
            match Target::parse(&text) {
                Ok(targets) => prop_assert!(!targets.is_empty()),
                Err(error) => prop_assert!(text.get(error.at).is_some()),
            }
        }

        #[test]
        fn an_address_with_ports_is_read_as_written(
            address: IpAddr, first in 1..=u16::MAX, more: u16, udp: bool,
        ) {
            prop_assume!(!address.to_canonical().is_unspecified());
            let last = first.saturating_add(more);
            let host = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
            let protocol = if udp { "udp" } else { "tcp" };
            let targets = Target::parse(&format!("{host}:{first}-{last}/{protocol}")).unwrap();
            prop_assert_eq!(targets.len(), 1);
            prop_assert_eq!(&targets[0].host, &Host::Net(address.to_canonical().into()));
            prop_assert_eq!(targets[0].ports, PortRange { first, last });
            prop_assert_eq!(targets[0].protocols.udp(), udp);
            prop_assert_eq!(targets[0].protocols.tcp(), !udp);
        }
    }
}
