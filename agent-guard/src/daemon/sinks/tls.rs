//! TLS to a far end: who it has to be, and who this host is to it.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde::Deserialize;

use super::secret::Secret;

/// The authorities that Debian's `ca-certificates` trusts, as most distributions have them.
pub const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Largest file of certificates, bytes: many times those of all public authorities.
const MOST: u64 = 16 << 20;

/// TLS, as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file of the authorities that may vouch for the far end; none: those of the system.
    pub ca: Option<PathBuf>,
    /// The name that its certificate has to have; none: that of the address.
    pub server_name: Option<String>,
    /// PEM file of this host's own certificate and those up to its authority.
    pub certificate: Option<PathBuf>,
    /// PEM file of the certificate's key.
    pub key: Option<PathBuf>,
}

impl TlsConfig {
    /// The paths that it names.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.ca, &self.certificate, &self.key].into_iter().flatten()
    }

    /// # Errors
    /// What of it can not be.
    pub fn check(&self) -> Result<(), String> {
        match self.certificate.is_some() == self.key.is_some() {
            true => Ok(()),
            false => Err("`tls.certificate` and `tls.key` go together".to_owned()),
        }
    }
}

/// What a connection needs: the files are read.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Whom to trust, and the own certificate.
    pub config: Arc<ClientConfig>,
    /// Who has to be there.
    pub name: ServerName<'static>,
}

impl Tls {
    /// Reads the files, for a far end at `host`.
    ///
    /// # Errors
    /// One is not what it has to be.
    pub fn load(config: &TlsConfig, host: &str) -> anyhow::Result<Self> {
        let path = config.ca.as_deref().unwrap_or(Path::new(SYSTEM));
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(certificates(path)?);
        if added == 0 {
            bail!("{} has no certificate of an authority", path.display());
        }
        // By name: another crate may bring another provider along.
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("setting TLS up")?
            .with_root_certificates(roots);
        let client = match (&config.certificate, &config.key) {
            (Some(certificate), Some(path)) => {
                let key = Secret::read(path)?;
                let key = PrivateKeyDer::from_pem_slice(key.reveal().as_bytes())
                    .with_context(|| format!("{} has no private key", path.display()))?;
                builder.with_client_auth_cert(certificates(certificate)?, key).with_context(
                    || format!("the key in {} is not that of the certificate", path.display()),
                )?
            }
            _ => builder.with_no_client_auth(),
        };
        let name = config.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned())
            .with_context(|| format!("`{name}` is no name that a certificate can have"))?;
        Ok(Self { config: Arc::new(client), name })
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let told = || format!("the certificates in {}", path.display());
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MOST + 1).read_to_end(&mut text))
        .with_context(told)?;
    if text.len() as u64 > MOST {
        bail!("{} have more than {MOST} bytes", told());
    }
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().with_context(told)?;
    match found.is_empty() {
        true => bail!("{} has no certificate", path.display()),
        false => Ok(found),
    }
}
