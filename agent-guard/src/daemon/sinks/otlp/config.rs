//! What is needed to reach a collector.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use serde::Deserialize;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};

use crate::daemon::sinks::{
    connect::Address,
    secret::Secret,
    tls::{Tls, TlsConfig},
};

/// A collector of OTLP logs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtlpConfig {
    /// `https://HOST:PORT`, or `http://HOST:PORT` without TLS.
    pub endpoint: String,
    /// For `https://`.
    pub tls: Option<TlsConfig>,
    /// File of headers that go with each request, a `name: value` on each line.
    pub headers_file: Option<PathBuf>,
}

impl OtlpConfig {
    /// The paths that it names.
    #[must_use]
    pub fn paths(&self) -> Vec<&PathBuf> {
        self.headers_file.iter().chain(self.tls.iter().flat_map(TlsConfig::paths)).collect()
    }

    /// # Errors
    /// What of it can not be.
    pub fn check(&self) -> Result<(), String> {
        let (is_https, host, _) = self.place()?;
        match &self.tls {
            Some(_) if !is_https => {
                return Err("`tls` goes with an `endpoint` of https".to_owned());
            }
            Some(tls) => tls.check()?,
            None => {}
        }
        if self.headers_file.is_some() && !is_https && !is_loopback(&host) {
            return Err("`headers_file` goes with an `endpoint` of https: else the secrets in it cross the \
                        network in the clear"
                .to_owned());
        }
        Ok(())
    }

    /// Whether TLS is spoken, the host and the port.
    fn place(&self) -> Result<(bool, String, u16), String> {
        let is_https = |scheme| match scheme {
            "https" => Some(true),
            "http" => Some(false),
            _ => None,
        };
        let place = self.endpoint.split_once("://").and_then(|(scheme, address)| {
            let (host, port) = Address::split(address.strip_suffix('/').unwrap_or(address))?;
            Some((is_https(scheme)?, host, port))
        });
        place.ok_or_else(|| {
            format!(
                "`endpoint` is http://HOST:PORT or https://HOST:PORT, and not `{}`; the port of OTLP over gRPC is 4317",
                self.endpoint
            )
        })
    }

    /// Where the collector is.
    ///
    /// # Errors
    /// The files of TLS are not what they have to be.
    pub fn address(&self) -> anyhow::Result<Address> {
        let (is_https, host, port) = self.place().map_err(anyhow::Error::msg)?;
        let mut tls = match is_https {
            true => Some(Tls::load(&self.tls.clone().unwrap_or_default(), &host)?),
            false => None,
        };
        if let Some(tls) = &mut tls {
            // gRPC is spoken over HTTP/2 only.
            Arc::make_mut(&mut tls.config).alpn_protocols = vec![b"h2".to_vec()];
        }
        Ok(Address { host, port, tls })
    }

    /// The headers of each request.
    ///
    /// # Errors
    /// The file can not be read, or a line is no header.
    pub fn headers(&self) -> anyhow::Result<MetadataMap> {
        match &self.headers_file {
            None => Ok(MetadataMap::new()),
            Some(path) => headers(Secret::read(path)?.reveal())
                .with_context(|| format!("the headers in {}", path.display())),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// What stands in a file of headers. Its values are secrets, so errors show none.
fn headers(text: &str) -> anyhow::Result<MetadataMap> {
    let mut headers = MetadataMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) =
            line.split_once(':').with_context(|| format!("line {number} is no `name: value`"))?;
        let name = name.trim().to_ascii_lowercase();
        let key = MetadataKey::<Ascii>::from_bytes(name.as_bytes()).ok();
        let key = key.with_context(|| format!("line {number}: this is no name of a header"))?;
        let value: Option<MetadataValue<Ascii>> = value.trim().parse().ok();
        let mut value = value.with_context(|| {
            format!("line {number}: the value has other than printable ASCII characters")
        })?;
        value.set_sensitive(true);
        headers.append(key, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> OtlpConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn an_endpoint_is_a_scheme_a_host_and_a_port() {
        for good in ["https://c.example:4317", "http://127.0.0.1:4317/", "http://[::1]:4317"] {
            config(&format!("endpoint = '{good}'")).check().unwrap();
        }
        for bad in
            ["c.example:4317", "https://c.example", "ftp://c:1", "http://c:1/v1/logs", "", "::"]
        {
            let error = config(&format!("endpoint = '{bad}'")).check().unwrap_err();
            assert!(
                error.contains("https://HOST:PORT") && error.contains("4317"),
                "{bad}: {error}"
            );
        }
    }

    #[test]
    fn what_needs_tls_is_refused_without_it() {
        for (text, words) in [
            ("endpoint = 'http://c:1'\ntls.ca = '/ca'", "`tls` goes with"),
            ("endpoint = 'http://c:1'\nheaders_file = '/h'", "in the clear"),
            ("endpoint = 'https://c:1'\ntls.key = '/k'", "go together"),
        ] {
            assert!(config(text).check().unwrap_err().contains(words), "{text}");
        }
        config("endpoint = 'http://localhost:1'\nheaders_file = '/h'").check().unwrap();
        config("endpoint = 'https://c:1'\nheaders_file = '/h'").check().unwrap();
    }

    #[test]
    fn headers_are_read_and_never_shown() {
        let read =
            headers("# for the collector\n\nAuthorization: Bearer abc\nx-scope:7 \n").unwrap();
        assert_eq!(read.get("authorization").unwrap(), "Bearer abc");
        assert_eq!(read.get("x-scope").unwrap(), "7");
        assert!(!format!("{read:?}").contains("abc"));
        for (text, words) in [
            ("a: 1\nabc", "line 2 is no `name: value`"),
            ("a b: abc", "line 1: this is no name"),
            ("a-bin: abc", "line 1: this is no name"),
            ("a: abc\x01", "line 1: the value has other"),
        ] {
            let error = format!("{:#}", headers(text).unwrap_err());
            assert!(error.contains(words) && !error.contains("abc"), "{error}");
        }
    }
}
